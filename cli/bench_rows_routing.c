/* cli/bench_rows_routing.c: rows of routing: who goes to which expert, and back. */
#include <stdio.h>

#include "cli/bench.h"
#include "tensor/ops.h"

#define RUN(slot)                                       \
    static kin_status run_##slot(kin_ctx *ctx, void *a) \
    {                                                   \
        return ctx->k->slot(ctx, a);                    \
    }
RUN(cosine)
RUN(cosine_bwd)
RUN(topk)
RUN(topk_bwd)
RUN(choose)
RUN(dispatch)
RUN(combine)
RUN(combine_bwd)
RUN(rcl)
RUN(rcl_bwd)
RUN(balance)
RUN(balance_bwd)

/* Eight samples of 256 tokens, twelve experts, one each. */
enum { SAMPLES = 8, TOKENS = 2048, EXPERTS = 12, WIDTH = 768 };
#define SHAPE "2048x12x768"

static kin_status one(kin_bench *b, const char *op, kin_bench_fn run, void *args)
{
    kin_bench_row row = {.op = op, .shape = SHAPE, .run = run, .user = args};
    return kin_bench_run_row(b, &row);
}

typedef struct routed {
    kin_tensor x, z, xinv, pinv, dx, dz, idx, w, dw;
    kin_param *proto;
    kin_dispatch d;
} routed;

static kin_status cosine_rows(kin_bench *b, routed *r)
{
    kin_ctx *ctx = b->ctx;
    KIN_TRY(KIN_NOISE(ctx, &r->x, TOKENS, WIDTH));
    KIN_TRY(KIN_NOISE(ctx, &r->dz, TOKENS, EXPERTS));
    KIN_TRY(KIN_WS(ctx, &r->z, KIN_DTYPE_F32, TOKENS, EXPERTS));
    KIN_TRY(KIN_WS(ctx, &r->xinv, KIN_DTYPE_F32, TOKENS));
    KIN_TRY(KIN_WS(ctx, &r->pinv, KIN_DTYPE_F32, EXPERTS));
    KIN_TRY(KIN_WS(ctx, &r->dx, KIN_DTYPE_F32, TOKENS, WIDTH));
    kin_cosine_args a = {.x = &r->x,
                         .proto = r->proto,
                         .z = &r->z,
                         .xinv = &r->xinv,
                         .pinv = &r->pinv,
                         .dz = &r->dz,
                         .dx = &r->dx};
    KIN_TRY(one(b, "cosine", run_cosine, &a));
    KIN_TRY(ctx->k->cosine(ctx, &a));
    return one(b, "cosine_bwd", run_cosine_bwd, &a);
}

static kin_status topk_rows(kin_bench *b, routed *r)
{
    kin_ctx *ctx = b->ctx;
    KIN_TRY(KIN_WS(ctx, &r->idx, KIN_DTYPE_I32, TOKENS, 1));
    KIN_TRY(KIN_WS(ctx, &r->w, KIN_DTYPE_F32, TOKENS, 1));
    KIN_TRY(KIN_NOISE(ctx, &r->dw, TOKENS, 1));
    kin_topk_args a = {.scores = &r->z,
                       .null_expert = -1,
                       .k = 1,
                       .idx = &r->idx,
                       .w = &r->w,
                       .dw = &r->dw,
                       .dscores = &r->dz};
    KIN_TRY(one(b, "topk", run_topk, &a));
    KIN_TRY(ctx->k->topk(ctx, &a));
    KIN_TRY(one(b, "topk_bwd", run_topk_bwd, &a));
    r->d = (kin_dispatch){
        .tokens = TOKENS, .slots = 1, .groups = EXPERTS, .rows = TOKENS, .weight = r->w};
    KIN_TRY(KIN_WS(ctx, &r->d.order, KIN_DTYPE_I32, TOKENS));
    KIN_TRY(KIN_WS(ctx, &r->d.offset, KIN_DTYPE_I32, EXPERTS + 1));
    KIN_TRY(KIN_WS(ctx, &r->d.inverse, KIN_DTYPE_I32, TOKENS));
    kin_dispatch_args s = {.idx = &r->idx, .null_expert = -1, .d = &r->d};
    KIN_TRY(one(b, "dispatch", run_dispatch, &s));
    return ctx->k->dispatch(ctx, &s);
}

static kin_status choose_rows(kin_bench *b, routed *r)
{
    kin_ctx *ctx = b->ctx;
    kin_tensor idx, w;
    KIN_TRY(KIN_WS(ctx, &idx, KIN_DTYPE_I32, TOKENS, EXPERTS));
    KIN_TRY(KIN_WS(ctx, &w, KIN_DTYPE_F32, TOKENS, EXPERTS));
    kin_choose_args a = {
        .scores = &r->z, .pools = SAMPLES, .k = TOKENS / SAMPLES / EXPERTS, .idx = &idx, .w = &w};
    return one(b, "choose", run_choose, &a);
}

static kin_status combine_rows(kin_bench *b, routed *r)
{
    kin_ctx *ctx = b->ctx;
    kin_tensor z, y, base, dz;
    KIN_TRY(KIN_NOISE(ctx, &z, TOKENS, WIDTH));
    KIN_TRY(KIN_NOISE(ctx, &base, TOKENS, WIDTH));
    KIN_TRY(KIN_WS(ctx, &y, KIN_DTYPE_F32, TOKENS, WIDTH));
    KIN_TRY(KIN_WS(ctx, &dz, KIN_DTYPE_F32, TOKENS, WIDTH));
    kin_combine_args f = {
        .d = &r->d, .n = WIDTH, .z = &z, .base = &base, .weighted = true, .y = &y};
    kin_combine_args g = {.d = &r->d,
                          .n = WIDTH,
                          .z = &z,
                          .weighted = true,
                          .dy = &base,
                          .dz = &dz,
                          .dweight = &r->dw};
    KIN_TRY(one(b, "combine", run_combine, &f));
    return one(b, "combine_bwd", run_combine_bwd, &g);
}

static kin_status loss_rows(kin_bench *b, routed *r)
{
    kin_ctx *ctx = b->ctx;
    kin_tensor loss, dloss, p;
    KIN_TRY(kin_ws_tensor(ctx, KIN_DTYPE_F32, 0, NULL, &loss));
    KIN_TRY(kin_ws_tensor(ctx, KIN_DTYPE_F32, 0, NULL, &dloss));
    KIN_TRY(kin_fill(ctx, &dloss, 1));
    KIN_TRY(kin_softmax(ctx, &r->z, &p));
    kin_rcl_args a = {.x = &r->x,
                      .proto = r->proto,
                      .idx = &r->idx,
                      .parts = 1,
                      .slots = 1,
                      .tau = 0.07f,
                      .loss = &loss,
                      .dloss = &dloss,
                      .dx = &r->dx};
    KIN_TRY(one(b, "rcl", run_rcl, &a));
    KIN_TRY(ctx->k->rcl(ctx, &a));
    KIN_TRY(one(b, "rcl_bwd", run_rcl_bwd, &a));
    kin_balance_args s = {.p = &p,
                          .idx = &r->idx,
                          .samples = SAMPLES,
                          .coef = 0.01f,
                          .loss = &loss,
                          .dloss = &dloss,
                          .dp = &r->dz};
    KIN_TRY(one(b, "balance", run_balance, &s));
    return one(b, "balance_bwd", run_balance_bwd, &s);
}

kin_status kin_bench_rows_routing(kin_bench *b)
{
    kin_params *params = NULL;
    routed r = {0};
    kin_status status;
    /* nothing here follows the type of products */
    if (b->ctx->compute != KIN_DTYPE_F32)
        return KIN_OK;
    KIN_TRY(kin_params_create(&params, b->err));
    r.proto = kin_params_add(params, KIN_INIT(KIN_INIT_NORMAL, 1), KIN_DIMS(EXPERTS, WIDTH),
                             "prototypes");
    KIN_GOTO(kin_params_alloc(params, KIN_DTYPE_F32, false, b->err));
    KIN_GOTO(kin_params_alloc_grads(params, false, b->err));
    kin_params_init(params, 1);
    KIN_GOTO(cosine_rows(b, &r));
    KIN_GOTO(topk_rows(b, &r));
    KIN_GOTO(choose_rows(b, &r));
    KIN_GOTO(combine_rows(b, &r));
    KIN_GOTO(loss_rows(b, &r));
done:
    kin_params_destroy(&params);
    return status;
}
