/* tensor/cuda/gpu_stream.cuh: what launches and libraries need of a device. */
#ifndef KIN_TENSOR_CUDA_GPU_STREAM_CUH
#define KIN_TENSOR_CUDA_GPU_STREAM_CUH

#include "tensor/cuda/gpu.h"

#ifdef KIN_EMULATED
#include "tensor/cuda/emulate/emulate.h"
#else
#include <cuda_runtime.h>
#endif

struct kin_gpu_range;
struct kin_gpu {
    int index;
    int capability;      /* 90 for compute capability 9.0 */
    cudaStream_t stream; /* of the lane in use */
    cudaStream_t lanes[KIN_GPU_LANES];
    cudaEvent_t events[KIN_GPU_EVENTS]; /* made when first signalled */
    kin_gpu_range *range;
    kin_gpu_recording *recording; /* that is being made, or NULL */
    long waits;
    void *products;          /* product.h: the library's handle, or NULL */
    struct kin_cudnn *cudnn; /* cudnn.h, or NULL */
};

#endif
