/* physics/quantity.h: embedding of the 18 physical quantities (densities, time span, temperature
 * span), WISA's Wan and CogVideoX forms (arXiv 2503.08153, section 3.2; 360CVGroup/WISA). */
#ifndef KIN_PHYSICS_QUANTITY_H
#define KIN_PHYSICS_QUANTITY_H

#include "tensor/ops.h"

enum { KIN_QUANTITY_COUNT = 18, KIN_QUANTITY_SINGLE_MAX = 1024, KIN_QUANTITY_HIDDEN = 512 };

typedef struct kin_quantity {
    int64_t dim;                    /* width D of q */
    int64_t freq;                   /* E, width of the encoding */
    int64_t out;                    /* P, width of the result */
    kin_param *proj_w, *proj_b;     /* quantify_proj [D,E] */
    kin_param *hidden_w, *hidden_b; /* linear_adaln.0 [512,D]; NULL where D <= 1024 */
    kin_param *out_w, *out_b;       /* linear_adaln [P,D], or linear_adaln.2 [P,512] */
} kin_quantity;

/* Registers the parameters under PREFIX ("phys_quantify_embedder."). Fails: ARG (freq < 36: no
 * frequency per quantity). Registration failures are left in params->failed. */
kin_status kin_quantity_register(kin_params *params, const char *prefix, int64_t dim, int64_t freq,
                                 int64_t out, kin_quantity *q, kin_error *err);

/* quant [B,18] -> encoding [B,freq]: per quantity [cos(v w_j) | sin(v w_j)], w_j = 10000^(-j/per),
 * per = floor((freq/2)/18), zeros at the end. Differentiable in quant. note: a quantity of 0 gives
 * cos 0 = 1, not a zero row. */
kin_status kin_quantity_encode(kin_ctx *ctx, const kin_tensor *quant, int64_t freq,
                               kin_tensor *encoding);
/* encoding [B,freq] -> q = quantify_proj(encoding) [B,D]. */
kin_status kin_quantity_project(kin_ctx *ctx, const kin_quantity *q, const kin_tensor *encoding,
                                kin_tensor *y);
/* Both at once: quant [B,18], or NULL for zeros, with zeros of type dtype -> q [B,D]. */
kin_status kin_quantity_embed(kin_ctx *ctx, const kin_quantity *q, const kin_tensor *quant,
                              int64_t batch, kin_dtype dtype, kin_tensor *y);
/* ptemb [B,3,out/3] = tproj [B,3,out/3] + linear_adaln(q). tproj may be a view of the six timestep
 * vectors. */
kin_status kin_quantity_modulate(kin_ctx *ctx, const kin_quantity *q, const kin_tensor *y,
                                 const kin_tensor *tproj, kin_tensor *ptemb);

/* CogVideoX: ptemb [B,3,out/3] = linear_adaln(temb + q), temb [B,D]. */
kin_status kin_quantity_modulate_sum(kin_ctx *ctx, const kin_quantity *q, const kin_tensor *y,
                                     const kin_tensor *temb, kin_tensor *ptemb);

#endif
