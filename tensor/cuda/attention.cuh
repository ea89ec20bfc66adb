/* tensor/cuda/attention.cuh: what the attention kernels share. Tiles of 32 queries and 32 keys; the
 * head size goes by in pieces of 32 columns, so that shared memory stays small whatever it is. 128
 * threads: thread 4 i + r works for row i of the tile, on columns 8 r .. 8 r + 7 of a piece. */
#ifndef KIN_TENSOR_CUDA_ATTENTION_CUH
#define KIN_TENSOR_CUDA_ATTENTION_CUH

#include "tensor/cuda/kernel.cuh"

enum { KIN_ATT = 32, KIN_ATT_THREADS = 128, KIN_ATT_OWN = 8 };

typedef struct kin_att {
    kin_tensor q, k, v, bias, mask, gate, o, lse;
    kin_tensor dout, dq, dk, dv, dbias;
    int64_t heads, nq, nk, d;
    float scale;
    bool bf16; /* operands of products are rounded to it */
    bool acc_dq, acc_dk, acc_dv;
    float *delta; /* [B,A,Nq]: sum over columns of dout o */
} kin_att;

typedef float kin_att_tile[KIN_ATT][KIN_ATT + 1];

__device__ static __forceinline__ float kin_att_round(const kin_att &a, float v)
{
    return a.bf16 ? kin_round_bf16(v) : v;
}

__device__ static __forceinline__ int64_t kin_att_at(const kin_tensor &t, int64_t b, int64_t i,
                                                     int64_t h, int64_t c)
{
    return b * t.stride[0] + i * t.stride[1] + h * t.stride[2] + c * t.stride[3];
}

/* Rows [i0, i0+32) and columns [c0, c0+32) of one head into a tile; zeros outside. */
__device__ static void kin_att_load(const kin_att &a, const kin_tensor &t, int64_t b, int64_t h,
                                    int64_t i0, int64_t c0, kin_att_tile tile)
{
    for (int e = (int)threadIdx.x; e < KIN_ATT * KIN_ATT; e += KIN_ATT_THREADS) {
        const int64_t i = i0 + e / KIN_ATT, c = c0 + e % KIN_ATT;
        const bool in = i < t.size[1] && c < a.d;
        tile[e / KIN_ATT][e % KIN_ATT] =
            in ? kin_att_round(a, ((const float *)t.data)[kin_att_at(t, b, i, h, c)]) : 0.0f;
    }
}

/* s[j] += <x row i, y row 8 r + j> over the head size, for the thread's row i: products of tiles of
 * x (rows i0..) and y (rows j0..). tx, ty: shared. */
__device__ static inline void kin_att_dots(const kin_att &a, const kin_tensor &x, int64_t i0,
                                           const kin_tensor &y, int64_t j0, int64_t b, int64_t h,
                                           kin_att_tile tx, kin_att_tile ty, float s[KIN_ATT_OWN])
{
    const int i = (int)threadIdx.x / 4, r = (int)threadIdx.x % 4 * KIN_ATT_OWN;
    for (int j = 0; j < KIN_ATT_OWN; j++)
        s[j] = 0;
    for (int64_t c0 = 0; c0 < a.d; c0 += KIN_ATT) {
        kin_att_load(a, x, b, h, i0, c0, tx);
        kin_att_load(a, y, b, h, j0, c0, ty);
        __syncthreads();
        for (int c = 0; c < KIN_ATT; c++)
            for (int j = 0; j < KIN_ATT_OWN; j++)
                s[j] += tx[i][c] * ty[r + j][c];
        __syncthreads();
    }
}

__device__ static __forceinline__ bool kin_att_masked(const kin_att &a, int64_t b, int64_t j)
{
    return a.mask.data &&
           ((const uint8_t *)a.mask.data)[b * a.mask.stride[0] + j * a.mask.stride[1]] == 0;
}

__device__ static __forceinline__ float kin_att_bias(const kin_att &a, int64_t h, int64_t i,
                                                     int64_t j)
{
    return a.bias.data
               ? ((const float *)a.bias
                      .data)[h * a.bias.stride[0] + i * a.bias.stride[1] + j * a.bias.stride[2]]
               : 0.0f;
}

/* Scaled, biased and masked score from the dot product. */
__device__ static __forceinline__ float kin_att_score(const kin_att &a, int64_t b, int64_t h,
                                                      int64_t i, int64_t j, float dot)
{
    return kin_att_masked(a, b, j) ? -FLT_MAX : a.scale * dot + kin_att_bias(a, h, i, j);
}

/* Probability of a score given the row's log-sum-exp. */
__device__ static __forceinline__ float kin_att_weight(const kin_att &a, float score, float lse)
{
    /* note: a row of masked keys alone is uniform, and its sum is lost in the lowest float */
    return lse <= -0.5f * FLT_MAX ? 1.0f / (float)a.nk : expf(score - lse);
}

__device__ static __forceinline__ float kin_att_gate(const kin_att &a, int64_t b, int64_t h)
{
    return a.gate.data ? ((const float *)a.gate.data)[b * a.gate.stride[0] + h * a.gate.stride[1]]
                       : 1.0f;
}

__device__ static __forceinline__ float kin_att_lse(const kin_att &a, int64_t b, int64_t h,
                                                    int64_t i)
{
    return (
        (const float *)a.lse.data)[b * a.lse.stride[0] + h * a.lse.stride[1] + i * a.lse.stride[2]];
}

/* attention_mma.cu: true if it takes a; o and lse; dq; dk and dv. */
bool kin_att_takes_mma(const kin_att &a);
void kin_att_mma_forward(kin_cuda_call *c, const kin_att &a);
void kin_att_mma_dq(kin_cuda_call *c, const kin_att &a);
void kin_att_mma_dkv(kin_cuda_call *c, const kin_att &a);

kin_att kin_att_open(kin_cuda_call *c, const kin_attention_args *p);
/* Grid of one block per 32 rows of every head of every sample. */
dim3 kin_att_grid(kin_cuda_call *c, const kin_att &a, int64_t rows);

#endif
