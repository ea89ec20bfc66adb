/* training/validate.h: the velocity error on held-out samples at fixed noise levels, with noise
 * that is the same at every call, and the state of the conditioning MLPs. */
#ifndef KIN_TRAINING_VALIDATE_H
#define KIN_TRAINING_VALIDATE_H

#include "training/objective.h"

/* Reads all held-out samples of the source into one batch (size 0: there are none). Free:
 * kin_batch_free. */
kin_status kin_validation_read(kin_source *source, kin_batch *out, kin_error *err);

typedef struct kin_validation_options {
    int sigmas;
    float sigma[KIN_TRAIN_MAX_SIGMAS];
    int64_t batch; /* samples per forward */
    bool shuffled; /* every sample gets the prompt (or label) of the next one */
    uint64_t seed; /* of the noise */
} kin_validation_options;

typedef struct kin_validation_result {
    double mean;
    double at[KIN_TRAIN_MAX_SIGMAS]; /* mean((v - target)^2) per noise level, any prediction
                                        converted to v; of a DDPM that of its own prediction */
    double vb[KIN_TRAIN_MAX_SIGMAS]; /* of a DDPM with a learned variance: the bound, in bits */
} kin_validation_result;

/* With the weights the parameters show; nothing is dropped or flipped. Fails as the forward does.
 */
kin_status kin_validate(kin_ctx *ctx, const kin_train_task *task, const kin_batch *held_out,
                        const kin_validation_options *opt, kin_validation_result *out);

/* Cross-entropy and share of right labels of an image classifier, with the weights the parameters
 * show; batch: images per forward. */
kin_status kin_validate_classes(kin_ctx *ctx, const kin_train_task *task, const kin_batch *held_out,
                                int64_t batch, double *loss, double *accuracy);

/* Losses of an autoencoder that decodes the posterior's mean, with the weights the parameters show;
 * batch: samples per forward. */
kin_status kin_validate_vae(kin_ctx *ctx, const kin_train_task *task, const kin_batch *held_out,
                            int64_t batch, double *total, double *rec, double *kl);
/* Samples [at, at+n) of a batch, sharing its memory. */
kin_batch kin_batch_part(const kin_batch *all, int64_t at, int64_t n);

/* Hidden layers of the time and quantity MLPs: mean before the activation, and how much the
 * activation varies over inputs (rms over units of the standard deviation). A spread near 0 means
 * the MLP is dead: its output no longer depends on the input. */
typedef struct kin_mlp_health {
    bool has_time, has_quant;
    double time_mean, time_spread, quant_mean, quant_spread;
} kin_mlp_health;
kin_status kin_train_health(kin_ctx *ctx, const kin_train_task *task, const kin_batch *held_out,
                            kin_mlp_health *out);

#endif
