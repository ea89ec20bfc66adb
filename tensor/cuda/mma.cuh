/* tensor/cuda/mma.cuh: products of bf16 by a warp on the tensor cores, sums in f32. First whole
 * 16 x 16 x 16 tiles, which lie in shared memory, 32-byte aligned, rows a multiple of 8 elements
 * apart; then the instructions for kernels that keep their operands in registers. */
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

static inline void kin_ldmatrix(uint32_t r[4], const uint16_t *row)
{
    kin_ldmatrix_emulated(r, row, false);
}
static inline void kin_ldmatrix_turned(uint32_t r[4], const uint16_t *row)
{
    kin_ldmatrix_emulated(r, row, true);
}
template <int LEFT> static inline void kin_copy_wait()
{
    kin_copy_wait_emulated(LEFT);
}

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

__device__ static __forceinline__ unsigned kin_shared_at(const void *p)
{
    return (unsigned)__cvta_generic_to_shared(p);
}

/* Four 8 x 8 matrices of 16-bit values out of shared memory: lane 8 i + r names row r of matrix i
 * (16-byte aligned); lane 4 g + t receives in r[i] row g, columns 2t and 2t+1. turned: rows 2t and
 * 2t+1 of column g. */
__device__ static __forceinline__ void kin_ldmatrix(uint32_t r[4], const uint16_t *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(kin_shared_at(row))
                 : "memory");
}
__device__ static __forceinline__ void kin_ldmatrix_turned(uint32_t r[4], const uint16_t *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(kin_shared_at(row))
                 : "memory");
}

/* c [16,8] += a [16,16] b [16,8]. Lane 4 g + t has a: rows g, g + 8, g, g + 8 at columns 2t, 2t,
 * 2t + 8, 2t + 8 and the next one; b: rows 2t and 2t + 8 and the next one of column g; c: row g,
 * columns 2t and 2t+1, then row g + 8. */
__device__ static __forceinline__ void kin_mma(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* 16 bytes of global memory (aligned so) into shared memory, beside the thread's work; in false:
 * zeros, and nothing is read. */
__device__ static __forceinline__ void kin_copy16(uint16_t *to, const void *from, bool in)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(kin_shared_at(to)),
                 "l"(from), "r"(in ? 16 : 0)
                 : "memory");
}
__device__ static __forceinline__ void kin_copy_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* All of the thread's copies but those of the last LEFT commits have arrived. */
template <int LEFT> __device__ static __forceinline__ void kin_copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

#endif

#endif
