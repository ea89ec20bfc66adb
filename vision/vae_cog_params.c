#include "vision/vae_cog.h"

#include <string.h>

#include "base/json.h"

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
    static const char *const null[] = {"shift_factor", "latents_mean", "latents_std", NULL};
    const char *act = "silu";
    bool quant = false, post = false, invert = false;

    KIN_TRY(kin_vae_check_null(config, null, err));
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
    v->base.levels = 4;
    memcpy(v->width, (int64_t[4]){128, 256, 256, 512}, 4 * sizeof(int64_t));
    KIN_TRY(kin_json_known_keys(config, known_keys, "vae/config.json", err));
    KIN_TRY(check_fixed(config, err));
    KIN_TRY(kin_json_get_bool(config, "force_upcast", &upcast, err)); /* norms are f32 here */
    KIN_TRY(kin_json_get_i64(config, "in_channels", 1, 1024, &info->in_channels, err));
    KIN_TRY(kin_json_get_i64(config, "out_channels", 1, 1024, &info->out_channels, err));
    KIN_TRY(kin_json_get_i64(config, "latent_channels", 1, 1024, &info->latent_channels, err));
    KIN_TRY(kin_json_get_i64(config, "layers_per_block", 1, KIN_COG_BLOCKS, &v->blocks, err));
    KIN_TRY(kin_json_get_i64(config, "norm_num_groups", 1, KIN_VAE_WIDTH_MAX, &v->groups, err));
    KIN_TRY(kin_vae_read_widths(config, v->groups, KIN_COG_LEVELS, v->width, &v->base.levels, err));
    KIN_TRY(kin_vae_check_blocks(config, "down_block_types", "CogVideoXDownBlock3D", v->base.levels,
                                 true, err));
    KIN_TRY(kin_vae_check_blocks(config, "up_block_types", "CogVideoXUpBlock3D", v->base.levels,
                                 true, err));
    return read_numbers(config, v, err);
}

/* --- parameters --- */

/* A norm; the decoder's looks at the latent, too (`latent` channels; 0: encoder). */
static void add_norm(const kin_vae_maker *m, const char *name, int64_t width, int64_t latent,
                     kin_cog_norm *n)
{
    const kin_vae_maker own = kin_vae_under(m, "%s", name);

    if (!latent) {
        kin_vae_add_norm(m, name, width, &n->norm);
        return;
    }
    kin_vae_add_norm(&own, "norm_layer", width, &n->norm);
    kin_vae_add_conv(&own, "conv_y.conv", latent, width, KIN_VAE_KERNEL(1, 1, 1), &n->y);
    kin_vae_add_conv(&own, "conv_b.conv", latent, width, KIN_VAE_KERNEL(1, 1, 1), &n->b);
}

static void add_resnet(const kin_vae_maker *m, int64_t in, int64_t out, int64_t latent,
                       kin_cog_resnet *r)
{
    r->in = in;
    r->out = out;
    add_norm(m, "norm1", in, latent, &r->norm1);
    add_norm(m, "norm2", out, latent, &r->norm2);
    kin_vae_add_conv(m, "conv1.conv", in, out, KIN_VAE_KERNEL(3, 3, 3), &r->conv1);
    kin_vae_add_conv(m, "conv2.conv", out, out, KIN_VAE_KERNEL(3, 3, 3), &r->conv2);
    if (in != out)
        kin_vae_add_conv(m, "conv_shortcut", in, out, KIN_VAE_KERNEL(1, 1, 1), &r->shortcut);
}

static void add_half(kin_vae_cog *v, kin_params *params, bool encoder, kin_cog_half *h)
{
    const kin_vae_info *info = &v->base.info;
    const int levels = v->base.levels;
    const kin_vae_maker top = {.params = params},
                        room = kin_vae_under(&top, encoder ? "encoder" : "decoder");
    const int64_t latent = encoder ? 0 : info->latent_channels;
    int64_t width = v->width[encoder ? 0 : levels - 1];

    kin_vae_add_conv(&room, "conv_in.conv", encoder ? info->in_channels : info->latent_channels,
                     width, KIN_VAE_KERNEL(3, 3, 3), &h->conv_in);
    for (int i = 0; i < levels; i++) {
        const kin_vae_maker block =
            kin_vae_under(&room, encoder ? "down_blocks.%d" : "up_blocks.%d", i);
        const int64_t out = v->width[encoder ? i : levels - 1 - i];
        kin_cog_level *l = &h->level[i];

        l->count = (int)v->blocks + (encoder ? 0 : 1);
        l->time = i < v->halvings;
        for (int j = 0; j < l->count; j++) {
            const kin_vae_maker r = kin_vae_under(&block, "resnets.%d", j);

            add_resnet(&r, width, out, latent, &l->r[j]);
            width = out;
        }
        if (i + 1 < levels)
            kin_vae_add_conv(&block, encoder ? "downsamplers.0.conv" : "upsamplers.0.conv", out,
                             out, KIN_VAE_KERNEL(0, 3, 3), &l->sample);
    }
    for (int j = 0; j < 2; j++) {
        const kin_vae_maker r = kin_vae_under(&room, "mid_block.resnets.%d", j);

        add_resnet(&r, v->width[levels - 1], v->width[levels - 1], latent, &h->mid[j]);
    }
    h->ends = width;
    add_norm(&room, "norm_out", width, latent, &h->norm_out);
    kin_vae_add_conv(&room, "conv_out.conv", width,
                     encoder ? 2 * info->latent_channels : info->out_channels,
                     KIN_VAE_KERNEL(3, 3, 3), &h->conv_out);
}

kin_status kin_vae_cog_build(const cJSON *config, kin_params *params, kin_vae *vae, kin_error *err)
{
    kin_vae_cog *v = (kin_vae_cog *)vae;

    KIN_TRY(read_config(config, v, err));
    add_half(v, params, true, &v->encoder);
    add_half(v, params, false, &v->decoder);
    return KIN_OK;
}
