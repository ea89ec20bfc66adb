/* diffusion/loader.c: a model directory in the diffusers layout into a pipeline. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/path.h"
#include "diffusion/pipeline_parts.h"
#include "diffusion/tokenizer_dir.h"

enum { CONFIG_MAX = 16 << 20 };

static kin_status read_config(const char *dir, const char *part, const char *name, unsigned flags,
                              cJSON **out, kin_error *err)
{
    char folder[KIN_PATH_MAX], path[KIN_PATH_MAX];

    KIN_TRY(kin_path_join(folder, dir, part, err));
    KIN_TRY(kin_path_join(path, folder, name, err));
    return kin_json_read(path, CONFIG_MAX, flags, out, err);
}

/* A component is absent if the index lacks it or gives null. */
static bool has_part(const kin_pipeline *p, const char *part)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(p->index, part);

    if (!cJSON_IsArray(v))
        return false;
    return cJSON_IsString(cJSON_GetArrayItem(v, 1));
}

/* The two names under which T5 checkpoints hold their token table. */
static const char *text_alias(const char *name)
{
    if (!strcmp(name, "shared.weight"))
        return "encoder.embed_tokens.weight";
    if (!strcmp(name, "encoder.embed_tokens.weight"))
        return "shared.weight";
    return NULL;
}

static kin_status open_weights(kin_pipeline *p, const char *dir, const char *part, const char *file,
                               int slot, kin_params *params, kin_weight_alias alias)
{
    kin_error *err = &p->ctx->error;
    char folder[KIN_PATH_MAX];
    kin_status status;

    KIN_TRY(kin_path_join(folder, dir, part, err));
    KIN_TRY(kin_safetensors_open_dir(folder, file, &p->files->file[slot], err));
    status = kin_weights_bind(p->files, slot, params, alias, kin_ctx_is_plan(p->ctx), err);
    return status == KIN_OK ? status : kin_fail_prefix(err, "%s", folder);
}

static kin_status load_transformer(kin_pipeline *p, const char *dir)
{
    kin_error *err = &p->ctx->error;

    KIN_TRY(read_config(dir, "transformer", "config.json", KIN_JSON_STRICT, &p->transformer_config,
                        err));
    KIN_TRY(kin_params_create(&p->params, err));
    KIN_TRY(kin_model_create(p->transformer_config, p->params, &p->model, err));
    return open_weights(p, dir, "transformer", KIN_PIPELINE_TRANSFORMER_FILE, 0, p->params, NULL);
}

static kin_status load_tokenizer(kin_pipeline *p, const char *dir)
{
    const cJSON *pair = cJSON_GetObjectItemCaseSensitive(p->index, "tokenizer");
    char folder[KIN_PATH_MAX];

    KIN_TRY(kin_path_join(folder, dir, "tokenizer", &p->ctx->error));
    return kin_tokenizer_dir_load(folder, cJSON_GetStringValue(cJSON_GetArrayItem(pair, 1)),
                                  &p->tokenizer, &p->tokenizer_files, &p->ctx->error);
}

static kin_status load_text(kin_pipeline *p, const char *dir)
{
    kin_error *err = &p->ctx->error;

    if (!kin_model_get_info(p->model)->text_dim)
        return KIN_OK;
    KIN_TRY(read_config(dir, "text_encoder", "config.json", KIN_JSON_STRICT, &p->text_config, err));
    KIN_TRY(kin_params_create(&p->text_params, err));
    KIN_TRY(kin_text_encoder_create(p->text_config, p->text_params, &p->text, err));
    KIN_TRY(open_weights(p, dir, "text_encoder", KIN_PIPELINE_TEXT_FILE, 1, p->text_params,
                         text_alias));
    KIN_TRY(load_tokenizer(p, dir));
    return kin_pipeline_check_text(p);
}

/* vae/ of a model that has one. note: classes that cannot be decoded yet, and a folder that is
 * missing, are left for generation to complain of, so that such a model can be looked at and
 * trained on cached latents */
static kin_status load_vae(kin_pipeline *p, const char *dir)
{
    const cJSON *pair = cJSON_GetObjectItemCaseSensitive(p->index, "vae");
    const char *name = cJSON_GetStringValue(cJSON_GetArrayItem(pair, 1));
    char folder[KIN_PATH_MAX];

    if (!has_part(p, "vae") || strcmp(name, "AutoencoderKL") != 0)
        return KIN_OK;
    KIN_TRY(kin_path_join(folder, dir, "vae", &p->ctx->error));
    return kin_path_is_dir(folder) ? kin_vae_model_load(p->ctx, folder, &p->vae) : KIN_OK;
}

/* native clip size and guidance: our own object in model_index.json, else what the transformer's
 * config says */
static kin_status load_sizes(kin_pipeline *p)
{
    static const char *const known[] = {"frames",    "height",        "width", "fps",
                                        "cfg_scale", "caption_field", NULL};
    kin_error *err = &p->ctx->error;
    const kin_model_info *info = kin_model_get_info(p->model);
    const cJSON *own = cJSON_GetObjectItemCaseSensitive(p->index, "kinema");

    p->frames = info->sample[0] ? info->sample[0] : info->input_size ? 1 : 0;
    p->height = info->sample[1] ? info->sample[1] : info->input_size;
    p->width = info->sample[2] ? info->sample[2] : info->input_size;
    if (p->vae) { /* sizes are in pixels */
        p->height *= kin_vae_get_info(p->vae->vae)->reduction;
        p->width *= kin_vae_get_info(p->vae->vae)->reduction;
    }
    if (!own || cJSON_IsNull(own))
        return KIN_OK;
    KIN_TRY(kin_json_known_keys(own, known, "model_index.json: kinema", err));
    KIN_TRY(kin_json_get_i64(own, "frames", 1, 1 << 16, &p->frames, err));
    KIN_TRY(kin_json_get_i64(own, "height", 1, 1 << 16, &p->height, err));
    KIN_TRY(kin_json_get_i64(own, "width", 1, 1 << 16, &p->width, err));
    KIN_TRY(kin_json_get_f64(own, "fps", &p->fps, err));
    KIN_TRY(kin_json_get_f64(own, "cfg_scale", &p->cfg_scale, err));
    if (!(p->cfg_scale >= 0 && p->cfg_scale <= 1000))
        return kin_fail(err, KIN_ERR_FORMAT, "model_index.json: cfg_scale %g must lie in 0 to 1000",
                        p->cfg_scale);
    return p->fps >= 0 && p->fps <= 1000
               ? KIN_OK
               : kin_fail(err, KIN_ERR_FORMAT, "model_index.json: fps %g must lie in 0 to 1000",
                          p->fps);
}

static kin_status load_parts(kin_pipeline *p, const char *dir)
{
    kin_error *err = &p->ctx->error;
    char path[KIN_PATH_MAX];

    p->files = kin_calloc(1, sizeof(*p->files));
    if (!p->files)
        return kin_fail(err, KIN_ERR_MEM, "pipeline: out of memory");
    KIN_TRY(kin_path_join(path, dir, "model_index.json", err));
    KIN_TRY(kin_json_read(path, CONFIG_MAX, KIN_JSON_STRICT, &p->index, err));
    if (!has_part(p, "transformer"))
        return kin_fail(err, KIN_ERR_FORMAT, "%s: names no transformer", path);
    KIN_TRY(load_transformer(p, dir));
    KIN_TRY(load_text(p, dir));
    KIN_TRY(load_vae(p, dir));
    if (has_part(p, "scheduler"))
        KIN_TRY(read_config(dir, "scheduler", "scheduler_config.json", KIN_JSON_ALLOW_INFINITY,
                            &p->scheduler_config, err));
    if (!kin_ctx_is_plan(p->ctx))
        snprintf(p->hash, sizeof(p->hash), "%016llx",
                 (unsigned long long)(p->files->hash ^ (p->vae ? p->vae->hash : 0)));
    return load_sizes(p);
}

static bool is_model_dir(const char *dir)
{
    char path[KIN_PATH_MAX];

    return kin_path_join(path, dir, "model_index.json", NULL) == KIN_OK && kin_path_exists(path);
}

/* name of the newest checkpoint: `latest` is a text file with it, or a link to it */
static kin_status read_latest(const char *run, char out[KIN_PATH_MAX], kin_error *err)
{
    char path[KIN_PATH_MAX], *data = NULL;
    size_t bytes;
    kin_status status;

    KIN_TRY(kin_path_join(path, run, "latest", err));
    if (kin_path_is_dir(path)) {
        memcpy(out, path, sizeof(path));
        return KIN_OK;
    }
    KIN_TRY(kin_file_read(path, 4096, &data, &bytes, err));
    while (bytes && (data[bytes - 1] == '\n' || data[bytes - 1] == ' '))
        data[--bytes] = '\0';
    if (!kin_path_is_inside(data) || strchr(data, '/'))
        status = kin_fail(err, KIN_ERR_FORMAT,
                          "%s: \"%.80s\" must be the name of a checkpoint folder", path, data);
    else
        status = kin_path_join(out, run, data, err);
    kin_free(data);
    return status;
}

/* model directory, checkpoint-N (its weights), or run folder (EMA of the newest checkpoint) */
static kin_status resolve(const char *dir, char out[KIN_PATH_MAX], kin_error *err)
{
    char run[KIN_PATH_MAX], latest[KIN_PATH_MAX];

    if (is_model_dir(dir))
        return kin_path_join(out, NULL, dir, err);
    KIN_TRY(kin_path_join(latest, dir, "latest", err));
    if (!kin_path_exists(latest))
        return kin_fail(
            err, KIN_ERR_IO,
            "%s: neither a model directory (model_index.json) nor a run folder (latest)", dir);
    KIN_TRY(read_latest(dir, run, err));
    KIN_TRY(kin_path_join(out, run, "ema", err));
    if (is_model_dir(out))
        return KIN_OK;
    if (!is_model_dir(run))
        return kin_fail(err, KIN_ERR_FORMAT, "%s: its newest checkpoint %s is no model directory",
                        dir, run);
    return kin_path_join(out, NULL, run, err);
}

kin_status kin_pipeline_load(kin_ctx *ctx, const char *dir, kin_pipeline **out)
{
    char real[KIN_PATH_MAX];
    kin_pipeline *p;
    kin_status status;

    *out = NULL;
    KIN_TRY(resolve(dir, real, &ctx->error));
    p = kin_calloc(1, sizeof(*p));
    if (!p)
        return kin_fail(&ctx->error, KIN_ERR_MEM, "pipeline: out of memory");
    p->ctx = ctx;
    status = load_parts(p, real);
    if (status != KIN_OK) {
        kin_pipeline_destroy(&p);
        return status;
    }
    *out = p;
    return KIN_OK;
}
