/* cli/bench_rows_linear.c: rows of dense products and experts. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/bench.h"
#include "tensor/cpu/onednn.h"
#include "tensor/ops.h"

static kin_status run_linear(kin_ctx *ctx, void *a)
{
    return ctx->k->linear(ctx, a);
}
static kin_status run_linear_dx(kin_ctx *ctx, void *a)
{
    return ctx->k->linear_dx(ctx, a);
}
static kin_status run_linear_dw(kin_ctx *ctx, void *a)
{
    return ctx->k->linear_dw(ctx, a);
}

/* oneDNN whatever the table chooses: only where --filter names it */
static kin_status run_linear_onednn(kin_ctx *ctx, void *a)
{
    return kin_onednn_linear(ctx, a);
}
static kin_status run_linear_dx_onednn(kin_ctx *ctx, void *a)
{
    return kin_onednn_linear_dx(ctx, a);
}

/* ---- dense ---- */

/* rows, in, out: S, B and XL of ProMoE at 8 x 256 tokens and fewer, the bundled model, few rows */
static const int64_t linear_shape[][3] = {
    {2048, 384, 1536},  {2048, 1536, 384}, {2048, 768, 3072}, {2048, 3072, 768}, {2048, 768, 2304},
    {2048, 1152, 4608}, {256, 768, 3072},  {256, 384, 1536},  {2064, 256, 1024}, {2064, 1024, 256},
    {2064, 256, 768},   {64, 768, 3072},   {16, 256, 1536},   {16, 768, 3072}};

static kin_status linear_rows(kin_bench *b, kin_params *params, const int64_t s[3])
{
    kin_ctx *ctx = b->ctx;
    kin_param *w = params->list[0], *bias = params->list[1];
    kin_tensor x, y, dx, kept;
    kin_bench_row row = {0};
    KIN_TRY(KIN_NOISE(ctx, &x, s[0], s[1]));
    KIN_TRY(KIN_NOISE(ctx, &y, s[0], s[2]));
    const kin_tensor wide = x;
    KIN_TRY(kin_bench_operand(ctx, &x));
    KIN_TRY(KIN_WS(ctx, &kept, kin_operand_dtype(ctx), s[0], s[2]));
    KIN_TRY(KIN_WS(ctx, &dx, KIN_DTYPE_F32, s[0], s[1]));
    kin_linear_args f = {.m = s[0], .k = s[1], .n = s[2], .x = &x, .w = w, .b = bias, .y = &kept};
    kin_linear_bwd_args g = {
        .m = s[0], .k = s[1], .n = s[2], .dy = &y, .x = &x, .w = w, .b = bias, .dx = &dx};
    snprintf(row.shape, sizeof row.shape, "%lldx%lldx%lld", (long long)s[0], (long long)s[1],
             (long long)s[2]);
    row.op = "linear";
    row.run = run_linear;
    row.user = &f;
    KIN_TRY(kin_bench_run_row(b, &row));
    f.act = KIN_ACT_GELU_TANH;
    row.op = "linear_gelu";
    KIN_TRY(kin_bench_run_row(b, &row));
    if (ctx->compute == KIN_DTYPE_I8)
        return KIN_OK;
    row.user = &g;
    row.op = "linear_dx";
    row.run = run_linear_dx;
    KIN_TRY(kin_bench_run_row(b, &row));
    row.op = "linear_dw";
    row.run = run_linear_dw;
    KIN_TRY(kin_bench_run_row(b, &row));
    const char *filter = kin_args_text(b->args, "filter");
    if (!filter || !strstr(filter, "onednn"))
        return KIN_OK;
    row.flops = 2.0 * (double)s[0] * (double)s[1] * (double)s[2];
    f.x = g.x = &wide;
    f.y = &y;
    row.op = "linear_dx_onednn";
    row.run = run_linear_dx_onednn;
    KIN_TRY(kin_bench_run_row(b, &row));
    f.act = KIN_ACT_NONE;
    row.op = "linear_onednn";
    row.run = run_linear_onednn;
    row.user = &f;
    return kin_bench_run_row(b, &row);
}

/* A table of `count` matrices [n,k] with biases [n], in turn, stored in f32 or bf16. */
static kin_status make_params(int64_t count, int64_t n, int64_t k, kin_dtype stored,
                              kin_params **out, kin_error *err)
{
    KIN_TRY(kin_params_create(out, err));
    for (int64_t e = 0; e < count; e++) {
        kin_params_add(*out, KIN_INIT(KIN_INIT_XAVIER, 1), KIN_DIMS(n, k), "w%lld", (long long)e);
        kin_params_add(*out, KIN_INIT(KIN_INIT_NORMAL, 0.1f), KIN_DIMS(n), "b%lld", (long long)e);
    }
    if ((*out)->failed == KIN_OK)
        kin_params_allow_int8((*out)->list, (*out)->count);
    KIN_TRY(kin_params_alloc(*out, stored, false, err));
    KIN_TRY(kin_params_alloc_grads(*out, false, err));
    kin_params_init(*out, 1);
    return KIN_OK;
}

/* True if a row of one of these ops (NULL-terminated) may be asked for. */
static bool wants_any(const kin_bench *b, const char *const *ops, const char *shape)
{
    for (; *ops; ops++)
        if (kin_bench_wants(b, *ops, shape))
            return true;
    return false;
}

kin_status kin_bench_rows_linear(kin_bench *b)
{
    static const char *const ops[] = {"linear",        "linear_gelu",      "linear_dx", "linear_dw",
                                      "linear_onednn", "linear_dx_onednn", NULL};
    for (size_t i = 0; i < sizeof linear_shape / sizeof *linear_shape; i++) {
        const int64_t *s = linear_shape[i];
        const size_t mark = kin_ws_mark(b->ctx);
        kin_params *params = NULL;
        char shape[64];
        snprintf(shape, sizeof shape, "%lldx%lldx%lld", (long long)s[0], (long long)s[1],
                 (long long)s[2]);
        if (!wants_any(b, ops, shape))
            continue;
        kin_status status = make_params(1, s[2], s[1], KIN_DTYPE_F32, &params, b->err);
        if (status == KIN_OK)
            status = linear_rows(b, params, s);
        kin_params_destroy(&params);
        KIN_TRY(status);
        kin_ws_release(b->ctx, mark);
    }
    return KIN_OK;
}

/* ---- experts ---- */

enum { EXPERTS = 12, WIDTH = 768, HIDDEN = 1536 };

/* Rows of each expert: equal, or falling as 1, 1/2, 1/3, ... with the same sum. */
static void expert_rows(bool zipf, int64_t total, int64_t rows[EXPERTS])
{
    double sum = 0;
    int64_t given = 0;
    for (int e = 0; e < EXPERTS; e++)
        sum += 1.0 / (e + 1);
    for (int e = EXPERTS - 1; e > 0; e--) {
        rows[e] = zipf ? (int64_t)floor((double)total / (e + 1) / sum) : total / EXPERTS;
        given += rows[e];
    }
    rows[0] = total - given;
}

/* A dispatch of one slot per token; tokens lie in no order, as in a model. */
static kin_status make_dispatch(kin_ctx *ctx, const int64_t rows[EXPERTS], int64_t tokens,
                                kin_dispatch *d)
{
    const kin_rng rng = {.seed = 2, .purpose = KIN_RNG_TEST};
    *d = (kin_dispatch){.tokens = tokens, .slots = 1, .groups = EXPERTS, .rows = tokens};
    KIN_TRY(KIN_WS(ctx, &d->order, KIN_DTYPE_I32, tokens));
    KIN_TRY(KIN_WS(ctx, &d->inverse, KIN_DTYPE_I32, tokens));
    KIN_TRY(KIN_WS(ctx, &d->offset, KIN_DTYPE_I32, EXPERTS + 1));
    KIN_TRY(KIN_NOISE(ctx, &d->weight, tokens, 1));
    int32_t *order = d->order.data, *offset = d->offset.data;
    for (int64_t i = 0; i < tokens; i++)
        order[i] = (int32_t)i;
    for (int64_t i = tokens - 1; i > 0; i--) {
        const int64_t j = (int64_t)kin_rng_index_at(&rng, (uint64_t)i, (uint64_t)i + 1);
        const int32_t t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (int64_t i = 0; i < tokens; i++)
        ((int32_t *)d->inverse.data)[order[i]] = (int32_t)i;
    offset[0] = 0;
    for (int e = 0; e < EXPERTS; e++)
        offset[e + 1] = offset[e] + (int32_t)rows[e];
    return KIN_OK;
}

static kin_status run_grouped(kin_ctx *ctx, void *a)
{
    return ctx->k->grouped(ctx, a);
}
static kin_status run_grouped_dx(kin_ctx *ctx, void *a)
{
    return ctx->k->grouped_dx(ctx, a);
}
static kin_status run_grouped_dw(kin_ctx *ctx, void *a)
{
    return ctx->k->grouped_dw(ctx, a);
}

static kin_status grouped_rows(kin_bench *b, const kin_params *params, int64_t per_expert,
                               bool zipf)
{
    kin_ctx *ctx = b->ctx;
    kin_param *w[EXPERTS], *bias[EXPERTS];
    void *gradient[EXPERTS];
    int64_t rows[EXPERTS], tokens = per_expert * EXPERTS;
    kin_dispatch d;
    kin_tensor x, y, dx, kept;
    kin_bench_row row = {0};
    for (int e = 0; e < EXPERTS; e++) {
        w[e] = params->list[2 * e];
        bias[e] = params->list[2 * e + 1];
    }
    expert_rows(zipf, tokens, rows);
    KIN_TRY(make_dispatch(ctx, rows, tokens, &d));
    KIN_TRY(KIN_NOISE(ctx, &x, tokens, WIDTH));
    KIN_TRY(KIN_NOISE(ctx, &y, tokens, HIDDEN));
    KIN_TRY(KIN_WS(ctx, &dx, KIN_DTYPE_F32, tokens, WIDTH));
    KIN_TRY(KIN_WS(ctx, &kept, kin_operand_dtype(ctx), tokens, HIDDEN));
    kin_grouped_args f = {
        .n = HIDDEN, .k = WIDTH, .d = &d, .gather = true, .x = &x, .w = w, .b = bias, .y = &kept};
    kin_grouped_bwd_args g = {.n = HIDDEN,
                              .k = WIDTH,
                              .d = &d,
                              .gather = true,
                              .dy = &y,
                              .x = &x,
                              .w = w,
                              .b = bias,
                              .dx = &dx};
    snprintf(row.shape, sizeof row.shape, "%dx%lldx%dx%d%s", EXPERTS, (long long)per_expert, WIDTH,
             HIDDEN, zipf ? " zipf" : "");
    const bool bf16 = w[0]->value.dtype == KIN_DTYPE_BF16;
    row.op = bf16 ? "grouped_bf16w" : "grouped";
    row.run = run_grouped;
    row.user = &f;
    /* note: weights with a gradient are packed anew at every use, as a training step has to */
    for (int e = 0; e < EXPERTS; e++) {
        gradient[e] = w[e]->grad.data;
        w[e]->grad.data = NULL;
    }
    KIN_TRY(kin_bench_run_row(b, &row));
    for (int e = 0; e < EXPERTS; e++)
        w[e]->grad.data = gradient[e];
    if (bf16 || ctx->compute == KIN_DTYPE_I8)
        return KIN_OK;
    row.op = "grouped_trained";
    KIN_TRY(kin_bench_run_row(b, &row));
    row.user = &g;
    row.op = "grouped_dx";
    row.run = run_grouped_dx;
    KIN_TRY(kin_bench_run_row(b, &row));
    row.op = "grouped_dw";
    row.run = run_grouped_dw;
    return kin_bench_run_row(b, &row);
}

/* All sizes, with weights stored in one type. */
static kin_status grouped_sizes(kin_bench *b, const char *const *ops, kin_dtype stored)
{
    static const int64_t per_expert[] = {16, 32, 64, 128};
    kin_params *params = NULL;
    kin_status status = KIN_OK;
    for (int i = 0; i < 8 && status == KIN_OK; i++) {
        const size_t mark = kin_ws_mark(b->ctx);
        char shape[64];
        snprintf(shape, sizeof shape, "%dx%lldx%dx%d%s", EXPERTS, (long long)per_expert[i / 2],
                 WIDTH, HIDDEN, i % 2 ? " zipf" : "");
        if (!wants_any(b, ops, shape))
            continue;
        if (!params)
            status = make_params(EXPERTS, HIDDEN, WIDTH, stored, &params, b->err);
        if (status == KIN_OK)
            status = grouped_rows(b, params, per_expert[i / 2], i % 2);
        kin_ws_release(b->ctx, mark);
    }
    kin_params_destroy(&params);
    return status;
}

kin_status kin_bench_rows_grouped(kin_bench *b)
{
    static const char *const ops[] = {"grouped", "grouped_trained", "grouped_dx", "grouped_dw",
                                      NULL};
    static const char *const stored[] = {"grouped_bf16w", NULL};
    KIN_TRY(grouped_sizes(b, ops, KIN_DTYPE_F32));
    return b->ctx->compute == KIN_DTYPE_F32 ? grouped_sizes(b, stored, KIN_DTYPE_BF16) : KIN_OK;
}
