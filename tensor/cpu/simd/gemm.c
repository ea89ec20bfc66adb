/* tensor/cpu/simd/gemm.c: packing and the register tile of the f32 products. A tile holds mr rows
 * by two vectors of columns in registers (14x32 under AVX-512, 6x16 under AVX2); every element is
 * one chain of fused multiply-adds in the order of k, so its bits depend neither on its neighbours
 * nor on the tile it falls in. */
#include <string.h>

#include "tensor/cpu/simd/simd.h"
#include "tensor/cpu/simd/tile.h"
#include "tensor/cpu/simd/vec.h"

/* VL elements of n vectors turned into VL steps of VL lanes; the lanes after n are 0. */
VINL void turn_block(const float *const *row, int64_t n, int64_t k0, float *dst, int64_t step)
{
    vf r[VL];
    VUNROLL
    for (int i = 0; i < VL; i++)
        r[i] = i < n ? vf_load(row[i] + k0) : vf_zero();
    vf_transpose(r);
    VUNROLL
    for (int j = 0; j < VL; j++)
        vf_store(dst + j * step, r[j]);
}

/* The same of the last kn < VL elements, or of fewer than VL lanes that must not spill. */
static void turn_edge(const float *const *row, int64_t n, int64_t k0, int64_t kn, float *dst,
                      int64_t step, int64_t lanes)
{
    vf r[VL];
    for (int i = 0; i < VL; i++)
        r[i] = i < n ? vf_loadn(row[i] + k0, kn) : vf_zero();
    vf_transpose(r);
    for (int j = 0; j < kn; j++)
        vf_storen(dst + j * step, r[j], lanes);
}

void KIN_SIMD(pack_t)(const float *src, int64_t ld, const int32_t *rows, int64_t nrows, int lanes,
                      int64_t k, float *dst)
{
    for (int lane0 = 0; lane0 < lanes; lane0 += VL) {
        const float *row[VL];
        int64_t n = nrows - lane0 < VL ? nrows - lane0 : VL, k0 = 0;
        for (int64_t i = 0; i < n; i++)
            row[i] = src + (rows ? rows[lane0 + i] : lane0 + i) * ld;
        /* note: a first vector may spill past `lanes`; the next k (or the slack at the end) takes
         * it */
        int64_t there = lane0 == 0 ? VL : lanes - lane0;
        float *d = dst + lane0;
        if (there >= VL)
            for (; k0 + VL <= k; k0 += VL)
                turn_block(row, n, k0, d + k0 * lanes, lanes);
        for (; k0 < k; k0 += VL)
            turn_edge(row, n, k0, k - k0 < VL ? k - k0 : VL, d + k0 * lanes, lanes, there);
    }
}

/* One row of a panel: `lanes` values, n of them from s. */
VINL void put_lanes(const float *s, int64_t n, int lanes, float *d, bool last)
{
    for (int c = 0; c < lanes; c += VL) {
        int64_t m = n - c;
        vf v = m >= VL ? vf_load(s + c) : m > 0 ? vf_loadn(s + c, m) : vf_zero();
        /* note: a first vector may spill past `lanes`, into the next row, which is still to come */
        if (lanes - c >= VL || (c == 0 && !last))
            vf_store(d + c, v);
        else
            vf_storen(d + c, v, lanes - c);
    }
}

/* Panels narrower than a vector, some rows at a time: written one after the other, while the lines
 * that a panel shares with the next are in the L1 cache. */
static void pack_narrow(const float *src, int64_t ld, const int32_t *rows, int64_t ncols, int lanes,
                        int64_t k, int64_t step, float *dst)
{
    enum { ROWS = 16 };
    const float *row[ROWS];
    for (int64_t i0 = 0; i0 < k; i0 += ROWS) {
        const int64_t n = k - i0 < ROWS ? k - i0 : ROWS, free = i0 + n < k ? n : n - 1;
        float *d = dst + i0 * lanes;
        int64_t c = 0;
        for (int64_t i = 0; i < n; i++)
            row[i] = src + (rows ? rows[i0 + i] : i0 + i) * ld;
        for (; c + VL <= ncols; c += lanes, d += step) {
            for (int64_t i = 0; i < free; i++) /* spills into the next row, still to come */
                vf_store(d + i * lanes, vf_load(row[i] + c));
            if (free < n)
                vf_storen(d + free * lanes, vf_load(row[free] + c), lanes);
        }
        for (; c < ncols; c += lanes, d += step)
            for (int64_t i = 0; i < n; i++)
                put_lanes(row[i] + c, ncols - c, lanes, d + i * lanes, i0 + i + 1 == k);
    }
}

void KIN_SIMD(pack_n)(const float *src, int64_t ld, const int32_t *rows, int64_t ncols, int lanes,
                      int64_t k, int64_t step, float *dst)
{
    if (lanes < VL) {
        pack_narrow(src, ld, rows, ncols, lanes, k, step, dst);
        return;
    }
    for (int64_t i = 0; i < k; i++) {
        const float *s = src + (rows ? rows[i] : i) * ld;
        float *d = dst + i * lanes;
        int64_t c = 0;
        if (lanes == 2 * VL) {
            for (; c + 2 * VL <= ncols; c += 2 * VL, d += step) {
                vf_store(d, vf_load(s + c));
                vf_store(d + VL, vf_load(s + c + VL));
            }
        }
        for (; c < ncols; c += lanes, d += step)
            put_lanes(s + c, ncols - c, lanes, d, i + 1 == k);
    }
}

static void round_all(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += VL)
        vf_storen(x + i, vf_round_bf16(vf_loadn(x + i, n - i)), n - i);
}

void KIN_SIMD(pack_t_round)(const float *src, int64_t ld, const int32_t *rows, int64_t nrows,
                            int lanes, int64_t k, float *dst)
{
    KIN_SIMD(pack_t)(src, ld, rows, nrows, lanes, k, dst);
    round_all(dst, k * lanes);
}

void KIN_SIMD(pack_n_round)(const float *src, int64_t ld, const int32_t *rows, int64_t ncols,
                            int lanes, int64_t k, int64_t step, float *dst)
{
    KIN_SIMD(pack_n)(src, ld, rows, ncols, lanes, k, step, dst);
    for (int64_t c = 0; c < ncols; c += lanes, dst += step)
        round_all(dst, k * lanes);
}

void KIN_SIMD(to_bf16)(const float *src, int64_t n, uint16_t *dst)
{
    for (int64_t i = 0; i < n; i += VL)
        vf_storen_bf16(dst + i, vf_loadn(src + i, n - i), n - i);
}

void KIN_SIMD(to_f32)(const void *src, kin_dtype dtype, int64_t n, float *dst)
{
    int64_t i = 0;
    if (dtype == KIN_DTYPE_F32) {
        for (; i + VL <= n; i += VL)
            vf_store(dst + i, vf_load((const float *)src + i));
        for (; i < n; i++)
            dst[i] = ((const float *)src)[i];
    } else if (dtype == KIN_DTYPE_BF16) {
        for (; i + VL <= n; i += VL)
            vf_store(dst + i, vf_load_bf16((const uint16_t *)src + i));
        for (; i < n; i++)
            dst[i] = kin_bf16_to_f32(((const uint16_t *)src)[i]);
    } else {
        for (; i + VL <= n; i += VL)
            vf_store(dst + i, vf_load_f16((const uint16_t *)src + i));
        for (; i < n; i++)
            dst[i] = kin_f16_to_f32(((const uint16_t *)src)[i]);
    }
}

#define TILE_LOAD_B(b) vf b0 = vf_load(b), b1 = vf_load((b) + VL)
#define STEP_OF(i, x)                        \
    if ((i) < TILE_DIRECT) {                 \
        TILE_PAIR(i, "vfmadd231ps", x)       \
    } else {                                 \
        vf av = vf_set(x);                   \
        c##i##_0 = vf_fma(av, b0, c##i##_0); \
        c##i##_1 = vf_fma(av, b1, c##i##_1); \
    }
#define HALF_LOAD_B(b) vf b0 = vf_load(b)
#define HALF_OF(i, x) c##i##_0 = vf_fma(vf_set(x), b0, c##i##_0);
#define TILE_STEP(i) STEP_OF(i, a[i])
#define HALF_STEP(i) HALF_OF(i, a[i])
#define FLAT_STEP(i) STEP_OF(i, a[(i)*KIN_FLAT_WORDS])
#define FLAT_HALF_STEP(i) HALF_OF(i, a[(i)*KIN_FLAT_WORDS])
KIN_TILES(static, tile_rows)
KIN_FLAT_TILES(static, flat_rows)

void KIN_SIMD(tile)(int rows, int64_t k, const float *a, const float *b, float *c, int64_t ldc,
                    bool acc, kin_ahead next)
{
    tile_rows_any(rows, k, a, b, c, ldc, acc, next);
}

void KIN_SIMD(tile_flat)(int rows, int64_t k, const float *a, const float *b, float *c, int64_t ldc,
                         bool acc, kin_ahead next)
{
    flat_rows_any(rows, k, a, b, c, ldc, acc, next);
}

void KIN_SIMD(tile_half)(int rows, int64_t k, const float *a, const float *b, float *c, int64_t ldc,
                         bool acc, kin_ahead next)
{
    tile_rows_half_any(rows, k, a, b, c, ldc, acc, next);
}

void KIN_SIMD(tile_flat_half)(int rows, int64_t k, const float *a, const float *b, float *c,
                              int64_t ldc, bool acc, kin_ahead next)
{
    flat_rows_half_any(rows, k, a, b, c, ldc, acc, next);
}

/* Eight vectors of columns at a time: rows are read in long pieces. */
static void eight_sums(const float *src, int64_t ld, int64_t rows, float *dst)
{
    vf s0 = vf_zero(), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
    for (int64_t r = 0; r < rows; r++, src += ld) {
        s0 = vf_add(s0, vf_load(src));
        s1 = vf_add(s1, vf_load(src + VL));
        s2 = vf_add(s2, vf_load(src + 2 * VL));
        s3 = vf_add(s3, vf_load(src + 3 * VL));
        s4 = vf_add(s4, vf_load(src + 4 * VL));
        s5 = vf_add(s5, vf_load(src + 5 * VL));
        s6 = vf_add(s6, vf_load(src + 6 * VL));
        s7 = vf_add(s7, vf_load(src + 7 * VL));
    }
    vf_store(dst, vf_add(vf_load(dst), s0));
    vf_store(dst + VL, vf_add(vf_load(dst + VL), s1));
    vf_store(dst + 2 * VL, vf_add(vf_load(dst + 2 * VL), s2));
    vf_store(dst + 3 * VL, vf_add(vf_load(dst + 3 * VL), s3));
    vf_store(dst + 4 * VL, vf_add(vf_load(dst + 4 * VL), s4));
    vf_store(dst + 5 * VL, vf_add(vf_load(dst + 5 * VL), s5));
    vf_store(dst + 6 * VL, vf_add(vf_load(dst + 6 * VL), s6));
    vf_store(dst + 7 * VL, vf_add(vf_load(dst + 7 * VL), s7));
}

void KIN_SIMD(column_sums)(const float *src, int64_t ld, int64_t rows, int64_t cols, float *dst)
{
    int64_t c = 0;
    for (; c + 8 * VL <= cols; c += 8 * VL)
        eight_sums(src + c, ld, rows, dst + c);
    for (; c < cols; c += VL) {
        int64_t n = cols - c;
        vf s = vf_zero();
        for (int64_t r = 0; r < rows; r++)
            s = vf_add(s, vf_loadn(src + r * ld + c, n));
        vf_storen(dst + c, vf_add(vf_loadn(dst + c, n), s), n);
    }
}
