/* tensor/cpu/simd/vec.h: one vector of floats, 16 lanes under AVX-512 and 8 under AVX2, with loads
 * and stores of the first n lanes. Only for files of this folder, which are compiled once per ISA
 * level. note: horizontal sums have one fixed order per ISA level. */
#ifndef KIN_CPU_SIMD_VEC_H
#define KIN_CPU_SIMD_VEC_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define VINL static inline __attribute__((always_inline))
/* Before a loop over the vectors of a block: they stay in registers. */
#define VUNROLL _Pragma("GCC unroll 16")

#ifdef __AVX512F__

enum { VL = 16 };
typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;

VINL vm vm_first(int64_t n)
{
    return n >= VL ? (vm)0xffff : (vm)((1u << n) - 1u);
}
VINL vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
VINL void vf_store(float *p, vf v)
{
    _mm512_storeu_ps(p, v);
}
VINL vf vf_loadn(const float *p, int64_t n)
{
    return n >= VL ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(vm_first(n), p);
}
VINL void vf_storen(float *p, vf v, int64_t n)
{
    if (n >= VL)
        _mm512_storeu_ps(p, v);
    else
        _mm512_mask_storeu_ps(p, vm_first(n), v);
}
VINL vf vf_set(float x)
{
    return _mm512_set1_ps(x);
}
VINL vf vf_zero(void)
{
    return _mm512_setzero_ps();
}
VINL vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
VINL vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
VINL vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
VINL vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
VINL vf vf_fma(vf a, vf b, vf c) /* a*b + c */
{
    return _mm512_fmadd_ps(a, b, c);
}
VINL vf vf_fnma(vf a, vf b, vf c) /* c - a*b */
{
    return _mm512_fnmadd_ps(a, b, c);
}
VINL vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
VINL vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
VINL vf vf_sqrt(vf a)
{
    return _mm512_sqrt_ps(a);
}
VINL vm vf_gt(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
}
VINL vm vf_lt(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
VINL vm vf_nan(vf a)
{
    return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
}
VINL vf vf_blend(vm m, vf yes, vf no)
{
    return _mm512_mask_blend_ps(m, no, yes);
}
VINL vf vf_abs(vf a)
{
    return _mm512_abs_ps(a);
}
VINL vi vi_set(int32_t x)
{
    return _mm512_set1_epi32(x);
}
VINL vi vi_add(vi a, vi b)
{
    return _mm512_add_epi32(a, b);
}
VINL vi vi_sub(vi a, vi b)
{
    return _mm512_sub_epi32(a, b);
}
VINL vi vi_max(vi a, vi b) /* signed */
{
    return _mm512_max_epi32(a, b);
}
VINL vi vi_and(vi a, vi b)
{
    return _mm512_and_si512(a, b);
}
VINL vi vi_or(vi a, vi b)
{
    return _mm512_or_si512(a, b);
}
#define vi_shl(a, n) _mm512_slli_epi32((a), (n))
#define vi_shr(a, n) _mm512_srli_epi32((a), (n))
VINL vf vi_float(vi a) /* bits */
{
    return _mm512_castsi512_ps(a);
}
VINL vi vf_bits(vf a)
{
    return _mm512_castps_si512(a);
}
VINL vi vf_round(vf a) /* to the nearest integer */
{
    return _mm512_cvtps_epi32(a);
}
VINL vf vi_tof(vi a)
{
    return _mm512_cvtepi32_ps(a);
}
VINL vf vf_load_bf16(const uint16_t *p)
{
    return vi_float(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p)), 16));
}
VINL vf vf_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
/* (x0,x1) -> (x0,x0) and (x1,x1), and the neighbours exchanged */
VINL vf vf_swap_pairs(vf a)
{
    return _mm512_permute_ps(a, 0xb1);
}
/* p[0], p[0], p[1], p[1], ...: the first n lanes of them (n even) */
VINL vf vf_load_twice(const float *p, int64_t n)
{
    __m512 half = n >= VL ? _mm512_castps256_ps512(_mm256_loadu_ps(p))
                          : _mm512_maskz_loadu_ps(vm_first(n / 2), p);
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7),
                                 half);
}
/* a*b - c at even lanes, a*b + c at odd ones, and the other way round */
VINL vf vf_fmaddsub(vf a, vf b, vf c)
{
    return _mm512_fmaddsub_ps(a, b, c);
}
VINL vf vf_fmsubadd(vf a, vf b, vf c)
{
    return _mm512_fmsubadd_ps(a, b, c);
}
VINL double vf_sum_double(vf a)
{
    __m512d lo = _mm512_cvtps_pd(_mm512_castps512_ps256(a));
    __m512d hi = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
    return _mm512_reduce_add_pd(_mm512_add_pd(lo, hi));
}
/* sum of squares of the lanes, in double */
/* Squares in doubles: sums of several vectors, and their total. */
typedef struct vd {
    __m512d lo, hi;
} vd;
VINL vd vd_zero(void)
{
    return (vd){_mm512_setzero_pd(), _mm512_setzero_pd()};
}
VINL vd vd_add_squares(vd s, vf a)
{
    __m512d lo = _mm512_cvtps_pd(_mm512_castps512_ps256(a));
    __m512d hi = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
    return (vd){_mm512_fmadd_pd(lo, lo, s.lo), _mm512_fmadd_pd(hi, hi, s.hi)};
}
VINL double vd_sum(vd s)
{
    return _mm512_reduce_add_pd(_mm512_add_pd(s.lo, s.hi));
}
VINL __m256 v8_fold(vf a)
{
    return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
}
VINL __m256 v8_foldmax(vf a)
{
    return _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
}

/* r[i] lane j <- r[j] lane i */
VINL void vf_transpose(vf r[VL])
{
    vf t[VL];
    VUNROLL
    for (int i = 0; i < 16; i += 4) {
        vf a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
        vf c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
        __m512d ad = _mm512_castps_pd(a), bd = _mm512_castps_pd(b);
        __m512d cd = _mm512_castps_pd(c), dd = _mm512_castps_pd(d);
        t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(ad, cd));
        t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(ad, cd));
        t[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(bd, dd));
        t[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(bd, dd));
    }
    /* t[4g+j]: lane 4l+m = row 4g+m, column 4l+j; gather equal l from the four groups */
    VUNROLL
    for (int j = 0; j < 4; j++) {
        vf a = _mm512_shuffle_f32x4(t[j], t[4 + j], 0x88),
           b = _mm512_shuffle_f32x4(t[j], t[4 + j], 0xdd);
        vf c = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0x88);
        vf d = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0xdd);
        r[j] = _mm512_shuffle_f32x4(a, c, 0x88);
        r[8 + j] = _mm512_shuffle_f32x4(a, c, 0xdd);
        r[4 + j] = _mm512_shuffle_f32x4(b, d, 0x88);
        r[12 + j] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}
/* the first n lanes of a, the rest from b */
VINL vf vf_first(vf a, int64_t n, vf b)
{
    return _mm512_mask_blend_ps(vm_first(n), b, a);
}
VINL vf vf_nearest(vf a) /* integer, as float */
{
    return _mm512_roundscale_ps(a, 0);
}

#else /* AVX2 */

enum { VL = 8 };
typedef __m256 vf;
typedef __m256i vi;
typedef __m256 vm;

VINL __m256i vm_first(int64_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n > VL ? VL : (int)n),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
VINL vf vf_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
VINL void vf_store(float *p, vf v)
{
    _mm256_storeu_ps(p, v);
}
VINL vf vf_loadn(const float *p, int64_t n)
{
    return n >= VL ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, vm_first(n));
}
VINL void vf_storen(float *p, vf v, int64_t n)
{
    if (n >= VL)
        _mm256_storeu_ps(p, v);
    else
        _mm256_maskstore_ps(p, vm_first(n), v);
}
VINL vf vf_set(float x)
{
    return _mm256_set1_ps(x);
}
VINL vf vf_zero(void)
{
    return _mm256_setzero_ps();
}
VINL vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
VINL vf vf_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
VINL vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
VINL vf vf_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
VINL vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
VINL vf vf_fnma(vf a, vf b, vf c)
{
    return _mm256_fnmadd_ps(a, b, c);
}
VINL vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
VINL vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
VINL vf vf_sqrt(vf a)
{
    return _mm256_sqrt_ps(a);
}
VINL vm vf_gt(vf a, vf b)
{
    return _mm256_cmp_ps(a, b, _CMP_GT_OQ);
}
VINL vm vf_lt(vf a, vf b)
{
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}
VINL vm vf_nan(vf a)
{
    return _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
}
VINL vf vf_blend(vm m, vf yes, vf no)
{
    return _mm256_blendv_ps(no, yes, m);
}
VINL vf vf_abs(vf a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
VINL vi vi_set(int32_t x)
{
    return _mm256_set1_epi32(x);
}
VINL vi vi_add(vi a, vi b)
{
    return _mm256_add_epi32(a, b);
}
VINL vi vi_sub(vi a, vi b)
{
    return _mm256_sub_epi32(a, b);
}
VINL vi vi_max(vi a, vi b) /* signed */
{
    return _mm256_max_epi32(a, b);
}
VINL vi vi_and(vi a, vi b)
{
    return _mm256_and_si256(a, b);
}
VINL vi vi_or(vi a, vi b)
{
    return _mm256_or_si256(a, b);
}
#define vi_shl(a, n) _mm256_slli_epi32((a), (n))
#define vi_shr(a, n) _mm256_srli_epi32((a), (n))
VINL vf vi_float(vi a)
{
    return _mm256_castsi256_ps(a);
}
VINL vi vf_bits(vf a)
{
    return _mm256_castps_si256(a);
}
VINL vi vf_round(vf a)
{
    return _mm256_cvtps_epi32(a);
}
VINL vf vi_tof(vi a)
{
    return _mm256_cvtepi32_ps(a);
}
VINL vf vf_load_bf16(const uint16_t *p)
{
    return vi_float(_mm256_slli_epi32(
        _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)), 16));
}
VINL vf vf_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
VINL vf vf_swap_pairs(vf a)
{
    return _mm256_permute_ps(a, 0xb1);
}
VINL vf vf_load_twice(const float *p, int64_t n)
{
    __m256 half =
        n >= VL ? _mm256_castps128_ps256(_mm_loadu_ps(p)) : _mm256_maskload_ps(p, vm_first(n / 2));
    return _mm256_permutevar8x32_ps(half, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}
VINL vf vf_fmaddsub(vf a, vf b, vf c)
{
    return _mm256_fmaddsub_ps(a, b, c);
}
VINL vf vf_fmsubadd(vf a, vf b, vf c)
{
    return _mm256_fmsubadd_ps(a, b, c);
}
VINL double vf_sum_double(vf a)
{
    __m256d lo = _mm256_cvtps_pd(_mm256_castps256_ps128(a));
    __m256d hi = _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1));
    double t[4];
    _mm256_storeu_pd(t, _mm256_add_pd(lo, hi));
    return (t[0] + t[2]) + (t[1] + t[3]);
}
typedef struct vd {
    __m256d lo, hi;
} vd;
VINL vd vd_zero(void)
{
    return (vd){_mm256_setzero_pd(), _mm256_setzero_pd()};
}
VINL vd vd_add_squares(vd s, vf a)
{
    __m256d lo = _mm256_cvtps_pd(_mm256_castps256_ps128(a));
    __m256d hi = _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1));
    return (vd){_mm256_fmadd_pd(lo, lo, s.lo), _mm256_fmadd_pd(hi, hi, s.hi)};
}
VINL double vd_sum(vd s)
{
    double t[4];
    _mm256_storeu_pd(t, _mm256_add_pd(s.lo, s.hi));
    return (t[0] + t[2]) + (t[1] + t[3]);
}
VINL __m256 v8_fold(vf a)
{
    return a;
}
VINL __m256 v8_foldmax(vf a)
{
    return a;
}

VINL void vf_transpose(vf r[VL])
{
    vf t[VL];
    VUNROLL
    for (int i = 0; i < 8; i += 4) {
        vf a = _mm256_unpacklo_ps(r[i], r[i + 1]), b = _mm256_unpackhi_ps(r[i], r[i + 1]);
        vf c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
        t[i] = _mm256_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
        t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    VUNROLL
    for (int j = 0; j < 4; j++) {
        r[j] = _mm256_permute2f128_ps(t[j], t[4 + j], 0x20);
        r[4 + j] = _mm256_permute2f128_ps(t[j], t[4 + j], 0x31);
    }
}
VINL vf vf_first(vf a, int64_t n, vf b)
{
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(vm_first(n)));
}
VINL vf vf_nearest(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

#endif

VINL float vf_sum(vf a)
{
    __m256 v = v8_fold(a);
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    s = _mm_add_ss(s, _mm_shuffle_ps(s, s, 1));
    return _mm_cvtss_f32(s);
}
VINL float vf_hmax(vf a)
{
    __m256 v = v8_foldmax(a);
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    s = _mm_max_ss(s, _mm_shuffle_ps(s, s, 1));
    return _mm_cvtss_f32(s);
}

/* Bits whose upper half is a rounded to bf16 (nearest even); those of NaN as they are. */
VINL vi vf_bits_bf16(vf a)
{
    const vi b = vf_bits(a), half = vi_set(0x7fff);
#ifdef __AVX512F__
    const __mmask16 odd = _mm512_test_epi32_mask(b, vi_set(0x10000)), number = ~vf_nan(a);
    const vi r = _mm512_mask_sub_epi32(b, odd, b, vi_set(-1));
    return _mm512_mask_add_epi32(b, number, r, half);
#else
    const vi odd = vi_and(vi_shr(b, 16), vi_set(1));
    return vf_bits(vf_blend(vf_nan(a), a, vi_float(vi_add(b, vi_add(odd, half)))));
#endif
}

/* Rounds to bf16 (nearest even), kept in f32; NaN stays NaN. */
VINL vf vf_round_bf16(vf a)
{
    const vi top = vi_and(vf_bits_bf16(a), vi_set((int32_t)0xffff0000));
    return vf_blend(vf_nan(a), a, vi_float(top));
}

/* The first n <= VL values of a row in bf16, zeros behind them. */
VINL vf vf_loadn_bf16(const uint16_t *p, int64_t n)
{
#ifdef __AVX512F__
    return vi_float(vi_shl(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(vm_first(n), p)), 16));
#else
    uint16_t t[VL] = {0};
    memcpy(t, p, (size_t)(n < VL ? n : VL) * sizeof *p);
    return vf_load_bf16(t);
#endif
}

/* The first n <= VL values rounded to bf16. */
VINL void vf_storen_bf16(uint16_t *p, vf a, int64_t n)
{
    const vi top = vi_shr(vf_bits_bf16(a), 16);
#ifdef __AVX512F__
    _mm256_mask_storeu_epi16(p, vm_first(n), _mm512_cvtepi32_epi16(top));
#else
    uint16_t t[VL];
    const __m128i lo = _mm256_castsi256_si128(top), hi = _mm256_extracti128_si256(top, 1);
    _mm_storeu_si128((__m128i *)(void *)t, _mm_packus_epi32(lo, hi));
    memcpy(p, t, (size_t)(n < VL ? n : VL) * sizeof *p);
#endif
}

#define VF_LOG2E 1.44269504088896341f /* e^x = 2^(x log2 e) */

/* 2^z for all z, <= 2 ulp where the result is normal; NaN stays NaN. AVX-512: rounded once more
 * below the normal range, infinity from 128 on. AVX2: 0 below -126.5, infinity from 127.5 on.
 * Polynomial of degree 5 on [-1/2, 1/2], minimax in f32 with p(0) = 1. */
VINL vf vf_exp2(vf z)
{
    static const float c[] = {0x1.5bbc66p-10f, 0x1.3ce98ap-7f, 0x1.c6b768p-5f, 0x1.ebf9ccp-3f,
                              0x1.62e42ap-1f};
#ifdef __AVX512F__
    /* note: infinite z leaves 0 */
    vf f = _mm512_reduce_ps(z, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    /* the sum's last 9 bits are the nearest integer + 127: shifted up, 2 to the power of it (0 and
     * infinity at the ends); operands in this order keep NaN */
    const vf bias = vf_set(0x1.8p23f + 127.0f);
    z = vf_min(vf_set(128.0f), vf_max(vf_set(-127.0f), z));
    vf t = vf_add(z, bias), f = vf_sub(z, vf_sub(t, bias));
#endif
    vf p = vf_set(c[0]);
    for (int i = 1; i < 5; i++)
        p = vf_fma(p, f, vf_set(c[i]));
    p = vf_fma(p, f, vf_set(1.0f));
#ifdef __AVX512F__
    return _mm512_scalef_ps(p, vf_nearest(z));
#else
    return vf_mul(p, vi_float(vi_shl(vf_bits(t), 23)));
#endif
}
#ifdef __AVX512F__
/* 2^z for values that become bf16: relative error at most 2^-13.5 (bf16: 2^-9), exact at whole z.
 * Polynomial of degree 3 on [0, 1] with p(0) = 1, minimax in relative error. */
VINL vf vf_exp2_half(vf z)
{
    const vf f = _mm512_reduce_ps(z, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    vf p = vf_fma(vf_set(0x1.3baaaap-4f), f, vf_set(0x1.d23788p-3f));
    p = vf_fma(p, f, vf_set(0x1.63e65ap-1f));
    p = vf_fma(p, f, vf_set(1.0f));
    return _mm512_scalef_ps(p, z); /* note: which takes the whole part of z */
}
#endif
/* x / (1 + 2^z). AVX-512: by an estimate of 1/d (2^-14) and one step of Newton, which take a third
 * of a division's time; within 1 ulp of it below 2^64 (past it by the estimate alone, for the step
 * would make NaN of an infinite d). */
VINL vf vf_gated(vf x, vf z)
{
    const vf d = vf_add(vf_set(1.0f), vf_exp2(z));
#ifdef __AVX512F__
    const vf r = _mm512_rcp14_ps(d), q = vf_mul(x, r);
    const __mmask16 step = _mm512_cmp_ps_mask(d, vf_set(0x1p64f), _CMP_LT_OQ);
    return _mm512_mask3_fmadd_ps(_mm512_fnmadd_ps(q, d, x), r, q, step);
#else
    return vf_div(x, d);
#endif
}
VINL vf vf_sigmoid(vf x)
{
    return vf_gated(vf_set(1.0f), vf_mul(x, vf_set(-VF_LOG2E)));
}
#endif
