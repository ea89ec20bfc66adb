/* diffusion/sizes.c: sizes of clips: what a model makes where nothing is asked for, and the latents
 * behind so many pixels. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "diffusion/pipeline_parts.h"

/* what the published pipelines do */
static void set_published(kin_pipeline *p)
{
    const kin_model_info *info = kin_model_get_info(p->model);

    if (info->family == KIN_FAMILY_WAN && p->vae) {
        p->frames = 81;
        p->height = 480;
        p->width = 832;
        p->fps = 16;
        p->cfg_scale = info->categories ? 6 : 5;
        p->steps = 50;
    } else if (info->family == KIN_FAMILY_COGVIDEOX) {
        p->fps = 8;
        p->cfg_scale = 6;
        p->steps = 50;
    }
}

static kin_status read_own(kin_pipeline *p, const cJSON *own)
{
    static const char *const known[] = {"frames",    "height",        "width", "fps",
                                        "cfg_scale", "caption_field", NULL};
    kin_error *err = &p->ctx->error;

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

kin_status kin_pipeline_set_sizes(kin_pipeline *p)
{
    const kin_model_info *info = kin_model_get_info(p->model);
    const cJSON *own = cJSON_GetObjectItemCaseSensitive(p->index, "kinema");

    p->frames = info->sample[0] ? info->sample[0] : info->input_size ? 1 : 0;
    p->height = info->sample[1] ? info->sample[1] : info->input_size;
    p->width = info->sample[2] ? info->sample[2] : info->input_size;
    if (p->vae) { /* sizes are in pixels */
        if (kin_vae_get_info(p->vae->vae)->video && p->frames)
            p->frames = kin_vae_decoded_frames(p->vae->vae, p->frames);
        p->height *= kin_vae_get_info(p->vae->vae)->reduction;
        p->width *= kin_vae_get_info(p->vae->vae)->reduction;
    }
    set_published(p);
    return !own || cJSON_IsNull(own) ? KIN_OK : read_own(p, own);
}

/* ---- latents behind pixels ---- */

/* Latent frames that decode to so many, 0: none do. */
static int64_t latent_frames(const kin_vae *vae, int64_t frames)
{
    const int64_t n = (frames - 1) / kin_vae_get_info(vae)->frame_reduction + 1;

    return frames > 0 && kin_vae_decoded_frames(vae, n) == frames ? n : 0;
}

static kin_status check_frames(const kin_pipeline *p, int64_t frames, int64_t *out, kin_error *err)
{
    const int64_t patch = kin_model_get_info(p->model)->patch[0];
    const kin_vae *vae = p->vae->vae;
    const int64_t n = latent_frames(vae, frames);

    *out = n;
    if (n && n % patch == 0)
        return KIN_OK;
    for (int64_t d = 1; d < frames + 4096; d++) {
        const int64_t near[2] = {frames + d, frames - d};

        for (int i = 0; i < 2; i++) {
            const int64_t m = near[i] > 0 ? latent_frames(vae, near[i]) : 0;

            if (m && m % patch == 0)
                return kin_fail(err, KIN_ERR_ARG,
                                "generate: frames %lld cannot be made by this model, the nearest "
                                "is %lld",
                                (long long)frames, (long long)near[i]);
        }
    }
    return kin_fail(err, KIN_ERR_ARG, "generate: frames %lld cannot be made by this model",
                    (long long)frames);
}

static kin_status check_size(const char *what, int64_t v, int64_t unit, kin_error *err)
{
    const int64_t near = (v + unit / 2) / unit * unit;

    if (v < 1)
        return kin_fail(err, KIN_ERR_ARG, "generate: %s must be given, the model names no size",
                        what);
    if (v % unit)
        return kin_fail(err, KIN_ERR_ARG,
                        "generate: %s %lld must be a multiple of %lld, the nearest is %lld", what,
                        (long long)v, (long long)unit, (long long)(near ? near : unit));
    return KIN_OK;
}

/* One picture of the one size that a class-conditional model makes. */
static kin_status picture_size(const kin_pipeline *p, const int64_t pixels[3], int64_t out[3],
                               kin_error *err)
{
    const int64_t side = kin_model_get_info(p->model)->input_size;
    const int64_t times = p->vae ? kin_vae_get_info(p->vae->vae)->reduction : 1;

    if (pixels[0] > 1 || pixels[1] != side * times || pixels[2] != side * times)
        return kin_fail(err, KIN_ERR_ARG, "generate: this model makes one frame of %lldx%lld",
                        (long long)(side * times), (long long)(side * times));
    out[0] = 1;
    out[1] = out[2] = side;
    return KIN_OK;
}

kin_status kin_pipeline_latent_size(const kin_pipeline *p, const int64_t pixels[3], int64_t out[3],
                                    kin_error *err)
{
    static const char *const what[] = {"frames", "height", "width"};
    const kin_model_info *info = kin_model_get_info(p->model);
    const int64_t times = p->vae ? kin_vae_get_info(p->vae->vae)->reduction : 1;

    if (info->family == KIN_FAMILY_DIT)
        return picture_size(p, pixels, out, err);
    for (int i = 0; i < 3; i++) {
        if (i == 0 && p->vae && pixels[0] > 0) {
            KIN_TRY(check_frames(p, pixels[0], &out[0], err));
            continue;
        }
        KIN_TRY(check_size(what[i], pixels[i], (i ? times : 1) * info->patch[i], err));
        out[i] = pixels[i] / (i ? times : 1);
    }
    return KIN_OK;
}
