/* physics/mopa.h: mixture-of-physical-experts attention (MoPA; WISA, arXiv 2503.08153,
 * section 3.1), Wan form: self-attention whose heads belong to physical categories and are gated by
 * the prior. */
#ifndef KIN_PHYSICS_MOPA_H
#define KIN_PHYSICS_MOPA_H

#include "tensor/ops.h"

typedef struct kin_mopa_config {
    int64_t width; /* D of the tokens */
    int64_t heads; /* P; category c owns heads c*m .. c*m+m-1, m = heads / categories */
    int64_t categories;
    int64_t head_dim;  /* p, even */
    bool layer_norm;   /* q, k: LayerNorm per head, one affine pair (eps 1e-6), instead of RMS over
                          all heads */
    float eps;         /* of the RMS norm */
    float flip, floor; /* gate rule, see kin_mopa_gates */
} kin_mopa_config;

typedef struct kin_mopa {
    kin_mopa_config cfg;
    kin_param *q_w, *q_b, *k_w, *k_b, *v_w, *v_b, *o_w, *o_b;
    kin_param *nq_w, *nq_b, *nk_w, *nk_b; /* norms; biases only with layer_norm */
} kin_mopa;

/* Registers PREFIX + {to_q,to_k,to_v,to_out.0}.{weight,bias}, norm_{q,k}.weight (.bias); to_out.0
 * starts at zero. */
void kin_mopa_register(kin_params *params, const char *prefix, const kin_mopa_config *cfg,
                       kin_mopa *m);

/* Gates of one block: prior [B,categories] (NULL: zeros), u [B,heads] uniform draws (NULL: no
 * flips) -> gates [B,heads] of type `dtype`. Prior exactly 1: floor if u < flip else 1; exactly 0:
 * 1 if u < flip else floor; any other value stays. No gradient. */
kin_status kin_mopa_gates(kin_ctx *ctx, const kin_mopa_config *cfg, const kin_tensor *prior,
                          const kin_tensor *u, int64_t batch, kin_dtype dtype, kin_tensor *gates);
/* The same of all physical blocks of a model: u [blocks,B,heads] or NULL -> gates
 * [blocks,B,heads]. */
kin_status kin_mopa_gates_of_blocks(kin_ctx *ctx, const kin_mopa_config *cfg, int64_t blocks,
                                    const kin_tensor *prior, const kin_tensor *u, int64_t batch,
                                    kin_dtype dtype, kin_tensor *gates);

/* y [B,N,D] = residual + gate * to_out(gates * attention(x)). x [B,N,D]; cos, sin [N,p/2] or both
 * NULL; gates [B,heads]; residual [B,N,D] or NULL; gate [B,D] or NULL (factor 1). */
kin_status kin_mopa_forward(kin_ctx *ctx, const kin_mopa *m, const kin_tensor *x,
                            const kin_tensor *cos, const kin_tensor *sin, const kin_tensor *gates,
                            const kin_tensor *residual, const kin_tensor *gate, kin_tensor *y);

#endif
