/* The classifier's loss: its value and its gradient with the stopped factor, on both sides of 1. */
#include "tests/support/support.h"

#include <math.h>

#include "physics/classifier.h"

static void check(kin_classifier_loss_kind kind, float a, double value, double slope)
{
    const kin_ctx_options opt = {
        .backend = KIN_BACKEND_CPU, .threads = 1, .compute = KIN_DTYPE_F32};
    kin_error err = {0};
    kin_ctx *ctx = NULL;
    kin_tensor t, c, g;

    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    assert_ok(kin_ws_tensor(ctx, KIN_DTYPE_F32, 0, NULL, &t), &ctx->error);
    *(float *)t.data = a;
    assert_ok(kin_tape_begin(ctx), &ctx->error);
    assert_ok(kin_tape_watch(ctx, &t), &ctx->error);
    assert_ok(kin_classifier_loss(ctx, kind, &t, &c), &ctx->error);
    assert_ok(kin_tape_backward(ctx, &c, NULL, 1), &ctx->error);
    g = kin_tape_grad(ctx, &t);
    assert_true(fabs(kin_tensor_get(&c, 0) - value) < 1e-6);
    assert_true(fabs(kin_tensor_get(&g, 0) - slope) < 1e-6);
    kin_tape_end(ctx);
    kin_ctx_destroy(&ctx);
}

static void test_wisa(void **state)
{
    (void)state;
    check(KIN_CLASSIFIER_LOSS_WISA, 1.5f, 0.10 * 2.5 / (2.5 + 1e-5), 0.10 / (2.5 + 1e-5));
    check(KIN_CLASSIFIER_LOSS_WISA, 1.0f, 0.05 * 2.0 / (2.0 + 1e-5), 0.05 / (2.0 + 1e-5));
    check(KIN_CLASSIFIER_LOSS_WISA, 0.25f, 0.05 * 0.25 * 1.25 / (1.25 + 1e-5),
          0.05 * 0.25 / (1.25 + 1e-5));
    check(KIN_CLASSIFIER_LOSS_WISA, 0.0f, 0, 0);
}

static void test_plain(void **state)
{
    (void)state;
    check(KIN_CLASSIFIER_LOSS_PLAIN, 1.5f, 0.15, 0.1);
    check(KIN_CLASSIFIER_LOSS_PLAIN, 0.5f, 0.05, 0.1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_wisa), cmocka_unit_test(test_plain)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
