/* An autoencoder as the vae/ part of a model directory: saved and loaded, older names, and pictures
 * generated through it. */
#include "tests/diffusion/models.h"

#include "base/path.h"
#include "diffusion/pipeline.h"
#include "io/safetensors.h"
#include "tests/support/folder.h"

static const char vae_config[] =
    "{\"_class_name\": \"AutoencoderKL\", \"block_out_channels\": [8, 16], \"layers_per_block\": 1,"
    " \"norm_num_groups\": 4, \"sample_size\": 16, \"down_block_types\": [\"DownEncoderBlock2D\","
    " \"DownEncoderBlock2D\"], \"up_block_types\": [\"UpDecoderBlock2D\", \"UpDecoderBlock2D\"]}";
static const char dit_config[] =
    "{\"input_size\": 8, \"patch_size\": 2, \"in_channels\": 4, \"hidden_size\": 16, \"depth\": 1,"
    " \"num_heads\": 2, \"num_classes\": 5, \"MoE_config\": {\"num_routed_experts\": 3,"
    " \"moe_intermediate_size\": 8, \"shared_expert_intermediate_size\": 8, \"top_k\": 1,"
    " \"router_weight_mode\": \"identity\"}}";

static kin_vae_model *make_vae(kin_ctx *ctx)
{
    cJSON *j = json(vae_config);
    kin_vae_model *m = NULL;

    assert_ok(kin_vae_model_create(ctx, j, 3, &m), &ctx->error);
    cJSON_Delete(j);
    randomize(m->params, 31, 0.1f);
    return m;
}

static void assert_same_values(const kin_vae_model *a, const kin_vae_model *b)
{
    for (int i = 0; i < a->params->count; i++) {
        const kin_tensor *x = &a->params->list[i]->value, *y = &b->params->list[i]->value;

        assert_memory_equal(x->data, y->data, (size_t)kin_tensor_numel(x) * sizeof(float));
    }
}

/* The weights once more, attention under the names of older files. */
static void write_old_names(const kin_vae_model *m, const char *path)
{
    const char *names[256];
    kin_tensor tensors[256];
    kin_dtype store[256];
    kin_error err = {0};
    int renamed = 0;

    assert_true(m->params->count < 256);
    for (int i = 0; i < m->params->count; i++) {
        const char *old = kin_vae_alias(m->params->list[i]->name);

        names[i] = old ? old : m->params->list[i]->name;
        renamed += old != NULL;
        tensors[i] = m->params->list[i]->value;
        store[i] = KIN_DTYPE_F32;
    }
    assert_int_equal(renamed, 16);
    assert_ok(kin_safetensors_write(path, names, tensors, store, m->params->count, NULL, &err),
              &err);
}

static void test_save_and_load(void **state)
{
    static const char wrong[] = "{\"_class_name\": \"AutoencoderKL\", \"norm_num_group\": 4}";
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1);
    kin_vae_model *m = make_vae(ctx), *again = NULL;
    kin_error err = {0};
    char folder[KIN_PATH_MAX], path[KIN_PATH_MAX];

    (void)state;
    snprintf(folder, sizeof folder, "%s", kin_test_path("alone"));
    assert_ok(kin_vae_model_save(m, folder, KIN_DTYPE_F32, 0, &err), &err);
    assert_ok(kin_vae_model_load(ctx, folder, &again), &ctx->error);
    assert_same_values(m, again);
    assert_true(again->hash != 0);
    assert_ok(kin_vae_model_make_trainable(again), &ctx->error);
    assert_same_values(m, again);
    assert_non_null(again->params->list[0]->grad.data);
    kin_vae_model_destroy(&again);

    assert_ok(kin_path_join(path, folder, "diffusion_pytorch_model.safetensors", &err), &err);
    write_old_names(m, path);
    assert_ok(kin_vae_model_load(ctx, folder, &again), &ctx->error);
    assert_same_values(m, again);
    kin_vae_model_destroy(&again);

    assert_ok(kin_path_join(path, folder, "config.json", &err), &err);
    assert_ok(kin_file_write(path, wrong, strlen(wrong), &err), &err);
    assert_int_equal(kin_vae_model_load(ctx, folder, &again), KIN_ERR_FORMAT);
    if (!strstr(ctx->error.text, "norm_num_groups"))
        fail_msg("\"%s\" must name norm_num_groups", ctx->error.text);
    assert_null(again);
    kin_vae_model_destroy(&m);
    kin_ctx_destroy(&ctx);
}

/* --- pictures --- */

enum { SIDE = 16, PICTURE = SIDE * SIDE * 3, COUNT = 3 };

static kin_status receive(void *user, int64_t clip, const kin_tensor *frames)
{
    assert_int_equal(frames->size[0], 1);
    assert_int_equal(frames->size[1], SIDE);
    assert_int_equal(frames->size[2], SIDE);
    if (user)
        memcpy((uint8_t *)user + clip * PICTURE, frames->data, PICTURE);
    return KIN_OK;
}

/* A dit model directory with a VAE. */
static void write_model(kin_ctx *ctx, const char *dir)
{
    cJSON *j = json(dit_config), *index = NULL;
    cJSON *flow = json("{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"shift\": 1.0}");
    kin_pipeline *p = NULL;
    kin_error err = {0};
    char path[KIN_PATH_MAX], *text;

    assert_ok(kin_pipeline_create(ctx, j, NULL, NULL, 0, flow, 1, &p), &ctx->error);
    cJSON_Delete(j);
    cJSON_Delete(flow);
    randomize(p->params, 71, 0.2f);
    p->vae = make_vae(ctx);
    assert_ok(kin_pipeline_save(p, dir, KIN_DTYPE_F32, NULL, NULL, &err), &err);
    kin_pipeline_destroy(&p);
    assert_ok(kin_path_join(path, dir, "model_index.json", &err), &err);
    assert_ok(kin_json_read(path, 1 << 16, KIN_JSON_STRICT, &index, &err), &err);
    cJSON_ReplaceItemInObjectCaseSensitive(
        index, "vae", cJSON_CreateStringArray((const char *[]){"diffusers", "AutoencoderKL"}, 2));
    cJSON_DeleteItemFromObjectCaseSensitive(index, "kinema");
    text = cJSON_Print(index);
    assert_ok(kin_file_write(path, text, strlen(text), &err), &err);
    cJSON_free(text);
    cJSON_Delete(index);
}

static kin_status generate(kin_ctx *ctx, const char *dir, int64_t batch, int64_t tile, void *out)
{
    static const int32_t labels[COUNT] = {0, 4, 2};
    kin_generate_params g = kin_generate_params_default();
    kin_pipeline *p = NULL;
    kin_status status = kin_pipeline_load(ctx, dir, &p);

    assert_ok(status, &ctx->error);
    g.count = COUNT;
    g.labels = labels;
    g.steps = 2;
    g.batch = batch;
    g.vae_tiling = tile > 0;
    g.vae_tile = tile;
    g.allow_flat = true;
    g.emit = receive;
    g.user = out;
    status = kin_pipeline_generate(p, &g);
    kin_pipeline_destroy(&p);
    return status;
}

static void test_generate(void **state)
{
    static uint8_t one[COUNT * PICTURE], other[COUNT * PICTURE];
    char dir[KIN_PATH_MAX], vae[KIN_PATH_MAX];
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CPU, 1), *two = open_ctx(KIN_BACKEND_CPU, 2);
    kin_ctx *dry = open_ctx(KIN_BACKEND_PLAN, 2);
    kin_error err = {0};
    int levels = 0;

    (void)state;
    snprintf(dir, sizeof dir, "%s", kin_test_path("model"));
    write_model(ctx, dir);
    const size_t before = two->ws.peak;
    assert_ok(generate(ctx, dir, 1, 0, one), &ctx->error);
    assert_ok(generate(two, dir, 3, 0, other), &two->error);
    assert_memory_equal(one, other, sizeof one);
    for (int i = 1; i < PICTURE; i++)
        levels += one[i] != one[0];
    assert_true(levels > PICTURE / 4);
    /* one tile that covers all, then four tiles */
    assert_ok(generate(ctx, dir, 1, 16, other), &ctx->error);
    assert_memory_equal(one, other, sizeof one);
    assert_ok(generate(ctx, dir, 1, 8, other), &ctx->error);
    assert_memory_not_equal(one, other, sizeof one);
    /* a plan counts the decoder */
    assert_ok(generate(dry, dir, 3, 0, NULL), &dry->error);
    assert_true(before < two->ws.peak && dry->ws.peak >= two->ws.peak);
    assert_true(dry->ws.peak <= two->ws.peak + two->ws.peak / 8);
    /* without the folder the model loads, but makes no pictures */
    assert_ok(kin_path_join(vae, dir, "vae", &err), &err);
    assert_ok(kin_path_remove_tree(vae, &err), &err);
    assert_int_equal(generate(ctx, dir, 1, 0, one), KIN_ERR_FORMAT);
    assert_non_null(strstr(ctx->error.text, "VAE"));
    kin_ctx_destroy(&dry);
    kin_ctx_destroy(&two);
    kin_ctx_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_save_and_load),
        cmocka_unit_test(test_generate),
    };
    return cmocka_run_group_tests(tests, kin_test_folder_make, kin_test_folder_remove);
}
