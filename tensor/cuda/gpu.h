/* tensor/cuda/gpu.h: one device and its stream: memory and copies. gpu.cu is CUDA's, the one in
 * emulate/ keeps "device" memory behind page protection on a machine without a GPU (tests). */
#ifndef KIN_TENSOR_CUDA_GPU_H
#define KIN_TENSOR_CUDA_GPU_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "base/status.h" /* which says nothing about C++ */

typedef struct kin_gpu kin_gpu;

int kin_gpu_count(char *why, size_t bytes);
bool kin_gpu_describe(int index, char *text, size_t bytes);
/* Opens device `index` on the calling thread's stream with *range reserved addresses (fewer where
 * that is more than the device can ever fill), *base the first. Fails: UNSUPPORTED (no driver, no
 * such device, older than compute capability 8.0), BACKEND. */
kin_status kin_gpu_open(int index, size_t *range, char **base, kin_gpu **out, kin_error *err);
void kin_gpu_close(kin_gpu **gpu);
/* Makes the first `bytes` of the range usable. MEM when the device has no more. */
kin_status kin_gpu_commit(kin_gpu *gpu, size_t bytes, kin_error *err);

/* Memory beside the range, 256-byte aligned; NULL: none left. Freed without a gpu, so that it may
 * outlive it. */
void *kin_gpu_alloc(kin_gpu *gpu, size_t bytes);
void kin_gpu_free(void *p);

/* All are ordered after what was launched before. upload: `src` may change once it returns; read
 * returns when the bytes have arrived. */
kin_status kin_gpu_upload(kin_gpu *gpu, void *dst, const void *src, size_t bytes, kin_error *err);
kin_status kin_gpu_read(kin_gpu *gpu, void *dst, const void *src, size_t bytes, kin_error *err);
kin_status kin_gpu_copy(kin_gpu *gpu, void *dst, const void *src, size_t bytes, kin_error *err);
kin_status kin_gpu_wait(kin_gpu *gpu, kin_error *err);
/* The error of the launch just made, if any. */
kin_status kin_gpu_launched(kin_gpu *gpu, const char *op, kin_error *err);
/* What a report says of the device; false: not to be had. bf16_peak as kin_cuda_bf16_peak. */
typedef struct kin_gpu_facts {
    int capability; /* 90 for compute capability 9.0 */
    double bf16_peak;
    size_t used, total; /* bytes of its memory, by everybody */
} kin_gpu_facts;
bool kin_gpu_facts_of(const kin_gpu *gpu, kin_gpu_facts *out);
/* How often the host has waited for the device: read and wait. */
long kin_gpu_waits(const kin_gpu *gpu);

#ifdef __cplusplus
}
#endif

#endif
