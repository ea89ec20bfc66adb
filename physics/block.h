/* physics/block.h: one physical block: x += gate * mopa(LN(x)(1+scale)+shift), (shift,scale,gate) =
 * table + ptemb. */
#ifndef KIN_PHYSICS_BLOCK_H
#define KIN_PHYSICS_BLOCK_H

#include "physics/mopa.h"

typedef struct kin_phys_block {
    kin_mopa mopa;
    kin_param *table;           /* scale_shift_table [1,3,D], starts at randn/sqrt(D) */
    kin_param *norm_w, *norm_b; /* affine LayerNorm; NULL: without */
    float eps;                  /* of the LayerNorm */
} kin_phys_block;

/* Registers PREFIX + scale_shift_table and PREFIX + phys_attn.*. */
void kin_phys_block_register(kin_params *params, const char *prefix, const kin_mopa_config *cfg,
                             kin_phys_block *b);
/* CogVideoX: PREFIX + norm1.{weight,bias}, phys_scale_shift_table [3,D], phys_attn.*. */
void kin_phys_block_register_cog(kin_params *params, const char *prefix, const kin_mopa_config *cfg,
                                 kin_phys_block *b);
/* h [B,N,D]; ptemb [B,3,D]; cos, sin [N,p/2] or both NULL; gates [B,heads] -> y [B,N,D]. */
kin_status kin_phys_block_forward(kin_ctx *ctx, const kin_phys_block *b, const kin_tensor *h,
                                  const kin_tensor *ptemb, const kin_tensor *cos,
                                  const kin_tensor *sin, const kin_tensor *gates, kin_tensor *y);

#endif
