/* tensor/cpu/simd/softmax.c: rows of scores to probabilities and back, for attention (blocks of
 * keys, running maximum) and for plain softmax. */
#include <float.h>

#include "tensor/cpu/simd/simd.h"
#include "tensor/cpu/simd/vec.h"

/* Score vector at column c of row r: scale*s + bias, masked keys at the lowest float. */
VINL vf score(const kin_score *a, int64_t r, int64_t c, int64_t n, vf s)
{
    s = vf_mul(s, vf_set(a->scale));
    if (a->bias)
        s = vf_add(s, vf_loadn(a->bias + r * a->ld_bias + c, n));
    if (a->keep)
        s = vf_blend(vf_gt(vf_loadn(a->keep + c, n), vf_zero()), s, vf_set(-FLT_MAX));
    return s;
}

/* Scores of one row in place (left as they are when `plain`: only scaled), their maximum with top.
 */
VINL float row_scores(const kin_score *a, bool plain, int r, int64_t keys, float *row, float top)
{
    vf scale = vf_set(a->scale), t0 = vf_set(top), t1 = t0;
    int64_t c = 0;
    if (plain) {
        for (; c + 2 * VL <= keys; c += 2 * VL) {
            t0 = vf_max(t0, vf_mul(vf_load(row + c), scale));
            t1 = vf_max(t1, vf_mul(vf_load(row + c + VL), scale));
        }
        t0 = vf_max(t0, t1);
    }
    for (; c < keys; c += VL) {
        int64_t n = keys - c;
        vf v =
            plain ? vf_mul(vf_loadn(row + c, n), scale) : score(a, r, c, n, vf_loadn(row + c, n));
        if (!plain)
            vf_storen(row + c, v, n);
        t0 = vf_max(t0, n >= VL ? v : vf_first(v, n, vf_set(top)));
    }
    return vf_hmax(t0);
}

/* e^(score - top) of what row_scores left: one multiply-add before the power where plain. note: the
 * other way round with masks, whose lowest float would overflow. */
VINL vf weight(bool plain, vf v, vf scale, vf top)
{
    const vf log2e = vf_set(VF_LOG2E);
    return plain ? vf_exp2(vf_fma(v, scale, top)) : vf_exp2(vf_mul(vf_sub(v, top), log2e));
}

VINL void block_as(bool plain, const kin_score *a, int rows, int64_t keys, float *s, int64_t ld,
                   float *max, float *sum, float *factor)
{
    vf scale = vf_set(a->scale * VF_LOG2E);
    for (int r = 0; r < rows; r++) {
        float *row = s + r * ld, m = row_scores(a, plain, r, keys, row, max[r]), one[VL];
        vf acc = vf_zero(), top = vf_set(plain ? -m * VF_LOG2E : m);
        int64_t c = 0;
        for (; c + VL <= keys; c += VL) {
            vf e = weight(plain, vf_load(row + c), scale, top);
            vf_store(row + c, e);
            acc = vf_add(acc, e);
        }
        if (c < keys) {
            int64_t n = keys - c;
            vf e = weight(plain, vf_loadn(row + c, n), scale, top);
            vf_storen(row + c, e, n);
            acc = vf_add(acc, vf_first(e, n, vf_zero()));
        }
        factor[r] = 1.0f;
        if (max[r] != m) {
            vf_store(one, vf_exp2(vf_set((max[r] - m) * VF_LOG2E)));
            factor[r] = one[0];
        }
        sum[r] = sum[r] * factor[r] + vf_sum(acc);
        max[r] = m;
    }
}

void KIN_SIMD(softmax_block)(const kin_score *a, int rows, int64_t keys, float *s, int64_t ld,
                             float *max, float *sum, float *factor)
{
    if (a->bias || a->keep)
        block_as(false, a, rows, keys, s, ld, max, sum, factor);
    else
        block_as(true, a, rows, keys, s, ld, max, sum, factor);
}

/* n columns from c on: s becomes gate p, dp becomes ds. */
VINL void columns_bwd(bool plain, const kin_score *a, int r, int64_t c, int64_t n, float *s,
                      float *dp, vf top, vf delta, vf gate, float uniform)
{
    vf v = plain ? vf_loadn(s + c, n) : score(a, r, c, n, vf_loadn(s + c, n));
    vf p = uniform > 0 ? vf_set(uniform) : weight(plain, v, vf_set(a->scale * VF_LOG2E), top);
    vf ds = vf_mul(p, vf_sub(vf_mul(gate, vf_loadn(dp + c, n)), delta));
    if (a->keep)
        ds = vf_blend(vf_gt(vf_loadn(a->keep + c, n), vf_zero()), ds, vf_zero());
    vf_storen(s + c, vf_mul(gate, p), n);
    vf_storen(dp + c, ds, n);
}

void KIN_SIMD(softmax_block_bwd)(const kin_score *a, int rows, int64_t keys, float *s, float *dp,
                                 int64_t ld, const float *lse, const float *delta, float gate,
                                 float uniform)
{
    bool plain = !a->bias && !a->keep;
    vf g = vf_set(gate);
    for (int r = 0; r < rows; r++) {
        float *row = s + r * ld, *drow = dp + r * ld;
        vf top = vf_set(plain ? -lse[r] * VF_LOG2E : lse[r]), dl = vf_set(delta[r]);
        for (int64_t c = 0; c < keys && plain; c += VL)
            columns_bwd(true, a, r, c, keys - c, row, drow, top, dl, g, 0.0f);
        for (int64_t c = 0; c < keys && !plain; c += VL)
            columns_bwd(false, a, r, c, keys - c, row, drow, top, dl, g, uniform);
    }
}

void KIN_SIMD(scale_rows)(int64_t rows, int64_t cols, float alpha, const float *factor, float *x,
                          int64_t ld)
{
    for (int64_t r = 0; r < rows; r++) {
        vf f = vf_set(factor ? alpha * factor[r] : alpha);
        for (int64_t c = 0; c < cols; c += VL)
            vf_storen(x + r * ld + c, vf_mul(f, vf_loadn(x + r * ld + c, cols - c)), cols - c);
    }
}

void KIN_SIMD(put_rows)(int64_t rows, int64_t cols, float alpha, const float *src, int64_t ld_src,
                        float *dst, int64_t ld_dst, bool acc)
{
    vf f = vf_set(alpha);
    for (int64_t r = 0; r < rows; r++) {
        const float *s = src + r * ld_src;
        float *d = dst + r * ld_dst;
        for (int64_t c = 0; c < cols; c += VL) {
            int64_t n = cols - c;
            vf v = vf_mul(f, vf_loadn(s + c, n));
            vf_storen(d + c, acc ? vf_add(vf_loadn(d + c, n), v) : v, n);
        }
    }
}

float KIN_SIMD(dot)(const float *a, const float *b, int64_t n)
{
    vf s0 = vf_zero(), s1 = vf_zero();
    int64_t i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL) {
        s0 = vf_fma(vf_load(a + i), vf_load(b + i), s0);
        s1 = vf_fma(vf_load(a + i + VL), vf_load(b + i + VL), s1);
    }
    for (; i < n; i += VL)
        s0 = vf_fma(vf_loadn(a + i, n - i), vf_loadn(b + i, n - i), s0);
    return vf_sum(vf_add(s0, s1));
}

float KIN_SIMD(dot_bf16)(const float *a, const float *b, int64_t n)
{
    vf s = vf_zero();
    for (int64_t i = 0; i < n; i += VL)
        s = vf_fma(vf_round_bf16(vf_loadn(a + i, n - i)), vf_loadn(b + i, n - i), s);
    return vf_sum(s);
}
