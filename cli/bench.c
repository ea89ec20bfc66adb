#include "cli/bench.h"

#include <cpuid.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/signals.h"

kin_status kin_cmd_bench(const kin_args *args, kin_error *err)
{
    switch (args->verb->verb) {
    case KIN_VERB_BENCH_OPS: return kin_bench_ops(args, err);
    case KIN_VERB_BENCH_MODEL: return kin_bench_forward(args, err);
    case KIN_VERB_BENCH_TRAIN: return kin_bench_train(args, err);
    case KIN_VERB_BENCH_SCALING: return kin_bench_scaling(args, err);
    case KIN_VERB_BENCH: return kin_bench_calibrate(args, err);
    default: return kin_fail(err, KIN_ERR_ARG, "bench: no such part");
    }
}

/* ---- report ---- */

void kin_bench_print(const kin_bench *b, const char *fmt, ...)
{
    va_list ap;
    if (b->json)
        return;
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    fflush(stdout);
}

void kin_bench_add(cJSON *to, const char *key, double value)
{
    if (value == 0 || !isfinite(value))
        cJSON_AddNullToObject(to, key);
    else
        cJSON_AddNumberToObject(to, key, value);
}

void kin_bench_add_times(cJSON *to, const kin_bench_times *t)
{
    cJSON *s = cJSON_AddObjectToObject(to, "seconds");
    cJSON_AddNumberToObject(s, "best", t->best);
    cJSON_AddNumberToObject(s, "median", t->median);
    cJSON_AddItemToObject(s, "all", cJSON_CreateDoubleArray(t->all, t->count));
}

/* The processor's own name. */
static void cpu_name(char out[64])
{
    unsigned r[12] = {0};
    for (unsigned i = 0; i < 3; i++)
        if (!__get_cpuid(0x80000002u + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2], &r[4 * i + 3]))
            break;
    char text[49] = "";
    memcpy(text, r, 48);
    const char *p = text + strspn(text, " ");
    snprintf(out, 64, "%s", *p ? p : "unknown");
    for (size_t n = strlen(out); n > 0 && out[n - 1] == ' '; n--)
        out[n - 1] = 0;
}

/* note: a context of a device has no level of its own */
static kin_isa isa_of(const kin_bench *b)
{
    return b->ctx->device ? kin_isa_detect() : b->ctx->isa;
}

static void add_machine(kin_bench *b)
{
    char name[64];
    cJSON *m = cJSON_AddObjectToObject(b->root, "machine");
    cpu_name(name);
    cJSON_AddStringToObject(m, "cpu", name);
    cJSON_AddStringToObject(m, "isa", kin_isa_name(isa_of(b)));
    cJSON_AddNumberToObject(m, "threads", b->threads);
    kin_bench_add(m, "clock_ghz", b->peaks.hz * 1e-9);
    kin_bench_add(m, "tsc_ghz", kin_peak_tsc() * 1e-9);
    cJSON_AddBoolToObject(m, "cpu_time", b->clock != CLOCK_MONOTONIC);
}

kin_status kin_bench_report(kin_bench *b)
{
    const char *path = kin_args_text(b->args, "output");
    if (path)
        KIN_TRY(kin_cli_write_json(path, b->root, b->err));
    return b->json ? kin_cli_print_json(b->root, b->err) : KIN_OK;
}

/* ---- opening ---- */

kin_status kin_bench_reopen(kin_bench *b, kin_dtype compute, int threads)
{
    const bool high = strcmp(kin_args_text(b->args, "matmul-precision"), "high") == 0;
    kin_ctx_options opt = {.backend = KIN_BACKEND_CPU,
                           .threads = threads,
                           .compute = compute,
                           .precision = high ? KIN_PRECISION_HIGH : KIN_PRECISION_HIGHEST};
    kin_ctx_destroy(&b->ctx);
    b->threads = threads;
    KIN_TRY(kin_cli_device(b->args, &opt, b->err));
    return kin_ctx_create(&opt, &b->ctx, b->err);
}

kin_status kin_bench_open(const kin_args *args, kin_dtype compute, kin_bench *b, kin_error *err)
{
    int threads = kin_cli_threads(args);
    *b = (kin_bench){.args = args, .err = err, .clock = CLOCK_MONOTONIC};
    b->rounds = (int)kin_args_int(args, "rounds");
    b->json = kin_args_bool(args, "json");
    if (kin_args_bool(args, "cpu-time")) {
        if (kin_args_source(args, "threads") == KIN_SOURCE_FLAG && threads != 1)
            return kin_fail(err, KIN_ERR_ARG, "bench: --cpu-time is one thread's own time: -t 1");
        b->clock = CLOCK_THREAD_CPUTIME_ID;
        threads = 1;
    }
    KIN_TRY(kin_bench_reopen(b, compute, threads));
    if (b->ctx->device && b->clock != CLOCK_MONOTONIC)
        return kin_fail(err, KIN_ERR_ARG,
                        "bench: --cpu-time is this thread's own time, not a device's");
    b->root = cJSON_CreateObject();
    if (!b->root)
        return kin_fail(err, KIN_ERR_MEM, "bench: out of memory");
    cJSON_AddStringToObject(b->root, "kinema", KIN_VERSION);
    cJSON_AddStringToObject(b->root, "verb", args->verb->second);
    return KIN_OK;
}

const char *kin_bench_dtype_name(const kin_ctx *ctx)
{
    return ctx->compute == KIN_DTYPE_F32 && ctx->precision == KIN_PRECISION_HIGH
               ? "f32-high"
               : kin_cli_dtype_name(ctx->compute);
}

void kin_bench_close(kin_bench *b)
{
    for (int w = 0; w < KIN_AGAINST_TRIADS; w++)
        kin_triad_close(&b->triad[w]);
    kin_ctx_destroy(&b->ctx);
    cJSON_Delete(b->root);
    b->root = NULL;
}

/* ---- peaks ---- */

double kin_bench_now(const kin_bench *b)
{
    struct timespec t;
    clock_gettime(b->clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static kin_peak_options peak_options(const kin_bench *b, int threads, int slices)
{
    return (kin_peak_options){
        .isa = isa_of(b), .threads = threads, .slices = slices, .clock = b->clock};
}

double kin_bench_peak_now(const kin_bench *b, kin_bench_against against)
{
    if (b->ctx->device)
        return b->device.bf16_measured;
    const kin_peak_options opt = peak_options(b, b->threads, against == KIN_AGAINST_DRAM ? 2 : 6);
    if (against == KIN_AGAINST_F32)
        return kin_peak_measure(KIN_PEAK_F32, &opt).rate;
    return kin_triad_rate(&b->triad[against], false, &opt);
}

/* Bytes for a triad: half of each core's second cache; within the last cache (some machines share
 * 260 MiB with others); far beyond it, as far as the machine has memory to spare. */
static size_t triad_bytes(kin_bench_against where, int threads)
{
    const size_t l2 = kin_peak_cache(2), l3 = kin_peak_cache(3), mb = (size_t)1 << 20;
    if (where == KIN_AGAINST_L2)
        return l2 / 2 * (size_t)threads;
    if (where == KIN_AGAINST_L3)
        return l3 / 2 < 32 * mb ? l3 / 2 : 32 * mb;
    const size_t bytes = 4 * l3 < 192 * mb ? 192 * mb : 4 * l3 > 768 * mb ? 768 * mb : 4 * l3;
    const uint64_t left = kin_cli_memory_left();
    return left && bytes > left / 4 ? (size_t)(left / 4) : bytes;
}

static kin_status measure(kin_bench *b, int threads, bool keep, kin_bench_peaks *p)
{
    const kin_peak_options opt = peak_options(b, threads, 24), few = peak_options(b, threads, 4);
    *p = (kin_bench_peaks){.threads = threads};
    for (int u = 0; u < KIN_PEAK_UNITS; u++) {
        kin_peak one = kin_peak_measure((kin_peak_unit)u, &opt);
        p->unit[u] = one.rate;
        if (u == KIN_PEAK_F32)
            p->hz = one.hz;
    }
    for (int w = 0; w < KIN_AGAINST_TRIADS; w++) {
        const bool dram = w == KIN_AGAINST_DRAM;
        kin_triad t;
        KIN_TRY(kin_triad_open(&t, triad_bytes((kin_bench_against)w, threads), &opt, b->err));
        p->triad[w] = kin_triad_rate(&t, false, dram ? &few : &opt);
        if (dram)
            p->stream = kin_triad_rate(&t, true, &few);
        if (keep)
            b->triad[w] = t;
        else
            kin_triad_close(&t);
    }
    return KIN_OK;
}

static void add_peaks(cJSON *to, const kin_bench_peaks *p)
{
    static const char *const names[KIN_PEAK_UNITS] = {"f32", "bf16", "int8", "amx_bf16",
                                                      "amx_int8"};
    cJSON_AddNumberToObject(to, "threads", p->threads);
    kin_bench_add(to, "clock_ghz", p->hz * 1e-9);
    for (int u = 0; u < KIN_PEAK_UNITS; u++)
        kin_bench_add(to, names[u], p->unit[u] * 1e-9);
    kin_bench_add(to, "f32_flop_per_cycle",
                  p->hz > 0 ? p->unit[KIN_PEAK_F32] / p->hz / p->threads : 0);
    kin_bench_add(to, "triad_dram", p->triad[KIN_AGAINST_DRAM] * 1e-9);
    kin_bench_add(to, "triad_dram_stream", p->stream * 1e-9);
    kin_bench_add(to, "triad_l3", p->triad[KIN_AGAINST_L3] * 1e-9);
    kin_bench_add(to, "triad_l2", p->triad[KIN_AGAINST_L2] * 1e-9);
}

static void print_peaks(const kin_bench *b, const kin_bench_peaks *p)
{
    static const char *const names[KIN_PEAK_UNITS] = {"f32", "bf16", "int8", "AMX bf16",
                                                      "AMX int8"};
    kin_bench_print(b, "peak of %d thread%s at %.2f GHz:", p->threads, p->threads > 1 ? "s" : "",
                    p->hz * 1e-9);
    for (int u = 0; u < KIN_PEAK_UNITS; u++)
        if (p->unit[u] > 0)
            kin_bench_print(b, " %s %.0f,", names[u], p->unit[u] * 1e-9);
    kin_bench_print(b,
                    " GF/s (f32: %.1f per cycle and core);\n"
                    "    triad %.1f GB/s (%.1f streamed), in L3 %.0f, in L2 %.0f\n",
                    p->unit[KIN_PEAK_F32] / p->hz / p->threads, p->triad[KIN_AGAINST_DRAM] * 1e-9,
                    p->stream * 1e-9, p->triad[KIN_AGAINST_L3] * 1e-9,
                    p->triad[KIN_AGAINST_L2] * 1e-9);
}

kin_status kin_bench_measure_peaks(kin_bench *b, bool keep)
{
    KIN_TRY(measure(b, b->threads, keep, &b->peaks));
    if (b->threads == 1)
        b->one = b->peaks;
    else
        KIN_TRY(measure(b, 1, false, &b->one));
    add_machine(b);
    cJSON *peaks = cJSON_AddObjectToObject(b->root, "peaks");
    if (!peaks)
        return kin_fail(b->err, KIN_ERR_MEM, "bench: out of memory");
    add_peaks(peaks, &b->peaks);
    add_peaks(cJSON_AddObjectToObject(peaks, "one"), &b->one);
    print_peaks(b, &b->peaks);
    if (b->threads > 1)
        print_peaks(b, &b->one);
    return kin_signals_check("bench", b->err);
}

enum { DEVICE_PRODUCT = 8192 };

kin_status kin_bench_measure_device(kin_bench *b)
{
    const kin_device *d = b->ctx->device;
    if (!d)
        return KIN_OK;
    kin_status status = d->facts(b->ctx, DEVICE_PRODUCT, &b->device);
    if (status != KIN_OK) {
        *b->err = b->ctx->error;
        return status;
    }
    cJSON *o = cJSON_AddObjectToObject(b->root, "device");
    cJSON_AddStringToObject(o, "name", d->name);
    cJSON_AddNumberToObject(o, "capability", b->device.capability);
    kin_bench_add(o, "bf16_peak", b->device.bf16_peak * 1e-9);
    kin_bench_add(o, "bf16_measured", b->device.bf16_measured * 1e-9);
    kin_bench_print(b, "%s", d->name);
    if (b->device.bf16_peak > 0)
        kin_bench_print(b, "; dense bf16 peak %.0f TFLOP/s", b->device.bf16_peak * 1e-12);
    if (b->device.bf16_measured > 0)
        kin_bench_print(b, "; cublasLt %.0f", b->device.bf16_measured * 1e-12);
    kin_bench_print(b, "\n");
    return KIN_OK;
}

void kin_bench_add_rate(kin_bench *b, const kin_bench_times *t, double flops)
{
    cJSON *o = b->root;
    const double rate = flops / t->best;
    cJSON_AddNumberToObject(o, "gflop", flops * 1e-9);
    cJSON_AddNumberToObject(o, "gflops", rate * 1e-9);
    kin_bench_add(o, "share", rate / t->peak);
    kin_bench_print(b, "best %.4f s, median %.4f s; %.1f GFLOP: %.1f GF/s", t->best, t->median,
                    flops * 1e-9, rate * 1e-9);
    if (!b->ctx->device) {
        kin_bench_print(b, ", %.2f of the f32 peak beside it\n", rate / t->peak);
        return;
    }
    kin_bench_add(o, "mfu", rate / b->device.bf16_peak);
    if (b->device.bf16_peak > 0)
        kin_bench_print(b, ", MFU %.3f", rate / b->device.bf16_peak);
    if (t->peak > 0)
        kin_bench_print(b, ", %.3f of cublasLt's rate", rate / t->peak);
    kin_bench_print(b, "\n");
}

/* ---- rounds ---- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void find_median(kin_bench_times *t)
{
    double sorted[KIN_BENCH_MAX_ROUNDS];
    memcpy(sorted, t->all, (size_t)t->count * sizeof *sorted);
    qsort(sorted, (size_t)t->count, sizeof *sorted, by_value);
    t->median = 0.5 * (sorted[(t->count - 1) / 2] + sorted[t->count / 2]);
}

/* One run, to its end also where it goes on beside the host. */
static kin_status run_checked(kin_bench *b, kin_bench_fn run, void *user)
{
    kin_status status = run(b->ctx, user);
    if (status == KIN_OK && b->ctx->device)
        status = b->ctx->device->wait(b->ctx);
    if (status != KIN_OK) {
        *b->err = b->ctx->error;
        b->err->status = status;
    }
    return status;
}

kin_status kin_bench_time(kin_bench *b, kin_bench_against against, kin_bench_fn run,
                          kin_bench_after after, void *user, kin_bench_times *out)
{
    int repeats = 1;
    double t = kin_bench_now(b);
    KIN_TRY(run_checked(b, run, user));
    /* the first run packs: the second tells how often to repeat */
    if (!after) {
        t = kin_bench_now(b);
        KIN_TRY(run_checked(b, run, user));
        t = kin_bench_now(b) - t;
        repeats = t > 1e-3 ? 1 : t > 1e-6 ? (int)(1e-3 / t) + 1 : 1000;
    }
    *out = (kin_bench_times){.best = INFINITY};
    double before = kin_bench_peak_now(b, against);
    for (int r = 0; r < b->rounds; r++) {
        KIN_TRY(kin_signals_check("bench", b->err));
        /* the peak beside it took the caches: short work gets them back, as the peak has them */
        if (repeats > 1)
            KIN_TRY(run_checked(b, run, user));
        t = kin_bench_now(b);
        for (int i = 0; i < repeats; i++)
            KIN_TRY(run_checked(b, run, user));
        t = (kin_bench_now(b) - t) / repeats;
        if (after)
            after(user, r, t);
        double behind = kin_bench_peak_now(b, against);
        out->all[out->count++] = t;
        if (t < out->best) {
            out->best = t;
            out->best_round = r;
            out->peak = fmax(before, behind);
        }
        before = behind;
    }
    find_median(out);
    return KIN_OK;
}

kin_status kin_bench_time_profiled(kin_bench *b, kin_bench_fn run, kin_bench_after after,
                                   void *user, kin_profile *p, kin_bench_times *out,
                                   double *profiled)
{
    kin_status status;
    if (!b->ctx->device) {
        kin_profile_on(b->ctx, p, b->clock);
        status = kin_bench_time(b, KIN_AGAINST_F32, run, after, user, out);
        kin_profile_off(b->ctx, p);
        *profiled = out->best;
        return status;
    }
    KIN_TRY(kin_bench_time(b, KIN_AGAINST_F32, run, NULL, user, out));
    kin_profile_on(b->ctx, p, b->clock);
    const double start = kin_bench_now(b);
    status = run_checked(b, run, user);
    *profiled = kin_bench_now(b) - start;
    kin_profile_off(b->ctx, p);
    after(user, 0, *profiled);
    return status;
}
