/* tensor/cpu/simd/act.h: activations and their derivatives on vectors; formulas as tensor/ref/. */
#ifndef KIN_CPU_SIMD_ACT_H
#define KIN_CPU_SIMD_ACT_H

#include "tensor/cpu/simd/vec.h"
#include "tensor/kernels.h"

/* sqrt(2/pi) and the cubic coefficient of the tanh form of GELU */
#define GELU_A 0.7978845608028654f
#define GELU_B 0.044715f
/* 2u in powers of two, negative: sigmoid(2u) = 1 / (1 + 2^(GELU_C (x + GELU_B x^3))) */
#define GELU_C (-2.0f * GELU_A * VF_LOG2E)

/* The factor of KIN_ACT_WISA_LOSS. note: operands in this order keep NaN */
VINL vf vf_wisa_factor(vf x)
{
    const vf one = vf_set(1.0f);
    x = vf_max(vf_zero(), x);
    return vf_div(vf_blend(vf_gt(x, one), vf_set(0.10f), vf_mul(vf_set(0.05f), x)),
                  vf_add(vf_add(one, x), vf_set(1e-5f)));
}

VINL vf vf_act(kin_act act, vf x)
{
    switch (act) {
    case KIN_ACT_GELU_TANH: {
        /* note: 0.5*(1+tanh(u)) = sigmoid(2u): one exp, no cancellation */
        vf x2 = vf_mul(x, x);
        return vf_gated(x, vf_mul(x, vf_fma(x2, vf_set(GELU_C * GELU_B), vf_set(GELU_C))));
    }
    case KIN_ACT_SILU: return vf_gated(x, vf_mul(x, vf_set(-VF_LOG2E)));
    case KIN_ACT_SIGMOID: return vf_sigmoid(x);
    case KIN_ACT_RELU: return vf_max(x, vf_zero());
    case KIN_ACT_WISA_LOSS: return vf_mul(vf_wisa_factor(x), vf_add(vf_set(1.0f), x));
    case KIN_ACT_NONE:
    default: return x;
    }
}

/* d act / dx at x */
VINL vf vf_act_grad(kin_act act, vf x)
{
    vf one = vf_set(1.0f);
    switch (act) {
    case KIN_ACT_GELU_TANH: {
        /* note: past 12 the slope is 0 or 1 and x^3 would overflow; operands in this order keep NaN
         */
        x = vf_min(vf_set(12.0f), vf_max(vf_set(-12.0f), x));
        vf x2 = vf_mul(x, x);
        vf z = vf_mul(x, vf_fma(x2, vf_set(GELU_C * GELU_B), vf_set(GELU_C)));
        vf s = vf_gated(one, z);
        vf du = vf_mul(vf_set(2.0f * GELU_A), vf_fma(x2, vf_set(3.0f * GELU_B), one));
        /* s + x s (1-s) du */
        return vf_fma(vf_mul(vf_mul(x, s), vf_sub(one, s)), du, s);
    }
    case KIN_ACT_SILU: {
        vf s = vf_sigmoid(x);
        return vf_mul(s, vf_fma(x, vf_sub(one, s), one));
    }
    case KIN_ACT_SIGMOID: {
        vf s = vf_sigmoid(x);
        return vf_mul(s, vf_sub(one, s));
    }
    case KIN_ACT_RELU: return vf_blend(vf_gt(x, vf_zero()), one, vf_zero());
    case KIN_ACT_WISA_LOSS: return vf_wisa_factor(x);
    case KIN_ACT_NONE:
    default: return one;
    }
}

#endif
