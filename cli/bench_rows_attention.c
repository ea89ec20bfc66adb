/* cli/bench_rows_attention.c: rows of attention and rotary positions. */
#include <stdio.h>

#include "cli/bench.h"
#include "tensor/ops.h"

static kin_status run_attention(kin_ctx *ctx, void *a)
{
    return ctx->k->attention(ctx, a);
}
static kin_status run_attention_bwd(kin_ctx *ctx, void *a)
{
    return ctx->k->attention_bwd(ctx, a);
}
static kin_status run_rope(kin_ctx *ctx, void *a)
{
    return ctx->k->rope(ctx, a);
}

typedef struct shape {
    int64_t batch, queries, keys, heads, d;
} shape;

static kin_status attention_rows(kin_bench *b, const shape *s)
{
    kin_ctx *ctx = b->ctx;
    kin_tensor q, k, v, o, lse, dout, dq, dk, dv;
    kin_bench_row row = {0};
    snprintf(row.shape, sizeof row.shape, "%lldx%lldx%lldx%lldx%lld", (long long)s->batch,
             (long long)s->queries, (long long)s->keys, (long long)s->heads, (long long)s->d);
    if (!kin_bench_wants(b, "attention", row.shape) &&
        !kin_bench_wants(b, "attention_bwd", row.shape))
        return KIN_OK;
    KIN_TRY(KIN_NOISE(ctx, &q, s->batch, s->queries, s->heads, s->d));
    KIN_TRY(KIN_NOISE(ctx, &k, s->batch, s->keys, s->heads, s->d));
    KIN_TRY(KIN_NOISE(ctx, &v, s->batch, s->keys, s->heads, s->d));
    KIN_TRY(KIN_NOISE(ctx, &dout, s->batch, s->queries, s->heads, s->d));
    KIN_TRY(kin_bench_operand(ctx, &q));
    KIN_TRY(kin_bench_operand(ctx, &k));
    KIN_TRY(kin_bench_operand(ctx, &v));
    KIN_TRY(KIN_WS(ctx, &o, kin_operand_dtype(ctx), s->batch, s->queries, s->heads, s->d));
    KIN_TRY(KIN_WS(ctx, &lse, KIN_DTYPE_F32, s->batch, s->heads, s->queries));
    KIN_TRY(KIN_WS(ctx, &dq, KIN_DTYPE_F32, s->batch, s->queries, s->heads, s->d));
    KIN_TRY(KIN_WS(ctx, &dk, KIN_DTYPE_F32, s->batch, s->keys, s->heads, s->d));
    KIN_TRY(KIN_WS(ctx, &dv, KIN_DTYPE_F32, s->batch, s->keys, s->heads, s->d));
    kin_attention_args a = {.q = &q,
                            .k = &k,
                            .v = &v,
                            .o = &o,
                            .lse = &lse,
                            .scale = 0.125f,
                            .dout = &dout,
                            .dq = &dq,
                            .dk = &dk,
                            .dv = &dv};
    row.op = "attention";
    row.run = run_attention;
    row.user = &a;
    KIN_TRY(kin_bench_run_row(b, &row));
    /* backward reads o and lse: made here too where the filter left the row above out */
    KIN_TRY(ctx->k->attention(ctx, &a));
    row.op = "attention_bwd";
    row.run = run_attention_bwd;
    return kin_bench_run_row(b, &row);
}

static kin_status rope_row(kin_bench *b)
{
    kin_ctx *ctx = b->ctx;
    kin_tensor x, y, c, s;
    kin_bench_row row = {.op = "rope", .shape = "8x256x12x64", .run = run_rope};
    if (!kin_bench_wants(b, row.op, row.shape))
        return KIN_OK;
    KIN_TRY(KIN_NOISE(ctx, &x, 8, 256, 12, 64));
    KIN_TRY(KIN_WS(ctx, &y, KIN_DTYPE_F32, 8, 256, 12, 64));
    KIN_TRY(KIN_NOISE(ctx, &c, 256, 32));
    KIN_TRY(KIN_NOISE(ctx, &s, 256, 32));
    kin_rope_args a = {.x = &x, .cos = &c, .sin = &s, .y = &y};
    row.user = &a;
    return kin_bench_run_row(b, &row);
}

kin_status kin_bench_rows_attention(kin_bench *b)
{
    /* long rows, DiT-S and -B at 8 x 256, the bundled model with itself and with its text */
    static const shape shapes[] = {{1, 1024, 1024, 6, 64}, {1, 1024, 1024, 6, 128},
                                   {8, 256, 256, 6, 64},   {8, 256, 256, 12, 64},
                                   {16, 129, 129, 4, 64},  {16, 129, 32, 4, 64},
                                   {1, 4096, 4096, 6, 64}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const size_t mark = kin_ws_mark(b->ctx);
        KIN_TRY(attention_rows(b, &shapes[i]));
        kin_ws_release(b->ctx, mark);
    }
    return rope_row(b);
}
