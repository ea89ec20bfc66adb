#include "tensor/cuda/kernel.cuh"

#include "tensor/cuda/pack.h"

namespace
{

struct items {
    kin_pack_item item[KIN_PACK_MOST];
};

/* Where eight neighbours of an item lie in t. */
__device__ int64_t place(const kin_tensor &t, int64_t i)
{
    /* note: 32 bits, in which division is fast; the host has looked */
    const unsigned d = (unsigned)t.size[3], heads = (unsigned)t.size[2];
    const unsigned rows = (unsigned)t.size[1], at = (unsigned)(i * KIN_PACK_STEP);
    const unsigned row = at / d, n = row / heads;
    return n / rows * t.stride[0] + n % rows * t.stride[1] + row % heads * t.stride[2] + at % d;
}

__device__ int64_t elements(const kin_tensor &t)
{
    return t.size[0] * t.size[1] * t.size[2] * t.size[3];
}

/* Eight neighbours, read and written in pieces of 16 bytes where their address allows it. */
template <typename T> struct alignas(16) eight {
    T v[KIN_PACK_STEP];
};

template <typename T> __device__ eight<T> take(const T *from, bool aligned)
{
    if (aligned)
        return *(const eight<T> *)from;
    eight<T> e;
    for (int k = 0; k < KIN_PACK_STEP; k++)
        e.v[k] = from[k];
    return e;
}

template <typename T> __device__ void put(T *to, const eight<T> &e, bool aligned)
{
    if (aligned) {
        *(eight<T> *)to = e;
        return;
    }
    for (int k = 0; k < KIN_PACK_STEP; k++)
        to[k] = e.v[k];
}

__device__ bool aligned(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

__global__ void pack_kernel(items all)
{
    const kin_pack_item &it = all.item[blockIdx.y];
    KIN_EACH(i, elements(it.t) / KIN_PACK_STEP)
    {
        const int64_t from = place(it.t, i);
        eight<uint16_t> out;
        if (it.t.dtype == KIN_DTYPE_BF16) {
            out = take((const uint16_t *)it.t.data + from, false);
        } else {
            const float *p = (const float *)it.t.data + from;
            const eight<float> in = take(p, aligned(p));
            for (int k = 0; k < KIN_PACK_STEP; k++)
                out.v[k] = kin_float_bf16(in.v[k]);
        }
        put(it.packed + i * KIN_PACK_STEP, out, true);
    }
}

__global__ void unpack_kernel(items all)
{
    const kin_pack_item &it = all.item[blockIdx.y];
    KIN_EACH(i, elements(it.t) / KIN_PACK_STEP)
    {
        float *p = (float *)it.t.data + place(it.t, i);
        const eight<uint16_t> in = take(it.packed + i * KIN_PACK_STEP, true);
        eight<float> out = {};
        if (it.acc)
            out = take(p, aligned(p));
        for (int k = 0; k < KIN_PACK_STEP; k++)
            out.v[k] += kin_bf16_float(in.v[k]);
        put(p, out, aligned(p));
    }
}

/* Blocks for the largest item, one row of them for each. */
dim3 grid_of(kin_cuda_call *c, const kin_pack_item *item, int count, items *all)
{
    int64_t most = 0;
    for (int k = 0; k < count; k++) {
        const int64_t n = kin_tensor_numel(&item[k].t);
        all->item[k] = item[k];
        most = n > most ? n : most;
    }
    if (most > INT32_MAX)
        kin_cuda_fail(c, KIN_ERR_UNSUPPORTED, "2^31 elements or more");
    return dim3(kin_blocks(most / KIN_PACK_STEP).x, (unsigned)count);
}

__global__ void double_kernel(kin_conv_shape s, kin_tensor x, kin_tensor to)
{
    const int64_t height = s.height * s.up, width = s.width * s.up;
    KIN_EACH(e, s.batch * s.frames * height * width * s.in)
    {
        const int64_t channel = e % s.in, pixel = e / s.in;
        const int64_t j = pixel % width, i = pixel / width % height, f = pixel / width / height;
        const float v =
            kin_at(x, ((f * s.height + i / s.up) * s.width + j / s.up) * s.in + channel);
        if (to.dtype == KIN_DTYPE_BF16)
            ((uint16_t *)to.data)[e] = kin_float_bf16(v);
        else
            ((float *)to.data)[e] = v;
    }
}

__global__ void pack_taps_kernel(int64_t n, int64_t in, int64_t taps, kin_tensor from,
                                 kin_tensor to)
{
    KIN_EACH(e, n)
    {
        const int64_t channel = e % in, tap = e / in % taps, o = e / in / taps;
        const float v = kin_at(from, (o * in + channel) * taps + tap);
        if (to.dtype == KIN_DTYPE_BF16)
            ((uint16_t *)to.data)[e] = kin_float_bf16(v);
        else
            ((float *)to.data)[e] = v;
    }
}

__global__ void unpack_taps_kernel(int64_t n, int64_t in, int64_t taps, kin_tensor from, float *to)
{
    KIN_EACH(e, n)
    {
        const int64_t tap = e % taps, channel = e / taps % in, o = e / taps / in;
        to[e] += kin_at(from, (o * taps + tap) * in + channel);
    }
}

__global__ void unpack_rows_kernel(int64_t n, int64_t cols, kin_tensor from, kin_tensor bias,
                                   const float *residual, float *y, bool acc)
{
    KIN_EACH(e, n)
    {
        float v = kin_at(from, e);
        if (bias.data)
            v += kin_at(bias, e % cols);
        if (residual)
            v += residual[e];
        kin_put(y + e, v, acc);
    }
}

} // namespace

static void launch(kin_cuda_call *c, const kin_pack_item *item, int count, void (*kernel)(items))
{
    items all = {};
    if (count == 0)
        return;
    const dim3 grid = grid_of(c, item, count, &all);
    KIN_LAUNCH(c, kernel, grid, KIN_THREADS, all);
}

extern "C" void kin_cuda_pack(kin_cuda_call *c, const kin_pack_item *item, int count)
{
    launch(c, item, count, pack_kernel);
}

extern "C" void kin_cuda_unpack(kin_cuda_call *c, const kin_pack_item *item, int count)
{
    launch(c, item, count, unpack_kernel);
}

extern "C" kin_tensor kin_cuda_pack_pixels(kin_cuda_call *c, const kin_conv_shape *s,
                                           const kin_tensor *x, kin_dtype dtype)
{
    if (s->up == 1 && x->dtype == dtype)
        return *x;
    const int64_t n = s->batch * s->frames * s->height * s->up * s->width * s->up * s->in;
    const kin_tensor to =
        kin_tensor_of(kin_cuda_scratch(c, (size_t)n * kin_dtype_size(dtype)), dtype, 1, &n);
    const kin_conv_shape shape = *s;
    const kin_tensor from = *x;
    if (s->up == 1)
        kin_cuda_to_bf16(c, x, &to);
    else
        KIN_LAUNCH(c, double_kernel, kin_blocks(n), KIN_THREADS, shape, from, to);
    return to;
}

extern "C" void kin_cuda_pack_taps(kin_cuda_call *c, const kin_tensor *w, const kin_tensor *packed,
                                   int64_t taps)
{
    const kin_tensor from = *w, to = *packed;
    const int64_t n = kin_tensor_numel(w), in = w->size[1] / taps;
    KIN_LAUNCH(c, pack_taps_kernel, kin_blocks(n), KIN_THREADS, n, in, taps, from, to);
}

extern "C" void kin_cuda_unpack_taps(kin_cuda_call *c, const kin_tensor *packed,
                                     const kin_tensor *w, int64_t taps)
{
    const kin_tensor from = *packed;
    float *to = (float *)w->data;
    const int64_t n = kin_tensor_numel(w), in = w->size[1] / taps;
    KIN_LAUNCH(c, unpack_taps_kernel, kin_blocks(n), KIN_THREADS, n, in, taps, from, to);
}

extern "C" void kin_cuda_unpack_rows(kin_cuda_call *c, const kin_tensor *packed,
                                     const kin_tensor *bias, const kin_tensor *residual,
                                     const kin_tensor *y, bool acc)
{
    const kin_tensor from = *packed, b = *bias;
    const float *rest = (const float *)residual->data;
    float *to = (float *)y->data;
    const int64_t n = kin_tensor_numel(y), cols = y->size[1];
    KIN_LAUNCH(c, unpack_rows_kernel, kin_blocks(n), KIN_THREADS, n, cols, from, b, rest, to, acc);
}
