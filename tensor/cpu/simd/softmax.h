/* tensor/cpu/simd/softmax.h: rows of scores to weights, inlined where they are needed: softmax.c,
 * and the AMX engines, which take the weights as pairs of bf16. */
#ifndef KIN_CPU_SIMD_SOFTMAX_H
#define KIN_CPU_SIMD_SOFTMAX_H

#include <float.h>

#include "tensor/cpu/simd/simd.h"
#include "tensor/cpu/simd/vec.h"

#ifndef SOFTMAX_TARGET
#define SOFTMAX_TARGET
#endif

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

/* Scores of one row in place (left as they are when `plain`), the maximum of them scaled with top.
 * note: a scale above 0 may follow the maximum, rounding is monotone */
VINL float row_scores(const kin_score *a, bool plain, int r, int64_t keys, float *row, float top)
{
    vf scale = vf_set(a->scale), t0 = vf_set(top);
    int64_t c = 0;
    if (plain && a->scale > 0 && keys >= 2 * VL) {
        vf r0 = vf_load(row), r1 = vf_load(row + VL);
        for (c = 2 * VL; c + 2 * VL <= keys; c += 2 * VL) {
            r0 = vf_max(r0, vf_load(row + c));
            r1 = vf_max(r1, vf_load(row + c + VL));
        }
        t0 = vf_max(t0, vf_mul(vf_max(r0, r1), scale));
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
 * other way round with masks, whose lowest float would overflow. `half`: for weights that become
 * bf16. */
VINL vf weight(bool plain, bool half, vf v, vf scale, vf top)
{
    const vf z = plain ? vf_fma(v, scale, top) : vf_mul(vf_sub(v, top), vf_set(VF_LOG2E));
#ifdef SOFTMAX_PAIRS
    if (half)
        return vf_exp2_half(z);
#else
    (void)half;
#endif
    return vf_exp2(z);
}

/* n weights (at most two vectors) of a row, in place or, where left is not NULL, as pairs of bf16
 * there (zeros behind them); returns acc with their sums by lane. note: the includer that gives
 * left defines SOFTMAX_PAIRS(lo, hi), and what it needs as SOFTMAX_TARGET. */
SOFTMAX_TARGET VINL vf put_weights(bool plain, float *row, int64_t n, vf scale, vf top, vf acc,
                                   float *left)
{
    vf e[2] = {vf_zero(), vf_zero()};
    for (int i = 0; i < 2 && n > i * VL; i++) {
        e[i] = weight(plain, left != NULL, vf_loadn(row + i * VL, n - i * VL), scale, top);
        if (n < (i + 1) * VL)
            e[i] = vf_first(e[i], n - i * VL, vf_zero());
        acc = vf_add(acc, e[i]);
        if (!left)
            vf_storen(row + i * VL, e[i], n - i * VL);
    }
#ifdef SOFTMAX_PAIRS
    if (left)
        vf_store(left, SOFTMAX_PAIRS(e[0], e[1]));
#endif
    return acc;
}

/* One block of keys, see kin_simd.softmax_block. left: NULL, or where row r goes instead, at word
 * r*step and `block` words on for each two vectors. */
SOFTMAX_TARGET VINL void softmax_rows(bool plain, const kin_score *a, int rows, int64_t keys,
                                      float *s, int64_t ld, float *max, float *sum, float *factor,
                                      float *left, int64_t step, int64_t block)
{
    vf scale = vf_set(a->scale * VF_LOG2E);
    for (int r = 0; r < rows; r++) {
        float *row = s + r * ld, m = row_scores(a, plain, r, keys, row, max[r]), one[VL];
        float *to = left ? left + r * step : NULL;
        vf acc = vf_zero(), top = vf_set(plain ? -m * VF_LOG2E : m);
        int64_t c = 0;
        for (; c + 2 * VL <= keys; c += 2 * VL, to = to ? to + block : NULL)
            acc = put_weights(plain, row + c, 2 * VL, scale, top, acc, to);
        if (c < keys)
            acc = put_weights(plain, row + c, keys - c, scale, top, acc, to);
        factor[r] = 1.0f;
        if (max[r] != m) {
            vf_store(one, vf_exp2(vf_set((max[r] - m) * VF_LOG2E)));
            factor[r] = one[0];
        }
        sum[r] = sum[r] * factor[r] + vf_sum(acc);
        max[r] = m;
    }
}

#endif
