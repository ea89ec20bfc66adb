/* tests/training/test_train_config.c: train.json is read strictly and completed with its defaults.
 */
#include "tests/support/support.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "training/config.h"

static const char minimal[] = "{\"transformer\":{},\"data\":{\"simulate\":{}}";

static kin_status parse(const char *rest, kin_train_config *c, kin_error *err)
{
    char text[2048];
    cJSON *json;
    snprintf(text, sizeof text, "%s%s}", minimal, rest);
    assert_ok(kin_json_parse(text, strlen(text), KIN_JSON_STRICT, &json, err), err);
    kin_status status = kin_train_config_parse(json, NULL, NULL, c, err);
    cJSON_Delete(json);
    return status;
}

static void defaults_are_written_back(void **state)
{
    kin_train_config c, again;
    kin_error err = {0};
    (void)state;
    assert_ok(parse("", &c, &err), &err);
    assert_int_equal(c.data.frames, 16);
    assert_true(c.data.simulate);
    assert_int_equal(c.validation.sigmas, 6);
    assert_true(c.objective.condition_dropout == 0.1f);
    const cJSON *o = cJSON_GetObjectItem(c.json, "objective");
    assert_true(cJSON_GetObjectItem(o, "condition_dropout")->valuedouble == 0.1);
    /* the resolved tree reads to the same configuration */
    assert_ok(kin_train_config_parse(c.json, NULL, NULL, &again, &err), &err);
    assert_true(cJSON_Compare(c.json, again.json, true));
    assert_ok(kin_train_config_compatible(&c, again.json, &err), &err);
    kin_train_config_free(&again);
    kin_train_config_free(&c);
    assert_null(c.json);
}

static void wrong_configurations_are_named(void **state)
{
    static const struct {
        const char *rest;
        kin_status status;
        const char *text;
    } cases[] = {
        {",\"stpes\":3", KIN_ERR_FORMAT, "steps"},
        {",\"optimizer\":{\"weight_decai\":1}", KIN_ERR_FORMAT, "weight_decay"},
        {",\"optimizer\":{\"lr\":-1}", KIN_ERR_ARG, "optimizer.lr"},
        {",\"optimizer\":{\"lr\":\"x\"}", KIN_ERR_FORMAT, "lr"},
        {",\"optimizer\":{\"betas\":[0.9]}", KIN_ERR_ARG, "betas"},
        {",\"optimizer\":{\"betas\":[0.9,1]}", KIN_ERR_ARG, "betas"},
        {",\"optimizer\":{\"schedule\":\"linear\"}", KIN_ERR_ARG, "linear"},
        {",\"optimizer\":{\"lr_factors\":{\"a\":-1}}", KIN_ERR_ARG, "lr_factors.a"},
        {",\"objective\":{\"weighting_scheme\":\"logit_norm\"}", KIN_ERR_ARG, "logit_normal"},
        {",\"objective\":{\"classifier_loss\":\"x\"}", KIN_ERR_ARG, "plain"},
        {",\"validation\":{\"sigmas\":[0]}", KIN_ERR_ARG, "sigmas"},
        {",\"validation\":{\"sigmas\":[]}", KIN_ERR_ARG, "sigmas"},
        {",\"batch_size\":0", KIN_ERR_FORMAT, "batch_size"},
        {",\"compute\":\"f16\"", KIN_ERR_ARG, "f16"},
        {",\"matmul_precision\":\"low\"", KIN_ERR_ARG, "highest or high"},
        {",\"init_from\":\"x\"", KIN_ERR_ARG, "init_from"},
        {",\"checkpoint\":3", KIN_ERR_FORMAT, "checkpoint"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kin_train_config c;
        kin_error err = {0};
        kin_status status = parse(cases[i].rest, &c, &err);
        if (status == KIN_OK || !strstr(err.text, cases[i].text))
            fail_msg("%s: %s \"%s\"", cases[i].rest, kin_status_name(status), err.text);
        assert_null(c.json);
    }
}

static void data_can_be_given_in_three_ways(void **state)
{
    static const char text[] = "{\"transformer\":{},\"data\":\"clips/wisa.json\"}";
    kin_train_config c;
    kin_error err = {0};
    cJSON *json;
    (void)state;
    assert_ok(kin_json_parse(text, sizeof text - 1, KIN_JSON_STRICT, &json, &err), &err);
    assert_ok(kin_train_config_parse(json, "/base", &(kin_train_overrides){.steps = 7}, &c, &err),
              &err);
    assert_string_equal(c.data.path, "/base/clips/wisa.json");
    assert_int_equal(c.steps, 7);
    kin_train_config_free(&c);
    assert_ok(
        kin_train_config_parse(json, "/base", &(kin_train_overrides){.data = "/other"}, &c, &err),
        &err);
    assert_string_equal(c.data.path, "/other");
    kin_train_config_free(&c);
    cJSON_Delete(json);
    /* --data replaces the simulator; neither is an error */
    assert_ok(kin_json_parse("{\"transformer\":{},\"data\":{\"simulate\":{}}}", 41, KIN_JSON_STRICT,
                             &json, &err),
              &err);
    assert_ok(
        kin_train_config_parse(json, NULL, &(kin_train_overrides){.data = "/other"}, &c, &err),
        &err);
    assert_false(c.data.simulate);
    kin_train_config_free(&c);
    cJSON_Delete(json);
    assert_ok(kin_json_parse("{\"transformer\":{}}", 18, KIN_JSON_STRICT, &json, &err), &err);
    assert_int_equal(kin_train_config_parse(json, NULL, NULL, &c, &err), KIN_ERR_ARG);
    cJSON_Delete(json);
}

static void only_some_keys_may_change_in_a_run(void **state)
{
    static const struct {
        const char *rest;
        bool may;
    } cases[] = {{",\"steps\":5", true},
                 {",\"log_every\":3", true},
                 {",\"checkpoint\":{\"every\":9}", true},
                 {",\"validation\":{\"every\":9}", true},
                 {",\"seed\":9", false},
                 {",\"batch_size\":9", false},
                 {",\"validation\":{\"sigmas\":[0.5]}", false},
                 {",\"optimizer\":{\"lr\":0.5}", false},
                 {",\"compute\":\"bf16\"", false}};
    kin_train_config base, c;
    kin_error err = {0};
    (void)state;
    assert_ok(parse("", &base, &err), &err);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_ok(parse(cases[i].rest, &c, &err), &err);
        kin_status status = kin_train_config_compatible(&c, base.json, &err);
        if ((status == KIN_OK) != cases[i].may)
            fail_msg("%s: %s", cases[i].rest, kin_status_name(status));
        status = kin_train_config_compatible(&base, c.json, &err);
        assert_int_equal(status == KIN_OK, cases[i].may);
        kin_train_config_free(&c);
    }
    kin_train_config_free(&base);
}

/* The command line's precision is noted; the file's own counts for more. */
static void precision_is_recorded(void **state)
{
    const kin_ctx_options opt = {.backend = KIN_BACKEND_REF, .precision = KIN_PRECISION_HIGH};
    kin_train_config c;
    kin_error err = {0};
    kin_ctx *ctx = NULL;
    (void)state;
    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    assert_ok(parse("", &c, &err), &err);
    assert_null(cJSON_GetObjectItem(c.json, "matmul_precision"));
    assert_ok(kin_train_config_adopt(&c, ctx), &ctx->error);
    assert_string_equal(cJSON_GetObjectItem(c.json, "matmul_precision")->valuestring, "high");
    kin_train_config_free(&c);
    assert_ok(parse(",\"matmul_precision\":\"highest\"", &c, &err), &err);
    assert_ok(kin_train_config_adopt(&c, ctx), &ctx->error);
    assert_int_equal(ctx->precision, KIN_PRECISION_HIGHEST);
    kin_train_config_free(&c);
    kin_ctx_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_written_back),
        cmocka_unit_test(wrong_configurations_are_named),
        cmocka_unit_test(data_can_be_given_in_three_ways),
        cmocka_unit_test(only_some_keys_may_change_in_a_run),
        cmocka_unit_test(precision_is_recorded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
