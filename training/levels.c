#include "training/levels.h"

#include <math.h>

#include "base/alloc.h"
#include "diffusion/losses.h"
#include "samplers/betas.h"

kin_levels kin_levels_flow(float shift)
{
    return (kin_levels){.shift = shift};
}

kin_status kin_levels_cogvideox(const kin_scheduler *s, kin_levels *out, kin_error *err)
{
    *out = (kin_levels){.shift = 1};
    if (kin_scheduler_is_flow(s) || s->train_steps != KIN_LEVELS || s->prediction != KIN_PREDICT_V)
        return kin_fail(err, KIN_ERR_ARG,
                        "train: the scheduler %s of %d steps must have %d steps with betas and "
                        "predict v",
                        kin_scheduler_name(s->class), s->train_steps, (int)KIN_LEVELS);
    return kin_alphas_cumprod(s, NULL, &out->ab, err);
}

void kin_levels_free(kin_levels *l)
{
    kin_free(l->ab);
    l->ab = NULL;
}

void kin_levels_at(const kin_levels *l, float u, float *sigma, float *t)
{
    const int last = KIN_LEVELS - 1, first = l->ab ? last : KIN_LEVELS;
    int i = (int)(u * (float)KIN_LEVELS);

    i = i < 0 ? 0 : i > last ? last : i;
    *sigma = (float)(first - i) / (float)KIN_LEVELS;
    if (!l->ab)
        *sigma = kin_time_sigma(l->shift, *sigma);
    *t = truncf(*sigma * (float)KIN_LEVELS);
}

kin_status kin_levels_mix(kin_ctx *ctx, const kin_levels *l, const kin_tensor *x0,
                          const kin_tensor *noise, const kin_tensor *t, kin_tensor *ab,
                          kin_tensor *xt)
{
    const int64_t batch = x0->size[0];
    kin_tensor keep, add;

    if (!kin_tensor_same_shape(x0, noise))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "levels: x0 and noise must have one shape");
    KIN_TRY(KIN_WS_HOST(ctx, ab, KIN_DTYPE_F32, batch));
    KIN_TRY(KIN_WS_HOST(ctx, &keep, KIN_DTYPE_F32, batch, 1));
    KIN_TRY(KIN_WS_HOST(ctx, &add, KIN_DTYPE_F32, batch, 1));
    for (int64_t i = 0; i < batch && !kin_ctx_is_plan(ctx); i++) {
        const double v = l->ab[(int)kin_tensor_get(t, i)];

        kin_tensor_set(ab, i, v);
        kin_tensor_set(&keep, i, sqrt(v));
        kin_tensor_set(&add, i, sqrt(1 - v));
    }
    return kin_weighted_sum(ctx, &keep, x0, 1.0f, &add, noise, xt);
}
