/* tensor/cuda/cudnn_graphs.h: the graphs that are given to cuDNN. A specification is a struct of
 * int64_t alone and the key of its plan (cudnn_plan.h); unused members are 0. */
#ifndef KIN_TENSOR_CUDA_CUDNN_GRAPHS_H
#define KIN_TENSOR_CUDA_CUDNN_GRAPHS_H

#include "tensor/cuda/cudnn_plan.h"

enum { /* kinds of graphs */
       KIN_CUDNN_ATTENTION = 1,
       KIN_CUDNN_ATTENTION_BWD,
       KIN_CUDNN_CONV,
       KIN_CUDNN_CONV_DX,
       KIN_CUDNN_CONV_DW
};

enum { /* tensors of attention: all bf16 but statistics and sums (f32) */
       KIN_CUDNN_Q,
       KIN_CUDNN_K,
       KIN_CUDNN_V,
       KIN_CUDNN_O,
       KIN_CUDNN_DO,
       KIN_CUDNN_DQ, /* gradients are contiguous [B,N,A,d] */
       KIN_CUDNN_DK,
       KIN_CUDNN_DV,
       KIN_CUDNN_STATS,  /* [B,A,Nq]: log-sum-exp of the scaled scores */
       KIN_CUDNN_DELTA,  /* [B,A,Nq], scratch: sum over columns of dout o */
       KIN_CUDNN_DQ_SUM, /* [B,A,Nq,d], scratch: dq is summed here */
       KIN_CUDNN_SCALE,  /* host values */
       KIN_CUDNN_ONE
};

typedef struct kin_cudnn_attention_spec {
    int64_t kind, batch, heads, nq, nk, d;
    int64_t stats;        /* forward: 1 if they are wanted */
    int64_t stride[5][3]; /* of q, k, v, o, dout [B,N,A,d]: sample, row, head, in elements */
} kin_cudnn_attention_spec;

/* o = softmax(scale q k^T) v as one operation. */
void kin_cudnn_build_attention(kin_cudnn_plan *p);
/* dq, dk and dv from recomputed probabilities, 18 operations that the library knows as a whole:
 * P = exp(scale q k^T - stats), dv = P^T dout, dS = scale P (dout v^T - delta), dk = dS^T q,
 * dq = dS k. */
void kin_cudnn_build_attention_bwd(kin_cudnn_plan *p);

enum { KIN_CUDNN_X, KIN_CUDNN_Y, KIN_CUDNN_W }; /* tensors of convolution, or their gradients */

typedef struct kin_cudnn_conv_spec {
    int64_t kind, bf16; /* type of all tensors: f32 or bf16 */
    int64_t batch, frames, height, width, in, out_frames, out_height, out_width, out;
    int64_t kt, kh, kw, stride, front, top, left; /* as in kin_conv_shape */
    int64_t tf32;                                 /* f32: engines that round to TF32 may be taken */
} kin_cudnn_conv_spec;

/* Convolution of x [batch,frames,height,width,in] with w [out,kt,kh,kw,in], its gradient in x or in
 * w: channels last, zeros before as the spec says and after as many as needed. Engines whose sums
 * have no fixed order, that round what is not bf16 (but to TF32 where it may be) or are compiled at
 * run time are left out. */
void kin_cudnn_build_conv(kin_cudnn_plan *p);

#endif
