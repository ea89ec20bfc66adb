/* training/eigen.h: dense symmetric linear algebra in double, by LAPACK and BLAS. */
#ifndef KIN_TRAINING_EIGEN_H
#define KIN_TRAINING_EIGEN_H

#include <stdint.h>

#include "base/status.h"

enum { KIN_EIGEN_MAX = 4096 }; /* rows of a matrix */

/* Mean and second moments of rows of `dim` values. */
typedef struct kin_moments {
    int64_t dim, count;
    double *sum;   /* [dim] */
    double *outer; /* [dim,dim] sum of x x^T, lower half */
    double *block; /* rows that wait to be added */
    int64_t waiting;
} kin_moments;
/* Fails: UNSUPPORTED (dim beyond KIN_EIGEN_MAX), MEM. Free: kin_moments_free. */
kin_status kin_moments_init(kin_moments *m, int64_t dim, kin_error *err);
void kin_moments_free(kin_moments *m);
/* Adds rows [n,dim], a row at a time or many. */
void kin_moments_add(kin_moments *m, const float *rows, int64_t n);
/* mean [dim] and covariance [dim,dim] = sum (x-mean)(x-mean)^T / (count - ddof), both halves. */
void kin_moments_get(kin_moments *m, int ddof, double *mean, double *covariance);

/* a [n,n] symmetric -> its eigenvectors as rows, values [n] rising. Fails: NUMERIC (no convergence
 * or a value that is not finite), MEM. */
kin_status kin_eigen_symmetric(int64_t n, double *a, double *values, kin_error *err);
/* c [m,n] = a [m,k] b, b [k,n] or, b_transposed, [n,k]. */
void kin_matrix_product(int64_t m, int64_t n, int64_t k, const double *a, const double *b,
                        int b_transposed, double *c);

#endif
