/* diffusion/embeds.h: states of prompts kept on disk, one file each, named by what they were made
 * from: tokens, text encoder (config and beginnings of its weights) and way of computing. Internal
 * to diffusion/. */
#ifndef KIN_DIFFUSION_EMBEDS_H
#define KIN_DIFFUSION_EMBEDS_H

#include "diffusion/pipeline.h"

/* Of the text encoder's config.json. Fails: MEM. */
kin_status kin_embeds_config_hash(const cJSON *config, uint64_t *out, kin_error *err);

/* The states [1,T,D] of ids [1,T] from p's folder, in the workspace; false: not there, or nothing
 * is kept. */
bool kin_embeds_find(kin_pipeline *p, const kin_tensor *ids, kin_tensor *states);
/* Keeps them there. The oldest files go where there are many. */
void kin_embeds_keep(kin_pipeline *p, const kin_tensor *ids, const kin_tensor *states);

#endif
