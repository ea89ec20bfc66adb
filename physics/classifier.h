/* physics/classifier.h: the physical classifier on the physical token and its loss (WISA, arXiv
 * 2503.08153, section 3.3). */
#ifndef KIN_PHYSICS_CLASSIFIER_H
#define KIN_PHYSICS_CLASSIFIER_H

#include "tensor/ops.h"

enum { KIN_CLASSIFIER_HIDDEN = 512 };

/* logits = W2 silu(W0 token + b0) + b2 */
typedef struct kin_classifier {
    kin_param *w0, *b0, *w2, *b2;
} kin_classifier;

/* Registers PREFIX0.weight [512,D], PREFIX0.bias, PREFIX2.weight [classes,512], PREFIX2.bias;
 * failures in params->failed. */
void kin_classifier_register(kin_params *params, const char *prefix, int64_t width, int64_t classes,
                             kin_classifier *c);
/* token [B,D] (any row stride) -> logits [B,classes]. */
kin_status kin_classifier_forward(kin_ctx *ctx, const kin_classifier *c, const kin_tensor *token,
                                  kin_tensor *logits);

typedef enum kin_classifier_loss_kind {
    KIN_CLASSIFIER_LOSS_WISA = 0, /* a > 1: 0.10 (1+a)/(1+a'+1e-5), else 0.05 a' (1+a)/(1+a'+1e-5);
                                     a' = a without gradient */
    KIN_CLASSIFIER_LOSS_PLAIN     /* 0.1 a */
} kin_classifier_loss_kind;
/* c(a) of a scalar a; differentiable in a. */
kin_status kin_classifier_loss(kin_ctx *ctx, kin_classifier_loss_kind kind, const kin_tensor *a,
                               kin_tensor *c);

#endif
