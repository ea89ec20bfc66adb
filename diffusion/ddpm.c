#include "diffusion/ddpm.h"

#include <math.h>

#include "base/alloc.h"
#include "diffusion/family.h"
#include "diffusion/losses.h"
#include "tensor/tape.h"

kin_ddpm_options kin_ddpm_options_default(void)
{
    return (kin_ddpm_options){.schedule = KIN_BETA_LINEAR,
                              .steps = 1000,
                              .prediction = KIN_PREDICT_EPSILON,
                              .variance = KIN_VARIANCE_LEARNED_RANGE};
}

kin_status kin_ddpm_make(const kin_ddpm_options *opt, kin_ddpm *out, kin_error *err)
{
    double *beta;
    kin_status status;

    *out = (kin_ddpm){.opt = *opt};
    if (opt->steps < 2 || opt->variance == KIN_VARIANCE_LEARNED ||
        opt->prediction == KIN_PREDICT_FLOW)
        return kin_fail(err, KIN_ERR_ARG,
                        "ddpm: needs 2 steps or more, a fixed variance or learned_range, and "
                        "epsilon, sample or v_prediction");
    beta = kin_malloc((size_t)opt->steps * sizeof(*beta));
    if (!beta)
        return kin_fail(err, KIN_ERR_MEM, "ddpm: no memory for %d steps", opt->steps);
    status = kin_betas_exact(opt->schedule, opt->steps, 1e-4, 0.02, beta, err);
    if (status == KIN_OK)
        status = kin_process_make(beta, opt->steps, NULL, 0, &out->process, err);
    kin_free(beta);
    return status;
}

kin_status kin_ddpm_of_scheduler(const kin_scheduler *s, kin_ddpm *out, kin_error *err)
{
    double *beta, *ab = NULL;
    kin_status status;

    *out = (kin_ddpm){.opt = {.schedule = s->beta_schedule,
                              .steps = s->train_steps,
                              .prediction = s->prediction,
                              .variance = s->variance == KIN_VARIANCE_LEARNED_RANGE
                                              ? KIN_VARIANCE_LEARNED_RANGE
                                              : KIN_VARIANCE_FIXED_SMALL}};
    if (s->flow_sigmas || s->prediction == KIN_PREDICT_FLOW)
        return kin_fail(err, KIN_ERR_ARG, "ddpm: %s of this model is that of a flow",
                        kin_scheduler_name(s->class));
    beta = kin_malloc((size_t)s->train_steps * sizeof(*beta));
    if (!beta)
        return kin_fail(err, KIN_ERR_MEM, "ddpm: no memory for %d steps", s->train_steps);
    status = kin_alphas_cumprod(s, beta, &ab, err);
    if (status == KIN_OK)
        status = kin_process_make(beta, s->train_steps, NULL, 0, &out->process, err);
    kin_free(ab);
    kin_free(beta);
    return status;
}

void kin_ddpm_free(kin_ddpm *d)
{
    kin_process_free(&d->process);
}

kin_status kin_ddpm_scheduler(const kin_ddpm_options *opt, cJSON **out, kin_error *err)
{
    kin_scheduler s = kin_scheduler_default(KIN_SCHEDULER_DDPM);
    const double scale = 1000.0 / opt->steps;

    s.train_steps = opt->steps;
    s.beta_schedule = opt->schedule;
    s.beta_start = 1e-4 * scale;
    s.beta_end = 0.02 * scale;
    s.prediction = opt->prediction;
    s.variance = opt->variance;
    s.clip = false;
    s.spacing = KIN_TIME_LINSPACE;
    return kin_scheduler_write(&s, out, err);
}

/* --- noising --- */

kin_status kin_ddpm_mix(kin_ctx *ctx, const kin_ddpm *d, const kin_tensor *x0,
                        const kin_tensor *noise, const int32_t *index, kin_tensor *xt,
                        kin_tensor *target)
{
    kin_tensor keep, take; /* sqrt(ab), sqrt(1-ab) */

    if (!kin_tensor_same_shape(x0, noise) || x0->ndim < 1 || x0->dtype != KIN_DTYPE_F32 ||
        noise->dtype != KIN_DTYPE_F32)
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "ddpm: x0 and noise must be f32 of one shape");
    KIN_TRY(KIN_WS_HOST(ctx, &keep, KIN_DTYPE_F32, x0->size[0], 1));
    KIN_TRY(KIN_WS_HOST(ctx, &take, KIN_DTYPE_F32, x0->size[0], 1));
    for (int64_t b = 0; b < x0->size[0] && !kin_ctx_is_plan(ctx); b++) {
        if (index[b] < 0 || index[b] >= d->process.n)
            return kin_fail(&ctx->error, KIN_ERR_ARG, "ddpm: step %d must lie in 0 to %d",
                            (int)index[b], d->process.n - 1);
        kin_tensor_set(&keep, b, sqrt(d->process.ab[index[b]]));
        kin_tensor_set(&take, b, sqrt(1.0 - d->process.ab[index[b]]));
    }
    KIN_TRY(kin_weighted_sum(ctx, &keep, x0, 1.0f, &take, noise, xt));
    switch (d->opt.prediction) {
    case KIN_PREDICT_V: return kin_weighted_sum(ctx, &keep, noise, -1.0f, &take, x0, target);
    case KIN_PREDICT_SAMPLE: return kin_scale(ctx, x0, 1.0f, target); /* where it is computed */
    case KIN_PREDICT_FLOW:
    case KIN_PREDICT_EPSILON: break;
    }
    *target = *noise;
    return KIN_OK;
}

/* --- the variational bound --- */

/* cdf of a standard normal, tanh form, and its slope. note: in f32 as published: far from the mean
 * the difference of two of them is 0 there and meets the floor */
static float normal_cdf(double x, double *slope)
{
    const double k = sqrt(2.0 / 3.14159265358979323846);
    const float t = tanhf((float)(k * (x + 0.044715 * x * x * x)));

    *slope = 0.5 * (1.0 - (double)t * (double)t) * k * (1.0 + 3.0 * 0.044715 * x * x);
    return 0.5f * (1.0f + t);
}

/* -log of the probability of the bin of half width 1/255 around x; *slope by the log variance */
static double bin_nll(double x, double mean, double log_variance, double *slope)
{
    const double least = 1e-12, inv = exp(-0.5 * log_variance), width = 1.0 / 255.0;
    const double high = inv * (x - mean + width), low = inv * (x - mean - width);
    double up, down, p, dp;
    const float a = normal_cdf(high, &up), b = normal_cdf(low, &down);

    if (x < -0.999) {
        p = (double)a;
        dp = up * high;
    } else if (x > 0.999) {
        p = (double)(1.0f - b);
        dp = -down * low;
    } else {
        p = (double)(a - b);
        dp = up * high - down * low;
    }
    /* both arguments scale with exp(-log_variance / 2); the floor has no slope */
    *slope = p > least ? 0.5 * dp / p : 0.0;
    return -log(fmax(p, least));
}

/* KL of two normals; *slope by the second's log variance */
static double normal_kl(double m1, double lv1, double m2, double lv2, double *slope)
{
    const double ratio = exp(lv1 - lv2), far = (m1 - m2) * (m1 - m2) * exp(-lv2);

    *slope = 0.5 * (1.0 - ratio - far);
    return 0.5 * (-1.0 + lv2 - lv1 + ratio + far);
}

static double clean_of(const kin_ddpm *d, double ab, double xt, double y)
{
    switch (d->opt.prediction) {
    case KIN_PREDICT_SAMPLE: return y;
    case KIN_PREDICT_V: return sqrt(ab) * xt - sqrt(1.0 - ab) * y;
    case KIN_PREDICT_FLOW:
    case KIN_PREDICT_EPSILON: break;
    }
    return (xt - sqrt(1.0 - ab) * y) / sqrt(ab);
}

/* Bound of one sample in bits, a mean over its n elements; slope[n] by the variance channels. */
static double sample_bound(const kin_ddpm *d, int32_t t, const float *x0, const float *xt,
                           const float *y, int64_t n, float *slope)
{
    const kin_process *p = &d->process;
    const double low = p->log_variance[t], high = log(p->beta[t]);
    const double unit = (d->opt.rescale ? p->n / 1000.0 : 1.0) / (log(2.0) * (double)n);
    double sum = 0.0;

    for (int64_t i = 0; i < n; i++) {
        const double share = ((double)y[n + i] + 1.0) / 2.0;
        const double lv = share * high + (1.0 - share) * low;
        const double x = (double)x0[i], now = (double)xt[i];
        const double guess = clean_of(d, p->ab[t], now, (double)y[i]);
        const double mean = p->coef1[t] * guess + p->coef2[t] * now;
        double by_lv;

        sum += t == 0 ? bin_nll(x, mean, lv, &by_lv)
                      : normal_kl(p->coef1[t] * x + p->coef2[t] * now, low, mean, lv, &by_lv);
        slope[i] = (float)(unit * by_lv * 0.5 * (high - low));
    }
    return unit * sum;
}

typedef struct saved_bound {
    kin_tensor y, slope, loss; /* slope [B,C,...] */
} saved_bound;

static kin_status bound_backward(kin_ctx *ctx, void *saved)
{
    const saved_bound *s = saved;
    const kin_tensor dloss = kin_tape_grad_in(ctx, &s->loss);
    const int64_t batch = s->slope.size[0], c = s->slope.size[1];
    const int64_t n = kin_tensor_numel(&s->slope) / batch;
    const kin_tensor variance = kin_tensor_slice(&s->y, 1, c, c);
    kin_tensor grad;
    double scale;
    bool acc;

    if (!dloss.data)
        return KIN_OK;
    KIN_TRY(kin_tape_grad_slot(ctx, &variance, &grad, &acc));
    if (!grad.data || kin_ctx_is_plan(ctx))
        return KIN_OK;
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor all;

    KIN_TRY(kin_scalar(ctx, &dloss, &scale));
    KIN_TRY(kin_host(ctx, &grad, &all));
    scale /= (double)batch;
    for (int64_t b = 0; b < batch; b++) {
        const float *from = (const float *)s->slope.data + b * n;
        float *to = (float *)all.data + b * all.stride[0];

        for (int64_t i = 0; i < n; i++)
            to[i] = (float)(scale * (double)from[i]) + (acc ? to[i] : 0.0f);
    }
    KIN_TRY(kin_host_back(ctx, &all, &grad));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

static kin_status bound(kin_ctx *ctx, const kin_ddpm *d, const kin_ddpm_input *in,
                        const kin_tensor *y, kin_ddpm_terms *out)
{
    const int64_t batch = in->x0->size[0], n = kin_tensor_numel(in->x0) / batch;
    saved_bound *s = kin_ws_bytes(ctx, sizeof(*s));
    double mean = 0.0;

    if (!s)
        return ctx->error.status;
    *s = (saved_bound){.y = *y};
    KIN_TRY(kin_ws_host(ctx, KIN_DTYPE_F32, in->x0->ndim, in->x0->size, &s->slope));
    KIN_TRY(KIN_WS_HOST(ctx, &out->vb_of, KIN_DTYPE_F32, batch));
    KIN_TRY(kin_ws_host(ctx, KIN_DTYPE_F32, 0, NULL, &out->vb));
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor x0, xt, made;

    KIN_TRY(kin_host(ctx, in->x0, &x0));
    KIN_TRY(kin_host(ctx, in->xt, &xt));
    KIN_TRY(kin_host(ctx, y, &made));
    for (int64_t b = 0; b < batch && !kin_ctx_is_plan(ctx); b++) {
        const double bits = sample_bound(
            d, in->index[b], (const float *)x0.data + b * n, (const float *)xt.data + b * n,
            (const float *)made.data + b * 2 * n, n, (float *)s->slope.data + b * n);

        ((float *)out->vb_of.data)[b] = (float)bits;
        mean += bits / (double)batch;
    }
    if (!kin_ctx_is_plan(ctx))
        kin_tensor_set(&out->vb, 0, mean);
    kin_ws_release(ctx, mark);
    if (!kin_tape_needs(ctx, y))
        return KIN_OK;
    KIN_TRY(kin_tape_add(ctx, &out->vb, bound_backward, s));
    s->loss = out->vb;
    return KIN_OK;
}

kin_status kin_ddpm_loss(kin_ctx *ctx, const kin_ddpm *d, const kin_ddpm_input *in,
                         const kin_tensor *y, kin_ddpm_terms *out)
{
    const bool learned = d->opt.variance == KIN_VARIANCE_LEARNED_RANGE;
    const int64_t c = in->x0->ndim > 1 ? in->x0->size[1] : 0;
    kin_tensor part = *y, whole = *y;

    *out = (kin_ddpm_terms){0};
    whole.size[1] = c;
    if (y->dtype != KIN_DTYPE_F32 || !kin_tensor_is_contiguous(y) || c < 1 ||
        !kin_tensor_same_shape(&whole, in->x0) || (y->size[1] != c && y->size[1] != 2 * c) ||
        (learned && y->size[1] != 2 * c))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                        "ddpm: the output must have the %lld channels of x%s", (long long)c,
                        learned ? " and as many of the variance" : "");
    if (y->size[1] != c) {
        const kin_tensor first = kin_tensor_slice(y, 1, 0, c);

        KIN_TRY(kin_contiguous(ctx, &first, &part));
    }
    KIN_TRY(kin_mse(ctx, &part, in->target, NULL, &out->mse));
    out->total = out->mse;
    if (!learned)
        return KIN_OK;
    KIN_TRY(bound(ctx, d, in, y, out));
    return kin_sum_scalar(ctx, &out->total, &out->vb);
}
