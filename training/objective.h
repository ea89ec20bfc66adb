/* training/objective.h: one micro-batch of training: inputs from stored samples and counter-based
 * draws, forward, loss, backward. Rectified flow or DDPM with NATIVE's condition dropout, the text
 * encoder trained with the transformer; Wan and CogVideoX as WISA fine-tunes them, on cached
 * latents and text states. Classifiers of images: cross-entropy of their labels. Autoencoders:
 * reconstruction and divergence. */
#ifndef KIN_TRAINING_OBJECTIVE_H
#define KIN_TRAINING_OBJECTIVE_H

#include "diffusion/losses.h"
#include "diffusion/pipeline.h"
#include "training/levels.h"
#include "training/loader.h"
#include "training/vae_objective.h"

/* What a forward of a batch reads; tensors in the workspace. data NULL: the model has no such
 * input. */
typedef struct kin_train_inputs {
    kin_tensor x0;           /* [B,C,F,H,W], image models [B,C,H,W] */
    kin_tensor noise, sigma; /* as x0; [B] */
    kin_tensor t;            /* [B] = 1000 sigma, or the step */
    kin_tensor xt, target;   /* kin_flow_mix, kin_ddpm_mix */
    kin_tensor index;        /* i32 [B]: DDPM: steps of the process */
    kin_tensor ab;           /* [B]: CogVideoX: alphas_cumprod of t */
    kin_tensor states;       /* [B,T,text_dim] cached text states, in place of ids and mask */
    kin_tensor ids, mask;    /* i32, u8 [B,T] */
    kin_tensor null;         /* u8 [B] */
    kin_tensor prior, quant; /* after dropout */
    kin_tensor true_prior;
    kin_tensor u;     /* [phys_blocks,B,phys_heads] */
    kin_tensor label; /* i32 [B] after dropout */
} kin_train_inputs;

/* The empty prompt as ids, for dropped samples. */
typedef struct kin_null_text {
    int32_t *ids; /* [text_len] */
    uint8_t *mask;
} kin_null_text;

typedef struct kin_train_task {
    kin_pipeline *pipe;
    kin_objective_options objective;
    const kin_ddpm *ddpm;     /* NULL: rectified flow */
    kin_vae_objective vae;    /* of an autoencoder */
    const kin_levels *levels; /* NULL, or the levels of the published fine-tuning */
    uint64_t seed;
    float latent_scale, latent_shift;          /* of cached latents: x0 = (z - shift) * scale */
    const float *latent_mean, *latent_inv_std; /* [C], or NULL: before the draw, means and
                                              log-variances become (v - mean[c]) * inv_std[c] */
    kin_null_text null_text;
    void (*forward_done)(void *user); /* NULL, or called between forward and backward (timing) */
    void *user;
} kin_train_task;

/* What the pipeline's scheduler says for task->ddpm: a process, kept in *ddpm (kin_ddpm_free), or
 * for a flow NULL. Fails: as the scheduler's configuration is read. */
kin_status kin_train_process(const kin_pipeline *p, kin_ddpm *ddpm, kin_train_task *task,
                             kin_error *err);
/* step: of the draw from the posterior of cached latents (0: validation). x0, ids, mask, null,
 * prior, quant, label of a batch as they are stored, without dropout. Fails: ARG for a model that
 * does not take RGB clips of this size; MEM. */
kin_status kin_train_clean(kin_ctx *ctx, const kin_train_task *task, const kin_batch *batch,
                           uint32_t step, kin_train_inputs *in);
/* The above with everything drawn for training step `step` (from 1): noise, times, dropped
 * conditions, gate flips. All draws are keyed by (seed, purpose, global sample index, step). */
kin_status kin_train_draw(kin_ctx *ctx, const kin_train_task *task, const kin_batch *batch,
                          uint32_t step, kin_train_inputs *in);
/* Encoder states [B,T,text_dim] of in->ids, rows after the eos 0; data NULL without text.
 * Differentiable. */
kin_status kin_train_encode(kin_ctx *ctx, const kin_train_task *task, const kin_train_inputs *in,
                            kin_tensor *states);
/* Cached moments [2C,f,h,w] of one sample of `batch` and standard normal draws z [C,f,h,w], which
 * become the latents of the model: the draw from the posterior, log-variances clamped to [-30,20],
 * in the units of the model. */
void kin_train_posterior(const kin_train_task *task, const kin_sample_shape *shape,
                         const float *moments, float *z);
/* x_t and the target from x0, noise and the levels (sigma, t, index); in->xt, in->target and in->ab
 * are set. */
kin_status kin_train_mix(kin_ctx *ctx, const kin_train_task *task, kin_train_inputs *in);
/* x_t and the target of in->x0 and in->noise at level sigma_of(b) in [0,1]: flows at that sigma,
 * DDPM at the step nearest to that share of its process. in->sigma, in->t, in->index are set. */
kin_status kin_train_noise_at(kin_ctx *ctx, const kin_train_task *task, float sigma,
                              kin_train_inputs *in);
/* Forward of the model on in->xt. */
kin_status kin_train_forward(kin_ctx *ctx, const kin_train_task *task, const kin_train_inputs *in,
                             const kin_tensor *text, kin_model_output *out);

/* Values of the parts of the loss. */
typedef struct kin_train_losses {
    double total, flow, vb, bce, classifier, aux;
    double accuracy; /* share of labels that are right */
    double rec, kl;  /* of autoencoders, see kin_vae_losses */
    bool has_flow, has_vb, has_bce, has_aux, has_accuracy, has_rec;
} kin_train_losses;

/* While recording: forward, loss, backward of inputs that are ready; losses are added to *sum.
 * Fails: NUMERIC when the loss is not finite. */
kin_status kin_train_backward(kin_ctx *ctx, const kin_train_task *task, const kin_train_inputs *in,
                              const kin_tensor *text, kin_train_losses *sum);

/* How many of the labels [B] have the largest of the logits [B,n]. */
int64_t kin_train_right_labels(const kin_tensor *logits, const int32_t *label);

/* Draws, forward, backward of one micro-batch: gradients are added to the tables, losses to *sum.
 * The workspace is left as found. Fails: NUMERIC when the loss is not finite. */
kin_status kin_train_micro_step(kin_ctx *ctx, const kin_train_task *task, const kin_batch *batch,
                                uint32_t step, kin_train_losses *sum);

#endif
