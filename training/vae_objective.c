#include "training/vae_objective.h"

kin_vae_objective kin_vae_objective_default(void)
{
    return (kin_vae_objective){.squared = false, .kl_weight = 1e-6};
}

kin_status kin_vae_objective_losses(kin_ctx *ctx, const kin_vae *vae, const kin_vae_objective *o,
                                    const kin_tensor *x, const kin_tensor *noise,
                                    kin_vae_losses *out)
{
    kin_tensor mean, logvar, z, kl;

    KIN_TRY(kin_vae_encode(ctx, vae, x, &mean, &logvar));
    KIN_TRY(kin_vae_sample(ctx, &mean, &logvar, noise, &z));
    KIN_TRY(kin_vae_decode(ctx, vae, &z, &out->y));
    if (o->squared)
        KIN_TRY(kin_mse(ctx, &out->y, x, NULL, &out->rec));
    else
        KIN_TRY(kin_l1(ctx, &out->y, x, NULL, &out->rec));
    KIN_TRY(kin_vae_kl(ctx, &mean, &logvar, &kl));
    KIN_TRY(kin_sum(ctx, &kl, 1.0f / (float)kin_tensor_numel(x), &out->kl));
    return kin_add(ctx, &out->rec, &out->kl, (float)o->kl_weight, &out->total);
}

kin_status kin_vae_objective_shape(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *x,
                                   kin_tensor *z)
{
    const kin_vae_info *info = kin_vae_get_info(vae);
    int64_t size[KIN_MAX_DIMS] = {x->size[0], info->latent_channels};
    int n = 2;

    if (info->video)
        size[n++] = kin_vae_latent_frames(vae, x->size[2]);
    for (int i = x->ndim - 2; i < x->ndim; i++)
        size[n++] = kin_vae_latent_size(vae, x->size[i]);
    return kin_ws_tensor(ctx, KIN_DTYPE_F32, n, size, z);
}

kin_status kin_vae_objective_check(const kin_vae *vae, int64_t frames, int64_t height,
                                   int64_t width, kin_error *err)
{
    const kin_vae_info *info = kin_vae_get_info(vae);
    const int64_t r = info->reduction;

    if (info->in_channels != 3 || info->out_channels != 3)
        return kin_fail(err, KIN_ERR_ARG, "train: an autoencoder of %lld channels; pictures have 3",
                        (long long)info->in_channels);
    if (height < r || width < r || height % r || width % r)
        return kin_fail(err, KIN_ERR_ARG,
                        "train: data.height %lld and width %lld must be multiples of %lld",
                        (long long)height, (long long)width, (long long)r);
    if (info->video && kin_vae_decoded_frames(vae, kin_vae_latent_frames(vae, frames)) != frames)
        return kin_fail(err, KIN_ERR_ARG,
                        "train: data.frames %lld must come out of the autoencoder as many; it "
                        "gives %lld",
                        (long long)frames,
                        (long long)kin_vae_decoded_frames(vae, kin_vae_latent_frames(vae, frames)));
    return KIN_OK;
}
