/* vision/vae.c: see vae.h. Classes are vae_kl.c, vae_wan.c and vae_cog.c; tiles are vae_tile.c. */
#include "vision/vae.h"

#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "vision/vae_class.h"

#define LOGVAR_MIN (-30.0f)
#define LOGVAR_MAX 20.0f

static const kin_vae_class *const classes[] = {&kin_vae_class_kl, &kin_vae_class_wan,
                                               &kin_vae_class_cog};

static kin_status find_class(const cJSON *config, const kin_vae_class **out, kin_error *err)
{
    const char *name = NULL;

    KIN_TRY(kin_json_get_str(config, "_class_name", &name, err));
    if (!name)
        return kin_fail(err, KIN_ERR_FORMAT, "vae: config.json names no _class_name");
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        *out = classes[i];
        if (!strcmp(name, classes[i]->name))
            return KIN_OK;
    }
    return kin_fail(err, KIN_ERR_UNSUPPORTED,
                    "vae: class %.80s is not known (AutoencoderKL, AutoencoderKLWan and "
                    "AutoencoderKLCogVideoX are)",
                    name);
}

kin_status kin_vae_create(const cJSON *config, kin_params *params, kin_vae **out, kin_error *err)
{
    const kin_vae_class *cls;
    kin_status status;

    *out = NULL;
    KIN_TRY(find_class(config, &cls, err));
    *out = kin_calloc(1, cls->bytes);
    if (!*out)
        return kin_fail(err, KIN_ERR_MEM, "vae: out of memory");
    (*out)->cls = cls;
    status = cls->build(config, params, *out, err);
    if (status == KIN_OK && params->failed != KIN_OK)
        status = kin_fail(err, params->failed, "vae: parameters cannot be registered");
    if (status != KIN_OK) {
        kin_vae_destroy(out);
        return status;
    }
    (*out)->info.class_name = cls->name;
    (*out)->info.video = cls->video;
    return KIN_OK;
}

void kin_vae_destroy(kin_vae **vae)
{
    if (!vae)
        return;
    kin_free(*vae);
    *vae = NULL;
}

const kin_vae_info *kin_vae_get_info(const kin_vae *vae)
{
    return &vae->info;
}

void kin_vae_set_checkpointing(kin_vae *vae, bool on)
{
    vae->checkpoint = on;
}

#define ATTENTION(room, now, old)                                                                \
    {room ".mid_block.attentions.0." now ".weight",                                              \
     room ".mid_block.attentions.0." old ".weight"},                                             \
    {                                                                                            \
        room ".mid_block.attentions.0." now ".bias", room ".mid_block.attentions.0." old ".bias" \
    }
#define ATTENTIONS(room)                                              \
    ATTENTION(room, "to_q", "query"), ATTENTION(room, "to_k", "key"), \
        ATTENTION(room, "to_v", "value"), ATTENTION(room, "to_out.0", "proj_attn")

const char *kin_vae_alias(const char *name)
{
    static const char *const names[][2] = {ATTENTIONS("encoder"), ATTENTIONS("decoder")};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!strcmp(name, names[i][0]))
            return names[i][1];
    }
    return NULL;
}

int64_t kin_vae_latent_size(const kin_vae *vae, int64_t size)
{
    return size / vae->info.reduction;
}

int64_t kin_vae_latent_frames(const kin_vae *vae, int64_t frames)
{
    return vae->cls->frames ? vae->cls->frames(vae, frames, true) : 1;
}

int64_t kin_vae_decoded_frames(const kin_vae *vae, int64_t latent_frames)
{
    return vae->cls->frames ? vae->cls->frames(vae, latent_frames, false) : 1;
}

static kin_status check_shape(kin_ctx *ctx, const kin_vae *vae, const char *what,
                              const kin_tensor *x, int64_t channels, int64_t least)
{
    const int ndim = vae->cls->video ? 5 : 4;
    char text[96];

    if (x->ndim != ndim || x->size[1] != channels || x->size[0] < 1 || x->size[2] < 1 ||
        x->size[ndim - 2] < least || x->size[ndim - 1] < least || !kin_tensor_is_contiguous(x))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                        "vae: %s is %s, must be [B,%lld,%sH,W] of at least %lldx%lld, contiguous",
                        what, kin_tensor_describe(x, text, sizeof text), (long long)channels,
                        vae->cls->video ? "F," : "", (long long)least, (long long)least);
    return KIN_OK;
}

kin_status kin_vae_encode(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *x, kin_tensor *mean,
                          kin_tensor *logvar)
{
    const int64_t L = vae->info.latent_channels;
    kin_tensor moments;

    KIN_TRY(check_shape(ctx, vae, "the picture", x, vae->info.in_channels, vae->info.reduction));
    KIN_TRY(vae->cls->encode(ctx, vae, x, &moments));
    *mean = kin_tensor_slice(&moments, 1, 0, L);
    *logvar = kin_tensor_slice(&moments, 1, L, L);
    return kin_posterior_clamp(ctx, logvar, LOGVAR_MIN, LOGVAR_MAX);
}

kin_status kin_vae_sample(kin_ctx *ctx, const kin_tensor *mean, const kin_tensor *logvar,
                          const kin_tensor *noise, kin_tensor *z)
{
    return kin_posterior_sample(ctx, mean, logvar, noise, LOGVAR_MIN, LOGVAR_MAX, z);
}

kin_status kin_vae_kl(kin_ctx *ctx, const kin_tensor *mean, const kin_tensor *logvar,
                      kin_tensor *kl)
{
    return kin_posterior_kl(ctx, mean, logvar, LOGVAR_MIN, LOGVAR_MAX, kl);
}

kin_status kin_vae_decode(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *z, kin_tensor *x)
{
    KIN_TRY(check_shape(ctx, vae, "the latent", z, vae->info.latent_channels, 1));
    return vae->cls->decode(ctx, vae, z, x);
}

/* y = factor * t + constant */
static kin_status affine(kin_ctx *ctx, const kin_tensor *t, float factor, float constant,
                         kin_tensor *y)
{
    kin_tensor scaled, shift;

    if (constant == 0.0f)
        return kin_scale(ctx, t, factor, y);
    KIN_TRY(kin_scale(ctx, t, factor, &scaled));
    KIN_TRY(kin_ws_tensor(ctx, t->dtype, 0, NULL, &shift));
    KIN_TRY(kin_fill(ctx, &shift, (double)constant));
    return kin_add(ctx, &scaled, &shift, 1.0f, y);
}

/* y = factor * t + constant per channel: factor 1/std or std, as `back` says */
static kin_status per_channel(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *t, bool back,
                              kin_tensor *y)
{
    const kin_vae_info *info = &vae->info;
    const int64_t L = info->latent_channels, B = t->size[0];
    const kin_tensor flat = KIN_RESHAPE(t, B, L, -1);
    kin_tensor factor, constant, scaled;

    KIN_TRY(KIN_WS_HOST(ctx, &factor, t->dtype, L, 1));
    KIN_TRY(KIN_WS_HOST(ctx, &constant, t->dtype, L, 1));
    for (int64_t i = 0; i < L && !kin_ctx_is_plan(ctx); i++) {
        const double inverse = (double)(1.0f / info->latents_std[i]);

        kin_tensor_set(&factor, i, back ? 1.0 / inverse : inverse);
        kin_tensor_set(&constant, i, (double)info->latents_mean[i] * (back ? 1.0 : -inverse));
    }
    KIN_TRY(kin_mul(ctx, &flat, &factor, 1.0f, &scaled));
    KIN_TRY(kin_add(ctx, &scaled, &constant, 1.0f, y));
    *y = kin_tensor_reshape(y, t->ndim, t->size);
    return KIN_OK;
}

kin_status kin_vae_normalize(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *z, kin_tensor *y)
{
    const float s = vae->info.scaling_factor;

    if (vae->info.latents_mean)
        return per_channel(ctx, vae, z, false, y);
    return affine(ctx, z, s, -vae->info.shift_factor * s, y);
}

kin_status kin_vae_denormalize(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *y, kin_tensor *z)
{
    if (vae->info.latents_mean)
        return per_channel(ctx, vae, y, true, z);
    return affine(ctx, y, 1.0f / vae->info.scaling_factor, vae->info.shift_factor, z);
}
