/* tensor/cpu/simd/epilogue.c: what follows a product, applied to a tile that is still in the L1
 * cache. */
#include "tensor/cpu/simd/simd.h"
#include "tensor/cpu/simd/act.h"

/* The operands of one row, at the first column of the tile. */
typedef struct row_of {
    const float *tile, *bias, *residual, *gate;
    float *pre, *y;
    uint16_t *pre_half, *half; /* in place of pre, y */
} row_of;

VINL void columns(kin_act act, const row_of *a, int64_t c, int64_t n)
{
    vf v = vf_loadn(a->tile + c, n);
    if (a->bias)
        v = vf_add(v, vf_loadn(a->bias + c, n));
    if (a->pre)
        vf_storen(a->pre + c, v, n);
    if (a->pre_half)
        vf_storen_bf16(a->pre_half + c, v, n);
    v = vf_act(act, v);
    if (a->gate && a->residual)
        v = vf_fma(vf_loadn(a->gate + c, n), v, vf_loadn(a->residual + c, n));
    else if (a->gate)
        v = vf_mul(vf_loadn(a->gate + c, n), v);
    else if (a->residual)
        v = vf_add(v, vf_loadn(a->residual + c, n));
    if (a->half)
        vf_storen_bf16(a->half + c, v, n);
    else
        vf_storen(a->y + c, v, n);
}

/* note: written out per activation, whose constants then stay in registers */
VINL void one_row(kin_act act, const row_of *a, int64_t cols)
{
    int64_t c = 0;
    for (; c + VL <= cols; c += VL)
        columns(act, a, c, VL);
    if (c < cols)
        columns(act, a, c, cols - c);
}

void KIN_SIMD(epilogue)(const kin_epilogue *e, int64_t row0, int64_t col0, int rows, int cols,
                        const float *tile, int64_t ldt)
{
    for (int64_t r = row0; r < row0 + rows; r++, tile += ldt) {
        const row_of a = {
            .tile = tile,
            .bias = e->bias ? e->bias + col0 : NULL,
            .residual = e->residual ? e->residual + r * e->ld_residual + col0 : NULL,
            .gate = e->gate ? e->gate + r / e->group_rows * e->ld_gate + col0 : NULL,
            .pre = e->pre && !e->pre_half ? (float *)e->pre + r * e->ld_pre + col0 : NULL,
            .pre_half = e->pre_half ? (uint16_t *)e->pre + r * e->ld_pre + col0 : NULL,
            .y = e->half ? NULL : (float *)e->y + r * e->ld_y + col0,
            .half = e->half ? (uint16_t *)e->y + r * e->ld_y + col0 : NULL};
        switch (e->act) {
        case KIN_ACT_NONE: one_row(KIN_ACT_NONE, &a, cols); break;
        case KIN_ACT_GELU_TANH: one_row(KIN_ACT_GELU_TANH, &a, cols); break;
        case KIN_ACT_SILU: one_row(KIN_ACT_SILU, &a, cols); break;
        default: one_row(e->act, &a, cols); break;
        }
    }
}
