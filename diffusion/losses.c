#include "diffusion/losses.h"

#include <math.h>
#include <string.h>

#include "base/text.h"
#include "diffusion/family.h"
#include "samplers/density.h"

static const char *const scheme_names[] = {"logit_normal", "uniform", "mode", "mixed",
                                           "sigma_sqrt",   "cosmap",  NULL};

kin_status kin_time_scheme_parse(const char *name, kin_time_scheme *out, kin_error *err)
{
    const char *near;

    for (int i = 0; scheme_names[i]; i++) {
        if (!strcmp(name, scheme_names[i])) {
            *out = (kin_time_scheme)i;
            return KIN_OK;
        }
    }
    near = kin_nearest_name(name, scheme_names);
    return kin_fail(err, KIN_ERR_ARG,
                    "time sampling: \"%s\" must be logit_normal, uniform, mode, mixed, sigma_sqrt "
                    "or cosmap%s%s",
                    name, near ? "; nearest is " : "", near ? near : "");
}

kin_objective_options kin_objective_options_default(void)
{
    return (kin_objective_options){.scheme = KIN_TIME_LOGIT_NORMAL,
                                   .logit_std = 1.0f,
                                   .sigmoid_scale = 1.0f,
                                   .mode_scale = 1.29f,
                                   .shift = 1.0f,
                                   .condition_dropout = 0.1f,
                                   .prior_dropout = -1.0f,
                                   .quant_dropout = -1.0f,
                                   .classifier_loss = KIN_CLASSIFIER_LOSS_WISA};
}

float kin_time_u(const kin_objective_options *opt, float n)
{
    const double pi = 3.14159265358979323846;
    double c;

    switch (opt->scheme) {
    case KIN_TIME_UNIFORM:
    case KIN_TIME_SIGMA_SQRT:
    case KIN_TIME_COSMAP: return n;
    case KIN_TIME_MODE:
        c = cos(pi * (double)n / 2);
        return (float)(1.0 - (double)n - (double)opt->mode_scale * (c * c - 1.0 + (double)n));
    case KIN_TIME_LOGIT_NORMAL:
    case KIN_TIME_MIXED:
    default:
        return 1.0f / (1.0f + expf(-(opt->logit_mean + opt->logit_std * n) * opt->sigmoid_scale));
    }
}

float kin_time_sigma(float shift, float u)
{
    return shift * u / (1.0f + (shift - 1.0f) * u);
}

float kin_time_draw(const kin_objective_options *opt, const kin_rng *rng)
{
    /* elements far enough apart that no two uses share a block of the stream */
    enum { AT_NORMAL = 0, AT_UNIFORM = 16, AT_COIN = 32 };
    float n;

    if (opt->scheme != KIN_TIME_LOGIT_NORMAL && opt->scheme != KIN_TIME_MIXED)
        return kin_time_u(opt, kin_rng_uniform_at(rng, AT_UNIFORM));
    if (opt->scheme == KIN_TIME_MIXED && kin_rng_uniform_at(rng, AT_COIN) < 0.5f)
        return kin_rng_uniform_at(rng, AT_UNIFORM);
    kin_rng_normal(rng, AT_NORMAL, 1, &n);
    return kin_time_u(opt, n);
}

kin_condition_drop kin_condition_dropout(const kin_objective_options *opt, const float u[3])
{
    const float prior = opt->prior_dropout < 0 ? opt->condition_dropout : opt->prior_dropout;
    const float quant = opt->quant_dropout < 0 ? opt->condition_dropout : opt->quant_dropout;
    kin_condition_drop d = {.all = u[0] < opt->condition_dropout};

    d.prior = d.all || u[1] < prior;
    d.quant = d.all || u[2] < quant;
    return d;
}

kin_condition_drop kin_condition_dropout_draw(const kin_objective_options *opt, const kin_rng *rng)
{
    float u[3];

    kin_rng_uniform(rng, 0, 3, u);
    return kin_condition_dropout(opt, u);
}

kin_status kin_flow_mix(kin_ctx *ctx, const kin_tensor *x0, const kin_tensor *noise,
                        const kin_tensor *sigma, kin_tensor *xt, kin_tensor *target)
{
    const int64_t batch = x0->size[0];
    const kin_tensor a = KIN_RESHAPE(x0, batch, -1), b = KIN_RESHAPE(noise, batch, -1);
    const kin_tensor s = KIN_RESHAPE(sigma, batch, 1);
    kin_tensor diff, step, sum;

    if (!kin_tensor_same_shape(x0, noise))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "flow: x0 and noise must have one shape");
    KIN_TRY(kin_add(ctx, &b, &a, -1.0f, &diff));
    KIN_TRY(kin_mul(ctx, &diff, &s, 1.0f, &step));
    KIN_TRY(kin_add(ctx, &a, &step, 1.0f, &sum));
    *xt = kin_tensor_reshape(&sum, x0->ndim, x0->size);
    *target = kin_tensor_reshape(&diff, x0->ndim, x0->size);
    return KIN_OK;
}

/* True where the loss is that of the sample itself, not of the velocity. */
static bool of_sample(const kin_model_info *info)
{
    return info->predicts_sample && info->sample_loss_floor > 0;
}

static double sample_weight(double sigma, double least)
{
    const double s = fmax(sigma, least);

    return 1.0 / (s * s);
}

kin_status kin_objective_weight(kin_ctx *ctx, const kin_model *model,
                                const kin_objective_options *opt, const kin_tensor *sigma,
                                kin_tensor *weight)
{
    const kin_model_info *info = kin_model_get_info(model);
    const kin_loss_weighting kind = opt->scheme == KIN_TIME_SIGMA_SQRT ? KIN_WEIGHT_SIGMA_SQRT
                                    : opt->scheme == KIN_TIME_COSMAP   ? KIN_WEIGHT_COSMAP
                                                                       : KIN_WEIGHT_NONE;
    kin_tensor level;

    *weight = (kin_tensor){0};
    if (!of_sample(info) && kind == KIN_WEIGHT_NONE)
        return KIN_OK;
    KIN_TRY(KIN_WS_HOST(ctx, weight, sigma->dtype, sigma->size[0]));
    KIN_TRY(kin_host(ctx, sigma, &level));
    for (int64_t b = 0; b < sigma->size[0] && !kin_ctx_is_plan(ctx); b++) {
        const double s = kin_tensor_get(&level, b);

        kin_tensor_set(weight, b,
                       of_sample(info) ? sample_weight(s, (double)info->sample_loss_floor)
                                       : kin_loss_weight(kind, s));
    }
    return KIN_OK;
}

static kin_status flow_loss(kin_ctx *ctx, const kin_model *model, const kin_objective_options *opt,
                            const kin_objective_input *in, const kin_tensor *y, kin_tensor *loss)
{
    const bool sample = of_sample(kin_model_get_info(model));
    kin_tensor v = *y, weight;

    if (!sample)
        KIN_TRY(kin_model_velocity(ctx, model, in->xt, y, in->sigma, &v));
    if (in->weight)
        weight = *in->weight;
    else
        KIN_TRY(kin_objective_weight(ctx, model, opt, in->sigma, &weight));
    return kin_mse(ctx, &v, sample ? in->x0 : in->target, weight.data ? &weight : NULL, loss);
}

kin_status kin_weighted_sum(kin_ctx *ctx, const kin_tensor *a, const kin_tensor *x, float sign,
                            const kin_tensor *b, const kin_tensor *y, kin_tensor *sum)
{
    const kin_tensor fx = KIN_RESHAPE(x, x->size[0], -1), fy = KIN_RESHAPE(y, y->size[0], -1);
    kin_tensor p, q;

    KIN_TRY(kin_mul(ctx, &fx, a, 1.0f, &p));
    KIN_TRY(kin_mul(ctx, &fy, b, 1.0f, &q));
    KIN_TRY(kin_add(ctx, &p, &q, sign, sum));
    *sum = kin_tensor_reshape(sum, x->ndim, x->size);
    return KIN_OK;
}

kin_status kin_clean_of_v(kin_ctx *ctx, const kin_tensor *xt, const kin_tensor *v,
                          const kin_tensor *ab, kin_tensor *x0)
{
    const int64_t batch = xt->size[0];
    kin_tensor keep, take, level;

    if (!kin_tensor_same_shape(xt, v))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "objective: x and v must have one shape");
    KIN_TRY(KIN_WS_HOST(ctx, &keep, xt->dtype, batch, 1));
    KIN_TRY(KIN_WS_HOST(ctx, &take, xt->dtype, batch, 1));
    KIN_TRY(kin_host(ctx, ab, &level));
    for (int64_t b = 0; b < batch && !kin_ctx_is_plan(ctx); b++) {
        kin_tensor_set(&keep, b, sqrt(kin_tensor_get(&level, b)));
        kin_tensor_set(&take, b, sqrt(1 - kin_tensor_get(&level, b)));
    }
    return kin_weighted_sum(ctx, &keep, xt, -1.0f, &take, v, x0);
}

/* mean((estimate - x0)^2 / (1 - ab)) */
static kin_status clean_loss(kin_ctx *ctx, const kin_objective_input *in, const kin_tensor *y,
                             kin_tensor *loss)
{
    const int64_t batch = in->x0->size[0];
    kin_tensor weight, estimate, level;

    KIN_TRY(kin_clean_of_v(ctx, in->xt, y, in->ab, &estimate));
    KIN_TRY(KIN_WS_HOST(ctx, &weight, in->x0->dtype, batch));
    KIN_TRY(kin_host(ctx, in->ab, &level));
    for (int64_t b = 0; b < batch && !kin_ctx_is_plan(ctx); b++)
        kin_tensor_set(&weight, b, 1.0 / (1.0 - kin_tensor_get(&level, b)));
    return kin_mse(ctx, &estimate, in->x0, &weight, loss);
}

kin_status kin_objective(kin_ctx *ctx, const kin_model *model, const kin_objective_options *opt,
                         const kin_objective_input *in, const kin_model_output *out,
                         kin_objective_terms *terms)
{
    *terms = (kin_objective_terms){0};
    if (in->ddpm) {
        const kin_ddpm_input noised = {
            .x0 = in->x0, .xt = in->xt, .target = in->target, .index = in->index};
        kin_ddpm_terms ddpm;

        KIN_TRY(kin_ddpm_loss(ctx, in->ddpm, &noised, &out->y, &ddpm));
        terms->flow = ddpm.mse;
        terms->vb = ddpm.vb;
        terms->total = ddpm.total;
    } else if (in->ab) {
        KIN_TRY(clean_loss(ctx, in, &out->y, &terms->flow));
        terms->total = terms->flow;
    } else {
        KIN_TRY(flow_loss(ctx, model, opt, in, &out->y, &terms->flow));
        terms->total = terms->flow;
    }
    if (out->logits.data && in->prior) {
        KIN_TRY(kin_bce_logits(ctx, &out->logits, in->prior, in->has_prior, &terms->bce));
        KIN_TRY(kin_classifier_loss(ctx, opt->classifier_loss, &terms->bce, &terms->classifier));
        KIN_TRY(kin_sum_scalar(ctx, &terms->total, &terms->classifier));
    }
    if (out->aux.data) {
        terms->aux = out->aux;
        KIN_TRY(kin_sum_scalar(ctx, &terms->total, &terms->aux));
    }
    return KIN_OK;
}
