/* vision/vae_wan.h: configuration and parameters of AutoencoderKLWan. Internal to vision/. */
#ifndef KIN_VISION_VAE_WAN_H
#define KIN_VISION_VAE_WAN_H

#include "vision/vae_parts.h"

enum { KIN_WAN_LEVELS = 8, KIN_WAN_BLOCKS = 8, KIN_WAN_LATENT = 256 };

typedef struct kin_wan_resnet {
    int64_t in, out;
    kin_param *gamma1, *gamma2;
    kin_vae_layer conv1, conv2, shortcut; /* shortcut.w NULL: none */
} kin_wan_resnet;

typedef struct kin_wan_middle {
    kin_wan_resnet before, after;
    kin_param *gamma;
    kin_vae_layer qkv, proj;
} kin_wan_middle;

typedef struct kin_wan_level {
    kin_wan_resnet r[KIN_WAN_BLOCKS + 1];
    int count;
    int64_t width;             /* of what the resampler takes */
    kin_vae_layer space, time; /* resample.1; time_conv. w NULL: none */
} kin_wan_level;

typedef struct kin_wan_half { /* encoder or decoder */
    kin_vae_layer conv_in, conv_out;
    int64_t in, ends; /* channels that conv_in and conv_out take */
    kin_param *norm_out;
    kin_wan_middle mid;
    kin_wan_level level[KIN_WAN_LEVELS];
} kin_wan_half;

typedef struct kin_vae_wan {
    kin_vae base;
    int64_t width, decoder_width, blocks, mult[KIN_WAN_LEVELS];
    bool halves_time[KIN_WAN_LEVELS]; /* between level i and i+1 of the encoder */
    float mean[KIN_WAN_LATENT], std[KIN_WAN_LATENT];
    kin_wan_half encoder, decoder;
    kin_vae_layer quant, post_quant;
} kin_vae_wan;

/* kin_vae_class's build. Fails: FORMAT, ARG, UNSUPPORTED (Wan 2.2's residual form, attn_scales,
 * named). */
kin_status kin_vae_wan_build(const cJSON *config, kin_params *params, kin_vae *vae, kin_error *err);

#endif
