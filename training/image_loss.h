/* training/image_loss.h: the validation loss of an image model at fixed times with fixed noise,
 * beside that of the best affine denoiser of the training images at each time (wiener.h). */
#ifndef KIN_TRAINING_IMAGE_LOSS_H
#define KIN_TRAINING_IMAGE_LOSS_H

#include "diffusion/pipeline.h"

/* The middle of each tenth of the distribution from which training draws its times (flows:
 * logit-normal levels; DDPM: all steps alike), so that the plain mean of the errors stands for the
 * training objective. */
enum { KIN_IMAGE_LOSS_TIMES = 10 };

typedef struct kin_image_loss_options {
    const char *data; /* class folders */
    int64_t count;    /* held-out images, 0: see images.h */
    int64_t batch;    /* images per forward; changes the result in rounding alone */
    uint64_t seed;    /* of the noise */
    /* Polled after each batch, `what` is being gone through; non-OK stops. */
    kin_status (*progress)(void *user, const char *what, int64_t done, int64_t total,
                           kin_error *err);
    void *user;
} kin_image_loss_options;

typedef struct kin_image_loss {
    int64_t images, training_images;
    bool ddpm;                         /* the model's scheduler is not one of a flow */
    double time[KIN_IMAGE_LOSS_TIMES]; /* sigma of a flow, or the step */
    /* mean((y - target)^2) at each time, and their mean: of the velocity, or of what the DDPM
     * predicts */
    double at[KIN_IMAGE_LOSS_TIMES], mean;
    bool has_vb; /* a learned variance: its bound in bits, to be added for the hybrid loss */
    double vb[KIN_IMAGE_LOSS_TIMES], vb_mean;
    /* of the affine denoiser; absent for images of more than KIN_EIGEN_MAX values */
    bool has_linear;
    double linear_at[KIN_IMAGE_LOSS_TIMES], linear_mean;
} kin_image_loss;

/* Fails: IO, FORMAT (data), ARG (nothing is held out, too many classes), NUMERIC, MEM, what
 * progress returned. */
kin_status kin_image_loss_run(kin_pipeline *pipeline, const kin_image_loss_options *opt,
                              kin_image_loss *out, kin_error *err);

#endif
