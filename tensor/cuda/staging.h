/* tensor/cuda/staging.h: host memory to a lane of the device and back through page-locked memory in
 * two halves: while one half is on its way, the other is filled (or emptied). Mapped files are read
 * into it piece by piece. Where no memory can be page-locked, or KINEMA_CUDA_PINNED=0, the driver
 * copies from pageable memory. */
#ifndef KIN_TENSOR_CUDA_STAGING_H
#define KIN_TENSOR_CUDA_STAGING_H

#include "tensor/cuda/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { KIN_STAGING_EVENTS = 2, KIN_STAGING_HALF = 4 << 20 }; /* bytes */

typedef struct kin_staging {
    kin_gpu *gpu;
    int event;     /* the first of its events */
    char *half[2]; /* NULL: straight from pageable memory */
    int now;       /* the half that is being filled */
    size_t at;     /* bytes of it that are taken */
} kin_staging;

/* For one lane, which must be in use (kin_gpu_use) in the calls below. `event`: the first of its
 * events. */
void kin_staging_open(kin_staging *s, kin_gpu *gpu, int event);
void kin_staging_close(kin_staging *s);
/* Queues an upload; src may change once this returns. */
kin_status kin_staging_upload(kin_staging *s, void *dst, const void *src, size_t bytes,
                              kin_error *err);
/* Returns when the bytes have arrived; what was queued before is done then. */
kin_status kin_staging_read(kin_staging *s, void *dst, const void *src, size_t bytes,
                            kin_error *err);

#ifdef __cplusplus
}
#endif

#endif
