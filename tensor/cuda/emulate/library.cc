/* tensor/cuda/library_none.cc: no product library: every product runs on the own kernels. */
#include "tensor/cuda/product.cuh"

#include "tensor/cuda/cudnn.h"

extern "C" kin_status kin_cuda_products_open(kin_gpu *gpu, kin_error *)
{
    gpu->cudnn = kin_cudnn_load(nullptr);
    return KIN_OK;
}

extern "C" void kin_cuda_products_close(kin_gpu *gpu)
{
    kin_cudnn_free(&gpu->cudnn);
}

extern "C" bool kin_cuda_products_library(const kin_gpu *)
{
    return false;
}

extern "C" kin_cudnn *kin_cuda_cudnn(const kin_gpu *gpu)
{
    return gpu->cudnn;
}

bool kin_library_product(kin_cuda_call *, const kin_product *, bool)
{
    return false;
}
