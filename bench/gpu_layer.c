/* bench/gpu_layer.c: forward and backward of a layer of routed experts (router, dispatch, both
 * products, combine) beside the dense layer of equal work, for gpu_bench. */
#include <stdio.h>

#include "bench/gpu_bench.h"
#include "tensor/ops.h"

typedef struct layer_works {
    kin_param *up[EXPERTS], *down[EXPERTS], *up_b[EXPERTS], *down_b[EXPERTS], *proto;
    kin_tensor x, dy;
    bool experts; /* which of the two runs */
} layer_works;

static kin_status moe_forward(kin_ctx *ctx, const layer_works *l, kin_tensor *x, kin_tensor *y)
{
    kin_tensor scores, idx, w, hidden, out;
    kin_dispatch d;
    KIN_TRY(kin_cosine(ctx, x, l->proto, &scores));
    KIN_TRY(kin_topk(ctx, &scores, 1, NULL, -1, &idx, &w));
    KIN_TRY(kin_dispatch_build(ctx, &idx, &w, EXPERTS, -1, 0, &d));
    KIN_TRY(
        kin_linear_grouped_operand(ctx, x, &d, true, l->up, l->up_b, KIN_ACT_GELU_TANH, &hidden));
    KIN_TRY(kin_linear_grouped(ctx, &hidden, &d, false, l->down, l->down_b, KIN_ACT_NONE, &out));
    return kin_combine(ctx, &out, &d, NULL, y);
}

static kin_status dense_forward(kin_ctx *ctx, const layer_works *l, kin_tensor *x, kin_tensor *y)
{
    kin_tensor hidden;
    KIN_TRY(kin_linear_operand(ctx, x, l->up[0], l->up_b[0], KIN_ACT_GELU_TANH, &hidden));
    return kin_linear(ctx, &hidden, l->down[0], l->down_b[0], y);
}

/* Forward and backward; afterwards the weights count as changed, as by an optimizer step. */
static kin_status run_training(bench *b, const work *w)
{
    const layer_works *l = w->args;
    kin_ctx *ctx = b->ctx;
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor x = l->x, y;
    kin_status status;
    KIN_GOTO(kin_tape_begin(ctx));
    KIN_GOTO(kin_tape_watch(ctx, &x));
    KIN_GOTO(l->experts ? moe_forward(ctx, l, &x, &y) : dense_forward(ctx, l, &x, &y));
    KIN_GOTO(kin_tape_backward(ctx, &y, &l->dy, 1));
done:
    kin_tape_end(ctx);
    kin_ws_release(ctx, mark);
    for (int e = 0; e < (l->experts ? EXPERTS : 1); e++) {
        kin_param_touch(l->up[e]);
        kin_param_touch(l->down[e]);
    }
    return status;
}

static kin_status make_layer(bench *b, layer_works *l)
{
    const int64_t D = b->s.width, H = b->s.hidden, T = 4 * b->s.tokens;
    for (int e = 0; e < EXPERTS; e++) {
        char name[32];
        snprintf(name, sizeof name, "layer%d.up", e);
        KIN_TRY(weight(b, name, H, D, &l->up[e]));
        snprintf(name, sizeof name, "layer%d.down", e);
        KIN_TRY(weight(b, name, D, H, &l->down[e]));
        snprintf(name, sizeof name, "layer%d.up.b", e);
        KIN_TRY(weight(b, name, 0, H, &l->up_b[e]));
        snprintf(name, sizeof name, "layer%d.down.b", e);
        KIN_TRY(weight(b, name, 0, D, &l->down_b[e]));
    }
    KIN_TRY(weight(b, "layer.proto", EXPERTS, D, &l->proto));
    KIN_TRY(noise(b, KIN_DIMS(T, D), &l->dy));
    return noise(b, KIN_DIMS(T, D), &l->x);
}

kin_status layer(bench *b)
{
    layer_works l = {0};
    /* up and down, each three products of equal size */
    const double flops = 12.0 * 4 * (double)b->s.tokens * (double)b->s.width * (double)b->s.hidden;
    const work w = {.run = run_training, .args = &l, .flops = flops};
    work moe = w, dense = w;
    if (b->twice)
        return KIN_OK; /* its parts are compared one by one */
    KIN_TRY(make_layer(b, &l));
    dense.name = "dense_layer_training";
    KIN_TRY(do_work(b, &dense));
    const double other = b->seconds;
    l.experts = true;
    moe.name = "moe_layer_training";
    KIN_TRY(do_work(b, &moe));
    add_bar(b, "MoE layer against dense of equal FLOPs, training", "times", b->seconds / other,
            1.15, true);
    return KIN_OK;
}
