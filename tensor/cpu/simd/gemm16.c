/* tensor/cpu/simd/gemm16.c: the same tile on pairs of bf16 (vdpbf16ps, f32 accumulation), for
 * machines where that instruction is faster than two f32 multiply-adds. The instruction flushes
 * denormals. */
#include "tensor/cpu/simd/simd.h"

#ifdef __AVX512F__
#define TILE_TARGET __attribute__((target("avx512bf16")))
#endif
#include "tensor/cpu/simd/vec.h"
/* after vec.h: needs vf */
#include "tensor/cpu/simd/tile.h"

#ifdef __AVX512F__

/* note: lane 2i of the result is element i of lo's half order: cvtne2ps puts its second operand
 * low. */
TILE_TARGET static vf pairs_of(vf lo, vf hi)
{
    return (vf)_mm512_cvtne2ps_pbh(hi, lo);
}

TILE_TARGET void KIN_SIMD(pack_t16)(const float *src, int64_t ld, const int32_t *rows,
                                    int64_t nrows, int lanes, int64_t k, float *dst)
{
    int64_t pairs = (k + 1) / 2;
    for (int64_t p0 = 0; p0 < pairs; p0 += VL) {
        int64_t pn = pairs - p0 < VL ? pairs - p0 : VL;
        int64_t n0 = k - 2 * p0, n1 = n0 - VL;
        for (int lane0 = 0; lane0 < lanes; lane0 += VL) {
            vf r[VL];
            for (int i = 0; i < VL; i++) {
                int64_t row = lane0 + i;
                r[i] = vf_zero();
                if (row < nrows) {
                    const float *s = src + (rows ? rows[row] : row) * ld + 2 * p0;
                    r[i] = pairs_of(vf_loadn(s, n0), n1 > 0 ? vf_loadn(s + VL, n1) : vf_zero());
                }
            }
            vf_transpose(r);
            int64_t n = lanes - lane0;
            if (n >= VL || lane0 == 0) {
                for (int j = 0; j < pn; j++)
                    vf_store(dst + (p0 + j) * lanes + lane0, r[j]);
            } else {
                for (int j = 0; j < pn; j++)
                    vf_storen(dst + (p0 + j) * lanes + lane0, r[j], n);
            }
        }
    }
}

TILE_TARGET void KIN_SIMD(flat16)(const float *src, int64_t ld, int64_t rows, int64_t k, float *dst)
{
    for (int64_t r = 0; r < rows; r++, src += ld, dst += KIN_FLAT_WORDS) {
        for (int64_t c = 0; c < k; c += 2 * VL) {
            int64_t n = k - c, n1 = n - VL;
            vf v = pairs_of(vf_loadn(src + c, n), n1 > 0 ? vf_loadn(src + c + VL, n1) : vf_zero());
            vf_storen(dst + c / 2, v, (n + 1) / 2);
        }
    }
}

/* One row of pairs of a panel: `lanes` pairs from rows s0 and s1 (NULL: zeros), n columns of which
 * are left. */
TILE_TARGET VINL void put_pairs(const float *s0, const float *s1, int64_t n, int lanes, float *d,
                                bool last)
{
    /* words 0, 16, 1, 17, ...: the two halves of cvtne2ps interleaved */
    const vi order =
        _mm512_set_epi32(0x001f000f, 0x001e000e, 0x001d000d, 0x001c000c, 0x001b000b, 0x001a000a,
                         0x00190009, 0x00180008, 0x00170007, 0x00160006, 0x00150005, 0x00140004,
                         0x00130003, 0x00120002, 0x00110001, 0x00100000);
    for (int c = 0; c < lanes; c += VL) {
        int64_t m = n - c;
        vf lo = m > 0 ? vf_loadn(s0 + c, m) : vf_zero();
        vf hi = m > 0 && s1 ? vf_loadn(s1 + c, m) : vf_zero();
        vf v = vi_float(_mm512_permutexvar_epi16(order, vf_bits(pairs_of(lo, hi))));
        if (lanes - c >= VL || (c == 0 && !last))
            vf_store(d + c, v);
        else
            vf_storen(d + c, v, lanes - c);
    }
}

TILE_TARGET void KIN_SIMD(pack_n16)(const float *src, int64_t ld, const int32_t *rows,
                                    int64_t ncols, int lanes, int64_t k, int64_t step, float *dst)
{
    int64_t pairs = (k + 1) / 2;
    for (int64_t i = 0; i < pairs; i++) {
        const float *s0 = src + (rows ? rows[2 * i] : 2 * i) * ld;
        const float *s1 = 2 * i + 1 < k ? src + (rows ? rows[2 * i + 1] : 2 * i + 1) * ld : NULL;
        float *d = dst + i * lanes;
        for (int64_t c = 0; c < ncols; c += lanes, d += step)
            put_pairs(s0 + c, s1 ? s1 + c : NULL, ncols - c, lanes, d, i + 1 == pairs);
    }
}

#define TILE_LOAD_B(b) __m512bh b0 = (__m512bh)vf_load(b), b1 = (__m512bh)vf_load((b) + VL)
#define STEP_OF(i, x)                                  \
    if ((i) < TILE_DIRECT) {                           \
        TILE_PAIR(i, "vdpbf16ps", x)                   \
    } else {                                           \
        __m512bh av = (__m512bh)vf_set(x);             \
        c##i##_0 = _mm512_dpbf16_ps(c##i##_0, av, b0); \
        c##i##_1 = _mm512_dpbf16_ps(c##i##_1, av, b1); \
    }
#define HALF_LOAD_B(b) __m512bh b0 = (__m512bh)vf_load(b)
#define HALF_OF(i, x) c##i##_0 = _mm512_dpbf16_ps(c##i##_0, (__m512bh)vf_set(x), b0);
#define TILE_STEP(i) STEP_OF(i, a[i])
#define HALF_STEP(i) HALF_OF(i, a[i])
#define FLAT_STEP(i) STEP_OF(i, a[(i)*KIN_FLAT_WORDS])
#define FLAT_HALF_STEP(i) HALF_OF(i, a[(i)*KIN_FLAT_WORDS])
KIN_TILES(static, tile16_rows)
KIN_FLAT_TILES(static, flat16_rows)

void KIN_SIMD(tile16)(int rows, int64_t pairs, const float *a, const float *b, float *c,
                      int64_t ldc, bool acc, kin_ahead next)
{
    tile16_rows_any(rows, pairs, a, b, c, ldc, acc, next);
}

void KIN_SIMD(tile16_flat)(int rows, int64_t pairs, const float *a, const float *b, float *c,
                           int64_t ldc, bool acc, kin_ahead next)
{
    flat16_rows_any(rows, pairs, a, b, c, ldc, acc, next);
}

void KIN_SIMD(tile16_half)(int rows, int64_t pairs, const float *a, const float *b, float *c,
                           int64_t ldc, bool acc, kin_ahead next)
{
    tile16_rows_half_any(rows, pairs, a, b, c, ldc, acc, next);
}

void KIN_SIMD(tile16_flat_half)(int rows, int64_t pairs, const float *a, const float *b, float *c,
                                int64_t ldc, bool acc, kin_ahead next)
{
    flat16_rows_half_any(rows, pairs, a, b, c, ldc, acc, next);
}

#endif
