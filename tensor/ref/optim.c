/* tensor/ref/optim.c: AdamW with moving average (Loshchilov and Hutter 2019, in PyTorch's order),
 * norms, noise. */
#include "tensor/ref/ref.h"

kin_status kin_ref_randn(kin_ctx *ctx, const kin_rng *rng, uint64_t first, kin_tensor *y)
{
    int64_t n = kin_tensor_numel(y);
    (void)ctx;
    if (y->dtype == KIN_DTYPE_F32) {
        kin_rng_normal(rng, first, n, y->data);
        return KIN_OK;
    }
    for (int64_t i = 0; i < n; i++) {
        float v;
        kin_rng_normal(rng, first + (uint64_t)i, 1, &v);
        kin_ref_put(y, i, (double)v, false);
    }
    return KIN_OK;
}

kin_status kin_ref_adamw(kin_ctx *ctx, const kin_adamw_args *a)
{
    double b1 = (double)a->beta1, b2 = (double)a->beta2, d = (double)a->ema_decay;
    double bias1 = 1 - pow(b1, (double)a->step), bias2 = sqrt(1 - pow(b2, (double)a->step));
    (void)ctx;
    for (int64_t i = 0; i < a->n; i++) {
        double g = (double)a->g[i] * (double)a->grad_scale;
        double w = (double)a->w[i] * (1 - (double)a->lr * (double)a->weight_decay);
        double m = b1 * (double)a->m[i] + (1 - b1) * g;
        double v = b2 * (double)a->v[i] + (1 - b2) * g * g;
        w -= (double)a->lr / bias1 * m / (sqrt(v) / bias2 + (double)a->eps);
        a->w[i] = (float)w;
        a->m[i] = (float)m;
        a->v[i] = (float)v;
        if (a->ema)
            a->ema[i] = (float)(d * (double)a->ema[i] + (1 - d) * (double)a->w[i]);
    }
    return KIN_OK;
}

kin_status kin_ref_sumsq(kin_ctx *ctx, const float *x, int64_t n, double *out)
{
    double sum = 0;
    (void)ctx;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    *out = sum;
    return KIN_OK;
}
