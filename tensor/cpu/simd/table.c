/* tensor/cpu/simd/table.c: the routines of this ISA level. */
#include "tensor/cpu/simd/simd.h"

#ifdef __AVX512F__
enum { ROWS = 14, COLUMNS = 32, BLOCKS = 8 };
#else
enum { ROWS = 6, COLUMNS = 16, BLOCKS = 18 };
#endif
#define BASE                                                                                   \
    .mr = ROWS, .nr = COLUMNS, .row_unit = 1, .group = 1, .align = 1, .parts = 1, .pass = 768, \
    .blocks = BLOCKS
#define W16_RIGHT                                                                  \
    .right_rows = KIN_SIMD(pack_w16_rows), .right_steps = KIN_SIMD(pack_w16_cols), \
    .tile = KIN_SIMD(tile_w16), .tile_half = KIN_SIMD(tile_w16_half)

static const kin_engine engines[KIN_PRODUCT_COUNT] = {
    [KIN_PRODUCT_F32] = {BASE, .right_words = COLUMNS, .left_rows = KIN_SIMD(pack_t),
                         .right_rows = KIN_SIMD(pack_t), .left_cols = KIN_SIMD(pack_n),
                         .right_steps = KIN_SIMD(pack_n), .tile = KIN_SIMD(tile),
                         .tile_half = KIN_SIMD(tile_half), .tile_flat = KIN_SIMD(tile_flat),
                         .tile_flat_half = KIN_SIMD(tile_flat_half)},
    [KIN_PRODUCT_W16] = {BASE, .right_words = COLUMNS / 2, .left_rows = KIN_SIMD(pack_t),
                         .left_cols = KIN_SIMD(pack_n), W16_RIGHT},
    [KIN_PRODUCT_ROUND] = {BASE, .right_words = COLUMNS / 2, .rounded = true,
                           .left_rows = KIN_SIMD(pack_t_round), .left_cols = KIN_SIMD(pack_n_round),
                           W16_RIGHT},
#ifdef __AVX512F__
    [KIN_PRODUCT_DOT] = {.mr = ROWS,
                         .nr = COLUMNS,
                         .row_unit = 1,
                         .right_words = COLUMNS,
                         .group = 2,
                         .align = 1,
                         .parts = 1,
                         .pass = 768,
                         .blocks = BLOCKS,
                         .rounded = true,
                         .left_rows = KIN_SIMD(pack_t16),
                         .right_rows = KIN_SIMD(pack_t16),
                         .left_cols = KIN_SIMD(pack_n16),
                         .right_steps = KIN_SIMD(pack_n16),
                         .tile = KIN_SIMD(tile16),
                         .tile_half = KIN_SIMD(tile16_half),
                         .tile_flat = KIN_SIMD(tile16_flat),
                         .tile_flat_half = KIN_SIMD(tile16_flat_half),
                         .flat_rows = KIN_SIMD(flat16)},
    [KIN_PRODUCT_I8] = {BASE, .right_words = COLUMNS, .left_rows = KIN_SIMD(pack_t),
                        .right_rows = KIN_SIMD(pack_t), .tile = KIN_SIMD(tile_i8),
                        .tile_half = KIN_SIMD(tile_i8_half)},
#endif
};

const kin_simd KIN_SIMD(simd) = {
    .engines = engines,
    .to_bf16 = KIN_SIMD(to_bf16),
    .to_f32 = KIN_SIMD(to_f32),
    .quant_scale = KIN_SIMD(quant_scale),
    .quant_floats = KIN_SIMD(quant_floats),
#ifdef __AVX512F__
    .quant_bytes = KIN_SIMD(quant_bytes),
#endif
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
    .rope_heads = KIN_SIMD(rope_heads),
    .adamw = KIN_SIMD(adamw),
    .mse = KIN_SIMD(mse),
    .mse_bwd = KIN_SIMD(mse_bwd),
    .sumsq = KIN_SIMD(sumsq),
    .wino_in = KIN_SIMD(wino_in),
    .wino_out = KIN_SIMD(wino_out),
    .wino_weight = KIN_SIMD(wino_weight),
    .columns_norm = KIN_SIMD(columns_norm),
    .columns_square = KIN_SIMD(columns_square),
    .columns_norm_sums = KIN_SIMD(columns_norm_sums),
    .columns_norm_bwd = KIN_SIMD(columns_norm_bwd),
    .exp2f = KIN_SIMD(exp2f),
    .norm_rows = KIN_SIMD(norm_rows),
    .norm_rows_bwd = KIN_SIMD(norm_rows_bwd),
};
