/* tests/diffusion/test_import.c: what names and shapes of an official state dictionary say about
 * the configuration, over all reference networks. */
#include "diffusion/import.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "diffusion/model.h"
#include "io/pth_write.h"
#include "io/safetensors.h"
#include "tests/support/folder.h"
#include "tests/support/support.h"

enum { MAX = 600 };

/* The tensors w.NAME of a case as the plain state dictionary NAME, in the order of `params`. */
static void write_state(const kin_safetensors *st, const kin_params *params, const char *path)
{
    static kin_tensor tensor[MAX];
    static kin_item items[MAX];
    kin_error err = {0};
    kin_pth_out *o;
    assert_true(params->count <= MAX);
    assert_ok(kin_pth_out_create(&o, &err), &err);
    kin_pth_out_dict(o);
    for (int i = 0; i < params->count; i++) {
        char name[300];
        snprintf(name, sizeof name, "w.%s", params->list[i]->name);
        assert_ok(kin_safetensors_get(st, name, &tensor[i], &err), &err);
        items[i] = kin_item_of(params->list[i]->name, &tensor[i], tensor[i].dtype);
        kin_pth_out_key(o, items[i].name);
        kin_pth_out_tensor(o, &items[i]);
    }
    kin_pth_out_end(o);
    assert_ok(kin_pth_out_commit(o, path, &err), &err);
    kin_pth_out_close(&o);
}

/* What no shape says is given; every other key must be found. */
static cJSON *given_of(const cJSON *config)
{
    static const char *const keys[] = {"num_heads", "model", "CapacityPred_loss_weight",
                                       "class_dropout_prob", NULL};
    static const char *const moe_keys[] = {"top_k",
                                           "capacity",
                                           "router_weight_mode",
                                           "seq_aux",
                                           "routing_contrastive_lam",
                                           "load_balance_loss_coef",
                                           "routing_contrastive_temperature",
                                           "use_top_k_for_routing_contrastive",
                                           NULL};
    const cJSON *from = cJSON_GetObjectItem(config, "MoE_config");
    cJSON *given = cJSON_CreateObject(), *moe = NULL;
    for (int i = 0; keys[i]; i++)
        if (cJSON_GetObjectItem(config, keys[i]))
            cJSON_AddItemToObject(given, keys[i],
                                  cJSON_Duplicate(cJSON_GetObjectItem(config, keys[i]), true));
    for (int i = 0; from && moe_keys[i]; i++)
        if (cJSON_GetObjectItem(from, moe_keys[i])) {
            if (!moe)
                moe = cJSON_AddObjectToObject(given, "MoE_config");
            cJSON_AddItemToObject(moe, moe_keys[i],
                                  cJSON_Duplicate(cJSON_GetObjectItem(from, moe_keys[i]), true));
        }
    return given;
}

/* Keys of `want` that `got` has with another value; what a config leaves out is not compared. */
static void compare(const char *path, const cJSON *want, const cJSON *got)
{
    for (const cJSON *m = want->child; m; m = m->next) {
        const cJSON *v = cJSON_GetObjectItemCaseSensitive(got, m->string);
        /* this network has no dense block and no shared expert: nothing shows their widths, and
         * nothing needs them */
        if (strstr(path, "promoe_tc_variants") &&
            (strcmp(m->string, "mlp_ratio") == 0 || strncmp(m->string, "shared_expert", 13) == 0))
            continue;
        if (cJSON_IsObject(m) && cJSON_IsObject(v))
            compare(path, m, v);
        else if (v && !cJSON_IsNull(m) && !cJSON_Compare(m, v, true))
            fail_msg("%s: %s", path, m->string);
    }
}

static void check_case(const char *path)
{
    kin_error err = {0};
    kin_safetensors *st;
    cJSON *config = NULL, *found = NULL;
    kin_params *params, *again;
    kin_model *model, *other;
    kin_import imp;
    kin_strbuf notes = {0};
    assert_ok(kin_safetensors_open(path, &st, &err), &err);
    const char *text = kin_safetensors_metadata(st, "config");
    assert_ok(kin_json_parse(text, strlen(text), KIN_JSON_STRICT, &config, &err), &err);
    assert_ok(kin_params_create(&params, &err), &err);
    assert_ok(kin_model_create(config, params, &model, &err), &err);
    write_state(st, params, kin_test_path("state.pth"));
    assert_ok(kin_import_open(kin_test_path("state.pth"), &imp, &err), &err);
    assert_int_equal(imp.step, -1);
    assert_false(imp.has_ema);
    cJSON *given = given_of(config);
    assert_ok(kin_import_config(&imp, given, &found, &notes, &err), &err);
    compare(path, config, found);
    assert_ok(kin_params_create(&again, &err), &err);
    if (kin_model_create(found, again, &other, &err) != KIN_OK)
        fail_msg("%s: %s", path, err.text);
    assert_ok(kin_import_check(&imp, KIN_IMPORT_EMA, again, &err), &err);
    kin_model_destroy(&other);
    kin_params_destroy(&again);
    kin_model_destroy(&model);
    kin_params_destroy(&params);
    kin_strbuf_free(&notes);
    kin_import_close(&imp);
    cJSON_Delete(given);
    cJSON_Delete(found);
    cJSON_Delete(config);
    kin_safetensors_close(&st);
}

static void configurations_are_in_the_shapes(void **state)
{
    static const char *const cases[] = {"dit_dense",          "dit_dense_qknorm",
                                        "promoe_tc_identity", "promoe_tc_softmax_top2",
                                        "promoe_tc_qknorm",   "promoe_tc_variants",
                                        "promoe_ec_identity", "tc_dit_top1",
                                        "tc_dit_top2_shared", "ec_dit",
                                        "ec_dit_swiglu",      "diffmoe",
                                        "diffmoe_shared"};
    const char *golden = getenv("KINEMA_GOLDEN");
    (void)state;
    if (!golden || !*golden)
        skip();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[KIN_PATH_MAX];
        snprintf(path, sizeof path, "%s/image/%s.safetensors", golden, cases[i]);
        check_case(path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configurations_are_in_the_shapes),
    };
    return cmocka_run_group_tests(tests, kin_test_folder_make, kin_test_folder_remove);
}
