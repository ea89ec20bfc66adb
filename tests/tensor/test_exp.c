/* The power of two of the CPU kernels against libm in double, over its whole range at every ISA
 * level. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tensor/cpu/simd/simd.h"
#include "tests/support/support.h"

enum { BATCH = 4096 };

static const kin_simd *level(kin_isa isa)
{
    return isa >= KIN_ISA_AVX512 ? &kin_avx512_simd : &kin_avx2_simd;
}

static float from_bits(uint32_t b)
{
    float f;
    memcpy(&f, &b, sizeof(f));
    return f;
}

/* Error of y as 2^x in units of the last place of the true result. */
static double error_ulp(float x, float y)
{
    double want = exp2((double)x);
    int e;
    frexp(want, &e);
    return fabs((double)y - want) / ldexp(1.0, e - 24);
}

/* Largest error over the floats from `first` in steps of `step` bit patterns while |x| <= limit. */
static double worst(const kin_simd *s, uint32_t first, uint32_t step, float limit, float *where)
{
    float x[BATCH], y[BATCH];
    double max = 0;
    for (uint32_t b = first; fabsf(from_bits(b)) <= limit;) {
        int n = 0;
        for (; n < BATCH && fabsf(from_bits(b)) <= limit; n++, b += step)
            x[n] = from_bits(b);
        s->exp2f(x, n, y);
        for (int i = 0; i < n; i++) {
            double e = error_ulp(x[i], y[i]);
            if (!(e <= max)) {
                max = e;
                *where = x[i];
            }
        }
    }
    return max;
}

static void exp_is_within_two_ulp(void **state)
{
    (void)state;
    for (kin_isa isa = KIN_ISA_AVX2; isa <= kin_isa_detect() && isa <= KIN_ISA_AVX512; isa++) {
        float at = 0, below = 0;
        double up = worst(level(isa), 0, 211, 127.4f, &at);
        double down = worst(level(isa), 0x80000000u, 211, 126.0f, &below);
        print_message("%s: %.3f ulp at %.9g, %.3f ulp at %.9g\n", kin_isa_name(isa), up, (double)at,
                      down, (double)below);
        assert_true(up <= 2.0);
        assert_true(down <= 2.0);
    }
}

/* Between the normal numbers and 0: there, or 0 already. */
static void exp_falls_to_zero(void **state)
{
    (void)state;
    for (kin_isa isa = KIN_ISA_AVX2; isa <= kin_isa_detect() && isa <= KIN_ISA_AVX512; isa++) {
        for (float x = -126.0f, y; x > -160.0f; x -= 0.37f) {
            level(isa)->exp2f(&x, 1, &y);
            double want = exp2((double)x);
            assert_true((y == 0.0f && x < -126.0f) ||
                        fabs((double)y - want) <= 2e-7 * want + ldexp(1.0, -149));
        }
    }
}

static void exp_keeps_the_ends(void **state)
{
    const float in[8] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, -FLT_MAX, FLT_MAX, -200.0f};
    const float want[8] = {1.0f, 1.0f, INFINITY, 0.0f, NAN, 0.0f, INFINITY, 0.0f};
    (void)state;
    for (kin_isa isa = KIN_ISA_AVX2; isa <= kin_isa_detect() && isa <= KIN_ISA_AVX512; isa++) {
        for (int i = 0; i < 8; i++) {
            float y;
            level(isa)->exp2f(&in[i], 1, &y);
            if (isnan(want[i]))
                assert_true(isnan(y));
            else
                assert_true(y == want[i]);
        }
    }
}

/* The measure itself must see one unit in the last place too many. */
static void measure_sees_a_planted_error(void **state)
{
    float x = 1.5f, y = (float)exp2(1.5);
    (void)state;
    assert_true(error_ulp(x, y) <= 0.5);
    for (int i = 0; i < 3; i++)
        y = nextafterf(y, INFINITY);
    assert_true(error_ulp(x, y) > 2.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_within_two_ulp),
        cmocka_unit_test(exp_falls_to_zero),
        cmocka_unit_test(exp_keeps_the_ends),
        cmocka_unit_test(measure_sees_a_planted_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
