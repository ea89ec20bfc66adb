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
} kin_vae_losses;

/* x [B,C,H,W] in [-1,1], sizes multiples of the reduction; noise [B,L,h,w] standard normal.
 * Differentiable in the parameters. Fails: SHAPE. */
kin_status kin_vae_objective_losses(kin_ctx *ctx, const kin_vae *vae, const kin_vae_objective *o,
                                    const kin_tensor *x, const kin_tensor *noise,
                                    kin_vae_losses *out);

#endif
