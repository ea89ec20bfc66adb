/* diffusion/config.h: reading of transformer/config.json parts that several families share. */
#ifndef KIN_DIFFUSION_CONFIG_H
#define KIN_DIFFUSION_CONFIG_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "diffusion/ffn.h"

/* "model" key: which router stands before a network's experts; dense: none of both. */
typedef enum kin_router_kind {
    KIN_ROUTER_NONE = 0,  /* dense */
    KIN_ROUTER_PROMOE_TC, /* promoe_tc */
    KIN_ROUTER_PROMOE_EC, /* promoe_ec */
    KIN_ROUTER_TC,        /* tc */
    KIN_ROUTER_EC,        /* ec */
    KIN_ROUTER_DIFFMOE    /* diffmoe */
} kin_router_kind;
/* Fails: FORMAT for an unknown name. */
kin_status kin_config_router(const char *name, kin_router_kind *out, kin_error *err);
/* The name of a kind. */
const char *kin_config_router_name(kin_router_kind kind);

typedef enum kin_route_mode {
    KIN_ROUTE_IDENTITY = 0,
    KIN_ROUTE_SOFTMAX,
    KIN_ROUTE_SIGMOID
} kin_route_mode;

typedef struct kin_moe_config {
    kin_router_kind router;
    int64_t experts, top_k;        /* E routed experts, K slots per token (token choice) */
    double capacity;               /* expert choice: experts per token on average */
    int64_t hidden, shared_hidden; /* widths inside a routed and the shared expert */
    kin_ffn_form form, shared_form;
    kin_route_mode mode;
    double rcl_lambda, rcl_tau;
    bool rcl_any_slot;       /* use_top_k_for_routing_contrastive */
    bool rcl_per_sample;     /* rcl_scope "sample", and always in expert choice */
    double balance;          /* load_balance_loss_coef; TC: its fixed 0.01 */
    double predictor_weight; /* DiffMoE: CapacityPred_loss_weight */
    bool seq_aux, shared, uncond, interleave;
} kin_moe_config;
/* The official classes' values for keys that a config leaves out. width D of the tokens, ffn of the
 * dense network in the place of which the experts stand. */
kin_moe_config kin_config_moe_default(kin_router_kind router, int64_t width, int64_t ffn,
                                      bool swiglu);
/* Reads MoE_config by the official keys of out->router over the defaults already in *out; width of
 * the tokens. Fails: FORMAT, ARG, UNSUPPORTED. */
kin_status kin_config_moe(const cJSON *obj, int64_t width, kin_moe_config *out, kin_error *err);
/* Bounds on hostile configs: experts of all layers together at most KIN_CONFIG_MAX_EXPERTS, values
 * of one patch at most KIN_CONFIG_MAX_PATCH, token width at most KIN_CONFIG_MAX_WIDTH. Fails: ARG.
 */
enum {
    KIN_CONFIG_MAX_EXPERTS = 8192,
    KIN_CONFIG_MAX_PATCH = 1 << 20,
    KIN_CONFIG_MAX_WIDTH = 1 << 16
};
kin_status kin_config_bounds(int64_t width, int64_t patch_values, int64_t layers, int64_t experts,
                             kin_error *err);
/* CapacityPred_loss_weight, a key beside MoE_config. Fails: FORMAT, ARG (negative, or a router that
 * has no predictor). */
kin_status kin_config_predictor_weight(const cJSON *config, kin_moe_config *out, kin_error *err);
/* True where block i has experts. */
bool kin_config_is_moe(const kin_moe_config *moe, int64_t block);

/* patch_size [t,h,w], each >= 1. */
kin_status kin_config_patch(const cJSON *obj, const char *key, int patch[3], kin_error *err);
/* A float member within [lo, hi]. */
kin_status kin_config_f32(const cJSON *obj, const char *key, double lo, double hi, float *inout,
                          kin_error *err);
/* Fails UNSUPPORTED unless the key is absent, null or has this value: what published models all
 * have alike. */
kin_status kin_config_fixed(const cJSON *obj, const char *key, double value, kin_error *err);
kin_status kin_config_fixed_str(const cJSON *obj, const char *key, const char *value,
                                kin_error *err);
/* Fails UNSUPPORTED unless the key is absent or null. */
kin_status kin_config_null(const cJSON *obj, const char *key, kin_error *err);

#endif
