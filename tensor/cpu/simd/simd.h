/* tensor/cpu/simd/simd.h: the vector routines of the CPU backend, one table per ISA level. The
 * files of this folder are compiled once per level; KIN_SIMD(name) gives kin_avx2_name or
 * kin_avx512_name. Routines are single-threaded and work on ranges; tensor/cpu/ splits the work. */
#ifndef KIN_CPU_SIMD_SIMD_H
#define KIN_CPU_SIMD_SIMD_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "tensor/cpu/simd/engine.h"
#include "tensor/kernels.h"

/* What follows a product, per output row r and column c: v = sum + bias[c]; pre = v; y = act(v), or
 * residual + gate * v. Row r of the call is row row0+r of the matrices. */
typedef struct kin_epilogue {
    const float *bias;
    kin_act act;
    const float *residual, *gate;
    int64_t ld_residual, ld_gate, group_rows; /* rows that share one row of gate */
    void *pre, *y;                            /* floats, or bf16 where pre_half, half are set */
    bool pre_half, half;                      /* half: engines that are deep alone */
    int64_t ld_pre, ld_y;
    /* The sum is a gradient: first times act'(past), floats or bf16; then act is not applied */
    const void *past;
    bool past_half;
    int64_t ld_past;
} kin_epilogue;

/* How a row becomes 8-bit integers: q = nearest(x * inverse), x ~ q * step. A row of zeros (or
 * below 1e-30): both 0. A row that is not finite: step NaN, so that its results are NaN. */
typedef struct kin_quant {
    float step, inverse;
} kin_quant;
/* From the bits of the largest |x|. */
static inline kin_quant kin_quant_of_bits(int32_t bits)
{
    float amax;
    memcpy(&amax, &bits, sizeof(amax));
    if (bits >= 0x7f800000)
        return (kin_quant){.step = NAN};
    return amax < 1e-30f ? (kin_quant){0} : (kin_quant){amax / 127.0f, 127.0f / amax};
}

/* What turns sums over q into f32: row_step[row] * col_step[col] * (sum - row_shift[row]). */
typedef struct kin_dequant {
    const int32_t *rows;      /* row r of the product is entry rows[r]; NULL: r */
    const float *row_step;    /* of the left operand's rows */
    const int32_t *row_shift; /* sums are integers, too large by this; NULL: sums are f32 */
    const float *col_step;    /* of the right operand's columns, padded to whole panels */
} kin_dequant;

/* How raw products of queries and keys become scores: scale*s + bias, masked keys at the lowest
 * float. */
typedef struct kin_score {
    float scale;
    const float *bias; /* [rows][keys] or NULL, at the first row and key of the block */
    int64_t ld_bias;
    const float *keep; /* [keys] or NULL: 0 excludes the key */
} kin_score;

/* LayerNorm or RMSNorm of a matrix; see kin_norm_args. */
typedef struct kin_norm_job {
    bool rms;
    int64_t d;
    float eps;
    const float *x, *gamma, *beta, *scale, *shift; /* all but x may be NULL */
    int64_t ld_x, ld_scale, ld_shift, group_rows;
    float *y;
    int64_t ld_y;
    float *mean, *rstd; /* forward: written; backward: read, or made again where NULL */
    int64_t step_mean, step_rstd;
    const float *dy;
    int64_t ld_dy;
    float *dx;
    int64_t ld_dx;
    bool acc_dx, want_modulation, want_affine; /* which of the column sums */
    /* NULL, or tables [turn_n, turn_d/2]: y is turned in pieces of turn_d columns, row r by table
     * row r / turn_rows % turn_n */
    const float *cos, *sin;
    int64_t ld_cos, ld_sin, turn_n, turn_d, turn_rows;
} kin_norm_job;
enum { KIN_NORM_BLOCK = 4 }; /* most rows the backward pass takes at a time */

typedef struct kin_simd {
    const kin_engine *engines; /* [KIN_PRODUCT_COUNT] */
    void (*to_bf16)(const float *src, int64_t n, uint16_t *dst);
    void (*to_f32)(const void *src, kin_dtype dtype, int64_t n,
                   float *dst); /* from f32, bf16, f16 */
    /* How a row, f32 or bf16 (half: AVX-512 alone), becomes 8-bit integers; q as floats [k]; q as
     * bytes in (k+3)/4 words (offset: 128 more, unsigned), returns their sum without offset; NULL:
     * not at this level. */
    kin_quant (*quant_scale)(const void *x, bool half, int64_t k);
    void (*quant_floats)(const float *x, int64_t k, kin_quant q, float *dst);
    int32_t (*quant_bytes)(const void *x, bool half, int64_t k, kin_quant q, bool offset,
                           float *words);
    /* rows x cols values of tile (row stride ldt) at (row0, col0) of the matrices of e; sums over
     * 8-bit integers where d is not NULL. */
    void (*epilogue)(const kin_epilogue *e, const kin_dequant *d, int64_t row0, int64_t col0,
                     int rows, int cols, const float *tile, int64_t ldt);
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
    float (*dot_bf16)(const float *a, const float *b, int64_t n); /* a rounded to bf16 */
    /* y = act(x), NONE: alpha * x */
    void (*unary)(kin_act act, float alpha, const float *x, int64_t n, float *y);
    /* dx (+)= dy * act'(x) */
    void (*unary_bwd)(kin_act act, float alpha, const float *x, const float *dy, int64_t n,
                      float *dx, bool acc);
    /* y (+)= a + alpha*b, or alpha*a*b; strides sa, sb are 1 or 0 */
    void (*binary)(bool mul, float alpha, const float *a, int64_t sa, const float *b, int64_t sb,
                   int64_t n, float *y, bool acc);
    /* y += a*b; strides 1 or 0 */
    void (*mul_add)(const float *a, int64_t sa, const float *b, int64_t sb, int64_t n, float *y);
    /* sum of a*b; strides 1 or 0 */
    double (*sum)(const float *a, int64_t sa, const float *b, int64_t sb, int64_t n);
    /* dlin = gate*dy; dgate = column sums of dy*lin (each NULL: not wanted) */
    void (*gate_rows)(const float *dy, int64_t ld_dy, const float *lin, int64_t ld_lin,
                      const float *gate, int64_t rows, int64_t cols, float *dlin, int64_t ld_dlin,
                      float *dgate);
    void (*softmax_row)(const float *x, int64_t n, float *y);
    /* dx (+)= y (dy - <dy,y>) */
    void (*softmax_row_bwd)(const float *y, const float *dy, int64_t n, float *dx, bool acc);
    /* y (+)= x turned by cos, sin [d/2], in `heads` pieces of d columns that lie step_x apart */
    void (*rope_heads)(const float *x, int64_t step_x, int64_t heads, const float *cos,
                       const float *sin, int64_t d, bool inverse, float *y, int64_t step_y,
                       bool acc);
    /* values [i0, i1) of a part; step_size = lr / (1 - beta1^step), inv_bias2 = (1 -
     * beta2^step)^-1/2 */
    void (*adamw)(const kin_adamw_args *a, const kin_adamw_part *p, float step_size,
                  float inv_bias2, int64_t i0, int64_t i1);
    /* sum of (x-t)^2 */
    double (*mse)(const float *x, const float *t, int64_t n);
    /* dx (+)= factor (x-t) */
    void (*mse_bwd)(const float *x, const float *t, float factor, int64_t n, float *dx, bool acc);
    double (*sumsq)(const float *x, int64_t n); /* squares and sums in double */
    /* Winograd's F(2x2,3x3): n channels of a tile of 4x4 pixels -> 16 sums, `step` apart; the 2x2
     * results of 16 products, plus bias and residual (or y itself; each may be NULL), into the
     * pixels y that are not NULL; planes [9][n] of a kernel -> 16 planes */
    void (*wino_in)(const float *const px[16], int64_t n, float *v, int64_t step);
    void (*wino_out)(const float *m, int64_t step, int64_t n, const float *bias,
                     const float *const add[4], float *const y[4]);
    void (*wino_weight)(const float *g, int64_t n, float *u);
    /* y = act((x - mean) * scale + shift) by column; dst += (x - mean)^2 by column */
    void (*columns_norm)(const float *x, int64_t rows, int64_t n, const float *mean,
                         const float *scale, const float *shift, kin_act act, float *y);
    void (*columns_square)(const float *x, int64_t rows, int64_t n, const float *mean, float *dst);
    /* with d = dy act'(.) of columns_norm: db += d, dg += d (x - mean);
     * dx (+)= d scale - p - q (x - mean) */
    void (*columns_norm_sums)(const float *x, const float *dy, int64_t rows, int64_t n,
                              const float *mean, const float *scale, const float *shift,
                              kin_act act, float *db, float *dg);
    void (*columns_norm_bwd)(const float *x, const float *dy, int64_t rows, int64_t n,
                             const float *mean, const float *scale, const float *shift, kin_act act,
                             const float *p, const float *q, float *dx, bool acc);
    /* 2^x, the exponential of all kernels */
    void (*exp2f)(const float *x, int64_t n, float *y);
    /* rows [r0, r1) */
    void (*norm_rows)(const kin_norm_job *a, int64_t r0, int64_t r1);
    /* the same backward; sums [4][d] added to: dy, dy a, dy (1+scale) n, dy (1+scale); NULL: not
     * wanted; work [KIN_NORM_BLOCK][d] where y is turned */
    void (*norm_rows_bwd)(const kin_norm_job *a, int64_t r0, int64_t r1, float *sums, float *work);
} kin_simd;

extern const kin_simd kin_avx2_simd, kin_avx512_simd;
/* The modes on AMX tiles, and the same in software; other modes are empty. */
extern const kin_engine kin_amx_engines[KIN_PRODUCT_COUNT],
    kin_amx_emulated_engines[KIN_PRODUCT_COUNT];

#ifdef KIN_SIMD_ISA
#define KIN_SIMD_PASTE(isa, name) kin_##isa##_##name
#define KIN_SIMD_EXPAND(isa, name) KIN_SIMD_PASTE(isa, name)
#define KIN_SIMD(name) KIN_SIMD_EXPAND(KIN_SIMD_ISA, name)

/* the parts of the engines */
void KIN_SIMD(pack_t)(const float *src, int64_t ld, const int32_t *rows, int64_t nrows, int lanes,
                      int64_t k, float *dst);
void KIN_SIMD(pack_n)(const float *src, int64_t ld, const int32_t *rows, int64_t ncols, int lanes,
                      int64_t k, int64_t step, float *dst);
void KIN_SIMD(pack_t_round)(const float *src, int64_t ld, const int32_t *rows, int64_t nrows,
                            int lanes, int64_t k, float *dst);
void KIN_SIMD(pack_n_round)(const float *src, int64_t ld, const int32_t *rows, int64_t ncols,
                            int lanes, int64_t k, int64_t step, float *dst);
void KIN_SIMD(tile)(int rows, int64_t steps, const float *a, const float *b, float *c, int64_t ldc,
                    bool acc, kin_ahead next);
void KIN_SIMD(tile_half)(int rows, int64_t steps, const float *a, const float *b, float *c,
                         int64_t ldc, bool acc, kin_ahead next);
void KIN_SIMD(tile_flat)(int rows, int64_t steps, const float *a, const float *b, float *c,
                         int64_t ldc, bool acc, kin_ahead next);
void KIN_SIMD(tile_flat_half)(int rows, int64_t steps, const float *a, const float *b, float *c,
                              int64_t ldc, bool acc, kin_ahead next);
void KIN_SIMD(pack_t16)(const float *src, int64_t ld, const int32_t *rows, int64_t nrows, int lanes,
                        int64_t k, float *dst);
void KIN_SIMD(pack_n16)(const float *src, int64_t ld, const int32_t *rows, int64_t ncols, int lanes,
                        int64_t k, int64_t step, float *dst);
void KIN_SIMD(tile16)(int rows, int64_t steps, const float *a, const float *b, float *c,
                      int64_t ldc, bool acc, kin_ahead next);
void KIN_SIMD(tile16_half)(int rows, int64_t steps, const float *a, const float *b, float *c,
                           int64_t ldc, bool acc, kin_ahead next);
void KIN_SIMD(tile16_flat)(int rows, int64_t steps, const float *a, const float *b, float *c,
                           int64_t ldc, bool acc, kin_ahead next);
void KIN_SIMD(tile16_flat_half)(int rows, int64_t steps, const float *a, const float *b, float *c,
                                int64_t ldc, bool acc, kin_ahead next);
void KIN_SIMD(flat16)(const float *src, int64_t ld, int64_t rows, int64_t k, float *dst);
/* tile_w16.c: the right operand kept in bf16 */
void KIN_SIMD(pack_w16_rows)(const float *src, int64_t ld, const int32_t *rows, int64_t nrows,
                             int lanes, int64_t k, float *dst);
void KIN_SIMD(pack_w16_cols)(const float *src, int64_t ld, const int32_t *rows, int64_t ncols,
                             int lanes, int64_t k, int64_t step, float *dst);
void KIN_SIMD(tile_w16)(int rows, int64_t steps, const float *a, const float *b, float *c,
                        int64_t ldc, bool acc, kin_ahead next);
void KIN_SIMD(tile_w16_half)(int rows, int64_t steps, const float *a, const float *b, float *c,
                             int64_t ldc, bool acc, kin_ahead next);
/* tile_i8.c: words of four bytes, sums in 32-bit integers */
void KIN_SIMD(tile_i8)(int rows, int64_t steps, const float *a, const float *b, float *c,
                       int64_t ldc, bool acc, kin_ahead next);
void KIN_SIMD(tile_i8_half)(int rows, int64_t steps, const float *a, const float *b, float *c,
                            int64_t ldc, bool acc, kin_ahead next);
/* quant.c */
kin_quant KIN_SIMD(quant_scale)(const void *x, bool half, int64_t k);
void KIN_SIMD(quant_floats)(const float *x, int64_t k, kin_quant q, float *dst);
int32_t KIN_SIMD(quant_bytes)(const void *x, bool half, int64_t k, kin_quant q, bool offset,
                              float *words);
void KIN_SIMD(to_bf16)(const float *src, int64_t n, uint16_t *dst);
void KIN_SIMD(to_f32)(const void *src, kin_dtype dtype, int64_t n, float *dst);
void KIN_SIMD(epilogue)(const kin_epilogue *e, const kin_dequant *d, int64_t row0, int64_t col0,
                        int rows, int cols, const float *tile, int64_t ldt);
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
float KIN_SIMD(dot_bf16)(const float *a, const float *b, int64_t n);
void KIN_SIMD(unary)(kin_act act, float alpha, const float *x, int64_t n, float *y);
void KIN_SIMD(unary_bwd)(kin_act act, float alpha, const float *x, const float *dy, int64_t n,
                         float *dx, bool acc);
void KIN_SIMD(binary)(bool mul, float alpha, const float *a, int64_t sa, const float *b, int64_t sb,
                      int64_t n, float *y, bool acc);
void KIN_SIMD(mul_add)(const float *a, int64_t sa, const float *b, int64_t sb, int64_t n, float *y);
double KIN_SIMD(sum)(const float *a, int64_t sa, const float *b, int64_t sb, int64_t n);
void KIN_SIMD(gate_rows)(const float *dy, int64_t ld_dy, const float *lin, int64_t ld_lin,
                         const float *gate, int64_t rows, int64_t cols, float *dlin,
                         int64_t ld_dlin, float *dgate);
void KIN_SIMD(softmax_row)(const float *x, int64_t n, float *y);
void KIN_SIMD(softmax_row_bwd)(const float *y, const float *dy, int64_t n, float *dx, bool acc);
void KIN_SIMD(rope_heads)(const float *x, int64_t step_x, int64_t heads, const float *cos,
                          const float *sin, int64_t d, bool inverse, float *y, int64_t step_y,
                          bool acc);
void KIN_SIMD(adamw)(const kin_adamw_args *a, const kin_adamw_part *p, float step_size,
                     float inv_bias2, int64_t i0, int64_t i1);
double KIN_SIMD(mse)(const float *x, const float *t, int64_t n);
void KIN_SIMD(mse_bwd)(const float *x, const float *t, float factor, int64_t n, float *dx,
                       bool acc);
double KIN_SIMD(sumsq)(const float *x, int64_t n);
/* conv.c */
void KIN_SIMD(wino_in)(const float *const px[16], int64_t n, float *v, int64_t step);
void KIN_SIMD(wino_out)(const float *m, int64_t step, int64_t n, const float *bias,
                        const float *const add[4], float *const y[4]);
void KIN_SIMD(wino_weight)(const float *g, int64_t n, float *u);
/* columns.c */
void KIN_SIMD(columns_norm)(const float *x, int64_t rows, int64_t n, const float *mean,
                            const float *scale, const float *shift, kin_act act, float *y);
void KIN_SIMD(columns_square)(const float *x, int64_t rows, int64_t n, const float *mean,
                              float *dst);
void KIN_SIMD(columns_norm_sums)(const float *x, const float *dy, int64_t rows, int64_t n,
                                 const float *mean, const float *scale, const float *shift,
                                 kin_act act, float *db, float *dg);
void KIN_SIMD(columns_norm_bwd)(const float *x, const float *dy, int64_t rows, int64_t n,
                                const float *mean, const float *scale, const float *shift,
                                kin_act act, const float *p, const float *q, float *dx, bool acc);
void KIN_SIMD(exp2f)(const float *x, int64_t n, float *y);
void KIN_SIMD(norm_rows)(const kin_norm_job *a, int64_t r0, int64_t r1);
void KIN_SIMD(norm_rows_bwd)(const kin_norm_job *a, int64_t r0, int64_t r1, float *sums,
                             float *work);
#endif

#endif
