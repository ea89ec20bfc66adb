/* diffusion/ddpm.h: the DDPM objective of image models: a discrete process, prediction of noise, of
 * the sample or of v, and the hybrid loss with a learned variance. Ho et al. 2020 (arXiv
 * 2006.11239), Nichol & Dhariwal 2021 (arXiv 2102.09672), training_losses of ADM. */
#ifndef KIN_DIFFUSION_DDPM_H
#define KIN_DIFFUSION_DDPM_H

#include "samplers/betas.h"
#include "tensor/ops.h"

typedef struct kin_ddpm_options {
    kin_beta_schedule schedule; /* LINEAR (1e-4..0.02 at 1000 steps) or COSINE */
    int steps;                  /* of the process */
    kin_prediction prediction;  /* EPSILON, SAMPLE or V */
    kin_variance_type variance; /* FIXED_SMALL, FIXED_LARGE: for sampling alone; LEARNED_RANGE:
                                   channels C..2C-1, with the variational bound in the loss */
    bool rescale;               /* bound times steps/1000 */
} kin_ddpm_options;
kin_ddpm_options kin_ddpm_options_default(void); /* linear, 1000, epsilon, learned range */

typedef struct kin_ddpm {
    kin_ddpm_options opt;
    kin_process process;
} kin_ddpm;
/* Free with kin_ddpm_free. Fails: ARG (a schedule without f64 form, a variance LEARNED), MEM. */
kin_status kin_ddpm_make(const kin_ddpm_options *opt, kin_ddpm *out, kin_error *err);
/* The process of a scheduler with betas (any class of them), as its own tables have it. A variance
 * other than learned_range counts as fixed. Free likewise. Fails: ARG (a flow), FORMAT, MEM. */
kin_status kin_ddpm_of_scheduler(const kin_scheduler *s, kin_ddpm *out, kin_error *err);
void kin_ddpm_free(kin_ddpm *d);
/* The scheduler_config.json that samples such a model: DDPMScheduler, linspace times, no clipping.
 * *out: cJSON_Delete. Fails: MEM. */
kin_status kin_ddpm_scheduler(const kin_ddpm_options *opt, cJSON **out, kin_error *err);

/* x_t = sqrt(ab) x0 + sqrt(1-ab) noise and the target of the prediction, for steps index[B] (0 ..
 * steps-1); x0, noise [B,C,...] f32 contiguous. No gradient. Fails: SHAPE, ARG, MEM. */
kin_status kin_ddpm_mix(kin_ctx *ctx, const kin_ddpm *d, const kin_tensor *x0,
                        const kin_tensor *noise, const int32_t *index, kin_tensor *xt,
                        kin_tensor *target);

/* What a loss reads: as made by kin_ddpm_mix. */
typedef struct kin_ddpm_input {
    const kin_tensor *x0, *xt, *target;
    const int32_t *index; /* [B], must stay until backward is done */
} kin_ddpm_input;
typedef struct kin_ddpm_terms {
    kin_tensor mse;   /* scalar: mean((y - target)^2) over the first C channels */
    kin_tensor vb;    /* scalar, in bits: mean over the batch; data NULL with a fixed variance */
    kin_tensor vb_of; /* [B] f32, without gradient; data NULL likewise */
    kin_tensor total;
} kin_ddpm_terms;
/* Losses of the network's output y [B,C or 2C,...], f32. The mean is detached in the bound.
 * Differentiable in y. Fails: SHAPE, MEM. */
kin_status kin_ddpm_loss(kin_ctx *ctx, const kin_ddpm *d, const kin_ddpm_input *in,
                         const kin_tensor *y, kin_ddpm_terms *out);

#endif
