/* tensor/cuda/emulate/lanes.h: what tests may ask of the emulated device and set on it. */
#ifndef KIN_TENSOR_CUDA_EMULATE_LANES_H
#define KIN_TENSOR_CUDA_EMULATE_LANES_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Which lane runs as far as it can before the other one gets a turn. Both are orders that a device
 * may take; whoever forgets an event gets other bits in one of them. */
typedef enum kin_emulated_order {
    KIN_EMULATED_COPIES_LATE,
    KIN_EMULATED_COPIES_EARLY
} kin_emulated_order;
void kin_emulated_set_order(kin_emulated_order order);

/* Bytes of kin_gpu_alloc at once, the most since the last call. The workspace is not among them. */
size_t kin_emulated_peak(void);

#ifdef __cplusplus
}
#endif

#endif
