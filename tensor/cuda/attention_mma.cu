/* tensor/cuda/attention_mma.cu: attention and its gradients under bf16 on the tensor cores, head
 * sizes up to 128, with every stride, bias, mask and gate that attention.cu takes. A block of four
 * warps owns 64 rows of one head, 16 a warp; the rows of the other side go by in shared memory.
 * Scores stay in registers, where the layout of a sum is that of the next product's operand (Dao,
 * "FlashAttention-2", arXiv 2307.08691). All orders are fixed, there is no atomic. */
#include "tensor/cuda/attention.cuh"
#include "tensor/cuda/mma.cuh"

enum { OWN = 64, KEYS = 64, OTHER = 16, ROWS = 16 /* of a warp */, MMA_THREADS = 128 };

/* Elements between rows in shared memory for head sizes up to D: 8 rows in different banks. */
template <int D> constexpr int row_of = D + 8;

__device__ static __forceinline__ uint32_t pair_of(float low, float high)
{
    return kin_float_bf16(low) | (uint32_t)kin_float_bf16(high) << 16;
}

/* Rows [i0, i0 + count) of one head in bf16; zeros outside. */
template <int D>
__device__ static void load_rows(const kin_att &a, const kin_tensor &t, int64_t b, int64_t h,
                                 int64_t i0, int count, uint16_t *tile)
{
    for (int e = (int)threadIdx.x; e < count * (D / 2); e += MMA_THREADS) {
        const int64_t i = i0 + e / (D / 2), c = e % (D / 2) * 2;
        const float *from = (const float *)t.data + kin_att_at(t, b, i, h, c);
        const float low = i < t.size[1] && c < a.d ? from[0] : 0.0f;
        const float high = i < t.size[1] && c + 1 < a.d ? from[t.stride[3]] : 0.0f;
        *(uint32_t *)(tile + e / (D / 2) * row_of<D> + c) = pair_of(low, high);
    }
}

/* The warp's 16 rows and 16 columns from c on, as the left operand. */
template <int D>
__device__ static __forceinline__ void left(uint32_t x[4], const uint16_t *rows, int c)
{
    const int lane = (int)threadIdx.x % KIN_WARP;
    kin_ldmatrix(x, rows + lane % 16 * row_of<D> + c + lane / 16 * 8);
}

/* s += the warp's rows `own` times rows [0, 16) of `other`, over the head size: columns 0..7 and
 * 8..15 of the result. */
template <int D>
__device__ static __forceinline__ void dots(const uint16_t *own, const uint16_t *other,
                                            float s[2][4])
{
    const int lane = (int)threadIdx.x % KIN_WARP, r = lane % 8, q = lane / 8;
#pragma unroll
    for (int c = 0; c < D; c += 16) {
        uint32_t x[4], y[4];
        left<D>(x, own, c);
        kin_ldmatrix(y, other + (r + q / 2 * 8) * row_of<D> + c + q % 2 * 8);
        kin_mma(s[0], x, y);
        kin_mma(s[1], x, y + 2);
    }
}

/* o += x [16,16] times rows [0, 16) of `other`. */
template <int D>
__device__ static __forceinline__ void combine(const uint32_t x[4], const uint16_t *other,
                                               float o[D / 8][4])
{
    const int lane = (int)threadIdx.x % KIN_WARP, r = lane % 8, q = lane / 8;
#pragma unroll
    for (int c = 0; c < D; c += 16) {
        uint32_t y[4];
        kin_ldmatrix_turned(y, other + (r + q % 2 * 8) * row_of<D> + c + q / 2 * 8);
        kin_mma(o[c / 8], x, y);
        kin_mma(o[c / 8 + 1], x, y + 2);
    }
}

/* Of the four lanes that hold a row. */
__device__ static __forceinline__ float row_max(float v)
{
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}
__device__ static __forceinline__ float row_sum(float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

/* Running maximum and sum of the thread's rows g and g + 8. */
struct running {
    float most[2], sum[2];
};

/* Scores into weights exp(s - maximum), o and sum shrunk to the new maximum. */
template <int D>
__device__ static __forceinline__ void soften(float s[KEYS / 8][4], running *m, float o[D / 8][4])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most = -INFINITY, sum = 0;
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
            most = fmaxf(most, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
        most = fmaxf(row_max(most), m->most[half]);
        const float shrink = m->most[half] == -INFINITY ? 0.0f : expf(m->most[half] - most);
        m->most[half] = most;
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; e++) {
                s[j][e] = s[j][e] == -INFINITY ? 0.0f : expf(s[j][e] - most);
                sum += s[j][e];
            }
        m->sum[half] = m->sum[half] * shrink + row_sum(sum);
#pragma unroll
        for (int c = 0; c < D / 8; c++) {
            o[c][2 * half] *= shrink;
            o[c][2 * half + 1] *= shrink;
        }
    }
}

template <int D> __global__ static void __launch_bounds__(MMA_THREADS) forward_kernel(kin_att a)
{
    __shared__ __align__(16) uint16_t ks[KEYS * row_of<D>], vs[KEYS * row_of<D>];
    const int warp = (int)threadIdx.x / KIN_WARP, lane = (int)threadIdx.x % KIN_WARP;
    const int64_t i0 = (int64_t)blockIdx.x * OWN, h = blockIdx.y, b = blockIdx.z;
    const int64_t row = i0 + warp * ROWS + lane / 4; /* and row + 8 */
    const float gate = kin_att_gate(a, b, h);
    float o[D / 8][4] = {};
    uint32_t x[D / 16][4];
    running m = {{-INFINITY, -INFINITY}, {0, 0}};
    load_rows<D>(a, a.q, b, h, i0, OWN, ks);
    __syncthreads();
#pragma unroll
    for (int c = 0; c < D / 16; c++)
        left<D>(x[c], ks + warp * ROWS * row_of<D>, 16 * c);
    __syncthreads();
    for (int64_t j0 = 0; j0 < a.nk && gate != 0; j0 += KEYS) {
        float s[KEYS / 8][4] = {};
        load_rows<D>(a, a.k, b, h, j0, KEYS, ks);
        load_rows<D>(a, a.v, b, h, j0, KEYS, vs);
        __syncthreads();
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++)
#pragma unroll
            for (int c = 0; c < D / 16; c++) {
                uint32_t y[4];
                kin_ldmatrix(y, ks + (16 * j + lane % 8 + lane / 16 * 8) * row_of<D> + 16 * c +
                                    lane / 8 % 2 * 8);
                kin_mma(s[2 * j], x[c], y);
                kin_mma(s[2 * j + 1], x[c], y + 2);
            }
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int64_t i = row + e / 2 * 8, key = j0 + 8 * j + lane % 4 * 2 + e % 2;
                const bool in = i < a.nq && key < a.nk;
                s[j][e] = in ? kin_att_score(a, b, h, i, key, s[j][e]) : -INFINITY;
            }
        soften<D>(s, &m, o);
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
            const uint32_t p[4] = {pair_of(s[2 * j][0], s[2 * j][1]),
                                   pair_of(s[2 * j][2], s[2 * j][3]),
                                   pair_of(s[2 * j + 1][0], s[2 * j + 1][1]),
                                   pair_of(s[2 * j + 1][2], s[2 * j + 1][3])};
            combine<D>(p, vs + 16 * j * row_of<D>, o);
        }
        __syncthreads();
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int64_t i = row + 8 * half;
        const float factor = gate == 0 ? 0.0f : gate / m.sum[half];
        for (int c = 0; c < D / 8 && i < a.nq; c++)
            for (int e = 0; e < 2; e++) {
                const int64_t col = 8 * c + lane % 4 * 2 + e;
                if (col < a.d)
                    ((float *)a.o.data)[kin_att_at(a.o, b, i, h, col)] =
                        factor * o[c][2 * half + e];
            }
        if (a.lse.data && i < a.nq && lane % 4 == 0)
            ((float *)a.lse.data)[b * a.lse.stride[0] + h * a.lse.stride[1] + i * a.lse.stride[2]] =
                gate == 0 ? 0.0f : m.most[half] + logf(m.sum[half]);
    }
}

/* --- gradients --- */

/* p and ds of the warp's 16 rows with the 16 rows of the other side from j0 on, as left operands.
 * keys: rows are keys, columns queries. */
template <bool BY_KEYS>
__device__ static __forceinline__ void grads_of(const kin_att &a, int64_t b, int64_t h, float gate,
                                                int64_t own, int64_t other, const float s[2][4],
                                                const float dp[2][4], uint32_t p[4], uint32_t ds[4])
{
    const int lane = (int)threadIdx.x % KIN_WARP;
    float weight[2][4], slope[2][4];
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int64_t mine = own + e / 2 * 8, its = other + 8 * j + lane % 4 * 2 + e % 2;
            const int64_t i = BY_KEYS ? its : mine, key = BY_KEYS ? mine : its;
            weight[j][e] = slope[j][e] = 0;
            if (i >= a.nq || key >= a.nk)
                continue;
            weight[j][e] =
                kin_att_weight(a, kin_att_score(a, b, h, i, key, s[j][e]), kin_att_lse(a, b, h, i));
            if (!kin_att_masked(a, b, key))
                slope[j][e] =
                    weight[j][e] * (gate * dp[j][e] - a.delta[(b * a.heads + h) * a.nq + i]);
        }
#pragma unroll
    for (int k = 0; k < 4; k++) {
        p[k] = pair_of(weight[k / 2][k % 2 * 2], weight[k / 2][k % 2 * 2 + 1]);
        ds[k] = pair_of(slope[k / 2][k % 2 * 2], slope[k / 2][k % 2 * 2 + 1]);
    }
}

/* The warp's sums into rows `row` and row + 8 of a gradient. */
template <int D>
__device__ static void put_rows(const kin_att &a, const kin_tensor &t, int64_t b, int64_t h,
                                int64_t row, float factor, bool acc, const float o[D / 8][4])
{
    const int lane = (int)threadIdx.x % KIN_WARP;
#pragma unroll
    for (int c = 0; c < D / 8; c++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int64_t i = row + e / 2 * 8, col = 8 * c + lane % 4 * 2 + e % 2;
            if (t.data && i < t.size[1] && col < a.d)
                kin_put((float *)t.data + kin_att_at(t, b, i, h, col), factor * o[c][e], acc);
        }
}

/* BY_KEYS: the block owns 64 keys and sums dk and dv over the queries, else 64 queries and dq over
 * the keys. */
template <int D, bool BY_KEYS>
__global__ static void __launch_bounds__(MMA_THREADS) grads_kernel(kin_att a)
{
    __shared__ __align__(16) uint16_t own[2][OWN * row_of<D>], other[2][OTHER * row_of<D>];
    const int warp = (int)threadIdx.x / KIN_WARP, lane = (int)threadIdx.x % KIN_WARP;
    const int64_t i0 = (int64_t)blockIdx.x * OWN, h = blockIdx.y, b = blockIdx.z;
    const int64_t row = i0 + warp * ROWS + lane / 4, end = BY_KEYS ? a.nq : a.nk;
    const int first = warp * ROWS * row_of<D>;
    const float gate = kin_att_gate(a, b, h);
    float d1[D / 8][4] = {}, d2[BY_KEYS ? D / 8 : 1][4] = {};
    load_rows<D>(a, BY_KEYS ? a.k : a.q, b, h, i0, OWN, own[0]);
    load_rows<D>(a, BY_KEYS ? a.v : a.dout, b, h, i0, OWN, own[1]);
    for (int64_t j0 = 0; j0 < end && gate != 0; j0 += OTHER) {
        float s[2][4] = {}, dp[2][4] = {};
        uint32_t p[4], ds[4];
        load_rows<D>(a, BY_KEYS ? a.q : a.k, b, h, j0, OTHER, other[0]);
        load_rows<D>(a, BY_KEYS ? a.dout : a.v, b, h, j0, OTHER, other[1]);
        __syncthreads();
        dots<D>(own[0] + first, other[0], s);
        dots<D>(own[1] + first, other[1], dp);
        grads_of<BY_KEYS>(a, b, h, gate, row, j0, s, dp, p, ds);
        combine<D>(ds, other[0], d1);
        if constexpr (BY_KEYS)
            combine<D>(p, other[1], d2);
        __syncthreads();
    }
    put_rows<D>(a, BY_KEYS ? a.dk : a.dq, b, h, row, a.scale, BY_KEYS ? a.acc_dk : a.acc_dq, d1);
    if constexpr (BY_KEYS)
        put_rows<D>(a, a.dv, b, h, row, gate, a.acc_dv, d2);
}

/* --- launches --- */

bool kin_att_takes_mma(const kin_att &a)
{
    return a.bf16 && a.d <= 128 && !kin_cuda_small_tiles();
}

static dim3 grid_of(kin_cuda_call *c, const kin_att &a, int64_t rows)
{
    dim3 grid = kin_att_grid(c, a, rows);
    grid.x = (unsigned)((rows + OWN - 1) / OWN);
    return grid;
}

void kin_att_mma_forward(kin_cuda_call *c, const kin_att &args)
{
    const kin_att a = args;
    const dim3 grid = grid_of(c, a, a.nq);
    if (a.d <= 64)
        KIN_LAUNCH(c, (forward_kernel<64>), grid, MMA_THREADS, a);
    else if (a.d <= 80)
        KIN_LAUNCH(c, (forward_kernel<80>), grid, MMA_THREADS, a);
    else
        KIN_LAUNCH(c, (forward_kernel<128>), grid, MMA_THREADS, a);
}

template <bool BY_KEYS> static void launch_grads(kin_cuda_call *c, const kin_att &args)
{
    const kin_att a = args;
    const dim3 grid = grid_of(c, a, BY_KEYS ? a.nk : a.nq);
    if (a.d <= 64)
        KIN_LAUNCH(c, (grads_kernel<64, BY_KEYS>), grid, MMA_THREADS, a);
    else if (a.d <= 80)
        KIN_LAUNCH(c, (grads_kernel<80, BY_KEYS>), grid, MMA_THREADS, a);
    else
        KIN_LAUNCH(c, (grads_kernel<128, BY_KEYS>), grid, MMA_THREADS, a);
}

void kin_att_mma_dq(kin_cuda_call *c, const kin_att &a)
{
    launch_grads<false>(c, a);
}

void kin_att_mma_dkv(kin_cuda_call *c, const kin_att &a)
{
    launch_grads<true>(c, a);
}
