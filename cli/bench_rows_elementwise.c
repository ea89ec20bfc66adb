/* cli/bench_rows_elementwise.c: rows of what only moves data, and of the optimizer. */
#include <stdio.h>

#include "cli/bench.h"
#include "tensor/ops.h"

#define RUN(slot)                                       \
    static kin_status run_##slot(kin_ctx *ctx, void *a) \
    {                                                   \
        return ctx->k->slot(ctx, a);                    \
    }
RUN(unary)
RUN(unary_bwd)
RUN(binary)
RUN(reduce)
RUN(gated_add)
RUN(gate_bwd)
RUN(patch)
RUN(adamw)
RUN(sinusoid)
RUN(embedding)
RUN(embedding_bwd)

enum { SAMPLES = 8, TOKENS = 2048, WIDTH = 768, WEIGHTS = 1 << 22 };

static kin_status one(kin_bench *b, const char *op, const char *shape, kin_bench_fn run, void *args)
{
    kin_bench_row row = {.op = op, .run = run, .user = args};
    snprintf(row.shape, sizeof row.shape, "%s", shape);
    return kin_bench_run_row(b, &row);
}

static kin_status unary_rows(kin_bench *b)
{
    kin_ctx *ctx = b->ctx;
    kin_tensor x, y, dy;
    KIN_TRY(KIN_NOISE(ctx, &x, TOKENS, WIDTH));
    KIN_TRY(KIN_NOISE(ctx, &dy, TOKENS, WIDTH));
    KIN_TRY(KIN_WS(ctx, &y, KIN_DTYPE_F32, TOKENS, WIDTH));
    kin_unary_args a = {.act = KIN_ACT_SILU, .alpha = 1, .x = &x, .y = &y, .dy = &dy, .dx = &y};
    KIN_TRY(one(b, "unary", "2048x768 silu", run_unary, &a));
    KIN_TRY(one(b, "unary_bwd", "2048x768 silu", run_unary_bwd, &a));
    a.act = KIN_ACT_GELU_TANH;
    KIN_TRY(one(b, "unary", "2048x768 gelu", run_unary, &a));
    KIN_TRY(one(b, "unary_bwd", "2048x768 gelu", run_unary_bwd, &a));
    a.act = KIN_ACT_NONE;
    return one(b, "unary", "2048x768 scale", run_unary, &a);
}

/* Residual with a gate of each sample, as one op after the other. */
static kin_status run_chain(kin_ctx *ctx, void *user)
{
    const kin_tensor *t = user; /* x, gate, residual */
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor gated, y;
    KIN_TRY(kin_mul(ctx, &t[0], &t[1], 1, &gated));
    KIN_TRY(kin_add(ctx, &t[2], &gated, 1, &y));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

static kin_status binary_rows(kin_bench *b)
{
    kin_ctx *ctx = b->ctx;
    kin_tensor t[3], y, gate, wide, sum;
    KIN_TRY(KIN_NOISE(ctx, &t[0], SAMPLES, TOKENS / SAMPLES, WIDTH));
    KIN_TRY(KIN_NOISE(ctx, &t[1], SAMPLES, 1, WIDTH));
    KIN_TRY(KIN_NOISE(ctx, &t[2], SAMPLES, TOKENS / SAMPLES, WIDTH));
    KIN_TRY(KIN_WS(ctx, &y, KIN_DTYPE_F32, SAMPLES, TOKENS / SAMPLES, WIDTH));
    KIN_TRY(KIN_WS(ctx, &sum, KIN_DTYPE_F32, SAMPLES, WIDTH));
    kin_binary_args a = {.kind = KIN_BINARY_ADD, .alpha = 1, .a = &t[0], .b = &t[2], .y = &y};
    KIN_TRY(one(b, "binary", "2048x768 add", run_binary, &a));
    gate = KIN_RESHAPE(&t[1], SAMPLES, WIDTH);
    wide = kin_tensor_expand(&gate, 1, TOKENS / SAMPLES);
    a.kind = KIN_BINARY_MUL;
    a.b = &wide;
    KIN_TRY(one(b, "binary", "2048x768 gate", run_binary, &a));
    kin_tensor into = kin_tensor_expand(&sum, 1, TOKENS / SAMPLES);
    kin_reduce_args r = {.x = &t[0], .other = &t[2], .alpha = 1, .y = &into};
    KIN_TRY(one(b, "reduce", "2048x768 to 8x768", run_reduce, &r));
    return one(b, "chain", "2048x768 mul add", run_chain, t);
}

static kin_status gate_rows(kin_bench *b)
{
    kin_ctx *ctx = b->ctx;
    kin_tensor dy, lin, gate, dlin, dgate;
    KIN_TRY(KIN_NOISE(ctx, &dy, TOKENS, WIDTH));
    KIN_TRY(KIN_NOISE(ctx, &lin, TOKENS, WIDTH));
    KIN_TRY(KIN_NOISE(ctx, &gate, SAMPLES, WIDTH));
    KIN_TRY(KIN_WS(ctx, &dlin, KIN_DTYPE_F32, TOKENS, WIDTH));
    KIN_TRY(KIN_WS(ctx, &dgate, KIN_DTYPE_F32, SAMPLES, WIDTH));
    kin_gate_bwd_args a = {.dy = &dy, .lin = &lin, .gate = &gate, .dlin = &dlin, .dgate = &dgate};
    KIN_TRY(one(b, "gate_bwd", "2048x768", run_gate_bwd, &a));
    kin_gated_add_args f = {.lin = &lin, .residual = &dy, .gate = &gate, .y = &dlin};
    return one(b, "gated_add", "2048x768", run_gated_add, &f);
}

/* Copies between types and layouts: two tensors. */
static kin_status run_copy(kin_ctx *ctx, void *user)
{
    kin_tensor *t = user;
    return ctx->k->copy(ctx, &t[0], &t[1], false);
}
static kin_status run_transpose(kin_ctx *ctx, void *user)
{
    kin_tensor *t = user;
    return ctx->k->transpose(ctx, &t[0], &t[1], false);
}
static kin_status run_fill(kin_ctx *ctx, void *user)
{
    return ctx->k->fill(ctx, user, 1.0);
}
static kin_status run_randn(kin_ctx *ctx, void *user)
{
    const kin_rng rng = {.seed = 3, .purpose = KIN_RNG_TEST};
    return ctx->k->randn(ctx, &rng, 0, user);
}

static kin_status copy_rows(kin_bench *b)
{
    kin_ctx *ctx = b->ctx;
    kin_tensor x, half, y, pair[2];
    KIN_TRY(KIN_NOISE(ctx, &x, TOKENS, WIDTH));
    KIN_TRY(KIN_WS(ctx, &half, KIN_DTYPE_BF16, TOKENS, WIDTH));
    KIN_TRY(KIN_WS(ctx, &y, KIN_DTYPE_F32, WIDTH, TOKENS));
    pair[0] = x;
    pair[1] = half;
    KIN_TRY(one(b, "copy", "2048x768 f32 to bf16", run_copy, pair));
    KIN_TRY(ctx->k->copy(ctx, &x, &half, false));
    pair[0] = half;
    pair[1] = KIN_RESHAPE(&y, TOKENS, WIDTH);
    KIN_TRY(one(b, "copy", "2048x768 bf16 to f32", run_copy, pair));
    pair[0] = x;
    KIN_TRY(one(b, "copy", "2048x768 f32 to f32", run_copy, pair));
    pair[1] = y;
    KIN_TRY(one(b, "transpose", "2048x768", run_transpose, pair));
    KIN_TRY(one(b, "fill", "2048x768", run_fill, &y));
    return one(b, "randn", "2048x768", run_randn, &y);
}

/* Frames into tokens, a table's rows, times into waves. */
static kin_status input_rows(kin_bench *b)
{
    kin_ctx *ctx = b->ctx;
    kin_tensor video, tokens, v, wave, ids, rows;
    KIN_TRY(KIN_NOISE(ctx, &video, 16, 3, 16, 32, 32));
    KIN_TRY(KIN_WS(ctx, &tokens, KIN_DTYPE_F32, 16, 128, 384));
    kin_patch_args p = {
        .src = &video, .dst = &tokens, .pt = 2, .ph = 8, .pw = 8, .to_tokens = true};
    KIN_TRY(one(b, "patch", "16x3x16x32x32 to tokens", run_patch, &p));
    p = (kin_patch_args){.src = &tokens, .dst = &video, .pt = 2, .ph = 8, .pw = 8};
    KIN_TRY(one(b, "patch", "16x3x16x32x32 to video", run_patch, &p));
    KIN_TRY(KIN_NOISE(ctx, &v, 64, 18));
    KIN_TRY(KIN_WS(ctx, &wave, KIN_DTYPE_F32, 64, 18, 256));
    kin_sinusoid_args s = {.v = &v, .half = 128, .y = &wave};
    KIN_TRY(one(b, "sinusoid", "64x18x256", run_sinusoid, &s));
    kin_params *params = NULL;
    KIN_TRY(kin_params_create(&params, b->err));
    kin_embedding_args e = {.ids = &ids, .y = &rows, .dy = &rows};
    e.table = kin_params_add(params, KIN_INIT(KIN_INIT_NORMAL, 1), KIN_DIMS(1001, WIDTH), "table");
    kin_status status;
    KIN_GOTO(kin_params_alloc(params, KIN_DTYPE_F32, false, b->err));
    KIN_GOTO(kin_params_alloc_grads(params, false, b->err));
    KIN_GOTO(KIN_WS(ctx, &ids, KIN_DTYPE_I32, TOKENS));
    KIN_GOTO(KIN_NOISE(ctx, &rows, TOKENS, WIDTH));
    for (int i = 0; i < TOKENS; i++)
        ((int32_t *)ids.data)[i] = (i * 331) % 1001;
    KIN_GOTO(one(b, "embedding", "2048 of 1001x768", run_embedding, &e));
    KIN_GOTO(one(b, "embedding_bwd", "2048 of 1001x768", run_embedding_bwd, &e));
done:
    kin_params_destroy(&params);
    return status;
}

static kin_status run_sumsq(kin_ctx *ctx, void *user)
{
    double out;
    return ctx->k->sumsq(ctx, user, 1, &out);
}

/* More weights than the caches hold, as in a training step. */
static kin_status optimizer_rows(kin_bench *b)
{
    kin_ctx *ctx = b->ctx;
    kin_tensor w, m, v, ema, g;
    KIN_TRY(KIN_NOISE(ctx, &w, WEIGHTS));
    KIN_TRY(KIN_NOISE(ctx, &g, WEIGHTS));
    KIN_TRY(KIN_NOISE(ctx, &ema, WEIGHTS));
    KIN_TRY(KIN_WS(ctx, &m, KIN_DTYPE_F32, WEIGHTS));
    KIN_TRY(KIN_WS(ctx, &v, KIN_DTYPE_F32, WEIGHTS));
    KIN_TRY(kin_fill(ctx, &m, 0));
    KIN_TRY(kin_fill(ctx, &v, 1));
    kin_adamw_part part = {.n = WEIGHTS,
                           .w = w.data,
                           .m = m.data,
                           .v = v.data,
                           .ema = ema.data,
                           .g = g.data,
                           .lr = 1e-6f};
    kin_adamw_args a = {.part = &part,
                        .parts = 1,
                        .beta1 = 0.9f,
                        .beta2 = 0.999f,
                        .eps = 1e-8f,
                        .grad_scale = 1,
                        .ema_decay = 0.999f,
                        .step = 10};
    KIN_TRY(one(b, "adamw", "4194304 with average", run_adamw, &a));
    part.ema = NULL;
    KIN_TRY(one(b, "adamw", "4194304", run_adamw, &a));
    return one(b, "sumsq", "4194304", run_sumsq, &part);
}

kin_status kin_bench_rows_elementwise(kin_bench *b)
{
    static kin_status (*const group[])(kin_bench *) = {unary_rows, binary_rows, gate_rows,
                                                       copy_rows,  input_rows,  optimizer_rows};
    const size_t mark = kin_ws_mark(b->ctx);
    /* nothing here follows the type of products */
    if (b->ctx->compute != KIN_DTYPE_F32)
        return KIN_OK;
    for (size_t i = 0; i < sizeof group / sizeof *group; i++) {
        KIN_TRY(group[i](b));
        kin_ws_release(b->ctx, mark);
    }
    return KIN_OK;
}
