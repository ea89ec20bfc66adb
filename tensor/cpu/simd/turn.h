/* tensor/cpu/simd/turn.h: rotary turn of neighbouring pairs (Su et al. 2021) on vectors. */
#ifndef KIN_CPU_SIMD_TURN_H
#define KIN_CPU_SIMD_TURN_H

#include "tensor/cpu/simd/vec.h"

/* y (+)= x turned by (cos, sin) [d/2] in each of `heads` pieces of d columns, piece h at h * step.
 * x and y may be the same. */
VINL void vf_turn_heads(const float *x, int64_t step_x, int64_t heads, const float *cos,
                        const float *sin, int64_t d, bool inverse, float *y, int64_t step_y,
                        bool acc)
{
    /* note: in the order of memory; columns outside, with the tables in registers, took twice as
     * long on rows that come from the L3 cache */
    for (int64_t h = 0; h < heads; h++, x += step_x, y += step_y) {
        for (int64_t i = 0; i < d; i += VL) {
            int64_t n = d - i;
            vf v = vf_loadn(x + i, n), c = vf_load_twice(cos + i / 2, n);
            vf w = vf_mul(vf_swap_pairs(v), vf_load_twice(sin + i / 2, n));
            /* even places: v c - w, odd ones v c + w; the inverse the other way round */
            vf r = inverse ? vf_fmsubadd(v, c, w) : vf_fmaddsub(v, c, w);
            vf_storen(y + i, acc ? vf_add(vf_loadn(y + i, n), r) : r, n);
        }
    }
}

#endif
