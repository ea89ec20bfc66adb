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

/* c1, c2: 1 - beta^step */
static void update(const kin_adamw_args *a, const kin_adamw_part *p, double c1, double c2)
{
    double b1 = (double)a->beta1, b2 = (double)a->beta2, d = (double)a->ema_decay;
    for (int64_t i = 0; i < p->n; i++) {
        double g = (double)p->g[i] * (double)a->grad_scale;
        double w = (double)p->w[i] * (1 - (double)p->lr * (double)p->weight_decay);
        double m = b1 * (double)p->m[i] + (1 - b1) * g;
        double v = b2 * (double)p->v[i] + (1 - b2) * g * g;
        w -= (double)p->lr / c1 * m / (sqrt(v) / sqrt(c2) + (double)a->eps);
        p->w[i] = (float)w;
        p->m[i] = (float)m;
        p->v[i] = (float)v;
        p->g[i] = 0;
        if (p->ema)
            p->ema[i] = (float)(d * (double)p->ema[i] + (1 - d) * (double)p->w[i]);
    }
}

kin_status kin_ref_adamw(kin_ctx *ctx, const kin_adamw_args *a)
{
    (void)ctx;
    for (int64_t i = 0; i < a->parts; i++)
        update(a, &a->part[i], 1 - pow((double)a->beta1, (double)a->step),
               1 - pow((double)a->beta2, (double)a->step));
    return KIN_OK;
}

kin_status kin_ref_sumsq(kin_ctx *ctx, const kin_adamw_part *part, int64_t parts, double *out)
{
    double sum = 0;
    (void)ctx;
    for (int64_t i = 0; i < parts; i++)
        for (int64_t j = 0; j < part[i].n; j++)
            sum += (double)part[i].g[j] * (double)part[i].g[j];
    *out = sum;
    return KIN_OK;
}
