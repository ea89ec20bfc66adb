/* tensor/cpu/simd/columns.c: matrices whose columns have numbers of their own: group norm over
 * pixels with channels last. */
#include "tensor/cpu/simd/act.h"
#include "tensor/cpu/simd/simd.h"

void KIN_SIMD(columns_norm)(const float *x, int64_t rows, int64_t n, const float *mean,
                            const float *scale, const float *shift, kin_act act, float *y)
{
    for (int64_t r = 0; r < rows; r++, x += n, y += n)
        for (int64_t c = 0; c < n; c += VL) {
            const int64_t m = n - c;
            const vf d = vf_sub(vf_loadn(x + c, m), vf_loadn(mean + c, m));
            const vf v = vf_fma(d, vf_loadn(scale + c, m), vf_loadn(shift + c, m));
            vf_storen(y + c, act == KIN_ACT_SILU ? vf_act(KIN_ACT_SILU, v) : vf_act(act, v), m);
        }
}

void KIN_SIMD(columns_square)(const float *x, int64_t rows, int64_t n, const float *mean,
                              float *dst)
{
    for (int64_t c = 0; c < n; c += VL) {
        const int64_t m = n - c;
        const vf mid = vf_loadn(mean + c, m);
        vf s = vf_zero();
        for (int64_t r = 0; r < rows; r++) {
            const vf d = vf_sub(vf_loadn(x + r * n + c, m), mid);
            s = vf_fma(d, d, s);
        }
        vf_storen(dst + c, vf_add(vf_loadn(dst + c, m), s), m);
    }
}

/* d = dy act'((x - mean) * scale + shift) */
VINL vf slope(const float *x, const float *dy, int64_t c, int64_t m, const float *mean,
              const float *scale, const float *shift, kin_act act, vf *centred)
{
    *centred = vf_sub(vf_loadn(x + c, m), vf_loadn(mean + c, m));
    const vf v = vf_fma(*centred, vf_loadn(scale + c, m), vf_loadn(shift + c, m));
    return vf_mul(vf_loadn(dy + c, m), vf_act_grad(act, v));
}

void KIN_SIMD(columns_norm_sums)(const float *x, const float *dy, int64_t rows, int64_t n,
                                 const float *mean, const float *scale, const float *shift,
                                 kin_act act, float *db, float *dg)
{
    for (int64_t c = 0; c < n; c += VL) {
        const int64_t m = n - c;
        vf b = vf_zero(), g = b, centred;
        for (int64_t r = 0; r < rows; r++) {
            const vf d = slope(x + r * n, dy + r * n, c, m, mean, scale, shift, act, &centred);
            b = vf_add(b, d);
            g = vf_fma(d, centred, g);
        }
        vf_storen(db + c, vf_add(vf_loadn(db + c, m), b), m);
        vf_storen(dg + c, vf_add(vf_loadn(dg + c, m), g), m);
    }
}

void KIN_SIMD(columns_norm_bwd)(const float *x, const float *dy, int64_t rows, int64_t n,
                                const float *mean, const float *scale, const float *shift,
                                kin_act act, const float *p, const float *q, float *dx, bool acc)
{
    for (int64_t r = 0; r < rows; r++, x += n, dy += n, dx += n)
        for (int64_t c = 0; c < n; c += VL) {
            const int64_t m = n - c;
            vf centred, v = slope(x, dy, c, m, mean, scale, shift, act, &centred);
            v = vf_sub(vf_mul(v, vf_loadn(scale + c, m)), vf_loadn(p + c, m));
            v = vf_fnma(vf_loadn(q + c, m), centred, v);
            if (acc)
                v = vf_add(v, vf_loadn(dx + c, m));
            vf_storen(dx + c, v, m);
        }
}
