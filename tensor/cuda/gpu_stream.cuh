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
    cudaStream_t stream;
    kin_gpu_range *range;
    long waits;
    void *products;          /* product.h: the library's handle, or NULL */
    struct kin_cudnn *cudnn; /* cudnn.h, or NULL */
};

#endif
