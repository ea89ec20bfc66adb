/* The engines on AMX tiles: the software tiles against a plain transcription of the instruction,
 * packing with and without the bf16 instructions, f32 as three products against double, and, where
 * the machine has the tiles, the same bits as the software ones. */
#include <cpuid.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "tensor/cpu/cpu.h"
#include "tests/support/support.h"

static void fill(float *p, int64_t n, uint64_t sample)
{
    kin_rng rng = {.seed = 7, .purpose = KIN_RNG_TEST, .sample = sample};
    kin_rng_normal(&rng, 0, n, p);
}

static void need_avx512(void)
{
    if (kin_isa_detect() < KIN_ISA_AVX512)
        skip();
}

static float flush(float v)
{
    return fpclassify(v) == FP_SUBNORMAL ? copysignf(0.0f, v) : v;
}

/* One element of tdpbf16ps for 32 values of a and b: even and odd chains, then their sum. */
static float dot32(float c, const float *a, const float *b)
{
    float chain[2] = {0, 0};
    for (int k = 0; k < 32; k++)
        chain[k % 2] = flush(fmaf(flush(a[k]), flush(b[k]), chain[k % 2]));
    return flush(flush(c) + flush(chain[0] + chain[1]));
}

/* A tile of 30 x 32 over k = 96, some values so small that sums are denormal. */
static void tile_is_the_instruction(void **state)
{
    enum { M = 30, N = 32, K = 96, WORDS = K / 2 * 32 };
    const kin_engine *e = &kin_amx_emulated_engines[KIN_PRODUCT_AMX];
    float a[M * K], b[N * K], c[M * N], want[M * N], *left, *right;
    (void)state;
    need_avx512();
    fill(a, M * K, 1);
    fill(b, N * K, 2);
    fill(c, M * N, 3);
    for (int i = 0; i < M * K; i++)
        a[i] = kin_bf16_to_f32(kin_f32_to_bf16(i / K == 3 ? a[i] * 1e-38f : a[i]));
    for (int i = 0; i < N * K; i++)
        b[i] = kin_bf16_to_f32(kin_f32_to_bf16(b[i]));
    left = kin_calloc(WORDS + 16, sizeof(float));
    right = kin_calloc(WORDS + 16, sizeof(float));
    for (int i = 3 * N; i < 4 * N; i++)
        c[i] *= 1e-38f;
    memcpy(want, c, sizeof(c));
    for (int i = 0; i < M * N; i++)
        for (int k = 0; k < K; k += 32)
            want[i] = dot32(want[i], a + i / N * K + k, b + i % N * K + k);
    assert_int_equal(kin_engine_steps(e, K), K / 2);
    e->left_rows(a, K, NULL, M, e->mr, K, left);
    e->right_rows(b, K, NULL, N, e->nr, K, right);
    e->tile(M, K / 2, left, right, c, N, true, kin_ahead_none(right));
    assert_memory_equal(c, want, sizeof(c));
    kin_free(left);
    kin_free(right);
}

/* Packs the same operands by both tables. */
static void packing_is_the_same(void **state)
{
    enum { ROWS = 45, K = 77, LD = 80, ROOM = 8192 };
    unsigned ax, bx, cx, dx;
    (void)state;
    need_avx512();
    if (!__get_cpuid_count(7, 1, &ax, &bx, &cx, &dx) || !(ax & (1u << 5)))
        skip();
    float *src = kin_malloc(sizeof(float) * K * LD), *out[2];
    int32_t rows[K];
    fill(src, K * LD, 4);
    for (int i = 0; i < K; i++)
        rows[i] = (i * 31) % ROWS;
    for (int mode = KIN_PRODUCT_AMX; mode <= KIN_PRODUCT_HIGH; mode++) {
        for (int what = 0; what < 4; what++) {
            for (int t = 0; t < 2; t++) {
                const kin_engine *e = t ? &kin_amx_engines[mode] : &kin_amx_emulated_engines[mode];
                int64_t step = kin_engine_steps(e, K) * 32;
                out[t] = kin_calloc(ROOM, sizeof(float));
                assert_true(2 * step + 16 <= ROOM);
                if (what < 2)
                    (what ? e->left_rows : e->right_rows)(src, LD, rows, 29, 32, K, out[t]);
                else
                    (what == 2 ? e->left_cols : e->right_steps)(src, LD, rows, ROWS, 32, K, step,
                                                                out[t]);
            }
            assert_memory_equal(out[0], out[1], sizeof(float) * ROOM);
            kin_free(out[0]);
            kin_free(out[1]);
        }
    }
    kin_free(src);
}

typedef struct rig {
    kin_ctx *ctx;
    kin_params *params;
    kin_param *w;
    float *x, *y, *dy, *dx;
    int64_t m, n, k;
} rig;

static void open_rig(rig *r, kin_isa isa, kin_dtype compute, kin_precision precision, int64_t m,
                     int64_t n, int64_t k)
{
    kin_error err = {0};
    kin_ctx_options opt = {.backend = KIN_BACKEND_CPU,
                           .isa = isa,
                           .threads = 2,
                           .compute = compute,
                           .precision = precision};
    *r = (rig){.m = m, .n = n, .k = k};
    assert_ok(kin_ctx_create(&opt, &r->ctx, &err), &err);
    r->ctx->dense_onednn = 0;
    assert_ok(kin_params_create(&r->params, &err), &err);
    r->w = kin_params_add(r->params, KIN_INIT(KIN_INIT_NORMAL, 1.0f), KIN_DIMS(n, k), "w");
    assert_ok(kin_params_alloc(r->params, KIN_DTYPE_F32, false, &err), &err);
    assert_ok(kin_params_alloc_grads(r->params, false, &err), &err);
    kin_params_init(r->params, 3);
    r->x = kin_malloc(sizeof(float) * (size_t)(m * k));
    r->dx = kin_malloc(sizeof(float) * (size_t)(m * k));
    r->y = kin_malloc(sizeof(float) * (size_t)(m * n));
    r->dy = kin_malloc(sizeof(float) * (size_t)(m * n));
    fill(r->x, m * k, 5);
    fill(r->dy, m * n, 6);
}

static void close_rig(rig *r)
{
    kin_params_destroy(&r->params);
    kin_ctx_destroy(&r->ctx);
    kin_free(r->x);
    kin_free(r->y);
    kin_free(r->dx);
    kin_free(r->dy);
}

/* y = x w^T, dx = dy w, dw = dy^T x. */
static void run(rig *r)
{
    kin_tensor x = KIN_TENSOR(r->x, KIN_DTYPE_F32, r->m, r->k),
               y = KIN_TENSOR(r->y, KIN_DTYPE_F32, r->m, r->n),
               dx = KIN_TENSOR(r->dx, KIN_DTYPE_F32, r->m, r->k),
               dy = KIN_TENSOR(r->dy, KIN_DTYPE_F32, r->m, r->n);
    kin_linear_args a = {.m = r->m, .n = r->n, .k = r->k, .x = &x, .w = r->w, .y = &y};
    kin_linear_bwd_args g = {
        .m = r->m, .n = r->n, .k = r->k, .dy = &dy, .x = &x, .w = r->w, .dx = &dx};
    assert_ok(kin_cpu_linear(r->ctx, &a), &r->ctx->error);
    assert_ok(kin_cpu_linear_dx(r->ctx, &g), &r->ctx->error);
    assert_ok(kin_cpu_linear_dw(r->ctx, &g), &r->ctx->error);
}

/* |got - A B| / |A B| in the norm of all elements, A element (i,p) at a[i*ai + p*ap]. */
static double error_of(const float *got, const float *a, int64_t ai, int64_t ap, const float *b,
                       int64_t bp, int64_t bj, int64_t m, int64_t n, int64_t k)
{
    double e = 0, all = 0;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double s = 0;
            for (int64_t p = 0; p < k; p++)
                s += (double)a[i * ai + p * ap] * (double)b[p * bp + j * bj];
            e += (s - (double)got[i * n + j]) * (s - (double)got[i * n + j]);
            all += s * s;
        }
    return sqrt(e / all);
}

static void errors(rig *r, double out[3])
{
    const float *w = r->w->value.data;
    run(r);
    out[0] = error_of(r->y, r->x, r->k, 1, w, 1, r->k, r->m, r->n, r->k);
    out[1] = error_of(r->dx, r->dy, r->n, 1, w, r->k, 1, r->m, r->k, r->n);
    out[2] = error_of(r->w->grad.data, r->dy, 1, r->n, r->x, r->k, 1, r->n, r->k, r->m);
}

/* Shapes with one and several passes over k, edges in every direction. */
static const int64_t shapes[][3] = {{1, 1, 1}, {37, 50, 1100}, {300, 70, 33}, {33, 600, 40}};

static void three_products_are_f32(void **state)
{
    (void)state;
    need_avx512();
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        const int64_t *s = shapes[i];
        double high[3], plain[3];
        rig r;
        open_rig(&r, KIN_ISA_AMX_EMULATED, KIN_DTYPE_F32, KIN_PRECISION_HIGH, s[0], s[1], s[2]);
        errors(&r, high);
        close_rig(&r);
        open_rig(&r, KIN_ISA_AMX_EMULATED, KIN_DTYPE_BF16, KIN_PRECISION_HIGHEST, s[0], s[1], s[2]);
        errors(&r, plain);
        close_rig(&r);
        for (int j = 0; j < 3; j++) {
            print_message("%lldx%lldx%lld product %d: error %.2g, of one bf16 product %.2g\n",
                          (long long)s[0], (long long)s[1], (long long)s[2], j, high[j], plain[j]);
            assert_true(high[j] <= 0x1p-15);
            /* it is not bf16 that ran */
            assert_true(high[j] * 50 < plain[j] && plain[j] < 0x1p-7);
        }
    }
}

/* Below AMX `high` is plain f32. */
static void falls_back_to_f32(void **state)
{
    rig a, b;
    (void)state;
    open_rig(&a, KIN_ISA_AVX2, KIN_DTYPE_F32, KIN_PRECISION_HIGH, 20, 30, 40);
    open_rig(&b, KIN_ISA_AVX2, KIN_DTYPE_F32, KIN_PRECISION_HIGHEST, 20, 30, 40);
    run(&a);
    run(&b);
    assert_memory_equal(a.y, b.y, sizeof(float) * 20 * 30);
    close_rig(&a);
    close_rig(&b);
}

static void tiles_are_the_software_ones(void **state)
{
    (void)state;
    if (kin_isa_detect() < KIN_ISA_AMX)
        skip();
    for (int mode = 0; mode < 2; mode++) {
        kin_dtype compute = mode ? KIN_DTYPE_F32 : KIN_DTYPE_BF16;
        rig a, b;
        open_rig(&a, KIN_ISA_AMX, compute, KIN_PRECISION_HIGH, 77, 130, 600);
        open_rig(&b, KIN_ISA_AMX_EMULATED, compute, KIN_PRECISION_HIGH, 77, 130, 600);
        run(&a);
        run(&b);
        assert_memory_equal(a.y, b.y, sizeof(float) * 77 * 130);
        assert_memory_equal(a.dx, b.dx, sizeof(float) * 77 * 600);
        assert_memory_equal(a.w->grad.data, b.w->grad.data, sizeof(float) * 130 * 600);
        close_rig(&a);
        close_rig(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tile_is_the_instruction),     cmocka_unit_test(packing_is_the_same),
        cmocka_unit_test(three_products_are_f32),      cmocka_unit_test(falls_back_to_f32),
        cmocka_unit_test(tiles_are_the_software_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
