/* tensor/ctx.h: the context every op runs on, and its workspace.
 * One context per model instance and thread of control; no global state. */
#ifndef KIN_TENSOR_CTX_H
#define KIN_TENSOR_CTX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "tensor/tensor.h"

typedef struct kin_kernels kin_kernels;
typedef struct kin_tape kin_tape;

typedef enum kin_backend {
    KIN_BACKEND_REF = 0,
    KIN_BACKEND_CPU,
    KIN_BACKEND_PLAN,
    KIN_BACKEND_CUDA
} kin_backend;

/* ISA levels of the CPU backend, in rising order. AMX_EMULATED runs the code of AMX with the tile
 * instructions done in software (needs AVX-512): for tests, slow, never detected. */
typedef enum kin_isa {
    KIN_ISA_NONE = 0,
    KIN_ISA_AVX2,
    KIN_ISA_AVX512,
    KIN_ISA_AMX_EMULATED,
    KIN_ISA_AMX
} kin_isa;

/* How f32 products are done. HIGH: on AMX tiles as three products of bf16 halves, normwise error
 * about 2^-16; at levels without AMX the same as HIGHEST. CUDA: dense products and convolutions
 * that a library does may round their operands to TF32 (10 bits, error about 2^-11); own kernels as
 * under HIGHEST. */
typedef enum kin_precision { KIN_PRECISION_HIGHEST = 0, KIN_PRECISION_HIGH } kin_precision;

/* The workspace: one reserved address range, committed on touch, with a bump pointer. */
typedef struct kin_ws {
    char *base;
    size_t reserved; /* bytes of address space */
    size_t limit;    /* bytes that may be used; beyond: KIN_ERR_MEM */
    size_t used, peak;
} kin_ws;

/* Work counted by the kernels' callers: products only in flops, all operands once in bytes. */
typedef struct kin_cost {
    double flops, bytes;
} kin_cost;

typedef struct kin_ctx {
    kin_error error;
    const kin_kernels *k; /* the backend's kernel table */
    kin_backend backend;
    kin_isa isa;       /* level in use (CPU backend), or planned for */
    int threads;       /* >= 1 */
    kin_dtype compute; /* F32, BF16: rounding of the operands of linear products and attention; I8,
                          F8: inference alone, see kernels.h */
    kin_precision precision; /* of products in F32 */
    uint32_t dense_onednn;   /* CPU backend: set of dense products left to oneDNN, see
                                tensor/cpu/choose.h */
    kin_ws ws;
    struct kin_device *device; /* NULL where tensors lie in host memory; tensor/device.h */
    size_t packed;             /* bytes of packed weights made on this context */
    size_t peak;               /* the most that workspace and packed weights took together */
    kin_tape *tape;            /* NULL: not recording */
    kin_cost cost;
    /* Called for named intermediate tensors where set (golden runner, inspect); never changes
     * results. */
    void (*tap)(void *user, const char *name, const kin_tensor *t);
    void *tap_user;
} kin_ctx;

typedef struct kin_ctx_options {
    kin_backend backend;
    kin_isa isa;             /* KIN_ISA_NONE: the best this machine has, or KINEMA_ISA=avx2|avx512|
                                amx-emulated|amx */
    int threads;             /* 0: OMP_NUM_THREADS or all cores */
    kin_dtype compute;       /* F32 (default), BF16, I8 (CPU) or F8 (CUDA) */
    kin_precision precision; /* HIGHEST (default) */
    size_t ws_limit;         /* 0: no limit beyond the address space */
    int device;              /* CUDA: its number */
    size_t offload;          /* CUDA: parameters lie in host memory and come, when they are used,
                                to this many bytes of the device; KIN_OFFLOAD_AUTO: half of what is
                                free there; 0: all of them stay on the device */
} kin_ctx_options;
#define KIN_OFFLOAD_AUTO SIZE_MAX

/* Creates a context. *out is the caller's: kin_ctx_destroy. Fails: ARG (threads < 0, unknown ISA
 * name in KINEMA_ISA, offload without CUDA), UNSUPPORTED (an ISA level this machine lacks; no CUDA
 * device, int8 on it, fp8 elsewhere or on one below compute capability 8.9), MEM. err receives the
 * text. */
kin_status kin_ctx_create(const kin_ctx_options *opt, kin_ctx **out, kin_error *err);
void kin_ctx_destroy(kin_ctx **ctx);

/* Best level the machine has; whether it can run this one; its name: "avx2", "avx512",
 * "amx-emulated", "amx", "none". */
kin_isa kin_isa_detect(void);
bool kin_isa_available(kin_isa isa);
const char *kin_isa_name(kin_isa isa);

static inline bool kin_ctx_is_plan(const kin_ctx *ctx)
{
    return ctx->backend == KIN_BACKEND_PLAN;
}

/* A contiguous, uninitialised tensor in the workspace, 64-byte aligned; valid until the mark below
 * it is released. */
kin_status kin_ws_tensor(kin_ctx *ctx, kin_dtype dtype, int ndim, const int64_t *sizes,
                         kin_tensor *out);
#define KIN_WS(ctx, out, dtype, ...)                                                         \
    kin_ws_tensor((ctx), (dtype), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
                  (int64_t[]){__VA_ARGS__}, (out))
/* The same in host memory whatever the backend: for tensors that the caller fills or reads itself.
 * Kernels take them like any other (a device copies them in and out). */
kin_status kin_ws_host(kin_ctx *ctx, kin_dtype dtype, int ndim, const int64_t *sizes,
                       kin_tensor *out);
#define KIN_WS_HOST(ctx, out, dtype, ...)                                                  \
    kin_ws_host((ctx), (dtype), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
                (int64_t[]){__VA_ARGS__}, (out))
/* t as memory that may be read here: t itself, or a copy in the workspace of what lies on a device
 * (which waits for the kernels before it). */
kin_status kin_host(kin_ctx *ctx, const kin_tensor *t, kin_tensor *out);
/* Brings what was written into kin_host's copy back to t; nothing where the two are one. */
kin_status kin_host_back(kin_ctx *ctx, const kin_tensor *host, const kin_tensor *t);
/* *t, made by kin_ws_host and filled, moves to where kernels read it fastest. */
kin_status kin_settle(kin_ctx *ctx, kin_tensor *t);
/* Element 0 of t, wherever it lies. */
kin_status kin_scalar(kin_ctx *ctx, const kin_tensor *t, double *out);
/* The same of n f32 tensors at once (a device is waited for once); 0 for one without data. */
kin_status kin_scalars(kin_ctx *ctx, const kin_tensor *const *t, int n, double *out);
/* Raw host bytes, 64-byte aligned; NULL sets ctx->error (MEM). */
void *kin_ws_bytes(kin_ctx *ctx, size_t bytes);
/* Packed weights of `bytes` more have been made, for ctx->packed and ctx->peak. */
void kin_ctx_add_packed(kin_ctx *ctx, size_t bytes);
size_t kin_ws_mark(const kin_ctx *ctx);
void kin_ws_release(kin_ctx *ctx, size_t mark);
/* Releases everything above the mark but the contiguous *t (made above it), which moves down to the
 * mark. note: not while recording, when other tensors above the mark are still needed. */
kin_status kin_ws_keep(kin_ctx *ctx, size_t mark, kin_tensor *t);

/* Hands a tensor to the tap under a formatted name, if a tap is set. */
void kin_tap(kin_ctx *ctx, const kin_tensor *t, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
