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
};
