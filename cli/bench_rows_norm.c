/* cli/bench_rows_norm.c: rows of normalisation, softmax and loss. */
#include <stdio.h>

#include "cli/bench.h"
#include "tensor/ops.h"

#define RUN(slot)                                       \
    static kin_status run_##slot(kin_ctx *ctx, void *a) \
    {                                                   \
        return ctx->k->slot(ctx, a);                    \
    }
RUN(layernorm)
RUN(layernorm_bwd)
RUN(rmsnorm)
RUN(rmsnorm_bwd)
RUN(softmax)
RUN(softmax_bwd)
RUN(loss)
RUN(loss_bwd)

/* Eight samples of 256 tokens. */
enum { SAMPLES = 8, TOKENS = 2048 };

static kin_status one(kin_bench *b, const char *op, int64_t width, kin_bench_fn run, void *args)
{
    kin_bench_row row = {.op = op, .run = run, .user = args};
    snprintf(row.shape, sizeof row.shape, "%dx%lld", TOKENS, (long long)width);
    return kin_bench_run_row(b, &row);
}

/* LayerNorm with the scale and shift of its sample, and RMSNorm with a weight. */
static kin_status norm_rows(kin_bench *b, int64_t width)
{
    kin_ctx *ctx = b->ctx;
    kin_tensor x, y, dy, dx, mod, dmod, mean, rstd;
    KIN_TRY(KIN_NOISE(ctx, &x, TOKENS, width));
    KIN_TRY(KIN_NOISE(ctx, &dy, TOKENS, width));
    KIN_TRY(KIN_NOISE(ctx, &mod, SAMPLES, 2 * width));
    KIN_TRY(KIN_NOISE(ctx, &dmod, SAMPLES, 2 * width));
    KIN_TRY(KIN_WS(ctx, &y, KIN_DTYPE_F32, TOKENS, width));
    KIN_TRY(KIN_WS(ctx, &dx, KIN_DTYPE_F32, TOKENS, width));
    KIN_TRY(KIN_WS(ctx, &mean, KIN_DTYPE_F32, TOKENS));
    KIN_TRY(KIN_WS(ctx, &rstd, KIN_DTYPE_F32, TOKENS));
    kin_tensor shift = kin_tensor_slice(&mod, 1, 0, width);
    kin_tensor scale = kin_tensor_slice(&mod, 1, width, width);
    kin_tensor dshift = kin_tensor_slice(&dmod, 1, 0, width);
    kin_tensor dscale = kin_tensor_slice(&dmod, 1, width, width);
    kin_norm_args a = {.rows = TOKENS,
                       .d = width,
                       .eps = 1e-6f,
                       .x = &x,
                       .scale = &scale,
                       .shift = &shift,
                       .y = &y,
                       .mean = &mean,
                       .rstd = &rstd,
                       .dy = &dy,
                       .dx = &dx,
                       .dscale = &dscale,
                       .dshift = &dshift};
    KIN_TRY(one(b, "layernorm", width, run_layernorm, &a));
    KIN_TRY(ctx->k->layernorm(ctx, &a));
    KIN_TRY(one(b, "layernorm_bwd", width, run_layernorm_bwd, &a));
    a.scale = a.shift = NULL;
    a.dscale = a.dshift = NULL;
    KIN_TRY(one(b, "rmsnorm", width, run_rmsnorm, &a));
    KIN_TRY(ctx->k->rmsnorm(ctx, &a));
    return one(b, "rmsnorm_bwd", width, run_rmsnorm_bwd, &a);
}

static kin_status softmax_rows(kin_bench *b)
{
    kin_ctx *ctx = b->ctx;
    kin_tensor x, y, dy, dx;
    KIN_TRY(KIN_NOISE(ctx, &x, TOKENS, 256));
    KIN_TRY(KIN_NOISE(ctx, &dy, TOKENS, 256));
    KIN_TRY(KIN_WS(ctx, &y, KIN_DTYPE_F32, TOKENS, 256));
    KIN_TRY(KIN_WS(ctx, &dx, KIN_DTYPE_F32, TOKENS, 256));
    kin_softmax_args f = {.x = &x, .y = &y}, g = {.y = &y, .dy = &dy, .dx = &dx};
    KIN_TRY(one(b, "softmax", 256, run_softmax, &f));
    KIN_TRY(ctx->k->softmax(ctx, &f));
    return one(b, "softmax_bwd", 256, run_softmax_bwd, &g);
}

static kin_status loss_rows(kin_bench *b)
{
    kin_ctx *ctx = b->ctx;
    kin_tensor x, target, dx, loss, dloss;
    KIN_TRY(KIN_NOISE(ctx, &x, TOKENS, 768));
    KIN_TRY(KIN_NOISE(ctx, &target, TOKENS, 768));
    KIN_TRY(KIN_WS(ctx, &dx, KIN_DTYPE_F32, TOKENS, 768));
    KIN_TRY(kin_ws_tensor(ctx, KIN_DTYPE_F32, 0, NULL, &loss));
    KIN_TRY(kin_ws_tensor(ctx, KIN_DTYPE_F32, 0, NULL, &dloss));
    KIN_TRY(kin_fill(ctx, &dloss, 1));
    kin_loss_args a = {.kind = KIN_LOSS_MSE,
                       .x = &x,
                       .target = &target,
                       .loss = &loss,
                       .dloss = &dloss,
                       .dx = &dx};
    KIN_TRY(one(b, "loss", 768, run_loss, &a));
    return one(b, "loss_bwd", 768, run_loss_bwd, &a);
}

kin_status kin_bench_rows_norm(kin_bench *b)
{
    static const int64_t widths[] = {384, 768, 1152};
    const size_t mark = kin_ws_mark(b->ctx);
    /* nothing here follows the type of products */
    if (b->ctx->compute != KIN_DTYPE_F32)
        return KIN_OK;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        KIN_TRY(norm_rows(b, widths[i]));
        kin_ws_release(b->ctx, mark);
    }
    KIN_TRY(softmax_rows(b));
    kin_ws_release(b->ctx, mark);
    return loss_rows(b);
}
