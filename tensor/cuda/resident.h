/* tensor/cuda/resident.h: host memory whose true contents lie on the device while it is adopted:
 * weights in training, their gradients, optimizer state. Pointers into it stay host addresses. */
#ifndef KIN_TENSOR_CUDA_RESIDENT_H
#define KIN_TENSOR_CUDA_RESIDENT_H

#include <stddef.h>

#include "tensor/cuda/staging.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kin_resident { /* one range */
    char *host, *device;
    size_t bytes;
} kin_resident;

typedef struct kin_residents { /* in order of host, none crossing another */
    kin_resident *list;
    int count, cap;
} kin_residents;

/* Uploads the range and keeps it. Fails: MEM, ARG (crosses an adopted one). */
kin_status kin_residents_adopt(kin_residents *r, kin_staging *via, void *host, size_t bytes,
                               kin_error *err);
/* Device address of an address inside an adopted range, NULL for others. */
void *kin_residents_find(const kin_residents *r, const void *host);
/* Gives up the range that starts at host. */
void kin_residents_release(kin_residents *r, const void *host);
void kin_residents_free(kin_residents *r);

#ifdef __cplusplus
}
#endif

#endif
