/* tensor/cpu/simd/rows.c: elementwise work on rows, and sums with a fixed order. */
#include "tensor/cpu/simd/act.h"
#include "tensor/cpu/simd/simd.h"
#include "tensor/cpu/simd/turn.h"
#include "tensor/cpu/simd/vec.h"

VINL void unary_as(kin_act act, float alpha, const float *x, int64_t n, float *y)
{
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        vf v = vf_load(x + i);
        vf_store(y + i, act == KIN_ACT_NONE ? vf_mul(vf_set(alpha), v) : vf_act(act, v));
    }
    if (i < n) {
        vf v = vf_loadn(x + i, n - i);
        vf_storen(y + i, act == KIN_ACT_NONE ? vf_mul(vf_set(alpha), v) : vf_act(act, v), n - i);
    }
}

void KIN_SIMD(unary)(kin_act act, float alpha, const float *x, int64_t n, float *y)
{
    /* note: one loop per activation, its constants in registers */
    switch (act) {
    case KIN_ACT_GELU_TANH: unary_as(KIN_ACT_GELU_TANH, alpha, x, n, y); break;
    case KIN_ACT_SILU: unary_as(KIN_ACT_SILU, alpha, x, n, y); break;
    case KIN_ACT_NONE: unary_as(KIN_ACT_NONE, alpha, x, n, y); break;
    default: unary_as(act, alpha, x, n, y); break;
    }
}

VINL void slope_at(kin_act act, float alpha, const float *x, const float *dy, int64_t i, int64_t n,
                   float *dx, bool acc)
{
    vf slope = act == KIN_ACT_NONE ? vf_set(alpha) : vf_act_grad(act, vf_loadn(x + i, n));
    vf g = vf_loadn(dy + i, n);
    vf_storen(dx + i, acc ? vf_fma(g, slope, vf_loadn(dx + i, n)) : vf_mul(g, slope), n);
}

VINL void unary_bwd_as(kin_act act, float alpha, const float *x, const float *dy, int64_t n,
                       float *dx, bool acc)
{
    int64_t i = 0;
    for (; i + VL <= n; i += VL)
        slope_at(act, alpha, x, dy, i, VL, dx, acc);
    if (i < n)
        slope_at(act, alpha, x, dy, i, n - i, dx, acc);
}

void KIN_SIMD(unary_bwd)(kin_act act, float alpha, const float *x, const float *dy, int64_t n,
                         float *dx, bool acc)
{
    switch (act) {
    case KIN_ACT_GELU_TANH: unary_bwd_as(KIN_ACT_GELU_TANH, alpha, x, dy, n, dx, acc); break;
    case KIN_ACT_SILU: unary_bwd_as(KIN_ACT_SILU, alpha, x, dy, n, dx, acc); break;
    default: unary_bwd_as(act, alpha, x, dy, n, dx, acc); break;
    }
}

/* Lanes of an operand with stride 1 or 0. */
VINL vf operand(const float *p, int64_t stride, int64_t i, int64_t n)
{
    return stride ? vf_loadn(p + i, n) : vf_set(*p);
}

void KIN_SIMD(binary)(bool mul, float alpha, const float *a, int64_t sa, const float *b, int64_t sb,
                      int64_t n, float *y, bool acc)
{
    vf al = vf_set(alpha);
    for (int64_t i = 0; i < n; i += VL) {
        int64_t m = n - i;
        vf u = operand(a, sa, i, m), v = operand(b, sb, i, m);
        vf r = mul ? vf_mul(vf_mul(al, u), v) : vf_fma(al, v, u);
        vf_storen(y + i, acc ? vf_add(vf_loadn(y + i, m), r) : r, m);
    }
}

void KIN_SIMD(mul_add)(const float *a, int64_t sa, const float *b, int64_t sb, int64_t n, float *y)
{
    for (int64_t i = 0; i < n; i += VL) {
        int64_t m = n - i;
        vf_storen(y + i, vf_fma(operand(a, sa, i, m), operand(b, sb, i, m), vf_loadn(y + i, m)), m);
    }
}

double KIN_SIMD(sum)(const float *a, int64_t sa, const float *b, int64_t sb, int64_t n)
{
    /* f32 lanes over at most 1024 values, double above */
    double total = 0;
    for (int64_t c = 0; c < n; c += 1024) {
        int64_t end = c + 1024 < n ? c + 1024 : n;
        vf s0 = vf_zero(), s1 = vf_zero();
        int64_t i = c;
        for (; i + 2 * VL <= end; i += 2 * VL) {
            s0 = vf_fma(operand(a, sa, i, VL), operand(b, sb, i, VL), s0);
            s1 = vf_fma(operand(a, sa, i + VL, VL), operand(b, sb, i + VL, VL), s1);
        }
        for (; i < end; i += VL) {
            /* note: the loads zero the lanes past the end only where the stride is 1 */
            vf one = vf_loadn((const float[16]){1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                              end - i);
            vf u = vf_mul(operand(a, sa, i, end - i), one);
            s0 = vf_fma(u, sb ? operand(b, sb, i, end - i) : vf_set(*b), s0);
        }
        total += vf_sum_double(vf_add(s0, s1));
    }
    return total;
}

void KIN_SIMD(gate_rows)(const float *dy, int64_t ld_dy, const float *lin, int64_t ld_lin,
                         const float *gate, int64_t rows, int64_t cols, float *dlin,
                         int64_t ld_dlin, float *dgate)
{
    for (int64_t c = 0; c < cols; c += VL) {
        int64_t n = cols - c;
        vf g = gate ? vf_loadn(gate + c, n) : vf_zero(), sum = vf_zero();
        for (int64_t r = 0; r < rows; r++) {
            vf d = vf_loadn(dy + r * ld_dy + c, n);
            if (dlin)
                vf_storen(dlin + r * ld_dlin + c, vf_mul(g, d), n);
            if (dgate)
                sum = vf_fma(d, vf_loadn(lin + r * ld_lin + c, n), sum);
        }
        if (dgate)
            vf_storen(dgate + c, sum, n);
    }
}

void KIN_SIMD(softmax_row)(const float *x, int64_t n, float *y)
{
    float top = x[0];
    int64_t i = 0;
    if (n >= VL) {
        vf t = vf_load(x);
        for (; i + VL <= n; i += VL)
            t = vf_max(t, vf_load(x + i));
        top = vf_hmax(t);
    }
    for (; i < n; i++)
        top = x[i] > top ? x[i] : top;
    vf sum = vf_zero(), log2e = vf_set(VF_LOG2E);
    for (i = 0; i < n; i += VL) {
        vf e = vf_exp2(vf_mul(vf_sub(vf_loadn(x + i, n - i), vf_set(top)), log2e));
        vf_storen(y + i, e, n - i);
        sum = vf_add(sum, vf_loadn(y + i, n - i));
    }
    vf inv = vf_set(1.0f / vf_sum(sum));
    for (i = 0; i < n; i += VL)
        vf_storen(y + i, vf_mul(vf_loadn(y + i, n - i), inv), n - i);
}

void KIN_SIMD(softmax_row_bwd)(const float *y, const float *dy, int64_t n, float *dx, bool acc)
{
    vf dot = vf_set(KIN_SIMD(dot)(y, dy, n));
    for (int64_t i = 0; i < n; i += VL) {
        vf v = vf_mul(vf_loadn(y + i, n - i), vf_sub(vf_loadn(dy + i, n - i), dot));
        vf_storen(dx + i, acc ? vf_add(vf_loadn(dx + i, n - i), v) : v, n - i);
    }
}

void KIN_SIMD(rope_heads)(const float *x, int64_t step_x, int64_t heads, const float *cos,
                          const float *sin, int64_t d, bool inverse, float *y, int64_t step_y,
                          bool acc)
{
    vf_turn_heads(x, step_x, heads, cos, sin, d, inverse, y, step_y, acc);
}

void KIN_SIMD(adamw)(const kin_adamw_args *a, const kin_adamw_part *p, float step_size,
                     float inv_bias2, int64_t i0, int64_t i1)
{
    vf b1 = vf_set(a->beta1), b2 = vf_set(a->beta2), step = vf_set(step_size);
    vf c1 = vf_set((float)(1.0 - (double)a->beta1)), c2 = vf_set((float)(1.0 - (double)a->beta2));
    vf scale = vf_set(a->grad_scale), eps = vf_set(a->eps), inv2 = vf_set(inv_bias2);
    vf decay = vf_set((float)(1.0 - (double)p->lr * (double)p->weight_decay));
    vf rate = vf_set((float)(1.0 - (double)a->ema_decay));
    for (int64_t i = i0; i < i1; i += VL) {
        int64_t n = i1 - i;
        vf g = vf_mul(vf_loadn(p->g + i, n), scale);
        vf m = vf_fma(c1, g, vf_mul(b1, vf_loadn(p->m + i, n)));
        vf v = vf_fma(c2, vf_mul(g, g), vf_mul(b2, vf_loadn(p->v + i, n)));
        vf w = vf_mul(vf_loadn(p->w + i, n), decay);
        vf q = vf_div(m, vf_fma(vf_sqrt(v), inv2, eps));
        w = vf_fnma(step, q, w);
        vf_storen(p->m + i, m, n);
        vf_storen(p->v + i, v, n);
        vf_storen(p->w + i, w, n);
        vf_storen(p->g + i, vf_zero(), n);
        if (p->ema) {
            vf e = vf_loadn(p->ema + i, n);
            vf_storen(p->ema + i, vf_fma(rate, vf_sub(w, e), e), n);
        }
    }
}

double KIN_SIMD(mse)(const float *x, const float *t, int64_t n)
{
    double total = 0;
    for (int64_t c = 0; c < n; c += 1024) {
        int64_t end = c + 1024 < n ? c + 1024 : n;
        vf s = vf_zero();
        for (int64_t i = c; i < end; i += VL) {
            vf d = vf_sub(vf_loadn(x + i, end - i), vf_loadn(t + i, end - i));
            s = vf_fma(d, d, s);
        }
        total += vf_sum_double(s);
    }
    return total;
}

void KIN_SIMD(mse_bwd)(const float *x, const float *t, float factor, int64_t n, float *dx, bool acc)
{
    vf f = vf_set(factor);
    for (int64_t i = 0; i < n; i += VL) {
        vf d = vf_mul(f, vf_sub(vf_loadn(x + i, n - i), vf_loadn(t + i, n - i)));
        vf_storen(dx + i, acc ? vf_add(vf_loadn(dx + i, n - i), d) : d, n - i);
    }
}

void KIN_SIMD(exp2f)(const float *x, int64_t n, float *y)
{
    for (int64_t i = 0; i < n; i += VL)
        vf_storen(y + i, vf_exp2(vf_loadn(x + i, n - i)), n - i);
}

/* note: from four places at a time: memory answers several streams faster than one */
double KIN_SIMD(sumsq)(const float *x, int64_t n)
{
    enum { STREAMS = 4 };
    const int64_t each = n / (STREAMS * VL) * VL;
    vd s[STREAMS] = {vd_zero(), vd_zero(), vd_zero(), vd_zero()};
    for (int64_t i = 0; i < each; i += VL)
        for (int k = 0; k < STREAMS; k++)
            s[k] = vd_add_squares(s[k], vf_load(x + k * each + i));
    for (int64_t i = STREAMS * each; i < n; i += VL)
        s[0] = vd_add_squares(s[0], vf_loadn(x + i, n - i));
    return (vd_sum(s[0]) + vd_sum(s[1])) + (vd_sum(s[2]) + vd_sum(s[3]));
}
