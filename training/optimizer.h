/* training/optimizer.h: AdamW (Loshchilov and Hutter, arXiv 1711.05101) over parameter tables, with
 * global-norm clipping, learning-rate schedule and moving average of the weights (EMA). The state
 * is one block each for first moments, second moments and averages. Parameters that are not
 * trained but owned by the table (buffers) are averaged by copying; frozen ones in memory of others
 * (mapped files) take no part. */
#ifndef KIN_TRAINING_OPTIMIZER_H
#define KIN_TRAINING_OPTIMIZER_H

#include "tensor/kernels.h"

enum { KIN_OPTIMIZER_TABLES = 2, KIN_OPTIMIZER_FACTORS = 16, KIN_OPTIMIZER_NAME_MAX = 320 };

typedef enum kin_lr_schedule {
    KIN_LR_CONSTANT = 0,
    KIN_LR_COSINE,
    KIN_LR_FROM_ZERO /* constant_with_warmup of diffusers: update n of a warm-up w gets (n-1)/w */
} kin_lr_schedule;

/* Learning rate of all parameters whose full name begins with `prefix`, relative to the others. */
typedef struct kin_lr_factor {
    char prefix[128];
    double factor;
} kin_lr_factor;

typedef struct kin_optimizer_options {
    double lr, beta1, beta2, eps, weight_decay;
    bool decay_matrices_only; /* decay only parameters named *.weight with two or more dimensions */
    double max_grad_norm;     /* scale min(1, max/(norm+1e-6)); 0: no clipping */
    double ema_decay;         /* 0: the average is the weights themselves */
    bool no_ema;              /* no averages are kept: the weights stand for them */
    bool ema_warmup;          /* decay of update n = min(decay, (1+n)/(10+n)), n from 1 */
    kin_lr_schedule schedule;
    int64_t warmup_steps;  /* lr rises linearly: update n of w gets n/w */
    int64_t steps;         /* length of the cosine, warm-up included */
    double final_fraction; /* lr at its end relative to lr */
    int factors;
    kin_lr_factor factor[KIN_OPTIMIZER_FACTORS]; /* the longest fitting prefix counts */
} kin_optimizer_options;
/* 1e-4, 0.9/0.999, eps 1e-8, no decay, clip 1, EMA 0.9999 without warm-up, constant. */
kin_optimizer_options kin_optimizer_options_default(void);

/* Learning rate of update `step` (from 1), without the factors. */
double kin_lr_at(const kin_optimizer_options *o, int64_t step);
/* EMA decay of update `step` (from 1). */
double kin_ema_decay_at(const kin_optimizer_options *o, int64_t step);

/* One parameter with its state. */
typedef struct kin_optimizer_slot {
    kin_param *param;
    int table;
    int64_t n;
    float *m, *v, *ema; /* into the blocks; ema NULL with no_ema */
    float decay, lr_factor;
} kin_optimizer_slot;

typedef struct kin_optimizer {
    kin_optimizer_options opt;
    int64_t step; /* updates done */
    int count;
    kin_optimizer_slot *slot;
    kin_adamw_part *part;                     /* [count], filled for each update */
    const char *prefix[KIN_OPTIMIZER_TABLES]; /* full name = prefix + name */
    float *block;                             /* m, v and ema, one after the other */
    size_t bytes;                             /* of the block */
    bool swapped;                             /* the parameters show the averages */
    kin_ctx *home; /* NULL, or where values, gradients and state lie (kin_optimizer_settle) */
} kin_optimizer;

/* tables[n] (n <= 2; NULL entries are left out) with the prefixes of their full names ("",
 * "text_encoder."). Values must be f32; the averages start at the values. plan: sizes only.
 * Parameters without gradient keep their value. *out is the caller's: kin_optimizer_destroy. Fails:
 * ARG (values not f32, a factor that names nothing), MEM. */
kin_status kin_optimizer_create(const kin_optimizer_options *opt, kin_params *const *tables,
                                const char *const *prefixes, int n, bool plan, kin_optimizer **out,
                                kin_error *err);
void kin_optimizer_destroy(kin_optimizer **opt);

/* Moves what an update touches to ctx's device, where it stays: the host's copies are old until
 * kin_optimizer_bring. Nothing where tensors lie in host memory. ctx must outlive the optimizer.
 * Fails: MEM. */
kin_status kin_optimizer_settle(kin_ctx *ctx, kin_optimizer *opt);
/* Brings values, moments and averages to the host, where they can be read. */
kin_status kin_optimizer_bring(const kin_optimizer *opt);

/* What one update did. */
typedef struct kin_optimizer_report {
    double grad_norm; /* before clipping, of the scaled gradients */
    double lr;
} kin_optimizer_report;

/* One update from the gradients times `scale` (1/micro-batches), which are 0 afterwards; touches
 * the parameters. Fails: NUMERIC when the norm is not finite (nothing is changed then). */
kin_status kin_optimizer_step(kin_ctx *ctx, kin_optimizer *o, double scale,
                              kin_optimizer_report *report);

/* Exchanges what the parameters point to: weights <-> averages, for validation and samples. Twice
 * is nothing. */
void kin_optimizer_swap_ema(kin_optimizer *o);
/* The average of a parameter, or NULL for one that is not in table `table`. */
const float *kin_optimizer_ema(const kin_optimizer *o, int table, const kin_param *p);
/* Full name of slot i into buf; returns buf. */
const char *kin_optimizer_name(const kin_optimizer *o, int i, char *buf, size_t bytes);

#endif
