/* cli/bench_train.c: `kinema bench train`: the time of a training step and of its phases. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/bench_step.h"

typedef struct timed {
    kin_bench *b;
    kin_bench_step step;
    kin_train_phases phases, best_phases;
    kin_profile profile, best;
    double best_seconds;
} timed;

static double read_clock(void *user)
{
    return kin_bench_now(user);
}

static kin_status run_step(kin_ctx *ctx, void *user)
{
    timed *t = user;
    (void)ctx;
    kin_profile_clear(&t->profile);
    return kin_bench_step_run(&t->step, &t->phases);
}

static void keep_best(void *user, int round, double seconds)
{
    timed *t = user;
    (void)round;
    if (t->best_seconds > 0 && seconds >= t->best_seconds)
        return;
    t->best = t->profile;
    t->best_phases = t->phases;
    t->best_seconds = seconds;
}

/* Work and workspace of a step, from the plan backend. */
static kin_status plan_step(kin_bench *b, const char *path, const kin_bench_size *size,
                            kin_cost *cost, size_t *workspace)
{
    const kin_ctx_options opt = {
        .backend = KIN_BACKEND_PLAN, .threads = b->threads, .compute = b->ctx->compute};
    kin_ctx *ctx = NULL;
    kin_bench_step s;
    kin_train_phases phases;
    KIN_TRY(kin_ctx_create(&opt, &ctx, b->err));
    kin_status status = kin_bench_step_open(ctx, path, size, read_clock, b, &s);
    ctx->cost = (kin_cost){0};
    if (status == KIN_OK)
        status = kin_bench_step_run(&s, &phases);
    *cost = ctx->cost;
    *workspace = ctx->ws.peak;
    if (status != KIN_OK)
        *b->err = ctx->error;
    kin_bench_step_close(&s);
    kin_ctx_destroy(&ctx);
    return status;
}

static void add_phases(kin_bench *b, const kin_train_phases *p, double total)
{
    const double known = p->data + p->forward + p->backward + p->optimizer;
    const double other = fmax(0, total - known);
    cJSON *o = cJSON_AddObjectToObject(b->root, "phases");
    cJSON_AddNumberToObject(o, "forward", p->forward);
    cJSON_AddNumberToObject(o, "backward", p->backward);
    cJSON_AddNumberToObject(o, "optimizer", p->optimizer);
    cJSON_AddNumberToObject(o, "data", p->data);
    cJSON_AddNumberToObject(o, "other", other);
    kin_bench_print(b,
                    "forward %.1f %%, backward %.1f %%, optimizer %.1f %%, waiting for data %.1f "
                    "%%, other %.1f %%\n",
                    100 * p->forward / total, 100 * p->backward / total, 100 * p->optimizer / total,
                    100 * p->data / total, 100 * other / total);
}

static void add_result(kin_bench *b, const timed *w, const kin_bench_times *t, double flops)
{
    const kin_bench_step *s = &w->step;
    const kin_model *model = s->run ? s->info.pipe->model : s->model.model;
    const double params = (double)kin_params_numel(s->params) +
                          (s->text_params ? (double)kin_params_numel(s->text_params) : 0);
    cJSON *o = b->root;
    cJSON_AddStringToObject(o, "config", kin_args_text(b->args, "config"));
    cJSON_AddStringToObject(o, "family", kin_bench_family(model));
    cJSON_AddNumberToObject(o, "params", params);
    cJSON_AddNumberToObject(o, "batch", (double)s->info.batch);
    cJSON_AddNumberToObject(o, "tokens", (double)s->info.tokens);
    cJSON_AddStringToObject(o, "dtype", kin_bench_dtype_name(b->ctx));
    cJSON_AddNumberToObject(o, "threads", b->threads);
    kin_bench_add_times(o, t);
    cJSON_AddNumberToObject(o, "it_per_s", 1 / t->best);
    cJSON_AddNumberToObject(o, "samples_per_s", (double)s->info.batch / t->best);
    kin_bench_print(b,
                    "%s: %s, %.0f parameters, batch %lld x %lld tokens, %s, %d threads\n"
                    "training step (%.2f it/s, %.1f samples/s): ",
                    kin_args_text(b->args, "config"), kin_bench_family(model), params,
                    (long long)s->info.batch, (long long)s->info.tokens,
                    kin_bench_dtype_name(b->ctx), b->threads, 1 / t->best,
                    (double)s->info.batch / t->best);
    kin_bench_add_rate(b, t, flops);
}

static void add_table(const kin_params *p, kin_bench_memory *m)
{
    if (!p)
        return;
    m->weights += (double)kin_params_bytes(p);
    m->packed += (double)kin_params_pack_bytes(p);
    m->gradients += (double)p->grad_bytes;
}

static kin_status measure(kin_bench *b, timed *w)
{
    const char *path = kin_args_text(b->args, "config");
    const kin_bench_size size = kin_bench_size_of(b->args);
    const kin_dtype compute = b->ctx->compute;
    kin_bench_memory memory = {0};
    kin_bench_times t;
    kin_cost cost;
    size_t workspace;
    double profiled;
    KIN_TRY(plan_step(b, path, &size, &cost, &workspace));
    w->b = b;
    kin_status status = kin_bench_step_open(b->ctx, path, &size, read_clock, b, &w->step);
    if (status != KIN_OK) {
        *b->err = b->ctx->error;
        return status;
    }
    /* note: a training configuration names its type; a flag here still wins */
    if (kin_args_source(b->args, "dtype") == KIN_SOURCE_FLAG)
        b->ctx->compute = compute;
    KIN_TRY(kin_bench_measure_device(b));
    KIN_TRY(kin_bench_time_profiled(b, run_step, keep_best, w, &w->profile, &t, &profiled));
    add_table(w->step.params, &memory);
    add_table(w->step.text_params, &memory);
    kin_bench_add_played(b, kin_bench_step_played(&w->step));
    memory.optimizer = (double)w->step.info.optimizer_bytes;
    memory.workspace_planned = (double)workspace;
    memory.workspace_used = (double)b->ctx->ws.peak;
    memory.peak_rss = kin_bench_peak_rss(); /* note: before the triads take their arrays */
    KIN_TRY(kin_bench_measure_peaks(b, false));
    add_result(b, w, &t, cost.flops);
    add_phases(b, &w->best_phases, profiled);
    KIN_TRY(kin_bench_add_ops(b, &w->best, profiled));
    kin_bench_add_memory(b, &memory);
    return kin_bench_report(b);
}

kin_status kin_bench_train(const kin_args *args, kin_error *err)
{
    static timed w; /* note: two profiles are too large for the stack */
    kin_bench b = {0};
    kin_dtype compute;
    w = (timed){0};
    if (!kin_args_text(args, "config"))
        return kin_fail(err, KIN_ERR_ARG, "bench train: needs a configuration (-c FILE)");
    KIN_TRY(kin_bench_dtype_of(args, &compute, err));
    kin_status status = kin_bench_open(args, compute, &b, err);
    if (kin_args_source(args, "steps"))
        b.rounds = (int)kin_args_int(args, "steps");
    if (status == KIN_OK)
        status = measure(&b, &w);
    kin_bench_step_close(&w.step);
    kin_bench_close(&b);
    return status;
}
