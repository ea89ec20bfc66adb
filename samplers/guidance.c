#include "samplers/guidance.h"

#include <math.h>

#include "samplers/sampler.h"

static kin_status check_shapes(kin_ctx *ctx, const kin_tensor *const *t, int n)
{
    char a[96], b[96];
    for (int i = 0; i < n; i++)
        if (t[i]->dtype != KIN_DTYPE_F32 || !kin_tensor_is_contiguous(t[i]) ||
            !kin_tensor_same_shape(t[i], t[0]))
            return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                            "guidance: %s and %s must be contiguous f32 of one shape",
                            kin_tensor_describe(t[0], a, sizeof a),
                            kin_tensor_describe(t[i], b, sizeof b));
    return KIN_OK;
}

kin_status kin_guidance_mix(kin_ctx *ctx, const kin_tensor *u, const kin_tensor *c, float g,
                            kin_tensor *y)
{
    KIN_TRY(check_shapes(ctx, (const kin_tensor *[]){u, c, y}, 3));
    size_t mark = kin_ws_mark(ctx);
    kin_tensor d;
    kin_status status;
    KIN_GOTO(kin_ws_tensor(ctx, KIN_DTYPE_F32, u->ndim, u->size, &d));
    KIN_GOTO(kin_sampler_axpy(ctx, c, u, -1.0f, &d));
    KIN_GOTO(kin_sampler_axpy(ctx, u, &d, g, y));
done:
    kin_ws_release(ctx, mark);
    return status;
}

kin_status kin_guidance_mix_multi(kin_ctx *ctx, const kin_tensor *u, const kin_tensor *m,
                                  const kin_tensor *c, float g, float gp, kin_tensor *y)
{
    KIN_TRY(check_shapes(ctx, (const kin_tensor *[]){u, m, c, y}, 4));
    size_t mark = kin_ws_mark(ctx);
    kin_tensor text, phys;
    kin_status status;
    KIN_GOTO(kin_ws_tensor(ctx, KIN_DTYPE_F32, u->ndim, u->size, &text));
    KIN_GOTO(kin_ws_tensor(ctx, KIN_DTYPE_F32, u->ndim, u->size, &phys));
    KIN_GOTO(kin_sampler_axpy(ctx, m, u, -1.0f, &text));
    KIN_GOTO(kin_sampler_axpy(ctx, c, m, -1.0f, &phys));
    /* note: y may be any of the three, so it is written only now */
    KIN_GOTO(kin_sampler_axpy(ctx, u, &text, g, y));
    KIN_GOTO(kin_sampler_axpy(ctx, y, &phys, gp, y));
done:
    kin_ws_release(ctx, mark);
    return status;
}

double kin_guidance_dynamic(double g, double t, int steps)
{
    const double base = ((double)steps - t) / (double)steps;

    return 1.0 + g * ((1.0 - cos(acos(-1.0) * pow(base, 5.0))) / 2.0);
}

/* standard deviation of n values, unbiased */
static double deviation(const float *x, int64_t n)
{
    double mean = 0.0, sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        mean += (double)x[i];
    mean /= (double)n;
    for (int64_t i = 0; i < n; i++)
        sum += ((double)x[i] - mean) * ((double)x[i] - mean);
    return sqrt(sum / (double)(n - 1));
}

kin_status kin_guidance_rescale(kin_ctx *ctx, const kin_tensor *c, int64_t channels, float phi,
                                kin_tensor *y)
{
    KIN_TRY(check_shapes(ctx, (const kin_tensor *[]){c, y}, 2));
    if (y->ndim < 2 || channels < 1 || channels > y->size[1])
        return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                        "guidance: %lld channels to rescale must be "
                        "at most those of [B,C,...]",
                        (long long)channels);
    if (kin_ctx_is_plan(ctx) || y->size[0] == 0)
        return KIN_OK;
    const int64_t row = kin_tensor_numel(y) / y->size[0], n = row / y->size[1] * channels;
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor to_all, like;
    KIN_TRY(kin_host(ctx, y, &to_all));
    KIN_TRY(kin_host(ctx, c, &like));
    for (int64_t b = 0; b < y->size[0] && n > 1; b++) {
        float *to = (float *)to_all.data + b * row;
        const double own = deviation(to, n);
        const double want = deviation((const float *)like.data + b * row, n);
        const double factor = own > 0 ? (double)phi * want / own + (1.0 - (double)phi) : 1.0;
        for (int64_t i = 0; i < n; i++)
            to[i] = (float)(factor * (double)to[i]);
    }
    KIN_TRY(kin_host_back(ctx, &to_all, y));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}
