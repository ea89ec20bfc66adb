/* training/config.h: train.json. Every key is checked, every default is written back, so that the
 * tree that was read becomes the resolved configuration that is saved beside the run.
 * docs/training.md lists the keys. */
#ifndef KIN_TRAINING_CONFIG_H
#define KIN_TRAINING_CONFIG_H

#include <cjson/cJSON.h>

#include "base/path.h"
#include "diffusion/finetune.h"
#include "diffusion/losses.h"
#include "physics/simulate.h"
#include "training/optimizer.h"
#include "training/vae_objective.h"

enum { KIN_TRAIN_MAX_SIGMAS = 16, KIN_TRAIN_MAX_BATCH = 65536 };

typedef enum kin_caption_field {
    KIN_CAPTION_CAPTIONS = 0, /* "captions" */
    KIN_CAPTION_PROMPT        /* "captions+phys_law": the official training prompt */
} kin_caption_field;

/* Records that are left out by what they say of themselves (kin_dataset_left_out). */
typedef enum kin_record_filter {
    KIN_FILTER_NONE = 0,
    KIN_FILTER_WISA,       /* as WISA's training on encoded clips */
    KIN_FILTER_WISA_ONLINE /* as its training that encodes them on the fly */
} kin_record_filter;
/* "none", "wisa", "wisa-online". Fails: ARG. */
kin_status kin_record_filter_parse(const char *name, kin_record_filter *out, kin_error *err);

typedef struct kin_train_config {
    cJSON *json; /* resolved tree; the pointers below lead into it */
    const cJSON *transformer, *text_encoder, *scheduler; /* NULL: not given; with `autoencoder`
                                                            transformer is the VAE's config */
    char init_from[KIN_PATH_MAX]; /* a model directory to start from, or "" */
    int64_t image; /* side of the images the transformer above takes; 0: it takes clips, or it
                      is not given */
    /* fine-tuning of a published video transformer, which init_from names; family DIT: none */
    kin_family base;
    kin_finetune finetune;
    uint64_t seed;
    int64_t steps, batch, accumulation, log_every;
    bool has_compute, has_precision, checkpointing; /* has: given in the file */
    kin_dtype compute;
    kin_precision precision;

    struct {
        char file[KIN_PATH_MAX]; /* .model, or "" = train one */
        char type[16];           /* "bpe" (whole words for small vocabularies) or "unigram" */
        int64_t vocab_size, sentences;
        bool byte_fallback;
    } tokenizer;

    struct {
        char path[KIN_PATH_MAX]; /* "" with simulate */
        char split[128];         /* class folders: the part to train on, "": see images.h */
        float flip;              /* probability of mirroring; < 0: 0.5 for images, 0 for clips */
        bool simulate;
        kin_sim_options sim;
        uint64_t sim_seed;
        int64_t sim_count; /* 0: endless fresh clips */
        kin_caption_field caption;
        char prefix[64]; /* before every caption: WISA trains with "PIKA_CRUSH " */
        kin_record_filter filter;
        int64_t frames, height, width;
        double fps;
        int64_t held_out; /* clips kept out of training */
        int64_t cache_mb; /* decoded clips kept in memory */
    } data;

    kin_optimizer_options optimizer;
    kin_objective_options objective;
    bool use_ddpm; /* objective.kind "ddpm", else "flow" */
    kin_ddpm_options ddpm;
    bool autoencoder; /* objective.kind "vae": then this and not the above */
    kin_vae_objective vae;

    struct {
        int64_t every; /* 0: never */
        int sigmas;
        float sigma[KIN_TRAIN_MAX_SIGMAS];
        bool shuffled; /* also with the captions of the neighbours */
    } validation;
    struct {
        int64_t every, count, steps;
        double cfg_scale;
    } samples;
    struct {
        int64_t every, keep;
    } checkpoint;
} kin_train_config;

/* What stands above the file. */
typedef struct kin_train_overrides {
    const char *data;      /* NULL: none */
    int64_t steps;         /* 0: none */
    const char *objective; /* objective.kind, NULL: none */
} kin_train_overrides;

/* Reads and checks the file; paths in it are relative to its folder. over: NULL for none. Fails:
 * IO, FORMAT (unknown key: the nearest known one is named), ARG. Free with kin_train_config_free.
 */
kin_status kin_train_config_read(const char *path, const kin_train_overrides *over,
                                 kin_train_config *out, kin_error *err);
/* The same from a tree, which is copied; dir: the folder of relative paths. */
kin_status kin_train_config_parse(const cJSON *json, const char *dir,
                                  const kin_train_overrides *over, kin_train_config *out,
                                  kin_error *err);
/* The small image classifier whose features judge pictures (docs/training.md), on class folders. */
kin_status kin_train_config_classifier(const kin_train_overrides *over, kin_train_config *out,
                                       kin_error *err);
/* Sets the context's types of products from the configuration; a precision that the file leaves
 * open is the context's, noted in the resolved tree unless it is the default. Fails: MEM. */
kin_status kin_train_config_adopt(kin_train_config *c, kin_ctx *ctx);
void kin_train_config_free(kin_train_config *c);

/* Fails (ARG, naming the first different key) unless a run of `saved` (a resolved tree) may go on
 * with c. Steps, cadences of log, validation, samples and checkpoints, and where the data lie may
 * change. */
kin_status kin_train_config_compatible(const kin_train_config *c, const cJSON *saved,
                                       kin_error *err);

#endif
