/* samplers/noise.c: noising clean samples at the levels of a schedule. */
#include <math.h>

#include "samplers/schedule.h"

/* Index of a time of the schedule; of several equal ones the second, as in diffusers. */
static kin_status find(const kin_schedule *s, double t, int *at, kin_error *err)
{
    int count = 0;
    for (int i = 0; i < s->n && count < 2; i++) {
        if ((double)s->t[i] == t) {
            *at = i;
            count++;
        }
    }
    if (!count)
        return kin_fail(err, KIN_ERR_ARG, "schedule: %.9g is not one of the %d times", t, s->n);
    return KIN_OK;
}

static kin_status table_ab(const kin_schedule *s, double t, double *ab, kin_error *err)
{
    if (!(t >= 0 && t < s->cfg.train_steps))
        return kin_fail(err, KIN_ERR_ARG, "schedule: time %.9g must lie in 0 to %d", t,
                        s->cfg.train_steps - 1);
    *ab = s->table[(int)t];
    return KIN_OK;
}

static bool by_alphas(const kin_schedule *s)
{
    return s->cfg.class >= KIN_SCHEDULER_DDIM;
}

kin_status kin_schedule_level(const kin_schedule *s, double t, double *alpha, double *sigma,
                              kin_error *err)
{
    int at = 0;
    double ab = 1.0;
    if (by_alphas(s)) {
        KIN_TRY(table_ab(s, t, &ab, err));
        *alpha = sqrt(ab);
        *sigma = sqrt(1.0 - ab);
        return KIN_OK;
    }
    KIN_TRY(find(s, t, &at, err));
    const double level = (double)s->sigma[at];
    *sigma = level;
    *alpha = 1.0;
    if (kin_scheduler_is_flow(&s->cfg)) {
        *alpha = 1.0 - level;
    } else if (s->cfg.class == KIN_SCHEDULER_DPM || s->cfg.class == KIN_SCHEDULER_UNIPC) {
        *alpha = 1.0 / sqrt(level * level + 1.0);
        *sigma = level * *alpha;
    }
    return KIN_OK;
}

static kin_status check_shapes(kin_ctx *ctx, const kin_tensor *x0, const kin_tensor *noise,
                               const kin_tensor *x)
{
    char a[96], b[96];
    if (x0->ndim >= 1 && x0->dtype == KIN_DTYPE_F32 && kin_tensor_same_shape(x0, noise) &&
        kin_tensor_same_shape(x0, x) && kin_tensor_is_contiguous(x0) &&
        kin_tensor_is_contiguous(noise) && kin_tensor_is_contiguous(x))
        return KIN_OK;
    return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                    "noise: x0 %s and noise %s must be contiguous f32 and of one shape",
                    kin_tensor_describe(x0, a, sizeof a), kin_tensor_describe(noise, b, sizeof b));
}

/* row r of x = a x0 + b noise */
static void mix_row(const kin_tensor *x0, const kin_tensor *noise, int64_t r, double a, double b,
                    kin_tensor *x)
{
    const int64_t n = kin_tensor_numel(x) / x->size[0];
    const float *p = (const float *)x0->data + r * n, *q = (const float *)noise->data + r * n;
    float *y = (float *)x->data + r * n;
    for (int64_t i = 0; i < n; i++)
        y[i] = (float)(a * (double)p[i] + b * (double)q[i]);
}

kin_status kin_schedule_noise(kin_ctx *ctx, const kin_schedule *s, const kin_tensor *x0,
                              const kin_tensor *noise, const double *t, kin_tensor *x)
{
    KIN_TRY(check_shapes(ctx, x0, noise, x));
    for (int64_t r = 0; r < x->size[0] && !kin_ctx_is_plan(ctx); r++) {
        double a, b;
        KIN_TRY(kin_schedule_level(s, t[r], &a, &b, &ctx->error));
        mix_row(x0, noise, r, a, b, x);
    }
    return KIN_OK;
}

kin_status kin_schedule_velocity(kin_ctx *ctx, const kin_schedule *s, const kin_tensor *x0,
                                 const kin_tensor *noise, const double *t, kin_tensor *v)
{
    KIN_TRY(check_shapes(ctx, x0, noise, v));
    if (kin_scheduler_is_flow(&s->cfg))
        return kin_fail(&ctx->error, KIN_ERR_ARG, "velocity: %s has no alphas_cumprod",
                        kin_scheduler_name(s->cfg.class));
    for (int64_t r = 0; r < v->size[0] && !kin_ctx_is_plan(ctx); r++) {
        int at = (int)t[r];
        double ab = 1.0;
        if (s->cfg.class == KIN_SCHEDULER_EULER)
            KIN_TRY(find(s, t[r], &at, &ctx->error));
        KIN_TRY(table_ab(s, at, &ab, &ctx->error));
        mix_row(x0, noise, r, -sqrt(1.0 - ab), sqrt(ab), v);
    }
    return KIN_OK;
}
