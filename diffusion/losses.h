/* diffusion/losses.h: the training objective of all families: times, noising, condition dropout,
 * and the terms of the loss. Rectified flow as Esser et al. 2024 (arXiv 2403.03206); classifier
 * term as WISA (arXiv 2503.08153); NATIVE form of both. */
#ifndef KIN_DIFFUSION_LOSSES_H
#define KIN_DIFFUSION_LOSSES_H

#include "diffusion/ddpm.h"
#include "diffusion/model.h"
#include "physics/classifier.h"
#include "tensor/rng.h"

typedef enum kin_time_scheme {
    KIN_TIME_LOGIT_NORMAL = 0, /* u = sigmoid((mean + std n) sigmoid_scale), n normal */
    KIN_TIME_UNIFORM,          /* u = n, n uniform */
    KIN_TIME_MODE,             /* u = 1 - n - mode_scale (cos^2(pi n/2) - 1 + n), n uniform */
    KIN_TIME_MIXED,            /* each sample uniform or logit-normal with probability 1/2 */
    KIN_TIME_SIGMA_SQRT,       /* uniform, and the loss weighs sigma^-2 */
    KIN_TIME_COSMAP            /* uniform, and the loss weighs 2 / (pi (1 - 2 sigma + 2 sigma^2)) */
} kin_time_scheme;
/* Names: "logit_normal", "uniform", "mode", "mixed", "sigma_sqrt", "cosmap". Fails: ARG naming the
 * nearest. */
kin_status kin_time_scheme_parse(const char *name, kin_time_scheme *out, kin_error *err);

typedef struct kin_objective_options {
    kin_time_scheme scheme;
    float logit_mean, logit_std, sigmoid_scale, mode_scale;
    float shift;             /* sigma = shift u / (1 + (shift-1) u); > 0 */
    float condition_dropout; /* everything: text "", null 1, prior = quant = 0 */
    float prior_dropout,
        quant_dropout; /* independently, for samples that keep their text; < 0: condition_dropout */
    kin_classifier_loss_kind classifier_loss;
} kin_objective_options;
kin_objective_options
kin_objective_options_default(void); /* logit-normal 0, 1; shift 1; dropout 0.1 each; WISA */

/* u in (0,1) from one draw n (normal for logit-normal, uniform otherwise); MIXED counts as
 * logit-normal here. */
float kin_time_u(const kin_objective_options *opt, float n);
/* sigma of u, in f32 as the references. */
float kin_time_sigma(float shift, float u);
/* One u from the stream (purpose TIME; sample = global sample index, step = train step). */
float kin_time_draw(const kin_objective_options *opt, const kin_rng *rng);

/* What to drop of one sample; draws u[3] uniform (all, prior, quant), dropped where u <
 * probability. */
typedef struct kin_condition_drop {
    bool all, prior, quant; /* all implies the other two */
} kin_condition_drop;
kin_condition_drop kin_condition_dropout(const kin_objective_options *opt, const float u[3]);
/* The same with draws of the stream (purpose DROPOUT), elements 0..2. */
kin_condition_drop kin_condition_dropout_draw(const kin_objective_options *opt, const kin_rng *rng);

/* xt = (1-sigma) x0 + sigma noise and target = noise - x0; x0, noise [B,...] contiguous, sigma [B].
 * No gradient. */
kin_status kin_flow_mix(kin_ctx *ctx, const kin_tensor *x0, const kin_tensor *noise,
                        const kin_tensor *sigma, kin_tensor *xt, kin_tensor *target);

/* a x + sign b y for samples x, y of one shape [B,...] and factors a, b [B,1]. Fails: MEM. */
kin_status kin_weighted_sum(kin_ctx *ctx, const kin_tensor *a, const kin_tensor *x, float sign,
                            const kin_tensor *b, const kin_tensor *y, kin_tensor *sum);
/* The clean estimate sqrt(ab) xt - sqrt(1-ab) v of a model that predicts v = sqrt(ab) noise -
 * sqrt(1-ab) x0; xt, v [B,...], ab [B]. Differentiable in v. */
kin_status kin_clean_of_v(kin_ctx *ctx, const kin_tensor *xt, const kin_tensor *v,
                          const kin_tensor *ab, kin_tensor *x0);

typedef struct kin_objective_input {
    const kin_tensor *xt, *x0, *target; /* [B,C,...] as the model's x */
    const kin_tensor *sigma;            /* [B] */
    const kin_tensor *weight;           /* [B] of kin_objective_weight, or NULL: made of sigma */
    const kin_tensor
        *prior; /* [B,29] the TRUE prior, also of dropped samples; NULL without classifier */
    const kin_ddpm *ddpm;        /* the DDPM objective, or NULL: rectified flow */
    const kin_tensor *ab;        /* [B] alphas_cumprod: the model predicts v and the loss is that of
                                    the clean estimate (CogVideoX); NULL: rectified flow */
    const int32_t *index;        /* [B] steps of its process; must stay until backward is done */
    const kin_tensor *has_prior; /* [B] 1 or 0, same float type; NULL: all */
} kin_objective_input;

/* What the samples of a flow weigh in its loss [B], in host memory; data NULL: all 1. Fails: MEM.
 */
kin_status kin_objective_weight(kin_ctx *ctx, const kin_model *model,
                                const kin_objective_options *opt, const kin_tensor *sigma,
                                kin_tensor *weight);

/* Scalars; data NULL where a model has no such term. total = flow + vb + classifier + aux (always
 * set).
 */
typedef struct kin_objective_terms {
    kin_tensor flow;       /* mean((v - target)^2) (DDPM: of its own target), or mean((y - x0)^2 /
                              max(sigma, floor)^2) with sample_loss_floor, or with ab
                              mean((estimate - x0)^2 / (1 - ab)) */
    kin_tensor vb;         /* DDPM with a learned variance: the bound in bits */
    kin_tensor bce;        /* a */
    kin_tensor classifier; /* c(a) */
    kin_tensor aux;        /* as the model gave it */
    kin_tensor total;
} kin_objective_terms;
kin_status kin_objective(kin_ctx *ctx, const kin_model *model, const kin_objective_options *opt,
                         const kin_objective_input *in, const kin_model_output *out,
                         kin_objective_terms *terms);

#endif
