/* tensor/e4m3.h: 8-bit floats with 4 bits of exponent and 3 of mantissa (Micikevicius et al., "FP8
 * formats for deep learning", arXiv 2209.05433): bias 7, largest 448, smallest 2^-9, no infinity,
 * 0x7f and 0xff are NaN. One text for the host and for kernels. */
#ifndef KIN_TENSOR_E4M3_H
#define KIN_TENSOR_E4M3_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define KIN_BOTH_SIDES __host__ __device__
#else
#define KIN_BOTH_SIDES
#endif

#define KIN_E4M3_MAX 448.0f

/* To nearest, ties to even; beyond the largest (infinity too) the largest, NaN stays NaN. */
KIN_BOTH_SIDES static inline uint8_t kin_f32_to_e4m3(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    const uint8_t sign = (uint8_t)(bits >> 24 & 0x80u);
    uint32_t mag = bits & 0x7fffffffu;
    if (mag > 0x7f800000u)
        return (uint8_t)(sign | 0x7fu);
    if (mag >= 0x43e00000u) /* 448 */
        return (uint8_t)(sign | 0x7eu);
    if (mag < 0x3c800000u) { /* 2^-6: multiples of 2^-9, as adding 2^14 rounds them */
        float f;
        memcpy(&f, &mag, sizeof f);
        f += 16384.0f;
        memcpy(&mag, &f, sizeof mag);
        return (uint8_t)(sign | (mag - 0x46800000u));
    }
    mag += 0x7ffffu + (mag >> 20 & 1u);
    return (uint8_t)(sign | (mag - 0x3c000000u) >> 20);
}

KIN_BOTH_SIDES static inline float kin_e4m3_to_f32(uint8_t v)
{
    const uint32_t sign = (uint32_t)(v & 0x80u) << 24, exponent = v >> 3 & 15u, mant = v & 7u;
    uint32_t bits = sign | (exponent + 120u) << 23 | mant << 20;
    float f;
    if ((v & 0x7fu) == 0x7fu)
        bits = sign | 0x7fc00000u;
    memcpy(&f, &bits, sizeof f);
    if (exponent == 0) {
        f = (float)mant * 0.001953125f; /* 2^-9 */
        return sign ? -f : f;
    }
    return f;
}

#endif
