/* diffusion/config.h: reading of transformer/config.json parts that several families share. */
#ifndef KIN_DIFFUSION_CONFIG_H
#define KIN_DIFFUSION_CONFIG_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* "model" key: which FFN a network has. */
typedef enum kin_ffn_kind { KIN_FFN_DENSE = 0, KIN_FFN_PROMOE_TC } kin_ffn_kind;
/* Fails: UNSUPPORTED for kinds of later releases (promoe_ec, tc, ec, diffmoe), FORMAT for an
 * unknown one. */
kin_status kin_config_ffn(const char *name, kin_ffn_kind *out, kin_error *err);

typedef enum kin_route_mode {
    KIN_ROUTE_IDENTITY = 0,
    KIN_ROUTE_SOFTMAX,
    KIN_ROUTE_SIGMOID
} kin_route_mode;

typedef struct kin_moe_config {
    int64_t experts, top_k;        /* E routed experts, K slots per token */
    int64_t hidden, shared_hidden; /* widths inside a routed and the shared expert */
    kin_route_mode mode;
    double rcl_lambda, rcl_tau;
    bool rcl_any_slot; /* use_top_k_for_routing_contrastive */
    double balance;    /* load_balance_loss_coef */
    bool seq_aux, shared, uncond, interleave;
} kin_moe_config;
/* Reads MoE_config by the official keys over the defaults already in *out. Fails: FORMAT, ARG. */
kin_status kin_config_moe(const cJSON *obj, kin_moe_config *out, kin_error *err);
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
/* True where block i has experts. */
bool kin_config_is_moe(kin_ffn_kind kind, const kin_moe_config *moe, int64_t block);

/* patch_size [t,h,w], each >= 1. */
kin_status kin_config_patch(const cJSON *obj, const char *key, int patch[3], kin_error *err);
/* A float member within [lo, hi]. */
kin_status kin_config_f32(const cJSON *obj, const char *key, double lo, double hi, float *inout,
                          kin_error *err);
/* Fails UNSUPPORTED unless the key is absent or null. */
kin_status kin_config_null(const cJSON *obj, const char *key, kin_error *err);

#endif
