/* tensor/cuda/library.cuh: the product library of a device (kin_gpu.products). */
#ifndef KIN_TENSOR_CUDA_LIBRARY_CUH
#define KIN_TENSOR_CUDA_LIBRARY_CUH

#include "tensor/cuda/lt.h"
#include "tensor/cuda/product.cuh"

struct library {
    kin_lt *lt;
    void *workspace;
    bool epilogues;
    /* Of each type and epilogue (bias, aux, slope): 0 not tried, 1 holds, -1 does not */
    signed char gelu[3][5];
};

#endif
