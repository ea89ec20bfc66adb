/* tensor/cpu/simd/amx_tile.h: the product tile of 32x32 on AMX tiles of 16 rows by 64 bytes: 2x2
 * sums in tiles 0-3, left in 4 and 5, right in 6 and 7. Written once over the few instructions of a
 * layer that the includer defines (amx.c: the instructions, amx_emulated.c: the same in software):
 * TILE_TARGET, TILE_STATE (declarations), TILE_ZERO(t), TILE_LOAD(t, p, stride), TILE_STREAM(t, p,
 * stride) (a load that leaves the L1 cache to others), TILE_STORE(t, p, stride), TILE_BF16(c, a,
 * b), TILE_INT8(c, a, b); strides in bytes. Right panels pass by a left block that stays in the L1
 * cache, so they are streamed: 2.1 against 1.75 TF/s of one core at 512 elements of k. */
#ifndef KIN_CPU_SIMD_AMX_TILE_H
#define KIN_CPU_SIMD_AMX_TILE_H

#include "tensor/cpu/simd/amx_pack.h"

enum { AMX_ROWS = 16, TILE_STRIDE = 64, BOUNCE_STRIDE = 128, TILE_WORDS = 256 };
typedef enum amx_kind { AMX_PLAIN, AMX_SPLIT, AMX_INT8 } amx_kind;

/* The sums of one 16-row half go through `bounce` where fewer rows are there. */
#define AMX_SUMS(OP, half, t0, t1)                               \
    do {                                                         \
        int there_ = rows - (half)*AMX_ROWS;                     \
        if (there_ >= AMX_ROWS) {                                \
            OP(t0, c + (half)*AMX_ROWS * ldc, ldc * 4);          \
            if (wide)                                            \
                OP(t1, c + (half)*AMX_ROWS * ldc + 16, ldc * 4); \
        } else if (there_ > 0) {                                 \
            OP(t0, bounce, BOUNCE_STRIDE);                       \
            if (wide)                                            \
                OP(t1, bounce + 16, BOUNCE_STRIDE);              \
        }                                                        \
    } while (0)

/* Each load stands before the first product that needs it (all loads first take a tenth longer);
 * left, right: false where the operand is in the tiles already. */
#define AMX_PRODUCTS(DP, left, a, right, b)                \
    do {                                                   \
        if (left)                                          \
            TILE_LOAD(4, (a), TILE_STRIDE);                \
        if (right)                                         \
            TILE_STREAM(6, (b), TILE_STRIDE);              \
        DP(0, 4, 6);                                       \
        if (tall && (left))                                \
            TILE_LOAD(5, (a) + TILE_WORDS, TILE_STRIDE);   \
        if (tall)                                          \
            DP(2, 5, 6);                                   \
        if (wide && (right))                               \
            TILE_STREAM(7, (b) + TILE_WORDS, TILE_STRIDE); \
        if (wide)                                          \
            DP(1, 4, 7);                                   \
        if (tall && wide)                                  \
            DP(3, 5, 7);                                   \
    } while (0)

/* Rows of the last, partial half between c and bounce. */
VINL void amx_bounce(bool in, int rows, bool wide, float *c, int64_t ldc, float *bounce)
{
    int r0 = rows / AMX_ROWS * AMX_ROWS;
    for (int r = r0; r < rows; r++) {
        for (int j = 0; j < (wide ? 32 : 16); j += VL) {
            float *at = c + r * ldc + j, *b = bounce + (r - r0) * AMX_LANES + j;
            vf_store(in ? b : at, vf_load(in ? at : b));
        }
    }
}

TILE_TARGET VINL void amx_tile(amx_kind kind, bool tall, bool wide, int rows, int64_t steps,
                               const float *a, const float *b, float *c, int64_t ldc, bool acc,
                               kin_ahead next)
{
    _Alignas(64) float bounce[AMX_ROWS * AMX_LANES];
    int64_t block = AMX_BLOCK * (kind == AMX_SPLIT ? 2 : 1);
    TILE_STATE;
    if (acc) {
        amx_bounce(true, rows, wide, c, ldc, bounce);
        /* note: the compiler does not know that a tile load reads memory */
        __asm__ volatile("" ::: "memory");
        AMX_SUMS(TILE_LOAD, 0, 0, 1);
        AMX_SUMS(TILE_LOAD, 1, 2, 3);
    } else {
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_ZERO(2);
        TILE_ZERO(3);
    }
    /* a line for each step, or fewer where steps are shorter than lines */
    const int64_t apart = next.step > 64 ? next.step : 64;
    const char *ahead = next.at, *end = ahead;
    for (; steps > 0; steps -= block / AMX_LANES, a += block, b += block) {
        for (end += block / AMX_LANES * next.step; ahead < end; ahead += apart)
            _mm_prefetch(ahead, _MM_HINT_T1);
        if (kind == AMX_SPLIT) { /* a2 b1 + a1 b1 + a1 b2 */
            AMX_PRODUCTS(TILE_BF16, true, a + AMX_BLOCK, true, b);
            AMX_PRODUCTS(TILE_BF16, true, a, false, b);
            AMX_PRODUCTS(TILE_BF16, false, a, true, b + AMX_BLOCK);
        } else if (kind == AMX_INT8) {
            AMX_PRODUCTS(TILE_INT8, true, a, true, b);
        } else {
            AMX_PRODUCTS(TILE_BF16, true, a, true, b);
        }
    }
    AMX_SUMS(TILE_STORE, 0, 0, 1);
    AMX_SUMS(TILE_STORE, 1, 2, 3);
    amx_bounce(false, rows, wide, c, ldc, bounce);
}

#define AMX_TILE_FN(name, kind, wide)                                                     \
    TILE_TARGET static void name(int rows, int64_t steps, const float *a, const float *b, \
                                 float *c, int64_t ldc, bool acc, kin_ahead next)         \
    {                                                                                     \
        if (rows > AMX_ROWS)                                                              \
            amx_tile(kind, true, wide, rows, steps, a, b, c, ldc, acc, next);             \
        else                                                                              \
            amx_tile(kind, false, wide, rows, steps, a, b, c, ldc, acc, next);            \
    }
AMX_TILE_FN(amx_tile_bf16, AMX_PLAIN, true)
AMX_TILE_FN(amx_tile_bf16_half, AMX_PLAIN, false)
AMX_TILE_FN(amx_tile_split, AMX_SPLIT, true)
AMX_TILE_FN(amx_tile_split_half, AMX_SPLIT, false)
AMX_TILE_FN(amx_tile_int8, AMX_INT8, true)
AMX_TILE_FN(amx_tile_int8_half, AMX_INT8, false)

#define AMX_ENGINES                                                                    \
    {                                                                                  \
        [KIN_PRODUCT_AMX] = {.mr = AMX_LANES,                                          \
                             .nr = AMX_LANES,                                          \
                             .row_unit = AMX_ROWS,                                     \
                             .right_words = AMX_LANES,                                 \
                             .group = 2,                                               \
                             .align = AMX_PAIRS,                                       \
                             .parts = 1,                                               \
                             .pass = 256,                                              \
                             .blocks = 8,                                              \
                             .deep = true,                                             \
                             .rounded = true,                                          \
                             .left_rows = amx_left_rows,                               \
                             .right_rows = amx_right_rows,                             \
                             .left_cols = amx_left_cols,                               \
                             .right_steps = amx_right_steps,                           \
                             .half = {half_left_rows, half_right_rows, half_left_cols, \
                                      half_right_steps},                               \
                             .tile = amx_tile_bf16,                                    \
                             .tile_half = amx_tile_bf16_half,                          \
                             .softmax = amx_softmax,                                   \
                             .epilogue = amx_epilogue,                                 \
                             .enter = amx_enter,                                       \
                             .leave = amx_leave},                                      \
        [KIN_PRODUCT_HIGH] = {.mr = AMX_LANES,                                         \
                              .nr = AMX_LANES,                                         \
                              .row_unit = AMX_ROWS,                                    \
                              .right_words = AMX_LANES,                                \
                              .group = 2,                                              \
                              .align = AMX_PAIRS,                                      \
                              .parts = 2,                                              \
                              .pass = 256,                                             \
                              .blocks = 8,                                             \
                              .deep = true,                                            \
                              .left_rows = split_left_rows,                            \
                              .right_rows = split_right_rows,                          \
                              .left_cols = split_left_cols,                            \
                              .right_steps = split_right_steps,                        \
                              .tile = amx_tile_split,                                  \
                              .tile_half = amx_tile_split_half,                        \
                              .enter = amx_enter,                                      \
                              .leave = amx_leave},                                     \
        [KIN_PRODUCT_I8] = {.mr = AMX_LANES,                                           \
                            .nr = AMX_LANES,                                           \
                            .row_unit = AMX_ROWS,                                      \
                            .right_words = AMX_LANES,                                  \
                            .group = 1,                                                \
                            .align = AMX_PAIRS,                                        \
                            .parts = 1,                                                \
                            .pass = 256,                                               \
                            .blocks = 8,                                               \
                            .deep = true,                                              \
                            .left_rows = words_left_rows,                              \
                            .right_rows = words_right_rows,                            \
                            .tile = amx_tile_int8,                                     \
                            .tile_half = amx_tile_int8_half,                           \
                            .epilogue = amx_epilogue,                                  \
                            .enter = amx_enter,                                        \
                            .leave = amx_leave},                                       \
    }

#endif
