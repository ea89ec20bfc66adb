/* training/bench.h: single steps of a training configuration with the time of each phase. No run
 * folder: nothing is logged, validated or saved. */
#ifndef KIN_TRAINING_BENCH_H
#define KIN_TRAINING_BENCH_H

#include "diffusion/pipeline.h"

/* Seconds of one step (all its micro-batches). */
typedef struct kin_train_phases {
    double data; /* waiting for the loader */
    double forward, backward, optimizer;
} kin_train_phases;

typedef struct kin_train_bench kin_train_bench;

/* Sets a run up on ctx (a plan context: sizes alone) and starts its loader; ctx->compute becomes
 * the configuration's where it names one. clock: seconds. *out is the caller's:
 * kin_train_bench_close. Fails as kin_train_run. */
kin_status kin_train_bench_open(kin_ctx *ctx, const char *config, double (*clock)(void *user),
                                void *user, kin_train_bench **out);
void kin_train_bench_close(kin_train_bench **b);

/* One step. On a plan context one micro-batch per accumulation step is counted into ctx->cost. */
kin_status kin_train_bench_step(kin_train_bench *b, kin_train_phases *out);

/* What a report says about the run so far. */
typedef struct kin_train_bench_info {
    const kin_pipeline *pipe;
    int64_t batch;  /* samples per step: batch size times accumulation */
    int64_t tokens; /* per sample */
    size_t optimizer_bytes;
    long played;            /* micro-batches that came from a recording */
    double loss, grad_norm; /* of the last step: the mean over its micro-batches; before clipping */
} kin_train_bench_info;
kin_train_bench_info kin_train_bench_get_info(const kin_train_bench *b);

#endif
