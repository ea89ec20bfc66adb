/* tensor/cuda/norm.cu: LayerNorm with modulation and RMSNorm, with the rotary turn where it is
 * asked for. A block per row; sums over columns in double. */
#include "tensor/cuda/kernel.cuh"

typedef struct norm_call {
    int64_t rows, d, turn_rows;
    float eps;
    bool rms, acc_dx, acc_dscale, acc_dshift;
    kin_tensor x, gamma, beta, scale, shift, y, mean, rstd, cos, sin;
    kin_tensor dy, dx, dscale, dshift, dgamma, dbeta;
    double *sums; /* backward: [slices][4][d], see column_kernel */
    int64_t slices;
} norm_call;

__device__ static __forceinline__ float gamma_at(const norm_call &p, int64_t j)
{
    return p.gamma.data ? kin_at(p.gamma, j) : 1.0f;
}

__device__ static __forceinline__ float grouped_at(const kin_tensor &t, int64_t r, int64_t rows,
                                                   int64_t j)
{
    return kin_get2(t, r / (rows / t.size[0]), j);
}

__device__ static __forceinline__ float factor_at(const norm_call &p, int64_t r, int64_t j)
{
    return p.scale.data ? 1.0f + grouped_at(p.scale, r, p.rows, j) : 1.0f;
}

/* Mean (0 for RMS) and reciprocal deviation of row r, found by the whole block. */
__device__ static void statistics(const norm_call &p, int64_t r, double *mean, double *rstd)
{
    double sum = 0, sq = 0;
    if (!p.rms) {
        for (int64_t j = threadIdx.x; j < p.d; j += blockDim.x)
            sum += (double)kin_get2(p.x, r, j);
        sum = kin_block_sum(sum);
    }
    *mean = sum / (double)p.d;
    for (int64_t j = threadIdx.x; j < p.d; j += blockDim.x) {
        const double v = (double)kin_get2(p.x, r, j) - *mean;
        sq += v * v;
    }
    *rstd = 1 / sqrt(kin_block_sum(sq) / (double)p.d + (double)p.eps);
}

/* Element j of row r before the turn. */
__device__ static __forceinline__ float normal_at(const norm_call &p, int64_t r, int64_t j,
                                                  double mean, double rstd)
{
    float y = (float)(((double)kin_get2(p.x, r, j) - mean) * rstd) * gamma_at(p, j);
    if (p.rms)
        return y;
    if (p.beta.data)
        y += kin_at(p.beta, j);
    return p.scale.data ? y * factor_at(p, r, j) + grouped_at(p.shift, r, p.rows, j) : y;
}

/* Column j of row r from its value v and the other one of its pair; direction -1: turned back. */
__device__ static __forceinline__ float turned(const norm_call &p, int64_t r, int64_t j, float v,
                                               float other, float direction)
{
    const int64_t n = r / p.turn_rows % p.cos.size[0], k = j / 2 % p.cos.size[1];
    const float c = kin_get2(p.cos, n, k), s = direction * kin_get2(p.sin, n, k);
    return j % 2 ? v * c + other * s : v * c - other * s;
}

__global__ static void norm_kernel(norm_call p)
{
    const int64_t r = blockIdx.x;
    double mean, rstd;
    statistics(p, r, &mean, &rstd);
    if (threadIdx.x == 0 && p.mean.data)
        ((float *)p.mean.data)[r * p.mean.stride[0]] = (float)mean;
    if (threadIdx.x == 0 && p.rstd.data)
        ((float *)p.rstd.data)[r * p.rstd.stride[0]] = (float)rstd;
    for (int64_t j = threadIdx.x; j < p.d; j += blockDim.x) {
        float y = normal_at(p, r, j, mean, rstd);
        if (p.cos.data)
            y = turned(p, r, j, y, normal_at(p, r, j ^ 1, mean, rstd), 1.0f);
        *kin_ptr2(p.y, r, j) = y;
    }
}

__device__ static __forceinline__ float dy_at(const norm_call &p, int64_t r, int64_t j)
{
    const float v = kin_get2(p.dy, r, j);
    return p.cos.data ? turned(p, r, j, v, kin_get2(p.dy, r, j ^ 1), -1.0f) : v;
}

/* dx = rstd (dn - <dn> - n <dn n>), dn = dy (1 + scale) gamma; RMS has no <dn>. Keeps mean and rstd
 * in p.mean, p.rstd (scratch of the call where the caller gave none). */
__global__ static void norm_dx_kernel(norm_call p)
{
    const int64_t r = blockIdx.x;
    double mean, rstd, sum = 0, dot = 0;
    statistics(p, r, &mean, &rstd);
    for (int64_t j = threadIdx.x; j < p.d; j += blockDim.x) {
        const double dn =
            (double)dy_at(p, r, j) * (double)factor_at(p, r, j) * (double)gamma_at(p, j);
        sum += dn;
        dot += dn * ((double)kin_get2(p.x, r, j) - mean) * rstd;
    }
    sum = kin_block_sum(sum) / (double)p.d;
    dot = kin_block_sum(dot) / (double)p.d;
    for (int64_t j = threadIdx.x; j < p.d; j += blockDim.x) {
        const double dn =
            (double)dy_at(p, r, j) * (double)factor_at(p, r, j) * (double)gamma_at(p, j);
        const double n = ((double)kin_get2(p.x, r, j) - mean) * rstd;
        kin_put(kin_ptr2(p.dx, r, j), (float)(rstd * (dn - (p.rms ? 0 : sum) - n * dot)), p.acc_dx);
    }
}

/* Mean and rstd of every row into p.mean and p.rstd, where they were not kept. */
__global__ static void moments_kernel(norm_call p)
{
    double mean, rstd;
    statistics(p, blockIdx.x, &mean, &rstd);
    if (threadIdx.x == 0) {
        ((float *)p.mean.data)[blockIdx.x] = (float)mean;
        ((float *)p.rstd.data)[blockIdx.x] = (float)rstd;
    }
}

/* Sums over the rows of slice blockIdx.y of 32 columns: dy, dy (n gamma + beta), dy (1 + scale) n,
 * dy (1 + scale). Slices are equal and never cross a group of scale or shift. */
__global__ static void column_kernel(norm_call p)
{
    __shared__ double part[4][8][32];
    const int64_t j = (int64_t)blockIdx.x * 32 + threadIdx.x, per = p.rows / p.slices;
    double s[4] = {0, 0, 0, 0};
    for (int64_t r = blockIdx.y * per + threadIdx.y; j < p.d && r < (blockIdx.y + 1) * per;
         r += 8) {
        const double rstd = (double)((const float *)p.rstd.data)[r * p.rstd.stride[0]];
        const double mean = p.rms ? 0 : (double)((const float *)p.mean.data)[r * p.mean.stride[0]];
        const double n = ((double)kin_get2(p.x, r, j) - mean) * rstd, dy = (double)dy_at(p, r, j);
        const double f = (double)factor_at(p, r, j);
        s[0] += dy;
        s[1] += dy * (n * (double)gamma_at(p, j) + (p.beta.data ? (double)kin_at(p.beta, j) : 0));
        s[2] += dy * f * n;
        s[3] += dy * f;
    }
    for (int i = 0; i < 4; i++)
        part[i][threadIdx.y][threadIdx.x] = s[i];
    __syncthreads();
    if (threadIdx.y >= 4 || j >= p.d)
        return;
    double sum = 0;
    for (int i = 0; i < 8; i++)
        sum += part[threadIdx.y][i][threadIdx.x];
    p.sums[((int64_t)blockIdx.y * 4 + threadIdx.y) * p.d + j] = sum;
}

/* Adds up slices [s0, s1) of sum `which` in column j. */
__device__ static double slices_sum(const norm_call &p, int64_t s0, int64_t s1, int which,
                                    int64_t j)
{
    double sum = 0;
    for (int64_t s = s0; s < s1; s++)
        sum += p.sums[(s * 4 + which) * p.d + j];
    return sum;
}

__global__ static void column_end_kernel(norm_call p)
{
    KIN_EACH(j, p.d)
    {
        for (int64_t g = 0; p.dscale.data && g < p.dscale.size[0]; g++) {
            const int64_t per = p.slices / p.dscale.size[0];
            kin_put(kin_ptr2(p.dscale, g, j), (float)slices_sum(p, g * per, (g + 1) * per, 1, j),
                    p.acc_dscale);
        }
        for (int64_t g = 0; p.dshift.data && g < p.dshift.size[0]; g++) {
            const int64_t per = p.slices / p.dshift.size[0];
            kin_put(kin_ptr2(p.dshift, g, j), (float)slices_sum(p, g * per, (g + 1) * per, 0, j),
                    p.acc_dshift);
        }
        if (p.dgamma.data)
            ((float *)p.dgamma.data)[j] += (float)slices_sum(p, 0, p.slices, 2, j);
        if (p.dbeta.data)
            ((float *)p.dbeta.data)[j] += (float)slices_sum(p, 0, p.slices, 3, j);
    }
}

static norm_call norm_open(kin_cuda_call *c, const kin_norm_args *a, bool rms)
{
    norm_call p = {};
    p.rows = a->rows;
    p.d = a->d;
    p.turn_rows = a->turn_rows;
    p.eps = a->eps;
    p.rms = rms;
    p.x = kin_cuda_in(c, a->x);
    p.gamma = kin_cuda_value(c, a->gamma);
    p.beta = kin_cuda_value(c, a->beta);
    p.scale = kin_cuda_in(c, a->scale);
    p.shift = kin_cuda_in(c, a->shift);
    p.cos = kin_cuda_in(c, a->cos);
    p.sin = kin_cuda_in(c, a->sin);
    return p;
}

static int row_block(int64_t d)
{
    return d >= KIN_THREADS ? KIN_THREADS : d >= 128 ? 128 : KIN_WARP;
}

static kin_status forward(kin_ctx *ctx, const kin_norm_args *a, bool rms)
{
    kin_cuda_call c = kin_cuda_begin(ctx, rms ? "rmsnorm" : "layernorm");
    norm_call p = norm_open(&c, a, rms);
    p.y = kin_cuda_out(&c, a->y, false);
    p.mean = kin_cuda_out(&c, a->mean, false);
    p.rstd = kin_cuda_out(&c, a->rstd, false);
    KIN_LAUNCH(&c, norm_kernel, dim3((unsigned)a->rows), row_block(a->d), p);
    return kin_cuda_end(&c);
}

/* Rows of one slice at most; the number of slices is a multiple of the groups. */
static int64_t slices_of(const kin_norm_args *a)
{
    enum { MOST = 256 };
    int64_t groups = 1;
    if (a->dscale && a->dscale->data)
        groups = a->dscale->size[0];
    if (a->dshift && a->dshift->data && a->dshift->size[0] > groups)
        groups = a->dshift->size[0];
    int64_t per = a->rows / groups, cut = 1;
    /* the largest power of two that divides a group's rows and leaves slices of MOST rows */
    while (per % 2 == 0 && per > MOST) {
        per /= 2;
        cut *= 2;
    }
    return groups * cut;
}

static void columns(kin_cuda_call *c, const kin_norm_args *a, norm_call *p)
{
    p->dscale = kin_cuda_out(c, a->dscale, a->acc_dscale);
    p->dshift = kin_cuda_out(c, a->dshift, a->acc_dshift);
    p->acc_dscale = a->acc_dscale;
    p->acc_dshift = a->acc_dshift;
    p->dgamma = kin_cuda_grad(c, a->gamma);
    p->dbeta = kin_cuda_grad(c, a->beta);
    if ((!p->dscale.data && !p->dshift.data && !p->dgamma.data && !p->dbeta.data) || a->rows == 0)
        return;
    p->mean = kin_cuda_in(c, a->mean);
    p->rstd = kin_cuda_in(c, a->rstd);
    if (!p->rstd.data) {
        const int64_t rows = a->rows;
        float *kept = (float *)kin_cuda_scratch(c, (size_t)(2 * rows) * sizeof(float));
        p->mean = kin_tensor_of(kept, KIN_DTYPE_F32, 1, &rows);
        p->rstd = kin_tensor_of(kept + rows, KIN_DTYPE_F32, 1, &rows);
        const norm_call q = *p;
        KIN_LAUNCH(c, moments_kernel, dim3((unsigned)rows), row_block(a->d), q);
    }
    p->slices = slices_of(a);
    if (p->slices > 65535) {
        kin_cuda_fail(c, KIN_ERR_UNSUPPORTED, "more than 65535 groups of rows");
        return;
    }
    p->sums = (double *)kin_cuda_scratch(c, (size_t)(p->slices * 4 * p->d) * sizeof(double));
    const norm_call q = *p;
    KIN_LAUNCH(c, column_kernel, dim3((unsigned)((q.d + 31) / 32), (unsigned)q.slices), dim3(32, 8),
               q);
    KIN_LAUNCH(c, column_end_kernel, kin_blocks(q.d), KIN_THREADS, q);
}

static kin_status backward(kin_ctx *ctx, const kin_norm_args *a, bool rms)
{
    kin_cuda_call c = kin_cuda_begin(ctx, rms ? "rmsnorm backward" : "layernorm backward");
    norm_call p = norm_open(&c, a, rms);
    p.dy = kin_cuda_in(&c, a->dy);
    p.dx = kin_cuda_out(&c, a->dx, a->acc_dx);
    p.acc_dx = a->acc_dx;
    if (p.dx.data)
        KIN_LAUNCH(&c, norm_dx_kernel, dim3((unsigned)a->rows), row_block(a->d), p);
    columns(&c, a, &p);
    return kin_cuda_end(&c);
}

extern "C" kin_status kin_cuda_layernorm(kin_ctx *ctx, const kin_norm_args *a)
{
    return forward(ctx, a, false);
}

extern "C" kin_status kin_cuda_rmsnorm(kin_ctx *ctx, const kin_norm_args *a)
{
    return forward(ctx, a, true);
}

extern "C" kin_status kin_cuda_layernorm_bwd(kin_ctx *ctx, const kin_norm_args *a)
{
    return backward(ctx, a, false);
}

extern "C" kin_status kin_cuda_rmsnorm_bwd(kin_ctx *ctx, const kin_norm_args *a)
{
    return backward(ctx, a, true);
}
