/* tensor/cpu/simd/tile.h: writes out one register tile function per row count. The user defines
 * TILE_LOAD_B (declares b0, b1) and TILE_STEP(i) (adds to c<i>_0, c<i>_1), then KIN_TILES(linkage,
 * name) gives name_any(rows, k, a, b, c, ldc, acc, next). MR rows of a per step, 2*VL columns of b.
 * KIN_FLAT_TILES the same for a left operand of plain rows, from FLAT_STEP and FLAT_HALF_STEP. */
#ifndef KIN_CPU_SIMD_TILE_H
#define KIN_CPU_SIMD_TILE_H

#include <immintrin.h>

#include "tensor/cpu/simd/engine.h"

/* words of one step of the right operand */
#ifndef TILE_B_WORDS
#define TILE_B_WORDS (2 * VL)
#endif

#define TILE_R1(F) F(0)
#define TILE_R2(F) TILE_R1(F) F(1)
#define TILE_R3(F) TILE_R2(F) F(2)
#define TILE_R4(F) TILE_R3(F) F(3)
#define TILE_R5(F) TILE_R4(F) F(4)
#define TILE_R6(F) TILE_R5(F) F(5)
#define TILE_R7(F) TILE_R6(F) F(6)
#define TILE_R8(F) TILE_R7(F) F(7)
#define TILE_R9(F) TILE_R8(F) F(8)
#define TILE_R10(F) TILE_R9(F) F(9)
#define TILE_R11(F) TILE_R10(F) F(10)
#define TILE_R12(F) TILE_R11(F) F(11)
#define TILE_R13(F) TILE_R12(F) F(12)
#define TILE_R14(F) TILE_R13(F) F(13)

#define TILE_ZERO(i) vf c##i##_0 = vf_zero(), c##i##_1 = vf_zero();
#define TILE_SEED(i)                 \
    c##i##_0 = vf_load(c + (i)*ldc); \
    c##i##_1 = vf_load(c + (i)*ldc + VL);
#define TILE_OUT(i)                  \
    vf_store(c + (i)*ldc, c##i##_0); \
    vf_store(c + (i)*ldc + VL, c##i##_1);

/* The same for the first vector of columns only (b keeps its two vectors a step). */
#define HALF_ZERO(i) vf c##i##_0 = vf_zero();
#define HALF_SEED(i) c##i##_0 = vf_load(c + (i)*ldc);
#define HALF_OUT(i) vf_store(c + (i)*ldc, c##i##_0);

/* One packed step. */
#define TILE_ONE(R, MOVE, LOAD_B, STEP)     \
    {                                       \
        _mm_prefetch(next.at, _MM_HINT_T0); \
        LOAD_B(b);                          \
        TILE_R##R(STEP) a += MOVE;          \
        b += TILE_B_WORDS;                  \
        next.at += next.step;               \
    }
#define TILE_BODY(linkage, name, R, MOVE, ZERO, SEED, LOAD_B, STEP, OUT)                          \
    linkage __attribute__((noinline))                                                             \
    TILE_TARGET void name##_##R(int64_t k, const float *a, const float *b, float *c, int64_t ldc, \
                                bool acc, kin_ahead next)                                         \
    {                                                                                             \
        TILE_R##R(ZERO) if (acc)                                                                  \
        {                                                                                         \
            TILE_R##R(SEED)                                                                       \
        }                                                                                         \
        for (; k > 1; k -= 2) {                                                                   \
            TILE_ONE(R, MOVE, LOAD_B, STEP)                                                       \
            TILE_ONE(R, MOVE, LOAD_B, STEP)                                                       \
        }                                                                                         \
        if (k > 0)                                                                                \
            TILE_ONE(R, MOVE, LOAD_B, STEP)                                                       \
        TILE_R##R(OUT)                                                                            \
    }
#define TILE_FULL(linkage, name, R) \
    TILE_BODY(linkage, name, R, MR, TILE_ZERO, TILE_SEED, TILE_LOAD_B, TILE_STEP, TILE_OUT)
#define TILE_HALF(linkage, name, R) \
    TILE_BODY(linkage, name##_half, R, MR, HALF_ZERO, HALF_SEED, HALF_LOAD_B, HALF_STEP, HALF_OUT)
#define FLAT_FULL(linkage, name, R) \
    TILE_BODY(linkage, name, R, 1, TILE_ZERO, TILE_SEED, TILE_LOAD_B, FLAT_STEP, TILE_OUT)
#define FLAT_HALF(linkage, name, R)                                                          \
    TILE_BODY(linkage, name##_half, R, 1, HALF_ZERO, HALF_SEED, HALF_LOAD_B, FLAT_HALF_STEP, \
              HALF_OUT)
#define TILE_CASE(name, R)                      \
    case R:                                     \
        name##_##R(k, a, b, c, ldc, acc, next); \
        break;

#ifndef TILE_TARGET
#define TILE_TARGET
#endif

/* Rows below TILE_DIRECT have both multiply-adds read their factor from memory (a broadcast operand
 * of AVX-512), the others load it into a register first. A load less is an instruction more: a
 * processor that shares its front end with another thread is short of those. TILE_PAIR(i,
 * instruction, x): c<i>_0 and c<i>_1 += b0 and b1 times x, a word in memory. */
#ifdef __AVX512F__
enum { TILE_DIRECT = 10 };
#define TILE_FROM(instruction, c, b, x) \
    __asm__(instruction " %1%{1to16%}, %2, %0" : "+v"(c) : "m"(x), "v"(b))
#define TILE_PAIR(i, instruction, x)           \
    TILE_FROM(instruction, c##i##_0, b0, (x)); \
    TILE_FROM(instruction, c##i##_1, b1, (x));
#else
enum { TILE_DIRECT = 0 };
#define TILE_PAIR(i, instruction, x)
#endif

/* clang-format off */
#ifdef __AVX512F__
enum { MR = 14 };
#define TILE_FAMILY(ONE, linkage, name) \
    ONE(linkage, name, 1) ONE(linkage, name, 2) ONE(linkage, name, 3) ONE(linkage, name, 4) \
    ONE(linkage, name, 5) ONE(linkage, name, 6) ONE(linkage, name, 7) ONE(linkage, name, 8) \
    ONE(linkage, name, 9) ONE(linkage, name, 10) ONE(linkage, name, 11) ONE(linkage, name, 12) \
    ONE(linkage, name, 13) ONE(linkage, name, 14)
#define TILE_CASES(name) \
    TILE_CASE(name, 1) TILE_CASE(name, 2) TILE_CASE(name, 3) TILE_CASE(name, 4) \
    TILE_CASE(name, 5) TILE_CASE(name, 6) TILE_CASE(name, 7) TILE_CASE(name, 8) \
    TILE_CASE(name, 9) TILE_CASE(name, 10) TILE_CASE(name, 11) TILE_CASE(name, 12) \
    TILE_CASE(name, 13) TILE_CASE(name, 14)
#else
enum { MR = 6 };
#define TILE_FAMILY(ONE, linkage, name) \
    ONE(linkage, name, 1) ONE(linkage, name, 2) ONE(linkage, name, 3) ONE(linkage, name, 4) \
    ONE(linkage, name, 5) ONE(linkage, name, 6)
#define TILE_CASES(name) \
    TILE_CASE(name, 1) TILE_CASE(name, 2) TILE_CASE(name, 3) TILE_CASE(name, 4) \
    TILE_CASE(name, 5) TILE_CASE(name, 6)
#endif

#define TILE_ANY(linkage, name)                                                       \
    linkage void name##_any(int rows, int64_t k, const float *a, const float *b,      \
                            float *c, int64_t ldc, bool acc, kin_ahead next)          \
    {                                                                                 \
        switch (rows) {                                                               \
            TILE_CASES(name)                                                          \
        default:                                                                      \
            break;                                                                    \
        }                                                                             \
    }
#define KIN_TILES(linkage, name)          \
    TILE_FAMILY(TILE_FULL, linkage, name) \
    TILE_ANY(linkage, name)               \
    TILE_FAMILY(TILE_HALF, linkage, name) \
    TILE_ANY(linkage, name##_half)
#define KIN_FLAT_TILES(linkage, name)     \
    TILE_FAMILY(FLAT_FULL, linkage, name) \
    TILE_ANY(linkage, name)               \
    TILE_FAMILY(FLAT_HALF, linkage, name) \
    TILE_ANY(linkage, name##_half)
/* clang-format on */

#endif
