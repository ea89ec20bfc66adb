/* tensor/cpu/simd/softmax.c: rows of scores to probabilities and back, for attention (blocks of
 * keys, running maximum) and for plain softmax. */
#include "tensor/cpu/simd/simd.h"
#include "tensor/cpu/simd/softmax.h"

void KIN_SIMD(softmax_block)(const kin_score *a, int rows, int64_t keys, float *s, int64_t ld,
                             float *max, float *sum, float *factor)
{
    if (a->bias || a->keep)
        softmax_rows(false, a, rows, keys, s, ld, max, sum, factor, NULL, 0, 0);
    else
        softmax_rows(true, a, rows, keys, s, ld, max, sum, factor, NULL, 0, 0);
}

/* n columns from c on: s becomes gate p, dp becomes ds. */
VINL void columns_bwd(bool plain, const kin_score *a, int r, int64_t c, int64_t n, float *s,
                      float *dp, vf top, vf delta, vf gate, float uniform)
{
    vf v = plain ? vf_loadn(s + c, n) : score(a, r, c, n, vf_loadn(s + c, n));
    vf p =
        uniform > 0 ? vf_set(uniform) : weight(plain, false, v, vf_set(a->scale * VF_LOG2E), top);
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
    const vf f = vf_set(alpha);
    const int64_t whole = cols / VL * VL, n = cols - whole;
    for (int64_t r = 0; r < rows; r++, src += ld_src, dst += ld_dst) {
        int64_t c = 0;
        if (acc)
            for (; c < whole; c += VL)
                vf_store(dst + c, vf_add(vf_load(dst + c), vf_mul(f, vf_load(src + c))));
        for (; c < whole; c += VL)
            vf_store(dst + c, vf_mul(f, vf_load(src + c)));
        if (n > 0) {
            const vf v = vf_mul(f, vf_loadn(src + c, n));
            vf_storen(dst + c, acc ? vf_add(vf_loadn(dst + c, n), v) : v, n);
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
