/* diffusion/condition.h: from a prompt and what the user says of its physics to what the model is
 * told: text, prior, quantities.
 */
#ifndef KIN_DIFFUSION_CONDITION_H
#define KIN_DIFFUSION_CONDITION_H

#include "diffusion/pipeline.h"
#include "physics/annotation.h"

/* True if the model was trained on captions followed by the law text: model_index.json "kinema":
 * {"caption_field": "captions+phys_law"}; Wan and CogVideoX: where an annotation is given (`file`),
 * as WISA's official prompt has it, but no law of our own behind a bare prompt. */
bool kin_condition_with_law(const kin_pipeline *p, bool file);
/* `said` (may be NULL), or "none" where nothing is said and the model knows no physics (Wan and
 * CogVideoX without WISA). */
const char *kin_condition_physics(const char *said, const kin_pipeline *p);

/* prompt NULL: none. physics: NULL = rules over the prompt's words, "none" = zeros and the bare
 * prompt, else the name of a JSON file with one annotation record (training or inference form; an
 * array gives its first). The text is the prompt followed by the law, or the record's own caption
 * where there is no prompt. seconds: time span of the clip. options: of reading the file, or NULL.
 * Free: kin_physics_prior_free. Fails: KIN_ERR_FORMAT (the file), KIN_ERR_ARG (neither prompt nor
 * file), KIN_ERR_MEM. */
kin_status kin_condition_make(const char *prompt, const char *physics, double seconds, bool law,
                              const kin_annotation_options *options, kin_physics_prior *out,
                              kin_error *err);

#endif
