/* training/clips.h: a cache of encoded clips: VAE posteriors (mean and log-variance) and text
 * states in one small file each, named by what they were made from (text/XX/KEY.safetensors,
 * latents/XX/KEY.safetensors), beside clips.json, which lists the records and is written last.
 * Killed at any moment nothing is lost: what is there already is not made again, whatever the
 * order, the choice of records or the folder they came from. */
#ifndef KIN_TRAINING_CLIPS_H
#define KIN_TRAINING_CLIPS_H

#include "base/path.h"
#include "physics/taxonomy.h"
#include "tensor/ctx.h"

struct kin_train_config;

typedef struct kin_clips_options {
    const struct kin_train_config *data; /* its part `data`: clips, captions, size in pixels */
    const char *model;                   /* model directory; noted in the index */
    const char *out;                     /* folder of the cache, made */
    /* Polled after each clip; non-OK stops (what is complete stays). */
    kin_status (*progress)(void *user, const char *what, int64_t done, int64_t total,
                           kin_error *err);
    void (*message)(void *user, const char *text);
    void *user;
    int64_t made, kept; /* out: files */
} kin_clips_options;

/* Encodes what is missing, texts first, then clips; the encoders are loaded one after the other,
 * and only where something is missing. Fails: ARG (size, endless data), IO, FORMAT, MEM, what
 * progress returned. */
kin_status kin_clips_make(kin_ctx *ctx, kin_clips_options *opt, kin_error *err);

typedef struct kin_clips kin_clips;

typedef struct kin_clips_info {
    int64_t channels, frames, height, width; /* of a latent: C, f, h, w */
    int64_t pixels[3];                       /* frames, height, width of a clip */
    int64_t text_len, text_dim;
    int64_t count;
    float scale, shift;          /* latents of the model: (z - shift) * scale, or */
    const float *mean, *inv_std; /* [C]: (z - mean) * inv_std; NULL: the former */
    const char *model;           /* directory of the encoders */
    uint64_t key;                /* of the whole content */
} kin_clips_info;

/* True for a folder with clips.json. */
bool kin_clips_is(const char *path);
/* Reads the index; files are read when asked for. Fails: IO, FORMAT (named), MEM. */
kin_status kin_clips_open(const char *path, kin_clips **out, kin_error *err);
void kin_clips_close(kin_clips **c);
const kin_clips_info *kin_clips_get_info(const kin_clips *c);
const char *kin_clips_prompt(const kin_clips *c, int64_t i);

typedef struct kin_clips_sample {
    float *moments; /* [2C,f,h,w] mean, then log-variance */
    float *states;  /* [text_len,text_dim], zeros after the text */
    float *prior;   /* [29] */
    float *quant;   /* [18] */
} kin_clips_sample;
/* Clip i into the caller's arrays. Fails: IO, FORMAT (a file is gone or does not fit, named). */
kin_status kin_clips_read(const kin_clips *c, int64_t i, const kin_clips_sample *out,
                          kin_error *err);

/* Path of a file of the cache; kind "text" or "latents". */
kin_status kin_clips_path(char out[KIN_PATH_MAX], const char *folder, const char *kind,
                          const char *key, kin_error *err);

#endif
