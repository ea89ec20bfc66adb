/* tests/training/test_frechet.c: Frechet distance, precision and recall against closed forms and
 * values made with NumPy, and the files that features come from. */
#include "tests/support/folder.h"
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/path.h"
#include "training/feature_file.h"

/* Both covariances diagonal: |m1-m2|^2 + sum (s1 - s2)^2. */
static void of_diagonal_gaussians(void **state)
{
    const double m1[3] = {0, 1, 2}, m2[3] = {1, 1, 0};
    const double c1[9] = {4, 0, 0, 0, 9, 0, 0, 0, 0}, c2[9] = {1, 0, 0, 0, 16, 0, 0, 0, 25};
    double d = 0;
    kin_error err = {0};
    (void)state;
    assert_ok(kin_frechet_of_moments(3, m1, c1, m2, c2, &d, &err), &err);
    assert_true(fabs(d - (1 + 4 + 1 + 1 + 25)) < 1e-12);
    assert_ok(kin_frechet_of_moments(3, m1, c1, m1, c1, &d, &err), &err);
    assert_true(fabs(d) < 1e-12);
}

/* Two-dimensional: tr (AB)^(1/2) = sqrt(tr AB + 2 sqrt(det AB)), whatever the axes. */
static void of_turned_gaussians(void **state)
{
    const double m[2] = {0, 0}, a[4] = {2, 0.5, 0.5, 1}, b[4] = {1, -0.7, -0.7, 3};
    const double trace = a[0] * b[0] + 2 * a[1] * b[1] + a[3] * b[3];
    const double det = (a[0] * a[3] - a[1] * a[1]) * (b[0] * b[3] - b[1] * b[1]);
    double d = 0;
    kin_error err = {0};
    (void)state;
    assert_ok(kin_frechet_of_moments(2, m, a, m, b, &d, &err), &err);
    assert_true(fabs(d - (7 - 2 * sqrt(trace + 2 * sqrt(det)))) < 1e-12);
}

static const float set_a[] = {
    -0.8f,  -1.32f, -0.25f, 0.42f,  1.14f,  0.11f,  -0.55f, -0.78f, 0.75f,  1.63f, 0.27f,  -1.23f,
    -0.96f, 1.6f,   0.2f,   -1.73f, -0.08f, -1.16f, -0.63f, -0.49f, -0.71f, 0.55f, -0.06f, -0.59f,
    0.41f,  0.83f,  -1.64f, -0.26f, -0.98f, -0.17f, -1.29f, 0.02f,  -0.04f, -0.3f, -1.05f, -0.4f};
static const float set_b[] = {0.56f, -0.81f, -1.28f, 0.54f,  0.7f,   -0.78f, -0.8f,  0.16f,
                              -2.6f, 2.25f,  0.03f,  -3.49f, 1.85f,  -0.15f, -0.54f, 0.43f,
                              0.44f, -2.6f,  1.7f,   -0.5f,  -0.05f, 3.05f,  1.46f,  -0.86f,
                              3.47f, 0.5f,   -2.11f, 2.09f,  0.81f,  -1.9f};
static const double numpy_distance = 5.29490424004389, numpy_precision = 0.8,
                    numpy_recall = 0.666666666666667;

static void as_numpy_says(void **state)
{
    kin_error err = {0};
    double d = 0, p = 0, r = 0, p_back = 0, r_back = 0;
    kin_features a = {12, 3, (float *)set_a}, b = {10, 3, (float *)set_b};
    (void)state;
    assert_ok(kin_frechet_distance(&a, &b, &d, &err), &err);
    print_message("%.12g, %.12g by numpy\n", d, numpy_distance);
    assert_true(fabs(d / numpy_distance - 1) < 1e-9);
    assert_ok(kin_precision_recall(&a, &b, 3, &p, &r, &err), &err);
    assert_true(fabs(p - numpy_precision) < 1e-12 && fabs(r - numpy_recall) < 1e-12);
    assert_ok(kin_precision_recall(&b, &a, 3, &p_back, &r_back, &err), &err);
    assert_true(p_back == r && r_back == p);
    assert_ok(kin_precision_recall(&a, &a, 3, &p, &r, &err), &err);
    assert_true(p == 1 && r == 1);
}

/* More rows than one block holds: a grid and the same grid moved by a third of its step. */
static void over_several_blocks(void **state)
{
    enum { SIDE = 20, N = SIDE * SIDE };
    static float x[N * 2], y[N * 2], far[N * 2];
    kin_error err = {0};
    double p, r;
    (void)state;
    for (int i = 0; i < N; i++) {
        x[2 * i] = (float)(i % SIDE);
        x[2 * i + 1] = (float)(i / SIDE);
        y[2 * i] = x[2 * i] + 0.3f;
        y[2 * i + 1] = x[2 * i + 1];
        far[2 * i] = i < N / 4 ? y[2 * i] : y[2 * i] + 100;
        far[2 * i + 1] = y[2 * i + 1];
    }
    kin_features a = {N, 2, x}, b = {N, 2, y}, c = {N, 2, far};
    assert_ok(kin_precision_recall(&a, &b, 2, &p, &r, &err), &err);
    assert_true(p == 1 && r == 1);
    assert_ok(kin_precision_recall(&a, &c, 2, &p, &r, &err), &err);
    assert_true(p == 0.25);
    assert_true(r > 0.24 && r < 0.3);
}

static void refuses_what_it_cannot_do(void **state)
{
    kin_error err = {0};
    double d, r;
    float rows[6] = {1, 2, 3, 4, 5, NAN};
    kin_features a = {3, 2, rows}, one = {1, 2, rows}, wide = {2, 3, rows};
    (void)state;
    assert_int_equal(kin_frechet_distance(&a, &a, &d, &err), KIN_ERR_NUMERIC);
    assert_int_equal(kin_frechet_distance(&a, &one, &d, &err), KIN_ERR_ARG);
    assert_int_equal(kin_frechet_distance(&a, &wide, &d, &err), KIN_ERR_ARG);
    assert_int_equal(kin_precision_recall(&a, &a, 3, &d, &r, &err), KIN_ERR_ARG);
    assert_int_equal(kin_precision_recall(&a, &a, 0, &d, &r, &err), KIN_ERR_ARG);
}

/* --- files --- */

static void put_file(const char *name, const void *data, size_t bytes)
{
    kin_error err = {0};
    assert_ok(kin_file_write(kin_test_path(name), data, bytes, &err), &err);
}

/* A .npy of f8 [2,3] with this header text. */
static size_t npy(char *out, const char *header)
{
    const double v[6] = {1, 2, 3, 4, 5, 6.5};
    const size_t n = strlen(header);
    memcpy(out, "\x93NUMPY\1\0", 8);
    out[8] = (char)n;
    out[9] = 0;
    memcpy(out + 10, header, n);
    memcpy(out + 10 + n, v, sizeof v);
    return 10 + n + sizeof v;
}

static void npy_files(void **state)
{
    static const char *const bad[] = {
        "{'descr': '<f8', 'fortran_order': True, 'shape': (2, 3), }\n",
        "{'descr': '>f8', 'fortran_order': False, 'shape': (2, 3), }\n",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 4), }\n",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 8), }\n",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (6,), }\n",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2, -3), }\n",
        "{'descr': '<f8', 'fortran_order': False}\n",
        "",
        "{'shape': ("};
    char data[512];
    kin_error err = {0};
    kin_features f;
    (void)state;
    size_t n = npy(data, "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }\n");
    put_file("a.npy", data, n);
    assert_ok(kin_feature_file_read(kin_test_path("a.npy"), &f, &err), &err);
    assert_true(f.count == 2 && f.dim == 3 && f.rows[5] == 6.5f);
    kin_free(f.rows);
    for (size_t cut = 0; cut < n; cut++) {
        put_file("cut.npy", data, cut);
        assert_int_not_equal(kin_feature_file_read(kin_test_path("cut.npy"), &f, &err), KIN_OK);
        assert_null(f.rows);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_file("bad.npy", data, npy(data, bad[i]));
        assert_int_not_equal(kin_feature_file_read(kin_test_path("bad.npy"), &f, &err), KIN_OK);
    }
    put_file("no.npz", data, n);
    assert_int_equal(kin_feature_file_read(kin_test_path("no.npz"), &f, &err), KIN_ERR_FORMAT);
    assert_int_equal(kin_feature_file_read(kin_test_path("gone.npy"), &f, &err), KIN_ERR_IO);
}

static const uint8_t npz[] = {
    80,  75,  3,   4,   45,  0,   0,   0,   8,   0,   0,   0,   33,  0,   153, 33,  255, 9,   255,
    255, 255, 255, 255, 255, 255, 255, 12,  0,   20,  0,   102, 101, 97,  116, 117, 114, 101, 115,
    46,  110, 112, 121, 1,   0,   16,  0,   152, 0,   0,   0,   0,   0,   0,   0,   87,  0,   0,
    0,   0,   0,   0,   0,   155, 236, 23,  234, 27,  16,  201, 200, 80,  198, 80,  173, 158, 146,
    90,  156, 92,  164, 110, 165, 160, 110, 147, 102, 162, 174, 163, 160, 158, 150, 95,  84,  82,
    148, 152, 23,  159, 95,  148, 146, 10,  18,  119, 75,  204, 41,  78,  5,   138, 23,  103, 36,
    22,  164, 2,   249, 26,  70,  58,  10,  198, 154, 58,  10,  181, 10,  100, 3,   46,  6,   6,
    6,   123, 6,   134, 6,   32,  102, 112, 0,   34,  32,  110, 0,   209, 7,   0,   80,  75,  3,
    4,   45,  0,   0,   0,   8,   0,   0,   0,   33,  0,   12,  252, 28,  233, 255, 255, 255, 255,
    255, 255, 255, 255, 10,  0,   20,  0,   108, 97,  98,  101, 108, 115, 46,  110, 112, 121, 1,
    0,   16,  0,   144, 0,   0,   0,   0,   0,   0,   0,   74,  0,   0,   0,   0,   0,   0,   0,
    155, 236, 23,  234, 27,  16,  201, 200, 80,  198, 80,  173, 158, 146, 90,  156, 92,  164, 110,
    165, 160, 110, 147, 105, 161, 174, 163, 160, 158, 150, 95,  84,  82,  148, 152, 23,  159, 95,
    148, 146, 10,  18,  119, 75,  204, 41,  78,  5,   138, 23,  103, 36,  22,  164, 2,   249, 26,
    70,  58,  154, 58,  10,  181, 10,  20,  0,   46,  70,  6,   8,   96,  130, 210, 0,   80,  75,
    1,   2,   45,  3,   45,  0,   0,   0,   8,   0,   0,   0,   33,  0,   153, 33,  255, 9,   87,
    0,   0,   0,   152, 0,   0,   0,   12,  0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,
    128, 1,   0,   0,   0,   0,   102, 101, 97,  116, 117, 114, 101, 115, 46,  110, 112, 121, 80,
    75,  1,   2,   45,  3,   45,  0,   0,   0,   8,   0,   0,   0,   33,  0,   12,  252, 28,  233,
    74,  0,   0,   0,   144, 0,   0,   0,   10,  0,   0,   0,   0,   0,   0,   0,   0,   0,   0,
    0,   128, 1,   149, 0,   0,   0,   108, 97,  98,  101, 108, 115, 46,  110, 112, 121, 80,  75,
    5,   6,   0,   0,   0,   0,   2,   0,   2,   0,   114, 0,   0,   0,   27,  1,   0,   0,   0,
    0};

/* np.savez_compressed(features=f4 [2,3], labels=i8 [2]) */
static void npz_files(void **state)
{
    uint8_t damaged[sizeof npz];
    kin_error err = {0};
    kin_features f;
    (void)state;
    put_file("b.npz", npz, sizeof npz);
    assert_ok(kin_feature_file_read(kin_test_path("b.npz"), &f, &err), &err);
    assert_true(f.count == 2 && f.dim == 3);
    assert_true(f.rows[0] == 0.5f && f.rows[5] == -3);
    kin_free(f.rows);
    for (size_t i = 0; i < sizeof npz; i++) { /* whatever a byte does, nothing breaks */
        memcpy(damaged, npz, sizeof npz);
        damaged[i] ^= 0x41;
        put_file("c.npz", damaged, sizeof npz);
        if (kin_feature_file_read(kin_test_path("c.npz"), &f, &err) == KIN_OK)
            kin_free(f.rows);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_diagonal_gaussians),
        cmocka_unit_test(of_turned_gaussians),
        cmocka_unit_test(as_numpy_says),
        cmocka_unit_test(over_several_blocks),
        cmocka_unit_test(refuses_what_it_cannot_do),
        cmocka_unit_test(npy_files),
        cmocka_unit_test(npz_files),
    };
    return cmocka_run_group_tests(tests, kin_test_folder_make, kin_test_folder_remove);
}
