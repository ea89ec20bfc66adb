/* diffusion/loader.c: a model directory in the diffusers layout into a pipeline. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/path.h"
#include "diffusion/embeds.h"
#include "diffusion/pipeline_parts.h"
#include "diffusion/tokenizer_dir.h"
#include "diffusion/wisa.h"

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

static kin_status open_files(kin_pipeline *p, const char *dir, const char *part, const char *file,
                             int slot)
{
    char folder[KIN_PATH_MAX];

    KIN_TRY(kin_path_join(folder, dir, part, &p->ctx->error));
    return kin_safetensors_open_dir(folder, file, &p->files->file[slot], &p->ctx->error);
}

static kin_status bind(kin_pipeline *p, const char *dir, const char *part, int slot,
                       kin_params *params, kin_weight_alias alias)
{
    kin_error *err = &p->ctx->error;
    char folder[KIN_PATH_MAX];

    KIN_TRY(kin_path_join(folder, dir, part, err));
    if (kin_weights_bind(p->files, slot, params, alias, kin_ctx_is_plan(p->ctx), err) != KIN_OK)
        return kin_fail_prefix(err, "%s", folder);
    return KIN_OK;
}

/* ---- the classes that model_index.json names ---- */

static const char *class_of(const cJSON *index, const char *part)
{
    const cJSON *pair = cJSON_GetObjectItemCaseSensitive(index, part);

    return cJSON_GetStringValue(cJSON_GetArrayItem(pair, 1));
}

/* Pipelines of another task have the same parts, and one or two more. */
static kin_status check_index(const kin_pipeline *p, const char *path)
{
    static const char *const pipelines[][2] = {
        {"WanPipeline", "WanTransformer3DModel"},
        {"CogVideoXPipeline", "CogVideoXTransformer3DModel"}};
    kin_error *err = &p->ctx->error;
    const char *name = NULL, *transformer = class_of(p->index, "transformer");

    if (!transformer)
        return kin_fail(err, KIN_ERR_FORMAT, "%s: names no transformer", path);
    KIN_TRY(kin_json_get_str(p->index, "_class_name", &name, err));
    for (size_t i = 0; name && i < sizeof(pipelines) / sizeof(pipelines[0]); i++) {
        const bool same = !strcmp(name, pipelines[i][0]);

        if (same && strcmp(transformer, pipelines[i][1]) != 0)
            return kin_fail(err, KIN_ERR_FORMAT, "%s: the transformer of %s must be %s, not %s",
                            path, name, pipelines[i][1], transformer);
        if (!same && !strcmp(transformer, pipelines[i][1]) &&
            (strstr(name, "ToVideo") || strstr(name, "Control") || strstr(name, "VACE")))
            return kin_fail(err, KIN_ERR_UNSUPPORTED, "%s: _class_name %s: %s is known, from text",
                            path, name, pipelines[i][0]);
    }
    if (has_part(p, "transformer_2"))
        return kin_fail(err, KIN_ERR_UNSUPPORTED,
                        "%s: transformer_2 (two transformers, as Wan 2.2) is not known", path);
    return KIN_OK;
}

/* The config of a part must be of the class that the index names. */
static kin_status check_class(const kin_pipeline *p, const char *dir, const char *part,
                              const cJSON *config)
{
    const char *want = class_of(p->index, part), *got = NULL;

    KIN_TRY(kin_json_get_str(config, "_class_name", &got, &p->ctx->error));
    if (want && got && strcmp(want, got) != 0)
        return kin_fail(&p->ctx->error, KIN_ERR_FORMAT,
                        "%s/%s: model_index.json says %s, its config.json %s", dir, part, want,
                        got);
    return KIN_OK;
}

/* ---- transformer ---- */

/* WISA's parameters: the file that was asked for, else the one beside the transformer's. */
static kin_status open_physics(kin_pipeline *p, const char *dir, const char *asked)
{
    static const char *const places[] = {"", "transformer"};
    kin_error *err = &p->ctx->error;
    char folder[KIN_PATH_MAX], path[KIN_PATH_MAX];

    if (asked)
        return kin_safetensors_open(asked, &p->files->beside[0], err);
    for (int i = 0; i < 2; i++) {
        KIN_TRY(kin_path_join(folder, dir, places[i], err));
        KIN_TRY(kin_path_join(path, folder, KIN_WISA_FILE, err));
        if (kin_path_exists(path))
            return kin_safetensors_open(path, &p->files->beside[0], err);
    }
    return KIN_OK;
}

/* An adapter file in the directory is no part of it: its scale is not stored. */
static void note_adapters(kin_pipeline *p, const char *dir)
{
    char path[KIN_PATH_MAX];
    const size_t used = strlen(p->note);

    if (kin_path_join(path, dir, "pytorch_lora_weights.safetensors", NULL) == KIN_OK &&
        kin_path_exists(path))
        snprintf(p->note + used, sizeof(p->note) - used,
                 "%s%.200s: not applied; --lora FILE:STRENGTH does (WISA: 0.125)", used ? "\n" : "",
                 path);
}

static kin_status load_transformer(kin_pipeline *p, const char *dir, const char *phys_weights)
{
    const kin_safetensors *files[2];
    kin_error *err = &p->ctx->error;

    KIN_TRY(read_config(dir, "transformer", "config.json", KIN_JSON_STRICT, &p->transformer_config,
                        err));
    KIN_TRY(check_class(p, dir, "transformer", p->transformer_config));
    KIN_TRY(open_files(p, dir, "transformer", KIN_PIPELINE_TRANSFORMER_FILE, 0));
    KIN_TRY(open_physics(p, dir, phys_weights));
    files[0] = p->files->beside[0];
    files[1] = p->files->file[0];
    if (kin_wisa_infer(files, p->transformer_config, p->note, sizeof(p->note), err) != KIN_OK)
        return kin_fail_prefix(err, "%s/transformer", dir);
    KIN_TRY(kin_params_create(&p->params, err));
    if (kin_model_create(p->transformer_config, p->params, &p->model, err) != KIN_OK)
        return kin_fail_prefix(err, "%s/transformer/config.json", dir);
    note_adapters(p, dir);
    return bind(p, dir, "transformer", 0, p->params, NULL);
}

/* ---- text ---- */

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
    uint64_t before;

    if (!kin_model_get_info(p->model)->text_dim)
        return KIN_OK;
    KIN_TRY(read_config(dir, "text_encoder", "config.json", KIN_JSON_STRICT, &p->text_config, err));
    KIN_TRY(kin_params_create(&p->text_params, err));
    if (kin_text_encoder_create(p->text_config, p->text_params, &p->text, err) != KIN_OK)
        return kin_fail_prefix(err, "%s/text_encoder/config.json", dir);
    KIN_TRY(open_files(p, dir, "text_encoder", KIN_PIPELINE_TEXT_FILE, 1));
    before = p->files->hash;
    KIN_TRY(kin_embeds_config_hash(p->text_config, &p->files->hash, err));
    KIN_TRY(bind(p, dir, "text_encoder", 1, p->text_params, text_alias));
    p->text_hash = p->files->hash;
    p->files->hash ^= before * 3; /* note: equal parts must not cancel out */
    KIN_TRY(load_tokenizer(p, dir));
    return kin_pipeline_check_text(p);
}

/* ---- vae ---- */

/* vae/ of a model that has one. note: a folder that is missing is left for generation to complain
 * of, so that such a model can be looked at and trained on cached latents */
static kin_status load_vae(kin_pipeline *p, const char *dir)
{
    char folder[KIN_PATH_MAX];

    if (!has_part(p, "vae"))
        return KIN_OK;
    KIN_TRY(kin_path_join(folder, dir, "vae", &p->ctx->error));
    if (!kin_path_is_dir(folder))
        return KIN_OK;
    KIN_TRY(kin_vae_model_load(p->ctx, folder, &p->vae));
    return check_class(p, dir, "vae", p->vae->config);
}

/* ---- all ---- */

static kin_status load_parts(kin_pipeline *p, const char *dir, const kin_load_options *opt)
{
    kin_error *err = &p->ctx->error;
    char path[KIN_PATH_MAX];

    KIN_TRY(kin_path_join(path, dir, "model_index.json", err));
    KIN_TRY(kin_json_read(path, CONFIG_MAX, KIN_JSON_STRICT, &p->index, err));
    if (!has_part(p, "transformer") && has_part(p, "vae")) {
        KIN_TRY(kin_path_join(path, dir, "vae", err));
        return kin_pipeline_read_autoencoder(p, path);
    }
    KIN_TRY(check_index(p, path));
    p->files = kin_calloc(1, sizeof(*p->files));
    if (!p->files)
        return kin_fail(err, KIN_ERR_MEM, "pipeline: out of memory");
    KIN_TRY(load_transformer(p, dir, opt ? opt->phys_weights : NULL));
    KIN_TRY(load_text(p, dir));
    KIN_TRY(load_vae(p, dir));
    if (has_part(p, "scheduler"))
        KIN_TRY(read_config(dir, "scheduler", "scheduler_config.json", KIN_JSON_ALLOW_INFINITY,
                            &p->scheduler_config, err));
    if (!kin_ctx_is_plan(p->ctx))
        snprintf(p->hash, sizeof(p->hash), "%016llx",
                 (unsigned long long)(p->files->hash ^ (p->vae ? p->vae->hash : 0)));
    return kin_pipeline_set_sizes(p);
}

static bool is_model_dir(const char *dir)
{
    char path[KIN_PATH_MAX];

    return kin_path_join(path, dir, "model_index.json", NULL) == KIN_OK && kin_path_exists(path);
}

/* one file in the place of a directory */
static kin_status refuse_file(const char *path, kin_error *err)
{
    static const char *const torch[] = {"pth", "pt", "ckpt"};

    for (size_t i = 0; i < sizeof(torch) / sizeof(torch[0]); i++)
        if (!strcmp(kin_path_ext(path), torch[i]))
            return kin_fail(err, KIN_ERR_FORMAT,
                            "%s: weights as torch.save writes them; make a model directory of them "
                            "first: kinema convert %s -o DIR",
                            path, path);
    return kin_fail(err, KIN_ERR_FORMAT,
                    "%s: must be a model directory or a run folder, not a file", path);
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
kin_status kin_pipeline_resolve(const char *dir, char out[KIN_PATH_MAX], kin_error *err)
{
    char run[KIN_PATH_MAX], latest[KIN_PATH_MAX];

    if (is_model_dir(dir))
        return kin_path_join(out, NULL, dir, err);
    if (kin_path_exists(dir) && !kin_path_is_dir(dir))
        return refuse_file(dir, err);
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
    return kin_pipeline_load_with(ctx, dir, NULL, out);
}

kin_status kin_pipeline_load_with(kin_ctx *ctx, const char *dir, const kin_load_options *opt,
                                  kin_pipeline **out)
{
    char real[KIN_PATH_MAX];
    kin_pipeline *p;
    kin_status status;

    *out = NULL;
    KIN_TRY(kin_pipeline_resolve(dir, real, &ctx->error));
    p = kin_calloc(1, sizeof(*p));
    if (!p)
        return kin_fail(&ctx->error, KIN_ERR_MEM, "pipeline: out of memory");
    p->ctx = ctx;
    status = load_parts(p, real, opt);
    if (status != KIN_OK) {
        kin_pipeline_destroy(&p);
        return status;
    }
    *out = p;
    return KIN_OK;
}
