/* training/frechet.h: how far two sets of feature vectors are apart: Frechet distance of the
 * Gaussians with their moments (Heusel et al. 2017, arXiv 1706.08500), precision and recall by
 * nearest neighbours (Kynkaanniemi et al. 2019, arXiv 1904.06991). */
#ifndef KIN_TRAINING_FRECHET_H
#define KIN_TRAINING_FRECHET_H

#include <stdint.h>

#include "base/status.h"

/* rows [count,dim], the caller's */
typedef struct kin_features {
    int64_t count, dim;
    float *rows;
} kin_features;

/* |m1-m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), covariances with count-1. Fails: ARG (fewer than two
 * rows, widths that differ), UNSUPPORTED (wider than KIN_EIGEN_MAX), NUMERIC (values that are not
 * finite), MEM. */
kin_status kin_frechet_distance(const kin_features *a, const kin_features *b, double *out,
                                kin_error *err);
/* The same from mean [dim] and covariance [dim,dim] of each; nothing is changed. */
kin_status kin_frechet_of_moments(int64_t dim, const double *mean_a, const double *cov_a,
                                  const double *mean_b, const double *cov_b, double *out,
                                  kin_error *err);

/* precision: share of the rows of `made` that lie in the ball of at least one row of `real`, whose
 * radius is the distance to its k-th nearest other row of `real`; recall: the same with the two
 * exchanged. Fails: ARG (k not below both counts, widths that differ), MEM. */
kin_status kin_precision_recall(const kin_features *real, const kin_features *made, int k,
                                double *precision, double *recall, kin_error *err);

#endif
