/* tensor/cpu/simd/tile_w16.c: f32 products with a right operand kept in bf16: a panel of 2*VL
 * columns holds one vector of words a step, word j = column j in the low half, column VL+j in the
 * high half. The tile widens both halves (shift, mask) and multiplies in f32, so values that are
 * bf16 already (weights of bf16 files) give the bits of the f32 tile at half the memory. */
#include "tensor/cpu/simd/simd.h"

#define TILE_B_WORDS VL
#include "tensor/cpu/simd/vec.h"
/* after vec.h: needs vf */
#include "tensor/cpu/simd/tile.h"

/* Rounds both to bf16: low half from lo, high half from hi. */
VINL vf words_of(vf lo, vf hi)
{
    vi l = vi_shr(vf_bits_bf16(lo), 16);
    vi h = vi_and(vf_bits_bf16(hi), vi_set((int32_t)0xffff0000));
    return vi_float(vi_or(l, h));
}

void KIN_SIMD(pack_w16_rows)(const float *src, int64_t ld, const int32_t *rows, int64_t nrows,
                             int lanes, int64_t k, float *dst)
{
    (void)lanes; /* a panel */
    for (int64_t k0 = 0; k0 < k; k0 += VL) {
        int64_t kn = k - k0 < VL ? k - k0 : VL;
        vf r[VL];
        for (int64_t i = 0; i < VL; i++) {
            vf half[2] = {vf_zero(), vf_zero()};
            for (int64_t h = 0; h < 2; h++) {
                int64_t row = i + h * VL;
                if (row < nrows)
                    half[h] = vf_loadn(src + (rows ? rows[row] : row) * ld + k0, kn);
            }
            r[i] = words_of(half[0], half[1]);
        }
        vf_transpose(r);
        for (int64_t j = 0; j < kn; j++)
            vf_store(dst + (k0 + j) * VL, r[j]);
    }
}

void KIN_SIMD(pack_w16_cols)(const float *src, int64_t ld, const int32_t *rows, int64_t ncols,
                             int lanes, int64_t k, int64_t step, float *dst)
{
    (void)lanes;
    for (int64_t i = 0; i < k; i++) {
        const float *s = src + (rows ? rows[i] : i) * ld;
        float *d = dst + i * VL;
        for (int64_t c = 0; c < ncols; c += 2 * VL, d += step) {
            int64_t n = ncols - c;
            vf lo = vf_loadn(s + c, n), hi = n > VL ? vf_loadn(s + c + VL, n - VL) : vf_zero();
            vf_store(d, words_of(lo, hi));
        }
    }
}

/* The upper halves of words. note: of AVX2's 16 registers the tile leaves none for a mask. */
VINL vf high_half(vi v)
{
#ifdef __AVX512F__
    return vi_float(vi_and(v, vi_set((int32_t)0xffff0000)));
#else
    vi h = vi_shr(v, 16);
    __asm__("" : "+x"(h)); /* the two shifts do not become a mask again */
    return vi_float(vi_shl(h, 16));
#endif
}

#define TILE_LOAD_B(b)           \
    vi bv = vf_bits(vf_load(b)); \
    vf b0 = vi_float(vi_shl(bv, 16)), b1 = high_half(bv)
#define TILE_STEP(i)                         \
    if ((i) < TILE_DIRECT) {                 \
        TILE_PAIR(i, "vfmadd231ps", a[i])    \
    } else {                                 \
        vf av = vf_set(a[i]);                \
        c##i##_0 = vf_fma(av, b0, c##i##_0); \
        c##i##_1 = vf_fma(av, b1, c##i##_1); \
    }
#define HALF_LOAD_B(b) vf b0 = vi_float(vi_shl(vf_bits(vf_load(b)), 16))
#define HALF_STEP(i) c##i##_0 = vf_fma(vf_set(a[i]), b0, c##i##_0);
KIN_TILES(static, tile_w16_rows)

void KIN_SIMD(tile_w16)(int rows, int64_t steps, const float *a, const float *b, float *c,
                        int64_t ldc, bool acc, kin_ahead next)
{
    tile_w16_rows_any(rows, steps, a, b, c, ldc, acc, next);
}

void KIN_SIMD(tile_w16_half)(int rows, int64_t steps, const float *a, const float *b, float *c,
                             int64_t ldc, bool acc, kin_ahead next)
{
    tile_w16_rows_half_any(rows, steps, a, b, c, ldc, acc, next);
}
