/* samplers/density.h: densities of the training time u in (0,1), as
 * compute_density_for_timestep_sampling of diffusers (Esser et al. 2024, section 3.1). */
#ifndef KIN_SAMPLERS_DENSITY_H
#define KIN_SAMPLERS_DENSITY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef enum kin_density_kind {
    KIN_DENSITY_UNIFORM = 0,  /* u */
    KIN_DENSITY_LOGIT_NORMAL, /* sigmoid(mean + std z), z normal */
    KIN_DENSITY_MODE          /* 1 - u - k (cos^2(pi u/2) - 1 + u) */
} kin_density_kind;

typedef struct kin_density {
    kin_density_kind kind;
    double logit_mean, logit_std; /* LOGIT_NORMAL */
    double mode_scale;            /* MODE: k */
} kin_density;
/* Logit-normal, mean 0, standard deviation 1; mode scale 1.29. */
kin_density kin_density_default(void);

/* "logit_normal", "mode", "uniform" (also "none", "sigma_sqrt", "cosmap", which draw uniformly).
 * Fails: ARG. */
kin_status kin_density_parse(const char *name, kin_density_kind *out, kin_error *err);
/* True if the draw of this kind is normal, else it is uniform. */
bool kin_density_wants_normal(kin_density_kind kind);
/* n draws (standard normal or uniform in [0,1), see above) -> times u; u may be draw. */
void kin_density_apply(const kin_density *density, const float *draw, int64_t n, float *u);

/* Weights of the loss at a noise level (compute_loss_weighting_for_sd3). */
typedef enum kin_loss_weighting {
    KIN_WEIGHT_NONE = 0,
    KIN_WEIGHT_SIGMA_SQRT, /* sigma^-2 */
    KIN_WEIGHT_COSMAP      /* 2 / (pi (1 - 2 sigma + 2 sigma^2)) */
} kin_loss_weighting;
/* "sigma_sqrt", "cosmap"; "none" and the other names of kin_density_parse weigh nothing. Fails:
 * ARG.
 */
kin_status kin_loss_weighting_parse(const char *name, kin_loss_weighting *out, kin_error *err);
double kin_loss_weight(kin_loss_weighting kind, double sigma);

#endif
