/* tensor/cuda/emulate/lanes.h: what tests may ask of the emulated device and set on it. */
#ifndef KIN_TENSOR_CUDA_EMULATE_LANES_H
#define KIN_TENSOR_CUDA_EMULATE_LANES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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

/* Runs all that this thread has queued: for stand-ins of libraries, which compute at once. */
void kin_emulated_finish(void);

/* Bytes of kin_gpu_alloc at once, the most since the last call. The workspace is not among them. */
size_t kin_emulated_peak(void);

/* Recordings played since the last call. */
long kin_emulated_plays(void);
/* While set, recordings cannot be played, as where the device lacks the memory that they take. */
void kin_emulated_refuse_plays(bool refuse);

/* A hash over everything queued on this thread since the last call: kernels with their grids,
 * numbers and device addresses, copies with their places on the device. Equal for two pieces of
 * work: a recording of one is one of the other. */
uint64_t kin_emulated_log(void);

#ifdef __cplusplus
}
#endif

#endif
