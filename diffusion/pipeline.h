/* diffusion/pipeline.h: a model directory in the diffusers layout (model_index.json, transformer/,
 * text_encoder/, tokenizer/, scheduler/, vae/) as one object: load, save, encode prompts, generate.
 * Pixel space: "vae": [null, null]. */
#ifndef KIN_DIFFUSION_PIPELINE_H
#define KIN_DIFFUSION_PIPELINE_H

#include "base/path.h"
#include "diffusion/guided.h"
#include "diffusion/model.h"
#include "diffusion/vae_model.h"
#include "io/elements.h"
#include "io/safetensors.h"
#include "text/encoder.h"
#include "text/tokenizer.h"

enum { KIN_LORA_FILES = 16 };

typedef struct kin_pipeline {
    kin_ctx *ctx;       /* not owned */
    kin_params *params; /* transformer */
    kin_model *model;
    kin_params *text_params; /* text encoder, NULL without text */
    kin_text_encoder *text;
    kin_tokenizer *tokenizer;
    struct kin_tokenizer_files *tokenizer_files; /* as read, or NULL */
    kin_vae_model *vae; /* autoencoder of the latents the transformer works in; NULL: pixels, or
                           its folder is missing */
    cJSON *transformer_config, *text_config, *scheduler_config,
        *index;              /* as read; saved unchanged */
    struct kin_files *files; /* mapped weight files the parameters point into, or NULL */
    kin_safetensors *lora[KIN_LORA_FILES]; /* adapter files, mapped */
    int loras;
    void *merged;  /* weights that took adapters in */
    char hash[17]; /* of the weight files' bytes (hex), "" for a model not from files */
    /* what the model is meant for: model_index.json "kinema": {...}, else what the published
     * pipeline of its family does; 0 = unknown */
    int64_t frames, height, width; /* of a clip, in pixels */
    double fps, cfg_scale;
    int steps;
    int64_t text_len;               /* kin_pipeline_set_text_len, 0: not set */
    uint64_t text_hash;             /* of the text encoder's config and weights, see weights.c */
    char text_folder[KIN_PATH_MAX]; /* kin_pipeline_keep_texts, "": none */
    size_t planned; /* bytes that the last generation took at most: workspace, packed weights and
                       values read, in the phase that takes most of them */
    char note[768]; /* what was inferred on loading, for the user: lines, "" for nothing */
} kin_pipeline;

/* Loads DIR (a model directory, a run folder (its latest checkpoint's ema/), or a checkpoint-N
 * folder). Weights stay mapped; matrices and tables keep their dtype, the rest is widened to f32.
 * plan contexts read shapes only. */
kin_status kin_pipeline_load(kin_ctx *ctx, const char *dir, kin_pipeline **out);
/* The same; WISA's physical parameters come from phys_weights, else from phys_weights.safetensors
 * in DIR or DIR/transformer where there is one, else from the transformer's own files. A config
 * without WISA's keys gets them from the names and shapes found; p->note tells. */
typedef struct kin_load_options {
    const char *phys_weights; /* a file, or NULL */
} kin_load_options;
kin_status kin_pipeline_load_with(kin_ctx *ctx, const char *dir, const kin_load_options *opt,
                                  kin_pipeline **out);
/* The autoencoder alone of DIR, as the model of a pipeline: a vae/ folder, or what has one in it (a
 * model directory, a run folder). */
kin_status kin_pipeline_load_autoencoder(kin_ctx *ctx, const char *dir, kin_pipeline **out);
/* That folder itself. Fails: FORMAT (there is none), IO. */
kin_status kin_pipeline_vae_folder(const char *dir, char out[KIN_PATH_MAX], kin_error *err);
/* A new, untrained pipeline from configs (borrowed; copied) and tokenizer bytes; parameters
 * allocated in f32 with gradients and started from `seed`. */
kin_status kin_pipeline_create(kin_ctx *ctx, const cJSON *transformer, const cJSON *text_encoder,
                               const void *spiece, size_t spiece_bytes, const cJSON *scheduler,
                               uint64_t seed, kin_pipeline **out);
/* Adapters of the transformer from a file (kin_lora_load), as products of their own. Fails: ARG
 * (more than KIN_LORA_FILES), what kin_lora_load and kin_safetensors_open say. */
kin_status kin_pipeline_add_lora(kin_pipeline *p, const char *path, double strength);
/* Adds all of them to the weights, once and after the last (kin_lora_merge). */
kin_status kin_pipeline_merge_loras(kin_pipeline *p);
/* Parameters of a loaded pipeline become trainable f32 with gradients (copies of mapped values). */
kin_status kin_pipeline_make_trainable(kin_pipeline *p);
void kin_pipeline_destroy(kin_pipeline **p);

/* Writes a model directory; dtype F32 or BF16 for the weights. `values`: NULL for the parameters
 * themselves, or a function that returns the f32 data to write instead for (table 0 transformer | 1
 * text encoder, parameter) — EMA; the data must stay until the call returns. Atomic: built in
 * DIR.tmp, renamed. */
typedef const float *(*kin_pipeline_values)(void *user, int table, const kin_param *p);
kin_status kin_pipeline_save(const kin_pipeline *p, const char *dir, kin_dtype dtype,
                             kin_pipeline_values values, void *user, kin_error *err);

/* The same with more to choose. */
typedef struct kin_save_options {
    kin_dtype dtype;    /* of matrices and tables: F32, BF16, F16, or I8: in 8-bit blocks those
                           that allow it, the others in bf16; all else is f32 */
    uint64_t max_shard; /* bytes per safetensors file, 0: one file */
    const char
        *vae; /* folder of an autoencoder to copy as vae/ (config.json and weights), or NULL */
    /* NULL: the parameters' values; else gives what to write for a parameter of table 0 transformer
     * | 1 text encoder; name and stored type are filled in */
    kin_status (*source)(void *user, int table, const kin_param *p, kin_item *out, kin_error *err);
    void *user;
    /* or NULL; of each matrix in blocks: its error relative to its norm, and the largest of a value
     */
    void (*report)(void *user, const char *part, const char *name, double relative, double worst);
    void *report_user;
} kin_save_options;
kin_status kin_pipeline_save_as(const kin_pipeline *p, const char *dir, const kin_save_options *opt,
                                kin_error *err);

/* Token ids of n prompts -> states [n,text_len,text_dim] with rows after eos set to 0 (CogVideoX:
 * padding is text like any other, and all rows are kept); null_out u8 [n]: 1 for an empty prompt.
 * Differentiable in the encoder's parameters while recording. */
kin_status kin_pipeline_encode(kin_pipeline *p, const char *const *prompts, int n,
                               kin_tensor *states, kin_tensor *null_out);
/* The same from token ids i32 [n,T] and mask u8 [n,T]; nothing is allocated on the heap. */
kin_status kin_pipeline_encode_ids(kin_pipeline *p, const kin_tensor *ids, const kin_tensor *mask,
                                   kin_tensor *states);
/* Its parts for a recording: 1 where the mask is set, else 0, f32 [n,T,1] in host memory; and
 * states from these, where ids and mask may lie on the device. Not for CogVideoX. */
kin_status kin_pipeline_keep(kin_pipeline *p, const kin_tensor *mask, kin_tensor *keep);
kin_status kin_pipeline_encode_kept(kin_pipeline *p, const kin_tensor *ids, const kin_tensor *mask,
                                    const kin_tensor *keep, kin_tensor *states);
/* From here on the states of single prompts are kept in `folder` (made when needed; "" for none),
 * keyed by tokens, encoder and way of computing, and taken from there. What is damaged there is
 * made anew, what cannot be written is left out. Fails: ARG (a path too long). */
kin_status kin_pipeline_keep_texts(kin_pipeline *p, const char *folder);
/* Tokens per prompt: what was set; else text_len of the transformer, or where it takes any what its
 * published pipeline takes (512; CogVideoX 226, with WISA's physics 500). */
int64_t kin_pipeline_text_len(const kin_pipeline *p);
/* Fails: ARG (a transformer of fixed text length, less than 2). */
kin_status kin_pipeline_set_text_len(kin_pipeline *p, int64_t tokens);

/* Name of a class (model_index.json "id2label", as diffusers' DiT pipelines), or NULL. */
const char *kin_pipeline_class_name(const kin_pipeline *p, int64_t class_id);
/* Gives class `class_id` a name, saved with the model. Fails: FORMAT (id2label is no object), MEM.
 */
kin_status kin_pipeline_name_class(kin_pipeline *p, int64_t class_id, const char *name);

/* CogVideoX's guidance that follows the time (kin_guidance_dynamic). AUTO: on for that family with
 * WISA's physics or with its DPM solver, as published. */
typedef enum kin_dynamic_cfg { KIN_DYNAMIC_AUTO, KIN_DYNAMIC_ON, KIN_DYNAMIC_OFF } kin_dynamic_cfg;

typedef struct kin_generate_params {
    int64_t count;                /* clips */
    const char *const *prompts;   /* [count] (text models) */
    const char *const *negatives; /* [count] or NULL = "" */
    const float *prior, *quant;   /* [count,29], [count,18]; NULL = 0 */
    const int32_t *labels;        /* [count] (dit) */
    const uint64_t *
        sample_index; /* [count] global sample index of each clip for its noise; NULL: 0..count-1 */
    int64_t frames, height, width; /* in pixels; 0: the model's own */
    const kin_tensor *noise; /* first latents [count,C,f,h,w] (dit [count,C,h,w]) f32 in the place
                                of those that the seed gives; NULL */
    int steps;               /* >= 1; unused with a respacing */
    const char *sampler;     /* a name of samplers/sampler.h; NULL: the model's scheduler */
    const char *spacing;     /* NULL: the scheduler's; "linspace", "leading", "trailing", or a
                                respacing ("250", "3,2,4", "ddim50") for ddpm and ddim */
    float eta;               /* ddim: share of the chain's noise */
    float shift, cfg_scale, phys_cfg;
    kin_cfg_mode cfg_mode;
    float cfg_interval[2]; /* guidance where the model time lies in [lo,hi] */
    float cfg_rescale;     /* 0..1, kin_guidance_rescale */
    kin_dynamic_cfg dynamic_cfg;
    int64_t cfg_channels; /* dit: guide the first so many channels alone; 0: all */
    uint64_t seed;
    int64_t batch; /* clips per forward, >= 1; never changes the bytes */
    bool allow_flat;
    bool vae_tiling;  /* latents are decoded in tiles: memory of the VAE stays constant */
    int64_t vae_tile; /* side of a tile in pixels; 0: the VAE's sample_size */
    /* Called after each solver step of each batch; non-OK stops (INTERRUPTED). */
    kin_status (*progress)(void *user, int64_t clips_done, int step, int steps);
    /* Receives the latents [C,f,h,w] of every clip of a batch before the first of them is decoded
     * (models with a VAE of videos); NULL: nobody. */
    kin_status (*sampled)(void *user, int64_t clip, const kin_tensor *latents);
    /* Receives finished clips in order: frames u8 [F,H,W,3]. */
    kin_status (*emit)(void *user, int64_t clip, const kin_tensor *frames);
    void *user;
} kin_generate_params;
kin_generate_params
kin_generate_params_default(void); /* steps 25, cfg 3 at all times, phys_cfg 0, scheduler and shift
                                      (<= 0) the model's, batch 1 */
/* Whether the model's scheduler (none: a flow) is a flow. Fails: as its config is read. */
kin_status kin_pipeline_is_flow(const kin_pipeline *p, bool *flow, kin_error *err);
/* True for a spacing that names counts of kept steps. */
bool kin_solver_is_respacing(const char *spacing);
/* Latent frames, height and width [3] of a clip of `pixels`: what is sampled. Fails: ARG (a size
 * that the model cannot make, naming the nearest that it can). */
kin_status kin_pipeline_latent_size(const kin_pipeline *p, const int64_t pixels[3], int64_t out[3],
                                    kin_error *err);
/* Decodes one clip's latents f32 [C,f,h,w] and hands its frames to params->emit as clip number
 * `clip`; of params the VAE's tiling, allow_flat, emit and user count. Fails as kin_decode_clip. */
kin_status kin_pipeline_decode(kin_pipeline *p, const kin_generate_params *params, int64_t clip,
                               const kin_tensor *latents);
/* Runs the sampler on batches. Fails: NUMERIC (NaN at step s; flat frames), ARG (sizes),
 * INTERRUPTED, what emit returned. */
kin_status kin_pipeline_generate(kin_pipeline *p, const kin_generate_params *params);

#endif
