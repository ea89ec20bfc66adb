/* tensor/cuda/library_none.cc: no product library: every product runs on the own kernels. */
#include "tensor/cuda/product.cuh"

extern "C" kin_status kin_cuda_products_open(kin_gpu *, kin_error *)
{
    return KIN_OK;
}

extern "C" void kin_cuda_products_close(kin_gpu *)
{
}

extern "C" bool kin_cuda_products_library(const kin_gpu *)
{
    return false;
}

extern "C" kin_status kin_cuda_products_rate(kin_gpu *, int64_t, double *rate, kin_error *)
{
    *rate = 0;
    return KIN_OK;
}

bool kin_library_product(kin_cuda_call *, const kin_product *, bool)
{
    return false;
}
