/* diffusion/lora.h: low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) of a model's
 * matrices: new ones for training, those of files applied or merged into the weights. */
#ifndef KIN_DIFFUSION_LORA_H
#define KIN_DIFFUSION_LORA_H

#include "io/safetensors.h"
#include "tensor/params.h"

/* Gives every matrix whose name without ".weight" matches `targets` as a whole (a POSIX extended
 * regular expression, as WISA's "blocks.*(to_q|to_k|to_v|to_out.0)") an adapter called `name` of
 * that rank with the scale alpha / rank. To be allocated by the caller (kin_params_alloc). *count
 * (or NULL): how many. Fails: ARG (the expression is not one or matches nothing, rank, alpha), MEM.
 */
kin_status kin_lora_create(kin_params *params, const char *targets, int64_t rank, double alpha,
                           const char *name, int64_t *count, kin_error *err);

/* Registers the adapters of a file under `name` and binds them to it (it must stay open): peft's
 * names (base_model.model.X.lora_A[.ADAPTER].weight), diffusers' (transformer.X.lora_A.weight,
 * .lora.down.weight) and X.lora_down.weight, X.alpha, X being a matrix of the table. Scale:
 * strength
 * * alpha / rank where the file names an alpha, else strength (WISA's files hold none: give 16 /
 * 128). Fails: FORMAT (a tensor that belongs to no matrix, half a pair), SHAPE, UNSUPPORTED, MEM.
 */
kin_status kin_lora_load(kin_params *params, const kin_safetensors *file, double strength,
                         const char *name, int64_t *count, kin_error *err);

/* Adds the adapters to their matrices, W + sum scale B A in double rounded once to W's type, and
 * forgets them. The merged values replace the table's view of W; *memory takes what holds them
 * (kin_free after the table is gone). Fails: MEM. */
kin_status kin_lora_merge(kin_params *params, void **memory, kin_error *err);

/* Writes the adapters called `name` as diffusers does: transformer.X.lora_A.weight and lora_B, no
 * alpha; complete or not at all. Fails: ARG (there are none), IO, MEM. */
kin_status kin_lora_save(const kin_params *params, const char *name, const char *path,
                         kin_error *err);

#endif
