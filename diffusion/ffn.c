#include "diffusion/ffn.h"

/* weight (and bias) of one layer */
static kin_param *layer(kin_params *params, const char *prefix, const char *name, int64_t out,
                        int64_t in, kin_param **bias)
{
    kin_param *w = kin_params_add(params, KIN_INIT(KIN_INIT_XAVIER, 1), KIN_DIMS(out, in),
                                  "%s%s.weight", prefix, name);

    if (bias)
        *bias = kin_params_add(params, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(out), "%s%s.bias",
                               prefix, name);
    kin_params_allow_int8(&w, 1);
    return w;
}

void kin_ffn_register(kin_params *params, const char *prefix, kin_ffn_form form, int64_t width,
                      int64_t hidden, kin_ffn *f)
{
    const bool fc = form == KIN_FFN_FC, biased = form != KIN_FFN_SWIGLU;

    *f = (kin_ffn){0};
    if (form == KIN_FFN_SWIGLU)
        f->gate = layer(params, prefix, "gate_proj", hidden, width, NULL);
    f->w1 = layer(params, prefix, fc ? "fc1" : "up_proj", hidden, width, biased ? &f->b1 : NULL);
    f->w2 = layer(params, prefix, fc ? "fc2" : "down_proj", width, hidden, biased ? &f->b2 : NULL);
}

kin_status kin_ffn_hidden(kin_ctx *ctx, const kin_ffn *f, const kin_tensor *x, kin_tensor *hidden)
{
    kin_tensor a, u;

    if (!f->gate)
        return kin_linear_operand(ctx, x, f->w1, f->b1, KIN_ACT_GELU_TANH, hidden);
    KIN_TRY(kin_linear_act(ctx, x, f->gate, NULL, KIN_ACT_SILU, &a));
    KIN_TRY(kin_linear(ctx, x, f->w1, NULL, &u));
    return kin_mul(ctx, &a, &u, 1.0f, hidden);
}
