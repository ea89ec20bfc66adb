/* diffusion/pipeline_parts.h: what the files of the pipeline share. Internal to
 * diffusion/. */
#ifndef KIN_DIFFUSION_PIPELINE_PARTS_H
#define KIN_DIFFUSION_PIPELINE_PARTS_H

#include "base/path.h"
#include "diffusion/pipeline.h"
#include "diffusion/weights.h"
#include "samplers/sampler.h"

enum {
    KIN_PIPELINE_EOS = 1,
    KIN_PIPELINE_WAN_TEXT_LEN = 512, /* of WanPipeline */
    KIN_PIPELINE_COG_TEXT_LEN = 226, /* of CogVideoXPipeline */
    KIN_PIPELINE_COG_WISA_TEXT_LEN = 500,
    KIN_PIPELINE_QUANTITIES = 18
};

#define KIN_PIPELINE_TRANSFORMER_FILE "diffusion_pytorch_model.safetensors"
#define KIN_PIPELINE_TEXT_FILE "model.safetensors"

/* Native clip size, rate, guidance and steps of a pipeline with all its parts: sizes.c. Fails:
 * FORMAT. */
kin_status kin_pipeline_set_sizes(kin_pipeline *p);
/* The folder of the pipeline's model: "transformer", or "vae" of an autoencoder alone. */
const char *kin_pipeline_part(const kin_pipeline *p);
/* model_index.json of a model that came without one. Fails: MEM. */
kin_status kin_pipeline_make_index(kin_pipeline *p);
/* The model directory that DIR means: itself, or the newest checkpoint's averages of a run folder.
 * Fails: IO, FORMAT. */
kin_status kin_pipeline_resolve(const char *dir, char out[KIN_PATH_MAX], kin_error *err);
/* autoencoder.c: the autoencoder of a folder as the model of an empty pipeline. */
kin_status kin_pipeline_read_autoencoder(kin_pipeline *p, const char *folder);

/* Text encoder and tokenizer fit the transformer, or FORMAT. */
kin_status kin_pipeline_check_text(const kin_pipeline *p);

/* The solver and its options for a generation. Fails: FORMAT, UNSUPPORTED (the model's scheduler
 * config), ARG (a solver or an option that this model does not allow). */
kin_status kin_solver_config(const kin_pipeline *p, const kin_generate_params *params,
                             kin_scheduler *cfg, kin_error *err);
/* Its times; tokens: patches of one sample, for dynamic shifting. Fails as kin_schedule_make. */
kin_status kin_solver_schedule(const kin_pipeline *p, const kin_generate_params *params,
                               const kin_scheduler *cfg, double tokens, kin_schedule *out,
                               kin_error *err);

#endif
