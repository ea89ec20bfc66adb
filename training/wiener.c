#include "training/wiener.h"

#include <math.h>

#include "base/alloc.h"

kin_status kin_wiener_fit(kin_moments *m, kin_wiener *out, kin_error *err)
{
    const size_t n = (size_t)m->dim;
    *out = (kin_wiener){.dim = m->dim};
    out->mean = kin_malloc(n * sizeof *out->mean);
    out->axes = kin_malloc(n * n * sizeof *out->axes);
    out->values = kin_malloc(n * sizeof *out->values);
    if (!out->mean || !out->axes || !out->values) {
        kin_wiener_free(out);
        return kin_fail(err, KIN_ERR_MEM, "linear denoiser: out of memory");
    }
    kin_moments_get(m, 0, out->mean, out->axes);
    kin_status status = kin_eigen_symmetric(m->dim, out->axes, out->values, err);
    if (status != KIN_OK)
        kin_wiener_free(out);
    return status;
}

void kin_wiener_free(kin_wiener *w)
{
    kin_free(w->mean);
    kin_free(w->axes);
    kin_free(w->values);
    *w = (kin_wiener){0};
}

/* The axes are orthonormal, so that the error is that of each coordinate alone: with y = x0 - m and
 * z = noise along an axis of variance v, the estimate of y is g ((1-s) y + s z). */
static double error_along_axes(const kin_wiener *w, const double *y, const double *z, double s)
{
    const double a = 1 - s;
    double sum = 0;
    for (int64_t j = 0; j < w->dim; j++) {
        const double v = fmax(w->values[j], 0), g = a * v / (a * a * v + s * s);
        const double e = y[j] - g * (a * y[j] + s * z[j]);
        sum += e * e;
    }
    return sum / (s * s) / (double)w->dim;
}

kin_status kin_wiener_error(const kin_wiener *w, const float *x0, const float *noise, int64_t n,
                            const float *sigma, int sigmas, double *sum, kin_error *err)
{
    const int64_t dim = w->dim;
    double *rows = kin_malloc((size_t)(4 * n * dim) * sizeof *rows), *along = rows + 2 * n * dim;
    if (!rows)
        return kin_fail(err, KIN_ERR_MEM, "linear denoiser: out of memory");
    for (int64_t i = 0; i < n * dim; i++) {
        rows[i] = (double)x0[i] - w->mean[i % dim];
        rows[n * dim + i] = (double)noise[i];
    }
    kin_matrix_product(2 * n, dim, dim, rows, w->axes, 1, along);
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < sigmas; k++)
            sum[k] += error_along_axes(w, along + i * dim, along + (n + i) * dim, (double)sigma[k]);
    kin_free(rows);
    return KIN_OK;
}
