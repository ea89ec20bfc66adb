/* samplers/step.c: what the steps of all solvers are made of. Sums are formed in double and rounded
 * once, sample by sample, so that batch mates change nothing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "samplers/sampler.h"
#include "tensor/kernels.h"

enum { MAX_TERMS = 8 };

kin_status kin_sampler_axpy(kin_ctx *ctx, const kin_tensor *a, const kin_tensor *b, float alpha,
                            kin_tensor *y)
{
    /* flat views: the kernel takes at most four dimensions */
    int64_t n = kin_tensor_numel(y);
    kin_tensor fa = kin_tensor_reshape(a, 1, &n), fb = kin_tensor_reshape(b, 1, &n);
    kin_tensor fy = kin_tensor_reshape(y, 1, &n);
    kin_binary_args args = {.kind = KIN_BINARY_ADD, .alpha = alpha, .a = &fa, .b = &fb, .y = &fy};
    return ctx->k->binary(ctx, &args);
}

static int64_t row_length(const kin_tensor *t)
{
    return t->size[0] ? kin_tensor_numel(t) / t->size[0] : 0;
}

void kin_sampler_sum(kin_sampler_state *s, const kin_term *term, int n, kin_tensor *y)
{
    const int64_t length = row_length(y);
    if (kin_ctx_is_plan(s->ctx))
        return;
    for (int64_t b = 0; b < y->size[0]; b++) {
        const float *from[MAX_TERMS];
        double c[MAX_TERMS];
        float *to = (float *)y->data + b * length;
        int used = 0;
        /* note: a term of weight 0 may hold anything */
        for (int k = 0; k < n; k++) {
            if (term[k].c == 0.0)
                continue;
            from[used] = (const float *)term[k].t->data + b * row_length(term[k].t);
            c[used++] = term[k].c;
        }
        for (int64_t i = 0; i < length; i++) {
            double sum = 0.0;
            for (int k = 0; k < used; k++)
                sum += c[k] * (double)from[k][i];
            to[i] = (float)sum;
        }
    }
}

kin_status kin_sampler_draw(kin_sampler_state *s, int i, int draw)
{
    return s->args->noise(s->ctx, s->args->user, i, draw, &s->noise);
}

kin_point kin_sampler_point(const kin_sampler_state *s, int i)
{
    const double sigma = (double)s->schedule->sigma[i];
    kin_point p = {1.0 - sigma, sigma, 0.0};
    if (!s->cfg->flow_sigmas) {
        p.alpha = 1.0 / sqrt(sigma * sigma + 1.0);
        p.sigma = sigma * p.alpha;
    }
    p.lambda = log(p.alpha) - log(p.sigma);
    return p;
}

/* --- the clean estimate --- */

static int ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* quantile with linear interpolation of |x|; scratch [n] */
static double abs_quantile(const float *x, int64_t n, double q, float *scratch)
{
    for (int64_t i = 0; i < n; i++)
        scratch[i] = fabsf(x[i]);
    qsort(scratch, (size_t)n, sizeof *scratch, ascending);
    const double at = q * (double)(n - 1);
    const int64_t low = (int64_t)at, high = low + 1 < n ? low + 1 : low;
    return (double)scratch[low] +
           (at - (double)low) * ((double)scratch[high] - (double)scratch[low]);
}

/* Saharia et al. 2022 (arXiv 2205.11487), section 2.3; note: noise serves as scratch */
static void threshold(kin_sampler_state *s, kin_tensor *x0)
{
    const int64_t n = row_length(x0);
    for (int64_t b = 0; b < x0->size[0] && n > 0; b++) {
        float *x = (float *)x0->data + b * n;
        const double q = abs_quantile(x, n, s->cfg->threshold_ratio, s->noise.data);
        const double limit = fmin(fmax(q, 1.0), s->cfg->threshold_max);
        for (int64_t i = 0; i < n; i++)
            x[i] = (float)(fmin(fmax((double)x[i], -limit), limit) / limit);
    }
}

void kin_sampler_clip(kin_sampler_state *s, kin_tensor *x0)
{
    const float range = (float)s->cfg->clip_range;
    if (kin_ctx_is_plan(s->ctx))
        return;
    if (s->cfg->threshold) {
        threshold(s, x0);
    } else if (s->cfg->clip) {
        float *x = x0->data;
        for (int64_t i = 0; i < kin_tensor_numel(x0); i++)
            x[i] = fminf(fmaxf(x[i], -range), range);
    }
}

/* note: ADM's loop in its own rounding: at small alpha both products are large, and the digits that
 * are lost between them decide what is clipped */
static void x0_from_eps_f32(kin_sampler_state *s, kin_level l, kin_tensor *x0)
{
    const float a = (float)(1.0 / l.alpha), b = (float)(l.sigma / l.alpha);
    const int64_t length = row_length(x0), wide = row_length(&s->out);
    for (int64_t r = 0; r < x0->size[0] && !kin_ctx_is_plan(s->ctx); r++) {
        const float *x = (const float *)s->x->data + r * length;
        const float *eps = (const float *)s->out.data + r * wide;
        float *to = (float *)x0->data + r * length;
        for (int64_t i = 0; i < length; i++) {
            const float scaled = a * x[i];
            to[i] = scaled - b * eps[i];
        }
    }
    kin_sampler_clip(s, x0);
}

void kin_sampler_x0(kin_sampler_state *s, kin_level l, kin_tensor *x0)
{
    kin_term sum[2] = {{0.0, s->x}, {1.0, &s->out}};
    if (s->schedule->respaced && s->cfg->prediction == KIN_PREDICT_EPSILON) {
        x0_from_eps_f32(s, l, x0);
        return;
    }
    switch (s->cfg->prediction) {
    case KIN_PREDICT_EPSILON:
        sum[0].c = 1.0 / l.alpha;
        sum[1].c = -l.sigma / l.alpha;
        break;
    case KIN_PREDICT_V:
        sum[0].c = l.alpha;
        sum[1].c = -l.sigma;
        break;
    case KIN_PREDICT_FLOW:
        sum[0].c = 1.0;
        sum[1].c = -l.sigma;
        break;
    case KIN_PREDICT_SAMPLE: break;
    }
    kin_sampler_sum(s, sum, 2, x0);
    kin_sampler_clip(s, x0);
}

void kin_sampler_eps(kin_sampler_state *s, kin_level l, kin_tensor *eps)
{
    kin_term sum[2] = {{0.0, s->x}, {1.0, &s->out}};
    switch (s->cfg->prediction) {
    case KIN_PREDICT_SAMPLE:
        sum[0].c = 1.0 / l.sigma;
        sum[1].c = -l.alpha / l.sigma;
        break;
    case KIN_PREDICT_V:
        sum[0].c = l.sigma;
        sum[1].c = l.alpha;
        break;
    case KIN_PREDICT_FLOW:
        sum[0].c = 1.0;
        sum[1].c = l.alpha;
        break;
    case KIN_PREDICT_EPSILON: break;
    }
    kin_sampler_sum(s, sum, 2, eps);
}
