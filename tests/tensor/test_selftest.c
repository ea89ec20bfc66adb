/* The comparers themselves: each must reject a planted error, and accept what is sound. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/canary.h"
#include "tests/support/near.h"
#include "tests/support/support.h"

enum { N = 40 };

static void fill(kin_canary *c)
{
    for (int64_t i = 0; i < kin_tensor_numel(&c->t); i++)
        kin_tensor_set(&c->t, i, sin(0.7 * (double)i));
}

static void near_tensor_rejects(void **state)
{
    static const double errors[] = {1e-5, -1e-5, NAN, INFINITY, -INFINITY};
    kin_canary a, b;
    char why[256];
    (void)state;
    assert_true(kin_canary_open(&a, KIN_DTYPE_F32, 3, 2, (int64_t[]){5, 8}));
    assert_true(kin_canary_open(&b, KIN_DTYPE_F32, 0, 2, (int64_t[]){5, 8}));
    fill(&a);
    fill(&b);
    assert_true(kin_near_tensor(&a.t, &b.t, kin_near_f32(4, 0), why, sizeof(why)));
    for (size_t e = 0; e < sizeof(errors) / sizeof(errors[0]); e++) {
        for (int64_t at = 0; at < N; at += 13) {
            double good = kin_tensor_get(&a.t, at);
            kin_tensor_set(&a.t, at, isfinite(errors[e]) ? good + errors[e] : errors[e]);
            assert_false(kin_near_tensor(&a.t, &b.t, kin_near_f32(4, 0), why, sizeof(why)));
            assert_false(kin_near_same_bits(&a.t, &b.t, why, sizeof(why)));
            kin_tensor_set(&a.t, at, good);
        }
    }
    /* one bit is no error to one comparer and one to the other */
    kin_tensor_set(&a.t, 9, (double)nextafterf((float)kin_tensor_get(&a.t, 9), 2));
    assert_true(kin_near_tensor(&a.t, &b.t, kin_near_f32(4, 0), why, sizeof(why)));
    assert_false(kin_near_same_bits(&a.t, &b.t, why, sizeof(why)));
    /* a NaN on both sides is no agreement */
    kin_tensor_set(&a.t, 9, NAN);
    kin_tensor_set(&b.t, 9, NAN);
    assert_false(kin_near_tensor(&a.t, &b.t, kin_near_f32(4, 0), why, sizeof(why)));
    kin_canary_close(&a);
    kin_canary_close(&b);
}

/* Errors below the bound everywhere that together are too many: the mean square catches them. */
static void near_tensor_rejects_drift(void **state)
{
    kin_canary a, b;
    char why[256];
    kin_near_bound bound = {.length = 10000, .eps_acc = 1e-7, .eps_out = 1e-7};
    (void)state;
    assert_true(kin_canary_open(&a, KIN_DTYPE_F32, 0, 1, (int64_t[]){N}));
    assert_true(kin_canary_open(&b, KIN_DTYPE_F32, 0, 1, (int64_t[]){N}));
    fill(&a);
    fill(&b);
    kin_tensor_set(&a.t, 3, kin_tensor_get(&a.t, 3) + 5e-5);
    assert_true(kin_near_tensor(&a.t, &b.t, bound, why, sizeof(why)));
    for (int i = 0; i < N; i++)
        kin_tensor_set(&a.t, i, kin_tensor_get(&b.t, i) + 5e-4);
    assert_false(kin_near_tensor(&a.t, &b.t, bound, why, sizeof(why)));
    for (int i = 0; i < N; i++)
        kin_tensor_set(&a.t, i, kin_tensor_get(&b.t, i) + 9e-5);
    assert_false(kin_near_tensor(&a.t, &b.t, bound, why, sizeof(why)));
    kin_canary_close(&a);
    kin_canary_close(&b);
}

static void near_shapes_differ(void **state)
{
    float a[6] = {0}, b[6] = {0};
    kin_tensor t = KIN_TENSOR(a, KIN_DTYPE_F32, 2, 3), u = KIN_TENSOR(b, KIN_DTYPE_F32, 3, 2);
    char why[64];
    (void)state;
    assert_false(kin_near_tensor(&t, &u, kin_near_f32(1, 1), why, sizeof(why)));
    assert_false(kin_near_same_bits(&t, &u, why, sizeof(why)));
    b[1] = -0.0f;
    u = KIN_TENSOR(b, KIN_DTYPE_F32, 2, 3);
    assert_false(kin_near_same_bits(&t, &u, why, sizeof(why)));
}

static void near_floats_rejects(void **state)
{
    float want[4] = {1, -2, 0, 1e6f}, got[4] = {1, -2, 0, 1e6f};
    char why[128];
    (void)state;
    assert_true(kin_near_floats(got, want, 4, 1e-6, 1e-6, why, sizeof(why)));
    got[3] = 1e6f + 1;
    assert_true(kin_near_floats(got, want, 4, 0, 2e-6, why, sizeof(why)));
    assert_false(kin_near_floats(got, want, 4, 0, 5e-7, why, sizeof(why)));
    got[3] = 1e6f;
    got[2] = 1e-5f;
    assert_false(kin_near_floats(got, want, 4, 1e-6, 1e-6, why, sizeof(why)));
    got[2] = NAN;
    assert_false(kin_near_floats(got, want, 4, 1e9, 1, why, sizeof(why)));
    want[2] = NAN;
    assert_false(kin_near_floats(got, want, 4, 1e9, 1, why, sizeof(why)));
    assert_false(kin_near_value(NAN, 1, 1, 1));
    assert_false(kin_near_value(1, 1.1, 1e-2, 0));
    assert_true(kin_near_value(1, 1.001, 1e-2, 0));
}

/* KIN_TOL_SCALE=0 refuses even equal tensors, so that residuals are shown. */
static void tolerance_can_be_closed(void **state)
{
    float a[3] = {1, 2, 3};
    kin_tensor t = KIN_TENSOR(a, KIN_DTYPE_F32, 3);
    const char *old = getenv("KIN_TOL_SCALE");
    char why[256], keep[64] = "";
    (void)state;
    if (old)
        strncpy(keep, old, sizeof(keep) - 1);
    setenv("KIN_TOL_SCALE", "0", 1);
    assert_false(kin_near_tensor(&t, &t, kin_near_f32(1, 1), why, sizeof(why)));
    if (old)
        setenv("KIN_TOL_SCALE", keep, 1);
    else
        unsetenv("KIN_TOL_SCALE");
}

static void canary_notices(void **state)
{
    static const int64_t beside[] = {-1, -64, 5, 6, 7, 4 * 8 - 1, 4 * 8, 4 * 8 + 63};
    char why[128];
    kin_canary c;
    (void)state;
    for (size_t i = 0; i < sizeof(beside) / sizeof(beside[0]); i++) {
        /* rows of 5, 3 apart: elements 5, 6, 7 lie in a gap */
        assert_true(kin_canary_open(&c, KIN_DTYPE_F32, 3, 2, (int64_t[]){4, 5}));
        fill(&c);
        assert_true(kin_canary_intact(&c, why, sizeof(why)));
        ((float *)c.t.data)[beside[i]] = 1;
        assert_false(kin_canary_intact(&c, why, sizeof(why)));
        kin_canary_close(&c);
    }
    assert_true(kin_canary_open(&c, KIN_DTYPE_U8, 1, 3, (int64_t[]){2, 2, 3}));
    fill(&c);
    assert_true(kin_canary_intact(&c, why, sizeof(why)));
    ((uint8_t *)c.t.data)[7] = 0;
    assert_false(kin_canary_intact(&c, why, sizeof(why)));
    kin_canary_close(&c);
    assert_true(kin_canary_open(&c, KIN_DTYPE_F64, 0, 0, NULL));
    assert_true(isnan(kin_tensor_get(&c.t, 0)));
    ((char *)c.t.data)[8] = 0;
    assert_false(kin_canary_intact(&c, why, sizeof(why)));
    kin_canary_close(&c);
}

/* A backward that is wrong by a factor, by a sign or in one element is seen by a difference
 * quotient. */
static void wrong_gradients(void **state)
{
    enum { D = 6 };
    double x[D], g[D], quotient = 0, inner[4] = {0}, h = 1e-5;
    (void)state;
    for (int i = 0; i < D; i++) {
        x[i] = cos(i + 0.3);
        g[i] = 3 * x[i] * x[i]; /* of the sum of cubes */
    }
    for (int i = 0; i < D; i++) {
        double u = sin(12.9898 * (i + 1) + 78.233);
        quotient += (pow(x[i] + h * u, 3) - pow(x[i] - h * u, 3)) / (2 * h);
        inner[0] += u * g[i];
        inner[1] += u * g[i] * (1 + 1e-5);
        inner[2] -= u * g[i];
        inner[3] += i == 2 ? 0 : u * g[i];
    }
    assert_true(kin_near_value(inner[0], quotient, 1e-7, 1e-8));
    for (int i = 1; i < 4; i++)
        assert_false(kin_near_value(inner[i], quotient, 1e-7, 1e-8));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(near_tensor_rejects),     cmocka_unit_test(near_tensor_rejects_drift),
        cmocka_unit_test(near_shapes_differ),      cmocka_unit_test(near_floats_rejects),
        cmocka_unit_test(canary_notices),          cmocka_unit_test(wrong_gradients),
        cmocka_unit_test(tolerance_can_be_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
