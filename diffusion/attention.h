/* diffusion/attention.h: the attention layers of the Wan block (self and cross) and of the DiT
 * block. */
#ifndef KIN_DIFFUSION_ATTENTION_H
#define KIN_DIFFUSION_ATTENTION_H

#include "tensor/ops.h"

/* Wan: separate q, k, v; q and k pass an RMS norm over all heads together. */
typedef struct kin_wan_attention {
    int64_t width, heads;
    float eps;
    kin_param *q_w, *q_b, *k_w, *k_b, *v_w, *v_b, *o_w, *o_b, *nq, *nk;
} kin_wan_attention;

void kin_wan_attention_register(kin_params *params, const char *prefix, int64_t width,
                                int64_t heads, float eps, kin_wan_attention *a);
/* y [B,N,D] = residual + gate * to_out(attention(x, context)). context NULL: self-attention with
 * rotary tables cos, sin [N,d/2]; else [B,T,D] without rotary. gate [B,D] or NULL (1). */
kin_status kin_wan_attention_forward(kin_ctx *ctx, const kin_wan_attention *a, const kin_tensor *x,
                                     const kin_tensor *context, const kin_tensor *cos,
                                     const kin_tensor *sin, const kin_tensor *residual,
                                     const kin_tensor *gate, kin_tensor *y);
/* Keys and values [B,T,A,d] of a context [B,T,D] for cross-attention (no rotary), and the attention
 * with them: kin_wan_attention_forward in two parts. */
kin_status kin_wan_attention_keys(kin_ctx *ctx, const kin_wan_attention *a,
                                  const kin_tensor *context, kin_tensor *k, kin_tensor *v);
kin_status kin_wan_attention_cross(kin_ctx *ctx, const kin_wan_attention *a, const kin_tensor *x,
                                   const kin_tensor *k, const kin_tensor *v,
                                   const kin_tensor *residual, kin_tensor *y);

/* DiT: one qkv map [3*heads*d, D], optional affine LayerNorm (eps 1e-5) of q and k over the head.
 */
typedef struct kin_dit_attention {
    int64_t heads, head_dim;
    kin_param *qkv_w, *qkv_b, *proj_w, *proj_b, *nq_w, *nq_b, *nk_w, *nk_b;
} kin_dit_attention;

void kin_dit_attention_register(kin_params *params, const char *prefix, int64_t width,
                                int64_t heads, int64_t head_dim, bool qk_norm,
                                kin_dit_attention *a);
/* y [B,S,D] = residual + gate * proj(attention(x)). */
kin_status kin_dit_attention_forward(kin_ctx *ctx, const kin_dit_attention *a, const kin_tensor *x,
                                     const kin_tensor *residual, const kin_tensor *gate,
                                     kin_tensor *y);

#endif
