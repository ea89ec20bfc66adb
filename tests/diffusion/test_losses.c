/* Times, noising, condition dropout and the terms of the objective against their formulas. */
#include "tests/diffusion/models.h"

#define DENSE                                                                                \
    "{\"_class_name\": \"KinemaTransformer3DModel\", \"model\": \"dense\", \"patch_size\": " \
    "[1,2,2], "                                                                              \
    "\"ffn_dim\": 16, \"text_len\": 5, " NET_SMALL

static void test_times(void **state)
{
    kin_objective_options o = kin_objective_options_default();
    kin_error err = {0};
    double sum = 0;

    (void)state;
    assert_true(fabs((double)kin_time_u(&o, 0.7f) - 1 / (1 + exp(-0.7))) < 1e-6);
    o.logit_mean = 0.5f;
    o.logit_std = 2.0f;
    assert_true(fabs((double)kin_time_u(&o, 0.3f) - 1 / (1 + exp(-1.1))) < 1e-6);
    o.scheme = KIN_TIME_MODE;
    assert_true(fabs((double)kin_time_u(&o, 0.25f) -
                     (0.75 - 1.29 * (pow(cos(3.14159265358979 / 8), 2) - 0.75))) < 1e-6);
    o.scheme = KIN_TIME_UNIFORM;
    assert_true(kin_time_u(&o, 0.25f) == 0.25f);
    assert_true(fabs((double)kin_time_sigma(3.0f, 0.5f) - 0.75) < 1e-7);
    assert_true(kin_time_sigma(1.0f, 0.3f) == 0.3f);
    assert_ok(kin_time_scheme_parse("mixed", &o.scheme, &err), &err);
    assert_int_equal(o.scheme, KIN_TIME_MIXED);
    assert_int_equal(kin_time_scheme_parse("logit-normal", &o.scheme, &err), KIN_ERR_ARG);
    /* uniform draws have mean 1/2 and differ from sample to sample */
    o.scheme = KIN_TIME_UNIFORM;
    for (uint64_t i = 0; i < 4000; i++)
        sum +=
            (double)kin_time_draw(&o, &(kin_rng){.seed = 1, .purpose = KIN_RNG_TIME, .sample = i}) /
            4000;
    assert_true(fabs(sum - 0.5) < 0.02);
}

static void test_mixed_draws(void **state)
{
    kin_objective_options o = kin_objective_options_default();
    int edge = 0;

    (void)state;
    o.scheme = KIN_TIME_MIXED;
    /* u outside [0.1, 0.9]: 20 % of uniform, 2.8 % of logit-normal draws: 11.4 % of both */
    for (uint64_t i = 0; i < 8000; i++) {
        const float u =
            kin_time_draw(&o, &(kin_rng){.seed = 2, .purpose = KIN_RNG_TIME, .sample = i});

        edge += u < 0.1f || u > 0.9f;
    }
    assert_true(abs(edge - 912) < 120);
}

static void test_dropout(void **state)
{
    kin_objective_options o = kin_objective_options_default();
    kin_condition_drop d;
    int all = 0, prior = 0, quant = 0;

    (void)state;
    d = kin_condition_dropout(&o, (float[]){0.05f, 0.9f, 0.9f});
    assert_true(d.all && d.prior && d.quant);
    d = kin_condition_dropout(&o, (float[]){0.1f, 0.05f, 0.9f});
    assert_true(!d.all && d.prior && !d.quant);
    d = kin_condition_dropout(&o, (float[]){0.5f, 0.5f, 0.0f});
    assert_true(!d.all && !d.prior && d.quant);
    o.prior_dropout = 0.3f;
    o.quant_dropout = 0.0f;
    for (uint64_t i = 0; i < 10000; i++) {
        d = kin_condition_dropout_draw(
            &o, &(kin_rng){.seed = 3, .purpose = KIN_RNG_DROPOUT, .sample = i});
        all += d.all;
        prior += d.prior && !d.all;
        quant += d.quant && !d.all;
    }
    assert_true(abs(all - 1000) < 120);
    assert_true(abs(prior - 2700) < 180);
    assert_int_equal(quant, 0);
}

static void test_mix(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    const kin_tensor x0 = RANDOM(ctx, 1, 2, 3, 2, 2, 2), noise = RANDOM(ctx, 2, 2, 3, 2, 2, 2);
    float s[2] = {0.25f, 1.0f};
    const kin_tensor sigma = KIN_TENSOR(s, KIN_DTYPE_F32, 2);
    kin_tensor xt, target;

    (void)state;
    assert_ok(kin_flow_mix(ctx, &x0, &noise, &sigma, &xt, &target), &ctx->error);
    for (int64_t i = 0; i < 48; i++) {
        const double a = kin_tensor_get(&x0, i), n = kin_tensor_get(&noise, i),
                     w = (double)s[i / 24];

        assert_true(fabs(kin_tensor_get(&xt, i) - ((1 - w) * a + w * n)) < 1e-6);
        assert_true(fabs(kin_tensor_get(&target, i) - (n - a)) < 1e-6);
    }
    kin_ctx_destroy(&ctx);
}

/* one pass of a model and all terms of its objective */
static kin_objective_terms run(kin_ctx *ctx, net *n, const kin_objective_options *o, video_in *v,
                               kin_tensor *sigma, kin_tensor *y, kin_tensor *logits,
                               const kin_tensor *has_prior)
{
    const kin_tensor noise = RANDOM(ctx, 8, 2, 3, 2, 4, 4);
    kin_tensor xt, target;
    kin_model_output out;
    kin_objective_terms terms;

    assert_ok(KIN_WS(ctx, sigma, KIN_DTYPE_F32, 2), &ctx->error);
    ((float *)sigma->data)[0] = 0.02f;
    ((float *)sigma->data)[1] = 0.8f;
    assert_ok(kin_flow_mix(ctx, &v->x, &noise, sigma, &xt, &target), &ctx->error);
    v->in.x = &xt;
    assert_ok(kin_model_forward(ctx, n->model, &v->in, &out), &ctx->error);
    assert_ok(kin_objective(ctx, n->model, o,
                            &(kin_objective_input){.xt = &xt,
                                                   .x0 = &v->x,
                                                   .target = &target,
                                                   .sigma = sigma,
                                                   .prior = &v->prior,
                                                   .has_prior = has_prior},
                            &out, &terms),
              &ctx->error);
    *y = out.y;
    *logits = out.logits;
    return terms;
}

static double bce(const kin_tensor *logits, const kin_tensor *prior, int64_t first, int64_t count)
{
    double sum = 0;

    for (int64_t i = first * 29; i < (first + count) * 29; i++) {
        const double z = kin_tensor_get(logits, i), p = kin_tensor_get(prior, i);

        sum += fmax(z, 0) - z * p + log1p(exp(-fabs(z)));
    }
    return sum / (double)(count * 29);
}

/* prediction of the sample: velocity loss with sigma floored at 0.05, or the weighted sample loss
 */
static void check_sample_loss(const char *extra, double least, bool sample)
{
    char config[800];
    kin_objective_options o = kin_objective_options_default();
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    kin_tensor sigma, y, logits, mask;
    kin_objective_terms terms;
    video_in v;
    double want = 0, a, c;
    net n;

    snprintf(config, sizeof(config), DENSE ", \"prediction_type\": \"sample\"%s}", extra);
    n = open_net(ctx, config);
    randomize(n.params, 51, 0.2f);
    video_inputs(ctx, n.model, 2, 2, 4, 4, &v);
    assert_ok(KIN_WS(ctx, &mask, KIN_DTYPE_F32, 2), &ctx->error);
    ((float *)mask.data)[0] = 0;
    ((float *)mask.data)[1] = 1;
    terms = run(ctx, &n, &o, &v, &sigma, &y, &logits, &mask);
    for (int64_t i = 0; i < 192; i++) {
        const double s = kin_tensor_get(&sigma, i / 96), x0 = kin_tensor_get(&v.x, i),
                     p = kin_tensor_get(&y, i);
        const kin_tensor noise = RANDOM(ctx, 8, 2, 3, 2, 4, 4);
        const double e = kin_tensor_get(&noise, i), xt = (1 - s) * x0 + s * e;
        const double d = sample ? (p - x0) / fmax(s, least) : (xt - p) / fmax(s, 0.05) - (e - x0);

        want += d * d / 192;
    }
    assert_true(fabs(kin_tensor_get(&terms.flow, 0) / want - 1) < 1e-4);
    a = bce(&logits, &v.prior, 1, 1);
    c = a > 1 ? 0.10 : 0.05 * a;
    assert_true(fabs(kin_tensor_get(&terms.bce, 0) - a) < 1e-5);
    assert_true(fabs(kin_tensor_get(&terms.classifier, 0) - c) < 1e-5);
    assert_null(terms.aux.data);
    assert_true(fabs(kin_tensor_get(&terms.total, 0) - want - c) < 1e-4 * want);
    /* nobody has a prior: no classifier term */
    ((float *)mask.data)[1] = 0;
    terms = run(ctx, &n, &o, &v, &sigma, &y, &logits, &mask);
    assert_true(kin_tensor_get(&terms.bce, 0) == 0.0 &&
                kin_tensor_get(&terms.classifier, 0) == 0.0);
    close_net(&n);
    kin_ctx_destroy(&ctx);
}

static void test_sample_losses(void **state)
{
    (void)state;
    check_sample_loss("", 0, false);
    check_sample_loss(", \"sample_loss_floor\": 0.3", 0.3, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_times),         cmocka_unit_test(test_mixed_draws),
        cmocka_unit_test(test_dropout),       cmocka_unit_test(test_mix),
        cmocka_unit_test(test_sample_losses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
