#include "training/vae_objective.h"

kin_vae_objective kin_vae_objective_default(void)
{
    return (kin_vae_objective){.squared = false, .kl_weight = 1e-6};
}

kin_status kin_vae_objective_losses(kin_ctx *ctx, const kin_vae *vae, const kin_vae_objective *o,
                                    const kin_tensor *x, const kin_tensor *noise,
                                    kin_vae_losses *out)
{
    kin_tensor mean, logvar, z, rec, kl;

    KIN_TRY(kin_vae_encode(ctx, vae, x, &mean, &logvar));
    KIN_TRY(kin_vae_sample(ctx, &mean, &logvar, noise, &z));
    KIN_TRY(kin_vae_decode(ctx, vae, &z, &rec));
    if (o->squared)
        KIN_TRY(kin_mse(ctx, &rec, x, NULL, &out->rec));
    else
        KIN_TRY(kin_l1(ctx, &rec, x, NULL, &out->rec));
    KIN_TRY(kin_vae_kl(ctx, &mean, &logvar, &kl));
    KIN_TRY(kin_sum(ctx, &kl, 1.0f / (float)kin_tensor_numel(x), &out->kl));
    return kin_add(ctx, &out->rec, &out->kl, (float)o->kl_weight, &out->total);
}
