/* diffusion/cogvideox.h: configuration and parameters of family `cogvideox`. Internal to
 * diffusion/. */
#ifndef KIN_DIFFUSION_COGVIDEOX_H
#define KIN_DIFFUSION_COGVIDEOX_H

#include <cjson/cJSON.h>

#include "diffusion/embed.h"
#include "diffusion/family.h"
#include "physics/block.h"
#include "physics/classifier.h"
#include "physics/quantity.h"

enum { KIN_COG_ONLY_LAST = 999 };

typedef struct kin_cog_config {
    int64_t heads, head_dim, in_channels, out_channels, time_dim, text_dim, layers, patch;
    int64_t sample[3]; /* frames after the VAE, height, width of the latents */
    int64_t text_len;  /* max_text_seq_length */
    float eps;         /* norm_eps */
    bool attention_bias, patch_bias, affine, rotary, table, learned;
    double scale_space, scale_time; /* interpolation of the position table */
    bool physics, classifier;
    int64_t insert_gap;
    kin_mopa_config mopa;
} kin_cog_config;

/* Reads transformer/config.json by the keys of diffusers and WISA. Fails: FORMAT, ARG, UNSUPPORTED
 * (an option of CogVideoX 1.5 or the image-to-video models, named). */
kin_status kin_cog_config_read(const cJSON *j, kin_cog_config *c, kin_error *err);

/* CogVideoXLayerNormZero: six vectors from silu(temb), one LayerNorm for both streams */
typedef struct kin_cog_norm {
    kin_param *mod_w, *mod_b, *w, *b;
} kin_cog_norm;

typedef struct kin_cog_block {
    kin_cog_norm norm1, norm2;
    kin_param *q_w, *q_b, *k_w, *k_b, *v_w, *v_b, *o_w, *o_b, *nq_w, *nq_b, *nk_w, *nk_b;
    kin_param *up_w, *up_b, *down_w, *down_b;
    int phys; /* index in the list of physical blocks, -1: none follows */
} kin_cog_block;

typedef struct kin_cog_model {
    kin_model base;
    kin_cog_config cfg;
    int64_t width;
    kin_param *patch_w, *patch_b, *text_w, *text_b, *pos, *token;
    kin_param *final_w, *final_b, *out_mod_w, *out_mod_b, *out_w, *out_b, *proj_w, *proj_b;
    kin_mlp time;
    kin_quantity quantity;
    kin_classifier classifier;
    kin_cog_block *blocks;
    kin_phys_block *phys;
    int64_t phys_count;
} kin_cog_model;

/* Registers the parameters of m->cfg by the official names. Fails: ARG, what the table says. */
kin_status kin_cog_register(kin_params *params, kin_cog_model *m, kin_error *err);

#endif
