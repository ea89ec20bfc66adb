/* vision/vae.h: autoencoders between pictures and latents, one interface over the classes. A VAE is
 * created from a diffusers vae/config.json, registers its parameters by the official names and
 * knows no file format. Classes: AutoencoderKL (Kingma and Welling 2013; Rombach et al. 2022),
 * AutoencoderKLWan (causal, of videos; Wan Team 2025), AutoencoderKLCogVideoX (Yang et al. 2024).
 * The activations inside lie channels-last. L latent channels, h, w latent sizes; where a class is
 * of videos, [B,C,F,H,W] and [B,L,f,h,w] stand in place of [B,C,H,W] and [B,L,h,w]. */
#ifndef KIN_VISION_VAE_H
#define KIN_VISION_VAE_H

#include <cjson/cJSON.h>

#include "tensor/ops.h"

typedef struct kin_vae kin_vae;

/* Facts that callers need without knowing the class. */
typedef struct kin_vae_info {
    const char *class_name;                             /* as in config.json */
    int64_t in_channels, out_channels, latent_channels; /* latent_channels: L */
    int64_t reduction;                                  /* of height and width: 2^(levels-1) */
    int64_t sample_size;                                /* picture size it was trained for */
    float scaling_factor; /* latents of a diffusion model: (z - shift_factor) * scaling_factor */
    float shift_factor;
    bool video;
    int64_t frame_reduction; /* of time, but for the first frame: kin_vae_latent_frames */
    const float *latents_mean, *latents_std; /* [L], or NULL: latents of a diffusion model are (z -
                                                mean) / std */
} kin_vae_info;

/* Creates the VAE of config's `_class_name`; unknown keys are errors naming the nearest, missing
 * ones have the defaults of diffusers. Parameters go into `params`, which the caller owns and which
 * must live as long. *out is the caller's: kin_vae_destroy. Fails: FORMAT, ARG (sizes), UNSUPPORTED
 * (other classes and block types), MEM. */
kin_status kin_vae_create(const cJSON *config, kin_params *params, kin_vae **out, kin_error *err);
void kin_vae_destroy(kin_vae **vae);
const kin_vae_info *kin_vae_get_info(const kin_vae *vae);
/* Under which other name older published files hold this parameter (attention: query, key, value,
 * proj_attn), or NULL. */
const char *kin_vae_alias(const char *name);
/* Block recomputation in training (kin_checkpoint around each ResNet block). */
void kin_vae_set_checkpointing(kin_vae *vae, bool on);

/* Height or width of the latent of a picture of this size: floor(size/2) at each level. */
int64_t kin_vae_latent_size(const kin_vae *vae, int64_t size);

/* Latent frames of a video of so many frames, and frames that come out of so many latent ones. Wan:
 * 1 + (n-1)/r (frames left over at the end are dropped) and r(n-1) + 1; CogVideoX: the same for
 * whole batches and one frame more, see golden/vae. Images: 1. */
int64_t kin_vae_latent_frames(const kin_vae *vae, int64_t frames);
int64_t kin_vae_decoded_frames(const kin_vae *vae, int64_t latent_frames);

/* x [B,in_channels,H,W] f32 in [-1,1] -> mean and logvar [B,L,h,w] of the posterior, logvar clamped
 * to [-30,20]. Both are views of one tensor of 2L channels (rows of a sample are contiguous), and
 * differentiable. The result of a picture does not depend on the others of the batch. Fails: SHAPE
 * (a size that some level reduces to nothing). Taps: names of the modules. */
kin_status kin_vae_encode(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *x, kin_tensor *mean,
                          kin_tensor *logvar);
/* z = mean + exp(0.5 * clamp(logvar,-30,20)) * noise, all [B,L,h,w]; where logvar is at or beyond a
 * limit its gradient is 0. */
kin_status kin_vae_sample(kin_ctx *ctx, const kin_tensor *mean, const kin_tensor *logvar,
                          const kin_tensor *noise, kin_tensor *z);
/* kl [B] = 0.5 * sum over a sample of mean^2 + exp(logvar) - 1 - logvar (clamped as there). */
kin_status kin_vae_kl(kin_ctx *ctx, const kin_tensor *mean, const kin_tensor *logvar,
                      kin_tensor *kl);
/* z [B,L,h,w] in the VAE's own units -> x [B,out_channels,h*reduction,w*reduction] f32, about
 * [-1,1], not clamped. */
kin_status kin_vae_decode(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *z, kin_tensor *x);

/* Latents in the units of the diffusion model: (z - shift_factor) * scaling_factor, and back. */
kin_status kin_vae_normalize(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *z, kin_tensor *y);
kin_status kin_vae_denormalize(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *y,
                               kin_tensor *z);

/* Decoding in overlapping tiles, blended linearly, as tiled_decode of diffusers: memory inside the
 * VAE does not grow with the picture. */
typedef struct kin_vae_tiling {
    int64_t tile;   /* pixels of a tile's side (tile_sample_min_size); 0: the VAE's sample_size */
    double overlap; /* tile_overlap_factor, [0, 1): share of a tile that its neighbours cover */
} kin_vae_tiling;
kin_vae_tiling kin_vae_tiling_default(const kin_vae *vae); /* sample_size, 0.25 */
/* As kin_vae_decode, without recording. Latents that fit one tile are decoded whole. Fails: ARG
 * (tiling). Videos are decoded whole. */
kin_status kin_vae_decode_tiled(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *z,
                                const kin_vae_tiling *tiling, kin_tensor *x);

#endif
