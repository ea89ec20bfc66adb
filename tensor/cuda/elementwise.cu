/* tensor/cuda/elementwise.cu: one thread per element: binary, unary, gates, copies, fills,
 * transposition, the posterior. */
#include "tensor/cuda/kernel.cuh"

__global__ static void binary_kernel(int64_t n, int kind, float alpha, kin_nd nd, const float *a,
                                     const float *b, float *y, bool acc)
{
    KIN_EACH(i, n)
    {
        int64_t at[KIN_ND_VIEWS];
        kin_places(nd, n, i, at);
        const float u = a[at[0]], v = b[at[1]];
        kin_put(y + at[2], kind == KIN_BINARY_ADD ? u + alpha * v : alpha * u * v, acc);
    }
}

extern "C" kin_status kin_cuda_binary(kin_ctx *ctx, const kin_binary_args *p)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "binary");
    const int64_t n = kin_tensor_numel(p->y);
    const kin_tensor a = kin_cuda_in(&c, p->a), b = kin_cuda_in(&c, p->b);
    const kin_tensor y = kin_cuda_out(&c, p->y, p->acc);
    KIN_LAUNCH(&c, binary_kernel, kin_blocks(n), KIN_THREADS, n, p->kind, p->alpha,
               kin_views(&y, &a, &b, &y), (const float *)a.data, (const float *)b.data,
               (float *)y.data, p->acc);
    return kin_cuda_end(&c);
}

__global__ static void unary_kernel(int64_t n, int act, float alpha, kin_nd nd, const float *x,
                                    float *y)
{
    KIN_EACH(i, n)
    {
        int64_t at[KIN_ND_VIEWS];
        kin_places(nd, n, i, at);
        const float v = x[at[0]];
        y[at[1]] = act == KIN_ACT_NONE ? alpha * v : kin_act_of(act, v);
    }
}

extern "C" kin_status kin_cuda_unary(kin_ctx *ctx, const kin_unary_args *p)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "unary");
    const int64_t n = kin_tensor_numel(p->y);
    const kin_tensor x = kin_cuda_in(&c, p->x), y = kin_cuda_out(&c, p->y, false);
    KIN_LAUNCH(&c, unary_kernel, kin_blocks(n), KIN_THREADS, n, p->act, p->alpha,
               kin_views(&y, &x, &y, NULL), (const float *)x.data, (float *)y.data);
    return kin_cuda_end(&c);
}

__global__ static void unary_bwd_kernel(int64_t n, int act, float alpha, kin_nd nd, const float *x,
                                        const float *dy, float *dx, bool acc)
{
    KIN_EACH(i, n)
    {
        int64_t at[KIN_ND_VIEWS];
        kin_places(nd, n, i, at);
        const float slope = act == KIN_ACT_NONE ? alpha : kin_act_slope(act, x[at[0]]);
        kin_put(dx + at[2], dy[at[1]] * slope, acc);
    }
}

extern "C" kin_status kin_cuda_unary_bwd(kin_ctx *ctx, const kin_unary_args *p)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "unary backward");
    const kin_tensor x = p->act == KIN_ACT_NONE ? kin_tensor() : kin_cuda_in(&c, p->x);
    const kin_tensor dy = kin_cuda_in(&c, p->dy), dx = kin_cuda_out(&c, p->dx, p->acc);
    const int64_t n = kin_tensor_numel(p->dx);
    KIN_LAUNCH(&c, unary_bwd_kernel, kin_blocks(n), KIN_THREADS, n, p->act, p->alpha,
               kin_views(&dx, &x, &dy, &dx), (const float *)x.data, (const float *)dy.data,
               (float *)dx.data, p->acc);
    return kin_cuda_end(&c);
}

/* Row and column of flat index i in rows of n, and the group of `per` rows that the row is in. */
__device__ static __forceinline__ void grouped_at(int64_t i, int64_t n, int64_t per, int64_t *r,
                                                  int64_t *k, int64_t *group)
{
    int64_t within;
    kin_split(i, n, r, k);
    kin_split(*r, per, group, &within);
}

__global__ static void gated_add_kernel(kin_tensor lin, kin_tensor residual, kin_tensor gate,
                                        kin_tensor y)
{
    const int64_t m = y.size[0], n = y.size[1], per = m / gate.size[0];
    KIN_EACH(i, m * n)
    {
        int64_t r, k, group;
        grouped_at(i, n, per, &r, &k, &group);
        *kin_ptr2(y, r, k) =
            kin_get2(residual, r, k) + kin_get2(gate, group, k) * kin_get2(lin, r, k);
    }
}

extern "C" kin_status kin_cuda_gated_add(kin_ctx *ctx, const kin_gated_add_args *p)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "gated add");
    const kin_tensor lin = kin_cuda_in(&c, p->lin), residual = kin_cuda_in(&c, p->residual);
    const kin_tensor gate = kin_cuda_in(&c, p->gate), y = kin_cuda_out(&c, p->y, false);
    KIN_LAUNCH(&c, gated_add_kernel, kin_blocks(kin_tensor_numel(p->y)), KIN_THREADS, lin, residual,
               gate, y);
    return kin_cuda_end(&c);
}

__global__ static void gate_lin_kernel(kin_tensor dy, kin_tensor gate, kin_tensor dlin)
{
    const int64_t m = dy.size[0], n = dy.size[1], per = m / gate.size[0];
    KIN_EACH(i, m * n)
    {
        int64_t r, k, group;
        grouped_at(i, n, per, &r, &k, &group);
        *kin_ptr2(dlin, r, k) = kin_get2(dy, r, k) * kin_get2(gate, group, k);
    }
}

/* dgate of one group and 32 columns per block: 8 threads share a column's rows. */
__global__ static void gate_sum_kernel(kin_tensor dy, kin_tensor lin, kin_tensor dgate, bool acc)
{
    __shared__ double part[8][32];
    const int64_t per = dy.size[0] / dgate.size[0], g = blockIdx.y;
    const int64_t k = (int64_t)blockIdx.x * 32 + threadIdx.x;
    double sum = 0;
    for (int64_t r = g * per + threadIdx.y; k < dy.size[1] && r < (g + 1) * per; r += 8)
        sum += (double)kin_get2(dy, r, k) * (double)kin_get2(lin, r, k);
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || k >= dy.size[1])
        return;
    for (int i = 1; i < 8; i++)
        sum += part[i][threadIdx.x];
    kin_put(kin_ptr2(dgate, g, k), (float)sum, acc);
}

extern "C" kin_status kin_cuda_gate_bwd(kin_ctx *ctx, const kin_gate_bwd_args *p)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "gate backward");
    const kin_tensor dy = kin_cuda_in(&c, p->dy), gate = kin_cuda_in(&c, p->gate);
    const kin_tensor dlin = kin_cuda_out(&c, p->dlin, false);
    const kin_tensor dgate = kin_cuda_out(&c, p->dgate, p->acc_dgate);
    if (dlin.data)
        KIN_LAUNCH(&c, gate_lin_kernel, kin_blocks(kin_tensor_numel(p->dy)), KIN_THREADS, dy, gate,
                   dlin);
    if (dgate.data && dgate.size[0] > 65535)
        kin_cuda_fail(&c, KIN_ERR_UNSUPPORTED, "more than 65535 rows of gates");
    if (dgate.data && c.status == KIN_OK) {
        const kin_tensor lin = kin_cuda_in(&c, p->lin);
        const dim3 grid((unsigned)((dy.size[1] + 31) / 32), (unsigned)dgate.size[0]);
        KIN_LAUNCH(&c, gate_sum_kernel, grid, dim3(32, 8), dy, lin, dgate, p->acc_dgate);
    }
    return kin_cuda_end(&c);
}

/* --- copies --- */

__device__ static __forceinline__ void store(const kin_tensor &t, int64_t at, float v)
{
    switch (t.dtype) {
    case KIN_DTYPE_F32: ((float *)t.data)[at] = v; break;
    case KIN_DTYPE_F64: ((double *)t.data)[at] = (double)v; break;
    case KIN_DTYPE_BF16: ((uint16_t *)t.data)[at] = kin_float_bf16(v); break;
    case KIN_DTYPE_F16: ((uint16_t *)t.data)[at] = kin_float_f16(v); break;
    case KIN_DTYPE_I8: ((int8_t *)t.data)[at] = (int8_t)v; break;
    case KIN_DTYPE_U8: ((uint8_t *)t.data)[at] = (uint8_t)v; break;
    case KIN_DTYPE_I32: ((int32_t *)t.data)[at] = (int32_t)v; break;
    default: break;
    }
}

__global__ static void copy_kernel(int64_t n, kin_nd nd, kin_tensor src, kin_tensor dst, bool acc)
{
    KIN_EACH(i, n)
    {
        int64_t at[KIN_ND_VIEWS];
        kin_places(nd, n, i, at);
        const int64_t from = at[0], to = at[1];
        if (dst.dtype == KIN_DTYPE_I32 && src.dtype == KIN_DTYPE_I32 && !acc)
            ((int32_t *)dst.data)[to] = ((const int32_t *)src.data)[from];
        else if (dst.dtype == KIN_DTYPE_F64 && src.dtype == KIN_DTYPE_F64)
            ((double *)dst.data)[to] =
                ((const double *)src.data)[from] + (acc ? ((const double *)dst.data)[to] : 0);
        else
            store(dst, to, kin_at(src, from) + (acc ? kin_at(dst, to) : 0.0f));
    }
}

extern "C" kin_status kin_cuda_copy(kin_ctx *ctx, const kin_tensor *from, kin_tensor *to, bool acc)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "copy");
    const int64_t n = kin_tensor_numel(to);
    c.f64 = true;
    const kin_tensor src = kin_cuda_in(&c, from), dst = kin_cuda_out(&c, to, acc);
    if (src.dtype == KIN_DTYPE_I64 || dst.dtype == KIN_DTYPE_I64)
        kin_cuda_fail(&c, KIN_ERR_UNSUPPORTED, "i64 is not copied");
    KIN_LAUNCH(&c, copy_kernel, kin_blocks(n), KIN_THREADS, n, kin_views(&dst, &src, &dst, NULL),
               src, dst, acc);
    return kin_cuda_end(&c);
}

__global__ static void fill_kernel(int64_t n, kin_nd nd, kin_tensor dst, float value)
{
    KIN_EACH(i, n)
    {
        int64_t at[KIN_ND_VIEWS];
        kin_places(nd, n, i, at);
        store(dst, at[0], value);
    }
}

extern "C" kin_status kin_cuda_fill(kin_ctx *ctx, kin_tensor *to, double value)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "fill");
    const int64_t n = kin_tensor_numel(to);
    c.f64 = true;
    const kin_tensor dst = kin_cuda_out(&c, to, false);
    KIN_LAUNCH(&c, fill_kernel, kin_blocks(n), KIN_THREADS, n, kin_views(&dst, &dst, NULL, NULL),
               dst, (float)value);
    return kin_cuda_end(&c);
}

/* 32 x 32 tiles through shared memory, so that rows are read and written in one go each */
__global__ static void transpose_kernel(kin_tensor x, kin_tensor y, bool acc)
{
    __shared__ float tile[32][33];
    const int64_t r0 = (int64_t)blockIdx.y * 32, c0 = (int64_t)blockIdx.x * 32;
    for (int i = threadIdx.y; i < 32; i += 8)
        if (r0 + i < x.size[0] && c0 + threadIdx.x < x.size[1])
            tile[i][threadIdx.x] = kin_get2(x, r0 + i, c0 + threadIdx.x);
    __syncthreads();
    for (int i = threadIdx.y; i < 32; i += 8)
        if (c0 + i < x.size[1] && r0 + threadIdx.x < x.size[0])
            kin_put(kin_ptr2(y, c0 + i, r0 + threadIdx.x), tile[threadIdx.x][i], acc);
}

extern "C" kin_status kin_cuda_transpose(kin_ctx *ctx, const kin_tensor *from, kin_tensor *to,
                                         bool acc)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "transpose");
    const kin_tensor x = kin_cuda_in(&c, from), y = kin_cuda_out(&c, to, acc);
    const int64_t rows = (from->size[0] + 31) / 32;
    if (rows > 65535)
        kin_cuda_fail(&c, KIN_ERR_UNSUPPORTED, "more than 2097120 rows");
    KIN_LAUNCH(&c, transpose_kernel, dim3((unsigned)((from->size[1] + 31) / 32), (unsigned)rows),
               dim3(32, 8), x, y, acc);
    return kin_cuda_end(&c);
}

__global__ static void to_bf16_kernel(int64_t n, kin_tensor x, uint16_t *y)
{
    KIN_EACH(i, n) y[i] = kin_float_bf16(kin_at(x, i));
}

extern "C" void kin_cuda_to_bf16(kin_cuda_call *c, const kin_tensor *x, const kin_tensor *y)
{
    const kin_tensor from = *x;
    uint16_t *to = (uint16_t *)y->data;
    const int64_t n = kin_tensor_numel(x);
    KIN_LAUNCH(c, to_bf16_kernel, kin_blocks(n), KIN_THREADS, n, from, to);
}

/* --- posterior --- */

typedef struct posterior {
    kin_tensor mean, logvar, noise, clamped, z, kl, dz, dkl, dmean, dlogvar;
    float lo, hi;
    bool acc_dmean, acc_dlogvar;
} posterior;

__device__ static float clamped_at(const posterior &p, int64_t r, int64_t k)
{
    const float v = kin_get2(p.logvar, r, k);
    return v < p.lo ? p.lo : v > p.hi ? p.hi : v;
}

/* one block per row */
__global__ static void posterior_kernel(posterior p)
{
    const int64_t r = blockIdx.x;
    double kl = 0;
    for (int64_t k = threadIdx.x; k < p.mean.size[1]; k += blockDim.x) {
        const float m = kin_get2(p.mean, r, k), v = clamped_at(p, r, k);
        if (p.z.data)
            *kin_ptr2(p.z, r, k) = m + expf(v / 2) * kin_get2(p.noise, r, k);
        if (p.clamped.data)
            *kin_ptr2(p.clamped, r, k) = v;
        kl += ((double)m * (double)m + expm1((double)v) - (double)v) / 2;
    }
    kl = kin_block_sum(kl);
    if (p.kl.data && threadIdx.x == 0)
        ((float *)p.kl.data)[r * p.kl.stride[0]] = (float)kl;
}

extern "C" kin_status kin_cuda_posterior(kin_ctx *ctx, const kin_posterior_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "posterior");
    posterior p = {};
    p.mean = kin_cuda_in(&c, a->mean);
    p.logvar = kin_cuda_in(&c, a->logvar);
    p.noise = kin_cuda_in(&c, a->noise);
    p.clamped = kin_cuda_out(&c, a->clamped, false);
    p.z = kin_cuda_out(&c, a->z, false);
    p.kl = kin_cuda_out(&c, a->kl, false);
    p.lo = a->lo;
    p.hi = a->hi;
    KIN_LAUNCH(&c, posterior_kernel, dim3((unsigned)a->mean->size[0]), KIN_THREADS, p);
    return kin_cuda_end(&c);
}

__global__ static void posterior_bwd_kernel(posterior p)
{
    const int64_t n = p.mean.size[1];
    KIN_EACH(i, p.mean.size[0] * n)
    {
        const int64_t r = i / n, k = i % n;
        const float dkl = p.dkl.data ? ((const float *)p.dkl.data)[r * p.dkl.stride[0]] : 0.0f;
        const float m = kin_get2(p.mean, r, k), v = clamped_at(p, r, k);
        const float dz = p.dz.data ? kin_get2(p.dz, r, k) : 0.0f;
        const float e = p.dz.data ? kin_get2(p.noise, r, k) : 0.0f;
        const float dv = dz * e * expf(v / 2) / 2 + dkl * expm1f(v) / 2;
        if (p.dmean.data)
            kin_put(kin_ptr2(p.dmean, r, k), dz + dkl * m, p.acc_dmean);
        if (p.dlogvar.data)
            kin_put(kin_ptr2(p.dlogvar, r, k), v > p.lo && v < p.hi ? dv : 0.0f, p.acc_dlogvar);
    }
}

extern "C" kin_status kin_cuda_posterior_bwd(kin_ctx *ctx, const kin_posterior_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "posterior backward");
    posterior p = {};
    p.mean = kin_cuda_in(&c, a->mean);
    p.logvar = kin_cuda_in(&c, a->logvar);
    p.noise = kin_cuda_in(&c, a->noise);
    p.dz = kin_cuda_in(&c, a->dz);
    p.dkl = kin_cuda_in(&c, a->dkl);
    p.dmean = kin_cuda_out(&c, a->dmean, a->acc_dmean);
    p.dlogvar = kin_cuda_out(&c, a->dlogvar, a->acc_dlogvar);
    p.lo = a->lo;
    p.hi = a->hi;
    p.acc_dmean = a->acc_dmean;
    p.acc_dlogvar = a->acc_dlogvar;
    KIN_LAUNCH(&c, posterior_bwd_kernel, kin_blocks(kin_tensor_numel(a->mean)), KIN_THREADS, p);
    return kin_cuda_end(&c);
}
