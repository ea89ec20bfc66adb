/* cli/generation.h: one call of `kinema generate`: what the flags ask for, the model, and where the
 * clips go. Internal to the verb: generate.c runs it, generate_setup.c fills it from the flags,
 * generate_settings.c says what is saved beside the output. */
#ifndef KIN_CLI_GENERATION_H
#define KIN_CLI_GENERATION_H

#include "cli/common.h"
#include "cli/output.h"
#include "cli/preview.h"
#include "cli/resume.h"
#include "cli/writer.h"
#include "io/safetensors.h"
#include "physics/prior_rules.h"

/* A model in memory, for the work and (shapes alone) for plans; the jobs of a queue share it.
 * Close: kin_generation_models_close. */
typedef struct kin_generation_models {
    struct {
        kin_ctx *ctx;
        kin_pipeline *pipeline;
    } on[2];          /* [0] work, [1] plans */
    bool shared;      /* by several generations */
    uint64_t used;    /* bytes of the process before the model was loaded */
    uint64_t checked; /* the largest peak that was planned so far */
} kin_generation_models;

typedef struct kin_generation {
    const kin_args *args;
    kin_generation_models *models; /* not owned */
    char label[48];                /* of the progress */
    kin_progress progress;
    kin_output output;
    kin_pipeline *pipeline;     /* of models */
    kin_generate_params params; /* its count: clips that this call makes */
    kin_physics_prior condition;
    char *class_text; /* of --class-file */
    kin_classes classes;
    int64_t count; /* clips that there will be in all */
    bool series;   /* clips that a later call can complete; so is every job of a queue */
    kin_resume resume;
    kin_writer *writer;
    cJSON *settings;
    char *settings_text;
    /* per clip to make */
    const char **prompts, **negatives;
    float *prior, *quant;
    int32_t *labels;
    kin_safetensors *noise_file; /* of --noise */
    kin_tensor noise;
    /* models with a VAE of videos: latents are kept in a file until their clip is written */
    bool keeps;
    bool tiled; /* decoding in tiles, since memory is short */
    int64_t
        ready; /* the first so many of the clips to make have their latents from an earlier run */
    int64_t decoded; /* ... and so many of them have been handed on */
    kin_preview_kind preview;
    double previewed; /* when a clip was shown last, 0: none */
    double fps, started;
    int64_t reported; /* finished clips that the user was told of */
    int64_t made;     /* clips written */
} kin_generation;

/* All of it: checks, plan, clips, settings; args, models, label, progress and preview are set. */
kin_status kin_generation_run(kin_generation *g, kin_error *err);
/* What --preview asks for; by default shown where the progress is a line of a terminal. */
kin_preview_kind kin_generation_preview(const kin_args *args, const kin_progress *progress);
void kin_generation_models_close(kin_generation_models *m);

/* What the flags alone can tell to be wrong, before a model is read. */
kin_status kin_generation_check_flags(kin_generation *g, kin_error *err);
/* With the model loaded, in this order: parameters from flags; sizes, rate and guidance that the
 * flags left to the model; the classes that images may show; the prompt and what is made of it. */
void kin_generation_set_params(kin_generation *g);
kin_status kin_generation_set_sizes(kin_generation *g, kin_error *err);
kin_status kin_generation_set_classes(kin_generation *g, kin_error *err);
kin_status kin_generation_set_prompt(kin_generation *g, kin_error *err);
/* Length of the text and the first latents, where the flags say something of them. */
kin_status kin_generation_set_inputs(kin_generation *g, kin_error *err);
/* The conditions of the clips to make. */
kin_status kin_generation_set_conditions(kin_generation *g, kin_error *err);
/* The settings as used, sizes and guidance of the model included; saved beside the output and in
 * its metadata. */
kin_status kin_generation_make_settings(kin_generation *g, const char *model_dir, kin_error *err);
/* Gives back all but the class file, the models and the progress. */
void kin_generation_release(kin_generation *g);

#endif
