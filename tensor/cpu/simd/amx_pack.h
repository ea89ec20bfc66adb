/* tensor/cpu/simd/amx_pack.h: operands of the AMX tiles. 32 elements of k make a block of 512 words
 * (pairs of bf16): left [32 rows][16 pairs], right [2][16 pairs][16 columns]: each two tiles one
 * after the other. With two parts a block of what rounding to bf16 left over follows each block.
 * The includer defines PACK_TARGET, bf16_pairs(lo, hi): 32 values rounded to bf16 (nearest
 * even), lo in the first 16 halves, and bf16_half(v): 16 values. */
#ifndef KIN_CPU_SIMD_AMX_PACK_H
#define KIN_CPU_SIMD_AMX_PACK_H

#define SOFTMAX_TARGET PACK_TARGET
#define SOFTMAX_PAIRS bf16_pairs
#include "tensor/cpu/simd/softmax.h"

#define EPILOGUE_TARGET PACK_TARGET
#define EPILOGUE_LINKAGE static
#define EPILOGUE_NAME amx_epilogue
#define EPILOGUE_HALF put_half
/* The first n <= VL values rounded to bf16. */
PACK_TARGET VINL void put_half(uint16_t *p, vf v, int64_t n)
{
    _mm256_mask_storeu_epi16(p, vm_first(n), bf16_half(v));
}
#include "tensor/cpu/simd/epilogue.h"

enum { AMX_K = 32, AMX_PAIRS = 16, AMX_LANES = 32, AMX_BLOCK = AMX_PAIRS * AMX_LANES };

/* What is packed of v: itself, or the rest after rounding. */
PACK_TARGET VINL vf part_of(vf v, int part)
{
    return part ? vf_sub(v, vf_round_bf16(v)) : v;
}

/* First value of row i; rows hold f32, or bf16 where `half` is set. */
VINL const char *pack_row(const void *src, bool half, int64_t ld, const int32_t *rows, int64_t i)
{
    return (const char *)src + (rows ? rows[i] : i) * ld * (half ? 2 : 4);
}
VINL const char *pack_col(const char *row, bool half, int64_t col)
{
    return row + col * (half ? 2 : 4);
}

/* 32 elements of a row (n of them there) as 16 pairs. */
PACK_TARGET VINL vf row_pairs(const char *row, bool half, int64_t n, int part)
{
    const float *s = (const float *)(const void *)row;
    if (half)
        return vi_float(_mm512_maskz_loadu_epi16(
            n < AMX_K ? (__mmask32)((1u << n) - 1) : (__mmask32)0xffffffff, row));
    vf lo = vf_loadn(s, n), hi = n > VL ? vf_loadn(s + VL, n - VL) : vf_zero();
    return bf16_pairs(part_of(lo, part), part_of(hi, part));
}

/* 16 columns (n of them there) of two rows (NULL: zeros) as words, the first row in the low halves
 * of the vector. */
PACK_TARGET VINL vf row_halves(const char *s0, const char *s1, bool half, int64_t n, int part)
{
    const __mmask16 some = n < VL ? (__mmask16)((1u << (n > 0 ? n : 0)) - 1) : (__mmask16)0xffff;
    if (half) {
        __m256i lo = s0 ? _mm256_maskz_loadu_epi16(some, s0) : _mm256_setzero_si256();
        __m256i hi = s1 ? _mm256_maskz_loadu_epi16(some, s1) : _mm256_setzero_si256();
        return vi_float(_mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1));
    }
    vf lo = s0 ? _mm512_maskz_loadu_ps(some, s0) : vf_zero();
    vf hi = s1 ? _mm512_maskz_loadu_ps(some, s1) : vf_zero();
    return bf16_pairs(part_of(lo, part), part_of(hi, part));
}

/* The same as pairs, column by column. */
PACK_TARGET VINL vf column_pairs(const char *s0, const char *s1, bool half, int64_t n, int part)
{
    /* words 0, 16, 1, 17, ...: the halves interleaved */
    const vi order =
        _mm512_set_epi32(0x001f000f, 0x001e000e, 0x001d000d, 0x001c000c, 0x001b000b, 0x001a000a,
                         0x00190009, 0x00180008, 0x00170007, 0x00160006, 0x00150005, 0x00140004,
                         0x00130003, 0x00120002, 0x00110001, 0x00100000);
    vf v = row_halves(s0, s1, half, n, part);
    return vi_float(_mm512_permutexvar_epi16(order, vf_bits(v)));
}

/* Rows as rows of the left tiles, one row after the other: it is read in the order of memory. */
PACK_TARGET VINL void left_rows(const void *src, bool half, int64_t ld, const int32_t *rows,
                                int64_t nrows, int64_t k, int parts, float *dst)
{
    for (int64_t i = 0; i < AMX_LANES; i++, dst += AMX_PAIRS) {
        const char *s = i < nrows ? pack_row(src, half, ld, rows, i) : NULL;
        float *d = dst;
        for (int64_t k0 = 0; k0 < k; k0 += AMX_K)
            for (int part = 0; part < parts; part++, d += AMX_BLOCK)
                vf_store(d, s ? row_pairs(pack_col(s, half, k0), half, k - k0, part) : vf_zero());
    }
}

/* Rows as columns of the right tiles. */
PACK_TARGET VINL void right_rows(const void *src, bool half, int64_t ld, const int32_t *rows,
                                 int64_t nrows, int64_t k, int parts, float *dst)
{
    for (int64_t k0 = 0; k0 < k; k0 += AMX_K) {
        for (int part = 0; part < parts; part++, dst += AMX_BLOCK) {
            for (int64_t lane = 0; lane < AMX_LANES; lane += VL) {
                vf r[VL];
                for (int64_t i = 0; i < VL; i++) {
                    r[i] = vf_zero();
                    if (lane + i < nrows)
                        r[i] =
                            row_pairs(pack_col(pack_row(src, half, ld, rows, lane + i), half, k0),
                                      half, k - k0, part);
                }
                vf_transpose(r);
                for (int64_t j = 0; j < VL; j++)
                    vf_store(dst + lane * AMX_PAIRS + j * VL, r[j]);
            }
        }
    }
}

/* Pairs p of 32 rows from k0 on, 16 columns at s: p-th vector of r. */
PACK_TARGET VINL void sixteen_pairs(const void *src, bool half, int64_t ld, const int32_t *rows,
                                    int64_t k0, int64_t k, int64_t col, int64_t ncols, int part,
                                    vf *r)
{
    for (int64_t p = 0; p < AMX_PAIRS; p++) {
        int64_t i = k0 + 2 * p;
        const char *s0 = i < k ? pack_row(src, half, ld, rows, i) : NULL;
        const char *s1 = i + 1 < k ? pack_row(src, half, ld, rows, i + 1) : NULL;
        r[p] = column_pairs(s0 ? pack_col(s0, half, col) : NULL,
                            s1 ? pack_col(s1, half, col) : NULL, half, ncols - col, part);
    }
}

/* Columns of k rows as left (turned) or right operand; panels of 32 columns, `step` words apart. */
PACK_TARGET VINL void pack_cols(const void *src, bool half, int64_t ld, const int32_t *rows,
                                int64_t ncols, int64_t k, int64_t step, int parts, bool left,
                                float *dst)
{
    for (int64_t k0 = 0; k0 < k; k0 += AMX_K, dst += parts * AMX_BLOCK) {
        float *d = dst;
        for (int64_t c = 0; c < ncols; c += AMX_LANES, d += step) {
            for (int part = 0; part < parts; part++) {
                for (int64_t lane = 0; lane < AMX_LANES; lane += VL) {
                    vf r[AMX_PAIRS];
                    float *out = d + part * AMX_BLOCK + lane * AMX_PAIRS;
                    sixteen_pairs(src, half, ld, rows, k0, k, c + lane, ncols, part, r);
                    if (left)
                        vf_transpose(r);
                    for (int64_t p = 0; p < AMX_PAIRS; p++)
                        vf_store(out + p * VL, r[p]);
                }
            }
        }
    }
}

VINL const float *words_row(const float *src, int64_t ld, const int32_t *rows, int64_t i)
{
    return src + (rows ? rows[i] : i) * ld;
}

/* Rows of words (four bytes each), k of them: left as rows, right as columns of the tiles. */
static void words_left_rows(const float *src, int64_t ld, const int32_t *rows, int64_t nrows,
                            int lanes, int64_t k, float *dst)
{
    for (int64_t i = 0; i < lanes; i++, dst += AMX_PAIRS) {
        const float *s = i < nrows ? words_row(src, ld, rows, i) : NULL;
        float *d = dst;
        for (int64_t k0 = 0; k0 < k; k0 += AMX_PAIRS, d += AMX_BLOCK)
            vf_store(d, s ? vf_loadn(s + k0, k - k0) : vf_zero());
    }
}
static void words_right_rows(const float *src, int64_t ld, const int32_t *rows, int64_t nrows,
                             int lanes, int64_t k, float *dst)
{
    for (int64_t k0 = 0; k0 < k; k0 += AMX_PAIRS, dst += AMX_BLOCK) {
        for (int64_t lane = 0; lane < lanes; lane += VL) {
            vf r[VL];
            for (int64_t i = 0; i < VL; i++)
                r[i] = lane + i < nrows ? vf_loadn(words_row(src, ld, rows, lane + i) + k0, k - k0)
                                        : vf_zero();
            vf_transpose(r);
            for (int64_t j = 0; j < VL; j++)
                vf_store(dst + lane * AMX_PAIRS + j * VL, r[j]);
        }
    }
}

#define PACK_ROWS_FN(name, type, fill, parts)                                                     \
    PACK_TARGET static void name(const type *src, int64_t ld, const int32_t *rows, int64_t nrows, \
                                 int lanes, int64_t k, float *dst)                                \
    {                                                                                             \
        (void)lanes;                                                                              \
        fill(src, sizeof(type) == 2, ld, rows, nrows, k, parts, dst);                             \
    }
#define PACK_COLS_FN(name, type, left, parts)                                                     \
    PACK_TARGET static void name(const type *src, int64_t ld, const int32_t *rows, int64_t ncols, \
                                 int lanes, int64_t k, int64_t step, float *dst)                  \
    {                                                                                             \
        (void)lanes;                                                                              \
        pack_cols(src, sizeof(type) == 2, ld, rows, ncols, k, step, parts, left, dst);            \
    }
PACK_ROWS_FN(amx_left_rows, float, left_rows, 1)
PACK_ROWS_FN(amx_right_rows, float, right_rows, 1)
PACK_COLS_FN(amx_left_cols, float, true, 1)
PACK_COLS_FN(amx_right_steps, float, false, 1)
PACK_ROWS_FN(half_left_rows, uint16_t, left_rows, 1)
PACK_ROWS_FN(half_right_rows, uint16_t, right_rows, 1)
PACK_COLS_FN(half_left_cols, uint16_t, true, 1)
PACK_COLS_FN(half_right_steps, uint16_t, false, 1)
PACK_ROWS_FN(split_left_rows, float, left_rows, 2)
PACK_ROWS_FN(split_right_rows, float, right_rows, 2)
PACK_COLS_FN(split_left_cols, float, true, 2)
PACK_COLS_FN(split_right_steps, float, false, 2)

/* Weights of attention as left operand, without a detour through floats. */
PACK_TARGET static void amx_softmax(const kin_score *a, int rows, int64_t keys, float *s,
                                    int64_t ld, float *max, float *sum, float *factor, float *left)
{
    if (a->bias || a->keep)
        softmax_rows(false, a, rows, keys, s, ld, max, sum, factor, left, AMX_PAIRS, AMX_BLOCK);
    else
        softmax_rows(true, a, rows, keys, s, ld, max, sum, factor, left, AMX_PAIRS, AMX_BLOCK);
}

#endif
