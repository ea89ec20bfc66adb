/* training/train.h: the training loop as the command line sees it. */
#ifndef KIN_TRAINING_TRAIN_H
#define KIN_TRAINING_TRAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "diffusion/pipeline.h"

/* What a step was like; handed out after each logged one, which alone has rates and shares. */
typedef struct kin_train_report {
    int64_t step, steps;
    double loss, mse, bce, aux, grad_norm, lr;
    double it_per_s, tokens_per_s, eta_s;
    double expert_share_min, expert_share_max; /* over MoE layers, -1 without experts */
    double val_loss;                           /* -1 where no validation ran at this step */
    double accuracy;                           /* of a classifier, else -1 */
    double rec;                                /* of an autoencoder, else -1 */
} kin_train_report;

typedef struct kin_train_options {
    const char *config;    /* train.json */
    const char *objective; /* "vae": objective.kind; "classify": kin_train_config_classifier,
                              without config; NULL: the configuration's */
    const char *data;      /* dataset: json, folder or tar; overrides the config's "data" */
    const char *run;       /* run folder */
    bool resume;           /* go on from run/latest, exactly */
    int64_t steps;         /* > 0 overrides the config */
    bool dry_run;          /* plan only: fills peak_bytes */
    bool force;            /* start although the plan does not fit */
    int64_t stop_at;       /* > 0: save and stop after this step as a signal would (tests) */
    /* Polled after every step: a signal number asks to save and stop. */
    int (*interrupted)(void *user);
    void (*report)(void *user, const kin_train_report *r);
    void (*message)(void *user, const char *text); /* notes and warnings, one line each */
    void *user;
    /* out */
    uint64_t peak_bytes; /* dry run: planned peak */
} kin_train_options;

/* The same step by step. Opening does all that comes before the first step; ctx and opt must live
 * until kin_train_close, which gives back what is held (NULL and *t NULL: nothing). Fails as
 * kin_train_run, with the text in ctx->error; *out is NULL then. */
typedef struct kin_trainer kin_trainer;
kin_status kin_train_open(kin_ctx *ctx, kin_train_options *opt, kin_trainer **out);
void kin_train_close(kin_trainer **t);
/* One optimizer step and what is due after it: log, validation, samples, checkpoint. Ends with a
 * checkpoint after the last one. After a failure the run can only be closed. */
kin_status kin_train_step(kin_trainer *t);
/* Whether all steps are done. */
bool kin_train_finished(const kin_trainer *t);
/* Of the last step; before the first, where the run stands. */
const kin_train_report *kin_train_last_report(const kin_trainer *t);
/* A checkpoint now. */
kin_status kin_train_save(kin_trainer *t);

/* Trains on ctx. Fails: FORMAT (config, data), IO (vanished clip, full disk), NUMERIC (NaN loss:
 * last good checkpoint stays), MEM, INTERRUPTED (saved; err.signal). */
kin_status kin_train_run(kin_ctx *ctx, kin_train_options *opt);

#endif
