#include "diffusion/finetune.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/path.h"
#include "diffusion/cogvideox.h"
#include "diffusion/lora.h"
#include "diffusion/pipeline_parts.h"
#include "diffusion/video.h"
#include "diffusion/wisa.h"

enum { CONFIG_MAX = 16 << 20, SLOT_BASE = 0, SLOT_PHYSICS = 1 };

static const char adapter[] = "default"; /* the name that peft gives */
static const char lora_file[] = "pytorch_lora_weights.safetensors", phys_file[] = KIN_WISA_FILE;

kin_finetune kin_finetune_default(kin_family family)
{
    kin_finetune o = {.lora = true, .physics = true, .rank = 128, .alpha = 16};

    snprintf(o.targets, sizeof(o.targets), "%s.*(to_q|to_k|to_v|to_out.0)",
             family == KIN_FAMILY_COGVIDEOX ? "(transformer_blocks|single_transformer_blocks)"
                                            : "blocks");
    return o;
}

static kin_status read_json(const char *dir, const char *name, cJSON **out, kin_error *err)
{
    char path[KIN_PATH_MAX];

    KIN_TRY(kin_path_join(path, dir, name, err));
    return kin_json_read(path, CONFIG_MAX, KIN_JSON_STRICT, out, err);
}

static kin_status family_of(const cJSON *config, kin_family *out, kin_error *err)
{
    const char *name = NULL;

    KIN_TRY(kin_json_get_str(config, "_class_name", &name, err));
    if (name && !strcmp(name, "WanTransformer3DModel"))
        *out = KIN_FAMILY_WAN;
    else if (name && !strcmp(name, "CogVideoXTransformer3DModel"))
        *out = KIN_FAMILY_COGVIDEOX;
    else
        return kin_fail(err, KIN_ERR_UNSUPPORTED,
                        "fine-tuning: transformer \"%s\" must be WanTransformer3DModel or "
                        "CogVideoXTransformer3DModel",
                        name ? name : "");
    return KIN_OK;
}

kin_status kin_finetune_family(const char *dir, kin_family *out, kin_error *err)
{
    cJSON *config = NULL;
    kin_status status;

    KIN_TRY(read_json(dir, "transformer/config.json", &config, err));
    status = family_of(config, out, err);
    cJSON_Delete(config);
    return status;
}

/* --- opening --- */

static bool is_adapter(const kin_param *p)
{
    return strstr(p->name, ".lora_") != NULL;
}

static bool is_physics(const kin_param *p)
{
    return strstr(p->name, "phys") != NULL;
}

/* Opens a file of weights where it is there. */
static kin_status open_there(const char *dir, const char *name, kin_safetensors **out,
                             kin_error *err)
{
    char path[KIN_PATH_MAX];

    KIN_TRY(kin_path_join(path, dir, name, err));
    return kin_path_exists(path) ? kin_safetensors_open(path, out, err) : KIN_OK;
}

static kin_status open_files(kin_pipeline *p, const char *dir, const kin_finetune *opt,
                             const char *from)
{
    kin_safetensors **file = p->files->file;
    kin_error *err = &p->ctx->error;
    char folder[KIN_PATH_MAX];

    KIN_TRY(kin_path_join(folder, opt->full && from ? from : dir, "transformer", err));
    KIN_TRY(kin_safetensors_open_dir(folder, KIN_PIPELINE_TRANSFORMER_FILE, &file[SLOT_BASE], err));
    if (opt->full && from)
        return KIN_OK; /* the physics lie in it */
    if (from)
        KIN_TRY(open_there(from, phys_file, &file[SLOT_PHYSICS], err));
    if (!file[SLOT_PHYSICS])
        KIN_TRY(open_there(dir, phys_file, &file[SLOT_PHYSICS], err));
    return file[SLOT_PHYSICS] ? KIN_OK : open_there(folder, phys_file, &file[SLOT_PHYSICS], err);
}

/* Keys of the physics that a config lacks: those of the weights that are there, else of new ones.
 */
static kin_status add_physics(kin_pipeline *p, const kin_finetune *opt, kin_family family)
{
    const int64_t last = family == KIN_FAMILY_COGVIDEOX ? KIN_COG_ONLY_LAST : KIN_ONLY_LAST;
    const kin_safetensors *files[2] = {p->files->file[SLOT_PHYSICS], p->files->file[SLOT_BASE]};
    kin_error *err = &p->ctx->error;
    cJSON *c = p->transformer_config;

    KIN_TRY(kin_wisa_infer(files, c, p->note, sizeof(p->note), err));
    if (!opt->physics || cJSON_GetObjectItemCaseSensitive(c, "insert_gap") ||
        cJSON_GetObjectItemCaseSensitive(c, "whether_classifier"))
        return KIN_OK;
    return cJSON_AddNumberToObject(c, "insert_gap",
                                   (double)(opt->insert_gap ? opt->insert_gap : last)) &&
                   cJSON_AddTrueToObject(c, "whether_classifier")
               ? KIN_OK
               : kin_fail(err, KIN_ERR_MEM, "fine-tuning: out of memory");
}

static kin_status make_model(kin_pipeline *p, const kin_finetune *opt)
{
    kin_error *err = &p->ctx->error;

    KIN_TRY(kin_params_create(&p->params, err));
    KIN_TRY(kin_model_create(p->transformer_config, p->params, &p->model, err));
    if (opt->physics && !kin_model_get_info(p->model)->categories)
        return kin_fail(err, KIN_ERR_ARG, "fine-tuning: the model has no physics to train");
    if (opt->lora)
        KIN_TRY(
            kin_lora_create(p->params, opt->targets, opt->rank, opt->alpha, adapter, NULL, err));
    for (int i = 0; i < p->params->count; i++) {
        kin_param *w = p->params->list[i];

        w->trainable = is_adapter(w) ? opt->lora : is_physics(w) ? opt->physics : opt->full;
    }
    return KIN_OK;
}

/* Binds the parameters of one file: physics that lie beside the base, or all that is the base's. */
static kin_status bind_part(kin_pipeline *p, int slot)
{
    const kin_safetensors *base = p->files->file[SLOT_BASE];
    const kin_params *all = p->params;
    kin_params part = {.list = kin_calloc((size_t)all->count + 1, sizeof(*part.list))};
    kin_status status;

    if (!part.list)
        return kin_fail(&p->ctx->error, KIN_ERR_MEM, "fine-tuning: out of memory");
    for (int i = 0; i < all->count; i++) {
        kin_param *w = all->list[i];
        const bool beside = is_physics(w) && kin_safetensors_find(base, w->name) < 0;

        if (!is_adapter(w) && beside == (slot == SLOT_PHYSICS))
            part.list[part.count++] = w;
    }
    status = kin_weights_bind(p->files, slot, &part, NULL, kin_ctx_is_plan(p->ctx), &p->ctx->error);
    kin_free(part.list);
    return status;
}

/* Values of the adapters from a file by diffusers' names. */
static kin_status read_adapters(kin_pipeline *p, const char *from)
{
    kin_error *err = &p->ctx->error;
    char path[KIN_PATH_MAX], name[400];
    kin_safetensors *st = NULL;
    kin_status status = KIN_OK;

    KIN_TRY(kin_path_join(path, from, lora_file, err));
    KIN_TRY(kin_safetensors_open(path, &st, err));
    for (int i = 0; i < p->params->count; i++) {
        kin_param *w = p->params->list[i];
        const char *at = strstr(w->name, ".lora_");
        kin_tensor t;

        if (!at)
            continue;
        snprintf(name, sizeof(name), "transformer.%.*s.weight", (int)(at - w->name) + 7, w->name);
        KIN_GOTO(kin_safetensors_get(st, name, &t, err));
        if (!kin_tensor_same_shape(&t, &w->value) || t.dtype != KIN_DTYPE_F32) {
            status = kin_fail(err, KIN_ERR_SHAPE, "%s: %s must be f32 of the adapter's shape", path,
                              name);
            goto done;
        }
        memcpy(w->value.data, t.data, (size_t)kin_tensor_numel(&t) * sizeof(float));
        kin_param_touch(w);
    }
done:
    kin_safetensors_close(&st);
    return status;
}

static kin_status fill_values(kin_pipeline *p, const kin_finetune *opt, const char *from)
{
    const bool plan = kin_ctx_is_plan(p->ctx);
    kin_error *err = &p->ctx->error;
    bool *fresh = kin_calloc((size_t)p->params->count + 1, sizeof(*fresh));
    kin_status status;

    if (!fresh)
        return kin_fail(err, KIN_ERR_MEM, "fine-tuning: out of memory");
    for (int i = 0; i < p->params->count; i++)
        fresh[i] = !p->params->list[i]->value.data;
    KIN_GOTO(kin_weights_own(p->params, true, plan, err));
    for (int i = 0; i < p->params->count && !plan; i++) {
        if (fresh[i])
            kin_param_init(p->params->list[i], opt->seed);
    }
    if (opt->lora && from && !plan)
        KIN_GOTO(read_adapters(p, from));
    status = kin_params_alloc_grads(p->params, plan, err);
done:
    kin_free(fresh);
    return status;
}

static kin_status read_scheduler(kin_pipeline *p, const char *dir)
{
    kin_error *err = &p->ctx->error;
    char path[KIN_PATH_MAX];

    KIN_TRY(kin_path_join(path, dir, "scheduler/scheduler_config.json", err));
    return kin_json_read(path, CONFIG_MAX, KIN_JSON_ALLOW_INFINITY, &p->scheduler_config, err);
}

static kin_status open_parts(kin_pipeline *p, const char *dir, const kin_finetune *opt,
                             const char *from)
{
    kin_error *err = &p->ctx->error;
    kin_family family;

    p->files = kin_calloc(1, sizeof(*p->files));
    if (!p->files)
        return kin_fail(err, KIN_ERR_MEM, "fine-tuning: out of memory");
    KIN_TRY(read_json(dir, "model_index.json", &p->index, err));
    KIN_TRY(read_json(dir, "transformer/config.json", &p->transformer_config, err));
    KIN_TRY(family_of(p->transformer_config, &family, err));
    KIN_TRY(read_scheduler(p, dir));
    KIN_TRY(open_files(p, dir, opt, from));
    KIN_TRY(add_physics(p, opt, family));
    KIN_TRY(make_model(p, opt));
    KIN_TRY(bind_part(p, SLOT_BASE));
    if (p->files->file[SLOT_PHYSICS])
        KIN_TRY(bind_part(p, SLOT_PHYSICS));
    return fill_values(p, opt, from);
}

kin_status kin_finetune_open(kin_ctx *ctx, const char *dir, const kin_finetune *opt,
                             const char *from, kin_pipeline **out)
{
    kin_pipeline *p = kin_calloc(1, sizeof(*p));
    kin_status status;

    *out = NULL;
    if (!p)
        return kin_fail(&ctx->error, KIN_ERR_MEM, "fine-tuning: out of memory");
    p->ctx = ctx;
    status = open_parts(p, dir, opt, from);
    if (status != KIN_OK) {
        kin_fail_prefix(&ctx->error, "%s", dir);
        kin_pipeline_destroy(&p);
        return status;
    }
    *out = p;
    return KIN_OK;
}

/* --- saving --- */

/* Parameters of the table that `wanted` names, under their own names. */
static kin_status write_some(const kin_pipeline *p, bool (*wanted)(const kin_param *),
                             const char *dir, const char *file, kin_error *err)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    kin_item *items = kin_calloc((size_t)p->params->count + 1, sizeof(*items));
    kin_status status;
    int n = 0;

    if (!items)
        return kin_fail(err, KIN_ERR_MEM, "save: out of memory");
    for (int i = 0; i < p->params->count; i++) {
        const kin_param *w = p->params->list[i];

        if (!is_adapter(w) && (!wanted || wanted(w)))
            items[n++] = kin_item_of(w->name, &w->value, KIN_DTYPE_F32);
    }
    status = kin_safetensors_write_dir(dir, file, items, n, 0, metadata, err);
    kin_free(items);
    return status;
}

static kin_status write_text(const char *dir, const char *name, const cJSON *json, kin_error *err)
{
    char path[KIN_PATH_MAX], *text = cJSON_Print(json);
    kin_status status = text ? kin_path_join(path, dir, name, err)
                             : kin_fail(err, KIN_ERR_MEM, "save: out of memory");

    if (status == KIN_OK)
        status = kin_file_write(path, text, strlen(text), err);
    cJSON_free(text);
    return status;
}

/* The parts that are the base's as links to it. */
static kin_status link_rest(const char *base, const char *dir, kin_error *err)
{
    static const char *const parts[] = {"text_encoder", "tokenizer", "vae", "scheduler"};
    char to[KIN_PATH_MAX], from[KIN_PATH_MAX];
    char *real = realpath(base, NULL);
    kin_status status = KIN_OK;

    if (!real)
        return kin_fail(err, KIN_ERR_IO, "save: %s: %s", base, strerror(errno));
    for (int i = 0; i < 4 && status == KIN_OK; i++) {
        status = kin_path_join(to, real, parts[i], err);
        if (status == KIN_OK)
            status = kin_path_join(from, dir, parts[i], err);
        if (status == KIN_OK && kin_path_exists(to) && symlink(to, from) != 0)
            status = kin_fail(err, KIN_ERR_IO, "save: %s: %s", from, strerror(errno));
    }
    free(real);
    return status;
}

static kin_status save_full(const kin_pipeline *p, const char *base, const char *dir,
                            kin_error *err)
{
    char folder[KIN_PATH_MAX];

    KIN_TRY(kin_path_join(folder, dir, "transformer", err));
    KIN_TRY(kin_path_make_dirs(folder, err));
    KIN_TRY(write_text(folder, "config.json", p->transformer_config, err));
    KIN_TRY(write_some(p, NULL, folder, KIN_PIPELINE_TRANSFORMER_FILE, err));
    KIN_TRY(link_rest(base, dir, err));
    return write_text(dir, "model_index.json", p->index, err);
}

kin_status kin_finetune_save(const kin_pipeline *p, const kin_finetune *opt, const char *base,
                             const char *dir, kin_error *err)
{
    char path[KIN_PATH_MAX];

    KIN_TRY(kin_path_make_dirs(dir, err));
    if (opt->lora) {
        KIN_TRY(kin_path_join(path, dir, lora_file, err));
        KIN_TRY(kin_lora_save(p->params, adapter, path, err));
    }
    if (opt->full)
        return save_full(p, base, dir, err);
    return opt->physics ? write_some(p, is_physics, dir, phys_file, err) : KIN_OK;
}
