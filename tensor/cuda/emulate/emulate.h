/* tensor/cuda/emulate/emulate.h: enough of CUDA C++ to run the kernels of this folder on the host,
 * for tests on machines without a GPU. Blocks run one after another; the threads of a block are
 * fibers that change at barriers and warp exchanges, so index logic, shared memory and barriers are
 * the kernels' own. What it cannot show: races between barriers, alignment, speed, the libraries.
 */
#ifndef KIN_TENSOR_CUDA_EMULATE_H
#define KIN_TENSOR_CUDA_EMULATE_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static thread_local

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};
typedef int cudaStream_t;

struct kin_emulated_thread {
    dim3 thread, block, block_dim, grid_dim;
    unsigned exchanges; /* calls of kin_emulated_lanes */
};
extern thread_local kin_emulated_thread *kin_emulated_now;
#define threadIdx (kin_emulated_now->thread)
#define blockIdx (kin_emulated_now->block)
#define blockDim (kin_emulated_now->block_dim)
#define gridDim (kin_emulated_now->grid_dim)

/* Runs `body` once per thread of every block, with the device memory open. */
void kin_emulated_run(dim3 grid, dim3 block, const std::function<void()> &body);
void __syncthreads();
/* The value of lane (own lane ^ mask) of the warp; all its threads must take part. */
double kin_emulated_xor(double v, int mask);
float __shfl_xor_sync(unsigned lanes, float v, int mask);
double __shfl_xor_sync(unsigned lanes, double v, int mask);
int __shfl_xor_sync(unsigned lanes, int v, int mask);
void __syncwarp();

/* What every lane of the warp gives (at most 32 bytes each, 32 apart), in order of lanes; valid
 * until the next call but one. All its threads must take part. */
const void *kin_emulated_lanes(const void *mine, size_t bytes);

/* The instructions of mma.cuh, by their definition in the PTX manual. Copies arrive where they are
 * waited for. */
void kin_ldmatrix_emulated(uint32_t r[4], const uint16_t *row, bool turned);
void kin_mma(float c[4], const uint32_t a[4], const uint32_t b[2]);
void kin_copy16(uint16_t *to, const void *from, bool in);
void kin_copy_commit();
void kin_copy_wait_emulated(int left);

/* emulate/gpu.cc: opens and closes the device's memory to this process. */
void kin_emulated_memory(bool open);

#endif
