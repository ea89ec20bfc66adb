/* tensor/cpu/simd/table.c: the routines of this ISA level. */
#include "tensor/cpu/simd/simd.h"

const kin_simd KIN_SIMD(simd) = {
#ifdef __AVX512F__
    .mr = 14,
    .nr = 32,
    .pack_t16 = KIN_SIMD(pack_t16),
    .pack_n16 = KIN_SIMD(pack_n16),
    .tile16 = KIN_SIMD(tile16),
#else
    .mr = 6,
    .nr = 16,
#endif
    .pack_t = KIN_SIMD(pack_t),
    .pack_n = KIN_SIMD(pack_n),
    .tile = KIN_SIMD(tile),
    .round_bf16 = KIN_SIMD(round_bf16),
    .to_f32 = KIN_SIMD(to_f32),
    .epilogue = KIN_SIMD(epilogue),
    .column_sums = KIN_SIMD(column_sums),
    .softmax_block = KIN_SIMD(softmax_block),
    .softmax_block_bwd = KIN_SIMD(softmax_block_bwd),
    .scale_rows = KIN_SIMD(scale_rows),
    .put_rows = KIN_SIMD(put_rows),
    .dot = KIN_SIMD(dot),
    .dot_bf16 = KIN_SIMD(dot_bf16),
    .unary = KIN_SIMD(unary),
    .unary_bwd = KIN_SIMD(unary_bwd),
    .binary = KIN_SIMD(binary),
    .mul_add = KIN_SIMD(mul_add),
    .sum = KIN_SIMD(sum),
    .gate_rows = KIN_SIMD(gate_rows),
    .softmax_row = KIN_SIMD(softmax_row),
    .softmax_row_bwd = KIN_SIMD(softmax_row_bwd),
    .rope_row = KIN_SIMD(rope_row),
    .adamw = KIN_SIMD(adamw),
    .mse = KIN_SIMD(mse),
    .mse_bwd = KIN_SIMD(mse_bwd),
    .sumsq = KIN_SIMD(sumsq),
    .expf = KIN_SIMD(expf),
    .norm_rows = KIN_SIMD(norm_rows),
    .norm_rows_bwd = KIN_SIMD(norm_rows_bwd),
};
