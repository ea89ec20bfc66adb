/* tensor/cuda/gpu.h: one device: memory, copies and the two lanes (streams) its work is queued on.
 * gpu.cu is CUDA's, the one in emulate/ keeps "device" memory behind page protection on a machine
 * without a GPU (tests). */
#ifndef KIN_TENSOR_CUDA_GPU_H
#define KIN_TENSOR_CUDA_GPU_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "base/status.h" /* which says nothing about C++ */

typedef struct kin_gpu kin_gpu;

/* Devices that can be opened, which come first; 0 with the reason in why. */
int kin_gpu_count(char *why, size_t bytes);
bool kin_gpu_describe(int index, char *text, size_t bytes);
/* Opens device `index` with *range reserved addresses (fewer where that is more than the device can
 * ever fill), *base the first. Its compute lane is shared by all contexts of the calling thread.
 * Fails: UNSUPPORTED (no driver, no such device, older than compute capability 8.0), BACKEND. */
kin_status kin_gpu_open(int index, size_t *range, char **base, kin_gpu **out, kin_error *err);
void kin_gpu_close(kin_gpu **gpu);
/* Makes the first `bytes` of the range usable. MEM when the device has no more. */
kin_status kin_gpu_commit(kin_gpu *gpu, size_t bytes, kin_error *err);

/* Memory beside the range, 256-byte aligned; NULL: none left, or a kernel before has failed
 * (kin_gpu_wait then tells). Freed without a gpu, so that it may outlive it; what is queued on it
 * is done before. */
void *kin_gpu_alloc(kin_gpu *gpu, size_t bytes);
void kin_gpu_free(void *p);
/* Bytes of device memory that are free now. */
size_t kin_gpu_free_bytes(const kin_gpu *gpu);
/* Page-locked host memory; NULL: none left. Unpinned when no copy queued on it is left. */
void *kin_gpu_pinned(kin_gpu *gpu, size_t bytes);
void kin_gpu_unpin(void *p);

/* What follows is queued on one lane, in order; two lanes know of each other by events alone. */
typedef enum kin_gpu_lane { KIN_GPU_COMPUTE = 0, KIN_GPU_COPY, KIN_GPU_LANES } kin_gpu_lane;
enum { KIN_GPU_EVENTS = 136, KIN_GPU_ALIGN = 64 }; /* of kin_gpu_keep */

/* Launches and copies go to this lane from now on; at first to the compute lane. */
void kin_gpu_use(kin_gpu *gpu, kin_gpu_lane lane);
/* Queues a copy between device and host or within the device. Page-locked host memory must stay as
 * it is until the copy is done; from other host memory the bytes are taken before this returns, and
 * they have arrived when a copy to it returns. */
kin_status kin_gpu_copy(kin_gpu *gpu, void *dst, const void *src, size_t bytes, kin_error *err);
/* Event number `event` stands for what is queued on the lane up to here. */
kin_status kin_gpu_signal(kin_gpu *gpu, int event, kin_error *err);
/* What is queued on the lane from here on starts after the event, as it stands now. */
kin_status kin_gpu_after(kin_gpu *gpu, int event, kin_error *err);
/* The host waits for the event (one that was never signalled is there). */
kin_status kin_gpu_reach(kin_gpu *gpu, int event, kin_error *err);
/* The host waits for all that was queued on the lane; its errors, if any. */
kin_status kin_gpu_wait(kin_gpu *gpu, kin_error *err);
/* A recording: what is queued on the compute lane between record and recorded is kept and not run.
 * Meanwhile nothing else can be done: memory, events and waits are refused. `bytes`: of page-locked
 * memory for what it sends to the device (kin_gpu_keep). record false: cannot. recorded NULL:
 * something could not be kept. play queues it on the compute lane. */
typedef struct kin_gpu_recording kin_gpu_recording;
bool kin_gpu_record(kin_gpu *gpu, size_t bytes);
bool kin_gpu_is_recording(const kin_gpu *gpu);
/* A copy of host bytes that lasts as long as the recording; NULL: no room. */
const void *kin_gpu_keep(kin_gpu *gpu, const void *host, size_t bytes);
kin_gpu_recording *kin_gpu_recorded(kin_gpu *gpu);
kin_status kin_gpu_play(kin_gpu *gpu, kin_gpu_recording *r, kin_error *err);
/* NULL: nothing. Waits for the device. */
void kin_gpu_forget(kin_gpu_recording *r);
/* How often device memory beside the range was given back, by anybody. */
unsigned long kin_gpu_frees(void);

/* The error of the launch just made, if any. */
kin_status kin_gpu_launched(kin_gpu *gpu, const char *op, kin_error *err);
/* What a report says of the device; false: not to be had. bf16_peak as kin_cuda_bf16_peak. */
typedef struct kin_gpu_facts {
    int capability; /* 90 for compute capability 9.0 */
    double bf16_peak;
    size_t used, total; /* bytes of its memory, by everybody */
} kin_gpu_facts;
bool kin_gpu_facts_of(const kin_gpu *gpu, kin_gpu_facts *out);
/* How often the host has waited for the device: in wait, and in reach for an event that was not
 * there yet. */
long kin_gpu_waits(const kin_gpu *gpu);

#ifdef __cplusplus
}
#endif

#endif
