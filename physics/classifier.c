#include "physics/classifier.h"

void kin_classifier_register(kin_params *params, const char *prefix, int64_t width, int64_t classes,
                             kin_classifier *c)
{
    const kin_init xavier = KIN_INIT(KIN_INIT_XAVIER, 1), zero = KIN_INIT(KIN_INIT_ZERO, 0);
    const int64_t hidden = KIN_CLASSIFIER_HIDDEN;

    c->w0 = kin_params_add(params, xavier, KIN_DIMS(hidden, width), "%s0.weight", prefix);
    c->b0 = kin_params_add(params, zero, KIN_DIMS(hidden), "%s0.bias", prefix);
    c->w2 = kin_params_add(params, xavier, KIN_DIMS(classes, hidden), "%s2.weight", prefix);
    c->b2 = kin_params_add(params, zero, KIN_DIMS(classes), "%s2.bias", prefix);
}

kin_status kin_classifier_forward(kin_ctx *ctx, const kin_classifier *c, const kin_tensor *token,
                                  kin_tensor *logits)
{
    kin_tensor hidden;

    KIN_TRY(kin_linear_act(ctx, token, c->w0, c->b0, KIN_ACT_SILU, &hidden));
    return kin_linear(ctx, &hidden, c->w2, c->b2, logits);
}

kin_status kin_classifier_loss(kin_ctx *ctx, kin_classifier_loss_kind kind, const kin_tensor *a,
                               kin_tensor *c)
{
    return kind == KIN_CLASSIFIER_LOSS_PLAIN ? kin_scale(ctx, a, 0.1f, c)
                                             : kin_activation(ctx, a, KIN_ACT_WISA_LOSS, c);
}
