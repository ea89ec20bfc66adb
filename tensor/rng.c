/* tensor/rng.c: counter-based noise on Philox4x32-10 (Salmon et al., "Parallel random numbers: as
 * easy as 1, 2, 3", SC11; Random123's C header) and Box-Muller normals on our own logarithm and
 * sine, in double, with additions, products, one division and one square root only: IEEE fixes
 * every bit, whatever the compiler makes of the loops (this file is compiled without contraction
 * into fused products).
 *
 * counter = {block, step, sample low, sample high}
 * key     = {seed low  ^ purpose * 0x9E3779B9, seed high ^ purpose * 0xBB67AE85}, products modulo
 * 2^32 Element 4b + j of a stream comes from block b alone. */
#include "tensor/rng.h"

#include <math.h>
#include <string.h>

#include <Random123/philox.h>

enum { CHUNK = 64 }; /* blocks made at once; loops over it have a fixed length and vectorise */

static philox4x32_key_t key_of(const kin_rng *r)
{
    uint32_t purpose = (uint32_t)r->purpose;
    philox4x32_key_t key = {{(uint32_t)r->seed ^ purpose * 0x9E3779B9u,
                             (uint32_t)(r->seed >> 32) ^ purpose * 0xBB67AE85u}};
    return key;
}

void kin_rng_block(const kin_rng *r, uint32_t block, uint32_t out[4])
{
    philox4x32_ctr_t ctr = {{block, r->step, (uint32_t)r->sample, (uint32_t)(r->sample >> 32)}};
    philox4x32_ctr_t words = philox4x32_R(10, ctr, key_of(r));
    memcpy(out, words.v, sizeof(words.v));
}

/* Natural logarithm of x > 0 (normal), error below 2e-15 of max(1, |ln x|): x = m 2^e with m in
 * [sqrt(1/2), sqrt(2)), ln m = 2 atanh(s), s = (m-1)/(m+1), |s| < 0.1716, by its series up to s^21.
 */
static inline double own_log(double x)
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
static inline void own_sincos(uint32_t w, double *sn, double *cs)
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
static inline void box_muller(uint32_t w0, uint32_t w1, float *n0, float *n1)
{
    double u = ((double)(int32_t)(w0 ^ 0x80000000u) + 2147483648.5) * 0x1p-32;
    double radius = sqrt(-2.0 * own_log(u)), sn, cs;
    own_sincos(w1, &sn, &cs);
    *n0 = (float)(radius * cs);
    *n1 = (float)(radius * sn);
}

static inline float to_uniform(uint32_t w)
{
    return (float)(int32_t)(w >> 8) * 0x1p-24f;
}

/* The words of CHUNK blocks from `block` on, word j of block b in words[j][b]. */
static void chunk_words(const kin_rng *r, uint32_t block, uint32_t words[4][CHUNK])
{
    philox4x32_key_t key = key_of(r);
    for (int b = 0; b < CHUNK; b++) {
        philox4x32_ctr_t ctr = {
            {block + (uint32_t)b, r->step, (uint32_t)r->sample, (uint32_t)(r->sample >> 32)}};
        philox4x32_ctr_t w = philox4x32_R(10, ctr, key);
        for (int j = 0; j < 4; j++)
            words[j][b] = w.v[j];
    }
}

typedef void (*chunk_fn)(uint32_t words[4][CHUNK], float out[4 * CHUNK]);

static void chunk_uniform(uint32_t words[4][CHUNK], float out[4 * CHUNK])
{
    for (int b = 0; b < CHUNK; b++) {
        for (int j = 0; j < 4; j++)
            out[4 * b + j] = to_uniform(words[j][b]);
    }
}

static void chunk_normal(uint32_t words[4][CHUNK], float out[4 * CHUNK])
{
    float n[4][CHUNK];
    for (int b = 0; b < CHUNK; b++)
        box_muller(words[0][b], words[1][b], &n[0][b], &n[1][b]);
    for (int b = 0; b < CHUNK; b++)
        box_muller(words[2][b], words[3][b], &n[2][b], &n[3][b]);
    for (int b = 0; b < CHUNK; b++) {
        for (int j = 0; j < 4; j++)
            out[4 * b + j] = n[j][b];
    }
}

static void fill(const kin_rng *r, uint64_t first, int64_t n, float *out, chunk_fn make)
{
    uint32_t words[4][CHUNK];
    float chunk[4 * CHUNK];
    while (n > 0) {
        uint64_t skip = first % 4;
        int64_t take = 4 * CHUNK - (int64_t)skip;
        if (take > n)
            take = n;
        chunk_words(r, (uint32_t)(first / 4), words);
        make(words, chunk);
        memcpy(out, chunk + skip, (size_t)take * sizeof(float));
        out += take;
        first += (uint64_t)take;
        n -= take;
    }
}

void kin_rng_uniform(const kin_rng *r, uint64_t first, int64_t n, float *out)
{
    fill(r, first, n, out, chunk_uniform);
}

void kin_rng_normal(const kin_rng *r, uint64_t first, int64_t n, float *out)
{
    fill(r, first, n, out, chunk_normal);
}

float kin_rng_uniform_at(const kin_rng *r, uint64_t i)
{
    uint32_t words[4];
    kin_rng_block(r, (uint32_t)(i / 4), words);
    return to_uniform(words[i % 4]);
}

uint64_t kin_rng_index_at(const kin_rng *r, uint64_t i, uint64_t n)
{
    uint32_t words[4];
    /* two words of a block per draw: the bias stays below n / 2^64 */
    kin_rng_block(r, (uint32_t)(i / 2), words);
    uint64_t w = (uint64_t)words[2 * (i % 2) + 1] << 32 | words[2 * (i % 2)];
    return (uint64_t)(((unsigned __int128)w * n) >> 64);
}
