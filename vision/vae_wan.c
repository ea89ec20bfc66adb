/* vision/vae_wan.c: AutoencoderKLWan, the causal video autoencoder of Wan 2.1 (Wan Team 2025,
 * arXiv:2503.20314) as diffusers has it. Inside, activations are [B,F,H,W,C].
 *
 * Inference goes through the video in pieces (frame 0, then four frames at a time; latents one by
 * one) and keeps of every convolution the frames that the next piece needs: memory does not grow
 * with the length. With a tape or a tap the video is one piece. Both give the same values, for a
 * piece is only a part of the same causal convolutions. */
#include "vision/vae_wan.h"

#include "vision/vae_causal.h"

/* What is left of x / max(||x||, 1e-12) * sqrt(C) where the mean square is taken: far below it. */
#define NORM_EPS 1e-30f

typedef struct run {
    kin_causal c; /* first */
    const kin_vae_wan *v;
} run;

/* frames [from, from+count) as a contiguous tensor */
static kin_status frames_of(kin_ctx *ctx, const kin_tensor *x, int64_t from, int64_t count,
                            kin_tensor *y)
{
    const kin_tensor part = kin_tensor_slice(x, 1, from, count);

    *y = part;
    return kin_tensor_is_contiguous(&part) ? KIN_OK : kin_contiguous(ctx, &part, y);
}

/* --- layers --- */

static kin_status rms(run *r, kin_param *gamma, const kin_tensor *x, bool silu, kin_tensor *y)
{
    kin_tensor n;

    if (!silu)
        return kin_rmsnorm(r->c.ctx, x, gamma, NORM_EPS, y);
    KIN_TRY(kin_rmsnorm(r->c.ctx, x, gamma, NORM_EPS, &n));
    return kin_activation(r->c.ctx, &n, KIN_ACT_SILU, y);
}

/* y = shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x)))))) */
static kin_status block(run *r, const kin_wan_resnet *b)
{
    kin_ctx *ctx = r->c.ctx;
    const kin_tensor x = r->c.t;
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor n, h, s = x, y;

    KIN_TRY(rms(r, b->gamma1, &x, true, &n));
    KIN_TRY(kin_causal_conv(&r->c, b->conv1.w, b->conv1.b, &n, NULL, &h));
    if (!ctx->tape)
        KIN_TRY(kin_ws_keep(ctx, mark, &h));
    KIN_TRY(rms(r, b->gamma2, &h, true, &n));
    if (b->shortcut.w)
        KIN_TRY(kin_linear(ctx, &x, b->shortcut.w, b->shortcut.b, &s));
    KIN_TRY(kin_causal_conv(&r->c, b->conv2.w, b->conv2.b, &n, &s, &y));
    return kin_causal_take(&r->c, &y);
}

/* one head over the pixels of each frame */
static kin_status attend(run *r, const kin_wan_middle *m)
{
    const int64_t *n = r->c.t.size, frames = n[0] * n[1], pixels = n[2] * n[3], width = n[4];
    const kin_tensor x = KIN_RESHAPE(&r->c.t, frames, pixels, width);
    kin_tensor h, qkv, q, k, v, o, y;

    KIN_TRY(rms(r, m->gamma, &x, false, &h));
    KIN_TRY(kin_linear(r->c.ctx, &h, m->qkv.w, m->qkv.b, &qkv));
    qkv = KIN_RESHAPE(&qkv, frames, pixels, 3, 1, width);
    q = kin_tensor_select(&qkv, 2, 0);
    k = kin_tensor_select(&qkv, 2, 1);
    v = kin_tensor_select(&qkv, 2, 2);
    KIN_TRY(kin_attention(r->c.ctx, &q, &k, &v, NULL, &o));
    o = KIN_RESHAPE(&o, frames, pixels, width);
    KIN_TRY(kin_linear_residual(r->c.ctx, &o, m->proj.w, m->proj.b, &x, NULL, &y));
    y = KIN_RESHAPE(&y, n[0], n[1], n[2], n[3], width);
    return kin_causal_take(&r->c, &y);
}

static kin_status middle(run *r, const kin_wan_middle *m)
{
    KIN_TRY(block(r, &m->before));
    KIN_TRY(attend(r, m));
    return block(r, &m->after);
}

/* --- time --- */

/* Frame 0 stays; frame j >= 1 of the result is the convolution of frames 2j-2, 2j-1, 2j. */
static kin_status halve_time(run *r, const kin_vae_layer *l)
{
    kin_tensor x = r->c.t, all, odd, part[2], y;
    int front;

    KIN_TRY(kin_causal_past(&r->c, &r->c.t, 1, &x, &front));
    if (x.size[1] == 1)
        return KIN_OK;
    KIN_TRY(kin_conv(r->c.ctx, &x, l->w, l->b, NULL, NULL, &all));
    odd = all;
    odd.size[1] = (all.size[1] + 1) / 2;
    odd.stride[1] *= 2;
    if (!r->c.first) {
        KIN_TRY(kin_contiguous(r->c.ctx, &odd, &y));
        return kin_causal_take(&r->c, &y);
    }
    part[0] = kin_tensor_slice(&r->c.t, 1, 0, 1);
    part[1] = odd;
    KIN_TRY(kin_concat(r->c.ctx, part, 2, 1, &y));
    return kin_causal_take(&r->c, &y);
}

/* Frame 0 stays one frame. Every later frame becomes two, the first and the second half of the
 * convolution's channels, for which frame 0 and what is before it count as zero. */
static kin_status double_time(run *r, const kin_vae_layer *l)
{
    const int64_t B = r->c.t.size[0], H = r->c.t.size[2], W = r->c.t.size[3], C = r->c.t.size[4];
    const int64_t later = r->c.t.size[1] - (r->c.first ? 1 : 0);
    kin_tensor *memory = &r->c.memory[r->c.used];
    kin_tensor x, past, y, part[2];
    kin_conv_options opt = {.front = 2};

    if (r->c.first && !r->c.whole)
        KIN_TRY(kin_fill(r->c.ctx, memory, 0)); /* the zeros before frame 1 */
    if (!later) {
        r->c.used++;
        return KIN_OK;
    }
    KIN_TRY(frames_of(r->c.ctx, &r->c.t, r->c.t.size[1] - later, later, &x));
    KIN_TRY(kin_causal_past(&r->c, &x, 2, &past, &opt.front));
    KIN_TRY(kin_conv(r->c.ctx, &past, l->w, l->b, &opt, NULL, &y));
    y = KIN_RESHAPE(&y, B * later, H * W, 2, C);
    x = kin_tensor_transpose(&y, 1, 2);
    KIN_TRY(kin_contiguous(r->c.ctx, &x, &y));
    y = KIN_RESHAPE(&y, B, 2 * later, H, W, C);
    if (r->c.first) {
        part[0] = kin_tensor_slice(&r->c.t, 1, 0, 1);
        part[1] = y;
        KIN_TRY(kin_concat(r->c.ctx, part, 2, 1, &past));
        return kin_causal_take(&r->c, &past);
    }
    return kin_causal_take(&r->c, &y);
}

/* --- pieces --- */

static kin_status end(run *r, const kin_wan_half *h, kin_tensor *y)
{
    kin_tensor n;

    KIN_TRY(rms(r, h->norm_out, &r->c.t, true, &n));
    return kin_causal_conv(&r->c, h->conv_out.w, h->conv_out.b, &n, NULL, y);
}

static kin_status encode_piece(run *r)
{
    static const kin_conv_options halve = {.stride = 2, .bottom = 1, .right = 1};
    const kin_wan_half *h = &r->v->encoder;
    kin_tensor y;
    int at = 0;

    KIN_TRY(kin_causal_conv(&r->c, h->conv_in.w, h->conv_in.b, &r->c.t, NULL, &y));
    KIN_TRY(kin_causal_take(&r->c, &y));
    KIN_TRY(kin_vae_tap(r->c.ctx, &r->c.t, "encoder.conv_in"));
    for (int i = 0; i < r->v->base.levels; i++) {
        const kin_wan_level *l = &h->level[i];

        for (int j = 0; j < l->count; j++) {
            KIN_TRY(block(r, &l->r[j]));
            KIN_TRY(kin_vae_tap(r->c.ctx, &r->c.t, "encoder.down_blocks.%d", at++));
        }
        if (!l->space.w)
            continue;
        KIN_TRY(kin_causal_in_space(&r->c, l->space.w, l->space.b, &halve));
        if (l->time.w)
            KIN_TRY(halve_time(r, &l->time));
        KIN_TRY(kin_vae_tap(r->c.ctx, &r->c.t, "encoder.down_blocks.%d", at++));
    }
    KIN_TRY(middle(r, &h->mid));
    KIN_TRY(kin_vae_tap(r->c.ctx, &r->c.t, "encoder.mid_block"));
    KIN_TRY(end(r, h, &y));
    KIN_TRY(kin_causal_take(&r->c, &y));
    KIN_TRY(kin_vae_tap(r->c.ctx, &r->c.t, "encoder.conv_out"));
    KIN_TRY(kin_linear(r->c.ctx, &r->c.t, r->v->quant.w, r->v->quant.b, &y));
    KIN_TRY(kin_causal_take(&r->c, &y));
    return kin_vae_tap(r->c.ctx, &r->c.t, "quant_conv");
}

static kin_status decode_piece(run *r)
{
    static const kin_conv_options twice = {.up = 2, .top = 1, .bottom = 1, .left = 1, .right = 1};
    const kin_wan_half *h = &r->v->decoder;
    kin_tensor y;

    KIN_TRY(kin_linear(r->c.ctx, &r->c.t, r->v->post_quant.w, r->v->post_quant.b, &y));
    KIN_TRY(kin_causal_take(&r->c, &y));
    KIN_TRY(kin_vae_tap(r->c.ctx, &r->c.t, "post_quant_conv"));
    KIN_TRY(kin_causal_conv(&r->c, h->conv_in.w, h->conv_in.b, &r->c.t, NULL, &y));
    KIN_TRY(kin_causal_take(&r->c, &y));
    KIN_TRY(kin_vae_tap(r->c.ctx, &r->c.t, "decoder.conv_in"));
    KIN_TRY(middle(r, &h->mid));
    KIN_TRY(kin_vae_tap(r->c.ctx, &r->c.t, "decoder.mid_block"));
    for (int i = 0; i < r->v->base.levels; i++) {
        const kin_wan_level *l = &h->level[i];

        for (int j = 0; j < l->count; j++)
            KIN_TRY(block(r, &l->r[j]));
        if (l->time.w)
            KIN_TRY(double_time(r, &l->time));
        if (l->space.w)
            KIN_TRY(kin_causal_in_space(&r->c, l->space.w, l->space.b, &twice));
        KIN_TRY(kin_vae_tap(r->c.ctx, &r->c.t, "decoder.up_blocks.%d", i));
    }
    KIN_TRY(end(r, h, &y));
    KIN_TRY(kin_causal_take(&r->c, &y));
    return kin_vae_tap(r->c.ctx, &r->c.t, "decoder.conv_out");
}

/* --- what is remembered --- */

static kin_status remember_block(run *r, const kin_wan_resnet *b, int64_t B, int64_t H, int64_t W)
{
    KIN_TRY(kin_causal_remember(&r->c, r->c.t.dtype, 2, B, H, W, b->in));
    return kin_causal_remember(&r->c, r->c.t.dtype, 2, B, H, W, b->out);
}

/* Memory for every causal layer, in the order in which a piece passes them: x is [B,C,F,H,W]. */
static kin_status prepare(run *r, const kin_wan_half *h, const kin_tensor *x, bool encoder)
{
    const int64_t B = x->size[0];
    int64_t H = x->size[3], W = x->size[4];

    r->c.t.dtype = x->dtype;
    r->c.used = 0;
    KIN_TRY(kin_causal_remember(&r->c, r->c.t.dtype, 2, B, H, W, h->in));
    for (int i = -1; i <= r->v->base.levels; i++) {
        if (i == (encoder ? r->v->base.levels : -1)) { /* where the middle stands */
            KIN_TRY(remember_block(r, &h->mid.before, B, H, W));
            KIN_TRY(remember_block(r, &h->mid.after, B, H, W));
        }
        if (i < 0 || i == r->v->base.levels)
            continue;
        for (int j = 0; j < h->level[i].count; j++)
            KIN_TRY(remember_block(r, &h->level[i].r[j], B, H, W));
        if (encoder && h->level[i].space.w) {
            H /= 2;
            W /= 2;
        }
        if (h->level[i].time.w)
            KIN_TRY(kin_causal_remember(&r->c, r->c.t.dtype, encoder ? 1 : 2, B, H, W,
                                        h->level[i].width));
        if (!encoder && h->level[i].space.w) {
            H *= 2;
            W *= 2;
        }
    }
    return kin_causal_remember(&r->c, r->c.t.dtype, 2, B, H, W, h->ends);
}

/* --- the whole --- */

typedef kin_status (*piece_fn)(run *r);

/* y [B,C',F',H',W'], which exists where it is not whole, from x [B,C,F,H,W], `step` frames a piece
 * after the first one of one frame */
static kin_status in_pieces(run *r, piece_fn fn, const kin_tensor *x, int64_t step, kin_tensor *y)
{
    int64_t done = 0;

    r->c.mark = kin_ws_mark(r->c.ctx);
    for (int64_t f = 0; f < x->size[2]; f += r->c.first ? 1 : step) {
        kin_tensor video, part;

        r->c.first = f == 0;
        r->c.used = 0;
        KIN_TRY(kin_causal_piece(r->c.ctx, x, f, r->c.whole ? x->size[2] : f ? step : 1, &part));
        KIN_TRY(kin_causal_take(&r->c, &part));
        KIN_TRY(fn(r));
        KIN_TRY(kin_vae_channels_first(r->c.ctx, &r->c.t, &video));
        if (r->c.whole)
            return kin_causal_take(&r->c, &video) == KIN_OK ? (*y = r->c.t, KIN_OK)
                                                            : r->c.ctx->error.status;
        part = kin_tensor_slice(y, 2, done, video.size[2]);
        KIN_TRY(kin_copy_into(r->c.ctx, &video, &part));
        done += video.size[2];
        kin_ws_release(r->c.ctx, r->c.mark);
    }
    return KIN_OK;
}

static run *begin(kin_ctx *ctx, const kin_vae *vae)
{
    run *r = kin_ws_bytes(ctx, sizeof *r);

    if (r)
        *r = (run){.c = {.ctx = ctx, .first = true, .whole = ctx->tape || ctx->tap},
                   .v = (const kin_vae_wan *)vae};
    return r;
}

static int64_t frames(const kin_vae *vae, int64_t n, bool encoder)
{
    const int64_t r = vae->info.frame_reduction;

    return encoder ? (n - 1) / r + 1 : (n - 1) * r + 1;
}

static kin_status encode(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *x, kin_tensor *moments)
{
    const int64_t step = vae->info.frame_reduction, latent = frames(vae, x->size[2], true);
    const int64_t down = vae->info.reduction;
    /* note: frames that do not fill a last piece are dropped, as the official code does */
    const kin_tensor used = kin_tensor_slice(x, 2, 0, 1 + (latent - 1) * step);
    run *r;

    if (!(ctx->tape || ctx->tap))
        KIN_TRY(KIN_WS(ctx, moments, x->dtype, x->size[0], 2 * vae->info.latent_channels, latent,
                       x->size[3] / down, x->size[4] / down));
    r = begin(ctx, vae);
    if (!r)
        return ctx->error.status;
    if (!r->c.whole)
        KIN_TRY(prepare(r, &r->v->encoder, x, true));
    return in_pieces(r, encode_piece, &used, step, moments);
}

static kin_status decode(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *z, kin_tensor *x)
{
    const int64_t made = frames(vae, z->size[2], false), up = vae->info.reduction;
    run *r;

    if (!(ctx->tape || ctx->tap))
        KIN_TRY(KIN_WS(ctx, x, z->dtype, z->size[0], vae->info.out_channels, made, z->size[3] * up,
                       z->size[4] * up));
    r = begin(ctx, vae);
    if (!r)
        return ctx->error.status;
    if (!r->c.whole)
        KIN_TRY(prepare(r, &r->v->decoder, z, false));
    KIN_TRY(in_pieces(r, decode_piece, z, 1, x));
    return kin_vae_clamp(ctx, x);
}

const kin_vae_class kin_vae_class_wan = {.name = "AutoencoderKLWan",
                                         .video = true,
                                         .bytes = sizeof(kin_vae_wan),
                                         .build = kin_vae_wan_build,
                                         .encode = encode,
                                         .decode = decode,
                                         .frames = frames};
