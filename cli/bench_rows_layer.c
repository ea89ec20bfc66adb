/* cli/bench_rows_layer.c: a layer of routed experts beside a dense layer of equal work, forward
 * and training. The row "moe_layer" holds its time over the dense layer's. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/bench.h"
#include "tensor/ops.h"

enum { TOKENS = 1024, EXPERTS = 12, WIDTH = 768, HIDDEN = 1536 };

typedef struct layer {
    kin_params *params;
    kin_param *up_w[EXPERTS], *up_b[EXPERTS], *down_w[EXPERTS], *down_b[EXPERTS], *proto;
    bool fresh;
    kin_tensor x, push; /* push [T,E]: sends each token where it is meant to go */
} layer;

/* Uniform, or expert e with a share of 1/(e+1). note: cosines lie within 1, so 4 decides. */
static kin_status make_push(kin_ctx *ctx, bool zipf, kin_tensor *push)
{
    const kin_rng rng = {.seed = 5, .purpose = KIN_RNG_TEST};
    double sum = 0;
    for (int e = 0; e < EXPERTS; e++)
        sum += zipf ? 1.0 / (e + 1) : 1.0;
    KIN_TRY(KIN_WS(ctx, push, KIN_DTYPE_F32, TOKENS, EXPERTS));
    KIN_TRY(kin_fill(ctx, push, 0));
    for (int t = 0; t < TOKENS; t++) {
        double u = zipf ? (double)kin_rng_uniform_at(&rng, (uint64_t)t) * sum
                        : (double)(t % EXPERTS) + 0.5;
        int e = 0;
        for (; e < EXPERTS - 1; e++) {
            u -= zipf ? 1.0 / (e + 1) : 1.0;
            if (u < 0)
                break;
        }
        ((float *)push->data)[t * EXPERTS + e] = 4;
    }
    return KIN_OK;
}

static kin_status moe_forward(kin_ctx *ctx, const layer *l, kin_tensor *y)
{
    kin_tensor z, scores, idx, w, hidden, out;
    kin_dispatch d;
    KIN_TRY(kin_cosine(ctx, &l->x, l->proto, &z));
    KIN_TRY(kin_add(ctx, &z, &l->push, 1, &scores));
    KIN_TRY(kin_topk(ctx, &scores, 1, NULL, -1, &idx, &w));
    KIN_TRY(kin_dispatch_build(ctx, &idx, &w, EXPERTS, -1, 0, &d));
    KIN_TRY(kin_linear_grouped_operand(ctx, &l->x, &d, true, l->up_w, l->up_b, KIN_ACT_GELU_TANH,
                                       &hidden));
    KIN_TRY(kin_linear_grouped(ctx, &hidden, &d, false, l->down_w, l->down_b, KIN_ACT_NONE, &out));
    return kin_combine(ctx, &out, &d, NULL, y);
}

static kin_status dense_forward(kin_ctx *ctx, const layer *l, kin_tensor *y)
{
    kin_tensor hidden;
    KIN_TRY(kin_linear_operand(ctx, &l->x, l->up_w[0], l->up_b[0], KIN_ACT_GELU_TANH, &hidden));
    return kin_linear(ctx, &hidden, l->down_w[0], l->down_b[0], y);
}

static kin_status run_moe(kin_ctx *ctx, void *user)
{
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor y;
    kin_status status = moe_forward(ctx, user, &y);
    kin_ws_release(ctx, mark);
    return status;
}

static kin_status run_dense(kin_ctx *ctx, void *user)
{
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor y;
    kin_status status = dense_forward(ctx, user, &y);
    kin_ws_release(ctx, mark);
    return status;
}

/* Forward and backward. fresh: the weights count as changed afterwards, as by an optimizer step, so
 * that they are packed anew in the next run. */
static kin_status run_training(kin_ctx *ctx, const layer *l, bool moe)
{
    const size_t mark = kin_ws_mark(ctx);
    layer watched = *l;
    kin_tensor y;
    kin_status status;
    KIN_GOTO(kin_tape_begin(ctx));
    KIN_GOTO(kin_tape_watch(ctx, &watched.x));
    KIN_GOTO(moe ? moe_forward(ctx, &watched, &y) : dense_forward(ctx, &watched, &y));
    KIN_GOTO(kin_tape_backward(ctx, &y, NULL, 1));
done:
    kin_tape_end(ctx);
    kin_ws_release(ctx, mark);
    for (int e = 0; l->fresh && e < (moe ? EXPERTS : 1); e++) {
        kin_param_touch(l->up_w[e]);
        kin_param_touch(l->down_w[e]);
    }
    return status;
}

static kin_status run_moe_training(kin_ctx *ctx, void *user)
{
    return run_training(ctx, user, true);
}
static kin_status run_dense_training(kin_ctx *ctx, void *user)
{
    return run_training(ctx, user, false);
}

static kin_status make_layer(kin_bench *b, layer *l)
{
    const kin_init w = KIN_INIT(KIN_INIT_XAVIER, 1), small = KIN_INIT(KIN_INIT_NORMAL, 0.1f);
    KIN_TRY(kin_params_create(&l->params, b->err));
    for (int e = 0; e < EXPERTS; e++) {
        l->up_w[e] = kin_params_add(l->params, w, KIN_DIMS(HIDDEN, WIDTH), "%d.up.w", e);
        l->up_b[e] = kin_params_add(l->params, small, KIN_DIMS(HIDDEN), "%d.up.b", e);
        l->down_w[e] = kin_params_add(l->params, w, KIN_DIMS(WIDTH, HIDDEN), "%d.down.w", e);
        l->down_b[e] = kin_params_add(l->params, small, KIN_DIMS(WIDTH), "%d.down.b", e);
    }
    l->proto = kin_params_add(l->params, small, KIN_DIMS(EXPERTS, WIDTH), "prototypes");
    KIN_TRY(kin_params_alloc(l->params, KIN_DTYPE_F32, false, b->err));
    KIN_TRY(kin_params_alloc_grads(l->params, false, b->err));
    kin_params_init(l->params, 1);
    return KIN_NOISE(b->ctx, &l->x, TOKENS, WIDTH);
}

/* The dense layer, then the experts with equal and with unequal loads. */
static kin_status compare(kin_bench *b, layer *l, bool training)
{
    static const char *const loads[] = {"", " zipf"};
    const char *weights = !training ? "" : l->fresh ? " new weights" : " same weights";
    kin_bench_row dense = {.user = l};
    dense.op = training ? "dense_layer_training" : "dense_layer";
    dense.run = training ? run_dense_training : run_dense;
    snprintf(dense.shape, sizeof dense.shape, "%dx%dx%d%s", TOKENS, WIDTH, HIDDEN, weights);
    KIN_TRY(kin_bench_run_row(b, &dense));
    for (int zipf = 0; zipf < 2; zipf++) {
        kin_bench_row row = {.user = l};
        row.op = training ? "moe_layer_training" : "moe_layer";
        row.run = training ? run_moe_training : run_moe;
        snprintf(row.shape, sizeof row.shape, "%dx%dx%dx%d%s%s", TOKENS, EXPERTS, WIDTH, HIDDEN,
                 loads[zipf], weights);
        KIN_TRY(make_push(b->ctx, zipf, &l->push));
        KIN_TRY(kin_bench_run_row(b, &row));
        kin_bench_add_ratio(b, &row, &dense, dense.op);
    }
    return KIN_OK;
}

/* Weights that have a gradient are packed at each use, as a training step has to; these rows are
 * what a model that only generates does. */
static kin_status compare_forward(kin_bench *b, layer *l)
{
    void *gradient[4 * EXPERTS + 1];
    kin_status status;
    for (int i = 0; i < l->params->count; i++) {
        gradient[i] = l->params->list[i]->grad.data;
        l->params->list[i]->grad.data = NULL;
    }
    status = compare(b, l, false);
    for (int i = 0; i < l->params->count; i++)
        l->params->list[i]->grad.data = gradient[i];
    return status;
}

static kin_status layer_rows(kin_bench *b, layer *l)
{
    KIN_TRY(compare_forward(b, l));
    KIN_TRY(compare(b, l, true));
    l->fresh = true;
    return compare(b, l, true);
}

kin_status kin_bench_rows_layer(kin_bench *b)
{
    layer l = {0};
    const char *filter = kin_args_text(b->args, "filter");
    if (filter && !strstr(filter, "layer"))
        return KIN_OK;
    kin_status status = make_layer(b, &l);
    if (status == KIN_OK)
        status = layer_rows(b, &l);
    kin_params_destroy(&l.params);
    return status;
}
