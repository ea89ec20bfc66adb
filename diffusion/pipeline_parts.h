/* diffusion/pipeline_parts.h: what pipeline.c, loader.c, saver.c and generate.c share. Internal to
 * diffusion/. */
#ifndef KIN_DIFFUSION_PIPELINE_PARTS_H
#define KIN_DIFFUSION_PIPELINE_PARTS_H

#include "diffusion/pipeline.h"
#include "diffusion/weights.h"

enum {
    KIN_PIPELINE_EOS = 1,
    KIN_PIPELINE_WAN_TEXT_LEN = 512, /* of WanPipeline */
    KIN_PIPELINE_QUANTITIES = 18
};

#define KIN_PIPELINE_TRANSFORMER_FILE "diffusion_pytorch_model.safetensors"
#define KIN_PIPELINE_TEXT_FILE "model.safetensors"

/* Text encoder and tokenizer fit the transformer, or FORMAT. */
kin_status kin_pipeline_check_text(const kin_pipeline *p);

#endif
