/* training/wiener.h: the best affine denoiser of a set of samples at each noise level: with mean m
 * and covariance S of the set, x0 is estimated from xt = (1-s) x0 + s n as m + (1-s) S ((1-s)^2 S +
 * s^2)^-1 (xt - (1-s) m) (Wiener filter). What a network must be better than. */
#ifndef KIN_TRAINING_WIENER_H
#define KIN_TRAINING_WIENER_H

#include "training/eigen.h"

typedef struct kin_wiener {
    int64_t dim;
    double *mean;   /* [dim] */
    double *axes;   /* [dim,dim] eigenvectors of the covariance as rows */
    double *values; /* [dim] eigenvalues */
} kin_wiener;

/* From the moments of the set. Fails: NUMERIC, MEM. Free: kin_wiener_free. */
kin_status kin_wiener_fit(kin_moments *m, kin_wiener *out, kin_error *err);
void kin_wiener_free(kin_wiener *w);
/* Adds to sum[k] the squared error of the velocity (xt - x0 estimate) / s against n - x0 at
 * sigma[k], mean over a sample's values, of each of the samples x0, noise [n,dim]. Fails: MEM. */
kin_status kin_wiener_error(const kin_wiener *w, const float *x0, const float *noise, int64_t n,
                            const float *sigma, int sigmas, double *sum, kin_error *err);

#endif
