/* cli/bench_scaling.c: `kinema bench scaling`: a forward pass while one size changes. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "cli/bench.h"

/* One point of a series. */
typedef struct point {
    const char *series;
    int64_t x;
    cJSON *config;       /* changed copy; owned */
    kin_bench_size size; /* of the input */
    int threads;
} point;

static bool set_number(cJSON *o, const char *key, double v)
{
    cJSON_DeleteItemFromObjectCaseSensitive(o, key);
    return cJSON_AddNumberToObject(o, key, v) != NULL;
}

/* ---- one measurement ---- */

typedef struct forward {
    const kin_model *model;
    kin_bench_input in;
} forward;

static kin_status run_forward(kin_ctx *ctx, void *user)
{
    forward *f = user;
    const size_t mark = kin_ws_mark(ctx);
    kin_model_output out;
    kin_status status = kin_model_forward(ctx, f->model, &f->in.in, &out);
    kin_ws_release(ctx, mark);
    return status;
}

static void add_row(kin_bench *b, const point *p, const kin_bench_model *m, const forward *f,
                    const kin_bench_times *t, double flops)
{
    cJSON *o = cJSON_CreateObject();
    const double rate = flops / t->best;
    cJSON_AddStringToObject(o, "series", p->series);
    cJSON_AddNumberToObject(o, "x", (double)p->x);
    cJSON_AddNumberToObject(o, "batch", (double)p->size.batch);
    cJSON_AddNumberToObject(o, "tokens", (double)f->in.tokens);
    cJSON_AddNumberToObject(o, "threads", b->threads);
    cJSON_AddNumberToObject(o, "seconds", t->best);
    cJSON_AddNumberToObject(o, "median", t->median);
    cJSON_AddNumberToObject(o, "gflop", flops * 1e-9);
    cJSON_AddNumberToObject(o, "gflops", rate * 1e-9);
    cJSON_AddNumberToObject(o, "share", rate / t->peak);
    cJSON_AddNumberToObject(o, "workspace", (double)b->ctx->ws.peak);
    cJSON_AddNumberToObject(o, "weights", (double)kin_params_bytes(m->params));
    cJSON_AddNumberToObject(o, "packed", (double)kin_params_pack_bytes(m->params));
    cJSON_AddNumberToObject(o, "params", (double)kin_params_numel(m->params));
    cJSON_AddItemToArray(cJSON_GetObjectItemCaseSensitive(b->root, "rows"), o);
    kin_bench_print(b,
                    "%-8s %5lld  %9.4f s %9.1f GFLOP %7.1f GF/s %5.2f of the peak, workspace %.1f "
                    "MB, weights %.1f MB\n",
                    p->series, (long long)p->x, t->best, flops * 1e-9, rate * 1e-9, rate / t->peak,
                    (double)b->ctx->ws.peak * 1e-6, (double)kin_params_bytes(m->params) * 1e-6);
}

static kin_status measure(kin_bench *b, const point *p)
{
    kin_bench_size size = p->size;
    kin_bench_model m = {0};
    kin_bench_times t;
    kin_cost cost;
    size_t workspace;
    forward f;
    kin_status status;
    /* a context of its own: its workspace's peak is this point's */
    KIN_TRY(kin_bench_reopen(b, b->ctx->compute, p->threads));
    KIN_TRY(kin_bench_plan(p->config, &size, b->ctx->compute, &cost, &workspace, b->err));
    KIN_TRY(kin_bench_model_make(p->config, false, false, &m, b->err));
    f.model = m.model;
    status = kin_bench_input_make(b->ctx, m.model, &size, &f.in);
    if (status != KIN_OK)
        *b->err = b->ctx->error;
    if (status == KIN_OK)
        status = kin_bench_time(b, KIN_AGAINST_F32, run_forward, NULL, &f, &t);
    if (status == KIN_OK)
        add_row(b, p, &m, &f, &t, cost.flops);
    kin_bench_model_free(&m);
    return status;
}

/* ---- the series ---- */

typedef struct scaling {
    kin_bench *b;
    const cJSON *config;
    kin_model_info info;
    kin_bench_size size;
    int threads;
} scaling;

static kin_status run_point(const scaling *s, point *p)
{
    kin_status status =
        p->config ? measure(s->b, p) : kin_fail(s->b->err, KIN_ERR_MEM, "bench: out of memory");
    cJSON_Delete(p->config);
    return status;
}

static point base_point(const scaling *s, const char *series, int64_t x)
{
    return (point){.series = series,
                   .x = x,
                   .config = cJSON_Duplicate(s->config, true),
                   .size = s->size,
                   .threads = s->threads};
}

/* Routed experts at the configuration's experts per token. */
static kin_status by_experts(const scaling *s)
{
    static const int64_t experts[] = {4, 8, 16, 32, 64};
    for (size_t i = 0; s->info.experts && i < sizeof experts / sizeof *experts; i++) {
        point p = base_point(s, "experts", experts[i]);
        cJSON *moe = cJSON_GetObjectItemCaseSensitive(p.config, "MoE_config");
        if (moe)
            set_number(moe, "num_routed_experts", (double)experts[i]);
        KIN_TRY(run_point(s, &p));
    }
    return KIN_OK;
}

/* Sets the input to frames x side x side patches, and the sizes that the configuration names. */
static void set_sizes(const scaling *s, point *p, int64_t frames, int64_t side)
{
    if (s->info.family == KIN_FAMILY_DIT) {
        set_number(p->config, "input_size", (double)(side * s->info.patch[1]));
        return;
    }
    p->size.frames = frames * s->info.patch[0];
    p->size.height = side * s->info.patch[1];
    p->size.width = side * s->info.patch[2];
    if (cJSON_HasObjectItem(p->config, "sample_frames")) {
        set_number(p->config, "sample_frames", (double)p->size.frames);
        set_number(p->config, "sample_height", (double)p->size.height);
        set_number(p->config, "sample_width", (double)p->size.width);
    }
}

/* 64 to 4096 tokens in one frame; a video model gets two frames of half as many. */
static kin_status by_tokens(const scaling *s)
{
    static const int64_t side[] = {8, 12, 16, 24, 32, 48, 64};
    const int64_t frames = s->info.family == KIN_FAMILY_DIT ? 1 : 4;
    for (size_t i = 0; i < sizeof side / sizeof *side; i++) {
        const int64_t own = frames == 1 ? side[i] : side[i] / 2;
        point p = base_point(s, "tokens", frames * own * own);
        set_sizes(s, &p, frames, own);
        KIN_TRY(run_point(s, &p));
    }
    return KIN_OK;
}

/* Video models: 1 to 32 frames of patches, 4 x 4 each. */
static kin_status by_frames(const scaling *s)
{
    for (int64_t f = 1; s->info.family != KIN_FAMILY_DIT && f <= 32; f *= 2) {
        point p = base_point(s, "frames", f * s->info.patch[0]);
        set_sizes(s, &p, f, 4);
        KIN_TRY(run_point(s, &p));
    }
    return KIN_OK;
}

static kin_status by_batch(const scaling *s)
{
    for (int64_t n = 1; n <= 64; n *= 2) {
        point p = base_point(s, "batch", n);
        p.size.batch = n;
        KIN_TRY(run_point(s, &p));
    }
    return KIN_OK;
}

static kin_status by_threads(const scaling *s)
{
    for (int n = 1; n <= s->threads;
         n = n < s->threads && 2 * n > s->threads ? s->threads : 2 * n) {
        point p = base_point(s, "threads", n);
        p.threads = n;
        KIN_TRY(run_point(s, &p));
    }
    return KIN_OK;
}

static kin_status run_series(const scaling *s, const char *wanted)
{
    static const struct {
        const char *name;
        kin_status (*run)(const scaling *);
    } series[] = {{"experts", by_experts},
                  {"tokens", by_tokens},
                  {"frames", by_frames},
                  {"batch", by_batch},
                  {"threads", by_threads}};
    for (size_t i = 0; i < sizeof series / sizeof *series; i++)
        if (!strcmp(wanted, "all") || !strcmp(wanted, series[i].name))
            KIN_TRY(series[i].run(s));
    return KIN_OK;
}

/* What the configuration says about the model. */
static kin_status read_info(const cJSON *config, kin_model_info *info, kin_error *err)
{
    kin_bench_model m;
    KIN_TRY(kin_bench_model_make(config, true, false, &m, err));
    *info = *kin_model_get_info(m.model);
    kin_bench_model_free(&m);
    return KIN_OK;
}

kin_status kin_bench_scaling(const kin_args *args, kin_error *err)
{
    const char *path = kin_args_text(args, "config");
    kin_bench b = {0};
    cJSON *config = NULL;
    kin_dtype compute;
    scaling s = {.b = &b, .size = kin_bench_size_of(args)};
    kin_status status;
    if (!path)
        return kin_fail(err, KIN_ERR_ARG, "bench scaling: needs a configuration (-c FILE)");
    KIN_TRY(kin_bench_dtype_of(args, &compute, err));
    KIN_TRY(kin_bench_config_read(path, &config, err));
    s.config = config;
    KIN_GOTO(read_info(config, &s.info, err));
    KIN_GOTO(kin_bench_open(args, compute, &b, err));
    s.threads = b.threads;
    KIN_GOTO(kin_bench_measure_peaks(&b, false));
    cJSON_AddStringToObject(b.root, "config", path);
    cJSON_AddStringToObject(b.root, "dtype", kin_bench_dtype_name(b.ctx));
    if (!cJSON_AddArrayToObject(b.root, "rows"))
        KIN_GOTO(kin_fail(err, KIN_ERR_MEM, "bench: out of memory"));
    KIN_GOTO(run_series(&s, kin_args_text(args, "series")));
    status = kin_bench_report(&b);
done:
    kin_bench_close(&b);
    cJSON_Delete(config);
    return status;
}
