/* Gate rule, heads that are switched off, zero start of MoPA; the physical block's residual. */
#include "tests/support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "physics/block.h"

static kin_ctx *open_ctx(void)
{
    const kin_ctx_options opt = {
        .backend = KIN_BACKEND_CPU, .threads = 1, .compute = KIN_DTYPE_F32};
    kin_error err = {0};
    kin_ctx *ctx = NULL;

    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    return ctx;
}

static void fill_random(kin_tensor *t, uint64_t sample)
{
    const kin_rng rng = {.seed = 3, .purpose = KIN_RNG_TEST, .sample = sample};

    kin_rng_normal(&rng, 0, kin_tensor_numel(t), t->data);
}

static kin_params *open_params(void)
{
    kin_params *params = NULL;
    kin_error err = {0};

    assert_ok(kin_params_create(&params, &err), &err);
    return params;
}

static void start(kin_params *params, bool random)
{
    kin_error err = {0};

    assert_int_equal(params->failed, KIN_OK);
    assert_ok(kin_params_alloc(params, KIN_DTYPE_F32, false, &err), &err);
    assert_ok(kin_params_alloc_grads(params, false, &err), &err);
    kin_params_init(params, 1);
    for (int i = 0; random && i < params->count; i++) {
        kin_param *p = params->list[i];

        fill_random(&p->value, (uint64_t)i);
        for (int64_t k = 0; k < kin_tensor_numel(&p->value); k++)
            kin_tensor_set(&p->value, k, kin_tensor_get(&p->value, k) * 0.3);
        kin_param_touch(p);
    }
}

/* prior 1 -> floor if u < flip else 1; prior 0 -> 1 if u < flip else floor; anything else stays;
 * heads c*m..c*m+m-1 share c */
static void test_gate_rule(void **state)
{
    const kin_mopa_config cfg = {
        .width = 4, .heads = 6, .categories = 3, .head_dim = 2, .flip = 0.2f, .floor = 0.125f};
    kin_ctx *ctx = open_ctx();
    float prior[6] = {1, 0, 0.5f, 0, 1, -0.25f};
    float draws[12] = {0.1f, 0.9f, 0.19f, 0.2f, 0.0f, 0.9f, 0.05f, 0.3f, 0.9f, 0.1f, 0.0f, 0.0f};
    const double flipped[12] = {0.125, 1, 1, 0.125, 0.5, 0.5, 1, 0.125, 1, 0.125, -0.25, -0.25};
    const double plain[12] = {1, 1, 0.125, 0.125, 0.5, 0.5, 0.125, 0.125, 1, 1, -0.25, -0.25};
    const kin_tensor p = KIN_TENSOR(prior, KIN_DTYPE_F32, 2, 3),
                     u = KIN_TENSOR(draws, KIN_DTYPE_F32, 2, 6);
    kin_tensor gates;

    (void)state;
    assert_ok(kin_mopa_gates(ctx, &cfg, &p, &u, 2, KIN_DTYPE_F32, &gates), &ctx->error);
    for (int i = 0; i < 12; i++)
        assert_true(kin_tensor_get(&gates, i) == flipped[i]);
    assert_ok(kin_mopa_gates(ctx, &cfg, &p, NULL, 2, KIN_DTYPE_F32, &gates), &ctx->error);
    for (int i = 0; i < 12; i++)
        assert_true(kin_tensor_get(&gates, i) == plain[i]);
    /* no prior counts as zeros */
    assert_ok(kin_mopa_gates(ctx, &cfg, NULL, NULL, 2, KIN_DTYPE_F32, &gates), &ctx->error);
    for (int i = 0; i < 12; i++)
        assert_true(kin_tensor_get(&gates, i) == 0.125);
    assert_int_equal(kin_mopa_gates(ctx, &cfg, &p, NULL, 3, KIN_DTYPE_F32, &gates), KIN_ERR_SHAPE);
    kin_ctx_destroy(&ctx);
}

/* gate 0 in every sample: no contribution; with per-head norms no gradient in its q, k, v rows,
 * with RMS over all heads its q and k still count in the norm and only v gets none */
static void check_zero_gate(bool layer_norm)
{
    enum { D = 6, P = 3, HD = 4, N = 5 };
    const kin_mopa_config cfg = {.width = D,
                                 .heads = P,
                                 .categories = 3,
                                 .head_dim = HD,
                                 .layer_norm = layer_norm,
                                 .eps = 1e-6f};
    kin_ctx *ctx = open_ctx();
    kin_params *params = open_params();
    kin_mopa m;
    kin_tensor x, gates, y, other;
    double q_sum = 0, v_sum = 0, live = 0;

    kin_mopa_register(params, "", &cfg, &m);
    start(params, true);
    assert_ok(KIN_WS(ctx, &x, KIN_DTYPE_F32, 2, N, D), &ctx->error);
    fill_random(&x, 77);
    assert_ok(KIN_WS(ctx, &gates, KIN_DTYPE_F32, 2, P), &ctx->error);
    for (int i = 0; i < 2 * P; i++)
        ((float *)gates.data)[i] = i % P == 1 ? 0.0f : 0.5f;
    assert_ok(kin_tape_begin(ctx), &ctx->error);
    assert_ok(kin_mopa_forward(ctx, &m, &x, NULL, NULL, &gates, NULL, NULL, &y), &ctx->error);
    assert_ok(kin_tape_backward(ctx, &y, NULL, 1), &ctx->error);
    kin_tape_end(ctx);
    for (int i = 0; i < P * HD * D; i++) {
        const bool dead = i / (HD * D) == 1;

        q_sum += dead
                     ? fabs(kin_tensor_get(&m.q_w->grad, i)) + fabs(kin_tensor_get(&m.k_w->grad, i))
                     : 0;
        v_sum += dead ? fabs(kin_tensor_get(&m.v_w->grad, i)) : 0;
        live += dead ? 0 : fabs(kin_tensor_get(&m.v_w->grad, i));
    }
    assert_true(v_sum == 0.0);
    assert_true(live > 1e-3);
    assert_true(layer_norm ? q_sum == 0.0 : q_sum > 1e-6);
    /* whatever its values are */
    for (int i = HD * D; i < 2 * HD * D; i++)
        kin_tensor_set(&m.v_w->value, i, 1e3);
    kin_param_touch(m.v_w);
    assert_ok(kin_mopa_forward(ctx, &m, &x, NULL, NULL, &gates, NULL, NULL, &other), &ctx->error);
    assert_memory_equal(y.data, other.data, (size_t)kin_tensor_numel(&y) * sizeof(float));
    kin_params_destroy(&params);
    kin_ctx_destroy(&ctx);
}

static void test_zero_gate(void **state)
{
    (void)state;
    check_zero_gate(true);
    check_zero_gate(false);
}

static void run_live(kin_isa isa, kin_dtype compute, bool layer_norm, int64_t head_dim, bool record,
                     float *out, int64_t cap)
{
    enum { B = 2, N = 45, D = 40, HEADS = 7 };
    /* off in one sample, in the other, in both */
    static const float pattern[B][HEADS] = {{0, 1, 0, 0, 0.5f, 0, 0}, {0, 1, 1, 0, 0, 0, 0}};
    const kin_ctx_options opt = {
        .backend = KIN_BACKEND_CPU, .isa = isa, .threads = 2, .compute = compute};
    const kin_mopa_config cfg = {.width = D,
                                 .heads = HEADS,
                                 .categories = HEADS,
                                 .head_dim = head_dim,
                                 .layer_norm = layer_norm,
                                 .eps = 1e-6f};
    kin_params *params = open_params();
    kin_error err = {0};
    kin_ctx *ctx = NULL;
    kin_tensor x, gates, residual, y;
    kin_mopa m;

    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    kin_mopa_register(params, "attn.", &cfg, &m);
    start(params, true);
    assert_ok(KIN_WS(ctx, &x, KIN_DTYPE_F32, B, N, D), &ctx->error);
    assert_ok(KIN_WS(ctx, &residual, KIN_DTYPE_F32, B, N, D), &ctx->error);
    assert_ok(KIN_WS_HOST(ctx, &gates, KIN_DTYPE_F32, B, HEADS), &ctx->error);
    memcpy(gates.data, pattern, sizeof pattern);
    fill_random(&x, 100);
    fill_random(&residual, 101);
    if (record)
        assert_ok(kin_tape_begin(ctx), &ctx->error);
    assert_ok(kin_mopa_forward(ctx, &m, &x, NULL, NULL, &gates, &residual, NULL, &y), &ctx->error);
    kin_tape_end(ctx);
    assert_int_equal(kin_tensor_numel(&y), cap);
    memcpy(out, y.data, (size_t)cap * sizeof *out);
    kin_params_destroy(&params);
    kin_ctx_destroy(&ctx);
}

/* Products leave out heads that are off in every sample; while recording they leave nothing out.
 * The bits are the same. */
static void test_live_heads(void **state)
{
    static const kin_dtype compute[] = {KIN_DTYPE_F32, KIN_DTYPE_BF16};
    enum { NUMEL = 2 * 45 * 40 };
    float *want = malloc(NUMEL * sizeof *want), *got = malloc(NUMEL * sizeof *got);

    (void)state;
    assert_non_null(want);
    assert_non_null(got);
    for (kin_isa isa = KIN_ISA_AVX2; isa <= KIN_ISA_AMX; isa++) {
        for (int i = 0; i < 8 && kin_isa_available(isa); i++) {
            const bool norm = i & 1;
            const int64_t dim = i & 2 ? 64 : 20;

            run_live(isa, compute[i / 4], norm, dim, true, want, NUMEL);
            run_live(isa, compute[i / 4], norm, dim, false, got, NUMEL);
            assert_memory_equal(got, want, NUMEL * sizeof *got);
        }
    }
    free(want);
    free(got);
}

/* a fresh block is the identity; a trained one is not */
static void test_block_start(void **state)
{
    const kin_mopa_config cfg = {
        .width = 8, .heads = 4, .categories = 2, .head_dim = 4, .eps = 1e-6f, .floor = 0.1f};
    kin_ctx *ctx = open_ctx();
    kin_params *params = open_params();
    kin_phys_block b;
    kin_tensor h, ptemb, gates, y;
    double moved = 0;

    (void)state;
    kin_phys_block_register(params, "phys_blocks.0.", &cfg, &b);
    assert_non_null(kin_params_find(params, "phys_blocks.0.phys_attn.to_out.0.weight"));
    start(params, false);
    assert_ok(KIN_WS(ctx, &h, KIN_DTYPE_F32, 2, 5, 8), &ctx->error);
    assert_ok(KIN_WS(ctx, &ptemb, KIN_DTYPE_F32, 2, 3, 8), &ctx->error);
    fill_random(&h, 1);
    fill_random(&ptemb, 2);
    assert_ok(kin_mopa_gates(ctx, &cfg, NULL, NULL, 2, KIN_DTYPE_F32, &gates), &ctx->error);
    assert_ok(kin_phys_block_forward(ctx, &b, &h, &ptemb, NULL, NULL, &gates, &y), &ctx->error);
    assert_memory_equal(h.data, y.data, (size_t)kin_tensor_numel(&h) * sizeof(float));
    fill_random(&b.mopa.o_w->value, 3);
    kin_param_touch(b.mopa.o_w);
    assert_ok(kin_phys_block_forward(ctx, &b, &h, &ptemb, NULL, NULL, &gates, &y), &ctx->error);
    for (int64_t i = 0; i < kin_tensor_numel(&y); i++)
        moved += fabs(kin_tensor_get(&y, i) - kin_tensor_get(&h, i));
    assert_true(moved > 0.1);
    kin_params_destroy(&params);
    kin_ctx_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gate_rule),
        cmocka_unit_test(test_zero_gate),
        cmocka_unit_test(test_live_heads),
        cmocka_unit_test(test_block_start),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
