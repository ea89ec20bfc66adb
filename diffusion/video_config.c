#include <string.h>

#include "base/json.h"
#include "diffusion/video.h"

kin_video_config kin_video_config_default(void)
{
    return (kin_video_config){
        .patch = {1, 4, 4},
        .in_channels = 3,
        .out_channels = 3,
        .freq_dim = 256,
        .rope_max = 1024,
        .cross_attn_norm = true,
        .eps = 1e-6f,
        .insert_gap = KIN_ONLY_LAST,
        .mopa = {.heads = 2 * KIN_CATEGORIES,
                 .categories = KIN_CATEGORIES,
                 .flip = 0.2f,
                 .floor = 0.1f},
        .rope_theta = 10000.0f,
        .pos_start = 0.3f,
    };
}

/* keys without a default in the native family */
static kin_status need(int64_t v, const char *key, kin_error *err)
{
    return v > 0 ? KIN_OK : kin_fail(err, KIN_ERR_FORMAT, "config: %s is missing", key);
}

static kin_status read_sizes(const cJSON *j, kin_video_config *c, kin_error *err)
{
    KIN_TRY(kin_config_patch(j, "patch_size", c->patch, err));
    KIN_TRY(kin_json_get_i64(j, "num_attention_heads", 1, 1024, &c->heads, err));
    KIN_TRY(kin_json_get_i64(j, "attention_head_dim", 2, 1024, &c->head_dim, err));
    KIN_TRY(kin_json_get_i64(j, "in_channels", 1, 4096, &c->in_channels, err));
    KIN_TRY(kin_json_get_i64(j, "out_channels", 1, 4096, &c->out_channels, err));
    KIN_TRY(kin_json_get_i64(j, "text_dim", 1, 1 << 16, &c->text_dim, err));
    KIN_TRY(kin_json_get_i64(j, "freq_dim", 2, 1 << 16, &c->freq_dim, err));
    KIN_TRY(kin_json_get_i64(j, "ffn_dim", 1, 1 << 20, &c->ffn_dim, err));
    KIN_TRY(kin_json_get_i64(j, "num_layers", 1, 1024, &c->num_layers, err));
    KIN_TRY(kin_json_get_i64(j, "rope_max_seq_len", 1, 1 << 24, &c->rope_max, err));
    KIN_TRY(need(c->heads, "num_attention_heads", err));
    KIN_TRY(need(c->head_dim, "attention_head_dim", err));
    KIN_TRY(need(c->text_dim, "text_dim", err));
    KIN_TRY(need(c->ffn_dim, "ffn_dim", err));
    return need(c->num_layers, "num_layers", err);
}

kin_status kin_video_config_wan_keys(const cJSON *j, kin_video_config *c, kin_error *err)
{
    const char *norm = NULL;

    KIN_TRY(read_sizes(j, c, err));
    KIN_TRY(kin_json_get_bool(j, "cross_attn_norm", &c->cross_attn_norm, err));
    KIN_TRY(kin_config_f32(j, "eps", 1e-12, 1, &c->eps, err));
    KIN_TRY(kin_json_get_str(j, "qk_norm", &norm, err));
    if (norm && strcmp(norm, "rms_norm_across_heads"))
        return kin_fail(err, KIN_ERR_UNSUPPORTED,
                        "config: qk_norm \"%s\" must be rms_norm_across_heads", norm);
    if (c->head_dim % 2 || c->freq_dim % 2)
        return kin_fail(err, KIN_ERR_ARG,
                        "config: attention_head_dim %lld and freq_dim %lld must be even",
                        (long long)c->head_dim, (long long)c->freq_dim);
    return KIN_OK;
}

kin_status kin_video_config_wisa_keys(const cJSON *j, kin_video_config *c, kin_error *err)
{
    KIN_TRY(kin_config_fixed(j, "expert_head", KIN_CATEGORIES, err));
    KIN_TRY(kin_config_fixed(j, "quantufiy_dim", KIN_QUANTITY_COUNT, err));
    KIN_TRY(kin_config_fixed(j, "shared_head", 0, err));
    KIN_TRY(kin_json_get_i64(j, "insert_gap", 1, 1 << 20, &c->insert_gap, err));
    return kin_json_get_bool(j, "whether_classifier", &c->classifier, err);
}
