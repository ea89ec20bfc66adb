/* diffusion/weights.h: parameters and weight files: which keep the file's type and stay mapped,
 * which are widened. Internal to diffusion/. */
#ifndef KIN_DIFFUSION_WEIGHTS_H
#define KIN_DIFFUSION_WEIGHTS_H

#include "io/safetensors.h"
#include "tensor/params.h"

enum { KIN_FILES_MAX = 2 };

/* What a loaded pipeline's parameters point into. */
typedef struct kin_files {
    kin_safetensors *file[KIN_FILES_MAX];   /* transformer, text encoder */
    kin_safetensors *beside[KIN_FILES_MAX]; /* further tensors of that part, which go before those
                                               of the same name; or NULL */
    void *widened[KIN_FILES_MAX];           /* f32 copies of what is not kept mapped */
    uint64_t hash;
} kin_files;

void kin_files_free(kin_files **files);

/* True for a matrix of a linear product or a table of rows: products pack it and look-ups widen
 * single rows, so it may be bf16 or f16 and is used as it lies in the file. */
bool kin_weight_is_matrix(const kin_param *p);

/* Binds every parameter of the table to a tensor of files->file[slot] or beside[slot]: matrices as
 * they are, all others f32 (widened where the file has another type). `alias` gives another name to
 * look for (or NULL). Tensors left over in the file are errors naming the first one. plan: shapes
 * and dtypes only. Fails: FORMAT (missing or left-over tensor), SHAPE, UNSUPPORTED, MEM. */
typedef const char *(*kin_weight_alias)(const char *name);
kin_status kin_weights_bind(kin_files *files, int slot, kin_params *params, kin_weight_alias alias,
                            bool plan, kin_error *err);

/* h mixed with names and bytes of all tensors of a file, whose pages are given back. */
uint64_t kin_weights_hash(uint64_t h, const kin_safetensors *file);

/* Gives parameters f32 memory of their own with their present values: all, or the trainable ones
 * alone (the others stay where they are). Parameters without a value get zeros. */
kin_status kin_weights_own(kin_params *params, bool trainable_only, bool plan, kin_error *err);
/* Gives every parameter trainable f32 memory of its own with its present values, and gradients. */
kin_status kin_weights_make_trainable(kin_params *params, bool plan, kin_error *err);

#endif
