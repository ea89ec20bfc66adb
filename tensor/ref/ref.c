/* tensor/ref/ref.c: the reference table, and the activations all kernels share. */
#include "tensor/ref/ref.h"

static double sigmoid(double x)
{
    double e = exp(-fabs(x));
    return x >= 0 ? 1 / (1 + e) : e / (1 + e);
}

/* Inner argument of the tanh form of GELU, and its derivative. */
static const double gelu_a = 0.79788456080286535588, gelu_b = 0.044715;

static double wisa_factor(double x)
{
    return x < 0 ? 0 : (x > 1 ? 0.10 : 0.05 * x) / (1 + x + 1e-5);
}

double kin_ref_act(kin_act act, double x)
{
    switch (act) {
    case KIN_ACT_NONE: return x;
    case KIN_ACT_GELU_TANH: return 0.5 * x * (1 + tanh(gelu_a * (x + gelu_b * x * x * x)));
    case KIN_ACT_SILU: return x * sigmoid(x);
    case KIN_ACT_SIGMOID: return sigmoid(x);
    case KIN_ACT_RELU: return x > 0 ? x : 0;
    case KIN_ACT_WISA_LOSS: return wisa_factor(x) * (1 + x);
    }
    return NAN;
}

double kin_ref_act_grad(kin_act act, double x)
{
    double t, s;
    switch (act) {
    case KIN_ACT_NONE: return 1;
    case KIN_ACT_GELU_TANH:
        t = tanh(gelu_a * (x + gelu_b * x * x * x));
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * gelu_a * (1 + 3 * gelu_b * x * x);
    case KIN_ACT_SILU: s = sigmoid(x); return s * (1 + x * (1 - s));
    case KIN_ACT_SIGMOID: s = sigmoid(x); return s * (1 - s);
    case KIN_ACT_RELU: return x > 0 ? 1 : 0;
    case KIN_ACT_WISA_LOSS: return wisa_factor(x);
    }
    return NAN;
}

void kin_kernels_init_ref(kin_kernels *k)
{
    *k = (kin_kernels){
        .linear = kin_ref_linear,
        .linear_dx = kin_ref_linear_dx,
        .linear_dw = kin_ref_linear_dw,
        .grouped = kin_ref_grouped,
        .grouped_dx = kin_ref_grouped_dx,
        .grouped_dw = kin_ref_grouped_dw,
        .combine = kin_ref_combine,
        .combine_bwd = kin_ref_combine_bwd,
        .layernorm = kin_ref_layernorm,
        .layernorm_bwd = kin_ref_layernorm_bwd,
        .rmsnorm = kin_ref_rmsnorm,
        .rmsnorm_bwd = kin_ref_rmsnorm_bwd,
        .rope = kin_ref_rope,
        .attention = kin_ref_attention,
        .attention_bwd = kin_ref_attention_bwd,
        .embedding = kin_ref_embedding,
        .embedding_bwd = kin_ref_embedding_bwd,
        .patch = kin_ref_patch,
        .cosine = kin_ref_cosine,
        .cosine_bwd = kin_ref_cosine_bwd,
        .topk = kin_ref_topk,
        .topk_bwd = kin_ref_topk_bwd,
        .choose = kin_ref_choose,
        .dispatch = kin_ref_dispatch,
        .rcl = kin_ref_rcl,
        .rcl_bwd = kin_ref_rcl_bwd,
        .balance = kin_ref_balance,
        .balance_bwd = kin_ref_balance_bwd,
        .sinusoid = kin_ref_sinusoid,
        .loss = kin_ref_loss,
        .loss_bwd = kin_ref_loss_bwd,
        .binary = kin_ref_binary,
        .reduce = kin_ref_reduce,
        .unary = kin_ref_unary,
        .unary_bwd = kin_ref_unary_bwd,
        .gated_add = kin_ref_gated_add,
        .gate_bwd = kin_ref_gate_bwd,
        .conv = kin_ref_conv,
        .conv_dx = kin_ref_conv_dx,
        .conv_dw = kin_ref_conv_dw,
        .groupnorm = kin_ref_groupnorm,
        .groupnorm_bwd = kin_ref_groupnorm_bwd,
        .posterior = kin_ref_posterior,
        .posterior_bwd = kin_ref_posterior_bwd,
        .softmax = kin_ref_softmax,
        .softmax_bwd = kin_ref_softmax_bwd,
        .copy = kin_ref_copy,
        .fill = kin_ref_fill,
        .transpose = kin_ref_transpose,
        .randn = kin_ref_randn,
        .adamw = kin_ref_adamw,
        .sumsq = kin_ref_sumsq,
    };
}
