/* tensor/cpu/simd/epilogue.h: what follows a product, applied to a tile that is still in the L1
 * cache. The includer defines EPILOGUE_TARGET, EPILOGUE_LINKAGE, EPILOGUE_NAME and EPILOGUE_HALF(p,
 * v, n): the first n values of v rounded to bf16. */
#include "tensor/cpu/simd/act.h"
#include "tensor/cpu/simd/simd.h"

/* What few products have stands aside in the code: a jump taken around each of them was most of the
 * time of the others. */
#define RARE(x) __builtin_expect((x) != 0, 0)

/* The operands of one row, at the first column of the tile. */
typedef struct row_of {
    const float *tile, *bias, *residual, *gate;
    const float *col_step; /* or NULL: the tile holds f32 */
    float row_step;
    int32_t shift;
    bool whole; /* sums are integers */
    float *pre, *y;
    uint16_t *pre_half, *half; /* in place of pre, y */
    const void *past;
    bool past_half;
} row_of;

/* Sums over 8-bit integers as f32: kin_dequant. */
EPILOGUE_TARGET VINL vf scaled(const row_of *a, int64_t c, int64_t n, vf v)
{
    if (a->whole)
        v = vi_tof(vi_sub(vf_bits(v), vi_set(a->shift)));
    return vf_mul(v, vf_mul(vf_set(a->row_step), vf_loadn(a->col_step + c, n)));
}

/* What follows the sum of a forward product. */
EPILOGUE_TARGET VINL vf forward(kin_act act, const row_of *a, int64_t c, int64_t n, vf v)
{
    if (RARE(a->col_step))
        v = scaled(a, c, n, v);
    if (a->bias)
        v = vf_add(v, vf_loadn(a->bias + c, n));
    if (RARE(a->pre))
        vf_storen(a->pre + c, v, n);
    if (RARE(a->pre_half))
        EPILOGUE_HALF(a->pre_half + c, v, n);
    v = vf_act(act, v);
    if (RARE(a->gate && a->residual))
        return vf_fma(vf_loadn(a->gate + c, n), v, vf_loadn(a->residual + c, n));
    if (RARE(a->gate))
        return vf_mul(vf_loadn(a->gate + c, n), v);
    return a->residual ? vf_add(v, vf_loadn(a->residual + c, n)) : v;
}

/* That of a gradient: times act'(past). */
EPILOGUE_TARGET VINL vf backward(kin_act act, const row_of *a, int64_t c, int64_t n, vf v)
{
    const vf past = a->past_half ? vf_loadn_bf16((const uint16_t *)a->past + c, n)
                                 : vf_loadn((const float *)a->past + c, n);
    return vf_mul(v, vf_act_grad(act, past));
}

EPILOGUE_TARGET VINL void columns(kin_act act, bool gradient, const row_of *a, int64_t c, int64_t n)
{
    vf v = vf_loadn(a->tile + c, n);
    v = gradient ? backward(act, a, c, n, v) : forward(act, a, c, n, v);
    if (RARE(a->half))
        EPILOGUE_HALF(a->half + c, v, n);
    else
        vf_storen(a->y + c, v, n);
}

/* note: written out per activation, whose constants then stay in registers */
EPILOGUE_TARGET VINL void one_row(kin_act act, bool gradient, const row_of *a, int64_t cols)
{
    int64_t c = 0;
    for (; c + VL <= cols; c += VL)
        columns(act, gradient, a, c, VL);
    if (c < cols)
        columns(act, gradient, a, c, cols - c);
}

EPILOGUE_TARGET EPILOGUE_LINKAGE void EPILOGUE_NAME(const kin_epilogue *e, const kin_dequant *d,
                                                    int64_t row0, int64_t col0, int rows, int cols,
                                                    const float *tile, int64_t ldt)
{
    for (int64_t r = row0; r < row0 + rows; r++, tile += ldt) {
        const int64_t left = d && d->rows ? d->rows[r] : r;
        const row_of a = {
            .col_step = d ? d->col_step + col0 : NULL,
            .row_step = d ? d->row_step[left] : 0,
            .whole = d && d->row_shift,
            .shift = d && d->row_shift ? d->row_shift[left] : 0,
            .tile = tile,
            .bias = e->bias ? e->bias + col0 : NULL,
            .residual = e->residual ? e->residual + r * e->ld_residual + col0 : NULL,
            .gate = e->gate ? e->gate + r / e->group_rows * e->ld_gate + col0 : NULL,
            .pre = e->pre && !e->pre_half ? (float *)e->pre + r * e->ld_pre + col0 : NULL,
            .pre_half = e->pre_half ? (uint16_t *)e->pre + r * e->ld_pre + col0 : NULL,
            .y = e->half ? NULL : (float *)e->y + r * e->ld_y + col0,
            .half = e->half ? (uint16_t *)e->y + r * e->ld_y + col0 : NULL,
            .past = e->past ? kin_engine_at(e->past, e->past_half, r * e->ld_past + col0) : NULL,
            .past_half = e->past_half};
        if (e->past && e->act == KIN_ACT_GELU_TANH)
            one_row(KIN_ACT_GELU_TANH, true, &a, cols);
        else if (e->past)
            one_row(e->act, true, &a, cols);
        else
            switch (e->act) {
            case KIN_ACT_NONE: one_row(KIN_ACT_NONE, false, &a, cols); break;
            case KIN_ACT_GELU_TANH: one_row(KIN_ACT_GELU_TANH, false, &a, cols); break;
            case KIN_ACT_SILU: one_row(KIN_ACT_SILU, false, &a, cols); break;
            default: one_row(e->act, false, &a, cols); break;
            }
    }
}
