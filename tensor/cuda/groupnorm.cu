/* tensor/cuda/groupnorm.cu: normalisation over pixels and groups of channels, with an activation.
 * The pixels of a group are cut into a fixed number of parts, one block each; a second launch adds
 * the parts up. All sums in double. */
#include "tensor/cuda/kernel.cuh"

enum { PART_PIXELS = 4096 };

typedef struct group_call {
    int64_t batch, pixels, channels, groups, width, parts;
    float eps;
    int act;
    bool acc;
    kin_tensor x, gamma, beta, y, mean, rstd, dy, dx, dgamma, dbeta;
    double *sums;    /* [batch*groups][parts] sums, then [batch*groups] results */
    double *squares; /* likewise */
    double *column;  /* backward: [batch][parts][2][channels] */
} group_call;

__device__ static __forceinline__ int64_t element(const group_call &p, int64_t b, int64_t g,
                                                  int64_t i)
{
    return (b * p.pixels + i / p.width) * p.channels + g * p.width + i % p.width;
}

/* Range of the block's part of the pixels. */
__device__ static __forceinline__ void part_range(const group_call &p, int64_t *first, int64_t *end)
{
    *first = (int64_t)blockIdx.y * PART_PIXELS;
    *end = *first + PART_PIXELS < p.pixels ? *first + PART_PIXELS : p.pixels;
}

/* Sums of x (square false) or of (x - mean)^2 of one part of one group. */
__global__ static void part_kernel(group_call p, bool square)
{
    const int64_t at = blockIdx.x, b = at / p.groups, g = at % p.groups;
    const double mean = square ? p.sums[at + p.batch * p.groups * p.parts] : 0;
    int64_t first, end;
    double sum = 0;
    part_range(p, &first, &end);
    for (int64_t i = first * p.width + threadIdx.x; i < end * p.width; i += blockDim.x) {
        const double v = (double)((const float *)p.x.data)[element(p, b, g, i)] - mean;
        sum += square ? v * v : v;
    }
    sum = kin_block_sum(sum);
    if (threadIdx.x == 0)
        (square ? p.squares : p.sums)[at * p.parts + blockIdx.y] = sum;
}

/* Mean, or reciprocal deviation, of every group from the sums of its parts. */
__global__ static void moment_kernel(group_call p, bool square)
{
    const int64_t n = p.batch * p.groups;
    const double count = (double)(p.pixels * p.width);
    KIN_EACH(i, n)
    {
        double sum = 0;
        for (int64_t k = 0; k < p.parts; k++)
            sum += (square ? p.squares : p.sums)[i * p.parts + k];
        const double v = square ? 1 / sqrt(sum / count + (double)p.eps) : sum / count;
        (square ? p.squares : p.sums)[n * p.parts + i] = v;
        const kin_tensor &kept = square ? p.rstd : p.mean;
        if (kept.data)
            *kin_ptr2(kept, i / p.groups, i % p.groups) = (float)v;
    }
}

/* normalised element */
__device__ static __forceinline__ float normal(const group_call &p, int64_t at, int64_t b,
                                               int64_t g)
{
    const int64_t n = p.batch * p.groups, i = b * p.groups + g;
    return (float)(((double)((const float *)p.x.data)[at] - p.sums[n * p.parts + i]) *
                   p.squares[n * p.parts + i]);
}

__global__ static void apply_kernel(group_call p)
{
    KIN_EACH(at, p.batch * p.pixels * p.channels)
    {
        const int64_t c = at % p.channels, b = at / p.channels / p.pixels;
        const float n = normal(p, at, b, c / p.width);
        ((float *)p.y.data)[at] = kin_act_of(p.act, n * kin_at(p.gamma, c) + kin_at(p.beta, c));
    }
}

static group_call open_call(kin_cuda_call *c, const kin_groupnorm_args *a)
{
    group_call p = {};
    p.batch = a->batch;
    p.pixels = a->pixels;
    p.channels = a->channels;
    p.groups = a->groups;
    p.width = a->channels / a->groups;
    p.parts = (a->pixels + PART_PIXELS - 1) / PART_PIXELS;
    p.eps = a->eps;
    p.act = a->act;
    p.x = kin_cuda_in(c, a->x);
    p.gamma = kin_cuda_value(c, a->gamma);
    p.beta = kin_cuda_value(c, a->beta);
    const size_t n = (size_t)(p.batch * p.groups * (p.parts + 1));
    p.sums = (double *)kin_cuda_scratch(c, n * sizeof(double));
    p.squares = (double *)kin_cuda_scratch(c, n * sizeof(double));
    if (p.parts > 65535)
        kin_cuda_fail(c, KIN_ERR_UNSUPPORTED, "too many pixels");
    return p;
}

static void moments(kin_cuda_call *c, const group_call &p)
{
    const dim3 grid((unsigned)(p.batch * p.groups), (unsigned)p.parts);
    for (int square = 0; square < 2; square++) {
        KIN_LAUNCH(c, part_kernel, grid, KIN_THREADS, p, square != 0);
        KIN_LAUNCH(c, moment_kernel, kin_blocks(p.batch * p.groups), KIN_THREADS, p, square != 0);
    }
}

extern "C" kin_status kin_cuda_groupnorm(kin_ctx *ctx, const kin_groupnorm_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "group norm");
    group_call p = open_call(&c, a);
    p.y = kin_cuda_out(&c, a->y, false);
    p.mean = kin_cuda_out(&c, a->mean, false);
    p.rstd = kin_cuda_out(&c, a->rstd, false);
    moments(&c, p);
    KIN_LAUNCH(&c, apply_kernel, kin_blocks(kin_tensor_numel(a->x)), KIN_THREADS, p);
    return kin_cuda_end(&c);
}

/* Gradient of the scaled form at `at`, and the normalised value. */
__device__ static __forceinline__ float gradient(const group_call &p, int64_t at, int64_t b,
                                                 int64_t c, float *n)
{
    *n = normal(p, at, b, c / p.width);
    const float pre = *n * kin_at(p.gamma, c) + kin_at(p.beta, c);
    return ((const float *)p.dy.data)[at] * kin_act_slope(p.act, pre);
}

/* Sums of the gradient and of gradient times normalised value over one part of the pixels of one
 * sample, 32 channels a block. */
__global__ static void column_kernel(group_call p)
{
    __shared__ double part[2][8][32];
    const int64_t c = (int64_t)blockIdx.x * 32 + threadIdx.x, b = blockIdx.z;
    int64_t first, end;
    double db = 0, dg = 0;
    part_range(p, &first, &end);
    for (int64_t i = first + threadIdx.y; c < p.channels && i < end; i += 8) {
        float n;
        const float d = gradient(p, (b * p.pixels + i) * p.channels + c, b, c, &n);
        db += (double)d;
        dg += (double)d * (double)n;
    }
    part[0][threadIdx.y][threadIdx.x] = db;
    part[1][threadIdx.y][threadIdx.x] = dg;
    __syncthreads();
    if (threadIdx.y >= 2 || c >= p.channels)
        return;
    double sum = 0;
    for (int i = 0; i < 8; i++)
        sum += part[threadIdx.y][i][threadIdx.x];
    p.column[((b * p.parts + blockIdx.y) * 2 + threadIdx.y) * p.channels + c] = sum;
}

__device__ static double column_sum(const group_call &p, int64_t b, int which, int64_t c)
{
    double sum = 0;
    for (int64_t k = 0; k < p.parts; k++)
        sum += p.column[((b * p.parts + k) * 2 + which) * p.channels + c];
    return sum;
}

__global__ static void gamma_kernel(group_call p)
{
    KIN_EACH(c, p.channels)
    {
        double db = 0, dg = 0;
        for (int64_t b = 0; b < p.batch; b++) {
            db += column_sum(p, b, 0, c);
            dg += column_sum(p, b, 1, c);
        }
        if (p.dgamma.data)
            ((float *)p.dgamma.data)[c] += (float)dg;
        if (p.dbeta.data)
            ((float *)p.dbeta.data)[c] += (float)db;
    }
}

/* The two sums of each group, weighted by gamma, into the first entries of p.sums and p.squares'
 * part sums (no longer needed). */
__global__ static void group_kernel(group_call p)
{
    KIN_EACH(i, p.batch * p.groups)
    {
        double s[2] = {0, 0};
        for (int64_t c = i % p.groups * p.width; c < (i % p.groups + 1) * p.width; c++)
            for (int which = 0; which < 2; which++)
                s[which] += column_sum(p, i / p.groups, which, c) * (double)kin_at(p.gamma, c);
        p.sums[i * p.parts] = s[0];
        p.squares[i * p.parts] = s[1];
    }
}

__global__ static void dx_kernel(group_call p)
{
    const double count = (double)(p.pixels * p.width);
    KIN_EACH(at, p.batch * p.pixels * p.channels)
    {
        const int64_t c = at % p.channels, b = at / p.channels / p.pixels, g = c / p.width;
        const int64_t i = b * p.groups + g;
        float n;
        const double d = (double)gradient(p, at, b, c, &n) * (double)kin_at(p.gamma, c);
        const double rest = (p.sums[i * p.parts] + (double)n * p.squares[i * p.parts]) / count;
        kin_put((float *)p.dx.data + at,
                (float)(p.squares[p.batch * p.groups * p.parts + i] * (d - rest)), p.acc);
    }
}

extern "C" kin_status kin_cuda_groupnorm_bwd(kin_ctx *ctx, const kin_groupnorm_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "group norm backward");
    group_call p = open_call(&c, a);
    p.dy = kin_cuda_in(&c, a->dy);
    p.dx = kin_cuda_out(&c, a->dx, a->acc);
    p.acc = a->acc;
    p.dgamma = kin_cuda_grad(&c, a->gamma);
    p.dbeta = kin_cuda_grad(&c, a->beta);
    p.column = (double *)kin_cuda_scratch(&c, (size_t)(p.batch * p.parts * 2 * p.channels) *
                                                  sizeof(double));
    if (p.batch > 65535)
        kin_cuda_fail(&c, KIN_ERR_UNSUPPORTED, "more than 65535 samples in a batch");
    moments(&c, p);
    const dim3 grid((unsigned)((p.channels + 31) / 32), (unsigned)p.parts, (unsigned)p.batch);
    KIN_LAUNCH(&c, column_kernel, grid, dim3(32, 8), p);
    KIN_LAUNCH(&c, gamma_kernel, kin_blocks(p.channels), KIN_THREADS, p);
    KIN_LAUNCH(&c, group_kernel, kin_blocks(p.batch * p.groups), KIN_THREADS, p);
    if (p.dx.data)
        KIN_LAUNCH(&c, dx_kernel, kin_blocks(kin_tensor_numel(a->x)), KIN_THREADS, p);
    return kin_cuda_end(&c);
}
