/* tensor/ref/norm.c: LayerNorm with modulation (Ba et al. 2016; adaLN: Peebles and Xie 2023) and
 * RMSNorm (Zhang and Sennrich 2019). */
#include "tensor/ref/ref.h"

static double gamma_at(const kin_norm_args *a, int64_t j)
{
    return a->gamma ? kin_ref_load(&a->gamma->value, j) : 1.0;
}

static double scale_at(const kin_norm_args *a, int64_t r, int64_t j)
{
    return kin_ref_has(a->scale) ? kin_ref_get2(a->scale, kin_ref_group(a->scale, r, a->rows), j)
                                 : 0;
}

/* Mean (0 for RMS) and reciprocal deviation of row r. */
static void statistics(const kin_norm_args *a, bool rms, int64_t r, double *mean, double *rstd)
{
    double sum = 0, sq = 0;
    for (int64_t j = 0; j < a->d && !rms; j++)
        sum += kin_ref_get2(a->x, r, j);
    *mean = sum / (double)a->d;
    for (int64_t j = 0; j < a->d; j++) {
        double v = kin_ref_get2(a->x, r, j) - *mean;
        sq += v * v;
    }
    *rstd = 1 / sqrt(sq / (double)a->d + (double)a->eps);
}

static void keep(const kin_norm_args *a, int64_t r, double mean, double rstd)
{
    if (kin_ref_has(a->mean))
        kin_ref_put(a->mean, r * a->mean->stride[0], mean, false);
    if (kin_ref_has(a->rstd))
        kin_ref_put(a->rstd, r * a->rstd->stride[0], rstd, false);
}

/* Element j of row r before the turn. */
static double normal_at(const kin_norm_args *a, bool rms, int64_t r, int64_t j, double mean,
                        double rstd)
{
    double y = (kin_ref_get2(a->x, r, j) - mean) * rstd * gamma_at(a, j);
    if (rms)
        return y;
    if (a->beta)
        y += kin_ref_load(&a->beta->value, j);
    return kin_ref_has(a->scale)
               ? y * (1 + scale_at(a, r, j)) +
                     kin_ref_get2(a->shift, kin_ref_group(a->shift, r, a->rows), j)
               : y;
}

/* Column j of row r from its value v and the other one of its pair; direction -1: turned back. */
static double turned(const kin_norm_args *a, int64_t r, int64_t j, double v, double other,
                     double direction)
{
    int64_t p = r / a->turn_rows % a->cos->size[0], k = j / 2 % a->cos->size[1];
    double c = kin_ref_get2(a->cos, p, k), s = direction * kin_ref_get2(a->sin, p, k);
    return j % 2 ? v * c + other * s : v * c - other * s;
}

static kin_status forward(const kin_norm_args *a, bool rms)
{
    for (int64_t r = 0; r < a->rows; r++) {
        double mean, rstd;
        statistics(a, rms, r, &mean, &rstd);
        keep(a, r, mean, rstd);
        for (int64_t j = 0; j < a->d; j++) {
            double y = normal_at(a, rms, r, j, mean, rstd);
            if (a->cos)
                y = turned(a, r, j, y, normal_at(a, rms, r, j ^ 1, mean, rstd), 1);
            kin_ref_put2(a->y, r, j, y, false);
        }
    }
    return KIN_OK;
}

kin_status kin_ref_layernorm(kin_ctx *ctx, const kin_norm_args *a)
{
    (void)ctx;
    return forward(a, false);
}

kin_status kin_ref_rmsnorm(kin_ctx *ctx, const kin_norm_args *a)
{
    (void)ctx;
    return forward(a, true);
}

/* dy before the turn */
static double dy_at(const kin_norm_args *a, int64_t r, int64_t j)
{
    double v = kin_ref_get2(a->dy, r, j);
    return a->cos ? turned(a, r, j, v, kin_ref_get2(a->dy, r, j ^ 1), -1) : v;
}

/* With n = (x - mean) rstd and dn = dy (1 + scale) gamma:  dx = rstd (dn - <dn> - n <dn n>), <> the
 * mean over the row; RMS has no <dn>. */
static void row_dx(const kin_norm_args *a, bool rms, int64_t r)
{
    double mean, rstd, sum = 0, dot = 0;
    statistics(a, rms, r, &mean, &rstd);
    for (int64_t j = 0; j < a->d; j++) {
        double dn = dy_at(a, r, j) * (1 + scale_at(a, r, j)) * gamma_at(a, j);
        sum += dn;
        dot += dn * (kin_ref_get2(a->x, r, j) - mean) * rstd;
    }
    sum = rms ? 0 : sum / (double)a->d;
    dot /= (double)a->d;
    for (int64_t j = 0; j < a->d; j++) {
        double dn = dy_at(a, r, j) * (1 + scale_at(a, r, j)) * gamma_at(a, j);
        double n = (kin_ref_get2(a->x, r, j) - mean) * rstd;
        kin_ref_put2(a->dx, r, j, rstd * (dn - sum - n * dot), a->acc_dx);
    }
}

/* Sums over rows [r0, r1) of column j: dy, dy a (a = n gamma + beta), dy (1 + scale) n, dy (1 +
 * scale). */
static void column_sums(const kin_norm_args *a, bool rms, int64_t r0, int64_t r1, int64_t j,
                        double sums[4])
{
    double beta = a->beta ? kin_ref_load(&a->beta->value, j) : 0;
    sums[0] = sums[1] = sums[2] = sums[3] = 0;
    for (int64_t r = r0; r < r1; r++) {
        double mean, rstd, n, dy = dy_at(a, r, j), factor = 1 + scale_at(a, r, j);
        if (kin_ref_has(a->rstd)) {
            rstd = kin_ref_load(a->rstd, r * a->rstd->stride[0]);
            mean = rms ? 0 : kin_ref_load(a->mean, r * a->mean->stride[0]);
        } else {
            statistics(a, rms, r, &mean, &rstd);
        }
        n = (kin_ref_get2(a->x, r, j) - mean) * rstd;
        sums[0] += dy;
        sums[1] += dy * (n * gamma_at(a, j) + beta);
        sums[2] += dy * factor * n;
        sums[3] += dy * factor;
    }
}

static void columns_bwd(const kin_norm_args *a, bool rms)
{
    double s[4];
    for (int64_t j = 0; j < a->d; j++) {
        for (int64_t g = 0; kin_ref_has(a->dscale) && g < a->dscale->size[0]; g++) {
            int64_t per = a->rows / a->dscale->size[0];
            column_sums(a, rms, g * per, (g + 1) * per, j, s);
            kin_ref_put2(a->dscale, g, j, s[1], a->acc_dscale);
        }
        for (int64_t g = 0; kin_ref_has(a->dshift) && g < a->dshift->size[0]; g++) {
            int64_t per = a->rows / a->dshift->size[0];
            column_sums(a, rms, g * per, (g + 1) * per, j, s);
            kin_ref_put2(a->dshift, g, j, s[0], a->acc_dshift);
        }
        if (kin_ref_wants_grad(a->gamma) || kin_ref_wants_grad(a->beta))
            column_sums(a, rms, 0, a->rows, j, s);
        if (kin_ref_wants_grad(a->gamma))
            kin_ref_grad_add(a->gamma, 0, j, s[2]);
        if (kin_ref_wants_grad(a->beta))
            kin_ref_grad_add(a->beta, 0, j, s[3]);
    }
}

kin_status kin_ref_layernorm_bwd(kin_ctx *ctx, const kin_norm_args *a)
{
    (void)ctx;
    for (int64_t r = 0; r < a->rows && kin_ref_has(a->dx); r++)
        row_dx(a, false, r);
    columns_bwd(a, false);
    return KIN_OK;
}

kin_status kin_ref_rmsnorm_bwd(kin_ctx *ctx, const kin_norm_args *a)
{
    (void)ctx;
    for (int64_t r = 0; r < a->rows && kin_ref_has(a->dx); r++)
        row_dx(a, true, r);
    columns_bwd(a, true);
    return KIN_OK;
}
