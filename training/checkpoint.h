/* training/checkpoint.h: run/checkpoint-N/: a model directory, ema/ (another one, of the averages),
 * optimizer.safetensors, state.json; run/latest names the newest complete one. A checkpoint is
 * built under another name, synced and renamed: killed at any moment, run/latest names one that
 * loads. */
#ifndef KIN_TRAINING_CHECKPOINT_H
#define KIN_TRAINING_CHECKPOINT_H

#include "base/path.h"
#include "diffusion/finetune.h"
#include "training/optimizer.h"

typedef struct kin_checkpoint_info {
    int64_t step;
    uint64_t fingerprint; /* of the data */
    cJSON *config;        /* resolved configuration; owned, cJSON_Delete; NULL: {} is written */
    const kin_finetune
        *finetune; /* written: what is trained of `base` alone; NULL: a whole model */
    const char *base;
    bool imported; /* from another trainer's file: neither data nor configuration to compare with */
} kin_checkpoint_info;

/* Writes run/checkpoint-STEP and makes it the latest, then removes all but the newest `keep`.
 * Fails: IO (also when the space does not suffice; what was there before stays and loads), MEM. */
kin_status kin_checkpoint_save(const char *run, const kin_pipeline *pipe, const kin_optimizer *opt,
                               const kin_checkpoint_info *info, int64_t keep, kin_error *err);

/* The frame of it: `write` fills a folder under another name, which becomes run/checkpoint-STEP,
 * the latest. bytes: free space needed. */
typedef kin_status (*kin_checkpoint_writer)(const char *dir, void *user, kin_error *err);
kin_status kin_checkpoint_place(const char *run, int64_t step, uint64_t bytes,
                                kin_checkpoint_writer write, void *user, kin_error *err);
/* Writes dir/state.json. */
kin_status kin_checkpoint_write_info(const char *dir, const kin_checkpoint_info *info,
                                     kin_error *err);

/* Path of the latest checkpoint, from run/latest. Fails: IO (there is none), FORMAT. */
kin_status kin_checkpoint_latest(const char *run, char dir[KIN_PATH_MAX], kin_error *err);
/* Reads state.json. info->config: the caller's. */
kin_status kin_checkpoint_read_info(const char *dir, kin_checkpoint_info *info, kin_error *err);
/* Moments and averages of a checkpoint into opt, whose parameters are those of the model; opt->step
 * is set. Fails: IO, FORMAT (a tensor is missing), SHAPE. */
kin_status kin_checkpoint_load_optimizer(const char *dir, int64_t step, kin_optimizer *opt,
                                         kin_error *err);
/* Removes what a killed save left behind. */
kin_status kin_checkpoint_clean(const char *run, kin_error *err);

#endif
