/* tensor/cuda/mma.cuh: 16 x 16 x 16 products of bf16 by a warp on the tensor cores, sums in f32.
 * Tiles lie in shared memory, 32-byte aligned, rows a multiple of 8 elements apart. */
#ifndef KIN_TENSOR_CUDA_MMA_CUH
#define KIN_TENSOR_CUDA_MMA_CUH

#include "tensor/cuda/kernel.cuh"

#ifdef KIN_EMULATED

/* lane 0 does the warp's work; the others only keep step at barriers */
struct kin_tile { /* element (i, l): row i, l along the sum */
    const uint16_t *p;
    int ld;
};
struct kin_sums {
    float x[16][16];
};

static inline bool kin_lane0()
{
    return threadIdx.x % KIN_WARP == 0;
}
static inline void kin_tile_load_a(kin_tile *t, const uint16_t *p, int ld)
{
    *t = {p, ld};
}
static inline void kin_tile_load_b(kin_tile *t, const uint16_t *p, int ld)
{
    *t = {p, ld};
}
static inline void kin_sums_clear(kin_sums *s)
{
    memset(s, 0, sizeof *s);
}
static inline void kin_sums_add(kin_sums *s, const kin_tile &a, const kin_tile &b)
{
    for (int i = 0; i < 16 && kin_lane0(); i++)
        for (int j = 0; j < 16; j++)
            for (int l = 0; l < 16; l++)
                s->x[i][j] += kin_bf16_float(a.p[i * a.ld + l]) * kin_bf16_float(b.p[j * b.ld + l]);
}
static inline void kin_sums_store(float *p, int ld, const kin_sums &s)
{
    for (int i = 0; i < 16 && kin_lane0(); i++)
        for (int j = 0; j < 16; j++)
            p[i * ld + j] = s.x[i][j];
}
typedef kin_tile kin_tile_a;
typedef kin_tile kin_tile_b;

#else

#include <cuda_bf16.h>
#include <mma.h>

typedef nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 16, 16, 16, __nv_bfloat16,
                               nvcuda::wmma::row_major>
    kin_tile_a;
typedef nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, 16, __nv_bfloat16,
                               nvcuda::wmma::col_major>
    kin_tile_b;
typedef nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> kin_sums;

__device__ static __forceinline__ void kin_tile_load_a(kin_tile_a *t, const uint16_t *p, int ld)
{
    nvcuda::wmma::load_matrix_sync(*t, (const __nv_bfloat16 *)p, ld);
}
__device__ static __forceinline__ void kin_tile_load_b(kin_tile_b *t, const uint16_t *p, int ld)
{
    nvcuda::wmma::load_matrix_sync(*t, (const __nv_bfloat16 *)p, ld);
}
__device__ static __forceinline__ void kin_sums_clear(kin_sums *s)
{
    nvcuda::wmma::fill_fragment(*s, 0.0f);
}
__device__ static __forceinline__ void kin_sums_add(kin_sums *s, const kin_tile_a &a,
                                                    const kin_tile_b &b)
{
    nvcuda::wmma::mma_sync(*s, a, b, *s);
}
__device__ static __forceinline__ void kin_sums_store(float *p, int ld, const kin_sums &s)
{
    nvcuda::wmma::store_matrix_sync(p, s, ld, nvcuda::wmma::mem_row_major);
}

#endif

#endif
