/* tensor/cpu/simd/quant.c: rows to 8-bit integers. The rule, the same in tensor/ref/quant.c: amax
 * = largest |x|; q = nearest integer (ties to even) to x * (127 / amax), both in f32; value of a
 * step: amax / 127. */
#include "tensor/cpu/simd/simd.h"
#include "tensor/cpu/simd/vec.h"

/* A vector of values from column c on, zeros past k; half: of a row in bf16. */
VINL vf values(const void *x, bool half, int64_t c, int64_t k)
{
    return half ? vf_loadn_bf16((const uint16_t *)x + c, k - c)
                : vf_loadn((const float *)x + c, k - c);
}

VINL kin_quant scale_of(const void *x, bool half, int64_t k)
{
    /* note: bits without the sign compare as integers, and NaN is above all numbers */
    vi top = vi_set(0);
    int64_t c = 0;
#ifdef __AVX512F__
    vi pairs = vi_set(0), sign = vi_set(0x7fff7fff);
    for (; half && c + 2 * VL <= k; c += 2 * VL)
        pairs = _mm512_max_epu16(pairs, vi_and(_mm512_loadu_si512((const uint16_t *)x + c), sign));
    top = vi_max(vi_shl(pairs, 16), vi_and(pairs, vi_set(0x7fff0000)));
#endif
    for (; c + VL <= k && !half; c += VL)
        top = vi_max(top, vi_and(vf_bits(vf_load((const float *)x + c)), vi_set(0x7fffffff)));
    for (; c < k; c += VL)
        top = vi_max(top, vi_and(vf_bits(values(x, half, c, k)), vi_set(0x7fffffff)));
    float lane[VL];
    int32_t bits[VL], max = 0;
    vf_store(lane, vi_float(top));
    memcpy(bits, lane, sizeof(bits));
    for (int i = 0; i < VL; i++)
        max = bits[i] > max ? bits[i] : max;
    return kin_quant_of_bits(max);
}

kin_quant KIN_SIMD(quant_scale)(const void *x, bool half, int64_t k)
{
    return half ? scale_of(x, true, k) : scale_of(x, false, k);
}

void KIN_SIMD(quant_floats)(const float *x, int64_t k, kin_quant q, float *dst)
{
    for (int64_t c = 0; c < k; c += VL)
        vf_storen(dst + c, vf_nearest(vf_mul(vf_loadn(x + c, k - c), vf_set(q.inverse))), k - c);
}

#ifdef __AVX512F__
/* 32 values of a row in bf16 times `inverse` as bytes: values of even and odd places as f32, then
 * both in the low halves of 32-bit words. */
VINL __m256i bytes_of_32(const uint16_t *x, vf inverse)
{
    const vi both = _mm512_loadu_si512(x), low = vi_set(0xff);
    const vi even = vf_round(vf_mul(vi_float(vi_shl(both, 16)), inverse));
    const vi odd = vf_round(vf_mul(vi_float(vi_and(both, vi_set((int32_t)0xffff0000))), inverse));
    /* (even & low) | (odd << 8) */
    return _mm512_cvtepi32_epi16(_mm512_ternarylogic_epi32(even, low, vi_shl(odd, 8), 0xea));
}

VINL int32_t bytes_of(const void *x, bool half, int64_t k, kin_quant q, bool offset, float *words)
{
    const __m128i flip = _mm_set1_epi8(offset ? (char)0x80 : 0);
    uint8_t *dst = (uint8_t *)words;
    int64_t bytes = (k + 3) / 4 * 4, c = 0;
    vi sum = vi_set(0);
    for (; half && c + 2 * VL <= k; c += 2 * VL) {
        const __m256i b = bytes_of_32((const uint16_t *)x + c, vf_set(q.inverse));
        const vi wide = _mm512_cvtepi8_epi16(b);
        sum = vi_add(sum, _mm512_madd_epi16(wide, _mm512_set1_epi16(1)));
        _mm256_storeu_si256((__m256i *)(void *)(dst + c),
                            _mm256_xor_si256(b, _mm256_set_m128i(flip, flip)));
    }
    for (; c < bytes; c += VL) {
        vi v = vf_round(vf_mul(values(x, half, c, k), vf_set(q.inverse)));
        __m128i b = _mm_xor_si128(_mm512_cvtsepi32_epi8(v), flip);
        sum = vi_add(sum, v);
        _mm_mask_storeu_epi8(dst + c, vm_first(bytes - c), b);
    }
    return _mm512_reduce_add_epi32(sum);
}

int32_t KIN_SIMD(quant_bytes)(const void *x, bool half, int64_t k, kin_quant q, bool offset,
                              float *words)
{
    return half ? bytes_of(x, true, k, q, offset, words) : bytes_of(x, false, k, q, offset, words);
}
#endif
