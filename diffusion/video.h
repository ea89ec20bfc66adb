/* diffusion/video.h: the video transformer behind the families `wan` and `kinema`: Wan 2.1's block
 * (self-attention with 3-D rotary, cross-attention to the text, FFN) with ProMoE's experts in the
 * FFN slot and WISA's physics, each by configuration. The families differ in how a config is read
 * (wan.c, kinema.c) and in the names of their taps. Internal to diffusion/. */
#ifndef KIN_DIFFUSION_VIDEO_H
#define KIN_DIFFUSION_VIDEO_H

#include "diffusion/attention.h"
#include "diffusion/config.h"
#include "diffusion/embed.h"
#include "diffusion/family.h"
#include "diffusion/moe.h"
#include "diffusion/rope.h"
#include "physics/block.h"
#include "physics/classifier.h"
#include "physics/quantity.h"

enum { KIN_ONLY_LAST = 42, KIN_CATEGORIES = 29 };

typedef struct kin_video_config {
    int patch[3];
    int64_t heads, head_dim, in_channels, out_channels, text_dim, text_len, freq_dim, ffn_dim,
        num_layers, rope_max;
    bool cross_attn_norm;
    float eps;
    kin_moe_config moe;
    /* physics */
    bool physics, classifier;
    int64_t insert_gap;
    kin_mopa_config mopa; /* width, heads, categories, head_dim, norm, eps, flip, floor */
    bool flip_at_inference;
    kin_rope_token token_rope;
    bool quantity_all; /* quantities also move the six vectors of every block */
    /* small models */
    bool predicts_sample, positions;
    float sample_loss_floor, rope_theta, gate_start;
    float pos_start;   /* deviation of the position tables at the start */
    bool text_xavier;  /* text MLP started as other linears, not N(0, 0.02^2) */
    int64_t sample[3]; /* native frames, height, width; 0: unknown */
} kin_video_config;

/* Values that a config may leave out. */
kin_video_config kin_video_config_default(void);
/* Wan's own keys, common to both families. */
kin_status kin_video_config_wan_keys(const cJSON *j, kin_video_config *c, kin_error *err);
/* WISA's keys: insert_gap, whether_classifier, expert_head, quantufiy_dim, shared_head. */
kin_status kin_video_config_wisa_keys(const cJSON *j, kin_video_config *c, kin_error *err);
/* Registers a checked config's parameters. *out is the caller's. */
kin_status kin_video_create(kin_family family, const kin_video_config *cfg, kin_params *params,
                            kin_model **out, kin_error *err);

#endif
