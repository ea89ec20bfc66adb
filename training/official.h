/* training/official.h: checkpoints of the official trainers (.pth, diffusion/import.h) into model
 * directories and run folders of ours, and back. The numbers are copied piece by piece: nothing of
 * a file is held in memory. */
#ifndef KIN_TRAINING_OFFICIAL_H
#define KIN_TRAINING_OFFICIAL_H

#include "diffusion/import.h"
#include "diffusion/pipeline.h"

typedef struct kin_official_options {
    const cJSON *given;   /* keys of transformer/config.json that the file cannot tell, or NULL */
    kin_import_part part; /* which weights make a model directory */
    kin_dtype dtype;      /* of matrices: F32, BF16, F16 */
    uint64_t max_shard;   /* 0: one file */
    const char *vae;      /* folder of the autoencoder to copy into the model, or NULL */
} kin_official_options;

/* The .pth file as a model directory `dir`, complete or not at all. What was guessed is told in
 * *notes. Fails: FORMAT, SHAPE, ARG (configuration), IO, MEM. */
kin_status kin_official_to_model(const char *pth, const char *dir, const kin_official_options *opt,
                                 kin_strbuf *notes, kin_error *err);
/* The .pth file with its averages and moments as run/checkpoint-N, N = updates done, from which
 * `train --resume` goes on with update N+1; all f32. *step (or NULL) = N. Fails: as above; FORMAT
 * without an optimizer state; ARG where the folder holds a run. */
kin_status kin_official_to_run(const char *pth, const char *run, const cJSON *given,
                               kin_strbuf *notes, int64_t *step, kin_error *err);
/* A model directory, checkpoint or run folder as a .pth: of an image model {step,
 * model_state_dict, ema_model_state_dict[, optimizer_state_dict]} as the official trainer names
 * them, of others the transformer's plain state dictionary. A model directory gives the same
 * weights twice, stored once. Fails: IO, FORMAT, MEM. */
kin_status kin_official_from(const char *dir, const char *pth, kin_dtype dtype, kin_error *err);

#endif
