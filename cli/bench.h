/* cli/bench.h: what the verbs of `kinema bench` share: the clock, the peaks of the machine, timed
 * rounds, and the report, which is a table for people and one JSON object (docs/bench.md). */
#ifndef KIN_CLI_BENCH_H
#define KIN_CLI_BENCH_H

#include <time.h>

#include "cli/common.h"
#include "tensor/cpu/peak.h"
#include "tensor/device.h"
#include "tensor/profile.h"

enum { KIN_BENCH_MAX_ROUNDS = 1000 };

/* What a share is taken of: the f32 peak, or the triad at a place in memory. */
typedef enum kin_bench_against {
    KIN_AGAINST_L2 = 0,
    KIN_AGAINST_L3,
    KIN_AGAINST_DRAM,
    KIN_AGAINST_F32,
    KIN_AGAINST_TRIADS = KIN_AGAINST_F32
} kin_bench_against;

/* Peaks of one thread count, operations or bytes per second; 0: not there, or not measured. */
typedef struct kin_bench_peaks {
    int threads;
    double hz, unit[KIN_PEAK_UNITS];
    double triad[KIN_AGAINST_TRIADS], stream;
} kin_bench_peaks;

typedef struct kin_bench {
    const kin_args *args;
    kin_error *err;
    kin_ctx *ctx; /* of the rows that run; owned */
    int threads, rounds;
    clockid_t clock;
    bool json; /* stdout carries the JSON object alone */
    cJSON *root;
    kin_bench_peaks peaks, one;
    kin_triad triad[KIN_AGAINST_TRIADS]; /* open while rows of `ops` run */
    kin_device_facts device;             /* where ctx has one */
} kin_bench;

/* Reads the common flags, opens a context of the given compute type and starts the report. The
 * caller ends with kin_bench_close whatever came. */
kin_status kin_bench_open(const kin_args *args, kin_dtype compute, kin_bench *b, kin_error *err);
/* Another context (type, threads) in place of the present one. */
kin_status kin_bench_reopen(kin_bench *b, kin_dtype compute, int threads);
void kin_bench_close(kin_bench *b);
/* How ctx does its products: "f32", "f32-high", "bf16". */
const char *kin_bench_dtype_name(const kin_ctx *ctx);
/* Writes the report: JSON to stdout with --json, and to -o FILE. */
kin_status kin_bench_report(kin_bench *b);

/* On a device: its limits, for b->device and the report. Nothing on the CPU. */
kin_status kin_bench_measure_device(kin_bench *b);
/* Measures all peaks, at one thread and at b->threads, and puts them into the report. keep: the
 * arrays of the triads (up to several times the last cache) stay for kin_bench_peak_now. */
kin_status kin_bench_measure_peaks(kin_bench *b, bool keep);
/* A peak now, in about 2 ms (DRAM: two passes). */
double kin_bench_peak_now(const kin_bench *b, kin_bench_against against);
double kin_bench_now(const kin_bench *b);

/* Times of one piece of work. */
typedef struct kin_bench_times {
    double best, median;
    double peak; /* per second, measured next to the best round */
    int best_round, count;
    double all[KIN_BENCH_MAX_ROUNDS];
} kin_bench_times;

/* One run before the clock starts, then b->rounds timed rounds with the peak between them. Short
 * work without `after` is repeated within a round. after (or NULL) is called behind each round with
 * its number and the seconds of one run. Fails with what run failed with, or INTERRUPTED. */
typedef kin_status (*kin_bench_fn)(kin_ctx *ctx, void *user);
typedef void (*kin_bench_after)(void *user, int round, double seconds);
kin_status kin_bench_time(kin_bench *b, kin_bench_against against, kin_bench_fn run,
                          kin_bench_after after, void *user, kin_bench_times *out);

/* The same with `after` and a profile of the best round. On a device, where a profile waits for
 * every kernel, the rounds run without it and one more round is profiled: *profiled are its
 * seconds, else those of the best round. */
kin_status kin_bench_time_profiled(kin_bench *b, kin_bench_fn run, kin_bench_after after,
                                   void *user, kin_profile *p, kin_bench_times *out,
                                   double *profiled);

/* Prints unless --json. */
void kin_bench_print(const kin_bench *b, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* JSON helpers: a number, or null for 0 where nothing was measured. */
void kin_bench_add(cJSON *to, const char *key, double value);
void kin_bench_add_times(cJSON *to, const kin_bench_times *t);
/* Work, rate and shares of a model's run: gflop, gflops, share and, on a device, mfu. */
void kin_bench_add_rate(kin_bench *b, const kin_bench_times *t, double flops);

/* bench_rows*.c: one row of `ops`. run is called with ctx and user; its work is counted by the plan
 * table while it runs once. Skipped where --filter does not fit "op shape dtype". */
typedef struct kin_bench_row {
    const char *op, *dtype;
    char shape[96];
    kin_bench_fn run;
    void *user;
    double flops;   /* of one run, where the kernel table does not see what is done; else 0 */
    cJSON *out;     /* the row in the report, NULL: it was skipped */
    double seconds; /* best */
} kin_bench_row;
bool kin_bench_wants(const kin_bench *b, const char *op, const char *shape);
kin_status kin_bench_run_row(kin_bench *b, kin_bench_row *row);
/* A workspace tensor of normal numbers. */
kin_status kin_bench_noise(kin_ctx *ctx, kin_tensor *t, int ndim, const int64_t *sizes);
#define KIN_NOISE(ctx, t, ...) kin_bench_noise((ctx), (t), KIN_DIMS(__VA_ARGS__))

/* t, or a copy of it, in the type in which results for products are kept (kin_operand_dtype). */
kin_status kin_bench_operand(kin_ctx *ctx, kin_tensor *t);
/* Puts the time of `row` over that of `other` into row's report, where both ran. */
void kin_bench_add_ratio(const kin_bench *b, const kin_bench_row *row, const kin_bench_row *other,
                         const char *name);

/* The groups of rows. */
kin_status kin_bench_rows_linear(kin_bench *b);
kin_status kin_bench_rows_grouped(kin_bench *b);
kin_status kin_bench_rows_attention(kin_bench *b);
kin_status kin_bench_rows_conv(kin_bench *b);
kin_status kin_bench_rows_norm(kin_bench *b);
kin_status kin_bench_rows_elementwise(kin_bench *b);
kin_status kin_bench_rows_routing(kin_bench *b);
kin_status kin_bench_rows_layer(kin_bench *b);
kin_status kin_bench_rows_mopa(kin_bench *b);

/* bench_config.c: a model for measuring, from a configuration file, a training configuration or a
 * model directory. */
typedef struct kin_bench_model {
    cJSON *config; /* the transformer's; owned */
    kin_params *params;
    kin_model *model;
    kin_pipeline *pipe; /* owner of the above when loaded from a directory */
} kin_bench_model;

/* Sizes of what a forward reads. 0: the model's own. */
typedef struct kin_bench_size {
    int64_t batch, frames, height, width;
    bool guided; /* the second half of the batch is unconditional */
} kin_bench_size;

typedef struct kin_bench_input {
    kin_tensor x, t, label, text, null, prior, quant, u;
    kin_model_input in;
    int64_t tokens; /* per sample */
} kin_bench_input;

/* The transformer's configuration out of FILE. Fails: FORMAT. */
kin_status kin_bench_config_read(const char *path, cJSON **out, kin_error *err);
/* Parameters in f32 with random values (also those that start at zero); plan: sizes only. grads:
 * with gradients. config is copied. */
kin_status kin_bench_model_make(const cJSON *config, bool plan, bool grads, kin_bench_model *m,
                                kin_error *err);
void kin_bench_model_free(kin_bench_model *m);
/* Random inputs in the workspace. Sizes that are 0 are set to what was taken. */
kin_status kin_bench_input_make(kin_ctx *ctx, const kin_model *model, kin_bench_size *size,
                                kin_bench_input *in);

/* One forward of the model on the plan backend: its work and workspace. */
kin_status kin_bench_plan(const cJSON *config, const kin_bench_size *size, kin_dtype compute,
                          kin_cost *cost, size_t *workspace, kin_error *err);

/* The fields of the report that model and train share: ops and their shares from a profile. */
kin_status kin_bench_add_ops(kin_bench *b, const kin_profile *p, double seconds);
/* On a device: how often a recording was played in place of launches. Nothing on the CPU. */
void kin_bench_add_played(kin_bench *b, long played);
const char *kin_bench_family(const kin_model *model);
kin_bench_size kin_bench_size_of(const kin_args *args);
kin_status kin_bench_dtype_of(const kin_args *args, kin_dtype *out, kin_error *err);

/* Bytes; 0: there are none. */
typedef struct kin_bench_memory {
    double weights, packed, gradients, optimizer, workspace_planned, workspace_used, peak_rss;
} kin_bench_memory;
void kin_bench_add_memory(kin_bench *b, const kin_bench_memory *m);
/* The most memory this process has held so far, in bytes. */
double kin_bench_peak_rss(void);

kin_status kin_bench_ops(const kin_args *args, kin_error *err);
kin_status kin_bench_forward(const kin_args *args, kin_error *err);
kin_status kin_bench_train(const kin_args *args, kin_error *err);
kin_status kin_bench_scaling(const kin_args *args, kin_error *err);
kin_status kin_bench_calibrate(const kin_args *args, kin_error *err);

#endif
