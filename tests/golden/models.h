/* tests/golden/models.h: what the kinds with a whole transformer share: building it from a case,
 * one optimizer step. */
#ifndef KIN_TESTS_GOLDEN_MODELS_H
#define KIN_TESTS_GOLDEN_MODELS_H

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

typedef struct kin_golden_adamw {
    double lr, beta1, beta2, eps, weight_decay, max_grad_norm, ema_decay;
} kin_golden_adamw;
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
