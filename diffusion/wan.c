/* diffusion/wan.c: family `wan`: Wan 2.1 text-to-video (Wan Team 2025, arXiv 2503.20314), plain or
 * with WISA's physics (arXiv 2503.08153), by the keys of the published configs. */
#include "base/json.h"
#include "diffusion/video.h"

static const char *const wisa_keys[] = {"insert_gap",    "whether_classifier", "expert_head",
                                        "quantufiy_dim", "shared_head",        NULL};

static bool has_physics(const cJSON *j)
{
    for (int i = 0; wisa_keys[i]; i++) {
        if (cJSON_GetObjectItemCaseSensitive(j, wisa_keys[i]))
            return true;
    }
    return false;
}

kin_status kin_wan_create(const cJSON *config, kin_params *params, kin_model **out, kin_error *err)
{
    static const char *const known[] = {"_class_name",
                                        "_diffusers_version",
                                        "_name_or_path",
                                        "patch_size",
                                        "num_attention_heads",
                                        "attention_head_dim",
                                        "in_channels",
                                        "out_channels",
                                        "text_dim",
                                        "freq_dim",
                                        "ffn_dim",
                                        "num_layers",
                                        "cross_attn_norm",
                                        "qk_norm",
                                        "eps",
                                        "image_dim",
                                        "added_kv_proj_dim",
                                        "rope_max_seq_len",
                                        "pos_embed_seq_len",
                                        "insert_gap",
                                        "whether_classifier",
                                        "expert_head",
                                        "quantufiy_dim",
                                        "shared_head",
                                        NULL};
    kin_video_config c = kin_video_config_default();

    *out = NULL;
    KIN_TRY(kin_json_known_keys(config, known, "config", err));
    /* what diffusers assumes */
    c.patch[0] = 1;
    c.patch[1] = c.patch[2] = 2;
    c.heads = 40;
    c.head_dim = 128;
    c.in_channels = c.out_channels = 16;
    c.text_dim = 4096;
    c.ffn_dim = 13824;
    c.num_layers = 40;
    KIN_TRY(kin_video_config_wan_keys(config, &c, err));
    KIN_TRY(kin_config_null(config, "image_dim", err));
    KIN_TRY(kin_config_null(config, "added_kv_proj_dim", err));
    KIN_TRY(kin_config_null(config, "pos_embed_seq_len", err));
    c.physics = has_physics(config);
    c.classifier = c.physics;
    if (c.physics)
        KIN_TRY(kin_video_config_wisa_keys(config, &c, err));
    /* note: the published physical token has cos = sin = 0 */
    c.token_rope = c.classifier ? KIN_ROPE_ZERO : KIN_ROPE_NO_TOKEN;
    c.mopa.heads = 2 * KIN_CATEGORIES;
    c.mopa.head_dim = c.head_dim;
    return kin_video_create(KIN_FAMILY_WAN, &c, params, out, err);
}
