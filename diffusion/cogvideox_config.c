#include "diffusion/cogvideox.h"

#include <string.h>

#include "base/json.h"
#include "diffusion/config.h"

enum { COG_CATEGORIES = 29 };

static const char *const known[] = {"_class_name",
                                    "_diffusers_version",
                                    "_name_or_path",
                                    "num_attention_heads",
                                    "attention_head_dim",
                                    "in_channels",
                                    "out_channels",
                                    "flip_sin_to_cos",
                                    "freq_shift",
                                    "time_embed_dim",
                                    "ofs_embed_dim",
                                    "text_embed_dim",
                                    "num_layers",
                                    "dropout",
                                    "attention_bias",
                                    "sample_width",
                                    "sample_height",
                                    "sample_frames",
                                    "patch_size",
                                    "patch_size_t",
                                    "temporal_compression_ratio",
                                    "max_text_seq_length",
                                    "activation_fn",
                                    "timestep_activation_fn",
                                    "norm_elementwise_affine",
                                    "norm_eps",
                                    "spatial_interpolation_scale",
                                    "temporal_interpolation_scale",
                                    "use_rotary_positional_embeddings",
                                    "use_learned_positional_embeddings",
                                    "patch_bias",
                                    "shared_head",
                                    "expert_head",
                                    "quantufiy_dim",
                                    "insert_gap",
                                    "whether_classifier",
                                    NULL};

/* what is the same in every CogVideoX text-to-video model */
static kin_status read_fixed(const cJSON *j, kin_error *err)
{
    bool flip = true;

    KIN_TRY(kin_config_fixed_str(j, "activation_fn", "gelu-approximate", err));
    KIN_TRY(kin_config_fixed_str(j, "timestep_activation_fn", "silu", err));
    KIN_TRY(kin_config_fixed(j, "freq_shift", 0, err));
    KIN_TRY(kin_config_fixed(j, "dropout", 0, err));
    KIN_TRY(kin_config_null(j, "ofs_embed_dim", err));
    KIN_TRY(kin_config_null(j, "patch_size_t", err));
    KIN_TRY(kin_json_get_bool(j, "flip_sin_to_cos", &flip, err));
    return flip ? KIN_OK
                : kin_fail(err, KIN_ERR_UNSUPPORTED, "config: flip_sin_to_cos must be true");
}

static kin_status read_sizes(const cJSON *j, kin_cog_config *c, kin_error *err)
{
    int64_t frames = 49, ratio = 4;

    c->sample[1] = 60;
    c->sample[2] = 90;
    KIN_TRY(kin_json_get_i64(j, "num_attention_heads", 1, 1024, &c->heads, err));
    KIN_TRY(kin_json_get_i64(j, "attention_head_dim", 2, 1024, &c->head_dim, err));
    KIN_TRY(kin_json_get_i64(j, "in_channels", 1, 4096, &c->in_channels, err));
    KIN_TRY(kin_json_get_i64(j, "out_channels", 1, 4096, &c->out_channels, err));
    KIN_TRY(kin_json_get_i64(j, "time_embed_dim", 1, 1 << 16, &c->time_dim, err));
    KIN_TRY(kin_json_get_i64(j, "text_embed_dim", 1, 1 << 16, &c->text_dim, err));
    KIN_TRY(kin_json_get_i64(j, "num_layers", 1, 1024, &c->layers, err));
    KIN_TRY(kin_json_get_i64(j, "patch_size", 1, 1024, &c->patch, err));
    KIN_TRY(kin_json_get_i64(j, "sample_height", 1, 1 << 14, &c->sample[1], err));
    KIN_TRY(kin_json_get_i64(j, "sample_width", 1, 1 << 14, &c->sample[2], err));
    KIN_TRY(kin_json_get_i64(j, "sample_frames", 1, 1 << 16, &frames, err));
    KIN_TRY(kin_json_get_i64(j, "temporal_compression_ratio", 1, 1 << 10, &ratio, err));
    KIN_TRY(kin_json_get_i64(j, "max_text_seq_length", 1, 1 << 16, &c->text_len, err));
    c->sample[0] = (frames - 1) / ratio + 1;
    return KIN_OK;
}

static kin_status read_positions(const cJSON *j, kin_cog_config *c, kin_error *err)
{
    c->scale_space = 1.875;
    c->scale_time = 1.0;
    KIN_TRY(kin_json_get_bool(j, "use_rotary_positional_embeddings", &c->rotary, err));
    KIN_TRY(kin_json_get_bool(j, "use_learned_positional_embeddings", &c->learned, err));
    KIN_TRY(kin_json_get_f64(j, "spatial_interpolation_scale", &c->scale_space, err));
    KIN_TRY(kin_json_get_f64(j, "temporal_interpolation_scale", &c->scale_time, err));
    c->table = c->learned || !c->rotary;
    if (!(c->scale_space > 0 && c->scale_time > 0))
        return kin_fail(err, KIN_ERR_ARG,
                        "config: spatial_interpolation_scale %g and temporal_interpolation_scale "
                        "%g must be greater than 0",
                        c->scale_space, c->scale_time);
    return KIN_OK;
}

/* WISA's keys; any of them makes the model a physical one. */
static kin_status read_physics(const cJSON *j, kin_cog_config *c, kin_error *err)
{
    static const struct {
        const char *key;
        double value;
    } fixed[] = {
        {"expert_head", COG_CATEGORIES}, {"quantufiy_dim", KIN_QUANTITY_COUNT}, {"shared_head", 0}};

    c->insert_gap = KIN_COG_ONLY_LAST;
    for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++) {
        if (cJSON_GetObjectItemCaseSensitive(j, fixed[i].key))
            c->physics = true;
        KIN_TRY(kin_config_fixed(j, fixed[i].key, fixed[i].value, err));
    }
    if (cJSON_GetObjectItemCaseSensitive(j, "insert_gap") ||
        cJSON_GetObjectItemCaseSensitive(j, "whether_classifier"))
        c->physics = true;
    c->classifier = c->physics;
    KIN_TRY(kin_json_get_i64(j, "insert_gap", 1, 1 << 20, &c->insert_gap, err));
    KIN_TRY(kin_json_get_bool(j, "whether_classifier", &c->classifier, err));
    c->mopa = (kin_mopa_config){.width = c->heads * c->head_dim,
                                .heads = 2 * COG_CATEGORIES,
                                .categories = COG_CATEGORIES,
                                .head_dim = c->head_dim,
                                .layer_norm = true,
                                .eps = c->eps,
                                .flip = 0.2f,
                                .floor = 0.1f};
    return KIN_OK;
}

static kin_status check(const kin_cog_config *c, kin_error *err)
{
    const int64_t width = c->heads * c->head_dim;
    const int64_t channels = c->in_channels > c->out_channels ? c->in_channels : c->out_channels;

    if (width % 2 || (c->table && !c->learned && width % 16))
        return kin_fail(err, KIN_ERR_ARG,
                        "config: num_attention_heads * attention_head_dim %lld must be a multiple "
                        "of %d",
                        (long long)width, c->table && !c->learned ? 16 : 2);
    if (c->rotary && c->head_dim % 16)
        return kin_fail(err, KIN_ERR_ARG,
                        "config: attention_head_dim %lld must be a multiple of 16 for rotary "
                        "positions",
                        (long long)c->head_dim);
    if (c->sample[1] % c->patch || c->sample[2] % c->patch)
        return kin_fail(err, KIN_ERR_ARG,
                        "config: sample_height %lld and sample_width %lld must be multiples of "
                        "patch_size %lld",
                        (long long)c->sample[1], (long long)c->sample[2], (long long)c->patch);
    return kin_config_bounds(width, channels * c->patch * c->patch, c->layers, 0, err);
}

kin_status kin_cog_config_read(const cJSON *j, kin_cog_config *c, kin_error *err)
{
    /* what diffusers assumes */
    *c = (kin_cog_config){.heads = 30,
                          .head_dim = 64,
                          .in_channels = 16,
                          .out_channels = 16,
                          .time_dim = 512,
                          .text_dim = 4096,
                          .layers = 30,
                          .patch = 2,
                          .text_len = 226,
                          .eps = 1e-5f,
                          .attention_bias = true,
                          .patch_bias = true,
                          .affine = true};
    KIN_TRY(kin_json_known_keys(j, known, "config", err));
    KIN_TRY(read_fixed(j, err));
    KIN_TRY(read_sizes(j, c, err));
    KIN_TRY(read_positions(j, c, err));
    KIN_TRY(kin_config_f32(j, "norm_eps", 1e-12, 1, &c->eps, err));
    KIN_TRY(kin_json_get_bool(j, "attention_bias", &c->attention_bias, err));
    KIN_TRY(kin_json_get_bool(j, "patch_bias", &c->patch_bias, err));
    KIN_TRY(kin_json_get_bool(j, "norm_elementwise_affine", &c->affine, err));
    KIN_TRY(read_physics(j, c, err));
    return check(c, err);
}
