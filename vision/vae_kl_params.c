#include "vision/vae_kl.h"

#include <math.h>
#include <string.h>

#include "base/json.h"

/* --- configuration --- */

static const char *const known_keys[] = {"_class_name",
                                         "_diffusers_version",
                                         "_name_or_path",
                                         "in_channels",
                                         "out_channels",
                                         "down_block_types",
                                         "up_block_types",
                                         "block_out_channels",
                                         "layers_per_block",
                                         "act_fn",
                                         "latent_channels",
                                         "norm_num_groups",
                                         "sample_size",
                                         "scaling_factor",
                                         "shift_factor",
                                         "latents_mean",
                                         "latents_std",
                                         "force_upcast",
                                         "use_quant_conv",
                                         "use_post_quant_conv",
                                         "mid_block_add_attention",
                                         NULL};

static kin_status read_factor(const cJSON *config, const char *key, bool positive, float *inout,
                              kin_error *err)
{
    double d = (double)*inout;

    KIN_TRY(kin_json_get_f64(config, key, &d, err));
    if (!isfinite(d) || fabs(d) > 1e6 || (positive && d < 1e-6))
        return kin_fail(err, KIN_ERR_FORMAT, "vae: %s %g is out of range", key, d);
    *inout = (float)d;
    return KIN_OK;
}

static kin_status read_act(const cJSON *config, kin_act *act, kin_error *err)
{
    const char *name = "silu";

    KIN_TRY(kin_json_get_str(config, "act_fn", &name, err));
    if (!strcmp(name, "silu") || !strcmp(name, "swish"))
        *act = KIN_ACT_SILU;
    else if (!strcmp(name, "relu"))
        *act = KIN_ACT_RELU;
    else
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "vae: act_fn %.40s is not known (silu, relu)",
                        name);
    return KIN_OK;
}

static kin_status read_config(const cJSON *config, kin_kl_vae *v, kin_error *err)
{
    static const char *const null[] = {"latents_mean", "latents_std", NULL};
    kin_vae_info *info = &v->base.info;
    bool upcast = true, one;

    *info = (kin_vae_info){.in_channels = 3,
                           .out_channels = 3,
                           .latent_channels = 4,
                           .sample_size = 32,
                           .scaling_factor = 0.18215f};
    v->groups = 32;
    v->base.levels = 1;
    v->width[0] = 64;
    v->layers = 1;
    v->attention = v->quant = v->post_quant = true;
    KIN_TRY(kin_json_known_keys(config, known_keys, "vae/config.json", err));
    KIN_TRY(kin_json_get_i64(config, "in_channels", 1, 1024, &info->in_channels, err));
    KIN_TRY(kin_json_get_i64(config, "out_channels", 1, 1024, &info->out_channels, err));
    KIN_TRY(kin_json_get_i64(config, "latent_channels", 1, 1024, &info->latent_channels, err));
    KIN_TRY(kin_json_get_i64(config, "layers_per_block", 1, KIN_KL_LAYERS, &v->layers, err));
    KIN_TRY(kin_json_get_i64(config, "norm_num_groups", 1, KIN_VAE_WIDTH_MAX, &v->groups, err));
    KIN_TRY(kin_json_get_i64(config, "sample_size", 1, 1 << 16, &info->sample_size, err));
    KIN_TRY(kin_json_get_bool(config, "force_upcast", &upcast, err)); /* norms are f32 here */
    KIN_TRY(kin_json_get_bool(config, "use_quant_conv", &v->quant, err));
    KIN_TRY(kin_json_get_bool(config, "use_post_quant_conv", &v->post_quant, err));
    KIN_TRY(kin_json_get_bool(config, "mid_block_add_attention", &v->attention, err));
    KIN_TRY(read_factor(config, "scaling_factor", true, &info->scaling_factor, err));
    KIN_TRY(read_factor(config, "shift_factor", false, &info->shift_factor, err));
    KIN_TRY(kin_vae_check_null(config, null, err));
    KIN_TRY(read_act(config, &v->act, err));
    KIN_TRY(kin_vae_read_widths(config, v->groups, KIN_KL_LEVELS, v->width, &v->base.levels, err));
    one = v->base.levels == 1; /* only then may the lists be absent */
    KIN_TRY(kin_vae_check_blocks(config, "down_block_types", "DownEncoderBlock2D", v->base.levels,
                                 one, err));
    KIN_TRY(kin_vae_check_blocks(config, "up_block_types", "UpDecoderBlock2D", v->base.levels, one,
                                 err));
    info->reduction = (int64_t)1 << (v->base.levels - 1);
    return KIN_OK;
}

/* --- parameters --- */

static void add_linear(const kin_vae_maker *m, const char *name, int64_t width, kin_vae_layer *l)
{
    l->w = kin_params_add(m->params, kin_vae_spread(width), KIN_DIMS(width, width), "%s.%s.weight",
                          m->name, name);
    l->b = kin_params_add(m->params, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(width), "%s.%s.bias",
                          m->name, name);
}

static void add_conv(const kin_vae_maker *m, const char *name, int64_t in, int64_t out, int side,
                     kin_vae_layer *l)
{
    kin_vae_add_conv(m, name, in, out, KIN_VAE_KERNEL(0, side, side), l);
}

static void add_resnet(const kin_vae_maker *m, int64_t in, int64_t out, kin_kl_resnet *r)
{
    kin_vae_add_norm(m, "norm1", in, &r->norm1);
    add_conv(m, "conv1", in, out, 3, &r->conv1);
    kin_vae_add_norm(m, "norm2", out, &r->norm2);
    add_conv(m, "conv2", out, out, 3, &r->conv2);
    if (in != out)
        add_conv(m, "conv_shortcut", in, out, 1, &r->shortcut);
}

static void add_middle(const kin_vae_maker *m, int64_t width, bool attention, kin_kl_middle *mid)
{
    const kin_vae_maker before = kin_vae_under(m, "mid_block.resnets.0"),
                        after = kin_vae_under(m, "mid_block.resnets.1");
    const kin_vae_maker a = kin_vae_under(m, "mid_block.attentions.0");

    add_resnet(&before, width, width, &mid->before);
    if (attention) {
        kin_vae_add_norm(&a, "group_norm", width, &mid->norm);
        add_linear(&a, "to_q", width, &mid->q);
        add_linear(&a, "to_k", width, &mid->k);
        add_linear(&a, "to_v", width, &mid->v);
        add_linear(&a, "to_out.0", width, &mid->out);
    }
    add_resnet(&after, width, width, &mid->after);
}

static void add_level(const kin_vae_maker *m, bool down, int i, int64_t in, int64_t out, int count,
                      bool sample, kin_kl_level *l)
{
    const kin_vae_maker block = kin_vae_under(m, down ? "down_blocks.%d" : "up_blocks.%d", i);

    l->count = count;
    for (int j = 0; j < count; j++) {
        const kin_vae_maker r = kin_vae_under(&block, "resnets.%d", j);

        add_resnet(&r, j ? out : in, out, &l->r[j]);
    }
    if (sample)
        add_conv(&block, down ? "downsamplers.0.conv" : "upsamplers.0.conv", out, out, 3,
                 &l->sample);
}

static void add_encoder(kin_kl_vae *v, kin_params *params)
{
    const kin_vae_maker top = {.params = params}, m = kin_vae_under(&top, "encoder");
    const int n = v->base.levels;
    const kin_vae_info *info = &v->base.info;
    kin_kl_half *h = &v->encoder;

    add_conv(&m, "conv_in", info->in_channels, v->width[0], 3, &h->conv_in);
    for (int i = 0; i < n; i++)
        add_level(&m, true, i, v->width[i ? i - 1 : 0], v->width[i], (int)v->layers, i + 1 < n,
                  &h->level[i]);
    add_middle(&m, v->width[n - 1], v->attention, &h->mid);
    kin_vae_add_norm(&m, "conv_norm_out", v->width[n - 1], &h->norm_out);
    add_conv(&m, "conv_out", v->width[n - 1], 2 * info->latent_channels, 3, &h->conv_out);
    if (v->quant)
        add_conv(&top, "quant_conv", 2 * info->latent_channels, 2 * info->latent_channels, 1,
                 &v->quant_conv);
}

static void add_decoder(kin_kl_vae *v, kin_params *params)
{
    const kin_vae_maker top = {.params = params}, m = kin_vae_under(&top, "decoder");
    const int n = v->base.levels;
    const kin_vae_info *info = &v->base.info;
    kin_kl_half *h = &v->decoder;

    if (v->post_quant)
        add_conv(&top, "post_quant_conv", info->latent_channels, info->latent_channels, 1,
                 &v->post_quant_conv);
    add_conv(&m, "conv_in", info->latent_channels, v->width[n - 1], 3, &h->conv_in);
    add_middle(&m, v->width[n - 1], v->attention, &h->mid);
    for (int i = 0; i < n; i++)
        add_level(&m, false, i, v->width[i ? n - i : n - 1], v->width[n - 1 - i],
                  (int)v->layers + 1, i + 1 < n, &h->level[i]);
    kin_vae_add_norm(&m, "conv_norm_out", v->width[0], &h->norm_out);
    add_conv(&m, "conv_out", v->width[0], info->out_channels, 3, &h->conv_out);
}

kin_status kin_vae_kl_build(const cJSON *config, kin_params *params, kin_vae *vae, kin_error *err)
{
    kin_kl_vae *v = (kin_kl_vae *)vae;

    KIN_TRY(read_config(config, v, err));
    add_encoder(v, params);
    add_decoder(v, params);
    return KIN_OK;
}
