/* tests/diffusion/test_preset.c: the published networks have the published numbers of parameters;
 * keys beside a preset take the place of its own. */
#include "tests/diffusion/models.h"

#include "diffusion/preset.h"

/* As printed by ProMoE and DiffMoE, and for TC and EC (8 experts) by hand: the dense network, and
 * in every second block seven more networks and a gate. */
static void test_parameter_counts(void **state)
{
    static const struct {
        const char *name;
        int64_t total;
    } rows[] = {{"dit-s", 32963360},
                {"dit-b", 130512416},
                {"dit-l", 458102816},
                {"dit-xl", 675129632},
                {"promoe-s", 75543584},
                {"promoe-b", 300607520},
                {"promoe-l", 1062684704},
                {"promoe-xl", 1567733792},
                {"promoe-ec-l", 1062684704},
                {"tc-l", 458102816 + 12 * (7 * 8393728 + 8192)},
                {"ec-l", 458102816 + 12 * (7 * 8393728 + 8192)},
                /* predictor D -> D -> 8, thresholds, decay */
                {"diffmoe-l", 458102816 + 12 * (7 * 8393728 + 8192 + 1049600 + 8200 + 9)}};

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        kin_error err = {0};
        kin_params *params;
        kin_model *model;
        cJSON *j;

        assert_true(kin_preset_is_name(rows[i].name));
        assert_ok(kin_preset_config(rows[i].name, &j, &err), &err);
        assert_ok(kin_params_create(&params, &err), &err);
        assert_ok(kin_model_create(j, params, &model, &err), &err);
        if (kin_params_numel(params) != rows[i].total)
            fail_msg("%s: %lld parameters", rows[i].name, (long long)kin_params_numel(params));
        kin_model_destroy(&model);
        kin_params_destroy(&params);
        cJSON_Delete(j);
    }
}

static double number_at(const cJSON *j, const char *key)
{
    return cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(j, key));
}

static void test_expansion(void **state)
{
    cJSON *j = json("{\"preset\": \"promoe-ec-b\", \"input_size\": 16, \"num_classes\": 10,"
                    "\"MoE_config\": {\"top_k\": 2}}");
    cJSON *plain = json("{\"input_size\": 16}"), *bad = json("{\"preset\": \"promo-b\"}");
    const cJSON *moe;
    kin_error err = {0};

    (void)state;
    assert_ok(kin_preset_expand(j, &err), &err);
    moe = cJSON_GetObjectItemCaseSensitive(j, "MoE_config");
    assert_null(cJSON_GetObjectItemCaseSensitive(j, "preset"));
    assert_true(number_at(j, "input_size") == 16 && number_at(j, "num_classes") == 10);
    assert_true(number_at(j, "hidden_size") == 768 && number_at(j, "in_channels") == 4);
    assert_true(number_at(moe, "top_k") == 2 && number_at(moe, "num_routed_experts") == 12);
    assert_ok(kin_preset_expand(plain, &err), &err);
    assert_int_equal(cJSON_GetArraySize(plain), 1);
    assert_int_equal(kin_preset_expand(bad, &err), KIN_ERR_ARG);
    assert_non_null(strstr(err.text, "promoe-b"));
    cJSON_Delete(j);
    cJSON_Delete(plain);
    cJSON_Delete(bad);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameter_counts),
        cmocka_unit_test(test_expansion),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
