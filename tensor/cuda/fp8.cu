/* tensor/cuda/fp8.cu: matrices into e4m3 with one factor for the whole: the largest magnitude is
 * found on the device, in a fixed order, and never seen by the host. */
#include "tensor/cuda/kernel.cuh"

extern "C" {
#include "tensor/e4m3.h"
}

enum { PARTS = 1024 }; /* blocks of the search */

/* The largest of a block, given to thread 0; v >= 0. */
__device__ static int block_max(int v)
{
    __shared__ int part[KIN_THREADS / KIN_WARP];
    for (int mask = KIN_WARP / 2; mask > 0; mask /= 2) {
        const int other = __shfl_xor_sync(0xffffffffu, v, mask);
        v = other > v ? other : v;
    }
    if (threadIdx.x % KIN_WARP == 0)
        part[threadIdx.x / KIN_WARP] = v;
    __syncthreads();
    for (int i = 0; i < KIN_THREADS / KIN_WARP && threadIdx.x == 0; i++)
        v = part[i] > v ? part[i] : v;
    return v;
}

/* Where piece i of 4 elements begins in x, of `pieces` pieces a row. */
__device__ static __forceinline__ int64_t piece_at(const kin_tensor &x, int64_t i, int64_t pieces)
{
    return x.stride[0] == x.size[1] ? 4 * i : i / pieces * x.stride[0] + i % pieces * 4;
}

/* note: magnitudes are compared as bits, where a NaN is above everything and so not lost */
__global__ static void absmax_kernel(kin_tensor x, int *part)
{
    const int64_t pieces = x.size[1] / 4;
    int most = 0;
    KIN_EACH(i, x.size[0] * pieces)
    {
        const int64_t at = piece_at(x, i, pieces);
        for (int k = 0; k < 4; k++) {
            const int bits = (int)(kin_float_bits(kin_at(x, at + k)) & 0x7fffffffu);
            most = bits > most ? bits : most;
        }
    }
    most = block_max(most);
    if (threadIdx.x == 0)
        part[blockIdx.x] = most;
}

/* step[0]: what one unit of e4m3 stands for; step[1]: its inverse. All below 1e-30: zeros. */
__global__ static void step_kernel(const int *part, int parts, float *step)
{
    int most = 0;
    for (int i = (int)threadIdx.x; i < parts; i += KIN_THREADS)
        most = part[i] > most ? part[i] : most;
    most = block_max(most);
    if (threadIdx.x != 0)
        return;
    const float amax = kin_bits_float((uint32_t)most);
    const bool finite = most < 0x7f800000, small = amax < 1e-30f;
    step[0] = !finite ? NAN : amax / KIN_E4M3_MAX;
    step[1] = !finite ? NAN : small ? 0.0f : KIN_E4M3_MAX / amax;
}

__global__ static void to_fp8_kernel(kin_tensor x, const float *step, uint32_t *y)
{
    const int64_t pieces = x.size[1] / 4;
    const float factor = step[1];
    KIN_EACH(i, x.size[0] * pieces)
    {
        const int64_t at = piece_at(x, i, pieces);
        uint32_t four = 0;
        for (int k = 0; k < 4; k++)
            four |= (uint32_t)kin_f32_to_e4m3(kin_at(x, at + k) * factor) << (8 * k);
        y[i] = four;
    }
}

extern "C" void kin_cuda_to_fp8(kin_cuda_call *c, const kin_tensor *from, const kin_tensor *to,
                                float *step)
{
    const kin_tensor x = *from;
    uint32_t *y = (uint32_t *)to->data;
    const dim3 all = kin_blocks(x.size[0] * x.size[1] / 4);
    const dim3 some(all.x < (unsigned)PARTS ? all.x : (unsigned)PARTS);
    const int parts = (int)some.x;
    int *part = (int *)kin_cuda_scratch(c, PARTS * sizeof(int));
    KIN_LAUNCH(c, absmax_kernel, some, KIN_THREADS, x, part);
    KIN_LAUNCH(c, step_kernel, 1, KIN_THREADS, part, parts, step);
    KIN_LAUNCH(c, to_fp8_kernel, all, KIN_THREADS, x, step, y);
}
