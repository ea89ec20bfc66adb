/* The profiling table and the plan's counts it uses; the peak loops. */
#include "tests/support/support.h"

#include <math.h>
#include <string.h>

#include "tensor/cpu/peak.h"
#include "tensor/ops.h"
#include "tensor/profile.h"

static kin_ctx *open_ctx(kin_backend backend)
{
    const kin_ctx_options opt = {.backend = backend, .threads = 1};
    kin_error err = {0};
    kin_ctx *ctx = NULL;
    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    return ctx;
}

static kin_tensor noise(kin_ctx *ctx, int ndim, const int64_t *sizes)
{
    const kin_rng rng = {.seed = 1, .purpose = KIN_RNG_TEST, .sample = (uint64_t)sizes[0]};
    kin_tensor t;
    assert_ok(kin_ws_tensor(ctx, KIN_DTYPE_F32, ndim, sizes, &t), &ctx->error);
    kin_rng_normal(&rng, 0, kin_tensor_numel(&t), t.data);
    return t;
}
#define NOISE(ctx, ...) noise((ctx), KIN_DIMS(__VA_ARGS__))

static const kin_profile_op *op_named(const kin_profile *p, const char *name)
{
    for (int i = 0; i < KIN_PROFILE_OPS; i++)
        if (strcmp(p->op[i].name, name) == 0)
            return &p->op[i];
    fail_msg("no op '%s'", name);
    return NULL;
}

static void test_names(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_REF);
    static kin_profile p;
    (void)state;
    kin_profile_on(ctx, &p, CLOCK_MONOTONIC);
    void *const *slot = (void *const *)&p.table;
    for (int i = 0; i < KIN_PROFILE_OPS; i++) {
        assert_non_null(p.op[i].name);
        assert_non_null(slot[i]);
        for (int j = 0; j < i; j++) {
            assert_string_not_equal(p.op[i].name, p.op[j].name);
            assert_ptr_not_equal(slot[i], slot[j]);
        }
    }
    kin_profile_off(ctx, &p);
    kin_ctx_destroy(&ctx);
}

typedef struct net {
    kin_params *params;
    kin_param *w[3], *b[3];
} net;

static net open_net(void)
{
    net n = {0};
    kin_error err = {0};
    assert_ok(kin_params_create(&n.params, &err), &err);
    for (int i = 0; i < 3; i++) {
        n.w[i] =
            kin_params_add(n.params, KIN_INIT(KIN_INIT_NORMAL, 0.3f), KIN_DIMS(24, 40), "w%d", i);
        n.b[i] = kin_params_add(n.params, KIN_INIT(KIN_INIT_NORMAL, 0.3f), KIN_DIMS(24), "b%d", i);
    }
    assert_ok(kin_params_alloc(n.params, KIN_DTYPE_F32, false, &err), &err);
    assert_ok(kin_params_alloc_grads(n.params, false, &err), &err);
    kin_params_init(n.params, 1);
    return n;
}

/* A linear layer, experts and attention, with their gradients. 5 tokens of 7 are routed. */
static void run_all(kin_ctx *ctx, const net *n, kin_tensor *y)
{
    kin_tensor x = NOISE(ctx, 7, 40), q = NOISE(ctx, 2, 9, 3, 8), k = NOISE(ctx, 2, 11, 3, 8);
    kin_tensor lin, idx, w, experts, o;
    kin_dispatch d;
    int32_t *at;
    assert_ok(kin_tape_begin(ctx), &ctx->error);
    assert_ok(kin_tape_watch(ctx, &x), &ctx->error);
    assert_ok(kin_tape_watch(ctx, &q), &ctx->error);
    assert_ok(kin_linear(ctx, &x, n->w[0], n->b[0], &lin), &ctx->error);
    assert_ok(KIN_WS(ctx, &idx, KIN_DTYPE_I32, 7, 2), &ctx->error);
    at = idx.data;
    for (int i = 0; i < 14; i++)
        at[i] = i < 4 ? 2 : i % 2; /* tokens 0 and 1 take the last expert, in slot 0 alone */
    w = NOISE(ctx, 7, 2);
    assert_ok(kin_dispatch_build(ctx, &idx, &w, 3, 2, 0, &d), &ctx->error);
    assert_ok(kin_linear_grouped(ctx, &x, &d, true, n->w, n->b, KIN_ACT_NONE, &experts),
              &ctx->error);
    assert_ok(kin_attention(ctx, &q, &k, &k, NULL, &o), &ctx->error);
    kin_tensor sorted = kin_tensor_slice(&experts, 0, 0, 12), outs[3] = {lin, sorted, o};
    assert_ok(kin_tape_backward(ctx, outs, NULL, 3), &ctx->error);
    kin_tape_end(ctx);
    *y = lin;
}

static void test_counts(void **state)
{
    static kin_profile p;
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU);
    net n = open_net();
    kin_tensor y;
    (void)state;
    kin_profile_on(ctx, &p, CLOCK_MONOTONIC);
    run_all(ctx, &n, &y);
    /* 2 per multiply-add; of 14 slots 12 are in use; attention backward is five products */
    const double linear = 2.0 * 7 * 24 * 40, grouped = 2.0 * 12 * 24 * 40;
    const double pairs = 2.0 * 2 * 3 * 9 * 11 * 8;
    assert_true(op_named(&p, "linear")->flops == linear);
    assert_true(op_named(&p, "linear_dx")->flops == linear);
    assert_true(op_named(&p, "linear_dw")->flops == linear);
    assert_true(op_named(&p, "grouped")->flops == grouped);
    assert_true(op_named(&p, "grouped_dx")->flops == grouped);
    assert_true(op_named(&p, "grouped_dw")->flops == grouped);
    assert_true(op_named(&p, "attention")->flops == 2 * pairs);
    assert_true(op_named(&p, "attention_bwd")->flops == 5 * pairs);
    assert_true(op_named(&p, "linear")->bytes == 4.0 * (7 * 40 + 24 * 40 + 24 + 7 * 24));
    assert_int_equal(op_named(&p, "linear")->calls, 1);
    assert_int_equal(op_named(&p, "adamw")->calls, 0);
    kin_profile_op all = kin_profile_total(&p);
    assert_true(all.flops == 3 * linear + 3 * grouped + 7 * pairs);
    assert_true(ctx->cost.flops == 0);
    kin_profile_clear(&p);
    assert_int_equal(kin_profile_total(&p).calls, 0);
    kin_profile_off(ctx, &p);
    kin_params_destroy(&n.params);
    kin_ctx_destroy(&ctx);
}

/* A dimension of stride 0 is one entry in memory. */
static void test_broadcast_bytes(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_PLAN);
    kin_tensor x, g, y;
    (void)state;
    assert_ok(KIN_WS(ctx, &x, KIN_DTYPE_F32, 4, 6, 8), &ctx->error);
    assert_ok(KIN_WS(ctx, &g, KIN_DTYPE_F32, 4, 1, 8), &ctx->error);
    ctx->cost = (kin_cost){0};
    assert_ok(kin_mul(ctx, &x, &g, 1, &y), &ctx->error);
    assert_true(ctx->cost.bytes == 4.0 * (4 * 6 * 8 + 4 * 8 + 4 * 6 * 8));
    kin_ctx_destroy(&ctx);
}

/* The same bytes with and without a profile. */
static void test_same_results(void **state)
{
    static kin_profile p;
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU);
    net n = open_net();
    kin_tensor plain, profiled;
    (void)state;
    run_all(ctx, &n, &plain);
    const kin_kernels *before = ctx->k;
    kin_profile_on(ctx, &p, CLOCK_MONOTONIC);
    run_all(ctx, &n, &profiled);
    kin_profile_off(ctx, &p);
    assert_ptr_equal(ctx->k, before);
    assert_memory_equal(plain.data, profiled.data, 7 * 24 * sizeof(float));
    kin_params_destroy(&n.params);
    kin_ctx_destroy(&ctx);
}

static double clock_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void wait_ms(double ms)
{
    const double until = clock_s() + 1e-3 * ms;
    while (clock_s() < until)
        continue;
}

/* Kernels that take a known time; transpose calls fill. */
static kin_status slow_fill(kin_ctx *ctx, kin_tensor *dst, double value)
{
    (void)ctx;
    (void)dst;
    (void)value;
    wait_ms(4);
    return KIN_OK;
}

static kin_status slow_transpose(kin_ctx *ctx, const kin_tensor *x, kin_tensor *y, bool acc)
{
    (void)x;
    (void)acc;
    wait_ms(2);
    KIN_TRY(ctx->k->fill(ctx, y, 0));
    wait_ms(1);
    return ctx->k->fill(ctx, y, 0);
}

static void test_exclusive_times(void **state)
{
    static kin_profile p;
    kin_ctx *ctx = open_ctx(KIN_BACKEND_REF);
    kin_kernels slow = *ctx->k;
    const kin_kernels *own = ctx->k;
    kin_tensor x = NOISE(ctx, 2, 2), y;
    (void)state;
    slow.fill = slow_fill;
    slow.transpose = slow_transpose;
    ctx->k = &slow;
    kin_profile_on(ctx, &p, CLOCK_MONOTONIC);
    const double start = clock_s();
    assert_ok(kin_transpose(ctx, &x, &y), &ctx->error);
    assert_ok(kin_fill(ctx, &y, 1), &ctx->error);
    const double whole = clock_s() - start;
    const kin_profile_op *fill = op_named(&p, "fill"), *outer = op_named(&p, "transpose");
    assert_int_equal(fill->calls, 3);
    assert_int_equal(outer->calls, 1);
    assert_true(fill->seconds >= 0.012 && outer->seconds >= 0.003);
    /* what the inner ones took is not counted twice */
    assert_true(fill->seconds + outer->seconds <= whole);
    assert_true(outer->seconds <= whole - 0.012);
    kin_profile_off(ctx, &p);
    assert_ptr_equal(ctx->k, &slow);
    ctx->k = own;
    kin_ctx_destroy(&ctx);
}

/* ---- peaks ---- */

static kin_peak_options peak_options(void)
{
    return (kin_peak_options){
        .isa = kin_isa_detect(), .threads = 1, .slices = 24, .clock = CLOCK_THREAD_CPUTIME_ID};
}

static void test_units(void **state)
{
    kin_peak_options opt = peak_options();
    (void)state;
    for (int u = 0; u < KIN_PEAK_UNITS; u++) {
        const kin_peak p = kin_peak_measure((kin_peak_unit)u, &opt);
        if (!kin_peak_has((kin_peak_unit)u, opt.isa)) {
            assert_true(p.rate == 0 && p.hz == 0);
            continue;
        }
        assert_true(p.rate > 1e9 && p.hz > 2e8 && p.hz < 1e10);
    }
    opt.isa = KIN_ISA_NONE;
    assert_true(kin_peak_measure(KIN_PEAK_F32, &opt).rate == 0);
}

/* Two 512-bit units do 64 operations a cycle, one (or two halves) 32; nothing lies between or
 * beyond. AVX2: 32 or 16. */
static void test_flop_per_cycle(void **state)
{
    const kin_peak_options opt = peak_options();
    (void)state;
#ifdef KIN_SANITIZED
    skip();
#endif
    if (opt.isa == KIN_ISA_NONE)
        skip();
    double best = 0;
    for (int i = 0; i < 5; i++) {
        const kin_peak p = kin_peak_measure(KIN_PEAK_F32, &opt);
        best = fmax(best, p.rate / p.hz);
    }
    assert_true(best >= 0.9 * (opt.isa >= KIN_ISA_AVX512 ? 32 : 16));
    assert_true(best <= 1.25 * 64);
}

static void test_triad(void **state)
{
    kin_peak_options opt = peak_options();
    kin_error err = {0};
    kin_triad t;
    (void)state;
    assert_ok(kin_triad_open(&t, 100000, &opt, &err), &err);
    assert_true(kin_triad_rate(&t, false, &opt) > 1e8);
    assert_true(kin_triad_rate(&t, true, &opt) > 1e7);
    /* a = b + c/4 of ones */
    assert_true(t.p[0] == 1.25f && t.p[t.n - 1] == 1.25f && t.p[t.n] == 1.0f);
    kin_triad_close(&t);
    assert_null(t.p);
    assert_true(kin_peak_cache(2) >= 1 << 17 && kin_peak_cache(3) > kin_peak_cache(2));
    assert_true(kin_peak_tsc() > 1e8 && kin_peak_tsc() < 1e10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),           cmocka_unit_test(test_counts),
        cmocka_unit_test(test_broadcast_bytes), cmocka_unit_test(test_same_results),
        cmocka_unit_test(test_exclusive_times), cmocka_unit_test(test_units),
        cmocka_unit_test(test_flop_per_cycle),  cmocka_unit_test(test_triad),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
