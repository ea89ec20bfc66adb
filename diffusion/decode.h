/* diffusion/decode.h: from what was sampled to frames: latents through the VAE, or pixels as they
 * are. */
#ifndef KIN_DIFFUSION_DECODE_H
#define KIN_DIFFUSION_DECODE_H

#include "diffusion/vae_model.h"

typedef struct kin_decode_options {
    bool tiling;     /* in overlapping tiles: memory of the VAE does not follow the picture */
    int64_t tile;    /* side of a tile in pixels, 0: the VAE's own */
    bool allow_flat; /* frames without contrast or motion pass */
} kin_decode_options;

/* One clip: z f32 [1,C,f,h,w], or [1,C,h,w] of a picture, in the units of the diffusion model ->
 * frames u8 [F,H,W,3] in the workspace. vae NULL: z are pixels in [-1,1]. Tap `decoded`: [3,F,H,W].
 * Fails: NUMERIC (values that are not finite, flat frames), what the VAE says. */
kin_status kin_decode_clip(kin_ctx *ctx, const kin_vae_model *vae, const kin_decode_options *opt,
                           const kin_tensor *z, kin_tensor *frames);

#endif
