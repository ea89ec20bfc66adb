/* tensor/cuda/cudnn.h: what the slots ask of cuDNN. cudnn_calls.c, or cudnn_none.c in builds
 * without it. */
#ifndef KIN_TENSOR_CUDA_CUDNN_H
#define KIN_TENSOR_CUDA_CUDNN_H

#include "tensor/cuda/call.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kin_cudnn kin_cudnn;

/* The library for the calling thread's device and a stream (cudaStream_t); NULL: it cannot be used
 * here. */
kin_cudnn *kin_cudnn_load(void *stream);
void kin_cudnn_free(kin_cudnn **lib);
/* That of a device, or NULL. */
kin_cudnn *kin_cuda_cudnn(const kin_gpu *gpu);

/* The slots through cuDNN, to be asked before an operand of the call is taken. True: done, or the
 * call has failed. False: the own kernels have to do it. Attention: bf16 without bias, mask or
 * gate, head sizes that are multiples of 8; a result is rounded to bf16 once. Its gradient sums dq
 * in no fixed order: only with KINEMA_CUDA_DETERMINISTIC=0. Convolution: f32, and bf16 with results
 * rounded to bf16 once; 1x1 kernels are products and stay so. conv_dw adds w's gradient alone. */
bool kin_cudnn_attention(kin_cuda_call *c, const kin_attention_args *a);
bool kin_cudnn_attention_bwd(kin_cuda_call *c, const kin_attention_args *a);
bool kin_cudnn_conv(kin_cuda_call *c, const kin_conv_args *a);
bool kin_cudnn_conv_dx(kin_cuda_call *c, const kin_conv_args *a);
bool kin_cudnn_conv_dw(kin_cuda_call *c, const kin_conv_args *a);

#ifdef __cplusplus
}
#endif

#endif
