#include "samplers/guidance.h"

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
