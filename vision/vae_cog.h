/* vision/vae_cog.h: configuration and parameters of AutoencoderKLCogVideoX. Internal to vision/. */
#ifndef KIN_VISION_VAE_COG_H
#define KIN_VISION_VAE_COG_H

#include "vision/vae_parts.h"

enum { KIN_COG_LEVELS = 8, KIN_COG_BLOCKS = 8 };

typedef struct kin_cog_norm {
    kin_vae_layer norm;
    kin_vae_layer y, b; /* decoder: conv_y, conv_b of the latent; w NULL: none */
} kin_cog_norm;

typedef struct kin_cog_resnet {
    int64_t in, out;
    kin_cog_norm norm1, norm2;
    kin_vae_layer conv1, conv2, shortcut; /* shortcut.w NULL: none */
} kin_cog_resnet;

typedef struct kin_cog_level {
    kin_cog_resnet r[KIN_COG_BLOCKS + 1];
    int count;
    kin_vae_layer sample; /* the convolution that halves or doubles; w NULL: none */
    bool time;            /* it halves or doubles time, too */
} kin_cog_level;

typedef struct kin_cog_half { /* encoder or decoder */
    kin_vae_layer conv_in, conv_out;
    int64_t ends; /* channels that conv_out takes */
    kin_cog_norm norm_out;
    kin_cog_resnet mid[2];
    kin_cog_level level[KIN_COG_LEVELS];
} kin_cog_half;

typedef struct kin_vae_cog {
    kin_vae base;
    int64_t width[KIN_COG_LEVELS], blocks, groups;
    int halvings; /* of time */
    float eps;
    kin_cog_half encoder, decoder;
} kin_vae_cog;

/* kin_vae_class's build. Fails: FORMAT, ARG, UNSUPPORTED. */
kin_status kin_vae_cog_build(const cJSON *config, kin_params *params, kin_vae *vae, kin_error *err);

#endif
