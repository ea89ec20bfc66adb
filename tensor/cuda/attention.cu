/* tensor/cuda/attention.cu: o = gate * softmax(scale q k^T + bias, masked) v with running maximum
 * and sum (Dao et al. 2022); scores never leave the block. Any strides, bias, mask, gate; head
 * sizes up to 512. */
#include "tensor/cuda/attention.cuh"

#include "tensor/cuda/cudnn.h"

/* PIECES: columns of o that a thread keeps, in pieces of 32 of the head size */
template <int PIECES> __global__ static void attention_kernel(kin_att a)
{
    __shared__ kin_att_tile tx, ty, tp;
    const int i = (int)threadIdx.x / 4, r = (int)threadIdx.x % 4 * KIN_ATT_OWN;
    const int64_t i0 = (int64_t)blockIdx.x * KIN_ATT, h = blockIdx.y, b = blockIdx.z;
    const float gate = kin_att_gate(a, b, h);
    float o[PIECES][KIN_ATT_OWN] = {}, most = -INFINITY, sum = 0;
    for (int64_t j0 = 0; j0 < a.nk && gate != 0; j0 += KIN_ATT) {
        float s[KIN_ATT_OWN];
        kin_att_dots(a, a.q, i0, a.k, j0, b, h, tx, ty, s);
        for (int j = 0; j < KIN_ATT_OWN; j++) {
            const int64_t key = j0 + r + j;
            const bool in = i0 + i < a.nq && key < a.nk;
            tp[i][r + j] = in ? kin_att_score(a, b, h, i0 + i, key, s[j]) : -INFINITY;
        }
        __syncthreads();
        float next = most;
        for (int j = 0; j < KIN_ATT; j++)
            next = fmaxf(next, tp[i][j]);
        const float shrink = most == -INFINITY ? 0.0f : expf(most - next);
        most = next;
        __syncthreads();
        for (int j = r; j < r + KIN_ATT_OWN; j++)
            tp[i][j] = tp[i][j] == -INFINITY ? 0.0f : expf(tp[i][j] - most);
        __syncthreads();
        sum *= shrink;
        for (int j = 0; j < KIN_ATT; j++)
            sum += tp[i][j];
#pragma unroll
        for (int c = 0; c < PIECES; c++) {
            if (c * KIN_ATT >= a.d)
                continue;
            kin_att_load(a, a.v, b, h, j0, c * KIN_ATT, ty);
            __syncthreads();
            for (int k = 0; k < KIN_ATT_OWN; k++)
                o[c][k] *= shrink;
            for (int j = 0; j < KIN_ATT; j++) {
                const float p = kin_att_round(a, tp[i][j]);
                for (int k = 0; k < KIN_ATT_OWN; k++)
                    o[c][k] += p * ty[j][r + k];
            }
            __syncthreads();
        }
    }
    if (i0 + i >= a.nq)
        return;
    const float factor = gate == 0 ? 0.0f : gate / sum;
#pragma unroll
    for (int c = 0; c < PIECES; c++)
        for (int k = 0; k < KIN_ATT_OWN; k++)
            if (c * KIN_ATT + r + k < a.d)
                ((float *)a.o.data)[kin_att_at(a.o, b, i0 + i, h, c * KIN_ATT + r + k)] =
                    factor * o[c][k];
    if (a.lse.data && r == 0)
        ((float *)
             a.lse.data)[b * a.lse.stride[0] + h * a.lse.stride[1] + (i0 + i) * a.lse.stride[2]] =
            gate == 0 ? 0.0f : most + logf(sum);
}

kin_att kin_att_open(kin_cuda_call *c, const kin_attention_args *p)
{
    kin_att a = {};
    a.q = kin_cuda_in(c, p->q);
    a.k = kin_cuda_in(c, p->k);
    a.v = kin_cuda_in(c, p->v);
    a.bias = kin_cuda_in(c, p->bias);
    a.mask = kin_cuda_in(c, p->mask);
    a.gate = kin_cuda_in(c, p->gate);
    a.heads = p->q->size[2];
    a.nq = p->q->size[1];
    a.nk = p->k->size[1];
    a.d = p->q->size[3];
    a.scale = p->scale;
    a.bf16 = kin_attention_dtype(c->ctx) == KIN_DTYPE_BF16;
    if (a.d > 512)
        kin_cuda_fail(c, KIN_ERR_UNSUPPORTED, "a head size above 512");
    return a;
}

dim3 kin_att_grid(kin_cuda_call *c, const kin_att &a, int64_t rows)
{
    if (a.heads > 65535 || a.q.size[0] > 65535)
        kin_cuda_fail(c, KIN_ERR_UNSUPPORTED, "more than 65535 heads or samples");
    return dim3((unsigned)((rows + KIN_ATT - 1) / KIN_ATT), (unsigned)a.heads,
                (unsigned)a.q.size[0]);
}

extern "C" kin_status kin_cuda_attention(kin_ctx *ctx, const kin_attention_args *p)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "attention");
    if (kin_cudnn_attention(&c, p))
        return kin_cuda_end(&c);
    kin_att a = kin_att_open(&c, p);
    a.o = kin_cuda_out(&c, p->o, false);
    a.lse = kin_cuda_out(&c, p->lse, false);
    const dim3 grid = kin_att_grid(&c, a, a.nq);
    if (kin_att_takes_mma(a))
        kin_att_mma_forward(&c, a);
    else if (a.d <= 64)
        KIN_LAUNCH(&c, (attention_kernel<2>), grid, KIN_ATT_THREADS, a);
    else if (a.d <= 128)
        KIN_LAUNCH(&c, (attention_kernel<4>), grid, KIN_ATT_THREADS, a);
    else
        KIN_LAUNCH(&c, (attention_kernel<16>), grid, KIN_ATT_THREADS, a);
    return kin_cuda_end(&c);
}
