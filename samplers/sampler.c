#include "samplers/sampler.h"

#include <math.h>
#include <string.h>

#include "base/text.h"
#include "tensor/kernels.h"

/* One row per solver. */
const kin_sampler kin_samplers[] = {
    {"euler", "first order, one model call per step", 0, kin_euler_step},
    {NULL, NULL, 0, NULL},
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

static bool all_finite(const kin_tensor *t)
{
    const float *x = t->data;
    int64_t n = kin_tensor_numel(t);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

kin_status kin_sampler_call(kin_sampler_state *s, const kin_tensor *x, float sigma, float t,
                            int step, kin_tensor *v)
{
    size_t mark = kin_ws_mark(s->ctx);
    kin_status status = s->args->model(s->ctx, s->args->user, x, sigma, t, step, v);
    kin_ws_release(s->ctx, mark);
    KIN_TRY(status);
    if (!kin_ctx_is_plan(s->ctx) && !all_finite(v))
        return kin_fail(&s->ctx->error, KIN_ERR_NUMERIC,
                        "sampler: step %d of %d (sigma %g) gave a value that is not finite",
                        step + 1, s->args->schedule->n, (double)sigma);
    return KIN_OK;
}

static kin_status run_check(kin_ctx *ctx, const kin_sampler_run_args *args, const kin_tensor *x)
{
    char text[96];
    if (x->dtype != KIN_DTYPE_F32 || !kin_tensor_is_contiguous(x))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "sampler: x %s must be f32 and contiguous",
                        kin_tensor_describe(x, text, sizeof text));
    if (ctx->tape)
        return kin_fail(&ctx->error, KIN_ERR_ARG, "sampler: recording must be off");
    if (!args->model || !args->schedule || args->schedule->n < 1)
        return kin_fail(&ctx->error, KIN_ERR_ARG, "sampler: a model and a schedule are needed");
    if (args->stochastic && !args->noise)
        return kin_fail(&ctx->error, KIN_ERR_ARG,
                        "sampler: stochastic sampling needs a source of noise");
    return KIN_OK;
}

static kin_status run_steps(kin_sampler_state *s, const kin_sampler *sampler)
{
    for (int i = 0; i < s->args->schedule->n; i++) {
        size_t mark = kin_ws_mark(s->ctx);
        kin_status status = sampler->step(s, i);
        kin_ws_release(s->ctx, mark);
        KIN_TRY(status);
        if (s->args->hook)
            KIN_TRY(s->args->hook(s->ctx, s->args->user, i, s->x));
    }
    return KIN_OK;
}

kin_status kin_sampler_run(kin_ctx *ctx, const kin_sampler *sampler,
                           const kin_sampler_run_args *args, kin_tensor *x)
{
    KIN_TRY(run_check(ctx, args, x));
    size_t mark = kin_ws_mark(ctx);
    kin_sampler_state s = {.ctx = ctx, .args = args, .x = x};
    kin_status status;
    KIN_GOTO(kin_ws_tensor(ctx, KIN_DTYPE_F32, x->ndim, x->size, &s.v));
    for (int i = 0; i < sampler->history; i++)
        KIN_GOTO(kin_ws_tensor(ctx, KIN_DTYPE_F32, x->ndim, x->size, &s.history[i]));
    status = run_steps(&s, sampler);
done:
    kin_ws_release(ctx, mark);
    return status;
}
