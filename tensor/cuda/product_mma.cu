/* tensor/cuda/product_mma.cu: products in bf16 on the tensor cores, dense or of experts, for
 * operands in bf16 whose rows start at multiples of 16 bytes: blocks of 128 x 128 results, pieces
 * of 32 of the sum copied into shared memory while the piece before is multiplied. The sum of a
 * result runs over its pieces in order, whatever the other rows are. KINEMA_CUDA_TILES=small leaves
 * all to product.cu. */
#include "tensor/cuda/mma.cuh"
#include "tensor/cuda/place.cuh"
#include "tensor/cuda/product.cuh"

enum {
    SIDE = 128, /* rows and columns of a block */
    DEPTH = 32, /* of the sum in one piece */
    MMA_THREADS = 256,
    /* elements between rows of a piece in shared memory, so that 8 rows lie in different banks:
     * along: [128][32], the sum's index contiguous; across: [32][128] */
    LD_ALONG = DEPTH + 8,
    LD_ACROSS = SIDE + 8,
    PIECE = SIDE * LD_ALONG,
    CHUNK = 8,                                  /* elements of one copy */
    CHUNKS = SIDE * DEPTH / CHUNK / MMA_THREADS /* copies of a thread */
};
static_assert(DEPTH * LD_ACROSS <= PIECE, "both layouts fit");

/* One operand of a block: 128 of its rows (of the result) from `first`, any of the sum. */
typedef struct side {
    const uint16_t *data;
    int64_t ld; /* along: between rows, across: between indices of the sum; a multiple of 8 */
    int64_t first, end; /* rows there are, up to `end` */
    int64_t sum_end;
    const uint16_t *row[CHUNKS]; /* along: the thread's rows; NULL: outside */
    const int32_t *order;        /* across: row of the sum's index, as kin_product.order */
    int64_t slots;
} side;

__device__ static __forceinline__ int64_t ordered(const int32_t *order, int64_t slots, int64_t s)
{
    return !order ? s : slots == 1 ? order[s] : order[s] / (int32_t)slots;
}

__device__ static __forceinline__ side side_of(const void *data, int64_t ld, int64_t first,
                                               int64_t end, int64_t sum_end)
{
    side s = {};
    s.data = (const uint16_t *)data;
    s.ld = ld;
    s.first = first;
    s.end = end;
    s.sum_end = sum_end;
    return s;
}

__device__ static __forceinline__ void find_rows(side *s)
{
    for (int c = 0; c < CHUNKS; c++) {
        const int64_t row = s->first + (threadIdx.x + c * MMA_THREADS) / (DEPTH / CHUNK);
        s->row[c] = row < s->end ? s->data + ordered(s->order, s->slots, row) * s->ld : nullptr;
    }
}

/* Starts the copies of the piece from index l of the sum on. */
template <bool ALONG>
__device__ static __forceinline__ void fetch(const side &s, int64_t l, uint16_t *piece)
{
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        const int e = (int)threadIdx.x + c * MMA_THREADS;
        if (ALONG) {
            const int at = e % (DEPTH / CHUNK) * CHUNK;
            const bool in = s.row[c] && l + at < s.sum_end;
            kin_copy16(piece + e / (DEPTH / CHUNK) * LD_ALONG + at, in ? s.row[c] + l + at : s.data,
                       in);
        } else {
            const int at = e % (SIDE / CHUNK) * CHUNK;
            const int64_t index = l + e / (SIDE / CHUNK);
            const bool in = index < s.sum_end && s.first + at < s.end;
            kin_copy16(
                piece + e / (SIDE / CHUNK) * LD_ACROSS + at,
                in ? s.data + ordered(s.order, s.slots, index) * s.ld + s.first + at : s.data, in);
        }
    }
}

/* sum += a piece's products, for the warp's 64 x 32 results at (wi, wj) of the block. */
template <bool A_ALONG, bool B_ALONG>
__device__ static __forceinline__ void multiply(const uint16_t *a, const uint16_t *b, int wi,
                                                int wj, float sum[4][4][4])
{
    const int lane = (int)threadIdx.x % KIN_WARP, r = lane % 8, q = lane / 8;
#pragma unroll
    for (int l = 0; l < DEPTH; l += 16) {
        uint32_t x[4][4], y[2][4];
#pragma unroll
        for (int i = 0; i < 4; i++) { /* quarters: rows, rows + 8, then the same 8 further on */
            if (A_ALONG)
                kin_ldmatrix(x[i], a + (wi + 16 * i + r + q % 2 * 8) * LD_ALONG + l + q / 2 * 8);
            else
                kin_ldmatrix_turned(x[i],
                                    a + (l + r + q / 2 * 8) * LD_ACROSS + wi + 16 * i + q % 2 * 8);
        }
#pragma unroll
        for (int j = 0; j < 2; j++) { /* quarters: columns, 8 further on, then columns + 8 */
            if (B_ALONG)
                kin_ldmatrix(y[j], b + (wj + 16 * j + r + q / 2 * 8) * LD_ALONG + l + q % 2 * 8);
            else
                kin_ldmatrix_turned(y[j],
                                    b + (l + r + q % 2 * 8) * LD_ACROSS + wj + 16 * j + q / 2 * 8);
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                kin_mma(sum[i][j], x[i], &y[j / 2][j % 2 * 2]);
    }
}

template <bool A_ALONG, bool B_ALONG>
__global__ static void __launch_bounds__(MMA_THREADS) product_mma_kernel(kin_product p)
{
    __shared__ __align__(16) uint16_t as[2][PIECE], bs[2][PIECE];
    const kin_block_place w = kin_place_of_block(p, SIDE);
    const int warp = (int)threadIdx.x / KIN_WARP, lane = (int)threadIdx.x % KIN_WARP;
    const int wi = warp / 4 * 64, wj = warp % 4 * 32;
    const bool rows = p.offset && !p.over_rows;
    float sum[4][4][4] = {};
    const void *b_data = p.bs && !w.none ? p.bs[w.expert] : p.b.data;
    side a = side_of(p.a.data, A_ALONG ? p.a.row : p.a.col, w.i0, w.i_end, w.l_end);
    side b = side_of(b_data, B_ALONG ? p.b.row : p.b.col, w.j0, p.n, w.l_end);
    a.order = rows ? p.order : nullptr;
    b.order = p.over_rows ? p.order : nullptr;
    a.slots = b.slots = p.slots;
    if (A_ALONG)
        find_rows(&a);
    if (B_ALONG)
        find_rows(&b);
    const int64_t pieces = w.none ? 0 : (w.l_end - w.l0 + DEPTH - 1) / DEPTH;
    for (int64_t s = -1; s < pieces; s++) {
        if (s + 1 < pieces) {
            const int64_t l = w.l0 + (s + 1) * DEPTH;
            fetch<A_ALONG>(a, l, as[(s + 1) % 2]);
            fetch<B_ALONG>(b, l, bs[(s + 1) % 2]);
        }
        kin_copy_commit();
        if (s < 0)
            continue;
        kin_copy_wait<1>();
        __syncthreads();
        multiply<A_ALONG, B_ALONG>(as[s % 2], bs[s % 2], wi, wj, sum);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int64_t row = w.i0 + wi + 16 * i + lane / 4 + e / 2 * 8;
                const int64_t col = w.j0 + wj + 8 * j + lane % 4 * 2 + e % 2;
                if (!w.none && row < w.i_end && col < p.n)
                    kin_product_finish(p, w.expert, row, col, sum[i][j][e]);
            }
}

/* --- operands --- */

struct __align__(16) chunk
{
    uint16_t v[CHUNK];
};

/* [outer, inner] rounded to bf16, rows of `chunks` chunks, zeros behind the last column */
__global__ static void round_kernel(kin_matrix m, bool along, int64_t outer, int64_t inner,
                                    int64_t chunks, chunk *to)
{
    KIN_EACH(i, outer * chunks)
    {
        const int64_t o = i / chunks, first = i % chunks * CHUNK;
        const int64_t from = along ? o * m.row + first : first + o * m.col;
        chunk c;
        for (int k = 0; k < CHUNK; k++)
            c.v[k] = first + k < inner ? kin_float_bf16(kin_load(m.data, m.dtype, from + k)) : 0;
        to[i] = c;
    }
}

static void copy_rounded(kin_cuda_call *c, kin_matrix *m, bool along, int64_t rows, int64_t sums)
{
    const kin_matrix from = *m;
    const int64_t outer = along ? rows : sums, inner = along ? sums : rows;
    const int64_t chunks = (inner + CHUNK - 1) / CHUNK;
    chunk *to = (chunk *)kin_cuda_scratch(c, (size_t)(outer * chunks) * sizeof *to);
    KIN_LAUNCH(c, round_kernel, kin_blocks(outer * chunks), KIN_THREADS, from, along, outer, inner,
               chunks, to);
    m->data = to;
    m->dtype = KIN_DTYPE_BF16;
    m->row = along ? chunks * CHUNK : 1;
    m->col = along ? 1 : chunks * CHUNK;
}

void kin_product_round(kin_cuda_call *c, kin_matrix *m, bool along, int64_t rows, int64_t sums)
{
    if (m->dtype != KIN_DTYPE_BF16)
        copy_rounded(c, m, along, rows, sums);
}

/* note: what lies behind the last index of the sum would be multiplied */
static bool copies_as_it_lies(const kin_matrix &m, bool along, int64_t sums)
{
    return m.dtype == KIN_DTYPE_BF16 && (uintptr_t)m.data % 16 == 0 &&
           (along ? m.row % CHUNK == 0 && sums % CHUNK == 0 : m.col % CHUNK == 0);
}

/* The operand as copies want it: itself, or a copy. rows x sums. */
static void prepare(kin_cuda_call *c, kin_matrix *m, bool along, int64_t rows, int64_t sums)
{
    if (!copies_as_it_lies(*m, along, sums))
        copy_rounded(c, m, along, rows, sums);
}

static bool takes(const kin_product &p)
{
    if (kin_cuda_small_tiles())
        return false;
    /* note: the sum of an expert's gradient starts anywhere, so its index cannot be the contiguous
     * one */
    if (p.over_rows)
        return p.a.row == 1 && p.b.row == 1;
    /* experts' weights are used as they lie */
    const bool weights = !p.bs || (p.aligned && p.b.dtype == KIN_DTYPE_BF16 &&
                                   (p.b.col == 1 ? p.b.row : p.b.col) % CHUNK == 0);
    return weights && (p.a.col == 1 || p.a.row == 1) && (p.b.col == 1 || p.b.row == 1) && p.k > 0;
}

bool kin_product_mma(kin_cuda_call *c, const kin_product *args)
{
    kin_product p = *args;
    if (!takes(p))
        return false;
    const bool a_along = p.a.col == 1 && !p.over_rows, b_along = p.b.col == 1 && !p.over_rows;
    const dim3 grid = kin_product_grid(c, &p, SIDE);
    prepare(c, &p.a, a_along, p.offset && !p.over_rows && p.order ? p.gathered : p.m, p.k);
    if (!p.bs)
        prepare(c, &p.b, b_along, p.n, p.over_rows && p.order ? p.gathered : p.k);
    if (a_along && b_along)
        KIN_LAUNCH(c, (product_mma_kernel<true, true>), grid, MMA_THREADS, p);
    else if (a_along)
        KIN_LAUNCH(c, (product_mma_kernel<true, false>), grid, MMA_THREADS, p);
    else if (b_along)
        KIN_LAUNCH(c, (product_mma_kernel<false, true>), grid, MMA_THREADS, p);
    else
        KIN_LAUNCH(c, (product_mma_kernel<false, false>), grid, MMA_THREADS, p);
    return true;
}
