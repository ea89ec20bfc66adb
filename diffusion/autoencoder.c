/* diffusion/autoencoder.c: family `vae`: an autoencoder (vision/vae.h) as a model of its own, so
 * that it is trained, saved and looked at as the others are; and a directory that holds one. */
#include "diffusion/model.h"

#include <stdio.h>

#include "base/alloc.h"
#include "base/json.h"
#include "diffusion/family.h"
#include "diffusion/pipeline_parts.h"

enum { CONFIG_MAX = 1 << 20 };

typedef struct autoencoder {
    kin_model base;
    kin_vae *vae;
} autoencoder;

const kin_vae *kin_model_vae(const kin_model *model)
{
    return model->info.family == KIN_FAMILY_VAE ? ((const autoencoder *)model)->vae : NULL;
}

/* y: what the posterior's mean is decoded to */
static kin_status autoencoder_forward(kin_ctx *ctx, const kin_model *model,
                                      const kin_model_input *in, kin_model_output *out)
{
    const kin_vae *vae = ((const autoencoder *)model)->vae;
    kin_tensor mean, logvar, z;

    KIN_TRY(kin_vae_encode(ctx, vae, in->x, &mean, &logvar));
    KIN_TRY(kin_contiguous(ctx, &mean, &z));
    return kin_vae_decode(ctx, vae, &z, &out->y);
}

static void autoencoder_set_checkpointing(kin_model *model)
{
    kin_vae_set_checkpointing(((autoencoder *)model)->vae, model->checkpoint);
}

static void autoencoder_destroy(kin_model *model)
{
    kin_vae_destroy(&((autoencoder *)model)->vae);
    kin_free(model);
}

kin_status kin_autoencoder_create(const cJSON *config, kin_params *params, kin_model **out,
                                  kin_error *err)
{
    autoencoder *m = kin_calloc(1, sizeof(*m));
    const kin_vae_info *info;
    kin_status status;

    *out = NULL;
    if (!m)
        return kin_fail(err, KIN_ERR_MEM, "vae: out of memory");
    status = kin_vae_create(config, params, &m->vae, err);
    if (status != KIN_OK) {
        kin_free(m);
        return status;
    }
    info = kin_vae_get_info(m->vae);
    m->base.info = (kin_model_info){.family = KIN_FAMILY_VAE,
                                    .in_channels = info->in_channels,
                                    .out_channels = info->out_channels,
                                    .patch = {1, (int)info->reduction, (int)info->reduction},
                                    .input_size = info->video ? 0 : info->sample_size,
                                    .inner = info->latent_channels};
    m->base.forward = autoencoder_forward;
    m->base.set_checkpointing = autoencoder_set_checkpointing;
    m->base.destroy = autoencoder_destroy;
    *out = &m->base;
    return KIN_OK;
}

/* --- directories --- */

static bool holds(const char *dir, const char *name)
{
    char path[KIN_PATH_MAX];

    return kin_path_join(path, dir, name, NULL) == KIN_OK && kin_path_exists(path);
}

kin_status kin_pipeline_vae_folder(const char *dir, char out[KIN_PATH_MAX], kin_error *err)
{
    char real[KIN_PATH_MAX];

    if (holds(dir, "config.json") && !holds(dir, "model_index.json") && !holds(dir, "latest"))
        return kin_path_join(out, NULL, dir, err);
    KIN_TRY(kin_pipeline_resolve(dir, real, err));
    KIN_TRY(kin_path_join(out, real, "vae", err));
    return kin_path_is_dir(out)
               ? KIN_OK
               : kin_fail(err, KIN_ERR_FORMAT, "%s: this model has no autoencoder (vae/)", dir);
}

kin_status kin_pipeline_read_autoencoder(kin_pipeline *p, const char *folder)
{
    kin_error *err = &p->ctx->error;
    const bool plan = kin_ctx_is_plan(p->ctx);
    char path[KIN_PATH_MAX];

    KIN_TRY(kin_path_join(path, folder, "config.json", err));
    KIN_TRY(kin_json_read(path, CONFIG_MAX, KIN_JSON_STRICT, &p->transformer_config, err));
    KIN_TRY(kin_params_create(&p->params, err));
    if (kin_autoencoder_create(p->transformer_config, p->params, &p->model, err) != KIN_OK)
        return kin_fail_prefix(err, "%s", path);
    p->files = kin_calloc(1, sizeof(*p->files));
    if (!p->files)
        return kin_fail(err, KIN_ERR_MEM, "vae: out of memory");
    KIN_TRY(
        kin_safetensors_open_dir(folder, KIN_PIPELINE_TRANSFORMER_FILE, &p->files->file[0], err));
    if (kin_weights_bind(p->files, 0, p->params, kin_vae_alias, plan, err) != KIN_OK)
        return kin_fail_prefix(err, "%s", folder);
    if (!plan)
        snprintf(p->hash, sizeof(p->hash), "%016llx", (unsigned long long)p->files->hash);
    return p->index ? KIN_OK : kin_pipeline_make_index(p);
}

kin_status kin_pipeline_load_autoencoder(kin_ctx *ctx, const char *dir, kin_pipeline **out)
{
    char folder[KIN_PATH_MAX];
    kin_pipeline *p;
    kin_status status;

    *out = NULL;
    KIN_TRY(kin_pipeline_vae_folder(dir, folder, &ctx->error));
    p = kin_calloc(1, sizeof(*p));
    if (!p)
        return kin_fail(&ctx->error, KIN_ERR_MEM, "vae: out of memory");
    p->ctx = ctx;
    status = kin_pipeline_read_autoencoder(p, folder);
    if (status != KIN_OK) {
        kin_pipeline_destroy(&p);
        return status;
    }
    *out = p;
    return KIN_OK;
}
