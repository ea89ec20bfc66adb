/* kinema/generator.h: a model that makes video clips or images.
 *
 * Structs with a member `size` are filled with defaults by their ..._init function, which is given
 * sizeof(struct); the caller then changes what it wants. Members are only ever added at the end, so
 * that a program keeps working with a newer library. */
#ifndef KINEMA_GENERATOR_H
#define KINEMA_GENERATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kinema/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A loaded model. */
typedef struct kin_generator kin_generator;

typedef struct kin_generator_options {
    size_t size;         /* of this struct; set by kin_generator_options_init */
    int threads;         /* 0: as many as OpenMP takes; never changes the result */
    const char *dtype;   /* of products and attention: "f32", "bf16" or "int8"; borrowed */
    uint64_t max_memory; /* bytes that activations may take, beside the weights; 0: no limit */
} kin_generator_options;

/* Defaults: all threads, f32, no limit. size: sizeof *o. */
void kin_generator_options_init(kin_generator_options *o, size_t size);

/* Loads a model directory (diffusers layout) or a run folder of `kinema train`. Weights stay mapped
 * from their files, which must not be changed meanwhile. options NULL: defaults. *out is the
 * caller's: kin_generator_destroy; NULL on failure.
 * Fails: ARG (options), IO (no model there), FORMAT (a damaged one), MEM, UNSUPPORTED (this lacks
 * AVX2, or a kind of model of a later release). err may be NULL. */
kin_status kin_generator_create(const char *model, const kin_generator_options *options,
                                kin_generator **out, kin_error *err);

/* Gives everything back and sets *g to NULL. g and *g may be NULL. */
void kin_generator_destroy(kin_generator **g);

typedef struct kin_generator_info {
    size_t size;                   /* of this struct, as given to kin_generator_get_info */
    int64_t frames, height, width; /* what the model is made for, in pixels; 0: unknown */
    double fps;                    /* of a clip, frames per second; 0: unknown */
    int64_t classes;               /* of a class-conditional image model; 0: it takes prompts */
    bool physics;                  /* it takes a physical prior */
} kin_generator_info;

/* What the model is. Writes at most `size` bytes (sizeof *info), also where the library knows less
 * or more members. */
void kin_generator_get_info(const kin_generator *g, kin_generator_info *info, size_t size);

/* One finished clip or image, valid during the call it is handed to. */
typedef struct kin_result {
    int64_t clip;                  /* number within the request, from 0 */
    int64_t frames, height, width; /* in pixels; frames 1: an image */
    double fps;                    /* frames per second */
    const uint8_t *rgb;            /* [frames,height,width,3], row-major */
} kin_result;

/* What to make. */
typedef struct kin_request {
    size_t size;          /* of this struct; set by kin_request_init */
    const char *prompt;   /* UTF-8; NULL where the model takes classes; borrowed, as all text */
    const char *negative; /* text of the unconditional branch; NULL: empty */
    const char *physics;  /* NULL: rules over the prompt's words; "none"; or the name of a JSON file
                             with an annotation record */
    int64_t class_id;     /* of a class-conditional model; -1: all of them in turn */
    int64_t count;        /* clips or images, each with noise of its own */
    int64_t batch;        /* of them per forward pass; never changes the result */
    int64_t frames, height, width; /* in pixels; 0: the model's own */
    double fps;                    /* frames per second; 0: the model's own, else 8 */
    int steps;                     /* of the solver; 0: the model's own, else 25 */
    const char *sampler;           /* as `kinema generate --sampling-method`; NULL: the model's */
    double cfg_scale;              /* guidance; 1: off; negative: the model's own, else 3 */
    uint64_t seed;                 /* of all noise */
    bool vae_tiling;               /* decode latents in tiles: less memory for large pictures */
    bool allow_flat;               /* let flat or motionless frames pass */
    /* Called after every solver step, with the steps done of all clips. Anything but 0 stops the
     * request. NULL: nobody. */
    int (*progress)(void *user, int64_t done, int64_t total);
    /* Receives each finished clip, in order. Anything but 0 stops the request. */
    int (*result)(void *user, const kin_result *result);
    void *user; /* handed to both */
} kin_request;

/* Defaults: one clip of the model's own size, rate, steps and guidance, seed 0, every class in
 * turn; no prompt and no callbacks. size: sizeof *r. */
void kin_request_init(kin_request *r, size_t size);

/* Makes the clips of a request. The same model, request, backend and instruction set give the same
 * bytes for any number of threads. The generator can be used again, also after a failure.
 * Fails: ARG (a value outside its rule, no prompt, no receiver), FORMAT (the annotation, a model
 * that lacks its VAE), MEM, NUMERIC (NaN; flat frames), INTERRUPTED (a callback said so). err may
 * be NULL. */
kin_status kin_generator_run(kin_generator *g, const kin_request *request, kin_error *err);

/* Writes a clip: name.mp4 (H.264), name.png (one frame), or a pattern such as out/%03d.png (one
 * file per frame, in a folder that is there), name.gif, name.apng, name.y4m. A file appears
 * complete or not at all. Fails: ARG (name, size, rate), IO, BACKEND (the encoder), MEM. err may be
 * NULL. */
kin_status kin_result_save(const kin_result *result, const char *path, kin_error *err);

#ifdef __cplusplus
}
#endif

#endif
