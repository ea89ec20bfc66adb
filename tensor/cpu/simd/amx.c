/* tensor/cpu/simd/amx.c: the engines on the AMX tile instructions. Every thread loads the tile
 * configuration when it enters a parallel region and gives the tiles back when it leaves. */
#include "tensor/cpu/simd/simd.h"

#ifdef __AVX512F__
#include "tensor/cpu/simd/vec.h"

#define PACK_TARGET __attribute__((target("avx512bf16")))
#define TILE_TARGET __attribute__((target("avx512bf16,amx-tile,amx-bf16,amx-int8")))

/* note: cvtne2ps puts its second operand low */
PACK_TARGET VINL vf bf16_pairs(vf lo, vf hi)
{
    return (vf)_mm512_cvtne2ps_pbh(hi, lo);
}

PACK_TARGET VINL __m256i bf16_half(vf v)
{
    return (__m256i)_mm512_cvtneps_pbh(v);
}

/* Eight tiles of 16 rows of 64 bytes. note: static, because gcc 12 does not see that ldtilecfg
 * reads all of it and would drop the stores to a local one. */
static const struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config __attribute__((aligned(64))) = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

TILE_TARGET static void amx_enter(void)
{
    _tile_loadconfig(&tile_config);
}
TILE_TARGET static void amx_leave(void)
{
    _tile_release();
}

#define TILE_STATE (void)0
#define TILE_ZERO(t) _tile_zero(t)
#define TILE_LOAD(t, p, stride) _tile_loadd(t, p, stride)
#define TILE_STREAM(t, p, stride) _tile_stream_loadd(t, p, stride)
#define TILE_STORE(t, p, stride) _tile_stored(t, p, stride)
#define TILE_BF16(c, a, b) _tile_dpbf16ps(c, a, b)
#define TILE_INT8(c, a, b) _tile_dpbsud(c, a, b)
#include "tensor/cpu/simd/amx_tile.h"

const kin_engine kin_amx_engines[KIN_PRODUCT_COUNT] = AMX_ENGINES;

#endif
