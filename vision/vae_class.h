/* vision/vae_class.h: what a class of autoencoders gives to vision/vae.c. A new class is one file
 * and one row of the table there. Internal to vision/. */
#ifndef KIN_VISION_VAE_CLASS_H
#define KIN_VISION_VAE_CLASS_H

#include "vision/vae.h"

typedef struct kin_vae_class {
    const char *name; /* _class_name */
    bool video;       /* pictures are videos [B,C,F,H,W], latents [B,L,f,h,w] */
    size_t bytes;     /* of its struct, whose first member is a kin_vae */
    /* Reads config into the zeroed struct (info but for class_name and video; levels) and registers
     * the parameters by the official names. */
    kin_status (*build)(const cJSON *config, kin_params *params, kin_vae *vae, kin_error *err);
    /* x [B,in_channels,H,W] -> moments [B,2L,h,w], logvar as the network gives it */
    kin_status (*encode)(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *x,
                         kin_tensor *moments);
    kin_status (*decode)(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *z, kin_tensor *x);
    /* video: how many frames come out of n */
    int64_t (*frames)(const kin_vae *vae, int64_t n, bool encoder);
} kin_vae_class;

struct kin_vae { /* the first member of every class's own struct */
    const kin_vae_class *cls;
    kin_vae_info info;
    int levels; /* of resolution; each but the last halves */
    bool checkpoint;
};

extern const kin_vae_class kin_vae_class_kl, kin_vae_class_wan, kin_vae_class_cog;

#endif
