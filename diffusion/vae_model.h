/* diffusion/vae_model.h: an autoencoder with its configuration and weights: the vae/ part of a
 * model directory (config.json, diffusion_pytorch_model.safetensors, sharded or not). */
#ifndef KIN_DIFFUSION_VAE_MODEL_H
#define KIN_DIFFUSION_VAE_MODEL_H

#include "vision/vae.h"

typedef struct kin_vae_model {
    kin_ctx *ctx; /* not owned */
    kin_params *params;
    kin_vae *vae;
    cJSON *config;           /* as read; saved unchanged */
    struct kin_files *files; /* mapped weight files the parameters point into, or NULL */
    uint64_t hash;           /* of the weights' bytes; 0: not from files */
} kin_vae_model;

/* Loads FOLDER. Older attention names are taken for the present ones. plan contexts read shapes
 * only. Fails: IO, FORMAT, SHAPE, UNSUPPORTED (other classes), MEM. */
kin_status kin_vae_model_load(kin_ctx *ctx, const char *folder, kin_vae_model **out);
/* A new, untrained one (config is copied): parameters in f32 with gradients, started from `seed`.
 */
kin_status kin_vae_model_create(kin_ctx *ctx, const cJSON *config, uint64_t seed,
                                kin_vae_model **out);
/* Parameters of a loaded one become trainable f32 with gradients (copies of mapped values). */
kin_status kin_vae_model_make_trainable(kin_vae_model *m);
void kin_vae_model_destroy(kin_vae_model **m);
/* Writes config.json and the weights into FOLDER, which is made: matrices and kernels as `dtype`
 * (F32, BF16 or F16), all else f32; files of at most max_shard bytes, 0: one file. */
kin_status kin_vae_model_save(const kin_vae_model *m, const char *folder, kin_dtype dtype,
                              uint64_t max_shard, kin_error *err);

#endif
