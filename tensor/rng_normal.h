/* tensor/rng_normal.h: four words of Philox4x32-10 and the normals made of them, for the host
 * (tensor/rng.c) and for device code: additions, products, one division and one square root in
 * double, so that IEEE fixes every bit. Whoever includes this is compiled without contraction into
 * fused products. */
#ifndef KIN_TENSOR_RNG_NORMAL_H
#define KIN_TENSOR_RNG_NORMAL_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <Random123/philox.h>

#include "tensor/rng.h"

#ifdef __CUDACC__
#define KIN_RNG_INLINE __host__ __device__ static inline
#else
#define KIN_RNG_INLINE static inline
#endif

KIN_RNG_INLINE philox4x32_key_t kin_rng_key(const kin_rng *r)
{
    uint32_t purpose = (uint32_t)r->purpose;
    philox4x32_key_t key = {{(uint32_t)r->seed ^ purpose * 0x9E3779B9u,
                             (uint32_t)(r->seed >> 32) ^ purpose * 0xBB67AE85u}};
    return key;
}

/* Natural logarithm of x > 0 (normal), error below 2e-15 of max(1, |ln x|): x = m 2^e with m in
 * [sqrt(1/2), sqrt(2)), ln m = 2 atanh(s), s = (m-1)/(m+1), |s| < 0.1716, by its series up to s^21.
 */
KIN_RNG_INLINE double kin_rng_log(double x)
{
    uint64_t bits, eb;
    double m, e, s, z, p;
    memcpy(&bits, &x, sizeof(bits));
    /* shifts the range of the mantissa to [sqrt(1/2), sqrt(2)) before the exponent is cut off */
    bits += 0x3ff0000000000000u - 0x3fe6a09e667f3bcdu;
    eb = (bits >> 52) |
         0x4330000000000000u; /* 2^52 + biased exponent, without an integer conversion */
    memcpy(&e, &eb, sizeof(e));
    e -= 0x1p52 + 1023.0;
    bits = (bits & 0x000fffffffffffffu) + 0x3fe6a09e667f3bcdu;
    memcpy(&m, &bits, sizeof(m));
    s = (m - 1.0) / (m + 1.0);
    z = s * s;
    p = 1.0 / 21.0;
    p = p * z + 1.0 / 19.0;
    p = p * z + 1.0 / 17.0;
    p = p * z + 1.0 / 15.0;
    p = p * z + 1.0 / 13.0;
    p = p * z + 1.0 / 11.0;
    p = p * z + 1.0 / 9.0;
    p = p * z + 1.0 / 7.0;
    p = p * z + 1.0 / 5.0;
    p = p * z + 1.0 / 3.0;
    p = p * z;
    return e * 0.693147180559945309417 + (2.0 * s + 2.0 * s * p);
}

/* Sine and cosine of 2 pi w / 2^32. The quadrant is cut off in integers, so the rest lies in
 * [-pi/4, pi/4) and is exact; Taylor series to a remainder below 1e-15. */
KIN_RNG_INLINE void kin_rng_sincos(uint32_t w, double *sn, double *cs)
{
    uint32_t q = (w + 0x20000000u) >> 30;
    double a = (double)(int32_t)(w - (q << 30)) * 1.46291807926715968105e-9; /* 2 pi / 2^32 */
    double z = a * a, s, c, t, flip_s, flip_c;
    s = 1.0 / 1307674368000.0 * -z + 1.0 / 6227020800.0;
    s = s * z - 1.0 / 39916800.0;
    s = s * z + 1.0 / 362880.0;
    s = s * z - 1.0 / 5040.0;
    s = s * z + 1.0 / 120.0;
    s = s * z - 1.0 / 6.0;
    s = a + a * z * s;
    c = 1.0 / 20922789888000.0 * z - 1.0 / 87178291200.0;
    c = c * z + 1.0 / 479001600.0;
    c = c * z - 1.0 / 3628800.0;
    c = c * z + 1.0 / 40320.0;
    c = c * z - 1.0 / 720.0;
    c = c * z + 1.0 / 24.0;
    c = c * z - 0.5;
    c = 1.0 + z * c;
    flip_s = q & 2u ? -1.0 : 1.0;
    flip_c = (q + 1u) & 2u ? -1.0 : 1.0;
    t = s;
    s = q & 1u ? c : t;
    c = q & 1u ? t : c;
    *sn = flip_s * s;
    *cs = flip_c * c;
}

/* Two normals from two words: radius from the first ((w + 1/2) / 2^32, never 0), angle from the
 * second. */
KIN_RNG_INLINE void kin_rng_box_muller(uint32_t w0, uint32_t w1, float *n0, float *n1)
{
    double u = ((double)(int32_t)(w0 ^ 0x80000000u) + 2147483648.5) * 0x1p-32;
    double radius = sqrt(-2.0 * kin_rng_log(u)), sn, cs;
    kin_rng_sincos(w1, &sn, &cs);
    *n0 = (float)(radius * cs);
    *n1 = (float)(radius * sn);
}

/* The normals of block `block`: elements [4 block, 4 block + 4) of the stream. */
KIN_RNG_INLINE void kin_rng_normal_block(const kin_rng *r, uint32_t block, float out[4])
{
    philox4x32_ctr_t ctr = {{block, r->step, (uint32_t)r->sample, (uint32_t)(r->sample >> 32)}};
    philox4x32_ctr_t w = philox4x32_R(10, ctr, kin_rng_key(r));
    kin_rng_box_muller(w.v[0], w.v[1], &out[0], &out[1]);
    kin_rng_box_muller(w.v[2], w.v[3], &out[2], &out[3]);
}

#endif
