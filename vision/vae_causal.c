#include "vision/vae_causal.h"

kin_status kin_causal_take(kin_causal *r, const kin_tensor *t)
{
    r->t = *t;
    return r->ctx->tape ? KIN_OK : kin_ws_keep(r->ctx, r->mark, &r->t);
}

kin_status kin_causal_remember(kin_causal *r, kin_dtype dtype, int64_t frames, int64_t B, int64_t H,
                               int64_t W, int64_t C)
{
    if (r->used == KIN_CAUSAL_LAYERS)
        return kin_fail(&r->ctx->error, KIN_ERR_ARG, "vae: more than %d causal layers",
                        KIN_CAUSAL_LAYERS);
    return KIN_WS(r->ctx, &r->memory[r->used++], dtype, B, frames, H, W, C);
}

/* y = [past | x] along time */
static kin_status before(kin_causal *r, const kin_tensor *past, const kin_tensor *x, kin_tensor *y)
{
    const kin_tensor part[2] = {*past, *x};

    return kin_concat(r->ctx, part, 2, 1, y);
}

/* the last frames of y into the memory; with a tape they stay nodes */
static kin_status keep_last(kin_causal *r, const kin_tensor *y, int64_t keep, kin_tensor *memory)
{
    kin_tensor part;

    if (y->size[1] >= keep) {
        part = kin_tensor_slice(y, 1, y->size[1] - keep, keep);
        return r->ctx->tape ? kin_contiguous(r->ctx, &part, memory)
                            : kin_copy_into(r->ctx, &part, memory);
    }
    KIN_TRY(kin_fill(r->ctx, memory, 0));
    part = kin_tensor_slice(memory, 1, keep - y->size[1], y->size[1]);
    return kin_copy_into(r->ctx, y, &part);
}

kin_status kin_causal_past(kin_causal *r, const kin_tensor *x, int64_t keep, kin_tensor *y,
                           int *front)
{
    kin_tensor *memory = &r->memory[r->used++];

    *y = *x;
    *front = 0;
    if (!r->first) {
        KIN_TRY(before(r, memory, x, y));
    } else if (r->repeat) {
        const kin_tensor one = kin_tensor_slice(x, 1, 0, 1), part[3] = {one, one, *x};

        KIN_TRY(kin_concat(r->ctx, part, 3, 1, y));
    } else {
        *front = 2;
    }
    return r->whole ? KIN_OK : keep_last(r, y, keep, memory);
}

kin_status kin_causal_conv(kin_causal *r, kin_param *w, kin_param *b, const kin_tensor *x,
                           const kin_tensor *residual, kin_tensor *y)
{
    kin_conv_options opt = {.top = 1, .bottom = 1, .left = 1, .right = 1};
    kin_tensor past;

    KIN_TRY(kin_causal_past(r, x, 2, &past, &opt.front));
    return kin_conv(r->ctx, &past, w, b, &opt, residual, y);
}

kin_status kin_causal_in_space(kin_causal *r, kin_param *w, kin_param *b,
                               const kin_conv_options *opt)
{
    const int64_t *n = r->t.size;
    const kin_tensor frames = KIN_RESHAPE(&r->t, n[0] * n[1], n[2], n[3], n[4]);
    kin_tensor y;

    KIN_TRY(kin_conv(r->ctx, &frames, w, b, opt, NULL, &y));
    y = KIN_RESHAPE(&y, n[0], n[1], y.size[1], y.size[2], y.size[3]);
    return kin_causal_take(r, &y);
}

kin_status kin_causal_piece(kin_ctx *ctx, const kin_tensor *x, int64_t from, int64_t count,
                            kin_tensor *y)
{
    const kin_tensor part = kin_tensor_slice(x, 2, from, count);
    kin_tensor dense = part;

    if (!kin_tensor_is_contiguous(&part))
        KIN_TRY(kin_contiguous(ctx, &part, &dense));
    return kin_vae_channels_last(ctx, &dense, y);
}
