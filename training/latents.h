/* training/latents.h: a cache of VAE latents of labelled images: posterior means and log-variances,
 * plain and mirrored, in shards of safetensors beside latents.json, which is written last. A shard
 * is keyed by its pictures, labels, size and VAE: what is there already is not made again. */
#ifndef KIN_TRAINING_LATENTS_H
#define KIN_TRAINING_LATENTS_H

#include "diffusion/vae_model.h"

typedef struct kin_latents_options {
    const char *data;  /* class folders, see images.h */
    const char *split; /* part to train on, "" : see images.h */
    const char *vae;   /* folder of the VAE, noted in the index */
    const char *out;   /* folder of the cache, made */
    int64_t held_out;  /* 0: see images.h */
    int64_t size;      /* side of the pictures */
    int64_t batch;     /* pictures per forward; never changes the result */
    int64_t shard;     /* pictures per file */
    /* Polled after each batch; non-OK stops (what is complete stays). */
    kin_status (*progress)(void *user, int64_t done, int64_t total, kin_error *err);
    void (*message)(void *user, const char *text);
    void *user;
    int64_t made, kept; /* out: shards */
} kin_latents_options;

/* Fails: ARG (size), IO, FORMAT, MEM, what progress returned. */
kin_status kin_latents_make(kin_vae_model *vae, kin_latents_options *opt, kin_error *err);

typedef struct kin_latents kin_latents;

typedef struct kin_latents_info {
    int64_t channels, height, width; /* of a latent: C, h, w */
    int64_t image_size;
    int64_t count[2]; /* training, held out */
    int64_t classes;
    float scale, shift; /* latents of the model: (z - shift) * scale */
    const char *vae;    /* folder */
    uint64_t key;       /* of the whole content */
} kin_latents_info;

/* True for a folder with latents.json. */
bool kin_latents_is(const char *path);
/* Maps all shards. Fails: IO, FORMAT (named), MEM. */
kin_status kin_latents_open(const char *path, kin_latents **out, kin_error *err);
void kin_latents_close(kin_latents **l);
const kin_latents_info *kin_latents_get_info(const kin_latents *l);
const char *kin_latents_class_name(const kin_latents *l, int64_t class_id);
int32_t kin_latents_label(const kin_latents *l, bool held_out, int64_t i);
/* Mean and log-variance [2C,h,w] of picture i, or of its mirror image; into the mapped file. */
const float *kin_latents_moments(const kin_latents *l, bool held_out, int64_t i, bool mirrored);

#endif
