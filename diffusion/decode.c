#include "diffusion/decode.h"

#include "vision/frames.h"

/* [1,C,...] as pixels [3,F,H,W] */
static kin_status to_pixels(kin_ctx *ctx, const kin_vae_model *m, const kin_decode_options *opt,
                            const kin_tensor *z, kin_tensor *clip)
{
    const int last = z->ndim - 1;
    kin_tensor x = *z, own;

    if (m) {
        KIN_TRY(kin_vae_denormalize(ctx, m->vae, z, &own));
        if (opt->tiling) {
            kin_vae_tiling tiling = kin_vae_tiling_default(m->vae);

            if (opt->tile)
                tiling.tile = opt->tile;
            KIN_TRY(kin_vae_decode_tiled(ctx, m->vae, &own, &tiling, &x));
        } else {
            KIN_TRY(kin_vae_decode(ctx, m->vae, &own, &x));
        }
    }
    *clip = KIN_RESHAPE(&x, 3, x.ndim == 5 ? x.size[2] : 1, x.size[last - 1], x.size[last]);
    kin_tap(ctx, clip, "decoded");
    return KIN_OK;
}

kin_status kin_decode_clip(kin_ctx *ctx, const kin_vae_model *vae, const kin_decode_options *opt,
                           const kin_tensor *z, kin_tensor *frames)
{
    kin_tensor clip;

    KIN_TRY(to_pixels(ctx, vae, opt, z, &clip));
    KIN_TRY(kin_host(ctx, &clip, &clip));
    KIN_TRY(KIN_WS_HOST(ctx, frames, KIN_DTYPE_U8, clip.size[1], clip.size[2], clip.size[3], 3));
    if (kin_ctx_is_plan(ctx))
        return KIN_OK;
    KIN_TRY(kin_frames_from_tensor(&clip, frames, &ctx->error));
    return opt->allow_flat ? KIN_OK : kin_frames_check_flat(frames, clip.size[1] > 1, &ctx->error);
}
