/* tensor/cuda/routing.cu: choice of experts and tokens, sorting by expert, and the weighted sum
 * back to tokens. Counts stay on the device. Ties go to the lower index, sorting is stable. */
#include "tensor/cuda/kernel.cuh"

__device__ static __forceinline__ bool null_row(const kin_tensor &null, int64_t t, int64_t tokens)
{
    return null.data &&
           ((const uint8_t *)null.data)[t / (tokens / null.size[0]) * null.stride[0]] != 0;
}

__device__ static __forceinline__ int32_t *int_ptr2(const kin_tensor &t, int64_t r, int64_t c)
{
    return (int32_t *)t.data + r * t.stride[0] + c * t.stride[1];
}

/* --- top-k: a thread per token --- */

typedef struct topk_call {
    kin_tensor scores, null, idx, w, dw, dscores;
    int64_t null_expert, k;
    bool acc;
} topk_call;

/* Whether v at place i comes before w at place j: larger first, then the earlier one. By bits that
 * are ordered as numbers are, both zeros alike: with NaN among them, too, ranks are 0, 1, 2, ...,
 * so that no place of a list stays unwritten and no list grows beyond its end. */
__device__ static __forceinline__ bool before(float v, int64_t i, float w, int64_t j)
{
    uint32_t a = kin_float_bits(v + 0.0f), b = kin_float_bits(w + 0.0f);
    a = a >> 31 ? ~a : a | 0x80000000u;
    b = b >> 31 ? ~b : b | 0x80000000u;
    return a > b || (a == b && i < j);
}

__global__ static void topk_kernel(topk_call p)
{
    const int64_t tokens = p.scores.size[0], experts = p.scores.size[1];
    KIN_EACH(t, tokens)
    {
        if (null_row(p.null, t, tokens)) {
            for (int64_t k = 0; k < p.k; k++) {
                *int_ptr2(p.idx, t, k) = (int32_t)p.null_expert;
                *kin_ptr2(p.w, t, k) = k == 0 ? 1.0f : 0.0f;
            }
            continue;
        }
        for (int64_t e = 0; e < experts; e++) {
            const float own = kin_get2(p.scores, t, e);
            int64_t rank = 0;
            for (int64_t f = 0; f < experts; f++)
                rank += before(kin_get2(p.scores, t, f), f, own, e);
            if (rank < p.k) {
                *int_ptr2(p.idx, t, rank) = (int32_t)e;
                *kin_ptr2(p.w, t, rank) = own;
            }
        }
    }
}

extern "C" kin_status kin_cuda_topk(kin_ctx *ctx, const kin_topk_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "topk");
    topk_call p = {};
    p.scores = kin_cuda_in(&c, a->scores);
    p.null = kin_cuda_in(&c, a->null);
    p.idx = kin_cuda_out(&c, a->idx, false);
    p.w = kin_cuda_out(&c, a->w, false);
    p.null_expert = a->null_expert;
    p.k = a->k;
    KIN_LAUNCH(&c, topk_kernel, kin_blocks(a->scores->size[0]), KIN_THREADS, p);
    return kin_cuda_end(&c);
}

__global__ static void topk_bwd_kernel(topk_call p)
{
    const int64_t tokens = p.dscores.size[0], experts = p.dscores.size[1];
    KIN_EACH(t, tokens)
    {
        for (int64_t e = 0; e < experts && !p.acc; e++)
            *kin_ptr2(p.dscores, t, e) = 0;
        for (int64_t k = 0; k < p.k && !null_row(p.null, t, tokens); k++) {
            const int32_t e = kin_int2(p.idx, t, k);
            if (e >= 0)
                *kin_ptr2(p.dscores, t, e) += kin_get2(p.dw, t, k);
        }
    }
}

extern "C" kin_status kin_cuda_topk_bwd(kin_ctx *ctx, const kin_topk_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "topk backward");
    topk_call p = {};
    p.null = kin_cuda_in(&c, a->null);
    p.idx = kin_cuda_in(&c, a->idx);
    p.dw = kin_cuda_in(&c, a->dw);
    p.dscores = kin_cuda_out(&c, a->dscores, a->acc);
    p.k = a->k;
    p.acc = a->acc;
    KIN_LAUNCH(&c, topk_bwd_kernel, kin_blocks(a->dscores->size[0]), KIN_THREADS, p);
    return kin_cuda_end(&c);
}

/* --- expert choice: a thread per (expert, token), which counts the tokens before its own --- */

typedef struct choose_call {
    kin_tensor scores, null, gate, threshold, idx, w, kth;
    int64_t pools, null_expert, k;
    int rule;
} choose_call;

__device__ static int64_t column_rank(const kin_tensor &x, int64_t t0, int64_t t1, int64_t t,
                                      int64_t e)
{
    const float own = kin_get2(x, t, e);
    int64_t rank = 0;
    for (int64_t u = t0; u < t1; u++)
        rank += before(kin_get2(x, u, e), u, own, t);
    return rank;
}

__device__ static __forceinline__ bool above(const choose_call &p, int64_t t, int64_t e)
{
    return kin_get2(p.gate, t, e) > ((const float *)p.threshold.data)[e * p.threshold.stride[0]];
}

__global__ static void choose_kernel(choose_call p)
{
    const int64_t tokens = p.scores.size[0], experts = p.scores.size[1], per = tokens / p.pools;
    KIN_EACH(i, tokens * experts)
    {
        const int64_t e = i / tokens, t = i % tokens, t0 = t / per * per, t1 = t0 + per;
        if (null_row(p.null, t, tokens)) {
            *int_ptr2(p.idx, t, e) = e == 0 ? (int32_t)p.null_expert : -1;
            *kin_ptr2(p.w, t, e) = e == 0 ? 1.0f : 0.0f;
            continue;
        }
        int64_t k = p.k;
        if (p.rule == KIN_TAKE_COUNT) {
            k = 0;
            for (int64_t u = t0; u < t1; u++)
                k += above(p, u, e);
        }
        const bool takes =
            p.rule == KIN_TAKE_ABOVE ? above(p, t, e) : column_rank(p.scores, t0, t1, t, e) < k;
        *int_ptr2(p.idx, t, e) = takes ? (int32_t)e : -1;
        *kin_ptr2(p.w, t, e) = takes ? kin_get2(p.scores, t, e) : 0.0f;
        if (p.kth.data && column_rank(p.gate, t0, t1, t, e) == p.k - 1)
            ((float *)p.kth.data)[e * p.kth.stride[0]] = kin_get2(p.gate, t, e);
    }
}

extern "C" kin_status kin_cuda_choose(kin_ctx *ctx, const kin_choose_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "expert choice");
    choose_call p = {};
    p.scores = kin_cuda_in(&c, a->scores);
    p.null = kin_cuda_in(&c, a->null);
    p.gate = kin_cuda_in(&c, a->gate);
    p.threshold = kin_cuda_in(&c, a->threshold);
    p.idx = kin_cuda_out(&c, a->idx, false);
    p.w = kin_cuda_out(&c, a->w, false);
    p.kth = kin_cuda_out(&c, a->kth, false);
    p.pools = a->pools;
    p.null_expert = a->null_expert;
    p.k = a->k;
    p.rule = a->rule;
    KIN_LAUNCH(&c, choose_kernel, kin_blocks(kin_tensor_numel(a->scores)), KIN_THREADS, p);
    return kin_cuda_end(&c);
}

/* --- dispatch: a stable counting sort in three launches --- */

enum { PAIRS = 256 }; /* of one block */

typedef struct sort_call {
    kin_tensor idx;
    int64_t tokens, slots, groups, null_expert, blocks;
    int32_t *order, *offset, *inverse;
    int32_t *count; /* [groups][blocks]: pairs of the block, then where they start */
} sort_call;

/* Group of flat pair i, -1: no pair. */
__device__ static __forceinline__ int32_t group_of(const sort_call &s, int64_t i)
{
    if (i >= s.tokens * s.slots)
        return -1;
    const int64_t t = i / s.slots, k = i % s.slots;
    if (k > 0 && s.null_expert >= 0 && kin_int2(s.idx, t, 0) == s.null_expert)
        return -1;
    const int32_t e = kin_int2(s.idx, t, k);
    return e >= 0 && e < s.groups ? e : -1;
}

__global__ static void count_kernel(sort_call s)
{
    __shared__ int32_t mine[PAIRS];
    mine[threadIdx.x] = group_of(s, (int64_t)blockIdx.x * PAIRS + threadIdx.x);
    __syncthreads();
    for (int64_t e = threadIdx.x; e < s.groups; e += PAIRS) {
        int32_t n = 0;
        for (int i = 0; i < PAIRS; i++)
            n += mine[i] == e;
        s.count[e * s.blocks + blockIdx.x] = n;
    }
}

/* Turns counts into starts; one block: a thread per group adds its blocks up, then the groups. */
__global__ static void start_kernel(sort_call s)
{
    for (int64_t e = threadIdx.x; e < s.groups; e += blockDim.x) {
        int32_t at = 0;
        for (int64_t b = 0; b < s.blocks; b++) {
            const int32_t n = s.count[e * s.blocks + b];
            s.count[e * s.blocks + b] = at;
            at += n;
        }
        s.offset[e + 1] = at;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        s.offset[0] = 0;
        for (int64_t e = 0; e < s.groups; e++)
            s.offset[e + 1] += s.offset[e];
    }
}

__global__ static void place_kernel(sort_call s)
{
    __shared__ int32_t mine[PAIRS];
    const int64_t i = (int64_t)blockIdx.x * PAIRS + threadIdx.x;
    const int32_t e = group_of(s, i);
    mine[threadIdx.x] = e;
    __syncthreads();
    if (i >= s.tokens * s.slots)
        return;
    if (e < 0) {
        s.inverse[i] = -1;
        return;
    }
    int32_t at = s.offset[e] + s.count[e * s.blocks + blockIdx.x];
    for (unsigned j = 0; j < threadIdx.x; j++)
        at += mine[j] == e;
    s.order[at] = (int32_t)i;
    s.inverse[i] = at;
}

extern "C" kin_status kin_cuda_dispatch(kin_ctx *ctx, const kin_dispatch_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "dispatch");
    sort_call s = {};
    s.idx = kin_cuda_in(&c, a->idx);
    s.tokens = a->d->tokens;
    s.slots = a->d->slots;
    s.groups = a->d->groups;
    s.null_expert = a->null_expert;
    s.blocks = (s.tokens * s.slots + PAIRS - 1) / PAIRS;
    /* note: entries behind offset[G] stay as they are */
    s.order = (int32_t *)kin_cuda_out(&c, &a->d->order, true).data;
    s.offset = (int32_t *)kin_cuda_out(&c, &a->d->offset, false).data;
    s.inverse = (int32_t *)kin_cuda_out(&c, &a->d->inverse, false).data;
    s.count = (int32_t *)kin_cuda_scratch(&c, (size_t)(s.groups * s.blocks) * sizeof(int32_t));
    KIN_LAUNCH(&c, count_kernel, dim3((unsigned)s.blocks), PAIRS, s);
    KIN_LAUNCH(&c, start_kernel, dim3(1), KIN_THREADS, s);
    KIN_LAUNCH(&c, place_kernel, dim3((unsigned)s.blocks), PAIRS, s);
    return kin_cuda_end(&c);
}

/* --- combine --- */

typedef struct combine_call {
    int64_t tokens, slots, n;
    const int32_t *inverse;
    kin_tensor weight, z, base, y, dy, dz, dweight;
    bool weighted, acc;
} combine_call;

__global__ static void combine_kernel(combine_call p)
{
    KIN_EACH(i, p.tokens * p.n)
    {
        const int64_t t = i / p.n, j = i % p.n;
        float sum = p.base.data ? kin_get2(p.base, t, j) : 0.0f;
        for (int64_t k = 0; k < p.slots; k++) {
            const int32_t s = p.inverse[t * p.slots + k];
            if (s >= 0)
                sum += (p.weighted ? kin_get2(p.weight, t, k) : 1.0f) * kin_get2(p.z, s, j);
        }
        kin_put(kin_ptr2(p.y, t, j), sum, p.acc);
    }
}

static combine_call combine_open(kin_cuda_call *c, const kin_combine_args *a)
{
    combine_call p = {};
    p.tokens = a->d->tokens;
    p.slots = a->d->slots;
    p.n = a->n;
    p.inverse = (const int32_t *)kin_cuda_in(c, &a->d->inverse).data;
    if (a->weighted)
        p.weight = kin_cuda_in(c, &a->d->weight);
    p.z = kin_cuda_in(c, a->z);
    p.weighted = a->weighted;
    p.acc = a->acc;
    return p;
}

extern "C" kin_status kin_cuda_combine(kin_ctx *ctx, const kin_combine_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "combine");
    combine_call p = combine_open(&c, a);
    p.base = kin_cuda_in(&c, a->base);
    p.y = kin_cuda_out(&c, a->y, a->acc);
    KIN_LAUNCH(&c, combine_kernel, kin_blocks(p.tokens * p.n), KIN_THREADS, p);
    return kin_cuda_end(&c);
}

/* a block per (token, slot) */
__global__ static void combine_bwd_kernel(combine_call p)
{
    const int64_t i = blockIdx.x, t = i / p.slots, k = i % p.slots;
    const int32_t s = p.inverse[i];
    const float w = p.weighted ? kin_get2(p.weight, t, k) : 1.0f;
    double dot = 0;
    for (int64_t j = threadIdx.x; j < p.n && s >= 0; j += blockDim.x) {
        const float dy = kin_get2(p.dy, t, j);
        if (p.dz.data)
            *kin_ptr2(p.dz, s, j) = w * dy;
        if (p.dweight.data)
            dot += (double)dy * (double)kin_get2(p.z, s, j);
    }
    dot = kin_block_sum(dot);
    if (p.dweight.data && threadIdx.x == 0)
        kin_put(kin_ptr2(p.dweight, t, k), (float)dot, p.acc);
}

extern "C" kin_status kin_cuda_combine_bwd(kin_ctx *ctx, const kin_combine_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "combine backward");
    combine_call p = combine_open(&c, a);
    p.dy = kin_cuda_in(&c, a->dy);
    /* note: rows of no pair stay as they are */
    p.dz = kin_cuda_out(&c, a->dz, true);
    p.dweight = kin_cuda_out(&c, a->dweight, a->acc);
    KIN_LAUNCH(&c, combine_bwd_kernel, dim3((unsigned)(p.tokens * p.slots)), 128, p);
    return kin_cuda_end(&c);
}
