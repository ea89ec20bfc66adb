/* cli/bench_model.c: `kinema bench model`: a forward pass of a model, with random weights or a
 * model directory's own. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"

double kin_bench_peak_rss(void)
{
    char line[256];
    double kb = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "VmHWM:", 6) == 0)
            kb = strtod(line + 6, NULL);
    if (f)
        fclose(f);
    return kb * 1024;
}

static int by_seconds(const void *a, const void *b)
{
    const kin_profile_op *const *x = a, *const *y = b;
    return ((*x)->seconds < (*y)->seconds) - ((*x)->seconds > (*y)->seconds);
}

static void add_op(const kin_bench *b, cJSON *ops, const kin_profile_op *op, double total)
{
    cJSON *o = cJSON_CreateObject();
    const double gflop = op->flops * 1e-9, share = op->seconds / total;
    cJSON_AddStringToObject(o, "op", op->name);
    cJSON_AddNumberToObject(o, "calls", (double)op->calls);
    cJSON_AddNumberToObject(o, "seconds", op->seconds);
    cJSON_AddNumberToObject(o, "share", share);
    cJSON_AddNumberToObject(o, "gflop", gflop);
    cJSON_AddNumberToObject(o, "gflops", op->seconds > 0 ? gflop / op->seconds : 0);
    cJSON_AddNumberToObject(o, "mbytes", op->bytes * 1e-6);
    cJSON_AddNumberToObject(o, "gbs", op->seconds > 0 ? op->bytes * 1e-9 / op->seconds : 0);
    cJSON_AddItemToArray(ops, o);
    if (share < 0.0005)
        return;
    kin_bench_print(b, "  %-16s %5lld calls %9.3f ms %5.1f %%", op->name, (long long)op->calls,
                    op->seconds * 1e3, 100 * share);
    if (op->flops > 0)
        kin_bench_print(b, "  %8.1f GF/s", gflop / op->seconds);
    else if (op->bytes > 0)
        kin_bench_print(b, "  %8.1f GB/s", op->bytes * 1e-9 / op->seconds);
    kin_bench_print(b, "\n");
}

kin_status kin_bench_add_ops(kin_bench *b, const kin_profile *p, double seconds)
{
    const kin_profile_op *order[KIN_PROFILE_OPS];
    kin_profile_op rest = {.name = "other"};
    int n = 0;
    cJSON *ops = cJSON_AddArrayToObject(b->root, "ops");
    if (!ops)
        return kin_fail(b->err, KIN_ERR_MEM, "bench: out of memory");
    for (int i = 0; i < KIN_PROFILE_OPS; i++)
        if (p->op[i].calls)
            order[n++] = &p->op[i];
    qsort(order, (size_t)n, sizeof *order, by_seconds);
    for (int i = 0; i < n; i++)
        add_op(b, ops, order[i], seconds);
    rest.seconds = fmax(0, seconds - kin_profile_total(p).seconds);
    add_op(b, ops, &rest, seconds);
    return KIN_OK;
}

/* ---- one configuration ---- */

typedef struct forward {
    const kin_model *model;
    kin_replay *replay; /* on a device: recordings of it, as samplers have them */
    kin_bench_input in;
    kin_profile profile, best; /* of the running round, of the best one */
    double best_seconds;
} forward;

static kin_status run_forward(kin_ctx *ctx, void *user)
{
    forward *f = user;
    const size_t mark = kin_ws_mark(ctx);
    kin_model_output out;
    kin_profile_clear(&f->profile);
    kin_status status = f->replay ? kin_model_replay(ctx, f->replay, f->model, &f->in.in, &out)
                                  : kin_model_forward(ctx, f->model, &f->in.in, &out);
    kin_ws_release(ctx, mark);
    return status;
}

static void keep_best(void *user, int round, double seconds)
{
    forward *f = user;
    (void)round;
    if (f->best_seconds > 0 && seconds >= f->best_seconds)
        return;
    f->best = f->profile;
    f->best_seconds = seconds;
}

static void add_result(kin_bench *b, const kin_bench_model *m, const forward *f,
                       const kin_bench_size *size, const kin_bench_times *t, double flops)
{
    cJSON *o = b->root;
    cJSON_AddStringToObject(o, "config", kin_args_text(b->args, "config"));
    cJSON_AddStringToObject(o, "family", kin_bench_family(m->model));
    cJSON_AddNumberToObject(o, "params", (double)kin_params_numel(m->params));
    cJSON_AddNumberToObject(o, "batch", (double)size->batch);
    cJSON_AddNumberToObject(o, "tokens", (double)f->in.tokens);
    cJSON_AddStringToObject(o, "dtype", kin_bench_dtype_name(b->ctx));
    cJSON_AddNumberToObject(o, "threads", b->threads);
    kin_bench_add_times(o, t);
    kin_bench_print(b,
                    "%s: %s, %lld parameters, batch %lld x %lld tokens, %s, %d threads\n"
                    "forward: ",
                    kin_args_text(b->args, "config"), kin_bench_family(m->model),
                    (long long)kin_params_numel(m->params), (long long)size->batch,
                    (long long)f->in.tokens, kin_bench_dtype_name(b->ctx), b->threads);
    kin_bench_add_rate(b, t, flops);
}

void kin_bench_add_memory(kin_bench *b, const kin_bench_memory *m)
{
    cJSON *o = cJSON_AddObjectToObject(b->root, "memory");
    cJSON_AddNumberToObject(o, "weights", m->weights);
    cJSON_AddNumberToObject(o, "packed", m->packed);
    kin_bench_add(o, "gradients", m->gradients);
    kin_bench_add(o, "optimizer", m->optimizer);
    cJSON_AddNumberToObject(o, "workspace_planned", m->workspace_planned);
    cJSON_AddNumberToObject(o, "workspace_used", m->workspace_used);
    cJSON_AddNumberToObject(o, "peak_rss", m->peak_rss);
    if (b->ctx->device) {
        kin_device_facts now;
        if (b->ctx->device->facts(b->ctx, 0, &now) == KIN_OK)
            cJSON_AddNumberToObject(o, "device_used", (double)now.used);
    }
    kin_bench_print(b,
                    "memory, MB: weights %.1f, packed %.1f, gradients %.1f, optimizer %.1f, "
                    "workspace %.1f (planned %.1f), peak of the process %.1f\n",
                    m->weights * 1e-6, m->packed * 1e-6, m->gradients * 1e-6, m->optimizer * 1e-6,
                    m->workspace_used * 1e-6, m->workspace_planned * 1e-6, m->peak_rss * 1e-6);
}

void kin_bench_add_played(kin_bench *b, long played)
{
    if (!b->ctx->device)
        return;
    cJSON_AddNumberToObject(b->root, "played", (double)played);
    kin_bench_print(b, "played from recordings (CUDA graphs): %ld\n", played);
}

/* The model of -c: a directory's own weights, or random ones. */
static kin_status open_model(kin_bench *b, const cJSON *config, kin_bench_model *m)
{
    const char *path = kin_args_text(b->args, "config");
    if (!kin_path_is_dir(path))
        return kin_bench_model_make(config, false, false, m, b->err);
    *m = (kin_bench_model){0};
    KIN_TRY(kin_cli_load(b->args, b->ctx, path, &m->pipe, b->err));
    m->params = m->pipe->params;
    m->model = m->pipe->model;
    return KIN_OK;
}

static kin_status measure(kin_bench *b, const cJSON *config, kin_bench_model *m, forward *f)
{
    kin_bench_size size = kin_bench_size_of(b->args);
    kin_bench_memory memory = {0};
    kin_bench_times t;
    kin_cost cost;
    size_t workspace;
    double profiled;
    KIN_TRY(kin_bench_plan(config, &size, b->ctx->compute, &cost, &workspace, b->err));
    KIN_TRY(open_model(b, config, m));
    f->model = m->model;
    kin_status status = kin_bench_input_make(b->ctx, m->model, &size, &f->in);
    if (status != KIN_OK) {
        *b->err = b->ctx->error;
        return status;
    }
    KIN_TRY(kin_bench_measure_device(b));
    if (b->ctx->device)
        KIN_TRY(kin_replay_create(b->ctx, &f->replay));
    KIN_TRY(kin_bench_time_profiled(b, run_forward, keep_best, f, &f->profile, &t, &profiled));
    kin_bench_add_played(b, kin_replay_count(f->replay).played);
    memory.weights = (double)kin_params_bytes(m->params);
    memory.packed = (double)kin_params_pack_bytes(m->params);
    memory.workspace_planned = (double)workspace;
    memory.workspace_used = (double)b->ctx->ws.peak;
    memory.peak_rss = kin_bench_peak_rss(); /* note: before the triads take their arrays */
    KIN_TRY(kin_bench_measure_peaks(b, false));
    add_result(b, m, f, &size, &t, cost.flops);
    KIN_TRY(kin_bench_add_ops(b, &f->best, profiled));
    kin_bench_add_memory(b, &memory);
    return kin_bench_report(b);
}

kin_bench_size kin_bench_size_of(const kin_args *args)
{
    return (kin_bench_size){.guided = kin_flag_find(args->verb->verb, "guided") >= 0 &&
                                      kin_args_bool(args, "guided"),
                            .batch = kin_args_int(args, "batch"),
                            .frames = kin_args_int(args, "frames"),
                            .height = kin_args_int(args, "height"),
                            .width = kin_args_int(args, "width")};
}

kin_status kin_bench_dtype_of(const kin_args *args, kin_dtype *out, kin_error *err)
{
    return kin_cli_dtype(kin_args_text(args, "dtype"), out, err);
}

kin_status kin_bench_forward(const kin_args *args, kin_error *err)
{
    const char *path = kin_args_text(args, "config");
    kin_bench b = {0};
    kin_bench_model m = {0};
    kin_dtype compute;
    cJSON *config = NULL;
    static forward f; /* note: two profiles are too large for the stack */
    kin_status status;
    f = (forward){0};
    if (!path)
        return kin_fail(err, KIN_ERR_ARG, "bench model: needs a configuration (-c FILE)");
    KIN_TRY(kin_bench_dtype_of(args, &compute, err));
    KIN_TRY(kin_bench_config_read(path, &config, err));
    KIN_GOTO(kin_bench_open(args, compute, &b, err));
    status = measure(&b, config, &m, &f);
done:
    kin_replay_destroy(&f.replay);
    kin_bench_model_free(&m);
    kin_bench_close(&b);
    cJSON_Delete(config);
    return status;
}
