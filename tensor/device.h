/* tensor/device.h: what a backend whose tensors lie in a memory of their own tells the context.
 * One range of offsets serves both memories: a record or a host tensor at offset o of the workspace
 * lies at ws.base + o, a device tensor at device->base + o. Marks, releases and peaks are those of
 * the workspace. Tensors of the workspace are device memory unless made by kin_ws_host. */
#ifndef KIN_TENSOR_DEVICE_H
#define KIN_TENSOR_DEVICE_H

#include "tensor/ctx.h"
#include "tensor/params.h"

/* What a report says of a device: bytes, and products in bf16 per second (2 per multiply-add). */
typedef struct kin_device_facts {
    int capability;       /* 90 for CUDA's compute capability 9.0 */
    size_t used, total;   /* memory in use by all, and there is */
    double bf16_peak;     /* dense, by the maker's figures; 0: not known */
    double bf16_measured; /* of the product library itself, n x n x n; 0: no library */
} kin_device_facts;

typedef struct kin_device {
    char *base;   /* device address of the workspace's first byte */
    size_t bytes; /* of that address range */
    char name[96];
    bool library; /* dense products by a library: a row's bits may depend on the number of rows */
    long cudnn_launches; /* graphs of cuDNN run so far; -1: it cannot be used here */
    /* Makes the first `used` bytes of the range usable. Fails: MEM. */
    kin_status (*commit)(kin_ctx *ctx, size_t used);
    /* Copies within the range, dst below src; the two may overlap. */
    kin_status (*move)(kin_ctx *ctx, void *dst, const void *src, size_t bytes);
    /* Reads device memory into host memory; what was launched before is done then. */
    kin_status (*read)(kin_ctx *ctx, void *host, const void *device, size_t bytes);
    /* Host memory whose true contents lie on the device from now on: kernels use it in place, the
     * host reads it after `pull` and does not write it. `release` takes the range that starts at
     * host back, without reading it. Fails: MEM, ARG (part of it was adopted before). */
    kin_status (*adopt)(kin_ctx *ctx, void *host, size_t bytes);
    kin_status (*pull)(kin_ctx *ctx, void *host, size_t bytes);
    void (*release)(kin_ctx *ctx, const void *host);
    /* The device's limits, for reports; n: side of the product that is measured, 0: none. Fails:
     * BACKEND, MEM. */
    kin_status (*facts)(kin_ctx *ctx, int64_t n, kin_device_facts *out);
    /* Waits for all that was launched; its errors, if any. */
    kin_status (*wait)(kin_ctx *ctx);
    /* How often the host has waited for the device. */
    long (*waits)(const kin_ctx *ctx);
    /* Recordings, for tensor/replay.h. What is launched between record and recorded is kept and not
     * run; `uploads` bytes at most are sent to the device by it. record false: cannot (and then
     * nothing was begun); recorded NULL: something could not be kept. */
    bool (*record)(kin_ctx *ctx, size_t uploads);
    void *(*recorded)(kin_ctx *ctx);
    kin_status (*play)(kin_ctx *ctx, void *recording);
    void (*forget)(void *recording);
    /* Another number when memory that a recording names may hold something else. */
    uint64_t (*changes)(const kin_ctx *ctx);
    /* The forms of parameters that work on the device reads are made again of values that have
     * changed, in place; where that cannot be, `changes` is another number then. Fails: as the
     * kernels. */
    kin_status (*refresh)(kin_ctx *ctx, const kin_params *params);
    size_t uploaded; /* bytes sent to the device by calls so far, weights left out; each piece
                        padded as in a recording */
    void (*close)(struct kin_device **device);
} kin_device;

/* True if p lies in the device's workspace. */
static inline bool kin_device_holds(const kin_device *d, const void *p)
{
    return (const char *)p >= d->base && (const char *)p < d->base + d->bytes;
}

/* Elements from the view's first to its last in memory (strides are never negative). 0 for an empty
 * view. */
int64_t kin_device_span(const kin_tensor *t);

/* Opens device `index` for ctx, whose workspace reserves `bytes` addresses, and fills its kernel
 * table. offload: as kin_ctx_options. Fails: UNSUPPORTED (built without CUDA, no driver, no such
 * device, too old a device), MEM. The one without CUDA is tensor/cuda/none.c. */
kin_status kin_cuda_open(kin_ctx *ctx, int index, size_t offload, kin_kernels *k, kin_error *err);
/* How many devices, from number 0 on, can be used; 0 without CUDA or driver; why[bytes] says why
 * when there is none. */
int kin_cuda_count(char *why, size_t bytes);
/* Name and memory of device `index`; false if there is none. */
bool kin_cuda_describe(int index, char *text, size_t bytes);

#endif
