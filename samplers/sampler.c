#include "samplers/sampler.h"

#include <math.h>
#include <string.h>

#include "base/text.h"
#include "tensor/kernels.h"

/* One row per solver. */
const kin_sampler kin_samplers[] = {
    {KIN_SCHEDULER_FLOW_EULER, "euler", "first order, one model call per step", 0, false,
     kin_flow_euler_step},
    {KIN_SCHEDULER_EULER, "euler", "first order, one model call per step", 0, true, kin_euler_step},
    {KIN_SCHEDULER_EULER_ANCESTRAL, "euler_a", "Euler with fresh noise in every step", 0, true,
     kin_euler_ancestral_step},
    {KIN_SCHEDULER_FLOW_HEUN, "heun", "second order, two model calls per step", 2, false,
     kin_flow_heun_step},
    {KIN_SCHEDULER_HEUN, "heun", "second order, two model calls per step", 2, true, kin_heun_step},
    {KIN_SCHEDULER_DPM, "dpm++2m", "DPM-Solver++, second order, one model call per step", 3, false,
     kin_dpm_step},
    {KIN_SCHEDULER_UNIPC, "unipc", "predictor and corrector, one model call per step", 4, false,
     kin_unipc_step},
    {KIN_SCHEDULER_DDIM, "ddim", "deterministic, or with --eta as much noise as asked for", 1,
     false, kin_ddim_step},
    {KIN_SCHEDULER_DDPM, "ddpm", "the reversed chain with its noise", 0, false, kin_ddpm_step},
    {KIN_SCHEDULER_COG_DDIM, "cogvideox-ddim", "DDIM with CogVideoX's noise levels", 0, false,
     kin_cog_ddim_step},
    {KIN_SCHEDULER_COG_DPM, "cogvideox-dpm", "stochastic DPM-Solver++ of CogVideoX", 1, false,
     kin_cog_dpm_step},
    {KIN_SCHEDULER_CLASSES, NULL, NULL, 0, false, NULL},
};

kin_status kin_sampler_find(const char *name, const kin_sampler **out, kin_error *err)
{
    const char *names[sizeof kin_samplers / sizeof *kin_samplers];
    int n = 0;
    for (const kin_sampler *s = kin_samplers; s->name; s++) {
        names[n++] = s->name;
        if (strcmp(s->name, name) == 0) {
            *out = s;
            return KIN_OK;
        }
    }
    names[n] = NULL;
    const char *near = kin_nearest_name(name, names);
    return kin_fail(err, KIN_ERR_ARG, "sampler: \"%s\" is not known; %s \"%s\"", name,
                    near ? "nearest is" : "one of them is", near ? near : names[0]);
}

static const kin_sampler *row_of(kin_scheduler_class class)
{
    const kin_sampler *s = kin_samplers;
    while (s->name && s->class != class)
        s++;
    return s;
}

kin_status kin_sampler_choose(const char *name, const cJSON *config, const kin_scheduler *cfg,
                              kin_scheduler *out, kin_error *err)
{
    const kin_sampler *row;
    kin_status status = KIN_ERR_ARG;
    KIN_TRY(kin_sampler_find(name, &row, err));
    if (strcmp(row_of(cfg->class)->name, name) == 0) {
        *out = *cfg;
        return KIN_OK;
    }
    for (; row->name && status != KIN_OK; row++)
        if (strcmp(row->name, name) == 0)
            status = kin_scheduler_convert(config, cfg, row->class, out, err);
    if (status == KIN_OK)
        err->status = KIN_OK;
    return status;
}

bool kin_sampler_draws(const kin_scheduler *cfg)
{
    switch (cfg->class) {
    case KIN_SCHEDULER_DDPM:
    case KIN_SCHEDULER_EULER_ANCESTRAL:
    case KIN_SCHEDULER_COG_DPM: return true;
    case KIN_SCHEDULER_DDIM: return cfg->eta > 0;
    case KIN_SCHEDULER_DPM:
        return cfg->algorithm == KIN_DPM_SDE_PLUS || cfg->algorithm == KIN_DPM_SDE_NOISE;
    case KIN_SCHEDULER_FLOW_EULER: return cfg->stochastic;
    case KIN_SCHEDULER_EULER:
    case KIN_SCHEDULER_FLOW_HEUN: return cfg->s_churn > 0;
    default: return false;
    }
}

/* --- the run --- */

static kin_status check_finite(kin_sampler_state *s, const kin_tensor *t, int i, const char *what)
{
    const float *x = t->data;
    int64_t n = kin_tensor_numel(t), bad = 0;
    if (kin_ctx_is_plan(s->ctx))
        return KIN_OK;
    for (int64_t k = 0; k < n; k++)
        bad += !isfinite(x[k]);
    if (bad)
        return kin_fail(&s->ctx->error, KIN_ERR_NUMERIC,
                        "sampler: step %d of %d (sigma %g) gave a value that is not finite (%s)",
                        i + 1, s->schedule->n, (double)s->schedule->sigma[i], what);
    return KIN_OK;
}

static kin_status call_model(kin_sampler_state *s, const kin_sampler *row, int i)
{
    const float sigma = s->schedule->sigma[i];
    const size_t mark = kin_ws_mark(s->ctx);
    const kin_tensor *in = s->x;
    if (row->scales_input) {
        const double level = (double)sigma;
        const kin_term scaled = {1.0 / sqrt(level * level + 1.0), s->x};
        kin_sampler_sum(s, &scaled, 1, &s->x0);
        in = &s->x0;
    }
    kin_tap(s->ctx, in, "model_input.%d", i);
    kin_status status =
        s->args->model(s->ctx, s->args->user, in, sigma, s->schedule->t[i], i, &s->out);
    kin_ws_release(s->ctx, mark);
    KIN_TRY(status);
    return check_finite(s, &s->out, i, "the model's output");
}

static kin_status check_schedule(kin_ctx *ctx, const kin_schedule *s)
{
    const kin_scheduler *c = &s->cfg;
    for (int i = 0; i < s->n; i++)
        if (s->t[i] < 0 && !c->continuous)
            return kin_fail(&ctx->error, KIN_ERR_ARG,
                            "schedule: trailing spacing of this many steps rounds to a time of %g; "
                            "take another number of steps",
                            (double)s->t[i]);
    /* note: at zero terminal SNR noise says nothing about the sample */
    if (s->ab && s->ab[0] == 0 && c->prediction == KIN_PREDICT_EPSILON)
        return kin_fail(&ctx->error, KIN_ERR_ARG,
                        "schedule: a model that predicts noise cannot start at zero SNR");
    return KIN_OK;
}

static kin_status run_check(kin_ctx *ctx, const kin_sampler_run_args *args, const kin_tensor *x)
{
    char text[96];
    const kin_schedule *s = args->schedule;
    if (x->dtype != KIN_DTYPE_F32 || !kin_tensor_is_contiguous(x) || x->ndim < 1)
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "sampler: x %s must be f32 and contiguous",
                        kin_tensor_describe(x, text, sizeof text));
    if (ctx->tape)
        return kin_fail(&ctx->error, KIN_ERR_ARG, "sampler: recording must be off");
    if (!args->model || !s || s->n < 1)
        return kin_fail(&ctx->error, KIN_ERR_ARG, "sampler: a model and a schedule are needed");
    if (!args->noise && kin_sampler_draws(&s->cfg))
        return kin_fail(&ctx->error, KIN_ERR_ARG, "sampler: %s needs a source of noise here",
                        row_of(s->cfg.class)->name);
    if (args->out_channels && x->ndim > 1 && args->out_channels != x->size[1] &&
        args->out_channels != 2 * x->size[1])
        return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                        "sampler: %lld output channels must be the %lld of x or twice as many",
                        (long long)args->out_channels, (long long)x->size[1]);
    if (s->cfg.class == KIN_SCHEDULER_DDPM && s->cfg.variance >= KIN_VARIANCE_LEARNED &&
        (x->ndim < 2 || args->out_channels != 2 * x->size[1]))
        return kin_fail(&ctx->error, KIN_ERR_ARG,
                        "sampler: a learned variance needs a model with twice the channels");
    return check_schedule(ctx, s);
}

static kin_status run_steps(kin_sampler_state *s, const kin_sampler *row)
{
    for (int i = 0; i < s->schedule->n; i++) {
        size_t mark = kin_ws_mark(s->ctx);
        KIN_TRY(call_model(s, row, i));
        kin_status status = row->step(s, i);
        kin_ws_release(s->ctx, mark);
        KIN_TRY(status);
        KIN_TRY(check_finite(s, s->x, i, "the sample"));
        if (s->args->hook)
            KIN_TRY(s->args->hook(s->ctx, s->args->user, i, s->x));
    }
    return KIN_OK;
}

static kin_status buffers(kin_sampler_state *s, const kin_sampler *row)
{
    const kin_tensor *x = s->x;
    int64_t size[KIN_MAX_DIMS];
    memcpy(size, x->size, sizeof size);
    if (s->args->out_channels && x->ndim > 1)
        size[1] = s->args->out_channels;
    KIN_TRY(kin_ws_host(s->ctx, KIN_DTYPE_F32, x->ndim, size, &s->out));
    KIN_TRY(kin_ws_host(s->ctx, KIN_DTYPE_F32, x->ndim, x->size, &s->x0));
    KIN_TRY(kin_ws_host(s->ctx, KIN_DTYPE_F32, x->ndim, x->size, &s->noise));
    for (int i = 0; i < row->history; i++)
        KIN_TRY(kin_ws_host(s->ctx, KIN_DTYPE_F32, x->ndim, x->size, &s->history[i]));
    return KIN_OK;
}

kin_status kin_sampler_run(kin_ctx *ctx, const kin_sampler_run_args *args, kin_tensor *x)
{
    KIN_TRY(run_check(ctx, args, x));
    const size_t mark = kin_ws_mark(ctx);
    const kin_sampler *row = row_of(args->schedule->cfg.class);
    kin_tensor state; /* note: the solvers compute on the host, in double */
    kin_sampler_state s = {.ctx = ctx,
                           .args = args,
                           .schedule = args->schedule,
                           .cfg = &args->schedule->cfg,
                           .x = &state};
    const kin_term start = {args->schedule->init_sigma, &state};
    kin_status status;
    KIN_GOTO(kin_host(ctx, x, &state));
    KIN_GOTO(buffers(&s, row));
    kin_sampler_sum(&s, &start, 1, &state);
    KIN_GOTO(run_steps(&s, row));
    status = kin_host_back(ctx, &state, x);
done:
    kin_ws_release(ctx, mark);
    return status;
}
