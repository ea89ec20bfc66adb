#include "physics/quantity.h"

#include <math.h>

kin_status kin_quantity_register(kin_params *params, const char *prefix, int64_t dim, int64_t freq,
                                 int64_t out, kin_quantity *q, kin_error *err)
{
    const kin_init xavier = KIN_INIT(KIN_INIT_XAVIER, 1), zero = KIN_INIT(KIN_INIT_ZERO, 0);
    const int64_t hidden = KIN_QUANTITY_HIDDEN;

    if (freq < 2 * KIN_QUANTITY_COUNT)
        return kin_fail(err, KIN_ERR_ARG,
                        "quantity embedding: %lld encoding values must be at least 36 "
                        "(one frequency for each of 18 quantities)",
                        (long long)freq);
    *q = (kin_quantity){.dim = dim, .freq = freq, .out = out};
    q->proj_w =
        kin_params_add(params, xavier, KIN_DIMS(dim, freq), "%squantify_proj.weight", prefix);
    q->proj_b = kin_params_add(params, zero, KIN_DIMS(dim), "%squantify_proj.bias", prefix);
    if (dim <= KIN_QUANTITY_SINGLE_MAX) {
        q->out_w =
            kin_params_add(params, xavier, KIN_DIMS(out, dim), "%slinear_adaln.weight", prefix);
        q->out_b = kin_params_add(params, zero, KIN_DIMS(out), "%slinear_adaln.bias", prefix);
        return KIN_OK;
    }
    q->hidden_w =
        kin_params_add(params, xavier, KIN_DIMS(hidden, dim), "%slinear_adaln.0.weight", prefix);
    q->hidden_b = kin_params_add(params, zero, KIN_DIMS(hidden), "%slinear_adaln.0.bias", prefix);
    q->out_w =
        kin_params_add(params, xavier, KIN_DIMS(out, hidden), "%slinear_adaln.2.weight", prefix);
    q->out_b = kin_params_add(params, zero, KIN_DIMS(out), "%slinear_adaln.2.bias", prefix);
    return KIN_OK;
}

typedef struct encode_saved {
    kin_tensor quant, y;
    int64_t per;
} encode_saved;

/* d quant[b,i] = sum_j w_j (cos_j * dsin_j - sin_j * dcos_j) */
static kin_status encode_backward(kin_ctx *ctx, void *saved)
{
    const encode_saved *s = saved;
    const int64_t batch = s->y.size[0], width = s->y.size[1], per = s->per;
    kin_tensor dy = kin_tape_grad_in(ctx, &s->y), dq;
    bool acc;

    if (!dy.data)
        return KIN_OK;
    KIN_TRY(kin_tape_grad_slot(ctx, &s->quant, &dq, &acc));
    if (!dq.data || kin_ctx_is_plan(ctx))
        return KIN_OK;
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor y, from, to;

    KIN_TRY(kin_host(ctx, &s->y, &y));
    KIN_TRY(kin_host(ctx, &dy, &from));
    KIN_TRY(kin_host(ctx, &dq, &to));
    for (int64_t b = 0; b < batch; b++) {
        for (int64_t i = 0; i < KIN_QUANTITY_COUNT; i++) {
            const int64_t c = b * width + i * 2 * per, at = b * KIN_QUANTITY_COUNT + i;
            double sum = acc ? kin_tensor_get(&to, at) : 0.0;

            for (int64_t j = 0; j < per; j++) {
                const float w = expf(-logf(10000.0f) * (float)j / (float)per);

                sum += (double)w * (kin_tensor_get(&y, c + j) * kin_tensor_get(&from, c + per + j) -
                                    kin_tensor_get(&y, c + per + j) * kin_tensor_get(&from, c + j));
            }
            kin_tensor_set(&to, at, sum);
        }
    }
    KIN_TRY(kin_host_back(ctx, &to, &dq));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_quantity_encode(kin_ctx *ctx, const kin_tensor *quant, int64_t freq,
                               kin_tensor *encoding)
{
    const int64_t per = freq / 2 / KIN_QUANTITY_COUNT;
    encode_saved *saved;

    if (quant->ndim != 2 || quant->size[1] != KIN_QUANTITY_COUNT)
        return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                        "quantity embedding: quantities must be [B,18]");
    KIN_TRY(kin_sinusoid(ctx, quant, per, freq, encoding));
    if (!kin_tape_needs(ctx, quant))
        return KIN_OK;
    saved = kin_ws_bytes(ctx, sizeof(*saved));
    if (!saved)
        return ctx->error.status;
    saved->quant = *quant;
    saved->per = per;
    KIN_TRY(kin_tape_add(ctx, encoding, encode_backward, saved));
    saved->y = *encoding;
    return KIN_OK;
}

kin_status kin_quantity_project(kin_ctx *ctx, const kin_quantity *q, const kin_tensor *encoding,
                                kin_tensor *y)
{
    return kin_linear(ctx, encoding, q->proj_w, q->proj_b, y);
}

kin_status kin_quantity_embed(kin_ctx *ctx, const kin_quantity *q, const kin_tensor *quant,
                              int64_t batch, kin_dtype dtype, kin_tensor *y)
{
    kin_tensor zeros, encoding;

    if (!quant) {
        KIN_TRY(KIN_WS(ctx, &zeros, dtype, batch, KIN_QUANTITY_COUNT));
        KIN_TRY(kin_fill(ctx, &zeros, 0));
        quant = &zeros;
    }
    KIN_TRY(kin_quantity_encode(ctx, quant, q->freq, &encoding));
    return kin_quantity_project(ctx, q, &encoding, y);
}

/* linear_adaln -> [B,3,out/3] */
static kin_status to_vectors(kin_ctx *ctx, const kin_quantity *q, const kin_tensor *y,
                             kin_tensor *r)
{
    kin_tensor hidden = *y;

    if (q->hidden_w)
        KIN_TRY(kin_linear_act(ctx, y, q->hidden_w, q->hidden_b, KIN_ACT_SILU, &hidden));
    KIN_TRY(kin_linear(ctx, &hidden, q->out_w, q->out_b, r));
    *r = KIN_RESHAPE(r, y->size[0], 3, q->out / 3);
    return KIN_OK;
}

kin_status kin_quantity_modulate(kin_ctx *ctx, const kin_quantity *q, const kin_tensor *y,
                                 const kin_tensor *tproj, kin_tensor *ptemb)
{
    kin_tensor r;

    KIN_TRY(to_vectors(ctx, q, y, &r));
    return kin_add(ctx, tproj, &r, 1.0f, ptemb);
}

kin_status kin_quantity_modulate_sum(kin_ctx *ctx, const kin_quantity *q, const kin_tensor *y,
                                     const kin_tensor *temb, kin_tensor *ptemb)
{
    kin_tensor sum;

    KIN_TRY(kin_add(ctx, temb, y, 1.0f, &sum));
    return to_vectors(ctx, q, &sum, ptemb);
}
