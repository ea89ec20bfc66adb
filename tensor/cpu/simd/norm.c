/* tensor/cpu/simd/norm.c: LayerNorm with modulation and RMSNorm on ranges of rows. The mean is
 * taken first, then the squares of the differences, as in tensor/ref/. */
#include "tensor/cpu/simd/simd.h"
#include "tensor/cpu/simd/vec.h"

static void statistics(const kin_norm_job *a, const float *x, float *mean, float *rstd)
{
    int64_t d = a->d, i;
    vf s = vf_zero(), q = vf_zero();
    *mean = 0.0f;
    if (!a->rms) {
        for (i = 0; i < d; i += VL)
            s = vf_add(s, vf_loadn(x + i, d - i));
        *mean = vf_sum(s) / (float)d;
    }
    vf m = vf_set(*mean);
    for (i = 0; i + VL <= d; i += VL) {
        vf v = vf_sub(vf_load(x + i), m);
        q = vf_fma(v, v, q);
    }
    float tail = 0.0f;
    for (; i < d; i++)
        tail += (x[i] - *mean) * (x[i] - *mean);
    *rstd = (float)(1.0 / __builtin_sqrt((double)(vf_sum(q) + tail) / (double)d + (double)a->eps));
}

void KIN_SIMD(norm_rows)(const kin_norm_job *a, int64_t r0, int64_t r1)
{
    for (int64_t r = r0; r < r1; r++) {
        const float *x = a->x + r * a->ld_x;
        float *y = a->y + r * a->ld_y, mean, rstd;
        statistics(a, x, &mean, &rstd);
        if (a->mean)
            a->mean[r * a->step_mean] = mean;
        if (a->rstd)
            a->rstd[r * a->step_rstd] = rstd;
        const float *sc = a->scale ? a->scale + r / a->group_rows * a->ld_scale : NULL;
        const float *sh = a->scale ? a->shift + r / a->group_rows * a->ld_shift : NULL;
        vf m = vf_set(mean), rs = vf_set(rstd), one = vf_set(1.0f);
        for (int64_t i = 0; i < a->d; i += VL) {
            int64_t n = a->d - i;
            vf v = vf_mul(vf_sub(vf_loadn(x + i, n), m), rs);
            if (a->gamma)
                v = vf_mul(v, vf_loadn(a->gamma + i, n));
            if (a->beta)
                v = vf_add(v, vf_loadn(a->beta + i, n));
            if (sc)
                v = vf_fma(v, vf_add(one, vf_loadn(sc + i, n)), vf_loadn(sh + i, n));
            vf_storen(y + i, v, n);
        }
    }
}

/* dy (1 + scale) gamma at column i of a row */
VINL vf normal_grad(const kin_norm_job *a, const float *dy, const float *sc, int64_t i, int64_t n)
{
    vf v = vf_loadn(dy + i, n);
    if (sc)
        v = vf_mul(v, vf_add(vf_set(1.0f), vf_loadn(sc + i, n)));
    if (a->gamma)
        v = vf_mul(v, vf_loadn(a->gamma + i, n));
    return v;
}

static void row_dx(const kin_norm_job *a, int64_t r, float mean, float rstd)
{
    const float *x = a->x + r * a->ld_x, *dy = a->dy + r * a->ld_dy;
    const float *sc = a->scale ? a->scale + r / a->group_rows * a->ld_scale : NULL;
    float *dx = a->dx + r * a->ld_dx;
    vf m = vf_set(mean), rs = vf_set(rstd), sum = vf_zero(), dot = vf_zero();
    for (int64_t i = 0; i < a->d; i += VL) {
        int64_t n = a->d - i;
        vf dn = normal_grad(a, dy, sc, i, n);
        vf v = vf_mul(vf_sub(vf_loadn(x + i, n), m), rs);
        sum = vf_add(sum, dn);
        dot = vf_fma(dn, v, dot);
    }
    vf ms = vf_set(a->rms ? 0.0f : vf_sum(sum) / (float)a->d),
       md = vf_set(vf_sum(dot) / (float)a->d);
    for (int64_t i = 0; i < a->d; i += VL) {
        int64_t n = a->d - i;
        vf dn = normal_grad(a, dy, sc, i, n);
        vf v = vf_mul(vf_sub(vf_loadn(x + i, n), m), rs);
        vf g = vf_mul(rs, vf_fnma(v, md, vf_sub(dn, ms)));
        vf_storen(dx + i, a->acc_dx ? vf_add(vf_loadn(dx + i, n), g) : g, n);
    }
}

/* Adds one row to the four column sums: dy, dy a (a = n gamma + beta), dy (1+scale) n, dy
 * (1+scale). */
static void row_sums(const kin_norm_job *a, int64_t r, float mean, float rstd, float *sums)
{
    const float *x = a->x + r * a->ld_x, *dy = a->dy + r * a->ld_dy;
    const float *sc = a->scale ? a->scale + r / a->group_rows * a->ld_scale : NULL;
    vf m = vf_set(mean), rs = vf_set(rstd), one = vf_set(1.0f);
    for (int64_t i = 0; i < a->d; i += VL) {
        int64_t n = a->d - i;
        vf g = vf_loadn(dy + i, n), v = vf_mul(vf_sub(vf_loadn(x + i, n), m), rs);
        if (a->want_modulation) {
            vf t = a->gamma ? vf_mul(v, vf_loadn(a->gamma + i, n)) : v;
            if (a->beta)
                t = vf_add(t, vf_loadn(a->beta + i, n));
            vf_storen(sums + i, vf_add(vf_loadn(sums + i, n), g), n);
            vf_storen(sums + a->d + i, vf_fma(g, t, vf_loadn(sums + a->d + i, n)), n);
        }
        if (a->want_affine) {
            vf f = sc ? vf_mul(g, vf_add(one, vf_loadn(sc + i, n))) : g;
            float *s2 = sums + 2 * a->d + i, *s3 = sums + 3 * a->d + i;
            vf_storen(s2, vf_fma(f, v, vf_loadn(s2, n)), n);
            vf_storen(s3, vf_add(vf_loadn(s3, n), f), n);
        }
    }
}

void KIN_SIMD(norm_rows_bwd)(const kin_norm_job *a, int64_t r0, int64_t r1, float *sums)
{
    for (int64_t r = r0; r < r1; r++) {
        float mean = 0.0f, rstd;
        if (a->rstd && (a->rms || a->mean)) {
            rstd = a->rstd[r * a->step_rstd];
            mean = a->rms ? 0.0f : a->mean[r * a->step_mean];
        } else {
            statistics(a, a->x + r * a->ld_x, &mean, &rstd);
        }
        if (a->dx)
            row_dx(a, r, mean, rstd);
        if (sums)
            row_sums(a, r, mean, rstd, sums);
    }
}
