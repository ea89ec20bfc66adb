/* tensor/cuda/kernel.cuh: shared by all kernels: launches, element access, reductions of a block.
 * Kernels take tensor views by value; their data are device addresses, float operands are f32. */
#ifndef KIN_TENSOR_CUDA_KERNEL_CUH
#define KIN_TENSOR_CUDA_KERNEL_CUH

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "tensor/cuda/gpu_stream.cuh"

extern "C" {
#include "tensor/cuda/cuda.h"
#include "tensor/nd.h"
}

/* Launches kernel<<<grid, block>>>(...) unless the call has failed or the grid is empty. The kernel
 * may be a template in parentheses. */
#ifdef KIN_EMULATED
#define KIN_LAUNCH(c, kernel, grid, block, ...)                                         \
    do {                                                                                \
        const dim3 grid_ = (grid);                                                      \
        if ((c)->status == KIN_OK && grid_.x && grid_.y && grid_.z)                     \
            kin_emulated_launch((c)->gpu, grid_, dim3(block), (kernel), ##__VA_ARGS__); \
    } while (0)
#else
#define KIN_LAUNCH(c, kernel, grid, block, ...)                                 \
    do {                                                                        \
        const dim3 grid_ = (grid);                                              \
        if ((c)->status == KIN_OK && grid_.x && grid_.y && grid_.z) {           \
            (kernel)<<<grid_, dim3(block), 0, (c)->gpu->stream>>>(__VA_ARGS__); \
            kin_cuda_check_launch(c);                                           \
        }                                                                       \
    } while (0)
#endif

enum { KIN_WARP = 32, KIN_THREADS = 256 };

/* Blocks for n elements, one per thread; a kernel then walks on by the grid's size. */
static inline dim3 kin_blocks(int64_t n)
{
    const int64_t blocks = (n + KIN_THREADS - 1) / KIN_THREADS;
    return dim3((unsigned)(blocks < 65536 ? blocks : 65536));
}

/* for each element index i of n, over the whole grid */
#define KIN_EACH(i, n)                                               \
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, \
                 step_ = (int64_t)gridDim.x * blockDim.x;            \
         i < (n); i += step_)

__device__ static __forceinline__ float kin_bits_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

__device__ static __forceinline__ uint32_t kin_float_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

__device__ static __forceinline__ float kin_bf16_float(uint16_t v)
{
    return kin_bits_float((uint32_t)v << 16);
}

/* to nearest even; NaN stays NaN (tensor/tensor.c) */
__device__ static __forceinline__ uint16_t kin_float_bf16(float v)
{
    const uint32_t bits = kin_float_bits(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

__device__ static __forceinline__ float kin_round_bf16(float v)
{
    return kin_bf16_float(kin_float_bf16(v));
}

__device__ static __forceinline__ float kin_f16_float(uint16_t v)
{
    const uint32_t sign = (uint32_t)(v & 0x8000u) << 16, exponent = (v >> 10) & 31u;
    const uint32_t mant = v & 1023u;
    if (exponent == 31)
        return kin_bits_float(sign | 0x7f800000u | (mant << 13));
    if (exponent != 0)
        return kin_bits_float(sign | ((exponent + 112) << 23) | (mant << 13));
    const float f = (float)mant * 5.9604644775390625e-8f; /* 2^-24 */
    return sign ? -f : f;
}

__device__ static __forceinline__ uint16_t kin_float_f16(float v)
{
    const uint32_t bits = kin_float_bits(v), sign = (bits >> 16) & 0x8000u;
    uint32_t mag = bits & 0x7fffffffu;
    if (mag > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((mag >> 13) & 0x3ffu));
    if (mag >= 0x477ff000u)
        return (uint16_t)(sign | 0x7c00u);
    if (mag < 0x38800000u)
        return (uint16_t)(sign | (kin_float_bits(kin_bits_float(mag) + 0.5f) - 0x3f000000u));
    mag += 0xc8000000u + 0xfffu + ((mag >> 13) & 1u);
    return (uint16_t)(sign | (mag >> 13));
}

/* Element `at` (in elements) of memory of a float or integer type. */
__device__ static __forceinline__ float kin_load(const void *p, int dtype, int64_t at)
{
    switch (dtype) {
    case KIN_DTYPE_F32: return ((const float *)p)[at];
    case KIN_DTYPE_F64: return (float)((const double *)p)[at];
    case KIN_DTYPE_BF16: return kin_bf16_float(((const uint16_t *)p)[at]);
    case KIN_DTYPE_F16: return kin_f16_float(((const uint16_t *)p)[at]);
    case KIN_DTYPE_I8: return (float)((const int8_t *)p)[at];
    case KIN_DTYPE_U8: return (float)((const uint8_t *)p)[at];
    case KIN_DTYPE_I32: return (float)((const int32_t *)p)[at];
    default: return NAN;
    }
}

__device__ static __forceinline__ float kin_at(const kin_tensor &t, int64_t at)
{
    return kin_load(t.data, t.dtype, at);
}

/* Element [r, c] of an f32 matrix view. */
__device__ static __forceinline__ float *kin_ptr2(const kin_tensor &t, int64_t r, int64_t c)
{
    return (float *)t.data + r * t.stride[0] + c * t.stride[1];
}

__device__ static __forceinline__ float kin_get2(const kin_tensor &t, int64_t r, int64_t c)
{
    return *kin_ptr2(t, r, c);
}

__device__ static __forceinline__ int32_t kin_int2(const kin_tensor &t, int64_t r, int64_t c)
{
    return ((const int32_t *)t.data)[r * t.stride[0] + c * t.stride[1]];
}

__device__ static __forceinline__ void kin_put(float *at, float v, bool acc)
{
    *at = acc ? *at + v : v;
}

/* Row and column of flat index i in rows of n. note: a division of 32 bits takes a fifth of the
 * instructions of one of 64 */
__device__ static __forceinline__ void kin_split(int64_t i, int64_t n, int64_t *row, int64_t *col)
{
    *row = ((uint64_t)(i | n) >> 32) == 0 ? (int64_t)((uint32_t)i / (uint32_t)n) : i / n;
    *col = i - *row * n;
}

/* Views of one shape as kernels walk them. A view without data has strides 0. */
static inline kin_nd kin_views(const kin_tensor *shape, const kin_tensor *a, const kin_tensor *b,
                               const kin_tensor *c)
{
    const kin_tensor *const v[KIN_ND_VIEWS] = {a && a->data ? a : NULL, b && b->data ? b : NULL,
                                               c && c->data ? c : NULL};
    kin_nd nd = {}; /* whole, as launches are compared by their bytes */
    kin_nd_init(&nd, shape, v);
    return nd;
}

/* note: every index is fixed once the loop is written out, so that nd stays where the launch put it
 * instead of moving to memory of the thread */
template <typename I>
__device__ static __forceinline__ void kin_places_of(const kin_nd &nd, I i,
                                                     int64_t at[KIN_ND_VIEWS])
{
#pragma unroll
    for (int d = KIN_MAX_DIMS - 1; d > 0; d--) {
        if (d >= nd.ndim)
            continue;
        const I size = (I)nd.size[d], rest = i / size, c = i - rest * size;
        i = rest;
        for (int v = 0; v < KIN_ND_VIEWS; v++)
            at[v] += (int64_t)c * nd.stride[v][d];
    }
    for (int v = 0; v < KIN_ND_VIEWS; v++)
        at[v] += (int64_t)i * nd.stride[v][0];
}

/* Positions of flat index i, below n, in each view. */
__device__ static __forceinline__ void kin_places(const kin_nd &nd, int64_t n, int64_t i,
                                                  int64_t at[KIN_ND_VIEWS])
{
    for (int v = 0; v < KIN_ND_VIEWS; v++)
        at[v] = 0;
    if (n <= UINT32_MAX)
        kin_places_of(nd, (uint32_t)i, at);
    else
        kin_places_of(nd, i, at);
}

__device__ static __forceinline__ float kin_sigmoid(float x)
{
    const float e = expf(-fabsf(x));
    return x >= 0 ? 1.0f / (1.0f + e) : e / (1.0f + e);
}

__device__ static __forceinline__ float kin_gelu_tanh(float x)
{
    return tanhf(0.79788456080286535588f * (x + 0.044715f * x * x * x));
}

__device__ static __forceinline__ float kin_wisa_factor(float x)
{
    return x < 0 ? 0.0f : (x > 1 ? 0.10f : 0.05f * x) / (1.0f + x + 1e-5f);
}

__device__ static __forceinline__ float kin_act_of(int act, float x)
{
    switch (act) {
    case KIN_ACT_GELU_TANH: return 0.5f * x * (1.0f + kin_gelu_tanh(x));
    case KIN_ACT_SILU: return x * kin_sigmoid(x);
    case KIN_ACT_SIGMOID: return kin_sigmoid(x);
    case KIN_ACT_RELU: return x > 0 ? x : 0.0f;
    case KIN_ACT_WISA_LOSS: return kin_wisa_factor(x) * (1.0f + x);
    default: return x;
    }
}

__device__ static __forceinline__ float kin_act_slope(int act, float x)
{
    float t, s;
    switch (act) {
    case KIN_ACT_GELU_TANH:
        t = kin_gelu_tanh(x);
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.79788456080286535588f *
                                       (1.0f + 3.0f * 0.044715f * x * x);
    case KIN_ACT_SILU: s = kin_sigmoid(x); return s * (1.0f + x * (1.0f - s));
    case KIN_ACT_SIGMOID: s = kin_sigmoid(x); return s * (1.0f - s);
    case KIN_ACT_RELU: return x > 0 ? 1.0f : 0.0f;
    case KIN_ACT_WISA_LOSS: return kin_wisa_factor(x);
    default: return 1.0f;
    }
}

/* Sum over a one-dimensional block, in a fixed order, given to every thread. All threads
 * must call it; the block is a multiple of a warp. */
template <typename T> __device__ static T kin_block_sum(T v)
{
    __shared__ T part[32];
    for (int mask = KIN_WARP / 2; mask > 0; mask /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, mask);
    if (threadIdx.x % KIN_WARP == 0)
        part[threadIdx.x / KIN_WARP] = v;
    __syncthreads();
    T sum = 0;
    for (unsigned i = 0; i < blockDim.x / KIN_WARP; i++)
        sum += part[i];
    __syncthreads();
    return sum;
}

#endif
