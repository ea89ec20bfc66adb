#include "diffusion/vae_model.h"

#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/path.h"
#include "diffusion/weights.h"
#include "io/safetensors.h"

enum { CONFIG_MAX = 1 << 20 };

#define WEIGHTS_FILE "diffusion_pytorch_model.safetensors"

void kin_vae_model_destroy(kin_vae_model **pm)
{
    kin_vae_model *m = pm ? *pm : NULL;

    if (!m)
        return;
    kin_vae_destroy(&m->vae);
    kin_params_destroy(&m->params);
    cJSON_Delete(m->config);
    kin_files_free(&m->files);
    kin_free(m);
    *pm = NULL;
}

static kin_status open_model(kin_ctx *ctx, kin_vae_model **out)
{
    *out = kin_calloc(1, sizeof(**out));
    if (!*out)
        return kin_fail(&ctx->error, KIN_ERR_MEM, "vae: out of memory");
    (*out)->ctx = ctx;
    return kin_params_create(&(*out)->params, &ctx->error);
}

static kin_status load(kin_vae_model *m, const char *folder)
{
    kin_error *err = &m->ctx->error;
    const bool plan = kin_ctx_is_plan(m->ctx);
    char path[KIN_PATH_MAX];
    kin_status status;

    KIN_TRY(kin_path_join(path, folder, "config.json", err));
    KIN_TRY(kin_json_read(path, CONFIG_MAX, KIN_JSON_STRICT, &m->config, err));
    if (kin_vae_create(m->config, m->params, &m->vae, err) != KIN_OK)
        return kin_fail_prefix(err, "%s", path);
    m->files = kin_calloc(1, sizeof(*m->files));
    if (!m->files)
        return kin_fail(err, KIN_ERR_MEM, "vae: out of memory");
    KIN_TRY(kin_safetensors_open_dir(folder, WEIGHTS_FILE, &m->files->file[0], err));
    status = kin_weights_bind(m->files, 0, m->params, kin_vae_alias, plan, err);
    m->hash = m->files->hash;
    return status == KIN_OK ? status : kin_fail_prefix(err, "%s", folder);
}

kin_status kin_vae_model_load(kin_ctx *ctx, const char *folder, kin_vae_model **out)
{
    kin_status status = open_model(ctx, out);

    if (status == KIN_OK)
        status = load(*out, folder);
    if (status != KIN_OK)
        kin_vae_model_destroy(out);
    return status;
}

static kin_status create(kin_vae_model *m, const cJSON *config, uint64_t seed)
{
    kin_error *err = &m->ctx->error;
    const bool plan = kin_ctx_is_plan(m->ctx);

    m->config = cJSON_Duplicate(config, 1);
    if (!m->config)
        return kin_fail(err, KIN_ERR_MEM, "vae: out of memory");
    KIN_TRY(kin_vae_create(m->config, m->params, &m->vae, err));
    KIN_TRY(kin_params_alloc(m->params, KIN_DTYPE_F32, plan, err));
    KIN_TRY(kin_params_alloc_grads(m->params, plan, err));
    if (!plan)
        kin_params_init(m->params, seed);
    return KIN_OK;
}

kin_status kin_vae_model_create(kin_ctx *ctx, const cJSON *config, uint64_t seed,
                                kin_vae_model **out)
{
    kin_status status = open_model(ctx, out);

    if (status == KIN_OK)
        status = create(*out, config, seed);
    if (status != KIN_OK)
        kin_vae_model_destroy(out);
    return status;
}

kin_status kin_vae_model_make_trainable(kin_vae_model *m)
{
    if (!m->files)
        return KIN_OK; /* made by kin_vae_model_create */
    KIN_TRY(kin_weights_make_trainable(m->params, kin_ctx_is_plan(m->ctx), &m->ctx->error));
    kin_files_free(&m->files);
    return KIN_OK;
}

static kin_status write_weights(const kin_vae_model *m, const char *folder, kin_dtype dtype,
                                uint64_t max_shard, kin_error *err)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    const int n = m->params->count;
    kin_item *items = kin_calloc((size_t)n + 1, sizeof(*items));
    kin_status status;

    if (!items)
        return kin_fail(err, KIN_ERR_MEM, "vae: out of memory");
    for (int i = 0; i < n; i++) {
        const kin_param *p = m->params->list[i];
        const kin_dtype store = kin_weight_is_matrix(p) ? dtype : KIN_DTYPE_F32;

        items[i] = p->mapped ? kin_item_of_mapped(p->name, &p->value, store)
                             : kin_item_of(p->name, &p->value, store);
    }
    status = kin_safetensors_write_dir(folder, WEIGHTS_FILE, items, n, max_shard, metadata, err);
    kin_free(items);
    return status;
}

kin_status kin_vae_model_save(const kin_vae_model *m, const char *folder, kin_dtype dtype,
                              uint64_t max_shard, kin_error *err)
{
    char path[KIN_PATH_MAX], *text;
    kin_status status;

    KIN_TRY(kin_path_make_dirs(folder, err));
    KIN_TRY(kin_path_join(path, folder, "config.json", err));
    text = cJSON_Print(m->config);
    if (!text)
        return kin_fail(err, KIN_ERR_MEM, "vae: out of memory");
    status = kin_file_write(path, text, strlen(text), err);
    cJSON_free(text);
    KIN_TRY(status);
    return write_weights(m, folder, dtype, max_shard, err);
}
