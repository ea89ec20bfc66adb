/* training/official_write.c: models and runs of ours as .pth files of the official form. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "io/pth_write.h"
#include "io/safetensors.h"
#include "training/checkpoint.h"
#include "training/official.h"

#define TRANSFORMER_FILE "diffusion_pytorch_model.safetensors"

/* The files of one checkpoint, and what is read from them. */
typedef struct source {
    kin_ctx *ctx; /* of shapes alone */
    kin_pipeline *pipe;
    kin_safetensors *model, *ema, *moments; /* ema, moments: NULL where there are none */
    int64_t step;
    kin_tensor *tensor; /* [4*params]: model, ema, m, v */
    int64_t *storage;   /* [params] of the model's tensors in the .pth */
    kin_dtype dtype;
    kin_pth_out *out;
} source;

static void close_source(source *s)
{
    kin_safetensors_close(&s->model);
    kin_safetensors_close(&s->ema);
    kin_safetensors_close(&s->moments);
    kin_pipeline_destroy(&s->pipe);
    kin_ctx_destroy(&s->ctx);
    kin_free(s->tensor);
    kin_free(s->storage);
    kin_pth_out_close(&s->out);
}

static kin_status open_weights(const char *dir, const char *part, kin_safetensors **out,
                               kin_error *err)
{
    char folder[KIN_PATH_MAX];
    KIN_TRY(kin_path_join(folder, dir, part, err));
    return kin_safetensors_open_dir(folder, TRANSFORMER_FILE, out, err);
}

static bool has_file(const char *dir, const char *name)
{
    char path[KIN_PATH_MAX];
    return kin_path_join(path, dir, name, NULL) == KIN_OK && kin_path_exists(path);
}

/* A run folder means its latest checkpoint. */
static kin_status open_source(const char *given, source *s, kin_error *err)
{
    char dir[KIN_PATH_MAX], path[KIN_PATH_MAX];
    if (has_file(given, "model_index.json"))
        KIN_TRY(kin_path_join(dir, NULL, given, err));
    else
        KIN_TRY(kin_checkpoint_latest(given, dir, err));
    KIN_TRY(kin_ctx_create(&(kin_ctx_options){.backend = KIN_BACKEND_PLAN}, &s->ctx, err));
    kin_status status = kin_pipeline_load(s->ctx, dir, &s->pipe);
    if (status != KIN_OK) {
        *err = s->ctx->error;
        return status;
    }
    KIN_TRY(open_weights(dir, "transformer", &s->model, err));
    if (has_file(dir, "ema/model_index.json"))
        KIN_TRY(open_weights(dir, "ema/transformer", &s->ema, err));
    if (!has_file(dir, "optimizer.safetensors"))
        return KIN_OK;
    kin_checkpoint_info info;
    KIN_TRY(kin_checkpoint_read_info(dir, &info, err));
    cJSON_Delete(info.config);
    s->step = info.step;
    KIN_TRY(kin_path_join(path, dir, "optimizer.safetensors", err));
    return kin_safetensors_open(path, &s->moments, err);
}

/* Tensor `prefix`NAME of a file as an item of the .pth; the tensor goes into *t. */
static kin_status item_of(const kin_safetensors *st, const char *prefix, const kin_param *p,
                          kin_tensor *t, kin_dtype store, kin_item *out, kin_error *err)
{
    char name[320];
    snprintf(name, sizeof name, "%s%s", prefix, p->name);
    const int64_t i = kin_safetensors_find(st, name);
    KIN_TRY(kin_safetensors_get(st, name, t, err));
    *out = kin_safetensors_at(st, i)->mapped ? kin_item_of_mapped(p->name, t, store)
                                             : kin_item_of(p->name, t, store);
    return KIN_OK;
}

/* The names of a state dictionary with their tensors. */
static kin_status put_weights(source *s, const kin_safetensors *st, kin_tensor *tensor, bool first,
                              kin_error *err)
{
    const kin_params *params = s->pipe->params;
    kin_pth_out_dict(s->out);
    for (int i = 0; i < params->count; i++) {
        const kin_param *p = params->list[i];
        /* as in model directories: matrices in the type asked for, all else f32 */
        const bool matrix = p->value.ndim >= 2 && strlen(p->name) > 7 &&
                            strcmp(p->name + strlen(p->name) - 7, ".weight") == 0;
        kin_item item;
        KIN_TRY(item_of(st, "", p, &tensor[i], matrix ? s->dtype : KIN_DTYPE_F32, &item, err));
        kin_pth_out_key(s->out, p->name);
        if (first)
            s->storage[i] = kin_pth_out_tensor(s->out, &item);
        else
            kin_pth_out_tensor(s->out, &item);
    }
    kin_pth_out_end(s->out);
    return KIN_OK;
}

/* The averages of a model that has none of its own: its weights, stored once. */
static void put_weights_again(source *s)
{
    kin_pth_out_dict(s->out);
    for (int i = 0; i < s->pipe->params->count; i++) {
        kin_pth_out_key(s->out, s->pipe->params->list[i]->name);
        kin_pth_out_again(s->out, s->storage[i]);
    }
    kin_pth_out_end(s->out);
}

/* The state of parameter i under its number, which does not count buffers. */
static kin_status put_moments(source *s, int i, int number, kin_tensor *m, kin_tensor *v,
                              kin_error *err)
{
    const kin_param *p = s->pipe->params->list[i];
    kin_item item;
    kin_pth_out_key_int(s->out, number);
    kin_pth_out_dict(s->out);
    kin_pth_out_key(s->out, "step");
    kin_pth_out_int(s->out, s->step);
    KIN_TRY(item_of(s->moments, "m.", p, m, KIN_DTYPE_F32, &item, err));
    kin_pth_out_key(s->out, "exp_avg");
    kin_pth_out_tensor(s->out, &item);
    KIN_TRY(item_of(s->moments, "v.", p, v, KIN_DTYPE_F32, &item, err));
    kin_pth_out_key(s->out, "exp_avg_sq");
    kin_pth_out_tensor(s->out, &item);
    kin_pth_out_end(s->out);
    return KIN_OK;
}

/* One group with the values that AdamW needs to take the state; the trainer's own settings replace
 * them. note: parameters that are never updated have no entry. */
static void put_group(source *s)
{
    static const struct {
        const char *key;
        double value;
    } numbers[] = {{"lr", 1e-4}, {"eps", 1e-8}, {"weight_decay", 0}};
    static const char *const flags[] = {"amsgrad", "maximize", "capturable", "differentiable"};
    static const char *const none[] = {"foreach", "fused"};
    kin_pth_out_list(s->out);
    kin_pth_out_dict(s->out);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        kin_pth_out_key(s->out, numbers[i].key);
        kin_pth_out_float(s->out, numbers[i].value);
    }
    kin_pth_out_key(s->out, "betas");
    kin_pth_out_list(s->out);
    kin_pth_out_float(s->out, 0.9);
    kin_pth_out_float(s->out, 0.999);
    kin_pth_out_end(s->out);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        kin_pth_out_key(s->out, flags[i]);
        kin_pth_out_bool(s->out, false);
    }
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        kin_pth_out_key(s->out, none[i]);
        kin_pth_out_none(s->out);
    }
    kin_pth_out_key(s->out, "params");
    kin_pth_out_list(s->out);
    for (int i = 0, number = 0; i < s->pipe->params->count; i++)
        if (!kin_import_is_buffer(s->pipe->params->list[i]->name))
            kin_pth_out_int(s->out, number++);
    kin_pth_out_end(s->out);
    kin_pth_out_end(s->out);
    kin_pth_out_end(s->out);
}

static kin_status put_optimizer(source *s, kin_tensor *m, kin_tensor *v, kin_error *err)
{
    const kin_params *params = s->pipe->params;
    kin_pth_out_dict(s->out);
    kin_pth_out_key(s->out, "state");
    kin_pth_out_dict(s->out);
    for (int i = 0, number = 0; i < params->count; i++) {
        if (kin_import_is_buffer(params->list[i]->name))
            continue;
        if (params->list[i]->trainable)
            KIN_TRY(put_moments(s, i, number, &m[i], &v[i], err));
        number++;
    }
    kin_pth_out_end(s->out);
    kin_pth_out_key(s->out, "param_groups");
    put_group(s);
    kin_pth_out_end(s->out);
    return KIN_OK;
}

static kin_status put_all(source *s, kin_error *err)
{
    const size_t n = (size_t)s->pipe->params->count;
    const bool image = kin_model_get_info(s->pipe->model)->family == KIN_FAMILY_DIT;
    s->tensor = kin_calloc(4 * n + 1, sizeof *s->tensor);
    s->storage = kin_calloc(n + 1, sizeof *s->storage);
    if (!s->tensor || !s->storage)
        return kin_fail(err, KIN_ERR_MEM, "pth: out of memory");
    KIN_TRY(kin_pth_out_create(&s->out, err));
    if (!image)
        return put_weights(s, s->ema ? s->ema : s->model, s->tensor, true, err);
    kin_pth_out_dict(s->out);
    kin_pth_out_key(s->out, "step");
    /* note: the official trainer saves after the update of step index N */
    kin_pth_out_int(s->out, s->step > 0 ? s->step - 1 : 0);
    kin_pth_out_key(s->out, "model_state_dict");
    KIN_TRY(put_weights(s, s->model, s->tensor, true, err));
    kin_pth_out_key(s->out, "ema_model_state_dict");
    if (s->ema)
        KIN_TRY(put_weights(s, s->ema, s->tensor + n, false, err));
    else
        put_weights_again(s);
    if (s->moments) {
        kin_pth_out_key(s->out, "optimizer_state_dict");
        KIN_TRY(put_optimizer(s, s->tensor + 2 * n, s->tensor + 3 * n, err));
    }
    kin_pth_out_end(s->out);
    return KIN_OK;
}

kin_status kin_official_from(const char *dir, const char *pth, kin_dtype dtype, kin_error *err)
{
    source s = {.dtype = dtype};
    kin_status status = open_source(dir, &s, err);
    if (status == KIN_OK)
        status = put_all(&s, err);
    if (status == KIN_OK)
        status = kin_pth_out_commit(s.out, pth, err);
    close_source(&s);
    return status;
}
