/* tensor/ref/groupnorm.c: normalisation over pixels and groups of channels, with an activation. */
#include "tensor/ref/ref.h"

typedef struct group { /* the values of one group of one sample */
    const kin_groupnorm_args *a;
    int64_t b, g, width; /* channels of a group */
} group;

static int64_t channel(const group *w, int64_t i)
{
    return w->g * w->width + i % w->width;
}

static int64_t at(const group *w, int64_t i)
{
    return (w->b * w->a->pixels + i / w->width) * w->a->channels + channel(w, i);
}

static void group_moments(const group *w, double *mean, double *rstd)
{
    int64_t n = w->a->pixels * w->width;
    double sum = 0, square = 0;
    for (int64_t i = 0; i < n; i++)
        sum += kin_ref_load(w->a->x, at(w, i));
    *mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) {
        double d = kin_ref_load(w->a->x, at(w, i)) - *mean;
        square += d * d;
    }
    *rstd = 1 / sqrt(square / (double)n + (double)w->a->eps);
}

static void each_group(const kin_groupnorm_args *a, void (*fn)(const group *))
{
    for (int64_t b = 0; b < a->batch; b++)
        for (int64_t g = 0; g < a->groups; g++)
            fn(&(group){.a = a, .b = b, .g = g, .width = a->channels / a->groups});
}

static void forward(const group *w)
{
    const kin_groupnorm_args *a = w->a;
    double mean, rstd;
    group_moments(w, &mean, &rstd);
    kin_ref_put2(a->mean, w->b, w->g, mean, false);
    kin_ref_put2(a->rstd, w->b, w->g, rstd, false);
    for (int64_t i = 0; i < a->pixels * w->width; i++) {
        int64_t c = channel(w, i);
        double n = (kin_ref_load(a->x, at(w, i)) - mean) * rstd;
        double pre = n * kin_ref_load(&a->gamma->value, c) + kin_ref_load(&a->beta->value, c);
        kin_ref_put(a->y, at(w, i), kin_ref_act(a->act, pre), false);
    }
}

kin_status kin_ref_groupnorm(kin_ctx *ctx, const kin_groupnorm_args *a)
{
    (void)ctx;
    each_group(a, forward);
    return KIN_OK;
}

/* Normalised value i, and the gradient of its scaled form. */
static double gradient(const group *w, double mean, double rstd, int64_t i, double *n)
{
    const kin_groupnorm_args *a = w->a;
    int64_t c = channel(w, i);
    *n = (kin_ref_load(a->x, at(w, i)) - mean) * rstd;
    double pre = *n * kin_ref_load(&a->gamma->value, c) + kin_ref_load(&a->beta->value, c);
    return kin_ref_load(a->dy, at(w, i)) * kin_ref_act_grad(a->act, pre);
}

static void backward(const group *w)
{
    const kin_groupnorm_args *a = w->a;
    int64_t count = a->pixels * w->width;
    double mean, rstd, n, s1 = 0, s2 = 0;
    group_moments(w, &mean, &rstd);
    for (int64_t c = w->g * w->width; c < (w->g + 1) * w->width; c++) {
        double db = 0, dg = 0, gamma = kin_ref_load(&a->gamma->value, c);
        for (int64_t i = c - w->g * w->width; i < count; i += w->width) {
            double d = gradient(w, mean, rstd, i, &n);
            db += d;
            dg += d * n;
        }
        s1 += db * gamma;
        s2 += dg * gamma;
        if (kin_ref_wants_grad(a->gamma))
            kin_ref_grad_add(a->gamma, 0, c, dg);
        if (kin_ref_wants_grad(a->beta))
            kin_ref_grad_add(a->beta, 0, c, db);
    }
    for (int64_t i = 0; i < count && kin_ref_has(a->dx); i++) {
        double d = gradient(w, mean, rstd, i, &n) * kin_ref_load(&a->gamma->value, channel(w, i));
        kin_ref_put(a->dx, at(w, i), rstd * (d - (s1 + n * s2) / (double)count), a->acc);
    }
}

kin_status kin_ref_groupnorm_bwd(kin_ctx *ctx, const kin_groupnorm_args *a)
{
    (void)ctx;
    each_group(a, backward);
    return KIN_OK;
}
