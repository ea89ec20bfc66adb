/* cli/bench_step.h: a training step to be measured: of a training configuration with its data, or
 * of a model configuration alone, on noise. */
#ifndef KIN_CLI_BENCH_STEP_H
#define KIN_CLI_BENCH_STEP_H

#include "cli/bench.h"
#include "training/bench.h"
#include "training/optimizer.h"

typedef struct kin_bench_step {
    kin_ctx *ctx; /* not owned */
    double (*clock)(void *user);
    void *user;
    kin_train_bench *run; /* of a training configuration; NULL: the rest is used */
    kin_bench_model model;
    kin_optimizer *optim;
    kin_replay *replay; /* on a device: recordings of forward and backward, as the trainer's */
    kin_bench_size size;
    uint32_t steps;
    /* what a report says */
    kin_train_bench_info info;
    const kin_params *params, *text_params; /* text_params NULL: none is trained */
} kin_bench_step;

/* True for a training configuration (it has "data" or "optimizer"). Fails: FORMAT. */
kin_status kin_bench_is_training(const char *path, bool *out, kin_error *err);
/* On ctx (plan: sizes alone). The error goes to ctx->error. */
kin_status kin_bench_step_open(kin_ctx *ctx, const char *path, const kin_bench_size *size,
                               double (*clock)(void *user), void *user, kin_bench_step *s);
void kin_bench_step_close(kin_bench_step *s);
kin_status kin_bench_step_run(kin_bench_step *s, kin_train_phases *phases);
/* How often a recording was played so far. */
long kin_bench_step_played(const kin_bench_step *s);

#endif
