#include "vision/vae_cog.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"

enum { WIDTH_MAX = 1 << 14 };

static const char *const known_keys[] = {"_class_name",
                                         "_diffusers_version",
                                         "_name_or_path",
                                         "in_channels",
                                         "out_channels",
                                         "down_block_types",
                                         "up_block_types",
                                         "block_out_channels",
                                         "latent_channels",
                                         "layers_per_block",
                                         "act_fn",
                                         "norm_eps",
                                         "norm_num_groups",
                                         "temporal_compression_ratio",
                                         "sample_height",
                                         "sample_width",
                                         "scaling_factor",
                                         "shift_factor",
                                         "latents_mean",
                                         "latents_std",
                                         "force_upcast",
                                         "use_quant_conv",
                                         "use_post_quant_conv",
                                         "invert_scale_latents",
                                         NULL};

/* --- configuration --- */

/* What no published CogVideoX autoencoder sets. */
static kin_status check_fixed(const cJSON *config, kin_error *err)
{
    static const char *const null[] = {"shift_factor", "latents_mean", "latents_std"};
    const char *act = "silu";
    bool quant = false, post = false, invert = false;

    for (int i = 0; i < 3; i++) {
        const cJSON *v = cJSON_GetObjectItemCaseSensitive(config, null[i]);

        if (v && !cJSON_IsNull(v))
            return kin_fail(err, KIN_ERR_UNSUPPORTED, "vae: %s must be null", null[i]);
    }
    KIN_TRY(kin_json_get_str(config, "act_fn", &act, err));
    KIN_TRY(kin_json_get_bool(config, "use_quant_conv", &quant, err));
    KIN_TRY(kin_json_get_bool(config, "use_post_quant_conv", &post, err));
    KIN_TRY(kin_json_get_bool(config, "invert_scale_latents", &invert, err));
    if (strcmp(act, "silu") || quant || post || invert)
        return kin_fail(err, KIN_ERR_UNSUPPORTED,
                        "vae: act_fn must be silu; use_quant_conv, use_post_quant_conv and "
                        "invert_scale_latents must be false");
    return KIN_OK;
}

static kin_status read_widths(const cJSON *config, kin_vae_cog *v, kin_error *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(config, "block_out_channels"), *item;
    const int n = list ? cJSON_GetArraySize(list) : 4;
    int i = 0;

    if (n < 1 || n > KIN_COG_LEVELS || (list && !cJSON_IsArray(list)))
        return kin_fail(err, KIN_ERR_FORMAT,
                        "vae: block_out_channels must be a list of 1 to %d widths", KIN_COG_LEVELS);
    memcpy(v->width, (int64_t[4]){128, 256, 256, 512}, 4 * sizeof(int64_t));
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsNumber(item) || item->valuedouble < 1 || item->valuedouble > WIDTH_MAX ||
            item->valuedouble != floor(item->valuedouble))
            return kin_fail(err, KIN_ERR_FORMAT,
                            "vae: block_out_channels must be whole numbers from 1 to %d",
                            WIDTH_MAX);
        v->width[i++] = (int64_t)item->valuedouble;
    }
    v->base.levels = n;
    for (i = 0; i < n; i++) {
        if (v->width[i] % v->groups)
            return kin_fail(err, KIN_ERR_ARG,
                            "vae: block_out_channels %lld must be a multiple of norm_num_groups "
                            "%lld",
                            (long long)v->width[i], (long long)v->groups);
    }
    return KIN_OK;
}

static kin_status check_blocks(const cJSON *config, const char *key, const char *want, int levels,
                               kin_error *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(config, key), *item;

    if (!list)
        return KIN_OK;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != levels)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "vae: %s must be a list as long as block_out_channels (%d)", key, levels);
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsString(item) || strcmp(item->valuestring, want) != 0)
            return kin_fail(err, KIN_ERR_UNSUPPORTED, "vae: %s: only %s is known", key, want);
    }
    return KIN_OK;
}

static kin_status read_numbers(const cJSON *config, kin_vae_cog *v, kin_error *err)
{
    kin_vae_info *info = &v->base.info;
    double eps = 1e-6, scale = 1.15258426;
    int64_t ratio = 4, side = 0;

    KIN_TRY(kin_json_get_f64(config, "norm_eps", &eps, err));
    KIN_TRY(kin_json_get_f64(config, "scaling_factor", &scale, err));
    KIN_TRY(kin_json_get_i64(config, "temporal_compression_ratio", 1, 64, &ratio, err));
    KIN_TRY(kin_json_get_i64(config, "sample_height", 1, 1 << 16, &side, err));
    KIN_TRY(kin_json_get_i64(config, "sample_width", 1, 1 << 16, &side, err));
    if (!(eps >= 1e-12 && eps <= 1 && scale >= 1e-6 && scale <= 1e6))
        return kin_fail(err, KIN_ERR_FORMAT,
                        "vae: norm_eps %g or scaling_factor %g is out of range", eps, scale);
    while ((int64_t)1 << v->halvings < ratio)
        v->halvings++;
    if ((int64_t)1 << v->halvings != ratio || v->halvings > v->base.levels - 1)
        return kin_fail(err, KIN_ERR_ARG,
                        "vae: temporal_compression_ratio %lld must be a power of two of at most "
                        "%d levels",
                        (long long)ratio, v->base.levels - 1);
    v->eps = (float)eps;
    info->scaling_factor = (float)scale;
    info->frame_reduction = ratio;
    info->reduction = (int64_t)1 << (v->base.levels - 1);
    return KIN_OK;
}

static kin_status read_config(const cJSON *config, kin_vae_cog *v, kin_error *err)
{
    kin_vae_info *info = &v->base.info;
    bool upcast = true;

    *info = (kin_vae_info){.in_channels = 3, .out_channels = 3, .latent_channels = 16};
    v->blocks = 3;
    v->groups = 32;
    KIN_TRY(kin_json_known_keys(config, known_keys, "vae/config.json", err));
    KIN_TRY(check_fixed(config, err));
    KIN_TRY(kin_json_get_bool(config, "force_upcast", &upcast, err)); /* norms are f32 here */
    KIN_TRY(kin_json_get_i64(config, "in_channels", 1, 1024, &info->in_channels, err));
    KIN_TRY(kin_json_get_i64(config, "out_channels", 1, 1024, &info->out_channels, err));
    KIN_TRY(kin_json_get_i64(config, "latent_channels", 1, 1024, &info->latent_channels, err));
    KIN_TRY(kin_json_get_i64(config, "layers_per_block", 1, KIN_COG_BLOCKS, &v->blocks, err));
    KIN_TRY(kin_json_get_i64(config, "norm_num_groups", 1, WIDTH_MAX, &v->groups, err));
    KIN_TRY(read_widths(config, v, err));
    KIN_TRY(check_blocks(config, "down_block_types", "CogVideoXDownBlock3D", v->base.levels, err));
    KIN_TRY(check_blocks(config, "up_block_types", "CogVideoXUpBlock3D", v->base.levels, err));
    return read_numbers(config, v, err);
}

/* --- parameters --- */

typedef struct maker { /* a prefix to which names are added */
    kin_params *params;
    int64_t latent; /* channels of the latent that norms look at; 0: encoder */
    char name[128];
} maker;

static maker under(const maker *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static maker under(const maker *m, const char *fmt, ...)
{
    maker u = *m;
    const size_t n = strlen(u.name);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(u.name + n, sizeof u.name - n, fmt, ap);
    va_end(ap);
    return u;
}

/* kernel k x k, in time as well (`causal`: 3, else 1) or two-dimensional */
static void add_conv(const maker *m, const char *name, int64_t in, int64_t out, int k, int time,
                     kin_cog_layer *l)
{
    const int64_t taps = (int64_t)k * k * (time ? time : 1);
    const kin_init init = KIN_INIT(KIN_INIT_NORMAL, (float)(1.0 / sqrt(3.0 * (double)(in * taps))));

    l->w = time ? kin_params_add(m->params, init, KIN_DIMS(out, in, time, k, k), "%s.%s.weight",
                                 m->name, name)
                : kin_params_add(m->params, init, KIN_DIMS(out, in, k, k), "%s.%s.weight", m->name,
                                 name);
    l->b = kin_params_add(m->params, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(out), "%s.%s.bias",
                          m->name, name);
}

static void add_norm(const maker *m, const char *name, int64_t width, kin_cog_norm *n)
{
    const maker own = under(m, ".%s", name);
    const maker layer = under(&own, m->latent ? ".norm_layer" : "%s", "");

    n->norm.w = kin_params_add(m->params, KIN_INIT(KIN_INIT_ONE, 0), KIN_DIMS(width), "%s.weight",
                               layer.name);
    n->norm.b = kin_params_add(m->params, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(width), "%s.bias",
                               layer.name);
    if (!m->latent)
        return;
    add_conv(&own, "conv_y.conv", m->latent, width, 1, 1, &n->y);
    add_conv(&own, "conv_b.conv", m->latent, width, 1, 1, &n->b);
}

static void add_resnet(const maker *m, int64_t in, int64_t out, kin_cog_resnet *r)
{
    r->in = in;
    r->out = out;
    add_norm(m, "norm1", in, &r->norm1);
    add_norm(m, "norm2", out, &r->norm2);
    add_conv(m, "conv1.conv", in, out, 3, 3, &r->conv1);
    add_conv(m, "conv2.conv", out, out, 3, 3, &r->conv2);
    if (in != out)
        add_conv(m, "conv_shortcut", in, out, 1, 1, &r->shortcut);
}

static void add_half(kin_vae_cog *v, kin_params *params, bool encoder, kin_cog_half *h)
{
    const kin_vae_info *info = &v->base.info;
    const int levels = v->base.levels;
    const maker m = {.params = params, .latent = encoder ? 0 : info->latent_channels, .name = {0}};
    const maker room = under(&m, "%s", encoder ? "encoder" : "decoder");
    int64_t width = v->width[encoder ? 0 : levels - 1];

    add_conv(&room, "conv_in.conv", encoder ? info->in_channels : info->latent_channels, width, 3,
             3, &h->conv_in);
    for (int i = 0; i < levels; i++) {
        const maker block = under(&room, encoder ? ".down_blocks.%d" : ".up_blocks.%d", i);
        const int64_t out = v->width[encoder ? i : levels - 1 - i];
        kin_cog_level *l = &h->level[i];

        l->count = (int)v->blocks + (encoder ? 0 : 1);
        l->time = i < v->halvings;
        for (int j = 0; j < l->count; j++) {
            const maker r = under(&block, ".resnets.%d", j);

            add_resnet(&r, width, out, &l->r[j]);
            width = out;
        }
        if (i + 1 < levels)
            add_conv(&block, encoder ? "downsamplers.0.conv" : "upsamplers.0.conv", out, out, 3, 0,
                     &l->sample);
    }
    for (int j = 0; j < 2; j++) {
        const maker r = under(&room, ".mid_block.resnets.%d", j);

        add_resnet(&r, v->width[levels - 1], v->width[levels - 1], &h->mid[j]);
    }
    h->ends = width;
    add_norm(&room, "norm_out", width, &h->norm_out);
    add_conv(&room, "conv_out.conv", width,
             encoder ? 2 * info->latent_channels : info->out_channels, 3, 3, &h->conv_out);
}

kin_status kin_vae_cog_build(const cJSON *config, kin_params *params, kin_vae_cog *v,
                             kin_error *err)
{
    KIN_TRY(read_config(config, v, err));
    add_half(v, params, true, &v->encoder);
    add_half(v, params, false, &v->decoder);
    return KIN_OK;
}
