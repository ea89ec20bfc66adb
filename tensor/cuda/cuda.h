/* tensor/cuda/cuda.h: the slots of the CUDA table. Each one takes operands in device or host memory
 * (call.h); operands are f32, weights f32, bf16 or f16. */
#ifndef KIN_TENSOR_CUDA_CUDA_H
#define KIN_TENSOR_CUDA_CUDA_H

#include "tensor/cuda/call.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Fills every slot. */
void kin_kernels_init_cuda(kin_kernels *k);

/* x f32 or f16, contiguous, rounded to bf16 (to nearest even) into y of as many elements. */
void kin_cuda_to_bf16(kin_cuda_call *c, const kin_tensor *x, const kin_tensor *y);
/* x [rows,cols] (f32, bf16 or f16, columns contiguous, any row stride, cols a multiple of 16) into
 * e4m3, y contiguous:
 * x = step[0] * y with step[0] = largest magnitude / 448; step [2] on the device, step[1] is its
 * inverse. A value that is not finite makes step NaN. */
void kin_cuda_to_fp8(kin_cuda_call *c, const kin_tensor *x, const kin_tensor *y, float *step);
/* product libraries of a device: library.cu, or none where they are not linked (emulation). */
kin_status kin_cuda_products_open(kin_gpu *gpu, kin_error *err);
void kin_cuda_products_close(kin_gpu *gpu);
/* True where a library does dense products: then a row's bits may depend on the number of rows. */
bool kin_cuda_products_library(const kin_gpu *gpu);

/* The library's best rate for a bf16 product of n x n matrices on random numbers, in operations per
 * second; 0 without a library. Fails: MEM, BACKEND. */
kin_status kin_cuda_products_rate(kin_gpu *gpu, int64_t n, double *rate, kin_error *err);

kin_status kin_cuda_linear(kin_ctx *ctx, const kin_linear_args *a);
kin_status kin_cuda_linear_dx(kin_ctx *ctx, const kin_linear_bwd_args *a);
kin_status kin_cuda_linear_dw(kin_ctx *ctx, const kin_linear_bwd_args *a);
kin_status kin_cuda_grouped(kin_ctx *ctx, const kin_grouped_args *a);
kin_status kin_cuda_grouped_dx(kin_ctx *ctx, const kin_grouped_bwd_args *a);
kin_status kin_cuda_grouped_dw(kin_ctx *ctx, const kin_grouped_bwd_args *a);
kin_status kin_cuda_combine(kin_ctx *ctx, const kin_combine_args *a);
kin_status kin_cuda_combine_bwd(kin_ctx *ctx, const kin_combine_args *a);
kin_status kin_cuda_layernorm(kin_ctx *ctx, const kin_norm_args *a);
kin_status kin_cuda_layernorm_bwd(kin_ctx *ctx, const kin_norm_args *a);
kin_status kin_cuda_rmsnorm(kin_ctx *ctx, const kin_norm_args *a);
kin_status kin_cuda_rmsnorm_bwd(kin_ctx *ctx, const kin_norm_args *a);
kin_status kin_cuda_rope(kin_ctx *ctx, const kin_rope_args *a);
kin_status kin_cuda_attention(kin_ctx *ctx, const kin_attention_args *a);
kin_status kin_cuda_attention_bwd(kin_ctx *ctx, const kin_attention_args *a);
kin_status kin_cuda_embedding(kin_ctx *ctx, const kin_embedding_args *a);
kin_status kin_cuda_embedding_bwd(kin_ctx *ctx, const kin_embedding_args *a);
kin_status kin_cuda_patch(kin_ctx *ctx, const kin_patch_args *a);
kin_status kin_cuda_cosine(kin_ctx *ctx, const kin_cosine_args *a);
kin_status kin_cuda_cosine_bwd(kin_ctx *ctx, const kin_cosine_args *a);
kin_status kin_cuda_topk(kin_ctx *ctx, const kin_topk_args *a);
kin_status kin_cuda_topk_bwd(kin_ctx *ctx, const kin_topk_args *a);
kin_status kin_cuda_choose(kin_ctx *ctx, const kin_choose_args *a);
kin_status kin_cuda_dispatch(kin_ctx *ctx, const kin_dispatch_args *a);
kin_status kin_cuda_rcl(kin_ctx *ctx, const kin_rcl_args *a);
kin_status kin_cuda_rcl_bwd(kin_ctx *ctx, const kin_rcl_args *a);
kin_status kin_cuda_balance(kin_ctx *ctx, const kin_balance_args *a);
kin_status kin_cuda_balance_bwd(kin_ctx *ctx, const kin_balance_args *a);
kin_status kin_cuda_sinusoid(kin_ctx *ctx, const kin_sinusoid_args *a);
kin_status kin_cuda_loss(kin_ctx *ctx, const kin_loss_args *a);
kin_status kin_cuda_loss_bwd(kin_ctx *ctx, const kin_loss_args *a);
kin_status kin_cuda_binary(kin_ctx *ctx, const kin_binary_args *a);
kin_status kin_cuda_reduce(kin_ctx *ctx, const kin_reduce_args *a);
kin_status kin_cuda_unary(kin_ctx *ctx, const kin_unary_args *a);
kin_status kin_cuda_unary_bwd(kin_ctx *ctx, const kin_unary_args *a);
kin_status kin_cuda_gated_add(kin_ctx *ctx, const kin_gated_add_args *a);
kin_status kin_cuda_gate_bwd(kin_ctx *ctx, const kin_gate_bwd_args *a);
kin_status kin_cuda_conv(kin_ctx *ctx, const kin_conv_args *a);
kin_status kin_cuda_conv_dx(kin_ctx *ctx, const kin_conv_args *a);
kin_status kin_cuda_conv_dw(kin_ctx *ctx, const kin_conv_args *a);
kin_status kin_cuda_groupnorm(kin_ctx *ctx, const kin_groupnorm_args *a);
kin_status kin_cuda_groupnorm_bwd(kin_ctx *ctx, const kin_groupnorm_args *a);
kin_status kin_cuda_posterior(kin_ctx *ctx, const kin_posterior_args *a);
kin_status kin_cuda_posterior_bwd(kin_ctx *ctx, const kin_posterior_args *a);
kin_status kin_cuda_softmax(kin_ctx *ctx, const kin_softmax_args *a);
kin_status kin_cuda_softmax_bwd(kin_ctx *ctx, const kin_softmax_args *a);
kin_status kin_cuda_adamw(kin_ctx *ctx, const kin_adamw_args *a);
kin_status kin_cuda_copy(kin_ctx *ctx, const kin_tensor *src, kin_tensor *dst, bool acc);
kin_status kin_cuda_fill(kin_ctx *ctx, kin_tensor *dst, double value);
kin_status kin_cuda_transpose(kin_ctx *ctx, const kin_tensor *x, kin_tensor *y, bool acc);
kin_status kin_cuda_randn(kin_ctx *ctx, const kin_rng *rng, uint64_t first, kin_tensor *y);
kin_status kin_cuda_sumsq(kin_ctx *ctx, const kin_adamw_part *part, int64_t parts, double *out);

#ifdef __cplusplus
}
#endif

#endif
