/* vision/vae_kl.h: configuration and parameters of AutoencoderKL. Internal to vision/. */
#ifndef KIN_VISION_VAE_KL_H
#define KIN_VISION_VAE_KL_H

#include "vision/vae_parts.h"

enum { KIN_KL_LEVELS = 8, KIN_KL_LAYERS = 16 };

typedef struct kin_kl_resnet {
    kin_vae_layer norm1, conv1, norm2, conv2, shortcut; /* shortcut.w NULL: none */
} kin_kl_resnet;

typedef struct kin_kl_middle {
    kin_kl_resnet before, after;
    kin_vae_layer norm, q, k, v, out; /* attention; q.w NULL: none */
} kin_kl_middle;

typedef struct kin_kl_level {
    kin_kl_resnet r[KIN_KL_LAYERS + 1];
    int count;
    kin_vae_layer sample; /* the convolution that halves or doubles; w NULL: none */
} kin_kl_level;

typedef struct kin_kl_half { /* encoder or decoder */
    kin_vae_layer conv_in, norm_out, conv_out;
    kin_kl_middle mid;
    kin_kl_level level[KIN_KL_LEVELS];
} kin_kl_half;

typedef struct kin_kl_vae {
    kin_vae base;
    int64_t groups, layers, width[KIN_KL_LEVELS];
    kin_act act;
    bool attention, quant, post_quant;
    kin_kl_half encoder, decoder;
    kin_vae_layer quant_conv, post_quant_conv; /* w NULL: none */
} kin_kl_vae;

/* kin_vae_class's build. Fails: FORMAT, ARG, UNSUPPORTED. */
kin_status kin_vae_kl_build(const cJSON *config, kin_params *params, kin_vae *vae, kin_error *err);

#endif
