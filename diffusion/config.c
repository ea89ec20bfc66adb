#include "diffusion/config.h"

#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"

kin_status kin_config_ffn(const char *name, kin_ffn_kind *out, kin_error *err)
{
    static const char *const later[] = {"promoe_ec", "tc", "ec", "diffmoe", NULL};
    static const char *const known[] = {"dense", "promoe_tc", "promoe_ec", "tc",
                                        "ec",    "diffmoe",   NULL};
    const char *near;

    if (!strcmp(name, "dense")) {
        *out = KIN_FFN_DENSE;
        return KIN_OK;
    }
    if (!strcmp(name, "promoe_tc")) {
        *out = KIN_FFN_PROMOE_TC;
        return KIN_OK;
    }
    for (int i = 0; later[i]; i++) {
        if (!strcmp(name, later[i]))
            return kin_fail(
                err, KIN_ERR_UNSUPPORTED,
                "config: model \"%s\" is not available in this release (dense, promoe_tc)", name);
    }
    near = kin_nearest_name(name, known);
    return kin_fail(err, KIN_ERR_FORMAT, "config: unknown model \"%s\"%s%s", name,
                    near ? ", did you mean " : "", near ? near : "");
}

static kin_status route_mode(const cJSON *obj, kin_route_mode *mode, kin_error *err)
{
    const char *name = NULL;

    KIN_TRY(kin_json_get_str(obj, "router_weight_mode", &name, err));
    if (!name)
        return KIN_OK;
    if (!strcmp(name, "identity"))
        *mode = KIN_ROUTE_IDENTITY;
    else if (!strcmp(name, "softmax"))
        *mode = KIN_ROUTE_SOFTMAX;
    else if (!strcmp(name, "sigmoid"))
        *mode = KIN_ROUTE_SIGMOID;
    else
        return kin_fail(
            err, KIN_ERR_FORMAT,
            "MoE_config: router_weight_mode \"%s\" must be identity, softmax or sigmoid", name);
    return KIN_OK;
}

kin_status kin_config_moe(const cJSON *obj, kin_moe_config *out, kin_error *err)
{
    static const char *const known[] = {"num_routed_experts",
                                        "top_k",
                                        "router_weight_mode",
                                        "moe_intermediate_size",
                                        "shared_expert_intermediate_size",
                                        "routing_contrastive_lam",
                                        "routing_contrastive_temperature",
                                        "use_top_k_for_routing_contrastive",
                                        "load_balance_loss_coef",
                                        "seq_aux",
                                        "use_shared_expert",
                                        "use_uncond_expert",
                                        "interleave",
                                        "norm_topk_prob",
                                        "init_MoeMLP",
                                        NULL};
    kin_moe_config *c = out;

    if (!cJSON_IsObject(obj))
        return kin_fail(err, KIN_ERR_FORMAT, "config: MoE_config must be an object");
    KIN_TRY(kin_json_known_keys(obj, known, "MoE_config", err));
    KIN_TRY(kin_json_get_i64(obj, "num_routed_experts", 1, 4096, &c->experts, err));
    KIN_TRY(kin_json_get_i64(obj, "top_k", 1, 64, &c->top_k, err));
    KIN_TRY(route_mode(obj, &c->mode, err));
    KIN_TRY(kin_json_get_i64(obj, "moe_intermediate_size", 1, 1 << 20, &c->hidden, err));
    KIN_TRY(kin_json_get_i64(obj, "shared_expert_intermediate_size", 1, 1 << 20, &c->shared_hidden,
                             err));
    KIN_TRY(kin_json_get_f64(obj, "routing_contrastive_lam", &c->rcl_lambda, err));
    KIN_TRY(kin_json_get_f64(obj, "routing_contrastive_temperature", &c->rcl_tau, err));
    KIN_TRY(kin_json_get_bool(obj, "use_top_k_for_routing_contrastive", &c->rcl_any_slot, err));
    KIN_TRY(kin_json_get_f64(obj, "load_balance_loss_coef", &c->balance, err));
    KIN_TRY(kin_json_get_bool(obj, "seq_aux", &c->seq_aux, err));
    KIN_TRY(kin_json_get_bool(obj, "use_shared_expert", &c->shared, err));
    KIN_TRY(kin_json_get_bool(obj, "use_uncond_expert", &c->uncond, err));
    KIN_TRY(kin_json_get_bool(obj, "interleave", &c->interleave, err));
    if (c->top_k > c->experts)
        return kin_fail(err, KIN_ERR_ARG, "MoE_config: top_k %lld must be at most %lld experts",
                        (long long)c->top_k, (long long)c->experts);
    if (!(c->rcl_tau > 0))
        return kin_fail(err, KIN_ERR_ARG,
                        "MoE_config: routing_contrastive_temperature %g must be above 0",
                        c->rcl_tau);
    if (!(c->rcl_lambda >= 0) || !(c->balance >= 0))
        return kin_fail(err, KIN_ERR_ARG, "MoE_config: loss coefficients must not be negative");
    return KIN_OK;
}

kin_status kin_config_bounds(int64_t width, int64_t patch_values, int64_t layers, int64_t experts,
                             kin_error *err)
{
    if (width > KIN_CONFIG_MAX_WIDTH)
        return kin_fail(err, KIN_ERR_ARG, "config: token width %lld must be at most %d",
                        (long long)width, (int)KIN_CONFIG_MAX_WIDTH);
    if (patch_values > KIN_CONFIG_MAX_PATCH)
        return kin_fail(err, KIN_ERR_ARG, "config: %lld values per patch must be at most %d",
                        (long long)patch_values, (int)KIN_CONFIG_MAX_PATCH);
    if (layers * experts > KIN_CONFIG_MAX_EXPERTS)
        return kin_fail(err, KIN_ERR_ARG, "config: %lld experts in all layers must be at most %d",
                        (long long)(layers * experts), (int)KIN_CONFIG_MAX_EXPERTS);
    return KIN_OK;
}

bool kin_config_is_moe(kin_ffn_kind kind, const kin_moe_config *moe, int64_t block)
{
    return kind == KIN_FFN_PROMOE_TC && (!moe->interleave || block % 2 == 1);
}

kin_status kin_config_patch(const cJSON *obj, const char *key, int patch[3], kin_error *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(obj, key);

    if (!list || cJSON_IsNull(list))
        return KIN_OK;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != 3)
        return kin_fail(err, KIN_ERR_FORMAT, "config: %s must be [frames, rows, columns]", key);
    for (int i = 0; i < 3; i++) {
        const cJSON *v = cJSON_GetArrayItem(list, i);

        if (!cJSON_IsNumber(v) || v->valuedouble < 1 || v->valuedouble > 1024 ||
            v->valuedouble != floor(v->valuedouble))
            return kin_fail(err, KIN_ERR_FORMAT, "config: %s must hold integers from 1 to 1024",
                            key);
        patch[i] = (int)v->valuedouble;
    }
    return KIN_OK;
}

kin_status kin_config_f32(const cJSON *obj, const char *key, double lo, double hi, float *inout,
                          kin_error *err)
{
    double v = (double)*inout;

    KIN_TRY(kin_json_get_f64(obj, key, &v, err));
    if (!(v >= lo && v <= hi))
        return kin_fail(err, KIN_ERR_ARG, "config: %s %g must lie in %g to %g", key, v, lo, hi);
    *inout = (float)v;
    return KIN_OK;
}

kin_status kin_config_null(const cJSON *obj, const char *key, kin_error *err)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(obj, key);

    if (v && !cJSON_IsNull(v))
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "config: %s must be null in this release", key);
    return KIN_OK;
}
