/* tensor/cuda/reduce.cu: sums over broadcast dimensions, softmax, losses. Sums are taken in double,
 * in an order fixed by the shapes. */
#include "tensor/cuda/kernel.cuh"

/* Maximum over a block, given to every thread; see kin_block_sum. */
__device__ static float block_max(float v)
{
    __shared__ float part[32];
    for (int mask = KIN_WARP / 2; mask > 0; mask /= 2)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, mask));
    if (threadIdx.x % KIN_WARP == 0)
        part[threadIdx.x / KIN_WARP] = v;
    __syncthreads();
    float most = part[0];
    for (unsigned i = 1; i < blockDim.x / KIN_WARP; i++)
        most = fmaxf(most, part[i]);
    __syncthreads();
    return most;
}

/* --- reduce --- */

/* One block per entry of y. The entry's coordinates are those of `kept` dimensions, the sum runs
 * over the others. */
__global__ static void reduce_kernel(kin_tensor x, kin_tensor other, kin_tensor y, float alpha,
                                     int64_t summed, bool acc)
{
    int64_t rest = blockIdx.x + (int64_t)blockIdx.y * gridDim.x, xat = 0, oat = 0, yat = 0,
            kept = 1;
    for (int d = 0; d < x.ndim; d++)
        kept *= y.stride[d] ? x.size[d] : 1;
    if (rest >= kept)
        return;
    for (int d = x.ndim - 1; d >= 0; d--) {
        if (y.stride[d] == 0)
            continue;
        const int64_t i = rest % x.size[d];
        rest /= x.size[d];
        xat += i * x.stride[d];
        yat += i * y.stride[d];
        oat += other.data ? i * other.stride[d] : 0;
    }
    double sum = 0;
    for (int64_t s = threadIdx.x; s < summed; s += blockDim.x) {
        int64_t left = s, xs = xat, os = oat;
        for (int d = x.ndim - 1; d >= 0; d--) {
            if (y.stride[d] != 0)
                continue;
            const int64_t i = left % x.size[d];
            left /= x.size[d];
            xs += i * x.stride[d];
            os += other.data ? i * other.stride[d] : 0;
        }
        sum += (double)((const float *)x.data)[xs] *
               (other.data ? (double)((const float *)other.data)[os] : 1.0);
    }
    sum = kin_block_sum(sum);
    if (threadIdx.x == 0)
        kin_put((float *)y.data + yat, (float)((double)alpha * sum), acc);
}

/* Without a sum: y is x times other. */
__global__ static void product_kernel(int64_t n, kin_nd nd, const float *x, const float *other,
                                      float *y, float alpha, bool acc)
{
    KIN_EACH(i, n)
    {
        int64_t at[KIN_ND_VIEWS];
        kin_places(nd, n, i, at);
        const float v = x[at[0]] * (other ? other[at[1]] : 1.0f);
        kin_put(y + at[2], alpha * v, acc);
    }
}

extern "C" kin_status kin_cuda_reduce(kin_ctx *ctx, const kin_reduce_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "reduce");
    int64_t kept = 1, summed = 1;
    for (int d = 0; d < a->x->ndim; d++)
        *(a->y->stride[d] ? &kept : &summed) *= a->x->size[d];
    const kin_tensor x = kin_cuda_in(&c, a->x), other = kin_cuda_in(&c, a->other);
    const kin_tensor y = kin_cuda_out(&c, a->y, a->acc);
    if (summed == 1) {
        KIN_LAUNCH(&c, product_kernel, kin_blocks(kept), KIN_THREADS, kept,
                   kin_views(&x, &x, &other, &y), (const float *)x.data, (const float *)other.data,
                   (float *)y.data, a->alpha, a->acc);
        return kin_cuda_end(&c);
    }
    const int64_t wide = kept < 65536 ? kept : 65536;
    const int block = summed >= KIN_THREADS ? KIN_THREADS : KIN_WARP;
    if (wide)
        KIN_LAUNCH(&c, reduce_kernel, dim3((unsigned)wide, (unsigned)((kept + wide - 1) / wide)),
                   block, x, other, y, a->alpha, summed, a->acc);
    return kin_cuda_end(&c);
}

/* --- softmax: a block per row --- */

__global__ static void softmax_kernel(kin_tensor x, kin_tensor y)
{
    const int64_t r = blockIdx.x, n = x.size[1];
    float most = -INFINITY;
    for (int64_t k = threadIdx.x; k < n; k += blockDim.x)
        most = fmaxf(most, kin_get2(x, r, k));
    most = block_max(most);
    double sum = 0;
    for (int64_t k = threadIdx.x; k < n; k += blockDim.x)
        sum += (double)expf(kin_get2(x, r, k) - most);
    const float inverse = (float)(1.0 / kin_block_sum(sum));
    for (int64_t k = threadIdx.x; k < n; k += blockDim.x)
        *kin_ptr2(y, r, k) = expf(kin_get2(x, r, k) - most) * inverse;
}

extern "C" kin_status kin_cuda_softmax(kin_ctx *ctx, const kin_softmax_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "softmax");
    const kin_tensor x = kin_cuda_in(&c, a->x), y = kin_cuda_out(&c, a->y, false);
    KIN_LAUNCH(&c, softmax_kernel, dim3((unsigned)a->x->size[0]),
               a->x->size[1] >= KIN_THREADS ? KIN_THREADS : KIN_WARP, x, y);
    return kin_cuda_end(&c);
}

__global__ static void softmax_bwd_kernel(kin_tensor y, kin_tensor dy, kin_tensor dx, bool acc)
{
    const int64_t r = blockIdx.x, n = y.size[1];
    double dot = 0;
    for (int64_t k = threadIdx.x; k < n; k += blockDim.x)
        dot += (double)kin_get2(dy, r, k) * (double)kin_get2(y, r, k);
    const float d = (float)kin_block_sum(dot);
    for (int64_t k = threadIdx.x; k < n; k += blockDim.x)
        kin_put(kin_ptr2(dx, r, k), kin_get2(y, r, k) * (kin_get2(dy, r, k) - d), acc);
}

extern "C" kin_status kin_cuda_softmax_bwd(kin_ctx *ctx, const kin_softmax_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "softmax backward");
    const kin_tensor y = kin_cuda_in(&c, a->y), dy = kin_cuda_in(&c, a->dy);
    const kin_tensor dx = kin_cuda_out(&c, a->dx, a->acc);
    KIN_LAUNCH(&c, softmax_bwd_kernel, dim3((unsigned)a->y->size[0]),
               a->y->size[1] >= KIN_THREADS ? KIN_THREADS : KIN_WARP, y, dy, dx, a->acc);
    return kin_cuda_end(&c);
}

/* --- losses --- */

typedef struct loss_call {
    int kind;
    kin_tensor x, target, weight, loss, dloss, dx;
    double *part; /* [rows] sums, then [rows] log-sum-exps of cross entropy */
    bool acc;
} loss_call;

__device__ static float row_weight(const loss_call &p, int64_t b)
{
    return p.weight.data ? ((const float *)p.weight.data)[b * p.weight.stride[0]] : 1.0f;
}

/* What the sum is divided by (tensor/ref/loss.c), found by every thread of the block. */
__device__ static double divisor(const loss_call &p)
{
    const double rows = (double)p.x.size[0], n = (double)p.x.size[1];
    if (p.kind == KIN_LOSS_MSE || p.kind == KIN_LOSS_L1)
        return rows * n;
    double used = 0;
    for (int64_t b = threadIdx.x; b < p.x.size[0]; b += blockDim.x)
        used += row_weight(p, b) != 0 ? 1.0 : 0.0;
    used = kin_block_sum(used);
    return p.kind == KIN_LOSS_BCE_LOGITS ? used * n : used;
}

__device__ static double element_loss(const loss_call &p, int64_t b, int64_t j)
{
    const double x = (double)kin_get2(p.x, b, j), t = (double)kin_get2(p.target, b, j);
    if (p.kind == KIN_LOSS_MSE)
        return (x - t) * (x - t) * (double)row_weight(p, b);
    if (p.kind == KIN_LOSS_L1)
        return fabs(x - t) * (double)row_weight(p, b);
    return fmax(x, 0.0) - x * t + log1p(exp(-fabs(x)));
}

/* a block per row */
__global__ static void loss_rows_kernel(loss_call p)
{
    const int64_t b = blockIdx.x, n = p.x.size[1];
    double sum = 0;
    if (p.kind == KIN_LOSS_CROSS_ENTROPY) {
        float most = -INFINITY;
        for (int64_t j = threadIdx.x; j < n; j += blockDim.x)
            most = fmaxf(most, kin_get2(p.x, b, j));
        most = block_max(most);
        for (int64_t j = threadIdx.x; j < n; j += blockDim.x)
            sum += exp((double)kin_get2(p.x, b, j) - (double)most);
        const double lse = (double)most + log(kin_block_sum(sum));
        const int32_t target = ((const int32_t *)p.target.data)[b * p.target.stride[0]];
        if (threadIdx.x == 0) {
            p.part[p.x.size[0] + b] = lse;
            p.part[b] = row_weight(p, b) != 0 ? lse - (double)kin_get2(p.x, b, target) : 0;
        }
        return;
    }
    for (int64_t j = threadIdx.x; j < n && row_weight(p, b) != 0; j += blockDim.x)
        sum += element_loss(p, b, j);
    sum = kin_block_sum(sum);
    if (threadIdx.x == 0)
        p.part[b] = sum;
}

__global__ static void loss_sum_kernel(loss_call p)
{
    const double by = divisor(p);
    double sum = 0;
    for (int64_t b = threadIdx.x; b < p.x.size[0]; b += blockDim.x)
        sum += p.part[b];
    sum = kin_block_sum(sum);
    if (threadIdx.x == 0)
        *(float *)p.loss.data = (float)(by > 0 ? sum / by : 0);
}

__global__ static void loss_bwd_kernel(loss_call p)
{
    const int64_t b = blockIdx.x, n = p.x.size[1];
    const double by = divisor(p), dloss = (double)*(const float *)p.dloss.data;
    const double weight = (double)row_weight(p, b);
    for (int64_t j = threadIdx.x; j < n; j += blockDim.x) {
        const double x = (double)kin_get2(p.x, b, j);
        double g;
        if (p.kind == KIN_LOSS_CROSS_ENTROPY) {
            const int32_t target = ((const int32_t *)p.target.data)[b * p.target.stride[0]];
            g = exp(x - p.part[p.x.size[0] + b]) - (j == target ? 1.0 : 0.0);
        } else {
            const double t = (double)kin_get2(p.target, b, j);
            if (p.kind == KIN_LOSS_MSE)
                g = 2 * (x - t) * weight;
            else if (p.kind == KIN_LOSS_L1)
                g = (double)((x > t) - (x < t)) * weight;
            else
                g = 1 / (1 + exp(-x)) - t;
        }
        kin_put(kin_ptr2(p.dx, b, j), weight != 0 ? (float)(dloss * g / by) : 0.0f, p.acc);
    }
}

static loss_call loss_open(kin_cuda_call *c, const kin_loss_args *a)
{
    loss_call p = {};
    p.kind = a->kind;
    p.x = kin_cuda_in(c, a->x);
    p.target = kin_cuda_in(c, a->target);
    p.weight = kin_cuda_in(c, a->weight);
    p.part = (double *)kin_cuda_scratch(c, (size_t)(2 * a->x->size[0] + 1) * sizeof(double));
    return p;
}

extern "C" kin_status kin_cuda_loss(kin_ctx *ctx, const kin_loss_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "loss");
    loss_call p = loss_open(&c, a);
    p.loss = kin_cuda_out(&c, a->loss, false);
    KIN_LAUNCH(&c, loss_rows_kernel, dim3((unsigned)a->x->size[0]), KIN_THREADS, p);
    KIN_LAUNCH(&c, loss_sum_kernel, dim3(1), KIN_THREADS, p);
    return kin_cuda_end(&c);
}

extern "C" kin_status kin_cuda_loss_bwd(kin_ctx *ctx, const kin_loss_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "loss backward");
    loss_call p = loss_open(&c, a);
    p.dloss = kin_cuda_in(&c, a->dloss);
    p.dx = kin_cuda_out(&c, a->dx, a->acc);
    p.acc = a->acc;
    if (a->kind == KIN_LOSS_CROSS_ENTROPY) /* for the log-sum-exps */
        KIN_LAUNCH(&c, loss_rows_kernel, dim3((unsigned)a->x->size[0]), KIN_THREADS, p);
    KIN_LAUNCH(&c, loss_bwd_kernel, dim3((unsigned)a->x->size[0]), KIN_THREADS, p);
    return kin_cuda_end(&c);
}
