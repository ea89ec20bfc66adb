/* tensor/cuda/emulate/library.cc: no product library: every product runs on the own kernels, but
 * those in e4m3, which have plain loops here so that what stands around the library is tested. */
#include "tensor/cuda/product.cuh"
#include "tensor/e4m3.h"

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

extern "C" kin_status kin_cuda_products_rate(kin_gpu *, int64_t, double *rate, kin_error *)
{
    *rate = 0;
    return KIN_OK;
}

extern "C" kin_cudnn *kin_cuda_cudnn(const kin_gpu *gpu)
{
    return gpu->cudnn;
}

bool kin_library_product(kin_cuda_call *, const kin_product *, bool)
{
    return false;
}

bool kin_library_sums(kin_cuda_call *, const kin_product *, float *)
{
    return false;
}

__global__ static void fp8_kernel(int64_t m, int64_t n, int64_t k, const uint8_t *x,
                                  const float *x_step, const uint8_t *w, const float *w_step,
                                  float *y, int64_t row)
{
    KIN_EACH(e, m * n)
    {
        const int64_t i = e / n, j = e % n;
        float sum = 0;
        for (int64_t l = 0; l < k; l++)
            sum += kin_e4m3_to_f32(x[i * k + l]) * kin_e4m3_to_f32(w[j * k + l]);
        y[i * row + j] = *x_step * *w_step * sum;
    }
}

bool kin_library_fp8(kin_cuda_call *c, const kin_product *p, kin_param *weight)
{
    const int64_t m = p->m, n = p->n, k = p->k, sizes[2] = {m, k};
    kin_tensor x = kin_tensor_of((void *)p->a.data, KIN_DTYPE_F32, 2, sizes), x8 = x;
    float *x_step = (float *)kin_cuda_scratch(c, 2 * sizeof(float)), *w_step = nullptr;
    x.stride[0] = p->a.row;
    x8.data = kin_cuda_scratch(c, (size_t)(m * k));
    const kin_tensor w8 = kin_cuda_value_fp8(c, weight, &w_step);
    const kin_sum_place to = kin_place_of_sum(c, p);
    kin_cuda_to_fp8(c, &x, &x8, x_step);
    const uint8_t *xq = (const uint8_t *)x8.data, *wq = (const uint8_t *)w8.data;
    KIN_LAUNCH(c, fp8_kernel, kin_blocks(m * n), KIN_THREADS, m, n, k, xq, x_step, wq, w_step,
               to.data, to.row);
    kin_product_epilogue(c, p, to.data, to.row);
    return true;
}
