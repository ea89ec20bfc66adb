/* tensor/cuda/pack.h: operands in the types and orders that cuDNN takes, and its results back in
 * those of the slots. Device memory throughout. */
#ifndef KIN_TENSOR_CUDA_PACK_H
#define KIN_TENSOR_CUDA_PACK_H

#include "tensor/cuda/call.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { KIN_PACK_MOST = 5, KIN_PACK_STEP = 8 };

typedef struct kin_pack_item {
    kin_tensor t;     /* f32 [B,N,A,d], any strides but the last, d a multiple of KIN_PACK_STEP */
    uint16_t *packed; /* bf16, as many elements, contiguous; 16-byte aligned */
    bool acc;
} kin_pack_item;

/* packed = t of each item, rounded to bf16; one launch. t may be bf16 too. */
void kin_cuda_pack(kin_cuda_call *c, const kin_pack_item *item, int count);
/* t = packed, or t += with acc, of each item; one launch. */
void kin_cuda_unpack(kin_cuda_call *c, const kin_pack_item *item, int count);

/* Pixels x [rows of s, in] f32 contiguous as `dtype` (f32 or bf16), every one doubled to 2x2 where
 * s->up is 2: x itself or scratch. */
kin_tensor kin_cuda_pack_pixels(kin_cuda_call *c, const kin_conv_shape *s, const kin_tensor *x,
                                kin_dtype dtype);
/* to [out,taps,in] (f32 or bf16) = from [out,in,taps] (any float type). */
void kin_cuda_pack_taps(kin_cuda_call *c, const kin_tensor *from, const kin_tensor *to,
                        int64_t taps);
/* to [out,in,taps] f32 += from [out,taps,in] (f32 or bf16). */
void kin_cuda_unpack_taps(kin_cuda_call *c, const kin_tensor *from, const kin_tensor *to,
                          int64_t taps);
/* y [m,n] f32 = from + bias + residual, y += with acc: all contiguous; from f32 (may be y itself
 * where acc is false) or bf16; bias [n] any float type, residual f32, either without data. */
void kin_cuda_unpack_rows(kin_cuda_call *c, const kin_tensor *from, const kin_tensor *bias,
                          const kin_tensor *residual, const kin_tensor *y, bool acc);

#ifdef __cplusplus
}
#endif

#endif
