/* tensor/cpu/simd/amx_emulated.c: the same engines with the tile instructions done in software, so
 * that packing, blocking and edges of the AMX code run, and are tested, on any machine with AVX-512
 * (KINEMA_ISA=amx-emulated). */
#include "tensor/cpu/simd/simd.h"

#ifdef __AVX512F__
#include <string.h>

#include "tensor/cpu/simd/vec.h"

#define PACK_TARGET
#define TILE_TARGET

/* Without the bf16 instructions, which not every AVX-512 machine has. */
VINL __m256i bf16_half(vf v)
{
    return _mm512_cvtepi32_epi16(vi_shr(vf_bits_bf16(v), 16));
}
VINL vf bf16_pairs(vf lo, vf hi)
{
    return vi_float(_mm512_inserti64x4(_mm512_castsi256_si512(bf16_half(lo)), bf16_half(hi), 1));
}

typedef struct soft_tile {
    _Alignas(64) uint32_t row[16][16];
} soft_tile;

static void soft_copy(char *dst, int64_t to, const char *src, int64_t from)
{
    for (int i = 0; i < 16; i++)
        memcpy(dst + i * to, src + i * from, 64);
}

/* tdpbf16ps: two chains of fused multiply-adds over the pairs, the even and the odd elements, then
 * their sum is added; nearest even, denormals flushed on the way in and out (Intel SDM 2B). */
static void soft_bf16(soft_tile *c, const soft_tile *a, const soft_tile *b)
{
    unsigned keep = _mm_getcsr();
    _mm_setcsr((keep | 0x8040u) & ~0x6000u); /* flush, denormals are zero, nearest even */
    for (int m = 0; m < 16; m++) {
        vf even = vf_zero(), odd = vf_zero(), sum = vf_load((const float *)(const void *)c->row[m]);
        for (int k = 0; k < 16; k++) {
            vi pair = _mm512_load_si512(b->row[k]), both = vi_set((int32_t)a->row[m][k]);
            vi high = vi_set((int32_t)0xffff0000);
            even = vf_fma(vi_float(vi_shl(both, 16)), vi_float(vi_shl(pair, 16)), even);
            odd = vf_fma(vi_float(vi_and(both, high)), vi_float(vi_and(pair, high)), odd);
        }
        vf_store((float *)(void *)c->row[m], vf_add(sum, vf_add(even, odd)));
    }
    _mm_setcsr(keep);
}

/* tdpbsud: four signed bytes by four unsigned bytes, added to 32-bit sums that wrap. */
static void soft_int8(soft_tile *c, const soft_tile *a, const soft_tile *b)
{
    for (int m = 0; m < 16; m++)
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 16; n++)
                for (int i = 0; i < 32; i += 8)
                    c->row[m][n] +=
                        (uint32_t)((int8_t)(a->row[m][k] >> i) * (uint8_t)(b->row[k][n] >> i));
}

static void amx_enter(void)
{
}
static void amx_leave(void)
{
}

#define TILE_STATE soft_tile tiles[8]
#define TILE_ZERO(t) memset(&tiles[t], 0, sizeof(soft_tile))
#define TILE_LOAD(t, p, stride) soft_copy((char *)tiles[t].row, 64, (const char *)(p), (stride))
#define TILE_STREAM TILE_LOAD
#define TILE_STORE(t, p, stride) soft_copy((char *)(p), (stride), (const char *)tiles[t].row, 64)
#define TILE_BF16(c, a, b) soft_bf16(&tiles[c], &tiles[a], &tiles[b])
#define TILE_INT8(c, a, b) soft_int8(&tiles[c], &tiles[a], &tiles[b])
#include "tensor/cpu/simd/amx_tile.h"

const kin_engine kin_amx_emulated_engines[KIN_PRODUCT_COUNT] = AMX_ENGINES;

#endif
