#include "tensor/cpu/peak.h"

#include <cpuid.h>
#include <immintrin.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"

/* Independent chains of operations, named one by one so that they stay in registers: an array of
 * them goes to memory. Twelve cover latency times units (4 x 2) on all processors we know. */
#define TWELVE(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11)
enum { CHAINS = 12, SPINS = 50000, AMX_SPINS = 6000, ADDS = 32, ADD_SPINS = 6000 };

/* A loop of n rounds over the chains; returns its operations. sink is read and written so that the
 * compiler keeps the work. */
#define SPIN(name, isa, vec, both, ops)                                  \
    __attribute__((target(isa))) static double name(long n, float *sink) \
    {                                                                    \
        const vec a = both(sink[0]), b = both(sink[1]);                  \
        TWELVE(START_##name)                                             \
        for (long i = 0; i < n; i++) {                                   \
            TWELVE(STEP_##name)                                          \
        }                                                                \
        TWELVE(OUT_##name)                                               \
        return (double)n * CHAINS * (ops);                               \
    }

#define START_spin_fma256(i) __m256 c##i = _mm256_set1_ps(sink[i]);
#define STEP_spin_fma256(i) c##i = _mm256_fmadd_ps(a, c##i, b);
#define OUT_spin_fma256(i) sink[i] = _mm256_cvtss_f32(c##i);
SPIN(spin_fma256, "avx2,fma", __m256, _mm256_set1_ps, 16)

#define START_spin_fma512(i) __m512 c##i = _mm512_set1_ps(sink[i]);
#define STEP_spin_fma512(i) c##i = _mm512_fmadd_ps(a, c##i, b);
#define OUT_spin_fma512(i) sink[i] = _mm512_cvtss_f32(c##i);
SPIN(spin_fma512, "avx512f", __m512, _mm512_set1_ps, 32)

/* pairs of bf16: the bits of a float's upper half twice */
#define BF16_PAIRS(x) ((__m512bh)_mm512_set1_epi32((x) > 0 ? 0x3e003e00 : 0x3d003d00))
#define START_spin_bf16(i) __m512 c##i = _mm512_set1_ps(sink[i]);
#define STEP_spin_bf16(i) c##i = _mm512_dpbf16_ps(c##i, a, b);
#define OUT_spin_bf16(i) sink[i] = _mm512_cvtss_f32(c##i);
SPIN(spin_bf16, "avx512f,avx512bf16", __m512bh, BF16_PAIRS, 64)

#define BYTES(x) _mm512_set1_epi32((x) > 0 ? 0x01020301 : 0x01010101)
#define START_spin_int8(i) __m512i c##i = _mm512_set1_epi32((int)(100 * sink[i]));
#define STEP_spin_int8(i) c##i = _mm512_dpbusd_epi32(c##i, a, b);
#define OUT_spin_int8(i) sink[i] = (float)_mm_cvtsi128_si32(_mm512_castsi512_si128(c##i));
SPIN(spin_int8, "avx512f,avx512vnni", __m512i, BYTES, 128)

/* Shape of the eight tile registers; see Intel's LDTILECFG. */
typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
} tile_config;

/* Four accumulators (latency 52, one product every 16 cycles) from two tiles each of a and b.
 * note: in assembly, so that neither compiler drops the stores into the configuration. */
#define SPIN_AMX(name, op, ops)                                                             \
    static double name(long n, float *sink)                                                 \
    {                                                                                       \
        tile_config config = {.palette = 1};                                                \
        (void)sink;                                                                         \
        for (int i = 0; i < 8; i++) {                                                       \
            config.colsb[i] = 64;                                                           \
            config.rows[i] = 16;                                                            \
        }                                                                                   \
        __asm__ volatile("ldtilecfg %0\n\t"                                                 \
                         "tilezero %%tmm0\n\ttilezero %%tmm1\n\t"                           \
                         "tilezero %%tmm2\n\ttilezero %%tmm3\n\t"                           \
                         "tilezero %%tmm4\n\ttilezero %%tmm5\n\t"                           \
                         "tilezero %%tmm6\n\ttilezero %%tmm7" ::"m"(config)                 \
                         : "memory");                                                       \
        for (long i = 0; i < n; i++)                                                        \
            __asm__ volatile(op " %tmm6, %tmm4, %tmm0\n\t" op " %tmm7, %tmm4, %tmm1\n\t" op \
                                " %tmm6, %tmm5, %tmm2\n\t" op " %tmm7, %tmm5, %tmm3");      \
        __asm__ volatile("tilerelease");                                                    \
        return (double)n * 4 * (ops);                                                       \
    }
SPIN_AMX(spin_amx_bf16, "tdpbf16ps", 16 * 16 * 64)
SPIN_AMX(spin_amx_int8, "tdpbusd", 16 * 16 * 128)

/* Additions that wait for each other, one cycle each. note: of two registers; with a constant some
 * processors do several at once. */
static double add_chain(void)
{
    uint64_t sum = 1, step = 3;
    for (int i = 0; i < ADD_SPINS; i++)
        __asm__ volatile(".rept 32\n\tadd %1, %0\n\t.endr" : "+r"(sum) : "r"(step) : "cc");
    return (double)ADD_SPINS * ADDS;
}

static bool cpuid7(int sub, int reg, int bit)
{
    unsigned r[4];
    return __get_cpuid_count(7, (unsigned)sub, &r[0], &r[1], &r[2], &r[3]) && (r[reg] >> bit & 1);
}

bool kin_peak_has(kin_peak_unit unit, kin_isa isa)
{
    switch (unit) {
    case KIN_PEAK_F32: return isa >= KIN_ISA_AVX2;
    case KIN_PEAK_BF16: return isa >= KIN_ISA_AVX512 && cpuid7(1, 0, 5);
    case KIN_PEAK_INT8: return isa >= KIN_ISA_AVX512 && cpuid7(0, 2, 11);
    case KIN_PEAK_AMX_BF16: return isa >= KIN_ISA_AMX;
    case KIN_PEAK_AMX_INT8: return isa >= KIN_ISA_AMX && cpuid7(0, 3, 25);
    case KIN_PEAK_UNITS:
    default: return false;
    }
}

static double spin(kin_peak_unit unit, kin_isa isa, float sink[CHAINS])
{
    switch (unit) {
    case KIN_PEAK_F32:
        return isa >= KIN_ISA_AVX512 ? spin_fma512(SPINS, sink) : spin_fma256(SPINS, sink);
    case KIN_PEAK_BF16: return spin_bf16(SPINS, sink);
    case KIN_PEAK_INT8: return spin_int8(SPINS, sink);
    case KIN_PEAK_AMX_BF16: return spin_amx_bf16(AMX_SPINS, sink);
    case KIN_PEAK_AMX_INT8: return spin_amx_int8(AMX_SPINS, sink);
    case KIN_PEAK_UNITS:
    default: return 0;
    }
}

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The slice that counts: see kin_peak_options. */
static double choose(double *rate, const kin_peak_options *opt)
{
    qsort(rate, (size_t)opt->slices, sizeof *rate, by_value);
    return rate[opt->clock == CLOCK_MONOTONIC ? opt->slices - 1 : 3 * (opt->slices - 1) / 4];
}

/* One thread's part: stretches of the loop, each followed by the chain of additions while the core
 * still has the clock that the loop left it. */
static kin_peak measure_one(kin_peak_unit unit, const kin_peak_options *opt)
{
    double rate[KIN_PEAK_SLICES], hz = 0;
    float sink[CHAINS];
    for (int i = 0; i < CHAINS; i++)
        sink[i] = 0.5f + 0.01f * (float)i;
    for (int s = 0; s < opt->slices; s++) {
        double t = now(opt->clock), ops = spin(unit, opt->isa, sink);
        t = now(opt->clock) - t;
        rate[s] = t > 0 ? ops / t : 0;
        /* note: wall time, which needs no system call, and the best: nothing runs it faster */
        t = now(CLOCK_MONOTONIC);
        double adds = add_chain() / (now(CLOCK_MONOTONIC) - t);
        hz = adds > hz ? adds : hz;
    }
    return (kin_peak){choose(rate, opt), hz};
}

kin_peak kin_peak_measure(kin_peak_unit unit, const kin_peak_options *opt)
{
    double rate = 0, hz = 1e99;
    if (!kin_peak_has(unit, opt->isa))
        return (kin_peak){0, 0};
#pragma omp parallel num_threads(opt->threads) reduction(+ : rate) reduction(min : hz)
    {
#pragma omp barrier
        kin_peak one = measure_one(unit, opt);
        rate += one.rate;
        hz = one.hz;
    }
    return (kin_peak){rate, hz};
}

/* ---- memory ---- */

__attribute__((target("avx2,fma"))) static void triad(int64_t n, float *a, const float *b,
                                                      const float *c)
{
    const __m256 s = _mm256_set1_ps(0.25f);
    for (int64_t i = 0; i < n; i += 16) {
        _mm256_store_ps(a + i, _mm256_fmadd_ps(s, _mm256_load_ps(c + i), _mm256_load_ps(b + i)));
        _mm256_store_ps(a + i + 8,
                        _mm256_fmadd_ps(s, _mm256_load_ps(c + i + 8), _mm256_load_ps(b + i + 8)));
    }
}

__attribute__((target("avx2,fma"))) static void triad_stream(int64_t n, float *a, const float *b,
                                                             const float *c)
{
    const __m256 s = _mm256_set1_ps(0.25f);
    for (int64_t i = 0; i < n; i += 16) {
        _mm256_stream_ps(a + i, _mm256_fmadd_ps(s, _mm256_load_ps(c + i), _mm256_load_ps(b + i)));
        _mm256_stream_ps(a + i + 8,
                         _mm256_fmadd_ps(s, _mm256_load_ps(c + i + 8), _mm256_load_ps(b + i + 8)));
    }
    _mm_sfence();
}

__attribute__((target("avx512f"))) static void triad_wide(int64_t n, float *a, const float *b,
                                                          const float *c)
{
    const __m512 s = _mm512_set1_ps(0.25f);
    for (int64_t i = 0; i < n; i += 16)
        _mm512_store_ps(a + i, _mm512_fmadd_ps(s, _mm512_load_ps(c + i), _mm512_load_ps(b + i)));
}

typedef void (*triad_fn)(int64_t n, float *a, const float *b, const float *c);

kin_status kin_triad_open(kin_triad *t, size_t bytes, const kin_peak_options *opt, kin_error *err)
{
    const int64_t n = ((int64_t)(bytes / 12) / opt->threads + 31) / 32 * 32;
    *t = (kin_triad){.n = n, .threads = opt->threads};
    t->p = kin_malloc((size_t)(3 * n * t->threads) * sizeof *t->p);
    if (!t->p)
        return kin_fail(err, KIN_ERR_MEM, "triad: no memory for %zu bytes", bytes);
#pragma omp parallel num_threads(t->threads)
    for (int64_t i = 0, at = 3 * n * omp_get_thread_num(); i < 3 * n; i++)
        t->p[at + i] = 1;
    return KIN_OK;
}

void kin_triad_close(kin_triad *t)
{
    kin_free(t->p);
    t->p = NULL;
}

static double triad_one(triad_fn run, int64_t n, float *p, const kin_peak_options *opt)
{
    const double bytes = 12.0 * (double)n;
    const int repeats = bytes < 16e6 ? (int)(16e6 / bytes) : 1; /* a stretch of about 0.5-1 ms */
    double rate[KIN_PEAK_SLICES];
    for (int s = 0; s < opt->slices; s++) {
        double t = now(opt->clock);
        for (int r = 0; r < repeats; r++)
            run(n, p, p + n, p + 2 * n);
        t = now(opt->clock) - t;
        rate[s] = t > 0 ? bytes * repeats / t : 0;
    }
    return choose(rate, opt);
}

double kin_triad_rate(const kin_triad *t, bool stream, const kin_peak_options *opt)
{
    triad_fn run = stream ? triad_stream : opt->isa >= KIN_ISA_AVX512 ? triad_wide : triad;
    double rate = 0;
    if (!t->p || opt->isa < KIN_ISA_AVX2)
        return 0;
#pragma omp parallel num_threads(t->threads) reduction(+ : rate)
    {
#pragma omp barrier
        rate += triad_one(run, t->n, t->p + 3 * t->n * omp_get_thread_num(), opt);
    }
    return rate;
}

/* note: sysconf(_SC_LEVEL3_CACHE_SIZE) is ten times too large on some virtual machines. */
size_t kin_peak_cache(int level)
{
    char path[96];
    size_t size = 0;
    int have = 0;
    for (int i = 0; i < 8 && have != level; i++) {
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", i);
        FILE *f = fopen(path, "r");
        if (!f)
            break;
        have = fscanf(f, "%d", &have) == 1 ? have : 0;
        fclose(f);
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        f = fopen(path, "r");
        size = f && fscanf(f, "%zuK", &size) == 1 ? size : 0;
        if (f)
            fclose(f);
    }
    return have == level && size ? size << 10 : level == 2 ? (size_t)1 << 20 : (size_t)32 << 20;
}

double kin_peak_tsc(void)
{
    double t = now(CLOCK_MONOTONIC), u;
    const uint64_t start = __rdtsc();
    do
        u = now(CLOCK_MONOTONIC);
    while (u - t < 0.002);
    return (double)(__rdtsc() - start) / (u - t);
}
