#include "training/official.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "io/safetensors.h"
#include "training/checkpoint.h"

/* --- an official file, with the shapes of its model --- */

typedef struct official {
    kin_import imp;
    kin_ctx *ctx; /* of shapes alone */
    kin_pipeline *pipe;
    kin_import_part part; /* that is being written */
} official;

static void close_official(official *o)
{
    kin_pipeline_destroy(&o->pipe);
    kin_ctx_destroy(&o->ctx);
    kin_import_close(&o->imp);
}

static kin_status make_scheduler(cJSON **out, kin_error *err)
{
    static const char text[] = "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", "
                               "\"num_train_timesteps\": 1000, \"shift\": 1.0}";
    return kin_json_parse(text, sizeof text - 1, KIN_JSON_STRICT, out, err);
}

static kin_status make_pipeline(official *o, const cJSON *given, kin_strbuf *notes, kin_error *err)
{
    cJSON *config = NULL, *scheduler = NULL;
    kin_status status = kin_import_config(&o->imp, given, &config, notes, err);
    if (status == KIN_OK)
        status = make_scheduler(&scheduler, err);
    if (status == KIN_OK)
        status = kin_ctx_create(&(kin_ctx_options){.backend = KIN_BACKEND_PLAN}, &o->ctx, err);
    if (status == KIN_OK) {
        status = kin_pipeline_create(o->ctx, config, NULL, NULL, 0, scheduler, 0, &o->pipe);
        if (status != KIN_OK && err)
            *err = o->ctx->error;
    }
    cJSON_Delete(config);
    cJSON_Delete(scheduler);
    return status;
}

static kin_status open_official(const char *pth, const cJSON *given, kin_strbuf *notes, official *o,
                                kin_error *err)
{
    *o = (official){0};
    KIN_TRY(kin_import_open(pth, &o->imp, err));
    kin_status status = make_pipeline(o, given, notes, err);
    if (status == KIN_OK)
        status = kin_import_check(&o->imp, KIN_IMPORT_MODEL, o->pipe->params, err);
    if (status == KIN_OK)
        status = kin_import_check(&o->imp, KIN_IMPORT_EMA, o->pipe->params, err);
    if (status != KIN_OK)
        kin_fail_prefix(err, "%s", pth);
    return status;
}

static kin_status part_item(void *user, int table, const kin_param *p, kin_item *out,
                            kin_error *err)
{
    const official *o = user;
    const int64_t i = kin_import_find(&o->imp, o->part, p->name);
    (void)table;
    (void)err;
    *out = kin_pth_item(o->imp.pth, i, p->name, KIN_DTYPE_F32);
    return KIN_OK;
}

/* model_index.json names the class of the autoencoder that is copied. */
static kin_status name_vae(official *o, const char *vae, kin_strbuf *notes, kin_error *err)
{
    char path[KIN_PATH_MAX];
    cJSON *config = NULL;
    const char *class_name = NULL;
    const int64_t channels = kin_model_get_info(o->pipe->model)->in_channels;
    if (!vae) {
        if (channels != 3 && channels != 1)
            kin_strbuf_addf(notes,
                            "it works on latents of %" PRId64
                            " channels: give their autoencoder by "
                            "--vae DIR (ProMoE's is stabilityai/sd-vae-ft-mse)\n",
                            channels);
        return KIN_OK;
    }
    KIN_TRY(kin_path_join(path, vae, "config.json", err));
    if (!kin_path_exists(path))
        return kin_fail(err, KIN_ERR_FORMAT, "%s: no such file; an autoencoder has one", path);
    KIN_TRY(kin_json_read(path, 1 << 20, KIN_JSON_STRICT, &config, err));
    kin_status status = kin_json_get_str(config, "_class_name", &class_name, err);
    if (status == KIN_OK && !class_name)
        status = kin_fail(err, KIN_ERR_FORMAT, "%s: has no _class_name", path);
    if (status == KIN_OK) {
        const char *const pair[] = {"diffusers", class_name};
        if (!kin_json_put(o->pipe->index, "vae", cJSON_CreateStringArray(pair, 2)))
            status = kin_fail(err, KIN_ERR_MEM, "convert: out of memory");
    }
    cJSON_Delete(config);
    return status;
}

static kin_status save_part(official *o, kin_import_part part, const char *dir, kin_dtype dtype,
                            uint64_t max_shard, const char *vae, kin_error *err)
{
    const kin_save_options opt = {
        .dtype = dtype, .max_shard = max_shard, .vae = vae, .source = part_item, .user = o};
    o->part = part;
    return kin_pipeline_save_as(o->pipe, dir, &opt, err);
}

kin_status kin_official_to_model(const char *pth, const char *dir, const kin_official_options *opt,
                                 kin_strbuf *notes, kin_error *err)
{
    official o;
    kin_status status = open_official(pth, opt->given, notes, &o, err);
    if (status == KIN_OK && opt->part == KIN_IMPORT_EMA && !o.imp.has_ema)
        kin_strbuf_add(notes, "the file has one set of weights, which is taken\n");
    if (status == KIN_OK)
        status = name_vae(&o, opt->vae, notes, err);
    if (status == KIN_OK)
        status = save_part(&o, opt->part, dir, opt->dtype, opt->max_shard, opt->vae, err);
    close_official(&o);
    return status;
}

/* --- with the state of training --- */

static void read_zeros(const void *user, int64_t at, int64_t n, kin_dtype as, void *out)
{
    (void)user;
    (void)at;
    memset(out, 0, (size_t)n * kin_dtype_size(as));
}

/* What is not in the optimizer's state has moments of 0. */
static kin_item moment_item(const official *o, int64_t i, const kin_param *p, const char *name)
{
    if (i >= 0)
        return kin_pth_item(o->imp.pth, i, name, KIN_DTYPE_F32);
    kin_item item = kin_item_of(name, &p->value, KIN_DTYPE_F32);
    item.read = read_zeros;
    return item;
}

static kin_status write_moments(const official *o, const char *dir, kin_error *err)
{
    enum { NAME = 320 };
    const kin_params *params = o->pipe->params;
    const size_t n = 2 * (size_t)params->count;
    char path[KIN_PATH_MAX];
    kin_item *items = kin_calloc(n + 1, sizeof *items);
    char(*names)[NAME] = kin_calloc(n + 1, sizeof *names);
    kin_status status =
        items && names ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "checkpoint: out of memory");
    for (int i = 0; i < params->count && status == KIN_OK; i++) {
        const kin_param *p = params->list[i];
        int64_t m, v;
        status = kin_import_moments(&o->imp, p, &m, &v, err);
        snprintf(names[2 * i], NAME, "m.%s", p->name);
        snprintf(names[2 * i + 1], NAME, "v.%s", p->name);
        if (status == KIN_OK) {
            items[2 * i] = moment_item(o, m, p, names[2 * i]);
            items[2 * i + 1] = moment_item(o, v, p, names[2 * i + 1]);
        }
    }
    if (status == KIN_OK)
        status = kin_path_join(path, dir, "optimizer.safetensors", err);
    if (status == KIN_OK)
        status = kin_safetensors_write_items(path, items, (int64_t)n, NULL, err);
    kin_free(items);
    kin_free(names);
    return status;
}

static kin_status write_run(const char *dir, void *user, kin_error *err)
{
    official *o = user;
    const kin_checkpoint_info info = {.step = o->imp.updates, .imported = true};
    char ema[KIN_PATH_MAX];
    KIN_TRY(save_part(o, KIN_IMPORT_MODEL, dir, KIN_DTYPE_F32, 0, NULL, err));
    KIN_TRY(kin_path_join(ema, dir, "ema", err));
    KIN_TRY(save_part(o, KIN_IMPORT_EMA, ema, KIN_DTYPE_F32, 0, NULL, err));
    KIN_TRY(write_moments(o, dir, err));
    KIN_TRY(kin_checkpoint_write_info(dir, &info, err));
    return kin_path_sync_dir(dir, err);
}

kin_status kin_official_to_run(const char *pth, const char *run, const cJSON *given,
                               kin_strbuf *notes, int64_t *step, kin_error *err)
{
    official o = {0};
    char latest[KIN_PATH_MAX];
    KIN_TRY(kin_path_join(latest, run, "latest", err));
    if (kin_path_exists(latest))
        return kin_fail(err, KIN_ERR_ARG,
                        "%s holds a run already; resume it or name another folder", run);
    kin_status status = open_official(pth, given, notes, &o, err);
    if (status == KIN_OK && !o.imp.optimizer[0])
        status = kin_fail(err, KIN_ERR_FORMAT, "%s: has no state of AdamW to go on from", pth);
    if (status == KIN_OK)
        status = kin_path_make_dirs(run, err);
    if (status == KIN_OK)
        status = kin_checkpoint_place(run, o.imp.updates,
                                      16 * (uint64_t)kin_params_numel(o.pipe->params) + (4 << 20),
                                      write_run, &o, err);
    if (status == KIN_OK && step)
        *step = o.imp.updates;
    close_official(&o);
    return status;
}
