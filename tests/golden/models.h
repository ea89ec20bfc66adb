/* tests/golden/models.h: what the kinds with a whole transformer share: building it from a case,
 * inputs and judgement of a video model, one optimizer step. */
#ifndef KIN_TESTS_GOLDEN_MODELS_H
#define KIN_TESTS_GOLDEN_MODELS_H

#include "diffusion/losses.h"
#include "diffusion/model.h"
#include "tests/golden/golden.h"

typedef struct kin_golden_model {
    kin_params *params;
    kin_model *model;
    kin_params *ema, *m, *v; /* same tables for training; NULL otherwise */
} kin_golden_model;

/* Builds the model of `config` with parameters that have no values yet; free with
 * kin_golden_model_free. The arguments are those of kin_golden_model_open. */
kin_status kin_golden_model_create(kin_golden_case *c, const cJSON *config, const char *class_name,
                                   const char *const *extra, kin_golden_model *m);
/* Builds the model of `config` (the case's own or a part of it; keys of the list `extra`, ended by
 * NULL, belong to the kind and are left out; class_name, or NULL, is set where the config has none)
 * and binds w.*; free with kin_golden_model_free. */
kin_status kin_golden_model_open(kin_golden_case *c, const cJSON *config, const char *class_name,
                                 const char *const *extra, bool grads, kin_golden_model *m);
/* The same for training: values are copies, with gradients, EMA (starting at the values) and
 * moments. */
kin_status kin_golden_model_open_train(kin_golden_case *c, const cJSON *config,
                                       const char *class_name, const char *const *extra,
                                       kin_golden_model *m);
void kin_golden_model_free(kin_golden_model *m);

/* --- golden/video --- */

/* A tensor that the case may lack, also as a pointer (NULL then). */
kin_status kin_golden_optional(kin_golden_case *c, const char *name, kin_tensor *t,
                               const kin_tensor **out);
/* The inputs of a video model by the names of diffusers; `in` points into the struct, which must
 * not move. */
typedef struct kin_golden_video {
    kin_tensor x, t, text, prior, quant, u;
    kin_model_input in;
} kin_golden_video;
kin_status kin_golden_video_input(kin_golden_case *c, kin_golden_video *v);
/* Compares y (the sample of `out` in the case's layout) with out.sample, goes back from the whole
 * objective (in.target: mean square plus the classifier's term) or from in.dout, compares the
 * gradients of parameters and inputs (the watched x, and text where the case has its gradient),
 * ends the tape, and compares out.aux_loss. */
kin_status kin_golden_video_judge(kin_golden_case *c, const kin_params *params,
                                  const kin_golden_video *v, const kin_model_output *out,
                                  const kin_tensor *y);

/* --- training --- */

/* Keys of a training case's config that are not the model's. */
extern const char *const kin_golden_train_keys[];
/* sigma and t f32 [B] from the standard normal draws n [B] by weighting_scheme and shift of o. */
kin_status kin_golden_times(kin_golden_case *c, const kin_objective_options *o, const kin_tensor *n,
                            kin_tensor *sigma, kin_tensor *t);

typedef struct kin_golden_adamw {
    double lr, beta1, beta2, eps, weight_decay, max_grad_norm, ema_decay;
} kin_golden_adamw;
/* As the case's config says. */
kin_golden_adamw kin_golden_adamw_options(const kin_golden_case *c);
/* Clips to max_grad_norm, steps AdamW (step from 1) and the EMA of all trainable parameters, zeroes
 * the gradients. *norm: before clipping. */
kin_status kin_golden_adamw_step(kin_golden_case *c, kin_golden_model *m, const kin_golden_adamw *o,
                                 int step, double *norm);

/* Entry i of the first dimension of input `name` as its own view. */
kin_status kin_golden_entry(kin_golden_case *c, const char *name, int64_t i, kin_tensor *out);
/* A zeroed tensor with the shape of the file's tensor `name`, to be filled step by step. */
kin_status kin_golden_like(kin_golden_case *c, const char *name, kin_tensor *out);
/* Copies t into entry i of the first dimension of dst. */
kin_status kin_golden_store(kin_golden_case *c, kin_tensor *dst, int64_t i, const kin_tensor *t);

#endif
