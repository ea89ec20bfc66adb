/* tensor/cuda/product.cu: own kernels for products: the general path (any strides, gathered rows,
 * experts whose row counts only the device knows) and the one that runs without a library. f32 by
 * fused products, bf16 on the tensor cores. */
#include "tensor/cuda/mma.cuh"
#include "tensor/cuda/place.cuh"
#include "tensor/cuda/product.cuh"

enum { TILE = 64, DEPTH32 = 16, DEPTH16 = 32, PAD16 = 8 };

/* Row of the gathered operand that sorted row s stands for. */
__device__ static __forceinline__ int64_t gathered(const kin_product &p, int64_t s)
{
    return p.order ? p.order[s] / p.slots : s;
}

__device__ static __forceinline__ float load_a(const kin_product &p, const kin_block_place &w,
                                               int64_t i, int64_t l)
{
    if (i >= w.i_end || l >= w.l_end)
        return 0.0f;
    const int64_t row = p.offset && !p.over_rows ? gathered(p, i) : i;
    return kin_load(p.a.data, p.a.dtype, row * p.a.row + l * p.a.col);
}

__device__ static __forceinline__ float load_b(const kin_product &p, const kin_block_place &w,
                                               int64_t j, int64_t l)
{
    if (j >= p.n || l >= w.l_end)
        return 0.0f;
    const void *data = p.bs ? p.bs[w.expert] : p.b.data;
    const int64_t at = p.over_rows ? gathered(p, l) : l;
    return kin_load(data, p.b.dtype, j * p.b.row + at * p.b.col);
}

/* Which element of a TILE x depth piece thread-step `e` loads: neighbours along the contiguous
 * direction. */
__device__ static __forceinline__ void spread(int e, int depth, bool along_sum, int *i, int *l)
{
    *i = along_sum ? e / depth : e % TILE;
    *l = along_sum ? e % depth : e / TILE;
}

/* 256 threads, 4 x 4 results each */
__global__ static void product_f32_kernel(kin_product p)
{
    __shared__ float as[DEPTH32][TILE + 4], bs[DEPTH32][TILE + 4];
    const kin_block_place w = kin_place_of_block(p, TILE);
    const int ti = (int)threadIdx.x / 16 * 4, tj = (int)threadIdx.x % 16 * 4;
    float sum[4][4] = {};
    for (int64_t l0 = w.l0; l0 < w.l_end && !w.none; l0 += DEPTH32) {
        for (int e = (int)threadIdx.x; e < TILE * DEPTH32; e += KIN_THREADS) {
            int i, l;
            spread(e, DEPTH32, p.a.col == 1, &i, &l);
            as[l][i] = load_a(p, w, w.i0 + i, l0 + l);
            spread(e, DEPTH32, p.b.col == 1, &i, &l);
            bs[l][i] = load_b(p, w, w.j0 + i, l0 + l);
        }
        __syncthreads();
        for (int l = 0; l < DEPTH32; l++)
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++)
                    sum[i][j] += as[l][ti + i] * bs[l][tj + j];
        __syncthreads();
    }
    for (int i = 0; i < 4 && !w.none; i++)
        for (int j = 0; j < 4; j++)
            if (w.i0 + ti + i < w.i_end && w.j0 + tj + j < p.n)
                kin_product_finish(p, w.expert, w.i0 + ti + i, w.j0 + tj + j, sum[i][j]);
}

/* 128 threads: 2 x 2 warps of 32 x 32 results */
__global__ static void product_bf16_kernel(kin_product p)
{
    __shared__ __align__(32) uint16_t as[TILE][DEPTH16 + PAD16];
    __shared__ __align__(32) uint16_t bs[TILE][DEPTH16 + PAD16];
    __shared__ __align__(32) float out[TILE][TILE + 4];
    const int ld = DEPTH16 + PAD16, warp = (int)threadIdx.x / KIN_WARP;
    const int wi = warp / 2 * 32, wj = warp % 2 * 32;
    const kin_block_place w = kin_place_of_block(p, TILE);
    kin_sums sum[2][2];
    for (int i = 0; i < 4; i++)
        kin_sums_clear(&sum[i / 2][i % 2]);
    for (int64_t l0 = w.l0; l0 < w.l_end && !w.none; l0 += DEPTH16) {
        for (int e = (int)threadIdx.x; e < TILE * DEPTH16; e += 128) {
            int i, l;
            spread(e, DEPTH16, p.a.col == 1, &i, &l);
            as[i][l] = kin_float_bf16(load_a(p, w, w.i0 + i, l0 + l));
            spread(e, DEPTH16, p.b.col == 1, &i, &l);
            bs[i][l] = kin_float_bf16(load_b(p, w, w.j0 + i, l0 + l));
        }
        __syncthreads();
        for (int l = 0; l < DEPTH16; l += 16) {
            kin_tile_a a[2];
            kin_tile_b b[2];
            for (int i = 0; i < 2; i++) {
                kin_tile_load_a(&a[i], &as[wi + 16 * i][l], ld);
                kin_tile_load_b(&b[i], &bs[wj + 16 * i][l], ld);
            }
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 2; j++)
                    kin_sums_add(&sum[i][j], a[i], b[j]);
        }
        __syncthreads();
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++)
            kin_sums_store(&out[wi + 16 * i][wj + 16 * j], TILE + 4, sum[i][j]);
    __syncthreads();
    for (int e = (int)threadIdx.x; e < TILE * TILE && !w.none; e += 128) {
        const int64_t i = w.i0 + e / TILE, j = w.j0 + e % TILE;
        if (i < w.i_end && j < p.n)
            kin_product_finish(p, w.expert, i, j, out[e / TILE][e % TILE]);
    }
}

dim3 kin_product_grid(kin_cuda_call *c, const kin_product *p, int tile)
{
    const int64_t across = (p->n + tile - 1) / tile;
    int64_t down = (p->m + tile - 1) / tile;
    if (p->offset && !p->over_rows)
        down += p->groups; /* each expert's last tile may be part of one */
    if (down > 65535 || (p->over_rows && p->groups > 65535))
        kin_cuda_fail(c, KIN_ERR_UNSUPPORTED, "too many rows for one product");
    return dim3((unsigned)across, (unsigned)down, p->over_rows ? (unsigned)p->groups : 1u);
}

static void own_product(kin_cuda_call *c, const kin_product *args, bool bf16)
{
    const kin_product p = *args;
    if (bf16 && kin_product_mma(c, args))
        return;
    const dim3 grid = kin_product_grid(c, args, TILE);
    if (bf16)
        KIN_LAUNCH(c, product_bf16_kernel, grid, 128, p);
    else
        KIN_LAUNCH(c, product_f32_kernel, grid, KIN_THREADS, p);
}

void kin_product_run(kin_cuda_call *c, const kin_product *p, bool bf16)
{
    if (c->status == KIN_OK && !kin_library_product(c, p, bf16))
        own_product(c, p, bf16);
}

/* note: a thread per column, as a division per element would cost more than the rest */
__global__ static void epilogue_kernel(kin_product p, const float *sum, int64_t row)
{
    const int64_t j = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (int64_t i = blockIdx.y; i < p.m && j < p.n; i += gridDim.y)
        kin_product_finish(p, 0, i, j, sum[i * row + j]);
}

void kin_product_epilogue(kin_cuda_call *c, const kin_product *args, const float *sum, int64_t row)
{
    const kin_product p = *args;
    const int threads = p.n < KIN_THREADS ? 64 : KIN_THREADS;
    const dim3 grid((unsigned)((p.n + threads - 1) / threads),
                    (unsigned)(p.m < 65535 ? p.m : 65535));
    KIN_LAUNCH(c, epilogue_kernel, grid, threads, p, sum, row);
}

/* --- sums of columns: gradients of biases --- */

enum { SLICE = 1024 }; /* rows of one partial sum */

typedef struct column_call {
    kin_tensor x;
    int64_t m, slices;
    const int32_t *offset;
    float *const *dst;
    double *part; /* [groups][slices][n] */
} column_call;

__device__ static void column_range(const column_call &q, int64_t e, int64_t *first, int64_t *end)
{
    *first = q.offset ? q.offset[e] : 0;
    *end = q.offset ? q.offset[e + 1] : q.m;
}

/* 32 columns of slice blockIdx.y of group blockIdx.z */
__global__ static void column_part_kernel(column_call q)
{
    __shared__ double part[8][32];
    const int64_t n = q.x.size[1], j = (int64_t)blockIdx.x * 32 + threadIdx.x, e = blockIdx.z;
    int64_t first, end;
    column_range(q, e, &first, &end);
    const int64_t from = first + (int64_t)blockIdx.y * SLICE;
    const int64_t to = from + SLICE < end ? from + SLICE : end;
    double sum = 0;
    for (int64_t r = from + threadIdx.y; j < n && r < to; r += 8)
        sum += (double)kin_get2(q.x, r, j);
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || j >= n)
        return;
    for (int i = 1; i < 8; i++)
        sum += part[i][threadIdx.x];
    q.part[(e * q.slices + blockIdx.y) * n + j] = sum;
}

__global__ static void column_end_kernel(column_call q)
{
    const int64_t n = q.x.size[1], e = blockIdx.y;
    int64_t first, end;
    column_range(q, e, &first, &end);
    KIN_EACH(j, n)
    {
        if (!q.dst[e] || first == end)
            continue;
        double sum = 0;
        for (int64_t s = 0; first + s * SLICE < end; s++)
            sum += q.part[(e * q.slices + s) * n + j];
        q.dst[e][j] += (float)sum;
    }
}

void kin_column_sums(kin_cuda_call *c, const kin_tensor &x, int64_t m, const int32_t *offset,
                     int64_t groups, float *const *dst)
{
    column_call q = {};
    const int64_t n = x.size[1];
    q.x = x;
    q.m = m;
    q.slices = (m + SLICE - 1) / SLICE;
    q.offset = offset;
    q.dst = dst;
    if (q.slices > 65535 || groups > 65535) {
        kin_cuda_fail(c, KIN_ERR_UNSUPPORTED, "too many rows for a sum");
        return;
    }
    q.part = (double *)kin_cuda_scratch(c, (size_t)(groups * q.slices * n) * sizeof(double));
    const dim3 grid((unsigned)((n + 31) / 32), (unsigned)q.slices, (unsigned)groups);
    KIN_LAUNCH(c, column_part_kernel, grid, dim3(32, 8), q);
    KIN_LAUNCH(c, column_end_kernel, dim3(kin_blocks(n).x, (unsigned)groups), KIN_THREADS, q);
}
