/* The encoding of quantities against its formula, its gradient by central differences, the two
 * forms of linear_adaln. */
#include "tests/support/support.h"

#include <math.h>
#include <string.h>

#include "physics/quantity.h"

static kin_ctx *open_ctx(void)
{
    const kin_ctx_options opt = {
        .backend = KIN_BACKEND_REF, .threads = 1, .compute = KIN_DTYPE_F32};
    kin_error err = {0};
    kin_ctx *ctx = NULL;

    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    return ctx;
}

/* E = 100: floor(50 / 18) = 2 frequencies, 72 values and 28 zeros */
static void test_formula(void **state)
{
    enum { E = 100, PER = 2 };
    kin_ctx *ctx = open_ctx();
    float v[18];
    const kin_tensor quant = KIN_TENSOR(v, KIN_DTYPE_F32, 1, 18);
    kin_tensor y;

    (void)state;
    for (int i = 0; i < 18; i++)
        v[i] = i == 0 ? 0.0f : (float)i * 0.7f - 4.0f;
    assert_ok(kin_quantity_encode(ctx, &quant, E, &y), &ctx->error);
    assert_int_equal(y.size[1], E);
    for (int i = 0; i < 18; i++) {
        for (int j = 0; j < PER; j++) {
            const double w = pow(10000, -j / (double)PER);

            assert_true(fabs(kin_tensor_get(&y, i * 4 + j) - cos((double)v[i] * w)) < 1e-6);
            assert_true(fabs(kin_tensor_get(&y, i * 4 + 2 + j) - sin((double)v[i] * w)) < 1e-6);
        }
    }
    for (int i = 72; i < E; i++)
        assert_true(kin_tensor_get(&y, i) == 0.0);
    /* note: a quantity of 0 is not a zero code */
    assert_true(kin_tensor_get(&y, 0) == 1.0);
    kin_ctx_destroy(&ctx);
}

static double objective(kin_ctx *ctx, const kin_tensor *quant, const kin_tensor *weight)
{
    kin_tensor y;
    double sum = 0;

    assert_ok(kin_quantity_encode(ctx, quant, 120, &y), &ctx->error);
    for (int64_t i = 0; i < kin_tensor_numel(&y); i++)
        sum += kin_tensor_get(&y, i) * kin_tensor_get(weight, i);
    return sum;
}

static void test_gradient(void **state)
{
    const kin_rng rng = {.seed = 9, .purpose = KIN_RNG_TEST};
    kin_ctx *ctx = open_ctx();
    kin_tensor quant, weight, y, g;

    (void)state;
    assert_ok(KIN_WS(ctx, &quant, KIN_DTYPE_F32, 2, 18), &ctx->error);
    assert_ok(KIN_WS(ctx, &weight, KIN_DTYPE_F32, 2, 120), &ctx->error);
    kin_rng_normal(&rng, 0, 36, quant.data);
    kin_rng_normal(&rng, 100, 240, weight.data);
    assert_ok(kin_tape_begin(ctx), &ctx->error);
    assert_ok(kin_tape_watch(ctx, &quant), &ctx->error);
    assert_ok(kin_quantity_encode(ctx, &quant, 120, &y), &ctx->error);
    assert_ok(kin_tape_backward(ctx, &y, &weight, 1), &ctx->error);
    g = kin_tape_grad(ctx, &quant);
    kin_tape_end(ctx);
    for (int i = 0; i < 36; i++) {
        const double at = kin_tensor_get(&quant, i), h = 1e-2;
        double up, down;

        kin_tensor_set(&quant, i, at + h);
        up = objective(ctx, &quant, &weight);
        kin_tensor_set(&quant, i, at - h);
        down = objective(ctx, &quant, &weight);
        kin_tensor_set(&quant, i, at);
        assert_true(fabs((up - down) / (2 * h) - kin_tensor_get(&g, i)) < 2e-3);
    }
    kin_ctx_destroy(&ctx);
}

static void test_forms(void **state)
{
    kin_params *params;
    kin_quantity q;
    kin_error err = {0};

    (void)state;
    assert_ok(kin_params_create(&params, &err), &err);
    assert_ok(kin_quantity_register(params, "a.", 1024, 64, 3 * 1024, &q, &err), &err);
    assert_null(q.hidden_w);
    assert_non_null(kin_params_find(params, "a.linear_adaln.weight"));
    assert_ok(kin_quantity_register(params, "b.", 1025, 64, 3 * 1025, &q, &err), &err);
    assert_non_null(q.hidden_w);
    assert_non_null(kin_params_find(params, "b.linear_adaln.2.weight"));
    assert_int_equal(kin_quantity_register(params, "c.", 8, 35, 24, &q, &err), KIN_ERR_ARG);
    kin_params_destroy(&params);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formula),
        cmocka_unit_test(test_gradient),
        cmocka_unit_test(test_forms),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
