/* tensor/cpu/simd/simd.h: the vector routines of the CPU backend, one table per ISA level. The
 * files of this folder are compiled once per level; KIN_SIMD(name) gives kin_avx2_name or
 * kin_avx512_name. Routines are single-threaded and work on ranges; tensor/cpu/ splits the work. */
#ifndef KIN_CPU_SIMD_SIMD_H
#define KIN_CPU_SIMD_SIMD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tensor/kernels.h"

/* What follows a product, per output row r and column c: v = sum + bias[c]; pre = v; y = act(v), or
 * residual + gate * v. Row r of the call is row row0+r of the matrices. */
typedef struct kin_epilogue {
    const float *bias;
    kin_act act;
    const float *residual, *gate;
    int64_t ld_residual, ld_gate, group_rows; /* rows that share one row of gate */
    float *pre, *y;
    int64_t ld_pre, ld_y;
} kin_epilogue;

/* How raw products of queries and keys become scores: scale*s + bias, masked keys at the lowest
 * float. */
typedef struct kin_score {
    float scale;
    const float *bias; /* [rows][keys] or NULL, at the first row and key of the block */
    int64_t ld_bias;
    const float *keep; /* [keys] or NULL: 0 excludes the key */
} kin_score;

typedef struct kin_simd {
    int mr, nr; /* register tile of the products */
    /* Packs k columns of nrows vectors (row i at src + rows[i]*ld, or i*ld) as dst[k][lanes];
     * missing rows are 0. dst has room for k*lanes + 16 floats. */
    void (*pack_t)(const float *src, int64_t ld, const int32_t *rows, int64_t nrows, int lanes,
                   int64_t k, float *dst);
    /* The same of k rows of ncols contiguous values; row i at src + rows[i]*ld, or i*ld. */
    void (*pack_n)(const float *src, int64_t ld, const int32_t *rows, int64_t ncols, int lanes,
                   int64_t k, float *dst);
    /* c[rows][nr] (+)= a[k][mr] b[k][nr], summed in the order of k. rows <= mr. */
    void (*tile)(int rows, int64_t k, const float *a, const float *b, float *c, int64_t ldc,
                 bool acc);
    /* The same three with pairs of bf16 in 32 bits (k counts elements; odd k is padded); NULL: not
     * at this level. */
    void (*pack_t16)(const float *src, int64_t ld, const int32_t *rows, int64_t nrows, int lanes,
                     int64_t k, float *dst);
    void (*pack_n16)(const float *src, int64_t ld, const int32_t *rows, int64_t ncols, int lanes,
                     int64_t k, float *dst);
    void (*tile16)(int rows, int64_t pairs, const float *a, const float *b, float *c, int64_t ldc,
                   bool acc);
    void (*round_bf16)(float *x, int64_t n); /* in place */
    void (*to_f32)(const void *src, kin_dtype dtype, int64_t n,
                   float *dst); /* from f32, bf16, f16 */
    /* rows x cols values of tile (row stride ldt) at (row0, col0) of the matrices of e. */
    void (*epilogue)(const kin_epilogue *e, int64_t row0, int64_t col0, int rows, int cols,
                     const float *tile, int64_t ldt);
    /* dst[c] += sum over rows of src[r][c], c < cols, in the order of rows (rows == NULL: 0, 1,
     * ...). */
    void (*column_sums)(const float *src, int64_t ld, int64_t rows, int64_t cols, float *dst);
    /* One block of keys of the running softmax: s holds raw products, then e^(score - max); max,
     * sum [rows] are updated, factor[r] is what earlier sums are to be multiplied by. */
    void (*softmax_block)(const kin_score *a, int rows, int64_t keys, float *s, int64_t ld,
                          float *max, float *sum, float *factor);
    /* s: raw products, then gate * p; dp: dout v^T, then ds = p (gate dp - delta), 0 for masked
     * keys. p is e^(score - lse), or `uniform` where that is > 0. */
    void (*softmax_block_bwd)(const kin_score *a, int rows, int64_t keys, float *s, float *dp,
                              int64_t ld, const float *lse, const float *delta, float gate,
                              float uniform);
    /* x[r][c] *= alpha * factor[r] (factor NULL: 1) */
    void (*scale_rows)(int64_t rows, int64_t cols, float alpha, const float *factor, float *x,
                       int64_t ld);
    /* dst (+)= alpha * src */
    void (*put_rows)(int64_t rows, int64_t cols, float alpha, const float *src, int64_t ld_src,
                     float *dst, int64_t ld_dst, bool acc);
    float (*dot)(const float *a, const float *b, int64_t n);
} kin_simd;

extern const kin_simd kin_avx2_simd, kin_avx512_simd;

#ifdef KIN_SIMD_ISA
#define KIN_SIMD_PASTE(isa, name) kin_##isa##_##name
#define KIN_SIMD_EXPAND(isa, name) KIN_SIMD_PASTE(isa, name)
#define KIN_SIMD(name) KIN_SIMD_EXPAND(KIN_SIMD_ISA, name)

void KIN_SIMD(pack_t)(const float *src, int64_t ld, const int32_t *rows, int64_t nrows, int lanes,
                      int64_t k, float *dst);
void KIN_SIMD(pack_n)(const float *src, int64_t ld, const int32_t *rows, int64_t ncols, int lanes,
                      int64_t k, float *dst);
void KIN_SIMD(tile)(int rows, int64_t k, const float *a, const float *b, float *c, int64_t ldc,
                    bool acc);
void KIN_SIMD(pack_t16)(const float *src, int64_t ld, const int32_t *rows, int64_t nrows, int lanes,
                        int64_t k, float *dst);
void KIN_SIMD(pack_n16)(const float *src, int64_t ld, const int32_t *rows, int64_t ncols, int lanes,
                        int64_t k, float *dst);
void KIN_SIMD(tile16)(int rows, int64_t pairs, const float *a, const float *b, float *c,
                      int64_t ldc, bool acc);
void KIN_SIMD(round_bf16)(float *x, int64_t n);
void KIN_SIMD(to_f32)(const void *src, kin_dtype dtype, int64_t n, float *dst);
void KIN_SIMD(epilogue)(const kin_epilogue *e, int64_t row0, int64_t col0, int rows, int cols,
                        const float *tile, int64_t ldt);
void KIN_SIMD(column_sums)(const float *src, int64_t ld, int64_t rows, int64_t cols, float *dst);
void KIN_SIMD(softmax_block)(const kin_score *a, int rows, int64_t keys, float *s, int64_t ld,
                             float *max, float *sum, float *factor);
void KIN_SIMD(softmax_block_bwd)(const kin_score *a, int rows, int64_t keys, float *s, float *dp,
                                 int64_t ld, const float *lse, const float *delta, float gate,
                                 float uniform);
void KIN_SIMD(scale_rows)(int64_t rows, int64_t cols, float alpha, const float *factor, float *x,
                          int64_t ld);
void KIN_SIMD(put_rows)(int64_t rows, int64_t cols, float alpha, const float *src, int64_t ld_src,
                        float *dst, int64_t ld_dst, bool acc);
float KIN_SIMD(dot)(const float *a, const float *b, int64_t n);
#endif

#endif
