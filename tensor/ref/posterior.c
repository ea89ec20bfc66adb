/* tensor/ref/posterior.c: samples of a normal distribution per value and its divergence from the
 * standard one. */
#include "tensor/ref/ref.h"

static double clamped(const kin_posterior_args *a, int64_t r, int64_t c)
{
    double v = kin_ref_get2(a->logvar, r, c);
    return v < (double)a->lo ? (double)a->lo : v > (double)a->hi ? (double)a->hi : v;
}

kin_status kin_ref_posterior(kin_ctx *ctx, const kin_posterior_args *a)
{
    (void)ctx;
    for (int64_t r = 0; r < a->mean->size[0]; r++) {
        double kl = 0;
        for (int64_t c = 0; c < a->mean->size[1]; c++) {
            double m = kin_ref_get2(a->mean, r, c), v = clamped(a, r, c);
            if (kin_ref_has(a->clamped))
                kin_ref_put2(a->clamped, r, c, v, false);
            if (kin_ref_has(a->z))
                kin_ref_put2(a->z, r, c, m + exp(v / 2) * kin_ref_get2(a->noise, r, c), false);
            kl += (m * m + exp(v) - 1 - v) / 2;
        }
        if (kin_ref_has(a->kl))
            kin_ref_put(a->kl, r * a->kl->stride[0], kl, false);
    }
    return KIN_OK;
}

kin_status kin_ref_posterior_bwd(kin_ctx *ctx, const kin_posterior_args *a)
{
    (void)ctx;
    for (int64_t r = 0; r < a->mean->size[0]; r++) {
        double dkl = kin_ref_has(a->dkl) ? kin_ref_load(a->dkl, r * a->dkl->stride[0]) : 0;
        for (int64_t c = 0; c < a->mean->size[1]; c++) {
            double m = kin_ref_get2(a->mean, r, c), v = clamped(a, r, c);
            double dz = kin_ref_has(a->dz) ? kin_ref_get2(a->dz, r, c) : 0;
            double e = kin_ref_has(a->dz) ? kin_ref_get2(a->noise, r, c) : 0;
            double dv = dz * e * exp(v / 2) / 2 + dkl * (exp(v) - 1) / 2;
            if (kin_ref_has(a->dmean))
                kin_ref_put2(a->dmean, r, c, dz + dkl * m, a->acc_dmean);
            if (kin_ref_has(a->dlogvar))
                kin_ref_put2(a->dlogvar, r, c, v > (double)a->lo && v < (double)a->hi ? dv : 0,
                             a->acc_dlogvar);
        }
    }
    return KIN_OK;
}
