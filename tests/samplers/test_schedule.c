#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "samplers/schedule.h"

static void near(double a, double b, double tol)
{
    if (!(fabs(a - b) <= tol))
        fail_msg("%.9g is not %.9g within %g", a, b, tol);
}

static void own_schedule_shifts_once(void **state)
{
    (void)state;
    kin_schedule s = {0};
    kin_error err = {0};
    assert_ok(kin_schedule_flow(10, 3.0, &s, &err), &err);
    assert_int_equal(s.n, 10);
    for (int i = 0; i < 10; i++) {
        double u = 1.0 - i / 10.0;
        near((double)s.sigma[i], 3.0 * u / (1.0 + 2.0 * u), 1e-7);
        near((double)s.t[i], 1000.0 * (double)s.sigma[i], 1e-4);
        assert_true(s.sigma[i] > s.sigma[i + 1]);
    }
    assert_true(s.sigma[0] == 1.0f && s.sigma[10] == 0.0f);
    kin_schedule_free(&s);
    assert_null(s.sigma);
}

static void two_shifts_are_one_of_their_product(void **state)
{
    (void)state;
    kin_schedule a = {0}, b = {0};
    kin_error err = {0};
    assert_ok(kin_schedule_promoe(13, 2.0, 1.5, &a, &err), &err);
    assert_ok(kin_schedule_flow(13, 3.0, &b, &err), &err);
    for (int i = 0; i <= 13; i++)
        near((double)a.sigma[i], (double)b.sigma[i], 1e-6);
    kin_schedule_free(&a);
    kin_schedule_free(&b);
    near(kin_flow_shift(1.0, 0.37), 0.37, 1e-15);
    near(kin_flow_shift(5.0, 1.0), 1.0, 1e-15);
    near(kin_flow_shift(0.2, kin_flow_shift(5.0, 0.3)), 0.3, 1e-15);
}

static kin_schedule made(kin_flow_scheduler cfg, kin_flow_request r)
{
    kin_schedule s = {0};
    kin_error err = {0};
    assert_ok(kin_schedule_flow_match(&cfg, &r, &s, &err), &err);
    return s;
}

/* The three spacings keep the first and the last level and fall in between; terminal and inverted
 * ends are as asked. */
static void spacings_keep_their_ends(void **state)
{
    (void)state;
    kin_flow_scheduler cfg = kin_flow_scheduler_default();
    cfg.shift = 2.0;
    kin_schedule plain = made(cfg, (kin_flow_request){.steps = 9});
    for (kin_flow_spacing k = KIN_FLOW_KARRAS; k <= KIN_FLOW_BETA; k++) {
        cfg.spacing = k;
        kin_schedule s = made(cfg, (kin_flow_request){.steps = 9});
        near((double)s.sigma[0], (double)plain.sigma[0], 1e-6);
        near((double)s.sigma[8], (double)plain.sigma[8], 1e-6);
        for (int i = 0; i < 9; i++)
            assert_true(s.sigma[i] > s.sigma[i + 1]);
        kin_schedule_free(&s);
    }
    cfg.spacing = KIN_FLOW_BETA;
    kin_schedule s = made(cfg, (kin_flow_request){.steps = 9});
    /* the middle quantile of a symmetric distribution is the middle */
    near((double)s.sigma[4], 0.5 * (double)(s.sigma[0] + s.sigma[8]), 1e-6);
    kin_schedule_free(&s);
    cfg.spacing = KIN_FLOW_PLAIN;
    cfg.has_shift_terminal = true;
    cfg.shift_terminal = 0.1;
    s = made(cfg, (kin_flow_request){.steps = 9});
    near((double)s.sigma[8], 0.1, 1e-6);
    kin_schedule_free(&s);
    cfg.has_shift_terminal = false;
    cfg.invert_sigmas = true;
    s = made(cfg, (kin_flow_request){.steps = 9});
    near((double)s.sigma[3], 1.0 - (double)plain.sigma[3], 1e-6);
    assert_true(s.sigma[9] == 1.0f);
    kin_schedule_free(&s);
    kin_schedule_free(&plain);
}

static void wrong_requests_are_refused(void **state)
{
    (void)state;
    kin_schedule s = {0};
    kin_error err = {0};
    const double two[] = {1.0, 0.5};
    kin_flow_scheduler cfg = kin_flow_scheduler_default();
    assert_int_equal(kin_schedule_flow(0, 1.0, &s, &err), KIN_ERR_ARG);
    assert_int_equal(kin_schedule_flow(5, 0.0, &s, &err), KIN_ERR_ARG);
    assert_int_equal(kin_schedule_flow(5, (double)NAN, &s, &err), KIN_ERR_ARG);
    assert_int_equal(kin_schedule_flow(KIN_SCHEDULE_MAX_STEPS + 1, 1.0, &s, &err), KIN_ERR_ARG);
    kin_flow_request r = {.steps = 3, .sigmas = two, .n_sigmas = 2};
    assert_int_equal(kin_schedule_flow_match(&cfg, &r, &s, &err), KIN_ERR_ARG);
    r = (kin_flow_request){0};
    assert_int_equal(kin_schedule_flow_match(&cfg, &r, &s, &err), KIN_ERR_ARG);
    cfg.use_dynamic_shifting = true;
    r.steps = 4;
    assert_int_equal(kin_schedule_flow_match(&cfg, &r, &s, &err), KIN_ERR_ARG);
    assert_non_null(strstr(err.text, "mu"));
}

static kin_status read_text(const char *text, kin_flow_scheduler *out, kin_error *err)
{
    cJSON *json = cJSON_Parse(text);
    assert_non_null(json);
    kin_status status = kin_flow_scheduler_read(json, out, err);
    cJSON_Delete(json);
    return status;
}

static void configs_are_read_strictly(void **state)
{
    (void)state;
    kin_flow_scheduler s;
    kin_error err = {0};
    assert_ok(read_text("{\"_class_name\":\"FlowMatchEulerDiscreteScheduler\",\"shift\":3.0,"
                        "\"use_karras_sigmas\":true,\"shift_terminal\":null}",
                        &s, &err),
              &err);
    near(s.shift, 3.0, 0.0);
    assert_int_equal(s.spacing, KIN_FLOW_KARRAS);
    assert_false(s.has_shift_terminal);
    assert_int_equal(read_text("{\"_class_name\":\"DDIMScheduler\"}", &s, &err),
                     KIN_ERR_UNSUPPORTED);
    assert_int_equal(read_text("{\"shfit\":3.0}", &s, &err), KIN_ERR_FORMAT);
    assert_non_null(strstr(err.text, "shift"));
    assert_int_equal(read_text("{\"shift\":-1}", &s, &err), KIN_ERR_FORMAT);
    assert_int_equal(read_text("{\"use_karras_sigmas\":true,\"use_beta_sigmas\":true}", &s, &err),
                     KIN_ERR_FORMAT);
    assert_int_equal(read_text("{\"time_shift_type\":\"cubic\"}", &s, &err), KIN_ERR_FORMAT);
    near(kin_flow_scheduler_mu(&s, 256.0), 0.5, 1e-12);
    near(kin_flow_scheduler_mu(&s, 4096.0), 1.15, 1e-12);
}

static void noise_is_a_line_between_sample_and_noise(void **state)
{
    (void)state;
    kin_ctx *ctx = NULL;
    kin_error err = {0};
    float a[] = {1, 2, 3, 4, 5, 6}, b[] = {-1, 0, 1, 2, 0, -3}, s[] = {0.25f, 1.0f}, y[6];
    assert_ok(kin_ctx_create(&(kin_ctx_options){.backend = KIN_BACKEND_REF}, &ctx, &err), &err);
    kin_tensor x0 = KIN_TENSOR(a, KIN_DTYPE_F32, 2, 3), n = KIN_TENSOR(b, KIN_DTYPE_F32, 2, 3);
    kin_tensor sigma = KIN_TENSOR(s, KIN_DTYPE_F32, 2), out = KIN_TENSOR(y, KIN_DTYPE_F32, 2, 3);
    assert_ok(kin_flow_noise(ctx, &x0, &n, &sigma, &out), &ctx->error);
    for (int i = 0; i < 6; i++)
        near((double)y[i], i < 3 ? 0.75 * a[i] + 0.25 * b[i] : b[i], 1e-6);
    kin_tensor wrong = KIN_TENSOR(s, KIN_DTYPE_F32, 1);
    assert_int_equal(kin_flow_noise(ctx, &x0, &n, &wrong, &out), KIN_ERR_SHAPE);
    kin_ctx_destroy(&ctx);
}

static void times_are_found_exactly(void **state)
{
    (void)state;
    kin_error err = {0};
    kin_schedule s = {0};
    float sigma = 0.0f;
    kin_flow_scheduler cfg = kin_flow_scheduler_default();
    assert_ok(kin_schedule_flow_match_train(&cfg, &s, &err), &err);
    assert_int_equal(s.n, 1000);
    assert_ok(kin_schedule_find(&s, s.t[321], &sigma, &err), &err);
    assert_true(sigma == s.sigma[321]);
    assert_int_equal(kin_schedule_find(&s, s.t[321] + 0.01f, &sigma, &err), KIN_ERR_ARG);
    kin_schedule_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_schedule_shifts_once),
        cmocka_unit_test(two_shifts_are_one_of_their_product),
        cmocka_unit_test(spacings_keep_their_ends),
        cmocka_unit_test(wrong_requests_are_refused),
        cmocka_unit_test(configs_are_read_strictly),
        cmocka_unit_test(noise_is_a_line_between_sample_and_noise),
        cmocka_unit_test(times_are_found_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
