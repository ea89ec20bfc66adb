/* tensor/cuda/attention_bwd.cu: gradients of attention from recomputed probabilities: one launch
 * over blocks of queries for dq, one over blocks of keys for dk and dv, one over blocks of the
 * bias; no atomics, all orders fixed. Definition: tensor/ref/attention.c. */
#include "tensor/cuda/attention.cuh"

#include "tensor/cuda/cudnn.h"

/* delta of every query: sum over columns of dout o (which is sum over keys of p dp); a warp each */
__global__ static void delta_kernel(kin_att a)
{
    const int64_t row = (int64_t)blockIdx.x * (KIN_ATT_THREADS / KIN_WARP) + threadIdx.x / KIN_WARP;
    const int64_t i = row % a.nq, h = row / a.nq % a.heads, b = row / a.nq / a.heads;
    const bool in = row < a.q.size[0] * a.heads * a.nq;
    float sum = 0;
    for (int64_t c = threadIdx.x % KIN_WARP; in && c < a.d; c += KIN_WARP)
        /* note: rounded as in the products whose sum this is */
        sum += kin_att_round(a, ((const float *)a.dout.data)[kin_att_at(a.dout, b, i, h, c)]) *
               ((const float *)a.o.data)[kin_att_at(a.o, b, i, h, c)];
    for (int mask = KIN_WARP / 2; mask > 0; mask /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, mask);
    if (in && threadIdx.x % KIN_WARP == 0)
        a.delta[row] = sum;
}

/* p and ds of the 32 x 32 tile at (i0, j0), the thread's row i and its 8 columns; p, ds: shared
 * tiles [query][key] or NULL. All threads have written when it returns. */
__device__ static void tile_grads(const kin_att &a, int64_t b, int64_t h, float gate, int64_t i0,
                                  int64_t j0, kin_att_tile tx, kin_att_tile ty, kin_att_tile p,
                                  kin_att_tile ds)
{
    const int i = (int)threadIdx.x / 4, r = (int)threadIdx.x % 4 * KIN_ATT_OWN;
    const int64_t row = i0 + i;
    float s[KIN_ATT_OWN], dp[KIN_ATT_OWN];
    kin_att_dots(a, a.q, i0, a.k, j0, b, h, tx, ty, s);
    kin_att_dots(a, a.dout, i0, a.v, j0, b, h, tx, ty, dp);
    for (int j = 0; j < KIN_ATT_OWN; j++) {
        const int64_t key = j0 + r + j;
        float weight = 0, slope = 0;
        if (row < a.nq && key < a.nk) {
            weight = kin_att_weight(a, kin_att_score(a, b, h, row, key, s[j]),
                                    kin_att_lse(a, b, h, row));
            if (!kin_att_masked(a, b, key))
                slope = weight * (gate * dp[j] - a.delta[(b * a.heads + h) * a.nq + row]);
        }
        if (p)
            p[i][r + j] = weight;
        ds[i][r + j] = slope;
    }
    __syncthreads();
}

template <int PIECES> __global__ static void dq_kernel(kin_att a)
{
    __shared__ kin_att_tile tx, ty, ds;
    const int i = (int)threadIdx.x / 4, r = (int)threadIdx.x % 4 * KIN_ATT_OWN;
    const int64_t i0 = (int64_t)blockIdx.x * KIN_ATT, h = blockIdx.y, b = blockIdx.z;
    const float gate = kin_att_gate(a, b, h);
    float dq[PIECES][KIN_ATT_OWN] = {};
    for (int64_t j0 = 0; j0 < a.nk && gate != 0; j0 += KIN_ATT) {
        tile_grads(a, b, h, gate, i0, j0, tx, ty, NULL, ds);
#pragma unroll
        for (int c = 0; c < PIECES; c++) {
            if (c * KIN_ATT >= a.d)
                continue;
            kin_att_load(a, a.k, b, h, j0, c * KIN_ATT, ty);
            __syncthreads();
            for (int j = 0; j < KIN_ATT; j++) {
                const float v = kin_att_round(a, ds[i][j]);
                for (int k = 0; k < KIN_ATT_OWN; k++)
                    dq[c][k] += v * ty[j][r + k];
            }
            __syncthreads();
        }
    }
    if (i0 + i >= a.nq)
        return;
#pragma unroll
    for (int c = 0; c < PIECES; c++)
        for (int k = 0; k < KIN_ATT_OWN; k++)
            if (c * KIN_ATT + r + k < a.d)
                kin_put((float *)a.dq.data + kin_att_at(a.dq, b, i0 + i, h, c * KIN_ATT + r + k),
                        a.scale * dq[c][k], a.acc_dq);
}

/* A block per 32 keys; thread 4 j + r sums for key j. */
template <int PIECES> __global__ static void dkv_kernel(kin_att a)
{
    __shared__ kin_att_tile tx, ty, p, ds;
    const int j = (int)threadIdx.x / 4, r = (int)threadIdx.x % 4 * KIN_ATT_OWN;
    const int64_t j0 = (int64_t)blockIdx.x * KIN_ATT, h = blockIdx.y, b = blockIdx.z;
    const float gate = kin_att_gate(a, b, h);
    float dk[PIECES][KIN_ATT_OWN] = {}, dv[PIECES][KIN_ATT_OWN] = {};
    for (int64_t i0 = 0; i0 < a.nq && gate != 0; i0 += KIN_ATT) {
        tile_grads(a, b, h, gate, i0, j0, tx, ty, p, ds);
#pragma unroll
        for (int c = 0; c < PIECES; c++) {
            if (c * KIN_ATT >= a.d)
                continue;
            kin_att_load(a, a.q, b, h, i0, c * KIN_ATT, tx);
            kin_att_load(a, a.dout, b, h, i0, c * KIN_ATT, ty);
            __syncthreads();
            for (int i = 0; i < KIN_ATT; i++) {
                const float w = kin_att_round(a, p[i][j]), s = kin_att_round(a, ds[i][j]);
                for (int k = 0; k < KIN_ATT_OWN; k++) {
                    dk[c][k] += s * tx[i][r + k];
                    dv[c][k] += w * ty[i][r + k];
                }
            }
            __syncthreads();
        }
    }
    if (j0 + j >= a.nk)
        return;
#pragma unroll
    for (int c = 0; c < PIECES; c++)
        for (int k = 0; k < KIN_ATT_OWN; k++) {
            const int64_t col = c * KIN_ATT + r + k;
            if (col >= a.d)
                continue;
            if (a.dk.data)
                kin_put((float *)a.dk.data + kin_att_at(a.dk, b, j0 + j, h, col),
                        a.scale * dk[c][k], a.acc_dk);
            if (a.dv.data)
                kin_put((float *)a.dv.data + kin_att_at(a.dv, b, j0 + j, h, col), gate * dv[c][k],
                        a.acc_dv);
        }
}

/* dbias of one tile of one head: the samples' shares in order */
__global__ static void dbias_kernel(kin_att a)
{
    __shared__ kin_att_tile tx, ty, ds;
    const int i = (int)threadIdx.x / 4, r = (int)threadIdx.x % 4 * KIN_ATT_OWN;
    const int64_t j0 = (int64_t)blockIdx.x * KIN_ATT, i0 = (int64_t)blockIdx.y * KIN_ATT;
    const int64_t h = blockIdx.z;
    for (int64_t b = 0; b < a.q.size[0]; b++) {
        const float gate = kin_att_gate(a, b, h);
        if (gate == 0)
            continue;
        tile_grads(a, b, h, gate, i0, j0, tx, ty, NULL, ds);
        for (int j = r; j < r + KIN_ATT_OWN; j++)
            if (i0 + i < a.nq && j0 + j < a.nk)
                ((float *)a.dbias.data)[h * a.dbias.stride[0] + (i0 + i) * a.dbias.stride[1] +
                                        (j0 + j) * a.dbias.stride[2]] += ds[i][j];
        __syncthreads();
    }
}

extern "C" kin_status kin_cuda_attention_bwd(kin_ctx *ctx, const kin_attention_args *p)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "attention backward");
    if (kin_cudnn_attention_bwd(&c, p))
        return kin_cuda_end(&c);
    kin_att a = kin_att_open(&c, p);
    const int64_t rows = a.q.size[0] * a.heads * a.nq, warps = KIN_ATT_THREADS / KIN_WARP;
    a.o = kin_cuda_in(&c, p->o);
    a.lse = kin_cuda_in(&c, p->lse);
    a.dout = kin_cuda_in(&c, p->dout);
    a.dq = kin_cuda_out(&c, p->dq, p->acc_dq);
    a.dk = kin_cuda_out(&c, p->dk, p->acc_dk);
    a.dv = kin_cuda_out(&c, p->dv, p->acc_dv);
    a.dbias = kin_cuda_out(&c, p->dbias, true);
    a.acc_dq = p->acc_dq;
    a.acc_dk = p->acc_dk;
    a.acc_dv = p->acc_dv;
    a.delta = (float *)kin_cuda_scratch(&c, (size_t)rows * sizeof(float));
    KIN_LAUNCH(&c, delta_kernel, dim3((unsigned)((rows + warps - 1) / warps)), KIN_ATT_THREADS, a);
    const dim3 queries = kin_att_grid(&c, a, a.nq), keys = kin_att_grid(&c, a, a.nk);
    if (a.dbias.data)
        KIN_LAUNCH(&c, dbias_kernel, dim3(keys.x, queries.x, (unsigned)a.heads), KIN_ATT_THREADS,
                   a);
    const bool mma = kin_att_takes_mma(a), kv = a.dk.data || a.dv.data;
    if (a.dq.data && mma)
        kin_att_mma_dq(&c, a);
    else if (a.dq.data && a.d <= 64)
        KIN_LAUNCH(&c, (dq_kernel<2>), queries, KIN_ATT_THREADS, a);
    else if (a.dq.data && a.d <= 128)
        KIN_LAUNCH(&c, (dq_kernel<4>), queries, KIN_ATT_THREADS, a);
    else if (a.dq.data)
        KIN_LAUNCH(&c, (dq_kernel<16>), queries, KIN_ATT_THREADS, a);
    if (kv && mma)
        kin_att_mma_dkv(&c, a);
    else if (kv && a.d <= 64)
        KIN_LAUNCH(&c, (dkv_kernel<2>), keys, KIN_ATT_THREADS, a);
    else if (kv && a.d <= 128)
        KIN_LAUNCH(&c, (dkv_kernel<4>), keys, KIN_ATT_THREADS, a);
    else if (kv)
        KIN_LAUNCH(&c, (dkv_kernel<16>), keys, KIN_ATT_THREADS, a);
    return kin_cuda_end(&c);
}
