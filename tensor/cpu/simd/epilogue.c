/* tensor/cpu/simd/epilogue.c: what follows a product, applied to a tile that is still in the L1
 * cache. */
#include "tensor/cpu/simd/simd.h"
#include "tensor/cpu/simd/act.h"

void KIN_SIMD(epilogue)(const kin_epilogue *e, int64_t row0, int64_t col0, int rows, int cols,
                        const float *tile, int64_t ldt)
{
    for (int r = 0; r < rows; r++) {
        int64_t row = row0 + r;
        const float *res = e->residual ? e->residual + row * e->ld_residual + col0 : NULL;
        const float *gate = e->gate ? e->gate + row / e->group_rows * e->ld_gate + col0 : NULL;
        float *pre = e->pre ? e->pre + row * e->ld_pre + col0 : NULL;
        float *y = e->y + row * e->ld_y + col0;
        for (int c = 0; c < cols; c += VL) {
            int64_t n = cols - c;
            vf v = vf_loadn(tile + r * ldt + c, n);
            if (e->bias)
                v = vf_add(v, vf_loadn(e->bias + col0 + c, n));
            if (pre)
                vf_storen(pre + c, v, n);
            v = vf_act(e->act, v);
            if (gate && res)
                v = vf_fma(vf_loadn(gate + c, n), v, vf_loadn(res + c, n));
            else if (gate)
                v = vf_mul(vf_loadn(gate + c, n), v);
            else if (res)
                v = vf_add(v, vf_loadn(res + c, n));
            vf_storen(y + c, v, n);
        }
    }
}
