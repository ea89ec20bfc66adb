/* bench/gemm.c: rates of the CPU kernels beside the multiply-add peak of the same run. One line
 * each: threads, compute type, shape, milliseconds, GF/s, share of the f32 peak. Best of several
 * rounds of wall time, so other load shows as a lower rate; --cpu-time (one thread only) counts the
 * thread's own time instead. Usage: gemm [threads] [--cpu-time]. Build: ninja bench_gemm. */
#include <immintrin.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "tensor/cpu/onednn.h"

enum { ROUNDS = 9 };

static clockid_t bench_clock = CLOCK_MONOTONIC;

static double seconds(void)
{
    struct timespec t;
    clock_gettime(bench_clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Twelve independent chains of multiply-adds, named one by one so that they stay in registers;
 * returns flops. */
#define CHAINS(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11)
#define SPIN(name, isa, vec, lanes, set1)                                \
    __attribute__((target(isa))) static double name(long n, float *sink) \
    {                                                                    \
        vec a = set1(sink[0]), b = set1(sink[1]);                        \
        CHAINS(SPIN_DECL_##name)                                         \
        for (long i = 0; i < n; i++) {                                   \
            CHAINS(SPIN_STEP_##name)                                     \
        }                                                                \
        CHAINS(SPIN_OUT_##name)                                          \
        return (double)n * 12 * 2 * (lanes);                             \
    }
#define SPIN_DECL_spin_avx2(i) __m256 c##i = _mm256_set1_ps(sink[i]);
#define SPIN_STEP_spin_avx2(i) c##i = _mm256_fmadd_ps(a, c##i, b);
#define SPIN_OUT_spin_avx2(i) sink[i] = _mm256_cvtss_f32(c##i);
SPIN(spin_avx2, "avx2,fma", __m256, 8, _mm256_set1_ps)
#define SPIN_DECL_spin_avx512(i) __m512 c##i = _mm512_set1_ps(sink[i]);
#define SPIN_STEP_spin_avx512(i) c##i = _mm512_fmadd_ps(a, c##i, b);
#define SPIN_OUT_spin_avx512(i) sink[i] = _mm512_cvtss_f32(c##i);
SPIN(spin_avx512, "avx512f", __m512, 16, _mm512_set1_ps)

/* f32 multiply-adds of all threads, GF/s. */
static double peak(int threads)
{
    double best = 0;
    bool wide = kin_isa_detect() >= KIN_ISA_AVX512;
    for (int r = 0; r < ROUNDS; r++) {
        double flops = 0, t = seconds();
#pragma omp parallel num_threads(threads) reduction(+ : flops)
        {
            float sink[12];
            for (int i = 0; i < 12; i++)
                sink[i] = 0.5f + 0.01f * (float)i;
            flops += wide ? spin_avx512(2000000, sink) : spin_avx2(2000000, sink);
        }
        t = seconds() - t;
        best = flops / t * 1e-9 > best ? flops / t * 1e-9 : best;
    }
    return best;
}

typedef struct bench {
    kin_ctx *ctx;
    kin_params *params;
    double peak;
} bench;

static float *numbers(int64_t n)
{
    float *p = kin_malloc((size_t)n * sizeof(float));
    kin_rng rng = {.seed = 1, .purpose = KIN_RNG_TEST};
    if (!p)
        exit(4);
    kin_rng_normal(&rng, 0, n, p);
    return p;
}

static void line(const bench *b, const char *what, double best, double flops)
{
    printf("%d  %-4s %-34s %8.3f ms %7.1f GF/s  %.2f\n", b->ctx->threads,
           kin_dtype_name(b->ctx->compute), what, best * 1e3, flops / best * 1e-9,
           flops / best * 1e-9 / b->peak);
}

typedef kin_status (*forward_fn)(kin_ctx *, const kin_linear_args *);
typedef kin_status (*backward_fn)(kin_ctx *, const kin_linear_bwd_args *);

static void time_forward(const bench *b, const char *name, forward_fn run, const kin_linear_args *a)
{
    char what[96];
    double best = 1e9;
    for (int r = 0; r < ROUNDS; r++) {
        double t = seconds();
        if (run(b->ctx, a) != KIN_OK) {
            printf("%s: %s\n", name, b->ctx->error.text);
            return;
        }
        t = seconds() - t;
        best = r > 0 && t < best ? t : best; /* the first round packs */
    }
    snprintf(what, sizeof(what), "%s %lldx%lldx%lld", name, (long long)a->m, (long long)a->k,
             (long long)a->n);
    line(b, what, best, 2.0 * (double)(a->m * a->n * a->k));
}

static void time_backward(const bench *b, const char *name, backward_fn run,
                          const kin_linear_bwd_args *a)
{
    char what[96];
    double best = 1e9;
    for (int r = 0; r < ROUNDS; r++) {
        double t = seconds();
        if (run(b->ctx, a) != KIN_OK)
            return;
        t = seconds() - t;
        best = r > 0 && t < best ? t : best;
    }
    snprintf(what, sizeof(what), "%s %lldx%lldx%lld", name, (long long)a->m, (long long)a->k,
             (long long)a->n);
    line(b, what, best, 2.0 * (double)(a->m * a->n * a->k));
}

static void linear(bench *b, int64_t m, int64_t k, int64_t n)
{
    kin_error err = {0};
    kin_params *params = NULL;
    if (kin_params_create(&params, &err) != KIN_OK)
        exit(4);
    kin_param *w = kin_params_add(params, KIN_INIT(KIN_INIT_NORMAL, 0.1f), KIN_DIMS(n, k), "w");
    kin_param *bias = kin_params_add(params, KIN_INIT(KIN_INIT_NORMAL, 0.1f), KIN_DIMS(n), "b");
    if (kin_params_alloc(params, KIN_DTYPE_F32, false, &err) ||
        kin_params_alloc_grads(params, false, &err))
        exit(4);
    kin_params_init(params, 1);
    float *px = numbers(m * k), *py = numbers(m * n), *pd = numbers(m * k);
    kin_tensor x = KIN_TENSOR(px, KIN_DTYPE_F32, m, k), y = KIN_TENSOR(py, KIN_DTYPE_F32, m, n);
    kin_tensor dx = KIN_TENSOR(pd, KIN_DTYPE_F32, m, k);
    kin_linear_args f = {.m = m, .n = n, .k = k, .x = &x, .w = w, .b = bias, .y = &y};
    kin_linear_bwd_args g = {
        .m = m, .n = n, .k = k, .dy = &y, .x = &x, .w = w, .b = bias, .dx = &dx};
    time_forward(b, "linear", kin_cpu_linear, &f);
    time_forward(b, "linear by oneDNN", kin_onednn_linear, &f);
    f.act = KIN_ACT_GELU_TANH;
    time_forward(b, "linear gelu", kin_cpu_linear, &f);
    time_backward(b, "dx", kin_cpu_linear_dx, &g);
    time_backward(b, "dx by oneDNN", kin_onednn_linear_dx, &g);
    time_backward(b, "dw", kin_cpu_linear_dw, &g);
    kin_params_destroy(&params);
    kin_free(px);
    kin_free(py);
    kin_free(pd);
}

static void attention(bench *b, int64_t nb, int64_t nq, int64_t nk, int64_t heads, int64_t d)
{
    char what[96];
    double best[2] = {1e9, 1e9};
    float *p[8];
    for (int i = 0; i < 8; i++)
        p[i] = numbers(nb * (nq > nk ? nq : nk) * heads * d);
    float *pl = numbers(nb * heads * nq);
    kin_tensor q = KIN_TENSOR(p[0], KIN_DTYPE_F32, nb, nq, heads, d),
               k = KIN_TENSOR(p[1], KIN_DTYPE_F32, nb, nk, heads, d);
    kin_tensor v = KIN_TENSOR(p[2], KIN_DTYPE_F32, nb, nk, heads, d),
               o = KIN_TENSOR(p[3], KIN_DTYPE_F32, nb, nq, heads, d);
    kin_tensor dout = KIN_TENSOR(p[4], KIN_DTYPE_F32, nb, nq, heads, d),
               dq = KIN_TENSOR(p[5], KIN_DTYPE_F32, nb, nq, heads, d);
    kin_tensor dk = KIN_TENSOR(p[6], KIN_DTYPE_F32, nb, nk, heads, d),
               dv = KIN_TENSOR(p[7], KIN_DTYPE_F32, nb, nk, heads, d);
    kin_tensor lse = KIN_TENSOR(pl, KIN_DTYPE_F32, nb, heads, nq);
    kin_attention_args a = {.q = &q,
                            .k = &k,
                            .v = &v,
                            .o = &o,
                            .lse = &lse,
                            .scale = 1.0f / sqrtf((float)d),
                            .dout = &dout,
                            .dq = &dq,
                            .dk = &dk,
                            .dv = &dv};
    for (int r = 0; r < ROUNDS; r++) {
        double t = seconds(), u;
        kin_cpu_attention(b->ctx, &a);
        u = seconds();
        kin_cpu_attention_bwd(b->ctx, &a);
        best[0] = u - t < best[0] ? u - t : best[0];
        t = seconds() - u;
        best[1] = t < best[1] ? t : best[1];
    }
    double flops = 4.0 * (double)(nb * heads * nq * nk * d);
    for (int i = 0; i < 2; i++) {
        snprintf(what, sizeof(what), "attention%s B%lld q%lld k%lld A%lld d%lld", i ? " bwd" : "",
                 (long long)nb, (long long)nq, (long long)nk, (long long)heads, (long long)d);
        line(b, what, best[i], i ? 2.5 * flops : flops);
    }
    for (int i = 0; i < 8; i++)
        kin_free(p[i]);
    kin_free(pl);
}

int main(int argc, char **argv)
{
    int threads = argc > 1 && atoi(argv[1]) > 0 ? atoi(argv[1]) : 1;
    if (argc > 2 && strcmp(argv[2], "--cpu-time") == 0 && threads == 1)
        bench_clock = CLOCK_THREAD_CPUTIME_ID;
    for (int i = 0; i < 2; i++) {
        kin_error err = {0};
        kin_ctx_options opt = {.backend = KIN_BACKEND_CPU,
                               .threads = threads,
                               .compute = i ? KIN_DTYPE_BF16 : KIN_DTYPE_F32};
        bench b = {0};
        if (kin_ctx_create(&opt, &b.ctx, &err) != KIN_OK) {
            fprintf(stderr, "%s\n", err.text);
            return 4;
        }
        b.peak = peak(threads);
        printf("%s, %d threads: f32 multiply-add peak %.0f GF/s\n", kin_isa_name(b.ctx->isa),
               threads, b.peak);
        linear(&b, 2064, 256, 1024);
        linear(&b, 2064, 1024, 256);
        linear(&b, 2064, 256, 768);
        linear(&b, 2048, 768, 2304);
        linear(&b, 16, 256, 1536);
        attention(&b, 16, 129, 129, 4, 64);
        attention(&b, 16, 129, 32, 4, 64);
        attention(&b, 1, 1024, 1024, 6, 64);
        attention(&b, 1, 1024, 1024, 6, 128);
        kin_ctx_destroy(&b.ctx);
    }
    return 0;
}
