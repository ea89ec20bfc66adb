/* training/source.h: where training clips come from: simulated on the fly, a WISA-style set, class
 * folders, or a cache of encoded ones (images: training/latents.h, clips: training/clips.h). Clips
 * are addressed by index, decoded to one size, and kept in memory as far as the budget goes. */
#ifndef KIN_TRAINING_SOURCE_H
#define KIN_TRAINING_SOURCE_H

#include "text/tokenizer.h"
#include "training/clips.h"
#include "training/config.h"
#include "training/latents.h"

/* Sizes of one sample. */
typedef struct kin_sample_shape {
    int64_t frames, height, width;
    int64_t text_len;  /* token ids per prompt, 0 = no text */
    int64_t latent;    /* channels C of cached latents of frames x height x width, 0 = pixels */
    int64_t state_dim; /* width of cached text states, 0 = token ids */
} kin_sample_shape;
size_t kin_sample_frame_bytes(const kin_sample_shape *s); /* 0 with latents */
int64_t kin_sample_moments(const kin_sample_shape *s);    /* values 2C*f*h*w, 0 with pixels */
int64_t kin_sample_states(const kin_sample_shape *s);     /* values text_len*state_dim */

/* One training sample; the arrays are the caller's. */
typedef struct kin_sample {
    uint8_t *frames; /* [F,H,W,3]; nothing with latents */
    float *moments;  /* mean and log-variance [2C,f,h,w]; nothing with pixels */
    float *states;   /* text states [text_len,state_dim], in place of ids and mask */
    int32_t *ids;    /* [text_len], padded with 0; NULL without text */
    uint8_t *mask;   /* [text_len] 1 up to the eos */
    float *prior;    /* [29] */
    float *quant;    /* [18] */
    uint8_t *empty;  /* [1] 1: the prompt is empty */
    int32_t *label;  /* [1] class */
} kin_sample;

typedef struct kin_source kin_source;

/* Notes on dropped records and mended annotations, one line each. */
typedef void (*kin_source_note)(void *user, const char *text);

/* classes: class folders (image models) instead of clips with captions. Reads and checks all
 * records (not the clips). Fails: IO, FORMAT (no record is left), ARG (more held out than there
 * is), MEM. *out: kin_source_close. */
kin_status kin_source_open(const kin_train_config *c, bool classes, kin_source_note note,
                           void *user, kin_source **out, kin_error *err);
void kin_source_close(kin_source **s);

int64_t kin_source_count(const kin_source *s);    /* training clips, 0 = endless */
int64_t kin_source_held_out(const kin_source *s); /* held-out clips */
int64_t kin_source_classes(const kin_source *s);  /* class folders, else 0 */
const char *kin_source_class_name(const kin_source *s, int64_t class_id);
/* Cached latents: channels, size in pixels, scale, shift and VAE; NULL without. */
const kin_latents_info *kin_source_latents(const kin_source *s);
const kin_clips *kin_source_clips(const kin_source *s); /* a cache of encoded clips, or NULL */
float kin_source_flip(const kin_source *s); /* probability of a mirrored training image */
uint64_t kin_source_fingerprint(
    const kin_source *s); /* of names and captions: the same set gives the same number */

/* What an encoder makes of training clip i. */
typedef struct kin_source_facts {
    char *prompt; /* kin_free */
    float prior[KIN_PHYS_CATEGORIES], quant[KIN_PHYS_QUANTITIES];
    uint64_t content; /* of the pictures: what a cache of them is keyed by */
} kin_source_facts;
/* Clips with captions alone. Fails: IO (the clip is gone), MEM. */
kin_status kin_source_get_facts(kin_source *s, int64_t i, kin_source_facts *out, kin_error *err);
/* Its pictures, bicubically resized to dst f32 [3,F,h,w] in about [-1,1], F frames evenly chosen.
 * Fails: IO, FORMAT, MEM. */
kin_status kin_source_read_float(kin_source *s, int64_t i, kin_tensor *dst, kin_error *err);

/* Prompt text of training clip i (held_out: of held-out clip i), *text the caller's (kin_free). */
kin_status kin_source_prompt(kin_source *s, int64_t i, bool held_out, char **text, kin_error *err);
/* Prompts from now on become ids of this tokenizer (borrowed). */
void kin_source_set_tokenizer(kin_source *s, const kin_tokenizer *tok, int64_t text_len);
kin_sample_shape kin_source_shape(const kin_source *s);

/* Reserves the cache (at most cache_mb), after the tokenizer is set. Fails: MEM. */
kin_status kin_source_reserve(kin_source *s, kin_error *err);
size_t
kin_source_cache_bytes(const kin_source *s); /* what kin_source_reserve takes or would take */

/* Reads training clip i. For one thread at a time. Fails: IO, FORMAT (the clip is gone or damaged;
 * named), MEM. */
kin_status kin_source_read(kin_source *s, int64_t i, const kin_sample *out, kin_error *err);
/* The mirror image of training image i. */
kin_status kin_source_read_mirrored(kin_source *s, int64_t i, const kin_sample *out,
                                    kin_error *err);
/* Reads held-out clip i, never cached. */
kin_status kin_source_read_held_out(kin_source *s, int64_t i, const kin_sample *out,
                                    kin_error *err);

#endif
