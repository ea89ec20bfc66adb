#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "samplers/sampler.h"

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

static kin_schedule made(kin_scheduler cfg, kin_schedule_request r)
{
    kin_schedule s = {0};
    kin_error err = {0};
    assert_ok(kin_schedule_make(&cfg, &r, &s, &err), &err);
    return s;
}

/* The three spacings keep the first and the last level and fall in between; terminal and inverted
 * ends are as asked. */
static void spacings_keep_their_ends(void **state)
{
    (void)state;
    kin_scheduler cfg = kin_scheduler_default(KIN_SCHEDULER_FLOW_EULER);
    cfg.shift = 2.0;
    kin_schedule plain = made(cfg, (kin_schedule_request){.steps = 9});
    for (kin_sigma_curve k = KIN_CURVE_KARRAS; k <= KIN_CURVE_BETA; k++) {
        cfg.curve = k;
        kin_schedule s = made(cfg, (kin_schedule_request){.steps = 9});
        near((double)s.sigma[0], (double)plain.sigma[0], 1e-6);
        near((double)s.sigma[8], (double)plain.sigma[8], 1e-6);
        for (int i = 0; i < 9; i++)
            assert_true(s.sigma[i] > s.sigma[i + 1]);
        kin_schedule_free(&s);
    }
    cfg.curve = KIN_CURVE_BETA;
    kin_schedule s = made(cfg, (kin_schedule_request){.steps = 9});
    /* the middle quantile of a symmetric distribution is the middle */
    near((double)s.sigma[4], 0.5 * (double)(s.sigma[0] + s.sigma[8]), 1e-6);
    kin_schedule_free(&s);
    cfg.curve = KIN_CURVE_NONE;
    cfg.shift_terminal = 0.1;
    s = made(cfg, (kin_schedule_request){.steps = 9});
    near((double)s.sigma[8], 0.1, 1e-6);
    kin_schedule_free(&s);
    cfg.shift_terminal = 0;
    cfg.invert_sigmas = true;
    s = made(cfg, (kin_schedule_request){.steps = 9});
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
    kin_scheduler cfg = kin_scheduler_default(KIN_SCHEDULER_FLOW_EULER);
    assert_int_equal(kin_schedule_flow(0, 1.0, &s, &err), KIN_ERR_ARG);
    assert_int_equal(kin_schedule_flow(5, 0.0, &s, &err), KIN_ERR_ARG);
    assert_int_equal(kin_schedule_flow(5, (double)NAN, &s, &err), KIN_ERR_ARG);
    assert_int_equal(kin_schedule_flow(KIN_SCHEDULE_MAX_STEPS + 1, 1.0, &s, &err), KIN_ERR_ARG);
    kin_schedule_request r = {.steps = 3, .sigmas = two, .n_sigmas = 2};
    assert_int_equal(kin_schedule_make(&cfg, &r, &s, &err), KIN_ERR_ARG);
    r = (kin_schedule_request){0};
    assert_int_equal(kin_schedule_make(&cfg, &r, &s, &err), KIN_ERR_ARG);
    cfg.dynamic_shift = true;
    r.steps = 4;
    assert_int_equal(kin_schedule_make(&cfg, &r, &s, &err), KIN_ERR_ARG);
    assert_non_null(strstr(err.text, "mu"));
}

static kin_status read_text(const char *text, kin_scheduler *out, kin_error *err)
{
    cJSON *json = cJSON_Parse(text);
    assert_non_null(json);
    kin_status status = kin_scheduler_read(json, out, err);
    cJSON_Delete(json);
    return status;
}

static void configs_are_read_strictly(void **state)
{
    (void)state;
    kin_scheduler s;
    kin_error err = {0};
    assert_ok(read_text("{\"_class_name\":\"FlowMatchEulerDiscreteScheduler\",\"shift\":3.0,"
                        "\"use_karras_sigmas\":true,\"shift_terminal\":null}",
                        &s, &err),
              &err);
    near(s.shift, 3.0, 0.0);
    assert_int_equal(s.curve, KIN_CURVE_KARRAS);
    assert_true(s.shift_terminal == 0);
    assert_int_equal(read_text("{\"_class_name\":\"PNDMScheduler\"}", &s, &err),
                     KIN_ERR_UNSUPPORTED);
    assert_int_equal(read_text("{\"shfit\":3.0}", &s, &err), KIN_ERR_FORMAT);
    assert_non_null(strstr(err.text, "shift"));
    assert_int_equal(read_text("{\"shift\":-1}", &s, &err), KIN_ERR_FORMAT);
    assert_int_equal(read_text("{\"use_karras_sigmas\":true,\"use_beta_sigmas\":true}", &s, &err),
                     KIN_ERR_FORMAT);
    assert_int_equal(read_text("{\"time_shift_type\":\"cubic\"}", &s, &err), KIN_ERR_UNSUPPORTED);
    s = kin_scheduler_default(KIN_SCHEDULER_FLOW_EULER);
    near(kin_scheduler_mu(&s, 256.0), 0.5, 1e-12);
    near(kin_scheduler_mu(&s, 4096.0), 1.15, 1e-12);
}

static void noise_is_a_line_between_sample_and_noise(void **state)
{
    (void)state;
    kin_ctx *ctx = NULL;
    kin_error err = {0};
    kin_schedule s = {0};
    float a[] = {1, 2, 3, 4, 5, 6}, b[] = {-1, 0, 1, 2, 0, -3}, y[6];
    const double t[] = {250.0, 1000.0}, none[] = {250.5, 0.0};
    kin_scheduler cfg = kin_scheduler_default(KIN_SCHEDULER_FLOW_EULER);
    assert_ok(kin_ctx_create(&(kin_ctx_options){.backend = KIN_BACKEND_REF}, &ctx, &err), &err);
    assert_ok(kin_schedule_train(&cfg, &s, &err), &err);
    assert_int_equal(s.n, 1000);
    kin_tensor x0 = KIN_TENSOR(a, KIN_DTYPE_F32, 2, 3), n = KIN_TENSOR(b, KIN_DTYPE_F32, 2, 3);
    kin_tensor out = KIN_TENSOR(y, KIN_DTYPE_F32, 2, 3), wrong = KIN_TENSOR(y, KIN_DTYPE_F32, 3, 2);
    assert_ok(kin_schedule_noise(ctx, &s, &x0, &n, t, &out), &ctx->error);
    for (int i = 0; i < 6; i++)
        near((double)y[i], i < 3 ? 0.75 * a[i] + 0.25 * b[i] : b[i], 1e-6);
    assert_int_equal(kin_schedule_noise(ctx, &s, &x0, &n, t, &wrong), KIN_ERR_SHAPE);
    /* a flow takes times of its own list alone */
    assert_int_equal(kin_schedule_noise(ctx, &s, &x0, &n, none, &out), KIN_ERR_ARG);
    kin_schedule_free(&s);
    kin_ctx_destroy(&ctx);
}

/* Noise levels are variance preserving, fall along the run and end clean. */
static void classes_with_betas_agree_on_levels(void **state)
{
    (void)state;
    kin_error err = {0};
    for (int c = KIN_SCHEDULER_EULER; c < KIN_SCHEDULER_CLASSES; c++) {
        kin_scheduler cfg = kin_scheduler_default((kin_scheduler_class)c);
        kin_schedule s = {0};
        const kin_schedule_request r = {.steps = 20};
        double a, b, before = 2.0;
        assert_ok(kin_schedule_make(&cfg, &r, &s, &err), &err);
        for (int i = 0; i < s.n; i++) {
            assert_ok(kin_schedule_level(&s, (double)s.t[i], &a, &b, &err), &err);
            const double share = b * b / (a * a + b * b);
            if (c < KIN_SCHEDULER_EULER || c > KIN_SCHEDULER_HEUN)
                near(a * a + b * b, 1.0, 1e-6);
            assert_true(share <= before);
            before = share;
        }
        assert_true(before < 0.2);
        kin_schedule_free(&s);
    }
}

static void names_choose_what_the_model_allows(void **state)
{
    (void)state;
    kin_error err = {0};
    kin_scheduler flow = kin_scheduler_default(KIN_SCHEDULER_FLOW_EULER), out;
    kin_scheduler ddpm = kin_scheduler_default(KIN_SCHEDULER_DDPM);
    flow.shift = 3.0;
    ddpm.prediction = KIN_PREDICT_V;
    assert_ok(kin_sampler_choose("unipc", NULL, &flow, &out, &err), &err);
    assert_int_equal(out.class, KIN_SCHEDULER_UNIPC);
    assert_true(out.flow_sigmas && out.shift == 3.0 && out.prediction == KIN_PREDICT_FLOW);
    assert_ok(kin_sampler_choose("heun", NULL, &flow, &out, &err), &err);
    assert_int_equal(out.class, KIN_SCHEDULER_FLOW_HEUN);
    assert_ok(kin_sampler_choose("heun", NULL, &ddpm, &out, &err), &err);
    assert_int_equal(out.class, KIN_SCHEDULER_HEUN);
    assert_int_equal(out.prediction, KIN_PREDICT_V);
    assert_int_equal(kin_sampler_choose("ddim", NULL, &flow, &out, &err), KIN_ERR_ARG);
    assert_non_null(strstr(err.text, "flow"));
    /* keys that both classes know are carried over */
    cJSON *config = cJSON_Parse("{\"_class_name\":\"DDPMScheduler\",\"beta_end\":0.015,"
                                "\"variance_type\":\"learned_range\"}");
    assert_ok(kin_scheduler_read(config, &ddpm, &err), &err);
    assert_ok(kin_sampler_choose("dpm++2m", config, &ddpm, &out, &err), &err);
    assert_true(out.beta_end == 0.015 && out.learned_channels);
    cJSON_Delete(config);
}

static void configs_are_written_as_read(void **state)
{
    (void)state;
    kin_error err = {0};
    for (int c = 0; c < KIN_SCHEDULER_CLASSES; c++) {
        kin_scheduler a = kin_scheduler_default((kin_scheduler_class)c), b;
        cJSON *json = NULL;
        a.train_steps = 500;
        assert_ok(kin_scheduler_write(&a, &json, &err), &err);
        assert_ok(kin_scheduler_read(json, &b, &err), &err);
        assert_int_equal(a.class, b.class);
        assert_int_equal(b.train_steps, 500);
        assert_int_equal(a.spacing, b.spacing);
        assert_true(a.clip == b.clip && a.beta_end == b.beta_end && a.order == b.order);
        cJSON_Delete(json);
    }
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
        cmocka_unit_test(classes_with_betas_agree_on_levels),
        cmocka_unit_test(names_choose_what_the_model_allows),
        cmocka_unit_test(configs_are_written_as_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
