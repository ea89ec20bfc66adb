/* tensor/cpu/quant.h: operands of products in 8-bit integers (the rule: tensor/kernels.h). Where
 * the processor multiplies bytes (vpdpbusd, AMX) they are words of four bytes and sums are exact
 * integers. Elsewhere the same integers go through the f32 tile, the right operand kept in bf16
 * (they are below 256, so exact there): sums are exact below 2^24 and rounded to f32 above. */
#ifndef KIN_CPU_QUANT_H
#define KIN_CPU_QUANT_H

#include "tensor/cpu/cpu.h"

typedef struct kin_int8_left {
    kin_product mode;
    int64_t k, ld;        /* of the rows: words, or floats */
    const float *rows;    /* in the workspace */
    const float *step;    /* [rows] */
    const int32_t *shift; /* [rows] or NULL */
} kin_int8_left;

/* The first `rows` rows of x [*,k], f32, or bf16 where the level multiplies bytes, as left operand,
 * in the workspace, which gives room for `room` >= rows of them. Fails: MEM. */
kin_status kin_cpu_int8_left(kin_ctx *ctx, const kin_tensor *x, int64_t rows, int64_t room,
                             int64_t k, kin_int8_left *out);
/* Fills in g (a, a_half, lda, a_rows, k, b_pack, deq) and deq for the product of some rows of left
 * with w [n,k]: `rows` of them where not NULL, else those from `first` on. w is packed once per
 * version. Fails: MEM. */
kin_status kin_cpu_int8_gemm(kin_ctx *ctx, const kin_int8_left *left, const int32_t *rows,
                             int64_t first, kin_param *w, int64_t n, int64_t k, kin_dequant *deq,
                             kin_gemm *g);

#endif
