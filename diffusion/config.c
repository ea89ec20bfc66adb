#include "diffusion/config.h"

#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"

static const char *const router_names[] = {"dense", "promoe_tc", "promoe_ec", "tc",
                                           "ec",    "diffmoe",   NULL};

kin_status kin_config_router(const char *name, kin_router_kind *out, kin_error *err)
{
    const char *near;

    for (int i = 0; router_names[i]; i++) {
        if (!strcmp(name, router_names[i])) {
            *out = (kin_router_kind)i;
            return KIN_OK;
        }
    }
    near = kin_nearest_name(name, router_names);
    return kin_fail(err, KIN_ERR_FORMAT, "config: unknown model \"%s\"%s%s", name,
                    near ? ", did you mean " : "", near ? near : "");
}

const char *kin_config_router_name(kin_router_kind kind)
{
    return router_names[kind];
}

kin_moe_config kin_config_moe_default(kin_router_kind router, int64_t width, int64_t ffn,
                                      bool swiglu)
{
    if (router == KIN_ROUTER_PROMOE_TC || router == KIN_ROUTER_PROMOE_EC)
        return (kin_moe_config){.router = router,
                                .experts = 12,
                                .top_k = router == KIN_ROUTER_PROMOE_TC ? 2 : 1,
                                .form = KIN_FFN_PROJ,
                                .shared_form = KIN_FFN_PROJ,
                                .mode = KIN_ROUTE_SOFTMAX,
                                .rcl_tau = 0.1,
                                .rcl_per_sample = router == KIN_ROUTER_PROMOE_EC,
                                .shared = true,
                                .uncond = true,
                                .interleave = true};
    /* note: DiffMoE's shared expert is a GELU network of fixed ratio, the others' is SwiGLU */
    return (kin_moe_config){.router = router,
                            .experts = 8,
                            .top_k = 1,
                            .capacity = 1,
                            .hidden = ffn,
                            .shared_hidden = 8 * width,
                            .form = swiglu ? KIN_FFN_SWIGLU : KIN_FFN_FC,
                            .shared_form =
                                router == KIN_ROUTER_DIFFMOE ? KIN_FFN_FC : KIN_FFN_SWIGLU,
                            .mode = KIN_ROUTE_SOFTMAX,
                            .rcl_tau = 1,
                            .balance = router == KIN_ROUTER_TC ? 0.01 : 0,
                            .predictor_weight = 0.01,
                            .interleave = true};
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

/* rcl_scope: the contrastive loss over all tokens of the (rank's) batch, or of each sample. */
static kin_status rcl_scope(const cJSON *obj, kin_moe_config *c, kin_error *err)
{
    const char *name = NULL;

    KIN_TRY(kin_json_get_str(obj, "rcl_scope", &name, err));
    if (!name)
        return KIN_OK;
    if (strcmp(name, "rank") && strcmp(name, "sample"))
        return kin_fail(err, KIN_ERR_FORMAT, "MoE_config: rcl_scope \"%s\" must be rank or sample",
                        name);
    c->rcl_per_sample = !strcmp(name, "sample");
    if (c->router == KIN_ROUTER_PROMOE_EC && !c->rcl_per_sample)
        return kin_fail(err, KIN_ERR_ARG,
                        "MoE_config: rcl_scope must be sample for model promoe_ec");
    return KIN_OK;
}

static kin_status promoe_keys(const cJSON *obj, kin_moe_config *c, kin_error *err)
{
    static const char *const known[] = {"num_routed_experts",
                                        "top_k",
                                        "router_weight_mode",
                                        "moe_intermediate_size",
                                        "shared_expert_intermediate_size",
                                        "routing_contrastive_lam",
                                        "routing_contrastive_temperature",
                                        "use_top_k_for_routing_contrastive",
                                        "rcl_scope",
                                        "load_balance_loss_coef",
                                        "seq_aux",
                                        "use_shared_expert",
                                        "use_uncond_expert",
                                        "interleave",
                                        "norm_topk_prob",
                                        "init_MoeMLP",
                                        NULL};

    KIN_TRY(kin_json_known_keys(obj, known, "MoE_config", err));
    KIN_TRY(kin_json_get_i64(obj, "num_routed_experts", 1, 4096, &c->experts, err));
    KIN_TRY(kin_json_get_i64(obj, "top_k", 1, 64, &c->top_k, err));
    c->capacity = (double)c->top_k;
    KIN_TRY(route_mode(obj, &c->mode, err));
    KIN_TRY(kin_json_get_i64(obj, "moe_intermediate_size", 1, 1 << 20, &c->hidden, err));
    KIN_TRY(kin_json_get_i64(obj, "shared_expert_intermediate_size", 1, 1 << 20, &c->shared_hidden,
                             err));
    KIN_TRY(kin_json_get_f64(obj, "routing_contrastive_lam", &c->rcl_lambda, err));
    KIN_TRY(kin_json_get_f64(obj, "routing_contrastive_temperature", &c->rcl_tau, err));
    KIN_TRY(kin_json_get_bool(obj, "use_top_k_for_routing_contrastive", &c->rcl_any_slot, err));
    KIN_TRY(rcl_scope(obj, c, err));
    KIN_TRY(kin_json_get_f64(obj, "load_balance_loss_coef", &c->balance, err));
    KIN_TRY(kin_json_get_bool(obj, "seq_aux", &c->seq_aux, err));
    KIN_TRY(kin_json_get_bool(obj, "use_shared_expert", &c->shared, err));
    KIN_TRY(kin_json_get_bool(obj, "use_uncond_expert", &c->uncond, err));
    return kin_json_get_bool(obj, "interleave", &c->interleave, err);
}

/* Options of the official code that do not work there: accepted while they are off. */
static kin_status must_be_off(const cJSON *obj, const char *key, kin_error *err)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(obj, key);

    if (!v || cJSON_IsNull(v) || cJSON_IsFalse(v))
        return KIN_OK;
    return kin_fail(err, KIN_ERR_UNSUPPORTED, "MoE_config: %s must be null or false", key);
}

static kin_status gate_keys(const cJSON *obj, int64_t width, kin_moe_config *c, kin_error *err)
{
    /* note: CapacityPred_loss_weight in this place is written by the published configs and read by
     * nobody; the key that counts stands beside MoE_config */
    static const char *const known[] = {"num_experts",
                                        "capacity",
                                        "n_shared_experts",
                                        "interleave",
                                        "capacity_schedule",
                                        "use_diff_expert",
                                        "CapacityPred_loss_weight",
                                        "init_MoeMLP",
                                        NULL};
    int64_t shared = 0;

    KIN_TRY(kin_json_known_keys(obj, known, "MoE_config", err));
    KIN_TRY(must_be_off(obj, "capacity_schedule", err));
    KIN_TRY(must_be_off(obj, "use_diff_expert", err));
    KIN_TRY(kin_json_get_i64(obj, "num_experts", 1, 4096, &c->experts, err));
    KIN_TRY(kin_json_get_i64(obj, "n_shared_experts", 0, 64, &shared, err));
    KIN_TRY(kin_json_get_bool(obj, "interleave", &c->interleave, err));
    c->shared = shared > 0;
    if (c->router != KIN_ROUTER_DIFFMOE)
        c->shared_hidden = width * shared;
    if (c->router == KIN_ROUTER_TC)
        return kin_json_get_i64(obj, "capacity", 1, 64, &c->top_k, err);
    return kin_json_get_f64(obj, "capacity", &c->capacity, err);
}

kin_status kin_config_moe(const cJSON *obj, int64_t width, kin_moe_config *out, kin_error *err)
{
    kin_moe_config *c = out;
    const bool promoe = c->router == KIN_ROUTER_PROMOE_TC || c->router == KIN_ROUTER_PROMOE_EC;

    if (!cJSON_IsObject(obj))
        return kin_fail(err, KIN_ERR_FORMAT, "config: MoE_config must be an object");
    KIN_TRY(promoe ? promoe_keys(obj, c, err) : gate_keys(obj, width, c, err));
    if (c->top_k > c->experts)
        return kin_fail(err, KIN_ERR_ARG, "MoE_config: %s %lld must be at most %lld experts",
                        promoe ? "top_k" : "capacity", (long long)c->top_k, (long long)c->experts);
    if (!promoe && c->router != KIN_ROUTER_TC &&
        !(c->capacity > 0 && c->capacity <= (double)c->experts))
        return kin_fail(err, KIN_ERR_ARG,
                        "MoE_config: capacity %g must lie above 0 and be at most %lld experts",
                        c->capacity, (long long)c->experts);
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

kin_status kin_config_predictor_weight(const cJSON *config, kin_moe_config *out, kin_error *err)
{
    static const char key[] = "CapacityPred_loss_weight";
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(config, key);

    if (!v || cJSON_IsNull(v))
        return KIN_OK;
    if (out->router != KIN_ROUTER_DIFFMOE)
        return kin_fail(err, KIN_ERR_ARG, "config: %s belongs to model diffmoe", key);
    KIN_TRY(kin_json_get_f64(config, key, &out->predictor_weight, err));
    if (!(out->predictor_weight >= 0))
        return kin_fail(err, KIN_ERR_ARG, "config: %s %g must not be negative", key,
                        out->predictor_weight);
    return KIN_OK;
}

bool kin_config_is_moe(const kin_moe_config *moe, int64_t block)
{
    return moe->router != KIN_ROUTER_NONE && (!moe->interleave || block % 2 == 1);
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

kin_status kin_config_fixed(const cJSON *obj, const char *key, double value, kin_error *err)
{
    double v = value;

    KIN_TRY(kin_json_get_f64(obj, key, &v, err));
    if (v != value)
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "config: %s %g must be %g", key, v, value);
    return KIN_OK;
}

kin_status kin_config_fixed_str(const cJSON *obj, const char *key, const char *value,
                                kin_error *err)
{
    const char *s = NULL;

    KIN_TRY(kin_json_get_str(obj, key, &s, err));
    if (s && strcmp(s, value))
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "config: %s \"%s\" must be %s", key, s, value);
    return KIN_OK;
}

kin_status kin_config_null(const cJSON *obj, const char *key, kin_error *err)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(obj, key);

    if (v && !cJSON_IsNull(v))
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "config: %s must be null in this release", key);
    return KIN_OK;
}
