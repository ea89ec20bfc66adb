/* training/trainer.h: the parts of a training run. Internal to training/. */
#ifndef KIN_TRAINING_TRAINER_H
#define KIN_TRAINING_TRAINER_H

#include "base/lock.h"
#include "training/checkpoint.h"
#include "training/log.h"
#include "training/train.h"
#include "training/validate.h"

/* Tokens per expert and MoE layer, counted while a logged step runs. */
typedef struct kin_expert_counts {
    int64_t layers, experts; /* routed experts; column `experts` holds the unconditional one */
    int64_t *n;              /* [layers, experts+1] */
    bool *seen;              /* [layers] */
    double *share;           /* [experts+1] scratch */
} kin_expert_counts;

struct kin_trainer {
    kin_ctx *ctx;
    kin_train_options *opt;
    kin_train_config cfg;
    kin_source *source;
    kin_pipeline *pipe;
    kin_optimizer *optim;
    kin_loader *loader;
    kin_train_task task;
    kin_ddpm ddpm;     /* the process of task.ddpm */
    kin_levels levels; /* of task.levels */
    kin_batch held_out;
    kin_log log;
    kin_expert_counts experts;
    kin_lock lock;              /* of the run folder */
    char encoded[KIN_PATH_MAX]; /* folder of the clips encoded for this run, or "" */
    void *spiece;               /* the tokenizer of a new model, NULL: not made yet */
    size_t spiece_bytes;
    char *prompts; /* of the sample grid, zero-separated */
    const char **prompt;
    double started, logged;      /* monotonic seconds */
    int64_t logged_step, tokens; /* tokens per step */
    int64_t step;
    kin_train_report report; /* of the last step */
    kin_dtype compute;       /* of ctx, before this run chose its own */
    const char *data;        /* of opt, likewise */
};

/* A note or warning to the user. */
void kin_trainer_message(const kin_trainer *t, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
double kin_trainer_clock(void);

/* setup.c: everything up to the first step; checkpoint: folder to go on from, or NULL. On a plan
 * context only shapes are made. */
kin_status kin_trainer_setup(kin_trainer *t, const char *checkpoint);
void kin_trainer_close(kin_trainer *t);

/* finetune.c: the same for a published model that is fine-tuned. */
kin_status kin_trainer_setup_finetune(kin_trainer *t, const char *checkpoint);
/* Clips that are not encoded yet are, into the folder encoded/ of the run (made or gone on with);
 * opt->data names it from then on. `path` must live as long as opt. */
kin_status kin_trainer_encode_data(kin_ctx *ctx, kin_train_options *opt, char path[KIN_PATH_MAX]);
/* setup.c: moments and averages of the parameters, from the checkpoint if there is one. */
kin_status kin_trainer_make_optimizer(kin_trainer *t, const char *checkpoint);

/* plan.c: planned peak of the process in bytes, by running one step of t (on a plan context)
 * without data. */
kin_status kin_trainer_plan(kin_trainer *t, uint64_t *peak);
/* Bytes the machine still has for us: the smaller of MemAvailable and what the cgroup leaves; 0:
 * unknown. */
uint64_t kin_memory_available(void);

/* report.c */
kin_status kin_trainer_experts_alloc(kin_trainer *t);
void kin_trainer_watch_experts(kin_trainer *t, bool on);
/* What a step was like, into t->report. */
void kin_trainer_report_step(kin_trainer *t, const kin_train_losses *losses,
                             const kin_optimizer_report *update);
/* Writes it into the log, with rates and the experts' shares. */
kin_status kin_trainer_log_step(kin_trainer *t, const kin_train_losses *losses);
kin_status kin_trainer_validate(kin_trainer *t);

/* samples.c: run/samples/STEP.png. A value that is not finite is NUMERIC. */
kin_status kin_trainer_samples(kin_trainer *t);
/* Held-out samples in pairs, each above what the autoencoder gives back. */
kin_status kin_trainer_reconstructions(kin_trainer *t);

#endif
