/* tensor/cpu/simd/tile_i8.c: the register tile on groups of four bytes (vpdpbusd): the left operand
 * signed, the right one unsigned, sums in 32-bit integers. Words of 32 bits travel as float, as in
 * the other tiles; c holds integers. */
#include "tensor/cpu/simd/simd.h"

#ifdef __AVX512F__
#define TILE_TARGET __attribute__((target("avx512vnni")))
#include "tensor/cpu/simd/vec.h"
/* after vec.h: needs vf */
#include "tensor/cpu/simd/tile.h"

#define DOT4(c, b, a) vi_float(_mm512_dpbusd_epi32(vf_bits(c), b, a))
#define TILE_LOAD_B(b) vi b0 = vf_bits(vf_load(b)), b1 = vf_bits(vf_load((b) + VL))
#define TILE_STEP(i)                       \
    if ((i) < TILE_DIRECT) {               \
        TILE_PAIR(i, "vpdpbusd", a[i])     \
    } else {                               \
        vi av = vf_bits(vf_set(a[i]));     \
        c##i##_0 = DOT4(c##i##_0, b0, av); \
        c##i##_1 = DOT4(c##i##_1, b1, av); \
    }
#define HALF_LOAD_B(b) vi b0 = vf_bits(vf_load(b))
#define HALF_STEP(i) c##i##_0 = DOT4(c##i##_0, b0, vf_bits(vf_set(a[i])));
KIN_TILES(static, tile_i8_rows)

void KIN_SIMD(tile_i8)(int rows, int64_t steps, const float *a, const float *b, float *c,
                       int64_t ldc, bool acc, kin_ahead next)
{
    tile_i8_rows_any(rows, steps, a, b, c, ldc, acc, next);
}

void KIN_SIMD(tile_i8_half)(int rows, int64_t steps, const float *a, const float *b, float *c,
                            int64_t ldc, bool acc, kin_ahead next)
{
    tile_i8_rows_half_any(rows, steps, a, b, c, ldc, acc, next);
}

#endif
