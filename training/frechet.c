#include "training/frechet.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "training/eigen.h"

enum { ROWS = 256, MAX_NEAREST = 64 }; /* rows of one block of distances */

static kin_status check_pair(const kin_features *a, const kin_features *b, int64_t least,
                             kin_error *err)
{
    if (a->dim != b->dim)
        return kin_fail(err, KIN_ERR_ARG, "features: %lld values per row against %lld",
                        (long long)a->dim, (long long)b->dim);
    const int64_t n = a->count < b->count ? a->count : b->count;
    return n >= least ? KIN_OK
                      : kin_fail(err, KIN_ERR_ARG, "features: %lld rows must be at least %lld",
                                 (long long)n, (long long)least);
}

/* root = a^(1/2) of a symmetric a [n,n] that has no negative eigenvalue but by rounding; scratch
 * [2 n n + n]. */
static kin_status square_root(int64_t n, const double *a, double *root, double *scratch,
                              kin_error *err)
{
    double *axes = scratch, *scaled = axes + n * n, *values = scaled + n * n;
    memcpy(axes, a, (size_t)(n * n) * sizeof *axes);
    KIN_TRY(kin_eigen_symmetric(n, axes, values, err));
    /* root = axes^T diag(sqrt) axes, the axes being rows: both factors are needed by columns */
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            root[j * n + i] = axes[i * n + j];
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = 0; i < n; i++)
            scaled[j * n + i] = root[j * n + i] * sqrt(fmax(values[i], 0));
    memcpy(axes, root, (size_t)(n * n) * sizeof *axes);
    kin_matrix_product(n, n, n, scaled, axes, 1, root);
    return KIN_OK;
}

kin_status kin_frechet_of_moments(int64_t dim, const double *mean_a, const double *cov_a,
                                  const double *mean_b, const double *cov_b, double *out,
                                  kin_error *err)
{
    const int64_t n = dim;
    double *root = kin_malloc((size_t)(3 * n * n + n) * sizeof *root), *scratch = root + n * n;
    double d = 0;
    kin_status status;
    if (!root)
        return kin_fail(err, KIN_ERR_MEM, "frechet distance: out of memory");
    /* tr (A B)^(1/2) = sum of the roots of the eigenvalues of A^(1/2) B A^(1/2) */
    KIN_GOTO(square_root(n, cov_a, root, scratch, err));
    double *half = scratch, *whole = half + n * n, *values = whole + n * n;
    kin_matrix_product(n, n, n, root, cov_b, 0, half);
    kin_matrix_product(n, n, n, half, root, 0, whole);
    KIN_GOTO(kin_eigen_symmetric(n, whole, values, err));
    for (int64_t i = 0; i < n; i++) {
        const double m = mean_a[i] - mean_b[i];
        d += m * m + cov_a[i * n + i] + cov_b[i * n + i] - 2 * sqrt(fmax(values[i], 0));
    }
    *out = d;
done:
    kin_free(root);
    return status;
}

static kin_status moments_of(const kin_features *f, double *mean, double *cov, kin_error *err)
{
    kin_moments m;
    KIN_TRY(kin_moments_init(&m, f->dim, err));
    kin_moments_add(&m, f->rows, f->count);
    kin_moments_get(&m, 1, mean, cov);
    kin_moments_free(&m);
    return KIN_OK;
}

kin_status kin_frechet_distance(const kin_features *a, const kin_features *b, double *out,
                                kin_error *err)
{
    const int64_t n = a->dim;
    kin_status status = KIN_OK;
    KIN_TRY(check_pair(a, b, 2, err));
    double *block =
        n <= KIN_EIGEN_MAX ? kin_malloc((size_t)(2 * (n * n + n)) * sizeof *block) : NULL;
    if (!block && n <= KIN_EIGEN_MAX)
        return kin_fail(err, KIN_ERR_MEM, "frechet distance: out of memory");
    double *mean_a = block, *mean_b = block + n, *cov_a = block + 2 * n, *cov_b = cov_a + n * n;
    KIN_GOTO(moments_of(a, mean_a, cov_a, err));
    KIN_GOTO(moments_of(b, mean_b, cov_b, err));
    status = kin_frechet_of_moments(n, mean_a, cov_a, mean_b, cov_b, out, err);
done:
    kin_free(block);
    return status;
}

/* --- nearest neighbours --- */

typedef struct distances {
    double *a, *b;   /* [ROWS,dim] rows of either set */
    double *na, *nb; /* their squared lengths */
    double *d;       /* [ROWS,ROWS] squared distances */
} distances;

static kin_status distances_init(distances *s, int64_t dim, kin_error *err)
{
    s->a = kin_malloc((size_t)(2 * ROWS * dim + 2 * ROWS + ROWS * ROWS) * sizeof *s->a);
    if (!s->a)
        return kin_fail(err, KIN_ERR_MEM, "precision and recall: out of memory");
    s->b = s->a + ROWS * dim;
    s->na = s->b + ROWS * dim;
    s->nb = s->na + ROWS;
    s->d = s->nb + ROWS;
    return KIN_OK;
}

static int64_t widen(const kin_features *f, int64_t at, double *rows, double *norm)
{
    const int64_t n = f->count - at < ROWS ? f->count - at : ROWS;
    for (int64_t i = 0; i < n; i++) {
        norm[i] = 0;
        for (int64_t j = 0; j < f->dim; j++) {
            const double x = (double)f->rows[(at + i) * f->dim + j];
            rows[i * f->dim + j] = x;
            norm[i] += x * x;
        }
    }
    return n;
}

/* s->d[i*nb+j]: squared distance of the rows i of s->a and j of s->b. */
static void distances_of(distances *s, int64_t na, int64_t nb, int64_t dim)
{
    kin_matrix_product(na, nb, dim, s->a, s->b, 1, s->d);
    for (int64_t i = 0; i < na; i++)
        for (int64_t j = 0; j < nb; j++)
            s->d[i * nb + j] = s->na[i] + s->nb[j] - 2 * s->d[i * nb + j];
}

/* Puts x among the k smallest so far, rising. */
static void keep_smallest(double *best, int k, double x)
{
    int i = k - 1;
    if (!(x < best[i]))
        return;
    for (; i > 0 && best[i - 1] > x; i--)
        best[i] = best[i - 1];
    best[i] = x;
}

/* radius[i]: squared distance of row i to its k-th nearest other row. */
static kin_status radii(const kin_features *f, int k, distances *s, double *radius, kin_error *err)
{
    double *best = kin_malloc((size_t)(ROWS * k) * sizeof *best);
    if (!best)
        return kin_fail(err, KIN_ERR_MEM, "precision and recall: out of memory");
    for (int64_t at = 0; at < f->count; at += ROWS) {
        const int64_t na = widen(f, at, s->a, s->na);
        for (int64_t i = 0; i < na * k; i++)
            best[i] = INFINITY;
        for (int64_t to = 0; to < f->count; to += ROWS) {
            const int64_t nb = widen(f, to, s->b, s->nb);
            distances_of(s, na, nb, f->dim);
            for (int64_t i = 0; i < na; i++)
                for (int64_t j = 0; j < nb; j++)
                    if (at + i != to + j)
                        keep_smallest(best + i * k, k, s->d[i * nb + j]);
        }
        for (int64_t i = 0; i < na; i++)
            radius[at + i] = best[i * k + k - 1];
    }
    kin_free(best);
    return KIN_OK;
}

/* Share of the rows of f within a ball around a row of `centres`. */
static double covered(const kin_features *centres, const double *radius, const kin_features *f,
                      distances *s)
{
    int64_t inside = 0;
    for (int64_t at = 0; at < f->count; at += ROWS) {
        bool hit[ROWS] = {false};
        const int64_t na = widen(f, at, s->a, s->na);
        for (int64_t to = 0; to < centres->count; to += ROWS) {
            const int64_t nb = widen(centres, to, s->b, s->nb);
            distances_of(s, na, nb, f->dim);
            for (int64_t i = 0; i < na; i++)
                for (int64_t j = 0; j < nb && !hit[i]; j++)
                    hit[i] = s->d[i * nb + j] <= radius[to + j];
        }
        for (int64_t i = 0; i < na; i++)
            inside += hit[i];
    }
    return (double)inside / (double)f->count;
}

kin_status kin_precision_recall(const kin_features *real, const kin_features *made, int k,
                                double *precision, double *recall, kin_error *err)
{
    distances s = {0};
    double *radius = NULL;
    kin_status status = KIN_OK;
    if (k < 1 || k > MAX_NEAREST)
        return kin_fail(err, KIN_ERR_ARG, "features: nearest %d must lie in 1 to %d", k,
                        (int)MAX_NEAREST);
    KIN_TRY(check_pair(real, made, k + 1, err));
    KIN_TRY(distances_init(&s, real->dim, err));
    radius = kin_malloc((size_t)(real->count + made->count) * sizeof *radius);
    if (!radius)
        KIN_GOTO(kin_fail(err, KIN_ERR_MEM, "precision and recall: out of memory"));
    KIN_GOTO(radii(real, k, &s, radius, err));
    KIN_GOTO(radii(made, k, &s, radius + real->count, err));
    *precision = covered(real, radius, made, &s);
    *recall = covered(made, radius + real->count, real, &s);
done:
    kin_free(radius);
    kin_free(s.a);
    return status;
}
