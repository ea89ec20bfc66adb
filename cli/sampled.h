/* cli/sampled.h: latents between sampling and decoding: a .safetensors beside the output, with the
 * settings they were sampled with, so that a run that was killed while it decoded goes on from
 * them. Tensor `latents` f32 [C,f,h,w]; metadata `settings` (JSON, as in the clip's own metadata)
 * and `vae_hash`. */
#ifndef KIN_CLI_SAMPLED_H
#define KIN_CLI_SAMPLED_H

#include <cjson/cJSON.h>

#include "cli/output.h"
#include "io/safetensors.h"

typedef struct kin_sampled {
    kin_safetensors *file;
    kin_tensor latents; /* f32 [C,f,h,w], in the file */
    cJSON *settings;    /* NULL: the file has none */
    const char *text;   /* of the settings, in the file; NULL: none */
    uint64_t vae_hash;  /* 0: not known */
} kin_sampled;

/* Name of the file for clip number `clip`: x.mp4 -> x.latents.safetensors; a sequence of pictures
 * out/%03d.png -> out/generate.latents.safetensors. */
kin_status kin_sampled_path(const kin_output *o, int64_t clip, char path[KIN_PATH_MAX],
                            kin_error *err);
/* Complete or not at all. */
kin_status kin_sampled_write(const char *path, const kin_tensor *latents, const char *settings,
                             uint64_t vae_hash, kin_error *err);
/* Fails: KIN_ERR_IO, KIN_ERR_FORMAT (no such tensor, settings that are no JSON), KIN_ERR_SHAPE,
 * KIN_ERR_MEM. Close: kin_sampled_close, always. */
kin_status kin_sampled_open(const char *path, kin_sampled *out, kin_error *err);
void kin_sampled_close(kin_sampled *s);
/* True if they were sampled with these settings; decoding's own (tiles) may differ. Else `text`
 * says what differs. */
bool kin_sampled_matches(const kin_sampled *s, const cJSON *settings, char *text, size_t bytes);

#endif
