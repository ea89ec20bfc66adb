/* tensor/cpu/simd/quant.c: rows to 8-bit integers and product sums back to f32. The rule, the same
 * in tensor/ref/quant.c: amax = largest |x|; q = nearest integer (ties to even) to x * (127 /
 * amax), both in f32; value of a step: amax / 127. */
#include "tensor/cpu/simd/simd.h"
#include "tensor/cpu/simd/vec.h"

kin_quant KIN_SIMD(quant_scale)(const float *x, int64_t k)
{
    /* note: bits without the sign compare as integers, and NaN is above all numbers */
    vi top = vi_set(0);
    int64_t c = 0;
    for (; c + VL <= k; c += VL)
        top = vi_max(top, vi_and(vf_bits(vf_load(x + c)), vi_set(0x7fffffff)));
    if (c < k)
        top = vi_max(top, vi_and(vf_bits(vf_loadn(x + c, k - c)), vi_set(0x7fffffff)));
    float lane[VL];
    int32_t bits[VL], max = 0;
    vf_store(lane, vi_float(top));
    memcpy(bits, lane, sizeof(bits));
    for (int i = 0; i < VL; i++)
        max = bits[i] > max ? bits[i] : max;
    return kin_quant_of_bits(max);
}

void KIN_SIMD(quant_floats)(const float *x, int64_t k, kin_quant q, float *dst)
{
    for (int64_t c = 0; c < k; c += VL)
        vf_storen(dst + c, vf_nearest(vf_mul(vf_loadn(x + c, k - c), vf_set(q.inverse))), k - c);
}

#ifdef __AVX512F__
int32_t KIN_SIMD(quant_bytes)(const float *x, int64_t k, kin_quant q, bool offset, float *words)
{
    const __m128i flip = _mm_set1_epi8(offset ? (char)0x80 : 0);
    uint8_t *dst = (uint8_t *)words;
    int64_t bytes = (k + 3) / 4 * 4;
    vi sum = vi_set(0);
    for (int64_t c = 0; c < bytes; c += VL) {
        vi v = vf_round(vf_mul(vf_loadn(x + c, k - c), vf_set(q.inverse)));
        __m128i b = _mm_xor_si128(_mm512_cvtsepi32_epi8(v), flip);
        sum = vi_add(sum, v);
        _mm_mask_storeu_epi8(dst + c, vm_first(bytes - c), b);
    }
    return _mm512_reduce_add_epi32(sum);
}
#endif

void KIN_SIMD(dequant)(const kin_dequant *d, int64_t row0, int64_t col0, int rows, int64_t cols,
                       float *tile, int64_t ld)
{
    for (int r = 0; r < rows; r++, tile += ld) {
        int64_t row = d->rows ? d->rows[row0 + r] : row0 + r;
        vf step = vf_set(d->row_step[row]);
        vi shift = vi_set(d->row_shift ? d->row_shift[row] : 0);
        for (int64_t c = 0; c < cols; c += VL) {
            vf v = vf_load(tile + c);
            if (d->row_shift)
                v = vi_tof(vi_sub(vf_bits(v), shift));
            vf_store(tile + c, vf_mul(v, vf_mul(step, vf_load(d->col_step + col0 + c))));
        }
    }
}
