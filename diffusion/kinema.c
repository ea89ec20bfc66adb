/* diffusion/kinema.c: family `kinema`, the native one: the Wan block with ProMoE's router in its
 * FFN slot and WISA's physics. */
#include <string.h>

#include "base/json.h"
#include "diffusion/video.h"

/* A string member that must be one of two words. */
static kin_status choice(const cJSON *j, const char *key, const char *first, const char *second,
                         bool *is_second, kin_error *err)
{
    const char *v = NULL;

    KIN_TRY(kin_json_get_str(j, key, &v, err));
    if (!v)
        return KIN_OK;
    if (strcmp(v, first) && strcmp(v, second))
        return kin_fail(err, KIN_ERR_FORMAT, "config: %s \"%s\" must be %s or %s", key, v, first,
                        second);
    *is_second = !strcmp(v, second);
    return KIN_OK;
}

static kin_status physics_keys(const cJSON *j, kin_video_config *c, kin_error *err)
{
    int64_t per_class = 2;
    bool zero = false;

    KIN_TRY(kin_video_config_wisa_keys(j, c, err));
    KIN_TRY(kin_json_get_i64(j, "phys_heads_per_class", 1, 64, &per_class, err));
    c->mopa.heads = per_class * KIN_CATEGORIES;
    c->mopa.head_dim = c->head_dim;
    KIN_TRY(kin_json_get_i64(j, "phys_head_dim", 2, 1024, &c->mopa.head_dim, err));
    if (c->mopa.head_dim % 2)
        return kin_fail(err, KIN_ERR_ARG, "config: phys_head_dim %lld must be even",
                        (long long)c->mopa.head_dim);
    KIN_TRY(
        choice(j, "phys_qk_norm", "rms_norm_across_heads", "layer_norm", &c->mopa.layer_norm, err));
    KIN_TRY(choice(j, "phys_token_rope", "identity", "zero", &zero, err));
    c->token_rope = !c->classifier ? KIN_ROPE_NO_TOKEN : zero ? KIN_ROPE_ZERO : KIN_ROPE_IDENTITY;
    KIN_TRY(kin_config_f32(j, "mopa_flip", 0, 1, &c->mopa.flip, err));
    KIN_TRY(kin_config_f32(j, "mopa_floor", 0, 1, &c->mopa.floor, err));
    KIN_TRY(kin_json_get_bool(j, "mopa_flip_at_inference", &c->flip_at_inference, err));
    return choice(j, "quantity_modulation", "physical", "all", &c->quantity_all, err);
}

static kin_status small_keys(const cJSON *j, kin_video_config *c, kin_error *err)
{
    KIN_TRY(choice(j, "prediction_type", "velocity", "sample", &c->predicts_sample, err));
    KIN_TRY(kin_config_f32(j, "sample_loss_floor", 0, 1, &c->sample_loss_floor, err));
    KIN_TRY(choice(j, "pos_embed", "none", "learned", &c->positions, err));
    KIN_TRY(kin_config_f32(j, "rope_theta", 1, 1e9, &c->rope_theta, err));
    KIN_TRY(kin_config_f32(j, "gate_start", -100, 100, &c->gate_start, err));
    KIN_TRY(kin_config_f32(j, "pos_embed_start", 0, 100, &c->pos_start, err));
    KIN_TRY(choice(j, "text_embedder_start", "normal", "xavier", &c->text_xavier, err));
    KIN_TRY(kin_json_get_i64(j, "sample_frames", 1, 1 << 16, &c->sample[0], err));
    KIN_TRY(kin_json_get_i64(j, "sample_height", 1, 1 << 16, &c->sample[1], err));
    KIN_TRY(kin_json_get_i64(j, "sample_width", 1, 1 << 16, &c->sample[2], err));
    if (c->positions && (!c->sample[0] || !c->sample[1] || !c->sample[2]))
        return kin_fail(err, KIN_ERR_FORMAT,
                        "config: pos_embed \"learned\" needs sample_frames, sample_height and "
                        "sample_width for the sizes of its tables");
    for (int i = 0; i < 3; i++) {
        if (c->sample[i] % c->patch[i])
            return kin_fail(err, KIN_ERR_ARG,
                            "config: sample size %lld must be a multiple of patch %d",
                            (long long)c->sample[i], c->patch[i]);
    }
    return KIN_OK;
}

static kin_status moe_keys(const cJSON *j, kin_video_config *c, kin_error *err)
{
    const cJSON *moe = cJSON_GetObjectItemCaseSensitive(j, "MoE_config");
    const char *model = "promoe_tc";
    const int64_t width = c->heads * c->head_dim;
    kin_router_kind router;

    KIN_TRY(kin_json_get_str(j, "model", &model, err));
    KIN_TRY(kin_config_router(model, &router, err));
    if (cJSON_IsNull(moe))
        moe = NULL;
    if (router == KIN_ROUTER_NONE)
        return moe ? kin_fail(err, KIN_ERR_ARG, "config: MoE_config must be absent for model dense")
                   : KIN_OK;
    c->moe = kin_config_moe_default(router, width, c->ffn_dim, false);
    if (router == KIN_ROUTER_PROMOE_TC || router == KIN_ROUTER_PROMOE_EC) {
        /* the native family starts from ProMoE's published setting */
        c->moe.top_k = 1;
        c->moe.hidden = c->moe.shared_hidden = c->ffn_dim / 2;
        c->moe.mode = KIN_ROUTE_IDENTITY;
        c->moe.rcl_lambda = 1;
        c->moe.rcl_tau = 0.07;
        c->moe.rcl_any_slot = true;
        c->moe.capacity = 1;
    }
    KIN_TRY(kin_config_predictor_weight(j, &c->moe, err));
    return moe ? kin_config_moe(moe, width, &c->moe, err) : KIN_OK;
}

kin_status kin_kinema_create(const cJSON *config, kin_params *params, kin_model **out,
                             kin_error *err)
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
                                        "text_len",
                                        "freq_dim",
                                        "ffn_dim",
                                        "num_layers",
                                        "cross_attn_norm",
                                        "qk_norm",
                                        "eps",
                                        "rope_max_seq_len",
                                        "insert_gap",
                                        "whether_classifier",
                                        "expert_head",
                                        "quantufiy_dim",
                                        "shared_head",
                                        "phys_heads_per_class",
                                        "phys_head_dim",
                                        "phys_qk_norm",
                                        "phys_token_rope",
                                        "mopa_flip",
                                        "mopa_floor",
                                        "mopa_flip_at_inference",
                                        "prediction_type",
                                        "sample_loss_floor",
                                        "pos_embed",
                                        "rope_theta",
                                        "quantity_modulation",
                                        "gate_start",
                                        "pos_embed_start",
                                        "text_embedder_start",
                                        "sample_frames",
                                        "sample_height",
                                        "sample_width",
                                        "model",
                                        "MoE_config",
                                        "CapacityPred_loss_weight",
                                        NULL};
    kin_video_config c = kin_video_config_default();

    *out = NULL;
    KIN_TRY(kin_json_known_keys(config, known, "config", err));
    c.physics = c.classifier = true;
    c.text_len = 64;
    KIN_TRY(kin_video_config_wan_keys(config, &c, err));
    KIN_TRY(kin_json_get_i64(config, "text_len", 1, 1 << 16, &c.text_len, err));
    KIN_TRY(physics_keys(config, &c, err));
    KIN_TRY(small_keys(config, &c, err));
    KIN_TRY(moe_keys(config, &c, err));
    return kin_video_create(KIN_FAMILY_KINEMA, &c, params, out, err);
}
