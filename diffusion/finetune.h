/* diffusion/finetune.h: a published video transformer to be fine-tuned: the base as it lies in its
 * files, frozen and mapped, with WISA's physics and low-rank adapters on top; and what of it is
 * saved: pytorch_lora_weights.safetensors and phys_weights.safetensors as WISA writes them. */
#ifndef KIN_DIFFUSION_FINETUNE_H
#define KIN_DIFFUSION_FINETUNE_H

#include "diffusion/pipeline.h"

typedef struct kin_finetune {
    bool lora, physics, full; /* what is trained: adapters, parameters named "phys", all the rest */
    int64_t rank;             /* of the adapters; their scale is alpha / rank */
    double alpha;
    char targets[256];  /* expression for the whole names of their modules, see kin_lora_create */
    int64_t insert_gap; /* where new physical blocks stand; 0: after the last block */
    uint64_t seed;      /* of what is new */
} kin_finetune;
/* Of WISA for this family (KIN_FAMILY_WAN, KIN_FAMILY_COGVIDEOX): adapters of rank 128 and alpha 16
 * on q, k, v and the output of every attention of the base, physics after the last block. */
kin_finetune kin_finetune_default(kin_family family);

/* The family that DIR/transformer/config.json names. Fails: IO, FORMAT, UNSUPPORTED (neither Wan
 * nor CogVideoX). */
kin_status kin_finetune_family(const char *dir, kin_family *out, kin_error *err);

/* Opens the transformer of a model directory. Physics come from `from` (a folder that
 * kin_finetune_save wrote), else from phys_weights.safetensors of the directory, else they are new;
 * adapters from `from` or new; the base of a full training from `from`. What is trained is f32 of
 * its own with gradients, everything else stays as and where it is. `from` NULL: none. The pipeline
 * has neither text encoder nor VAE. Fails: IO, FORMAT, SHAPE, ARG, UNSUPPORTED, MEM. */
kin_status kin_finetune_open(kin_ctx *ctx, const char *dir, const kin_finetune *opt,
                             const char *from, kin_pipeline **out);

/* Writes what is trained into the folder `dir`, which is there: the two files, or for a full
 * training a model directory whose other parts are links into `base`. Fails: IO, MEM. */
kin_status kin_finetune_save(const kin_pipeline *p, const kin_finetune *opt, const char *base,
                             const char *dir, kin_error *err);

#endif
