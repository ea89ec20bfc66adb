/* tests/training/test_wiener.c: eigenvectors, covariances and the best affine denoiser, against
 * what is known in closed form. */
#include "tests/support/support.h"

#include <math.h>
#include <string.h>

#include "tensor/rng.h"
#include "training/wiener.h"

enum { DIM = 6, ROWS = 4000 };

/* Rows of independent values of deviation 0.2, 0.4, ... around 1, turned by Q = I - 2uu^T/|u|^2. */
static void draw_rows(float *rows, int64_t n, uint64_t seed, double turn)
{
    for (int64_t i = 0; i < n; i++) {
        float z[DIM], *x = rows + i * DIM;
        const kin_rng rng = {seed, KIN_RNG_TEST, (uint64_t)i, 0};
        double dot = 0;
        kin_rng_normal(&rng, 0, DIM, z);
        for (int j = 0; j < DIM; j++)
            dot += (double)z[j] * 0.2 * (j + 1);
        for (int j = 0; j < DIM; j++)
            x[j] = (float)(1 + (double)z[j] * 0.2 * (j + 1) - turn * 2 * dot / DIM);
    }
}

static void moments_do_not_depend_on_portions(void **state)
{
    enum { N = 700 };
    static float rows[N * DIM];
    double mean[2][DIM], c[2][DIM * DIM], exact = 0, m0 = 0, m1 = 0;
    kin_error err = {0};
    (void)state;
    draw_rows(rows, N, 1, 1);
    for (int k = 0; k < 2; k++) {
        kin_moments m;
        assert_ok(kin_moments_init(&m, DIM, &err), &err);
        for (int64_t at = 0, part = k ? N : 1; at < N; at += part)
            kin_moments_add(&m, rows + at * DIM, part);
        kin_moments_get(&m, 1, mean[k], c[k]);
        assert_int_equal(m.count, N);
        kin_moments_free(&m);
    }
    assert_memory_equal(mean[0], mean[1], sizeof mean[0]);
    assert_memory_equal(c[0], c[1], sizeof c[0]);
    for (int i = 0; i < N; i++) {
        m0 += (double)rows[i * DIM] / N;
        m1 += (double)rows[i * DIM + 1] / N;
    }
    for (int i = 0; i < N; i++)
        exact += ((double)rows[i * DIM] - m0) * ((double)rows[i * DIM + 1] - m1) / (N - 1);
    assert_true(fabs(mean[0][0] - m0) < 1e-12);
    assert_true(fabs(c[0][1] - exact) < 1e-12 && c[0][1] == c[0][DIM]);
    kin_moments m;
    assert_int_equal(kin_moments_init(&m, KIN_EIGEN_MAX + 1, &err), KIN_ERR_UNSUPPORTED);
}

static void eigenvectors_are_rows(void **state)
{
    /* eigenvalues 1 and 4 along (1,-2) and (2,1) */
    double a[4] = {3.4, 1.2, 1.2, 1.6}, v[2];
    kin_error err = {0};
    (void)state;
    assert_ok(kin_eigen_symmetric(2, a, v, &err), &err);
    assert_true(fabs(v[0] - 1) < 1e-12 && fabs(v[1] - 4) < 1e-12);
    assert_true(fabs(a[0] / a[1] + 0.5) < 1e-12 && fabs(a[2] / a[3] - 2) < 1e-12);
    a[1] = a[2] = NAN;
    assert_int_equal(kin_eigen_symmetric(2, a, v, &err), KIN_ERR_NUMERIC);
    double b[6] = {1, 2, 3, 4, 5, 6}, eye[6] = {1, 0, 0, 0, 1, 0}, c[4];
    kin_matrix_product(2, 2, 3, b, eye, 1, c);
    assert_true(c[0] == 1 && c[1] == 2 && c[2] == 4 && c[3] == 5);
}

/* Of a Gaussian with variances v, the error of the velocity at s is the mean of v / ((1-s)^2 v +
 * s^2), which no estimate can beat. */
static void the_filter_reaches_the_bound(void **state)
{
    static float rows[ROWS * DIM], fresh[ROWS * DIM], noise[ROWS * DIM];
    const float sigma[3] = {0.1f, 0.5f, 0.9f};
    double sum[3] = {0}, other[3] = {0};
    kin_error err = {0};
    kin_moments m;
    kin_wiener w;
    (void)state;
    draw_rows(rows, ROWS, 2, 1);
    draw_rows(fresh, ROWS, 3, 1);
    for (int64_t i = 0; i < ROWS; i++) {
        const kin_rng rng = {4, KIN_RNG_TEST, (uint64_t)i, 0};
        kin_rng_normal(&rng, 0, DIM, noise + i * DIM);
    }
    assert_ok(kin_moments_init(&m, DIM, &err), &err);
    kin_moments_add(&m, rows, ROWS);
    assert_ok(kin_wiener_fit(&m, &w, &err), &err);
    assert_ok(kin_wiener_error(&w, fresh, noise, ROWS, sigma, 3, sum, &err), &err);
    draw_rows(fresh, ROWS, 3, 0); /* not turned: another distribution, the filter is wrong there */
    assert_ok(kin_wiener_error(&w, fresh, noise, ROWS, sigma, 3, other, &err), &err);
    for (int k = 0; k < 3; k++) {
        const double s = (double)sigma[k], a = 1 - s;
        double bound = 0;
        for (int j = 0; j < DIM; j++) {
            const double v = 0.04 * (j + 1) * (j + 1);
            bound += v / (a * a * v + s * s) / DIM;
        }
        print_message("sigma %g: %.4f, bound %.4f, elsewhere %.4f\n", s, sum[k] / ROWS, bound,
                      other[k] / ROWS);
        assert_true(fabs(sum[k] / ROWS / bound - 1) < 0.03);
        assert_true(other[k] > sum[k]);
    }
    kin_wiener_free(&w);
    kin_moments_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moments_do_not_depend_on_portions),
        cmocka_unit_test(eigenvectors_are_rows),
        cmocka_unit_test(the_filter_reaches_the_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
