/* tensor/cuda/offload.h: parameters that do not stay on the device. Their values lie in host
 * memory; copies come to one block of device memory, the budget, when an operation uses them, and
 * leave it for others. The order in which they were used first is taken for the order of the next
 * pass: while an operation runs, the copies that come next are brought on the copy lane, in the
 * place of those that are needed last (where the order is that of a cycle, least recently used
 * would throw out what comes next). A wrong guess costs time, never bits. */
#ifndef KIN_TENSOR_CUDA_OFFLOAD_H
#define KIN_TENSOR_CUDA_OFFLOAD_H

#include "tensor/cuda/gpu.h"
#include "tensor/ctx.h"
#include "tensor/params.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kin_offload kin_offload;
typedef struct kin_held kin_held; /* one form of one parameter: its value, or that in bf16 */

enum { KIN_OFFLOAD_EVENTS = 130 };

/* Takes `budget` bytes of device memory. `event`: the first of its events. Fails: MEM. */
kin_status kin_offload_open(kin_ctx *ctx, kin_gpu *gpu, size_t budget, int event, kin_offload **out,
                            kin_error *err);
/* Its forms stay valid objects, without data. */
void kin_offload_close(kin_offload **offload);

/* A form of p; NULL: out of memory. The caller's: kin_held_free, also after the offload is closed.
 */
kin_held *kin_held_create(kin_offload *o, kin_param *p, bool bf16);
void kin_held_free(void *held);
/* True if it is one of o's. */
bool kin_held_of(const kin_held *held, const kin_offload *o);

/* One operation: begin, use of each form it reads, launches, end. A form that was used stays where
 * it is until the end. use: *data is its device address, good for launches on the compute lane.
 * Fails: MEM (the forms of one operation pass the budget), BACKEND. */
void kin_offload_begin(kin_offload *o);
kin_status kin_offload_use(kin_offload *o, kin_held *held, void **data);
kin_status kin_offload_end(kin_offload *o);

#ifdef __cplusplus
}
#endif

#endif
