#include "vision/vae_wan.h"

#include <math.h>
#include <string.h>

#include "base/json.h"

static const char *const known_keys[] = {"_class_name",
                                         "_diffusers_version",
                                         "_name_or_path",
                                         "base_dim",
                                         "decoder_base_dim",
                                         "z_dim",
                                         "dim_mult",
                                         "num_res_blocks",
                                         "attn_scales",
                                         "temperal_downsample",
                                         "dropout",
                                         "latents_mean",
                                         "latents_std",
                                         "is_residual",
                                         "in_channels",
                                         "out_channels",
                                         "patch_size",
                                         "scale_factor_temporal",
                                         "scale_factor_spatial",
                                         "clip_output",
                                         NULL};

/* what diffusers assumes: Wan 2.1 */
static const float published_mean[16] = {-0.7571f, -0.7089f, -0.9113f, 0.1075f,  -0.1745f, 0.9653f,
                                         -0.1517f, 1.5508f,  0.4134f,  -0.0715f, 0.5517f,  -0.3632f,
                                         -0.1922f, -0.9497f, 0.2503f,  -0.2921f};
static const float published_std[16] = {2.8184f, 1.4541f, 2.3275f, 2.6558f, 1.2196f, 1.7708f,
                                        2.6052f, 2.0743f, 3.2687f, 2.1526f, 2.8652f, 1.5579f,
                                        1.6382f, 1.1253f, 2.8251f, 1.9160f};

/* --- configuration --- */

/* Fails UNSUPPORTED unless the key is absent, null, false, 0 or an empty list. */
static kin_status must_be_off(const cJSON *config, const char *key, kin_error *err)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(config, key);

    if (!v || cJSON_IsNull(v) || cJSON_IsFalse(v) || (cJSON_IsNumber(v) && v->valuedouble == 0) ||
        (cJSON_IsArray(v) && cJSON_GetArraySize(v) == 0))
        return KIN_OK;
    return kin_fail(err, KIN_ERR_UNSUPPORTED, "vae: %s belongs to no Wan 2.1 autoencoder", key);
}

/* A list of exactly `count` finite numbers, or absent where count of the default fits. */
static kin_status read_stats(const cJSON *config, const char *key, int64_t count, bool positive,
                             const float *standard, float *out, kin_error *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(config, key), *item;

    if (!list && count == 16) {
        memcpy(out, standard, 16 * sizeof(*out));
        return KIN_OK;
    }
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != count)
        return kin_fail(err, KIN_ERR_FORMAT, "vae: %s must be a list of z_dim (%lld) numbers", key,
                        (long long)count);
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble) ||
            fabs(item->valuedouble) > 1e6 || (positive && item->valuedouble < 1e-6))
            return kin_fail(err, KIN_ERR_FORMAT, "vae: %s holds a number out of range", key);
        *out++ = (float)item->valuedouble;
    }
    return KIN_OK;
}

static kin_status read_levels(const cJSON *config, kin_vae_wan *v, kin_error *err)
{
    const cJSON *mult = cJSON_GetObjectItemCaseSensitive(config, "dim_mult"),
                *time = cJSON_GetObjectItemCaseSensitive(config, "temperal_downsample"), *item;
    const int n = mult ? cJSON_GetArraySize(mult) : 4;
    int i = 0;

    if (n < 1 || n > KIN_WAN_LEVELS || (mult && !cJSON_IsArray(mult)))
        return kin_fail(err, KIN_ERR_FORMAT, "vae: dim_mult must be a list of 1 to %d factors",
                        KIN_WAN_LEVELS);
    memcpy(v->mult, (int64_t[4]){1, 2, 4, 4}, 4 * sizeof(int64_t));
    cJSON_ArrayForEach(item, mult)
    {
        if (!cJSON_IsNumber(item) || item->valuedouble < 1 || item->valuedouble > 64 ||
            item->valuedouble != floor(item->valuedouble))
            return kin_fail(err, KIN_ERR_FORMAT,
                            "vae: dim_mult must be whole numbers from 1 to 64");
        v->mult[i++] = (int64_t)item->valuedouble;
    }
    v->base.levels = n;
    if (time ? !cJSON_IsArray(time) || cJSON_GetArraySize(time) != n - 1 : n != 4)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "vae: temperal_downsample must be a list one shorter than dim_mult");
    v->halves_time[1] = v->halves_time[2] = !time;
    i = 0;
    cJSON_ArrayForEach(item, time)
    {
        if (!cJSON_IsBool(item))
            return kin_fail(err, KIN_ERR_FORMAT,
                            "vae: temperal_downsample must hold true or false");
        v->halves_time[i++] = cJSON_IsTrue(item);
    }
    return KIN_OK;
}

static kin_status read_config(const cJSON *config, kin_vae_wan *v, kin_error *err)
{
    static const char *const off[] = {"attn_scales", "is_residual", "patch_size", "dropout", NULL};
    kin_vae_info *info = &v->base.info;
    int64_t space = 0, frames = 0;

    *info = (kin_vae_info){
        .in_channels = 3, .out_channels = 3, .latent_channels = 16, .scaling_factor = 1};
    v->width = 96;
    v->blocks = 2;
    KIN_TRY(kin_json_known_keys(config, known_keys, "vae/config.json", err));
    for (int i = 0; off[i]; i++)
        KIN_TRY(must_be_off(config, off[i], err));
    KIN_TRY(kin_json_get_i64(config, "base_dim", 2, KIN_VAE_WIDTH_MAX, &v->width, err));
    v->decoder_width = v->width;
    KIN_TRY(
        kin_json_get_i64(config, "decoder_base_dim", 2, KIN_VAE_WIDTH_MAX, &v->decoder_width, err));
    KIN_TRY(kin_json_get_i64(config, "z_dim", 1, KIN_WAN_LATENT, &info->latent_channels, err));
    KIN_TRY(kin_json_get_i64(config, "num_res_blocks", 1, KIN_WAN_BLOCKS, &v->blocks, err));
    KIN_TRY(kin_json_get_i64(config, "in_channels", 1, 1024, &info->in_channels, err));
    KIN_TRY(kin_json_get_i64(config, "out_channels", 1, 1024, &info->out_channels, err));
    KIN_TRY(read_levels(config, v, err));
    info->reduction = (int64_t)1 << (v->base.levels - 1);
    info->frame_reduction = 1;
    for (int i = 0; i + 1 < v->base.levels; i++)
        info->frame_reduction *= v->halves_time[i] ? 2 : 1;
    space = info->reduction;
    frames = info->frame_reduction;
    KIN_TRY(kin_json_get_i64(config, "scale_factor_spatial", 1, 1 << 16, &space, err));
    KIN_TRY(kin_json_get_i64(config, "scale_factor_temporal", 1, 1 << 16, &frames, err));
    if (space != info->reduction || frames != info->frame_reduction)
        return kin_fail(err, KIN_ERR_ARG,
                        "vae: scale_factor_spatial %lld and scale_factor_temporal %lld must be the "
                        "%lld and %lld of the levels",
                        (long long)space, (long long)frames, (long long)info->reduction,
                        (long long)info->frame_reduction);
    KIN_TRY(read_stats(config, "latents_mean", info->latent_channels, false, published_mean,
                       v->mean, err));
    KIN_TRY(
        read_stats(config, "latents_std", info->latent_channels, true, published_std, v->std, err));
    info->latents_mean = v->mean;
    info->latents_std = v->std;
    return KIN_OK;
}

/* --- parameters --- */

static kin_param *add_gamma(const kin_vae_maker *m, const char *name, int64_t width)
{
    return kin_params_add(m->params, KIN_INIT(KIN_INIT_ONE, 0), KIN_DIMS(width, 1, 1, 1),
                          "%s.%s.gamma", m->name, name);
}

static void add_resnet(const kin_vae_maker *m, int64_t in, int64_t out, kin_wan_resnet *r)
{
    r->in = in;
    r->out = out;
    r->gamma1 = add_gamma(m, "norm1", in);
    kin_vae_add_conv(m, "conv1", in, out, KIN_VAE_KERNEL(3, 3, 3), &r->conv1);
    r->gamma2 = add_gamma(m, "norm2", out);
    kin_vae_add_conv(m, "conv2", out, out, KIN_VAE_KERNEL(3, 3, 3), &r->conv2);
    if (in != out)
        kin_vae_add_conv(m, "conv_shortcut", in, out, KIN_VAE_KERNEL(1, 1, 1), &r->shortcut);
}

static void add_middle(const kin_vae_maker *m, int64_t width, kin_wan_middle *mid)
{
    const kin_vae_maker before = kin_vae_under(m, "mid_block.resnets.0"),
                        after = kin_vae_under(m, "mid_block.resnets.1");
    const kin_vae_maker a = kin_vae_under(m, "mid_block.attentions.0");

    add_resnet(&before, width, width, &mid->before);
    mid->gamma = kin_params_add(m->params, KIN_INIT(KIN_INIT_ONE, 0), KIN_DIMS(width, 1, 1),
                                "%s.norm.gamma", a.name);
    kin_vae_add_conv(&a, "to_qkv", width, 3 * width, KIN_VAE_KERNEL(0, 1, 1), &mid->qkv);
    kin_vae_add_conv(&a, "proj", width, width, KIN_VAE_KERNEL(0, 1, 1), &mid->proj);
    add_resnet(&after, width, width, &mid->after);
}

static void add_ends(const kin_vae_maker *m, int64_t in, int64_t first, int64_t last, int64_t out,
                     kin_wan_half *h)
{
    h->in = in;
    h->ends = last;
    kin_vae_add_conv(m, "conv_in", in, first, KIN_VAE_KERNEL(3, 3, 3), &h->conv_in);
    h->norm_out = add_gamma(m, "norm_out", last);
    kin_vae_add_conv(m, "conv_out", last, out, KIN_VAE_KERNEL(3, 3, 3), &h->conv_out);
}

/* down_blocks is one flat list: the blocks of a level, then its resampler */
static void add_encoder(kin_vae_wan *v, kin_params *params)
{
    const kin_vae_maker m = {.params = params, .name = "encoder"};
    kin_wan_half *h = &v->encoder;
    int64_t width = v->width;
    int at = 0;

    add_ends(&m, v->base.info.in_channels, width, v->width * v->mult[v->base.levels - 1],
             2 * v->base.info.latent_channels, h);
    for (int i = 0; i < v->base.levels; i++) {
        const int64_t out = v->width * v->mult[i];
        kin_wan_level *l = &h->level[i];

        l->count = (int)v->blocks;
        l->width = out;
        for (int j = 0; j < l->count; j++) {
            const kin_vae_maker r = kin_vae_under(&m, "down_blocks.%d", at++);

            add_resnet(&r, width, out, &l->r[j]);
            width = out;
        }
        if (i + 1 < v->base.levels) {
            const kin_vae_maker s = kin_vae_under(&m, "down_blocks.%d", at++);

            kin_vae_add_conv(&s, "resample.1", out, out, KIN_VAE_KERNEL(0, 3, 3), &l->space);
            if (v->halves_time[i])
                kin_vae_add_conv(&s, "time_conv", out, out, KIN_VAE_KERNEL(3, 1, 1), &l->time);
        }
    }
    add_middle(&m, width, &h->mid);
}

/* a resampler of the decoder halves the channels */
static void add_decoder(kin_vae_wan *v, kin_params *params)
{
    const kin_vae_maker m = {.params = params, .name = "decoder"};
    const int levels = v->base.levels;
    kin_wan_half *h = &v->decoder;
    int64_t width = v->decoder_width * v->mult[levels - 1];

    add_ends(&m, v->base.info.latent_channels, width, v->decoder_width * v->mult[0],
             v->base.info.out_channels, h);
    add_middle(&m, width, &h->mid);
    for (int i = 0; i < levels; i++) {
        const int64_t out = v->decoder_width * v->mult[levels - 1 - i];
        const kin_vae_maker block = kin_vae_under(&m, "up_blocks.%d", i);
        kin_wan_level *l = &h->level[i];

        l->count = (int)v->blocks + 1;
        l->width = out;
        for (int j = 0; j < l->count; j++) {
            const kin_vae_maker r = kin_vae_under(&block, "resnets.%d", j);

            add_resnet(&r, width, out, &l->r[j]);
            width = out;
        }
        if (i + 1 < levels) {
            const kin_vae_maker s = kin_vae_under(&block, "upsamplers.0");

            kin_vae_add_conv(&s, "resample.1", out, out / 2, KIN_VAE_KERNEL(0, 3, 3), &l->space);
            if (v->halves_time[levels - 2 - i])
                kin_vae_add_conv(&s, "time_conv", out, 2 * out, KIN_VAE_KERNEL(3, 1, 1), &l->time);
            width = out / 2;
        }
    }
}

kin_status kin_vae_wan_build(const cJSON *config, kin_params *params, kin_vae *vae, kin_error *err)
{
    kin_vae_wan *v = (kin_vae_wan *)vae;
    const kin_vae_maker top = {.params = params};
    const kin_vae_info *info = &v->base.info;
    int64_t widest = 0;

    KIN_TRY(read_config(config, v, err));
    for (int i = 0; i < v->base.levels; i++) {
        const int64_t w = v->mult[i] * (v->width > v->decoder_width ? v->width : v->decoder_width);

        widest = w > widest ? w : widest;
        if (v->decoder_width * v->mult[i] % 2)
            return kin_fail(err, KIN_ERR_ARG, "vae: widths base_dim * dim_mult must be even");
    }
    if (widest > KIN_VAE_WIDTH_MAX)
        return kin_fail(err, KIN_ERR_ARG, "vae: base_dim * dim_mult %lld must be at most %d",
                        (long long)widest, KIN_VAE_WIDTH_MAX);
    add_encoder(v, params);
    kin_vae_add_conv(&top, "quant_conv", 2 * info->latent_channels, 2 * info->latent_channels,
                     KIN_VAE_KERNEL(1, 1, 1), &v->quant);
    kin_vae_add_conv(&top, "post_quant_conv", info->latent_channels, info->latent_channels,
                     KIN_VAE_KERNEL(1, 1, 1), &v->post_quant);
    add_decoder(v, params);
    return KIN_OK;
}
