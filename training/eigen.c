#include "training/eigen.h"

#include <cblas.h>
#include <inttypes.h>
#include <lapacke.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"

enum { BLOCK = 256 }; /* rows that are added at once */

kin_status kin_moments_init(kin_moments *m, int64_t dim, kin_error *err)
{
    *m = (kin_moments){.dim = dim};
    if (dim < 1 || dim > KIN_EIGEN_MAX)
        return kin_fail(err, KIN_ERR_UNSUPPORTED,
                        "moments: %" PRId64 " values per row must be at most %d", dim,
                        (int)KIN_EIGEN_MAX);
    const size_t n = (size_t)dim;
    m->sum = kin_calloc(n, sizeof *m->sum);
    m->outer = kin_calloc(n * n, sizeof *m->outer);
    m->block = kin_malloc(n * BLOCK * sizeof *m->block);
    if (m->sum && m->outer && m->block)
        return KIN_OK;
    kin_moments_free(m);
    return kin_fail(err, KIN_ERR_MEM, "moments: no memory for %" PRId64 " values per row", dim);
}

void kin_moments_free(kin_moments *m)
{
    kin_free(m->sum);
    kin_free(m->outer);
    kin_free(m->block);
    *m = (kin_moments){0};
}

static void flush(kin_moments *m)
{
    const int dim = (int)m->dim;
    if (m->waiting > 0)
        cblas_dsyrk(CblasRowMajor, CblasLower, CblasTrans, dim, (int)m->waiting, 1.0, m->block, dim,
                    1.0, m->outer, dim);
    m->count += m->waiting;
    m->waiting = 0;
}

void kin_moments_add(kin_moments *m, const float *rows, int64_t n)
{
    const int64_t dim = m->dim;
    for (int64_t i = 0; i < n; i++) {
        double *to = m->block + m->waiting * dim;
        for (int64_t j = 0; j < dim; j++) {
            to[j] = (double)rows[i * dim + j];
            m->sum[j] += to[j];
        }
        if (++m->waiting == BLOCK)
            flush(m);
    }
}

void kin_moments_get(kin_moments *m, int ddof, double *mean, double *covariance)
{
    flush(m);
    const int64_t dim = m->dim;
    const double n = (double)m->count;
    for (int64_t i = 0; i < dim; i++)
        mean[i] = m->sum[i] / n;
    for (int64_t i = 0; i < dim; i++)
        for (int64_t j = 0; j <= i; j++) {
            const double c = (m->outer[i * dim + j] - n * mean[i] * mean[j]) / (n - ddof);
            covariance[i * dim + j] = covariance[j * dim + i] = c;
        }
}

kin_status kin_eigen_symmetric(int64_t n, double *a, double *values, kin_error *err)
{
    for (int64_t i = 0; i < n * n; i++)
        if (!isfinite(a[i]))
            return kin_fail(err, KIN_ERR_NUMERIC, "eigenvalues: element %" PRId64 " is not finite",
                            i);
    /* note: columns of a column-major result are our rows */
    const int info =
        (int)LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'U', (lapack_int)n, a, (lapack_int)n, values);
    if (info == LAPACK_WORK_MEMORY_ERROR)
        return kin_fail(err, KIN_ERR_MEM, "eigenvalues: no memory for %" PRId64 " rows", n);
    return info == 0 ? KIN_OK
                     : kin_fail(err, KIN_ERR_NUMERIC,
                                "eigenvalues: LAPACK's dsyevd did not converge (%d)", info);
}

void kin_matrix_product(int64_t m, int64_t n, int64_t k, const double *a, const double *b,
                        int b_transposed, double *c)
{
    cblas_dgemm(CblasRowMajor, CblasNoTrans, b_transposed ? CblasTrans : CblasNoTrans, (int)m,
                (int)n, (int)k, 1.0, a, (int)k, b, (int)(b_transposed ? k : n), 0.0, c, (int)n);
}
