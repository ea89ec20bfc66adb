/* tensor/cuda/scores.cu: routing scores (cosine to prototypes) and the load-balance loss. Sums in
 * double, so that a choice differs from the CPU's only at ties. */
#include "tensor/cuda/kernel.cuh"

/* --- cosine --- */

enum { SLICE = 512 }; /* tokens of one partial sum of the prototypes' gradient */

typedef struct cosine_call {
    bool plain, acc;
    int64_t tokens, experts, d;
    kin_tensor x, proto, z, dz, dx, dproto;
    float *xinv, *pinv; /* 1 / max(norm, 1e-12) */
    double *part;       /* [slices][E][D] */
} cosine_call;

/* 1 / max(norm, 1e-12) of every row, or 1; a block per row */
__global__ static void inverse_kernel(kin_tensor x, bool plain, float *out)
{
    double sq = 0;
    for (int64_t c = threadIdx.x; c < x.size[1] && !plain; c += blockDim.x) {
        const double v = (double)kin_at(x, blockIdx.x * x.stride[0] + c * x.stride[1]);
        sq += v * v;
    }
    sq = kin_block_sum(sq);
    if (threadIdx.x == 0)
        out[blockIdx.x] = plain ? 1.0f : (float)(1 / fmax(sqrt(sq), 1e-12));
}

/* a block per token */
__global__ static void cosine_kernel(cosine_call p)
{
    const int64_t t = blockIdx.x;
    for (int64_t e = 0; e < p.experts; e++) {
        double dot = 0;
        for (int64_t c = threadIdx.x; c < p.d; c += blockDim.x)
            dot += (double)kin_get2(p.x, t, c) * (double)kin_at(p.proto, e * p.d + c);
        dot = kin_block_sum(dot);
        if (threadIdx.x == 0)
            *kin_ptr2(p.z, t, e) = (float)(dot * (double)p.xinv[t] * (double)p.pinv[e]);
    }
}

/* Rows' inverse norms: where the caller keeps them, else in scratch. */
static float *inverses(kin_cuda_call *c, const kin_tensor *kept, const kin_tensor &x, bool plain,
                       bool made)
{
    if (kept && kept->data && made)
        return (float *)kin_cuda_in(c, kept).data;
    float *out = kept && kept->data
                     ? (float *)kin_cuda_out(c, kept, false).data
                     : (float *)kin_cuda_scratch(c, (size_t)(x.size[0] + 1) * sizeof(float));
    KIN_LAUNCH(c, inverse_kernel, dim3((unsigned)x.size[0]), 128, x, plain, out);
    return out;
}

static cosine_call cosine_open(kin_cuda_call *c, const kin_cosine_args *a, bool made)
{
    cosine_call p = {};
    p.plain = a->plain;
    p.tokens = a->x->size[0];
    p.d = a->x->size[1];
    p.experts = a->proto->value.size[0];
    p.x = kin_cuda_in(c, a->x);
    p.proto = kin_cuda_value(c, a->proto);
    p.xinv = inverses(c, a->xinv, p.x, a->plain, made);
    p.pinv = inverses(c, a->pinv, p.proto, a->plain, made);
    return p;
}

extern "C" kin_status kin_cuda_cosine(kin_ctx *ctx, const kin_cosine_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "cosine");
    cosine_call p = cosine_open(&c, a, false);
    p.z = kin_cuda_out(&c, a->z, false);
    KIN_LAUNCH(&c, cosine_kernel, dim3((unsigned)p.tokens), 128, p);
    return kin_cuda_end(&c);
}

/* Gradient of z = u.v uinv vinv to u (tensor/ref/routing.c). */
__device__ static __forceinline__ double cosine_du(bool plain, double u, double uinv, double v,
                                                   double vinv, double z)
{
    /* note: the kept inverse is f32, and so is its floor */
    const bool constant = plain || uinv >= (double)(float)1e12;
    return (v * vinv - (constant ? 0 : u * uinv * z)) * uinv;
}

__global__ static void cosine_dx_kernel(cosine_call p)
{
    KIN_EACH(i, p.tokens * p.d)
    {
        const int64_t t = i / p.d, c = i % p.d;
        const double u = (double)kin_get2(p.x, t, c);
        double sum = 0;
        for (int64_t e = 0; e < p.experts; e++)
            sum += (double)kin_get2(p.dz, t, e) *
                   cosine_du(p.plain, u, (double)p.xinv[t], (double)kin_at(p.proto, e * p.d + c),
                             (double)p.pinv[e], (double)kin_get2(p.z, t, e));
        kin_put(kin_ptr2(p.dx, t, c), (float)sum, p.acc);
    }
}

/* One slice of the tokens (blockIdx.y) for each entry of the prototypes. */
__global__ static void cosine_dp_kernel(cosine_call p)
{
    const int64_t first = (int64_t)blockIdx.y * SLICE;
    const int64_t end = first + SLICE < p.tokens ? first + SLICE : p.tokens;
    KIN_EACH(i, p.experts * p.d)
    {
        const int64_t e = i / p.d, c = i % p.d;
        const double u = (double)kin_at(p.proto, i);
        double sum = 0;
        for (int64_t t = first; t < end; t++)
            sum += (double)kin_get2(p.dz, t, e) *
                   cosine_du(p.plain, u, (double)p.pinv[e], (double)kin_get2(p.x, t, c),
                             (double)p.xinv[t], (double)kin_get2(p.z, t, e));
        p.part[blockIdx.y * p.experts * p.d + i] = sum;
    }
}

__global__ static void add_parts_kernel(int64_t n, int64_t parts, const double *part, float *grad)
{
    KIN_EACH(i, n)
    {
        double sum = 0;
        for (int64_t k = 0; k < parts; k++)
            sum += part[k * n + i];
        grad[i] += (float)sum;
    }
}

extern "C" kin_status kin_cuda_cosine_bwd(kin_ctx *ctx, const kin_cosine_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "cosine backward");
    cosine_call p = cosine_open(&c, a, true);
    p.z = kin_cuda_in(&c, a->z);
    p.dz = kin_cuda_in(&c, a->dz);
    p.dx = kin_cuda_out(&c, a->dx, a->acc);
    p.dproto = kin_cuda_grad(&c, a->proto);
    p.acc = a->acc;
    if (p.dx.data)
        KIN_LAUNCH(&c, cosine_dx_kernel, kin_blocks(p.tokens * p.d), KIN_THREADS, p);
    const int64_t slices = (p.tokens + SLICE - 1) / SLICE, n = p.experts * p.d;
    if (slices > 65535)
        kin_cuda_fail(&c, KIN_ERR_UNSUPPORTED, "too many tokens");
    if (p.dproto.data && slices > 0) {
        p.part = (double *)kin_cuda_scratch(&c, (size_t)(slices * n) * sizeof(double));
        float *grad = (float *)p.dproto.data;
        KIN_LAUNCH(&c, cosine_dp_kernel, dim3(kin_blocks(n).x, (unsigned)slices), KIN_THREADS, p);
        KIN_LAUNCH(&c, add_parts_kernel, kin_blocks(n), KIN_THREADS, n, slices, p.part, grad);
    }
    return kin_cuda_end(&c);
}

/* --- load balance --- */

typedef struct balance_call {
    kin_tensor p, idx, null, loss, dloss, dp;
    int64_t parts, per, experts;
    float coef;
    bool acc;
    double *share, *mean; /* [parts, E]: fraction of the slots; mean of the probability */
    double *rows;         /* [parts, E]: rows that count */
} balance_call;

__device__ static __forceinline__ bool null_row(const kin_tensor &null, int64_t t, int64_t tokens)
{
    return null.data &&
           ((const uint8_t *)null.data)[t / (tokens / null.size[0]) * null.stride[0]] != 0;
}

/* a block per (part, expert) */
__global__ static void balance_part_kernel(balance_call b)
{
    const int64_t e = blockIdx.x, part = blockIdx.y, slots = b.idx.size[1];
    double rows = 0, hits = 0, sum = 0;
    for (int64_t t = part * b.per + threadIdx.x; t < (part + 1) * b.per; t += blockDim.x) {
        if (null_row(b.null, t, b.p.size[0]))
            continue;
        rows += 1;
        sum += (double)kin_get2(b.p, t, e);
        for (int64_t k = 0; k < slots; k++)
            hits += kin_int2(b.idx, t, k) == e ? 1 : 0;
    }
    rows = kin_block_sum(rows);
    hits = kin_block_sum(hits);
    sum = kin_block_sum(sum);
    if (threadIdx.x != 0)
        return;
    const int64_t at = part * b.experts + e;
    b.rows[at] = rows;
    b.share[at] = rows > 0 ? hits / (rows * (double)slots) : 0;
    b.mean[at] = rows > 0 ? sum / rows : 0;
}

/* Parts with a row that counts; every thread gets it. */
__device__ static double parts_used(const balance_call &b)
{
    double used = 0;
    for (int64_t part = 0; part < b.parts; part++)
        used += b.rows[part * b.experts] > 0 ? 1 : 0;
    return used;
}

__global__ static void balance_kernel(balance_call b)
{
    const double used = parts_used(b);
    double loss = 0;
    for (int64_t i = threadIdx.x; i < b.parts * b.experts; i += blockDim.x)
        if (b.rows[i] > 0)
            loss += b.mean[i] * (double)b.experts * b.share[i] / used;
    loss = kin_block_sum(loss);
    if (threadIdx.x == 0)
        *(float *)b.loss.data = (float)((double)b.coef * loss);
}

__global__ static void balance_bwd_kernel(balance_call b)
{
    const double used = parts_used(b);
    const double dloss = (double)*(const float *)b.dloss.data * (double)b.coef;
    KIN_EACH(i, b.p.size[0] * b.experts)
    {
        const int64_t t = i / b.experts, e = i % b.experts, at = t / b.per * b.experts + e;
        double g = 0;
        if (!null_row(b.null, t, b.p.size[0]))
            g = dloss * (double)b.experts * b.share[at] / b.rows[at] / used;
        kin_put(kin_ptr2(b.dp, t, e), (float)g, b.acc);
    }
}

static balance_call balance_open(kin_cuda_call *c, const kin_balance_args *a)
{
    balance_call b = {};
    b.experts = a->p->size[1];
    b.parts = a->per_sequence ? a->samples : 1;
    b.per = a->p->size[0] / b.parts;
    b.p = kin_cuda_in(c, a->p);
    b.idx = kin_cuda_in(c, a->idx);
    b.null = kin_cuda_in(c, a->null);
    b.coef = a->coef;
    const int64_t n = b.parts * b.experts;
    b.share = (double *)kin_cuda_scratch(c, (size_t)(3 * n) * sizeof(double));
    b.mean = b.share + n;
    b.rows = b.mean + n;
    if (b.parts > 65535)
        kin_cuda_fail(c, KIN_ERR_UNSUPPORTED, "more than 65535 samples");
    KIN_LAUNCH(c, balance_part_kernel, dim3((unsigned)b.experts, (unsigned)b.parts), KIN_THREADS,
               b);
    return b;
}

extern "C" kin_status kin_cuda_balance(kin_ctx *ctx, const kin_balance_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "balance");
    balance_call b = balance_open(&c, a);
    b.loss = kin_cuda_out(&c, a->loss, false);
    KIN_LAUNCH(&c, balance_kernel, dim3(1), KIN_THREADS, b);
    return kin_cuda_end(&c);
}

extern "C" kin_status kin_cuda_balance_bwd(kin_ctx *ctx, const kin_balance_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "balance backward");
    balance_call b = balance_open(&c, a);
    b.dloss = kin_cuda_in(&c, a->dloss);
    b.dp = kin_cuda_out(&c, a->dp, a->acc);
    b.acc = a->acc;
    KIN_LAUNCH(&c, balance_bwd_kernel, kin_blocks(kin_tensor_numel(a->p)), KIN_THREADS, b);
    return kin_cuda_end(&c);
}
