/* The generator: published Philox vectors, splits of a stream, moments and tails, bits fixed for
 * all time. */
#include <math.h>
#include <stdlib.h>

#include "tensor/rng.h"
#include "tests/support/support.h"

/* The seed that gives this key under a purpose (rng.c: key = seed xor purpose times two constants).
 */
static uint64_t seed_for(uint32_t low, uint32_t high, uint32_t purpose)
{
    low ^= purpose * 0x9E3779B9u;
    high ^= purpose * 0xBB67AE85u;
    return (uint64_t)high << 32 | low;
}

/* Known answers of Random123 1.14 (kat_vectors, philox4x32 10). */
static void known_vectors(void **state)
{
    static const uint32_t kat[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
         0x94fdcceb, 0x5001e420, 0x24126ea1}};
    (void)state;
    for (int i = 0; i < 3; i++) {
        const uint32_t *k = kat[i];
        kin_rng r = {.seed = seed_for(k[4], k[5], KIN_RNG_NOISE),
                     .purpose = KIN_RNG_NOISE,
                     .sample = (uint64_t)k[3] << 32 | k[2],
                     .step = k[1]};
        uint32_t out[4];
        kin_rng_block(&r, k[0], out);
        assert_memory_equal(out, &k[6], sizeof(out));
    }
}

/* Bits that files depend on: start weights, noise of a sample. Any change here breaks resumed runs.
 */
static void frozen_bits(void **state)
{
    kin_rng r = {.seed = 42, .purpose = KIN_RNG_NOISE, .sample = 3, .step = 7};
    float u[5], n[5];
    uint64_t hash = 14695981039346656037u;
    (void)state;
    kin_rng_uniform(&r, 0, 5, u);
    for (int i = 0; i < 5; i++)
        assert_true(u[i] == kin_rng_uniform_at(&r, (uint64_t)i));
    for (int block = 0; block < 500; block++) {
        kin_rng_normal(&r, (uint64_t)(5 * block), 5, n);
        for (size_t i = 0; i < sizeof(n); i++)
            hash = (hash ^ ((unsigned char *)n)[i]) * 1099511628211u;
    }
    assert_int_equal(hash, 0x13f8ac9cffd145dau);
}

/* Element i depends on i alone, not on where a call starts or how long it is. */
static void splits(void **state)
{
    enum { N = 3000 };
    static float whole[N], part[N];
    static const int64_t cuts[] = {1, 3, 4, 5, 255, 256, 257, 1023};
    kin_rng r = {.seed = 5, .purpose = KIN_RNG_TEST, .sample = 1};
    (void)state;
    for (int normal = 0; normal < 2; normal++) {
        void (*draw)(const kin_rng *, uint64_t, int64_t, float *) =
            normal ? kin_rng_normal : kin_rng_uniform;
        draw(&r, 0, N, whole);
        for (size_t c = 0; c < sizeof(cuts) / sizeof(cuts[0]); c++) {
            for (int64_t at = 0; at < N; at += cuts[c])
                draw(&r, (uint64_t)at, N - at < cuts[c] ? N - at : cuts[c], part + at);
            assert_memory_equal(whole, part, sizeof(whole));
        }
        draw(&r, ((uint64_t)1 << 33) - 7, 7, part);
        for (int i = 0; i < 7; i++)
            assert_true(isfinite(part[i]));
    }
}

/* Another seed, purpose, sample or step is another stream. */
static void streams_differ(void **state)
{
    kin_rng base = {.seed = 1, .purpose = KIN_RNG_NOISE, .sample = 0, .step = 0}, others[6];
    float a[64], b[64];
    (void)state;
    for (int i = 0; i < 6; i++)
        others[i] = base;
    others[0].seed = 2;
    others[1].seed = 1 + ((uint64_t)1 << 32);
    others[2].purpose = KIN_RNG_TIME;
    others[3].sample = 1;
    others[4].sample = (uint64_t)1 << 40;
    others[5].step = 1;
    kin_rng_normal(&base, 0, 64, a);
    for (int i = 0; i < 6; i++) {
        int equal = 0;
        double dot = 0;
        kin_rng_normal(&others[i], 0, 64, b);
        for (int j = 0; j < 64; j++) {
            equal += a[j] == b[j];
            dot += (double)a[j] * (double)b[j];
        }
        assert_true(equal <= 1);
        assert_true(fabs(dot) < 45); /* 5.6 standard deviations */
    }
}

/* First four moments, neighbours, tails; n = 2^20, so bounds of 6 standard deviations. */
static void moments(void **state)
{
    enum { N = 1 << 20 };
    static float x[N];
    kin_rng r = {.seed = 11, .purpose = KIN_RNG_TEST};
    double n = N, m1 = 0, m2 = 0, m3 = 0, m4 = 0, lag1 = 0, lag2 = 0, beyond = 0, largest = 0;
    (void)state;
    kin_rng_normal(&r, 0, N, x);
    for (int i = 0; i < N; i++) {
        double v = (double)x[i];
        m1 += v;
        m2 += v * v;
        m3 += v * v * v;
        m4 += v * v * v * v;
        lag1 += i > 0 ? v * (double)x[i - 1] : 0;
        lag2 += i > 1 ? v * v * ((double)x[i - 1] * (double)x[i - 1]) : 0;
        beyond += fabs(v) > 3;
        largest = fmax(largest, fabs(v));
    }
    assert_true(fabs(m1 / n) < 6 / sqrt(n));
    assert_true(fabs(m2 / n - 1) < 6 * sqrt(2 / n));
    assert_true(fabs(m3 / n) < 6 * sqrt(15 / n));
    assert_true(fabs(m4 / n - 3) < 6 * sqrt(96 / n));
    assert_true(fabs(lag1 / n) < 6 / sqrt(n));
    assert_true(fabs(lag2 / n - 1) < 6 * sqrt(8 / n));
    assert_true(fabs(beyond / n - 0.0026998) < 6 * sqrt(0.0027 / n));
    assert_true(largest > 4.2 && largest < 6.7);
}

/* Against the formula with the library's logarithm and sine. */
static void box_muller(void **state)
{
    kin_rng r = {.seed = 3, .purpose = KIN_RNG_TEST, .sample = 9};
    (void)state;
    for (uint32_t b = 0; b < 5000; b++) {
        uint32_t w[4];
        float n[4];
        kin_rng_block(&r, b, w);
        kin_rng_normal(&r, 4ull * b, 4, n);
        for (int i = 0; i < 4; i += 2) {
            double radius = sqrt(-2 * log(((double)w[i] + 0.5) / 4294967296.0));
            double angle = 2 * 3.14159265358979323846 * (double)w[i + 1] / 4294967296.0;
            assert_true(fabs((double)n[i] - radius * cos(angle)) < 5e-7);
            assert_true(fabs((double)n[i + 1] - radius * sin(angle)) < 5e-7);
        }
    }
}

static void uniforms(void **state)
{
    enum { N = 1 << 20, BINS = 64 };
    static float x[N];
    kin_rng r = {.seed = 12, .purpose = KIN_RNG_TEST};
    double chi = 0;
    int bins[BINS] = {0};
    (void)state;
    kin_rng_uniform(&r, 0, N, x);
    for (int i = 0; i < N; i++) {
        assert_true(x[i] >= 0 && x[i] < 1);
        assert_true(x[i] * 16777216.0f == floorf(x[i] * 16777216.0f));
        bins[(int)(x[i] * BINS)]++;
    }
    for (int i = 0; i < BINS; i++)
        chi += pow(bins[i] - (double)N / BINS, 2) / ((double)N / BINS);
    assert_true(chi > 20 && chi < 130); /* 63 degrees of freedom */
}

static void indices(void **state)
{
    kin_rng r = {.seed = 4, .purpose = KIN_RNG_DATA};
    int seen[7] = {0};
    (void)state;
    for (uint64_t i = 0; i < 70000; i++) {
        uint64_t v = kin_rng_index_at(&r, i, 7);
        assert_true(v < 7);
        seen[v]++;
        assert_int_equal(kin_rng_index_at(&r, i, 1), 0);
        assert_true(kin_rng_index_at(&r, i, ~(uint64_t)0) < ~(uint64_t)0);
    }
    for (int i = 0; i < 7; i++)
        assert_true(abs(seen[i] - 10000) < 600);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_vectors), cmocka_unit_test(frozen_bits),
        cmocka_unit_test(splits),        cmocka_unit_test(streams_differ),
        cmocka_unit_test(moments),       cmocka_unit_test(box_muller),
        cmocka_unit_test(uniforms),      cmocka_unit_test(indices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
