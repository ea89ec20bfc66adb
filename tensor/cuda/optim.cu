/* tensor/cuda/optim.cu: AdamW with moving average over all parameters in one launch, the gradient's
 * norm, and noise with the CPU's bits. This file is compiled without contraction into fused
 * products: the normals of tensor/rng.c are additions, products, one division and one square root
 * in double, which IEEE fixes to the bit. */
#include "tensor/cuda/kernel.cuh"

#include <cstdlib>

#include "tensor/rng_normal.h"

/* --- noise --- */

/* One thread per block of four draws. */
__global__ static void randn_kernel(kin_rng rng, uint64_t first, int64_t n, float *y)
{
    const uint64_t from = first / 4, to = (first + (uint64_t)n + 3) / 4;
    KIN_EACH(i, (int64_t)(to - from))
    {
        const uint64_t block = from + (uint64_t)i;
        float draw[4];
        kin_rng_normal_block(&rng, (uint32_t)block, draw);
        for (int j = 0; j < 4; j++) {
            const int64_t at = (int64_t)(4 * block + (uint64_t)j - first);
            if (at >= 0 && at < n)
                y[at] = draw[j];
        }
    }
}

extern "C" kin_status kin_cuda_randn(kin_ctx *ctx, const kin_rng *rng, uint64_t first,
                                     kin_tensor *y)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "randn");
    const int64_t n = kin_tensor_numel(y);
    const kin_tensor out = kin_cuda_out(&c, y, false);
    const kin_rng key = *rng;
    float *to = (float *)out.data;
    if (n > 0)
        KIN_LAUNCH(&c, randn_kernel, kin_blocks(n / 4 + 2), KIN_THREADS, key, first, n, to);
    return kin_cuda_end(&c);
}

/* --- optimizer --- */

enum { CHUNK = 16384 }; /* values of one block */

/* Part and first value of each chunk: chunk i of the launch is [at, at + CHUNK) of `part`. */
typedef struct chunk {
    int64_t part, at;
} chunk;

static int64_t chunk_count(const kin_adamw_part *part, int64_t parts)
{
    int64_t n = 0;
    for (int64_t i = 0; i < parts; i++)
        n += (part[i].n + CHUNK - 1) / CHUNK;
    return n;
}

/* The chunks of all parts on the device. */
static const chunk *chunks_of(kin_cuda_call *c, const kin_adamw_part *part, int64_t parts,
                              int64_t n)
{
    chunk *list = (chunk *)kin_ws_bytes(c->ctx, (size_t)n * sizeof(chunk));
    int64_t at = 0;
    if (!list) {
        c->status = c->ctx->error.status;
        return NULL;
    }
    for (int64_t i = 0; i < parts; i++)
        for (int64_t j = 0; j < part[i].n; j += CHUNK, at++)
            list[at] = {i, j};
    return (const chunk *)kin_cuda_bytes(c, list, (size_t)n * sizeof(chunk));
}

typedef struct adamw_scalars {
    float beta1, beta2, eps, grad_scale, ema_decay;
    double c1, root_c2; /* 1 - beta1^step, sqrt(1 - beta2^step) */
} adamw_scalars;

__global__ static void adamw_kernel(const kin_adamw_part *parts, const chunk *chunks,
                                    adamw_scalars s)
{
    const chunk mine = chunks[blockIdx.x];
    const kin_adamw_part p = parts[mine.part];
    const int64_t end = mine.at + CHUNK < p.n ? mine.at + CHUNK : p.n;
    const double b1 = (double)s.beta1, b2 = (double)s.beta2, d = (double)s.ema_decay;
    for (int64_t i = mine.at + threadIdx.x; i < end; i += blockDim.x) {
        const double g = (double)p.g[i] * (double)s.grad_scale;
        double w = (double)p.w[i] * (1 - (double)p.lr * (double)p.weight_decay);
        const double m = b1 * (double)p.m[i] + (1 - b1) * g;
        const double v = b2 * (double)p.v[i] + (1 - b2) * g * g;
        w -= (double)p.lr / s.c1 * m / (sqrt(v) / s.root_c2 + (double)s.eps);
        p.w[i] = (float)w;
        p.m[i] = (float)m;
        p.v[i] = (float)v;
        p.g[i] = 0;
        if (p.ema)
            p.ema[i] = (float)(d * (double)p.ema[i] + (1 - d) * (double)(float)w);
    }
}

/* The parts with device addresses, as a list on the device; written: all of a part, else only g. */
static const kin_adamw_part *parts_of(kin_cuda_call *c, const kin_adamw_part *part, int64_t parts,
                                      bool written)
{
    kin_adamw_part *list = (kin_adamw_part *)kin_ws_bytes(c->ctx, (size_t)parts * sizeof *list);
    if (!list) {
        c->status = c->ctx->error.status;
        return NULL;
    }
    for (int64_t i = 0; i < parts; i++) {
        kin_adamw_part *p = &list[i];
        *p = part[i];
        p->g = (float *)kin_cuda_floats(c, p->g, p->n, written);
        if (!written)
            continue;
        p->w = (float *)kin_cuda_floats(c, p->w, p->n, true);
        p->m = (float *)kin_cuda_floats(c, p->m, p->n, true);
        p->v = (float *)kin_cuda_floats(c, p->v, p->n, true);
        p->ema = (float *)kin_cuda_floats(c, p->ema, p->n, true);
    }
    return (const kin_adamw_part *)kin_cuda_bytes(c, list, (size_t)parts * sizeof *list);
}

extern "C" kin_status kin_cuda_adamw(kin_ctx *ctx, const kin_adamw_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "adamw");
    adamw_scalars s = {};
    s.beta1 = a->beta1;
    s.beta2 = a->beta2;
    s.eps = a->eps;
    s.grad_scale = a->grad_scale;
    s.ema_decay = a->ema_decay;
    s.c1 = 1 - pow((double)a->beta1, (double)a->step);
    s.root_c2 = sqrt(1 - pow((double)a->beta2, (double)a->step));
    const int64_t n = chunk_count(a->part, a->parts);
    const chunk *chunks = chunks_of(&c, a->part, a->parts, n);
    const kin_adamw_part *parts = parts_of(&c, a->part, a->parts, true);
    KIN_LAUNCH(&c, adamw_kernel, dim3((unsigned)n), KIN_THREADS, parts, chunks, s);
    return kin_cuda_end(&c);
}

__global__ static void sumsq_kernel(const kin_adamw_part *parts, const chunk *chunks, double *sums)
{
    const chunk mine = chunks[blockIdx.x];
    const kin_adamw_part p = parts[mine.part];
    const int64_t end = mine.at + CHUNK < p.n ? mine.at + CHUNK : p.n;
    double sum = 0;
    for (int64_t i = mine.at + threadIdx.x; i < end; i += blockDim.x)
        sum += (double)p.g[i] * (double)p.g[i];
    sum = kin_block_sum(sum);
    if (threadIdx.x == 0)
        sums[blockIdx.x] = sum;
}

__global__ static void sum_kernel(const double *sums, int64_t n, double *out)
{
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        sum += sums[i];
    sum = kin_block_sum(sum);
    if (threadIdx.x == 0)
        *out = sum;
}

extern "C" kin_status kin_cuda_sumsq(kin_ctx *ctx, const kin_adamw_part *part, int64_t parts,
                                     double *out)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "sum of squares");
    const int64_t n = chunk_count(part, parts);
    *out = 0;
    const chunk *chunks = chunks_of(&c, part, parts, n);
    const kin_adamw_part *list = parts_of(&c, part, parts, false);
    double *sums = (double *)kin_cuda_scratch(&c, (size_t)(n + 1) * sizeof(double));
    double *total = sums + n;
    KIN_LAUNCH(&c, sumsq_kernel, dim3((unsigned)n), KIN_THREADS, list, chunks, sums);
    KIN_LAUNCH(&c, sum_kernel, dim3(1), KIN_THREADS, sums, n, total);
    kin_cuda_read(&c, out, total, sizeof *out);
    return kin_cuda_end(&c);
}
