/* samplers/curves.c: curves of sigmas, and from a sigma back to its time. */
#include <math.h>

#include "samplers/schedule.h"

/* Regularised incomplete beta function I_x(a,a) by its continued fraction (Lentz), x <= 1/2. */
static double beta_cdf(double a, double x)
{
    if (x <= 0.0)
        return 0.0;
    double c = 1.0, d = 1.0 / (1.0 - 2.0 * a * x / (a + 1.0)), f = d;
    for (int m = 1; m < 300; m++) {
        double even = m * (a - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        double odd = -(a + m) * (2.0 * a + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        d = 1.0 / (1.0 + even * d);
        c = 1.0 + even / c;
        f *= c * d;
        d = 1.0 / (1.0 + odd * d);
        c = 1.0 + odd / c;
        f *= c * d;
        if (fabs(c * d - 1.0) < 1e-16)
            break;
    }
    double front = lgamma(2.0 * a) - 2.0 * lgamma(a) + a * log(x) + a * log1p(-x);
    return exp(front) * f / a;
}

/* x with I_x(a,a) = p; symmetric about 1/2. */
static double beta_quantile(double a, double p)
{
    if (p > 0.5)
        return 1.0 - beta_quantile(a, 1.0 - p);
    double lo = 0.0, hi = 0.5;
    for (int i = 0; i < 200 && hi - lo > 1e-17; i++) {
        double mid = 0.5 * (lo + hi);
        if (beta_cdf(a, mid) < p)
            lo = mid;
        else
            hi = mid;
    }
    return 0.5 * (lo + hi);
}

void kin_sigma_curve_fill(kin_sigma_curve curve, double first, double last, int n, double *sigma)
{
    const double rho = 7.0;
    for (int i = 0; i < n; i++) {
        const double ramp = n > 1 ? (double)i / (n - 1) : 0.0;
        double a, b;
        switch (curve) {
        case KIN_CURVE_KARRAS:
            a = pow(first, 1.0 / rho);
            b = pow(last, 1.0 / rho);
            sigma[i] = pow(a + ramp * (b - a), rho);
            break;
        case KIN_CURVE_EXPONENTIAL:
        case KIN_CURVE_LU: sigma[i] = exp(log(first) + ramp * (log(last) - log(first))); break;
        case KIN_CURVE_BETA:
            sigma[i] = last + (first - last) * beta_quantile(0.6, 1.0 - ramp);
            break;
        case KIN_CURVE_NONE: break;
        }
    }
}

double kin_sigma_of(double ab)
{
    const float a = (float)ab;
    return (double)sqrtf((1.0f - a) / a);
}

/* note: rounded as in the f32 table of diffusers, which decides whether the last time is reached */
static double log_sigma(double ab)
{
    return (double)(float)log(kin_sigma_of(ab));
}

double kin_sigma_to_time(const double *table, int T, double sigma)
{
    const double want = log(fmax(sigma, 1e-10));
    int low = 0;
    /* note: the sigmas ascend with time */
    for (int i = 1; i < T - 1 && log_sigma(table[i]) <= want; i++)
        low = i;
    const double a = log_sigma(table[low]), b = log_sigma(table[low + 1]);
    const double w = fmin(fmax((a - want) / (a - b), 0.0), 1.0);
    return (1.0 - w) * low + w * (low + 1);
}
