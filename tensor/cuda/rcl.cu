/* tensor/cuda/rcl.cu: routing contrastive loss (definition: tensor/ref/rcl.c). All parts of the
 * tokens go through each launch together; everything in double. */
#include "tensor/cuda/kernel.cuh"

typedef struct rcl_call {
    kin_tensor x, idx, proto, loss, count_out, dloss, dx, dproto;
    int64_t parts, per, experts, d, slots;
    float tau;
    bool acc;
    int32_t *count;      /* [parts,E] */
    double *mean;        /* [parts,E,D] */
    double *pinv, *minv; /* [E], [parts,E] */
    double *cosine;      /* [parts,E,E] */
    double *g, *dmean;   /* backward: [parts,E,E], [parts,E,D] */
} rcl_call;

__device__ static __forceinline__ bool member(const rcl_call &r, int64_t t, int64_t e)
{
    for (int64_t k = 0; k < r.slots; k++)
        if (kin_int2(r.idx, t, k) == e)
            return true;
    return false;
}

/* a block per (expert, part) */
__global__ static void count_kernel(rcl_call r)
{
    const int64_t e = blockIdx.x, part = blockIdx.y;
    double n = 0;
    for (int64_t t = part * r.per + threadIdx.x; t < (part + 1) * r.per; t += blockDim.x)
        n += member(r, t, e) ? 1 : 0;
    n = kin_block_sum(n);
    if (threadIdx.x != 0)
        return;
    r.count[part * r.experts + e] = (int32_t)n;
    if (r.count_out.data)
        ((int32_t *)r.count_out.data)[part * r.count_out.stride[0] + e * r.count_out.stride[1]] =
            (int32_t)n;
}

/* a thread per column; blockIdx.y the expert, blockIdx.z the part */
__global__ static void mean_kernel(rcl_call r)
{
    const int64_t e = blockIdx.y, part = blockIdx.z, i = part * r.experts + e;
    const int32_t n = r.count[i];
    KIN_EACH(c, r.d)
    {
        double sum = 0;
        for (int64_t t = part * r.per; t < (part + 1) * r.per && n > 0; t++)
            if (member(r, t, e))
                sum += (double)kin_get2(r.x, t, c);
        r.mean[i * r.d + c] = n > 0 ? sum / (double)n : 0;
    }
}

/* Inverse norms: block e < E of the prototypes, the rest of the means. */
__global__ static void norm_kernel(rcl_call r)
{
    const int64_t i = blockIdx.x;
    double sq = 0;
    for (int64_t c = threadIdx.x; c < r.d; c += blockDim.x) {
        const double v = i < r.experts ? (double)kin_at(r.proto, i * r.d + c)
                                       : r.mean[(i - r.experts) * r.d + c];
        sq += v * v;
    }
    sq = 1 / fmax(sqrt(kin_block_sum(sq)), 1e-12);
    if (threadIdx.x == 0)
        *(i < r.experts ? &r.pinv[i] : &r.minv[i - r.experts]) = sq;
}

/* a block per pair (prototype, mean) of a part */
__global__ static void cosine_kernel(rcl_call r)
{
    const int64_t E = r.experts, i = blockIdx.x / E, j = blockIdx.x % E, part = blockIdx.y;
    double dot = 0;
    for (int64_t c = threadIdx.x; c < r.d; c += blockDim.x)
        dot += (double)kin_at(r.proto, i * r.d + c) * r.mean[(part * E + j) * r.d + c];
    dot = kin_block_sum(dot);
    if (threadIdx.x == 0)
        r.cosine[(part * E + i) * E + j] = dot * r.pinv[i] * r.minv[part * E + j];
}

/* Experts of a part that have tokens. */
__device__ static int64_t used_of(const rcl_call &r, int64_t part)
{
    int64_t used = 0;
    for (int64_t e = 0; e < r.experts; e++)
        used += r.count[part * r.experts + e] > 0;
    return used;
}

/* Parts with a token that has an expert. */
__device__ static double parts_used(const rcl_call &r)
{
    double n = 0;
    for (int64_t part = 0; part < r.parts; part++)
        n += used_of(r, part) > 0 ? 1 : 0;
    return n;
}

/* log sum over used j of exp(cos(P_i, m_j) / tau) */
__device__ static double row_lse(const rcl_call &r, int64_t part, int64_t i)
{
    const double *row = r.cosine + (part * r.experts + i) * r.experts;
    double most = -INFINITY, sum = 0;
    for (int64_t j = 0; j < r.experts; j++)
        if (r.count[part * r.experts + j])
            most = fmax(most, row[j] / (double)r.tau);
    for (int64_t j = 0; j < r.experts; j++)
        if (r.count[part * r.experts + j])
            sum += exp(row[j] / (double)r.tau - most);
    return most + log(sum);
}

__global__ static void loss_kernel(rcl_call r)
{
    const double parts = parts_used(r);
    double loss = 0;
    for (int64_t i = threadIdx.x; i < r.parts * r.experts; i += blockDim.x) {
        const int64_t part = i / r.experts, e = i % r.experts, used = used_of(r, part);
        if (r.count[i] && used >= 2)
            loss += (row_lse(r, part, e) - r.cosine[i * r.experts + e] / (double)r.tau) /
                    (double)used / parts;
    }
    loss = kin_block_sum(loss);
    if (threadIdx.x == 0)
        *(float *)r.loss.data = (float)loss;
}

static rcl_call rcl_open(kin_cuda_call *c, const kin_rcl_args *a)
{
    rcl_call r = {};
    r.parts = a->parts;
    r.experts = a->proto->value.size[0];
    r.d = a->x->size[1];
    r.per = a->x->size[0] / a->parts;
    r.slots = a->slots;
    r.tau = a->tau;
    r.x = kin_cuda_in(c, a->x);
    r.idx = kin_cuda_in(c, a->idx);
    r.proto = kin_cuda_value(c, a->proto);
    const size_t pe = (size_t)(r.parts * r.experts), row = sizeof(double);
    r.count = (int32_t *)kin_cuda_scratch(c, pe * sizeof(int32_t));
    r.mean = (double *)kin_cuda_scratch(c, pe * (size_t)r.d * row);
    r.pinv = (double *)kin_cuda_scratch(c, (size_t)r.experts * row);
    r.minv = (double *)kin_cuda_scratch(c, pe * row);
    r.cosine = (double *)kin_cuda_scratch(c, pe * (size_t)r.experts * row);
    if (r.parts > 65535)
        kin_cuda_fail(c, KIN_ERR_UNSUPPORTED, "more than 65535 parts");
    return r;
}

static void prepare(kin_cuda_call *c, const rcl_call &r)
{
    const unsigned E = (unsigned)r.experts, parts = (unsigned)r.parts;
    KIN_LAUNCH(c, count_kernel, dim3(E, parts), KIN_THREADS, r);
    KIN_LAUNCH(c, mean_kernel, dim3((unsigned)((r.d + 127) / 128), E, parts), 128, r);
    KIN_LAUNCH(c, norm_kernel, dim3(E + E * parts), KIN_THREADS, r);
    KIN_LAUNCH(c, cosine_kernel, dim3(E * E, parts), KIN_THREADS, r);
}

extern "C" kin_status kin_cuda_rcl(kin_ctx *ctx, const kin_rcl_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "routing loss");
    rcl_call r = rcl_open(&c, a);
    r.loss = kin_cuda_out(&c, a->loss, false);
    r.count_out = kin_cuda_out(&c, a->count, false);
    prepare(&c, r);
    KIN_LAUNCH(&c, loss_kernel, dim3(1), KIN_THREADS, r);
    return kin_cuda_end(&c);
}

/* dL/dcos(P_i, m_j) */
__global__ static void score_kernel(rcl_call r)
{
    const int64_t E = r.experts;
    const double parts = parts_used(r), dloss = (double)*(const float *)r.dloss.data;
    KIN_EACH(at, r.parts * E)
    {
        const int64_t part = at / E, i = at % E, used = used_of(r, part);
        const bool on = r.count[at] && used >= 2;
        const double factor = on ? dloss / ((double)used * (double)r.tau * parts) : 0;
        const double lse = on ? row_lse(r, part, i) : 0;
        for (int64_t j = 0; j < E; j++) {
            const double v = exp(r.cosine[at * E + j] / (double)r.tau - lse) - (i == j ? 1 : 0);
            r.g[at * E + j] = on && r.count[part * E + j] ? factor * v : 0;
        }
    }
}

__device__ static __forceinline__ double cosine_du(double u, double uinv, double v, double vinv,
                                                   double cosine)
{
    return (v * vinv - (uinv >= 1e12 ? 0 : u * uinv * cosine)) * uinv;
}

/* Gradient of the means, over their counts: entry (part, e, c). */
__global__ static void dmean_kernel(rcl_call r)
{
    const int64_t E = r.experts;
    KIN_EACH(i, r.parts * E * r.d)
    {
        const int64_t c = i % r.d, e = i / r.d % E, part = i / r.d / E;
        double dm = 0;
        for (int64_t f = 0; f < E; f++) {
            const int64_t at = (part * E + f) * E + e;
            dm +=
                r.g[at] * cosine_du(r.mean[i], r.minv[part * E + e],
                                    (double)kin_at(r.proto, f * r.d + c), r.pinv[f], r.cosine[at]);
        }
        const int32_t n = r.count[part * E + e];
        r.dmean[i] = n ? dm / (double)n : 0;
    }
}

__global__ static void dproto_kernel(rcl_call r)
{
    const int64_t E = r.experts;
    KIN_EACH(i, E * r.d)
    {
        const int64_t e = i / r.d, c = i % r.d;
        const double p = (double)kin_at(r.proto, i);
        double sum = 0;
        for (int64_t part = 0; part < r.parts; part++)
            for (int64_t f = 0; f < E; f++) {
                const int64_t at = (part * E + e) * E + f;
                sum += r.g[at] * cosine_du(p, r.pinv[e], r.mean[(part * E + f) * r.d + c],
                                           r.minv[part * E + f], r.cosine[at]);
            }
        ((float *)r.dproto.data)[i] += (float)sum;
    }
}

__global__ static void dx_kernel(rcl_call r)
{
    KIN_EACH(i, r.parts * r.per * r.d)
    {
        const int64_t t = i / r.d, c = i % r.d, part = t / r.per;
        double sum = 0;
        for (int64_t e = 0; e < r.experts; e++)
            if (member(r, t, e))
                sum += r.dmean[(part * r.experts + e) * r.d + c];
        kin_put(kin_ptr2(r.dx, t, c), (float)sum, r.acc);
    }
}

extern "C" kin_status kin_cuda_rcl_bwd(kin_ctx *ctx, const kin_rcl_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "routing loss backward");
    rcl_call r = rcl_open(&c, a);
    const size_t pe = (size_t)(r.parts * r.experts);
    r.dloss = kin_cuda_in(&c, a->dloss);
    r.dx = kin_cuda_out(&c, a->dx, a->acc);
    r.dproto = kin_cuda_grad(&c, a->proto);
    r.acc = a->acc;
    r.g = (double *)kin_cuda_scratch(&c, pe * (size_t)r.experts * sizeof(double));
    r.dmean = (double *)kin_cuda_scratch(&c, pe * (size_t)r.d * sizeof(double));
    prepare(&c, r);
    KIN_LAUNCH(&c, score_kernel, kin_blocks((int64_t)pe), KIN_THREADS, r);
    KIN_LAUNCH(&c, dmean_kernel, kin_blocks((int64_t)pe * r.d), KIN_THREADS, r);
    if (r.dproto.data)
        KIN_LAUNCH(&c, dproto_kernel, kin_blocks(r.experts * r.d), KIN_THREADS, r);
    if (r.dx.data)
        KIN_LAUNCH(&c, dx_kernel, kin_blocks(kin_tensor_numel(a->x)), KIN_THREADS, r);
    return kin_cuda_end(&c);
}
