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
#include <tuple>
#include <type_traits>

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
typedef struct kin_emulated_event { /* counts of signals: asked for, and passed by the lane */
    unsigned long asked, passed;
} cudaEvent_t;

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
/* Puts `work` on the lane of gpu that is in use (emulate/gpu.cc). `what`: of kin_emulated_hash,
 * what the work is and on which memory. */
void kin_emulated_queue(struct kin_gpu *gpu, uint64_t what, std::function<void()> work);

/* Bytes into a hash (FNV-1a). */
uint64_t kin_emulated_bytes(uint64_t hash, const void *bytes, size_t n);

/* Of n bytes, the words that are addresses on the device. */
uint64_t kin_emulated_addresses(uint64_t hash, const void *bytes, size_t n);

/* An argument of a kernel into a hash. note: the bytes between a struct's members may be anything;
 * of those with such gaps the addresses alone count */
template <typename T> uint64_t kin_emulated_hash(uint64_t h, const T &v)
{
    if constexpr (std::is_scalar_v<T> || std::has_unique_object_representations_v<T>)
        return kin_emulated_bytes(h, &v, sizeof v);
    else
        return kin_emulated_addresses(h, &v, sizeof v);
}

/* A launch: arguments are taken now, the kernel runs when its turn comes. */
template <typename... P, typename... A>
void kin_emulated_launch(struct kin_gpu *gpu, dim3 grid, dim3 block, void (*kernel)(P...), A... a)
{
    const std::tuple<P...> args(static_cast<P>(a)...);
    uint64_t what = kin_emulated_hash(kin_emulated_hash(0, kernel), grid);
    std::apply([&](const auto &...v) { ((what = kin_emulated_hash(what, v)), ...); }, args);
    kin_emulated_queue(gpu, kin_emulated_hash(what, block), [=]() {
        kin_emulated_run(grid, block, [&]() { std::apply(kernel, args); });
    });
}
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
