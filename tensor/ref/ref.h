/* tensor/ref/ref.h: the reference kernels: the definition of every slot of kin_kernels
 * (tensor/kernels.h), in plain loops that accumulate in double. Operands are read and written
 * through the accessors below, so one text serves f32 and f64 (and bf16, f16 weights). No fast
 * path, no pragma, one thread. */
#ifndef KIN_TENSOR_REF_REF_H
#define KIN_TENSOR_REF_REF_H

#include <math.h>

#include "tensor/e4m3.h"
#include "tensor/kernels.h"

/* Element `at` (counted in elements from data, strides already applied). */
static inline double kin_ref_load(const kin_tensor *t, int64_t at)
{
    switch (t->dtype) {
    case KIN_DTYPE_F32: return ((const float *)t->data)[at];
    case KIN_DTYPE_F64: return ((const double *)t->data)[at];
    case KIN_DTYPE_BF16: return kin_bf16_to_f32(((const uint16_t *)t->data)[at]);
    case KIN_DTYPE_F16: return kin_f16_to_f32(((const uint16_t *)t->data)[at]);
    case KIN_DTYPE_I8:
        return ((const int8_t *)t->data)[at] * (t->scale ? (double)kin_block_scale(t, at) : 1.0);
    case KIN_DTYPE_U8: return ((const uint8_t *)t->data)[at];
    case KIN_DTYPE_I32: return ((const int32_t *)t->data)[at];
    case KIN_DTYPE_I64: return (double)((const int64_t *)t->data)[at];
    case KIN_DTYPE_F8: return kin_e4m3_to_f32(((const uint8_t *)t->data)[at]);
    }
    return NAN;
}

static inline void kin_ref_store(const kin_tensor *t, int64_t at, double v)
{
    switch (t->dtype) {
    case KIN_DTYPE_F32: ((float *)t->data)[at] = (float)v; break;
    case KIN_DTYPE_F64: ((double *)t->data)[at] = v; break;
    case KIN_DTYPE_BF16: ((uint16_t *)t->data)[at] = kin_f32_to_bf16((float)v); break;
    case KIN_DTYPE_F16: ((uint16_t *)t->data)[at] = kin_f32_to_f16((float)v); break;
    case KIN_DTYPE_I8: ((int8_t *)t->data)[at] = (int8_t)v; break;
    case KIN_DTYPE_U8: ((uint8_t *)t->data)[at] = (uint8_t)v; break;
    case KIN_DTYPE_I32: ((int32_t *)t->data)[at] = (int32_t)v; break;
    case KIN_DTYPE_I64: ((int64_t *)t->data)[at] = (int64_t)v; break;
    case KIN_DTYPE_F8: ((uint8_t *)t->data)[at] = kin_f32_to_e4m3((float)v); break;
    }
}

/* acc: adds to what is there, else overwrites. */
static inline void kin_ref_put(const kin_tensor *t, int64_t at, double v, bool acc)
{
    kin_ref_store(t, at, acc ? kin_ref_load(t, at) + v : v);
}

/* Element [r, c] of a matrix view. */
static inline double kin_ref_get2(const kin_tensor *t, int64_t r, int64_t c)
{
    return kin_ref_load(t, r * t->stride[0] + c * t->stride[1]);
}

static inline void kin_ref_put2(const kin_tensor *t, int64_t r, int64_t c, double v, bool acc)
{
    kin_ref_put(t, r * t->stride[0] + c * t->stride[1], v, acc);
}

/* Element [r, c] of a parameter (or its gradient) seen flat as [size0, rest]; vectors have one row.
 */
static inline int64_t kin_ref_flat(const kin_tensor *p, int64_t r, int64_t c)
{
    return p->ndim == 1 ? c : r * p->stride[0] + c;
}

static inline bool kin_ref_has(const kin_tensor *t)
{
    return t != NULL && t->data != NULL;
}

static inline bool kin_ref_wants_grad(const kin_param *p)
{
    return p != NULL && p->grad.data != NULL;
}

/* Adds v to entry [r, c] of a parameter's gradient. */
static inline void kin_ref_grad_add(kin_param *p, int64_t r, int64_t c, double v)
{
    kin_ref_put(&p->grad, kin_ref_flat(&p->grad, r, c), v, true);
}

/* Row of a [g, n] operand that serves row r of m. */
static inline int64_t kin_ref_group(const kin_tensor *grouped, int64_t r, int64_t m)
{
    return r / (m / grouped->size[0]);
}

/* An operand of a product under the context's compute type (not in 8-bit integers), and one of
 * attention. */
static inline double kin_ref_operand(const kin_ctx *ctx, double v)
{
    return ctx->compute == KIN_DTYPE_BF16 ? kin_bf16_to_f32(kin_f32_to_bf16((float)v)) : v;
}
static inline double kin_ref_attention_operand(const kin_ctx *ctx, double v)
{
    return kin_attention_dtype(ctx) == KIN_DTYPE_BF16 ? kin_bf16_to_f32(kin_f32_to_bf16((float)v))
                                                      : v;
}

/* quant.c: a matrix in 8-bit integers, one step per row (the rule of tensor/kernels.h). */
typedef struct kin_ref_int8 {
    int64_t k;
    int8_t *q;    /* [rows,k] */
    double *step; /* [rows] */
} kin_ref_int8;
/* From t [rows,k], any strides, into the workspace. */
kin_status kin_ref_int8_make(kin_ctx *ctx, const kin_tensor *t, kin_ref_int8 *out);
/* The same of a weight seen as [n,k]. */
kin_status kin_ref_int8_weight(kin_ctx *ctx, const kin_param *w, int64_t n, int64_t k,
                               kin_ref_int8 *out);
/* Row r of x times row j of w. */
double kin_ref_int8_dot(const kin_ref_int8 *x, int64_t r, const kin_ref_int8 *w, int64_t j);

/* Activations and their derivatives. GELU: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). */
double kin_ref_act(kin_act act, double x);
double kin_ref_act_grad(kin_act act, double x);

/* linear.c */
kin_status kin_ref_linear(kin_ctx *ctx, const kin_linear_args *a);
kin_status kin_ref_linear_dx(kin_ctx *ctx, const kin_linear_bwd_args *a);
kin_status kin_ref_linear_dw(kin_ctx *ctx, const kin_linear_bwd_args *a);
/* grouped.c */
kin_status kin_ref_grouped(kin_ctx *ctx, const kin_grouped_args *a);
kin_status kin_ref_grouped_dx(kin_ctx *ctx, const kin_grouped_bwd_args *a);
kin_status kin_ref_grouped_dw(kin_ctx *ctx, const kin_grouped_bwd_args *a);
kin_status kin_ref_combine(kin_ctx *ctx, const kin_combine_args *a);
kin_status kin_ref_combine_bwd(kin_ctx *ctx, const kin_combine_args *a);
/* norm.c */
kin_status kin_ref_layernorm(kin_ctx *ctx, const kin_norm_args *a);
kin_status kin_ref_layernorm_bwd(kin_ctx *ctx, const kin_norm_args *a);
kin_status kin_ref_rmsnorm(kin_ctx *ctx, const kin_norm_args *a);
kin_status kin_ref_rmsnorm_bwd(kin_ctx *ctx, const kin_norm_args *a);
/* attention.c */
kin_status kin_ref_attention(kin_ctx *ctx, const kin_attention_args *a);
kin_status kin_ref_attention_bwd(kin_ctx *ctx, const kin_attention_args *a);
/* embed.c */
kin_status kin_ref_rope(kin_ctx *ctx, const kin_rope_args *a);
kin_status kin_ref_embedding(kin_ctx *ctx, const kin_embedding_args *a);
kin_status kin_ref_embedding_bwd(kin_ctx *ctx, const kin_embedding_args *a);
kin_status kin_ref_patch(kin_ctx *ctx, const kin_patch_args *a);
kin_status kin_ref_sinusoid(kin_ctx *ctx, const kin_sinusoid_args *a);
/* routing.c */
kin_status kin_ref_cosine(kin_ctx *ctx, const kin_cosine_args *a);
kin_status kin_ref_cosine_bwd(kin_ctx *ctx, const kin_cosine_args *a);
kin_status kin_ref_topk(kin_ctx *ctx, const kin_topk_args *a);
kin_status kin_ref_topk_bwd(kin_ctx *ctx, const kin_topk_args *a);
kin_status kin_ref_choose(kin_ctx *ctx, const kin_choose_args *a);
kin_status kin_ref_dispatch(kin_ctx *ctx, const kin_dispatch_args *a);
kin_status kin_ref_balance(kin_ctx *ctx, const kin_balance_args *a);
kin_status kin_ref_balance_bwd(kin_ctx *ctx, const kin_balance_args *a);
/* rcl.c */
kin_status kin_ref_rcl(kin_ctx *ctx, const kin_rcl_args *a);
kin_status kin_ref_rcl_bwd(kin_ctx *ctx, const kin_rcl_args *a);
/* loss.c */
kin_status kin_ref_loss(kin_ctx *ctx, const kin_loss_args *a);
kin_status kin_ref_loss_bwd(kin_ctx *ctx, const kin_loss_args *a);
/* elementwise.c */
kin_status kin_ref_binary(kin_ctx *ctx, const kin_binary_args *a);
kin_status kin_ref_reduce(kin_ctx *ctx, const kin_reduce_args *a);
kin_status kin_ref_unary(kin_ctx *ctx, const kin_unary_args *a);
kin_status kin_ref_unary_bwd(kin_ctx *ctx, const kin_unary_args *a);
kin_status kin_ref_gated_add(kin_ctx *ctx, const kin_gated_add_args *a);
kin_status kin_ref_gate_bwd(kin_ctx *ctx, const kin_gate_bwd_args *a);
kin_status kin_ref_softmax(kin_ctx *ctx, const kin_softmax_args *a);
kin_status kin_ref_softmax_bwd(kin_ctx *ctx, const kin_softmax_args *a);
kin_status kin_ref_copy(kin_ctx *ctx, const kin_tensor *src, kin_tensor *dst, bool acc);
kin_status kin_ref_fill(kin_ctx *ctx, kin_tensor *dst, double value);
kin_status kin_ref_transpose(kin_ctx *ctx, const kin_tensor *x, kin_tensor *y, bool acc);
/* conv.c */
kin_status kin_ref_conv(kin_ctx *ctx, const kin_conv_args *a);
kin_status kin_ref_conv_dx(kin_ctx *ctx, const kin_conv_args *a);
kin_status kin_ref_conv_dw(kin_ctx *ctx, const kin_conv_args *a);
/* groupnorm.c */
kin_status kin_ref_groupnorm(kin_ctx *ctx, const kin_groupnorm_args *a);
kin_status kin_ref_groupnorm_bwd(kin_ctx *ctx, const kin_groupnorm_args *a);
/* posterior.c */
kin_status kin_ref_posterior(kin_ctx *ctx, const kin_posterior_args *a);
kin_status kin_ref_posterior_bwd(kin_ctx *ctx, const kin_posterior_args *a);
/* optim.c */
kin_status kin_ref_randn(kin_ctx *ctx, const kin_rng *rng, uint64_t first, kin_tensor *y);
kin_status kin_ref_adamw(kin_ctx *ctx, const kin_adamw_args *a);
kin_status kin_ref_sumsq(kin_ctx *ctx, const kin_adamw_part *part, int64_t parts, double *out);

#endif
