/* diffusion/wisa.h: what the files of a WISA model tell about it. Its phys_weights.safetensors lies
 * beside a published transformer, whose config.json says nothing of physics: which blocks are
 * there, and how large, is read from names and shapes. Internal to diffusion/. */
#ifndef KIN_DIFFUSION_WISA_H
#define KIN_DIFFUSION_WISA_H

#include <cjson/cJSON.h>

#include "io/safetensors.h"

#define KIN_WISA_FILE "phys_weights.safetensors"

/* Completes the config of a `wan` or `cogvideox` transformer (insert_gap, whether_classifier) by
 * the physical tensors of files[0..1] (NULL: none), and says in `text` what it found; "" where
 * there is nothing to infer: no such tensor, another family, or a config that says it all. Fails:
 * FORMAT (blocks that follow no insert_gap), UNSUPPORTED (other heads or classes than WISA's), MEM.
 */
kin_status kin_wisa_infer(const kin_safetensors *const files[2], cJSON *config, char *text,
                          size_t bytes, kin_error *err);

#endif
