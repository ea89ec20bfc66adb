/* diffusion/ffn.h: the two-layer feed-forward networks of the image models: dense blocks, experts
 * and shared experts, by the names of the official checkpoints. */
#ifndef KIN_DIFFUSION_FFN_H
#define KIN_DIFFUSION_FFN_H

#include "tensor/ops.h"

typedef enum kin_ffn_form {
    KIN_FFN_FC = 0, /* fc2(gelu(fc1 x)) with biases */
    KIN_FFN_PROJ,   /* the same, named up_proj and down_proj */
    KIN_FFN_SWIGLU  /* down_proj(silu(gate_proj x) * (up_proj x)) without biases */
} kin_ffn_form;

typedef struct kin_ffn {
    kin_param *gate; /* gate_proj, NULL for the GELU forms */
    kin_param *w1, *b1, *w2, *b2;
} kin_ffn;

/* Registers PREFIX + the matrices of the form ("blocks.0.mlp." -> "blocks.0.mlp.fc1.weight"), width
 * -> hidden -> width, started Xavier-uniform, biases zero. */
void kin_ffn_register(kin_params *params, const char *prefix, kin_ffn_form form, int64_t width,
                      int64_t hidden, kin_ffn *f);
/* The values between the two layers: x [...,width] -> [...,hidden]. */
kin_status kin_ffn_hidden(kin_ctx *ctx, const kin_ffn *f, const kin_tensor *x, kin_tensor *hidden);

#endif
