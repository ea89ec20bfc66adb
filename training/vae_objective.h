/* training/vae_objective.h: what an autoencoder is trained on: the error of its reconstruction and
 * the divergence of its posterior (Kingma and Welling 2013; weighted as Rombach et al. 2022). */
#ifndef KIN_TRAINING_VAE_OBJECTIVE_H
#define KIN_TRAINING_VAE_OBJECTIVE_H

#include "vision/vae.h"

typedef struct kin_vae_objective {
    bool squared;     /* (x - rec)^2 in place of |x - rec| */
    double kl_weight; /* 1e-6 of Rombach et al. */
} kin_vae_objective;
kin_vae_objective kin_vae_objective_default(void); /* L1, 1e-6 */

typedef struct kin_vae_losses {
    kin_tensor total; /* scalar: rec + kl_weight * kl */
    kin_tensor rec;   /* scalar: mean over all values of x */
    kin_tensor kl;    /* scalar: divergence summed over the batch, per value of x */
    kin_tensor y;     /* the reconstruction, as x */
} kin_vae_losses;

/* x [B,C,H,W] in [-1,1], sizes multiples of the reduction; noise [B,L,h,w] standard normal; of
 * videos [B,C,F,H,W] and [B,L,f,h,w]. Differentiable in the parameters. Fails: SHAPE. */
kin_status kin_vae_objective_losses(kin_ctx *ctx, const kin_vae *vae, const kin_vae_objective *o,
                                    const kin_tensor *x, const kin_tensor *noise,
                                    kin_vae_losses *out);

/* A tensor for the noise of x, in the workspace, without values. */
kin_status kin_vae_objective_shape(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *x,
                                   kin_tensor *z);
/* Fails (ARG) unless pictures of this size come out of the autoencoder as large as they went in. */
kin_status kin_vae_objective_check(const kin_vae *vae, int64_t frames, int64_t height,
                                   int64_t width, kin_error *err);

#endif
