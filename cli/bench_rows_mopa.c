/* cli/bench_rows_mopa.c: physical attention with 6 of its 29 categories live beside all of them, in
 * the form of Wan (RMS norm over all heads) and of CogVideoX (LayerNorm of each head), at their
 * sizes. The row with few heads holds its time over that of all. */
#include <stdio.h>

#include "cli/bench.h"
#include "physics/taxonomy.h"
#include "physics/mopa.h"

enum { TOKENS = 1024, LIVE = 6, PER_CATEGORY = 2 };

typedef struct layer {
    kin_mopa m;
    kin_tensor x, cos, sin, gates;
} layer;

static kin_status run_mopa(kin_ctx *ctx, void *user)
{
    const size_t mark = kin_ws_mark(ctx);
    const layer *l = user;
    kin_tensor y;
    kin_status status =
        kin_mopa_forward(ctx, &l->m, &l->x, &l->cos, &l->sin, &l->gates, &l->x, NULL, &y);

    kin_ws_release(ctx, mark);
    return status;
}

/* Operations of a run with `live` heads: all four projections and the attention, but q and k of all
 * heads where they are normalised together. */
static double flops_of(const kin_mopa_config *cfg, int64_t live)
{
    const double head = 2.0 * TOKENS * (double)(cfg->width * cfg->head_dim);
    const double scores = 4.0 * TOKENS * TOKENS * (double)cfg->head_dim;

    return head * (double)(2 * (cfg->layer_norm ? live : cfg->heads) + 2 * live) +
           scores * (double)live;
}

/* Gates of the first `live` categories are 1, the others 0. */
static kin_status make_gates(kin_ctx *ctx, const kin_mopa_config *cfg, int64_t live,
                             kin_tensor *gates)
{
    float *g;

    KIN_TRY(KIN_WS_HOST(ctx, gates, KIN_DTYPE_F32, 1, cfg->heads));
    g = gates->data;
    for (int64_t h = 0; h < cfg->heads; h++)
        g[h] = h < live * PER_CATEGORY ? 1.0f : 0.0f;
    return KIN_OK;
}

static kin_status form_rows(kin_bench *b, const kin_mopa_config *cfg, kin_params *params)
{
    kin_bench_row all = {.op = "mopa", .run = run_mopa}, few = {.op = "mopa", .run = run_mopa};
    layer l;

    const char *form = cfg->layer_norm ? "layer_norm" : "wan";

    snprintf(all.shape, sizeof all.shape, "%dx%dx%dx%d %s", TOKENS, (int)cfg->width,
             (int)cfg->heads, (int)cfg->head_dim, form);
    snprintf(few.shape, sizeof few.shape, "%dx%dx%dx%d %s, %d of %d live", TOKENS, (int)cfg->width,
             (int)cfg->heads, (int)cfg->head_dim, form, LIVE, (int)cfg->categories);
    if (!kin_bench_wants(b, "mopa", all.shape))
        return KIN_OK;
    kin_mopa_register(params, "attn.", cfg, &l.m);
    if (params->failed != KIN_OK)
        return kin_fail(b->err, KIN_ERR_MEM, "bench: out of memory");
    KIN_TRY(kin_params_alloc(params, KIN_DTYPE_F32, false, b->err));
    kin_params_init(params, 1);
    KIN_TRY(KIN_NOISE(b->ctx, &l.x, 1, TOKENS, cfg->width));
    KIN_TRY(KIN_NOISE(b->ctx, &l.cos, TOKENS, cfg->head_dim / 2));
    KIN_TRY(KIN_NOISE(b->ctx, &l.sin, TOKENS, cfg->head_dim / 2));
    all.user = few.user = &l;
    all.flops = flops_of(cfg, cfg->heads);
    few.flops = flops_of(cfg, LIVE * PER_CATEGORY);
    KIN_TRY(make_gates(b->ctx, cfg, cfg->categories, &l.gates));
    KIN_TRY(kin_bench_run_row(b, &all));
    KIN_TRY(make_gates(b->ctx, cfg, LIVE, &l.gates));
    KIN_TRY(kin_bench_run_row(b, &few));
    kin_bench_add_ratio(b, &few, &all, "all heads");
    return KIN_OK;
}

kin_status kin_bench_rows_mopa(kin_bench *b)
{
    const kin_mopa_config wan = {.width = 1536,
                                 .heads = PER_CATEGORY * KIN_PHYS_CATEGORIES,
                                 .categories = KIN_PHYS_CATEGORIES,
                                 .head_dim = 128,
                                 .eps = 1e-6f};
    kin_mopa_config form[2] = {wan, wan};

    form[1].width = 1920;
    form[1].head_dim = 64;
    form[1].layer_norm = true;
    for (int i = 0; i < 2; i++) {
        const size_t mark = kin_ws_mark(b->ctx);
        kin_params *params = NULL;
        kin_status status = kin_params_create(&params, b->err);

        if (status == KIN_OK)
            status = form_rows(b, &form[i], params);
        kin_params_destroy(&params);
        kin_ws_release(b->ctx, mark);
        KIN_TRY(status);
    }
    return KIN_OK;
}
