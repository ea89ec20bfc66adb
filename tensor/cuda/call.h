/* tensor/cuda/call.h: one call of a kernel slot on the device: where its operands lie there. A
 * tensor of the workspace is used in place; one in host memory (ids, masks, a caller's result) is
 * copied in before the launch and, if written, out after it. Parameters have a copy on the device
 * that follows their version; gradients and optimizer state are host memory like any other unless
 * their range was adopted (kin_device.adopt).
 *
 * A slot opens a call, asks for the device view of each operand, launches, and closes:
 *     kin_cuda_call c = kin_cuda_begin(ctx, "rope");
 *     kin_tensor x = kin_cuda_in(&c, a->x), y = kin_cuda_out(&c, a->y, a->acc);
 *     ... launch ...
 *     return kin_cuda_end(&c);
 * The first failure is kept in c.status and makes every later step do nothing. */
#ifndef KIN_TENSOR_CUDA_CALL_H
#define KIN_TENSOR_CUDA_CALL_H

#include "tensor/cuda/gpu.h"
#include "tensor/device.h"
#include "tensor/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kin_cuda_result { /* to be brought back to host memory; in the workspace */
    struct kin_cuda_result *next;
    void *host;
    const void *device;
    size_t bytes;
} kin_cuda_result;

typedef struct kin_cuda_call {
    kin_ctx *ctx;
    kin_gpu *gpu;
    const char *op;
    kin_status status;
    size_t mark; /* of the workspace */
    bool f64;    /* f64 operands are taken (copies) */
    kin_cuda_result *results;
} kin_cuda_call;

/* True with KINEMA_CUDA_TILES=small: products and attention in bf16 run on the simpler kernels. */
bool kin_cuda_small_tiles(void);
/* True where operands of products are rounded to bf16: under BF16, and under F8 what is not done in
 * e4m3. */
static inline bool kin_cuda_in_bf16(const kin_ctx *ctx)
{
    return ctx->compute == KIN_DTYPE_BF16 || ctx->compute == KIN_DTYPE_F8;
}

kin_cuda_call kin_cuda_begin(kin_ctx *ctx, const char *op);
/* Copies results back, releases scratch. */
kin_status kin_cuda_end(kin_cuda_call *c);

/* Device views; data NULL where t is NULL or has no data. f64 is UNSUPPORTED unless the
 * call takes it.
 * out: keep true where the old values (or what lies between the rows) matter. */
kin_tensor kin_cuda_in(kin_cuda_call *c, const kin_tensor *t);
kin_tensor kin_cuda_out(kin_cuda_call *c, const kin_tensor *t, bool keep);
/* The value of p in its own type, flat [size0, rest]; p NULL: no data. */
kin_tensor kin_cuda_value(kin_cuda_call *c, kin_param *p);
/* The same in bf16, converted once per version. */
kin_tensor kin_cuda_value_bf16(kin_cuda_call *c, kin_param *p);
/* The same in e4m3, made once per version; *step: device address of its factor
 * (kin_cuda_to_fp8). */
kin_tensor kin_cuda_value_fp8(kin_cuda_call *c, kin_param *p, float **step);
/* The value of p [out,in,taps] as [out,taps,in], f32 or bf16, made once per version. */
kin_tensor kin_cuda_value_taps(kin_cuda_call *c, kin_param *p, int64_t taps, kin_dtype dtype);
/* The gradient of p, flat likewise; no data where none is wanted. */
kin_tensor kin_cuda_grad(kin_cuda_call *c, const kin_param *p);
/* n floats (or bytes) of host memory, read and, if written, brought back. */
void *kin_cuda_floats(kin_cuda_call *c, float *host, int64_t n, bool written);
/* A copy of host bytes on the device, for the call. */
void *kin_cuda_bytes(kin_cuda_call *c, const void *host, size_t bytes);
/* Uninitialised device memory for the call. */
void *kin_cuda_scratch(kin_cuda_call *c, size_t bytes);
/* Sets the call's failure (the first one stays). */
void kin_cuda_fail(kin_cuda_call *c, kin_status status, const char *rule);
void kin_cuda_check_launch(kin_cuda_call *c);
/* Device bytes to host memory; waits. */
void kin_cuda_read(kin_cuda_call *c, void *host, const void *device, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
