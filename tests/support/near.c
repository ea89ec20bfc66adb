#include "tests/support/near.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double tol_scale(void)
{
    const char *text = getenv("KIN_TOL_SCALE");
    return text && *text ? atof(text) : 1.0;
}

uint64_t kin_test_seed(void)
{
    static uint64_t seed;
    static bool known;
    if (!known) {
        const char *text = getenv("KIN_SEED");
        seed = text && *text ? strtoull(text, NULL, 10) : 20260117u;
        printf("seed: KIN_SEED=%llu\n", (unsigned long long)seed);
        known = true;
    }
    return seed;
}

kin_near_bound kin_near_f32(double length, double term)
{
    return (kin_near_bound){.length = length,
                            .eps_acc = 0x1p-24,
                            .eps_out = 0x1p-22,
                            .scale_min = term > 1e-30 ? term : 1e-30};
}

/* False, with text, at the first value that is not finite. */
static bool all_finite(const kin_tensor *t, const char *name, char *why, size_t bytes)
{
    int64_t n = kin_tensor_numel(t);
    for (int64_t i = 0; i < n; i++) {
        double v = kin_tensor_get(t, i);
        if (!isfinite(v)) {
            snprintf(why, bytes, "%s[%lld of %lld] = %g is not finite", name, (long long)i,
                     (long long)n, v);
            return false;
        }
    }
    return true;
}

bool kin_near_tensor(const kin_tensor *got, const kin_tensor *want, kin_near_bound bound, char *why,
                     size_t bytes)
{
    double largest = 0, worst = -1, err2 = 0, want2 = 0, scale, limit, nmse, nmse_limit;
    int64_t n = kin_tensor_numel(want), at = 0;
    if (!kin_tensor_same_shape(got, want)) {
        snprintf(why, bytes, "shapes differ");
        return false;
    }
    if (!all_finite(got, "got", why, bytes) || !all_finite(want, "want", why, bytes))
        return false;
    for (int64_t i = 0; i < n; i++) {
        double w = kin_tensor_get(want, i), err = fabs(kin_tensor_get(got, i) - w);
        largest = fmax(largest, fabs(w));
        err2 += err * err;
        want2 += w * w;
        if (err > worst) {
            worst = err;
            at = i;
        }
    }
    scale = fmax(largest, bound.scale_min);
    limit = scale * (bound.length * bound.eps_acc + bound.eps_out) * tol_scale();
    nmse = err2 / fmax(want2, (double)n * bound.scale_min * bound.scale_min);
    nmse_limit = 16 * pow(sqrt(bound.length) * bound.eps_acc + bound.eps_out, 2) * tol_scale();
    if (n == 0)
        return true;
    snprintf(why, bytes,
             "[%lld of %lld] got %.9g want %.9g: error %.3g, bound %.3g (scale %.3g); nmse %.3g, "
             "bound %.3g",
             (long long)at, (long long)n, kin_tensor_get(got, at), kin_tensor_get(want, at), worst,
             limit, scale, nmse, nmse_limit);
    return tol_scale() > 0 && worst <= limit && nmse <= nmse_limit;
}

bool kin_near_floats(const float *got, const float *want, int64_t n, double atol, double rtol,
                     char *why, size_t bytes)
{
    double worst = -1;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        double w = (double)want[i], err = fabs((double)got[i] - w);
        double ratio = err / fmax(atol + rtol * fabs(w), 1e-300);
        if (!isfinite(err))
            ratio = INFINITY;
        if (ratio > worst) {
            worst = ratio;
            at = i;
        }
    }
    if (n == 0)
        return true;
    snprintf(why, bytes, "[%lld of %lld] got %.9g want %.9g: %.3g of the bound", (long long)at,
             (long long)n, (double)got[at], (double)want[at], worst);
    return worst <= tol_scale();
}

bool kin_near_same_bits(const kin_tensor *got, const kin_tensor *want, char *why, size_t bytes)
{
    int64_t n = kin_tensor_numel(want);
    if (!kin_tensor_same_shape(got, want) || got->dtype != want->dtype) {
        snprintf(why, bytes, "shapes or types differ");
        return false;
    }
    for (int64_t i = 0; i < n; i++) {
        /* note: as doubles every value of every type is exact, so equal bits are equal values */
        double g = kin_tensor_get(got, i), w = kin_tensor_get(want, i);
        if (memcmp(&g, &w, sizeof(g)) != 0) {
            snprintf(why, bytes, "[%lld of %lld] %.9g is not the same bits as %.9g", (long long)i,
                     (long long)n, g, w);
            return false;
        }
    }
    snprintf(why, bytes, "%lld values, all the same bits", (long long)n);
    return true;
}

bool kin_near_value(double a, double b, double rtol, double atol)
{
    if (!isfinite(a) || !isfinite(b))
        return false;
    return fabs(a - b) <= (rtol * fmax(fabs(a), fabs(b)) + atol) * tol_scale();
}
