/* vision/vae_wan.c: AutoencoderKLWan, the causal video autoencoder of Wan 2.1 (Wan Team 2025,
 * arXiv:2503.20314) as diffusers has it. Inside, activations are [B,F,H,W,C].
 *
 * Inference goes through the video in pieces (frame 0, then four frames at a time; latents one by
 * one) and keeps of every convolution the frames that the next piece needs: memory does not grow
 * with the length. With a tape or a tap the video is one piece. Both give the same values, for a
 * piece is only a part of the same causal convolutions. */
#include "vision/vae_wan.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/alloc.h"

enum { MEMORIES_MAX = 2 * (KIN_WAN_LEVELS * (KIN_WAN_BLOCKS + 2) + 4) };

/* What is left of x / max(||x||, 1e-12) * sqrt(C) where the mean square is taken: far below it. */
#define NORM_EPS 1e-30f

/* One pass over a video. */
typedef struct run {
    kin_ctx *ctx;
    const kin_vae_wan *v;
    size_t mark;  /* everything from here on is the present activation and what made it */
    kin_tensor t; /* [B,F,H,W,C] */
    bool first;   /* the piece begins with frame 0 */
    bool whole;   /* there is one piece: nothing is remembered */
    kin_tensor memory[MEMORIES_MAX]; /* last frames before the piece, by order of use */
    int used;
} run;

/* t becomes the activation; without a tape what made it is forgotten. */
static kin_status take(run *r, const kin_tensor *t)
{
    r->t = *t;
    return r->ctx->tape ? KIN_OK : kin_ws_keep(r->ctx, r->mark, &r->t);
}

/* Hands the activation to the tap as [B,C,F,H,W]. */
static kin_status tap(run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static kin_status tap(run *r, const char *fmt, ...)
{
    static const int one[3] = {1, 1, 1};
    const int64_t *n = r->t.size;
    const size_t mark = kin_ws_mark(r->ctx);
    kin_tensor tokens = r->t, video;
    char name[96];
    va_list ap;

    if (!r->ctx->tap)
        return KIN_OK;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    tokens.id = 0; /* no entry on the tape */
    tokens = KIN_RESHAPE(&tokens, n[0], n[1] * n[2] * n[3], n[4]);
    KIN_TRY(kin_unpatchify(r->ctx, &tokens, one, true, n[4], n[1], n[2], n[3], &video));
    kin_tap(r->ctx, &video, "%s", name);
    kin_ws_release(r->ctx, mark);
    return KIN_OK;
}

/* --- frames before the piece --- */

/* frames [from, from+count) as a contiguous tensor */
static kin_status frames_of(kin_ctx *ctx, const kin_tensor *x, int64_t from, int64_t count,
                            kin_tensor *y)
{
    const kin_tensor part = kin_tensor_slice(x, 1, from, count);

    *y = part;
    return kin_tensor_is_contiguous(&part) ? KIN_OK : kin_contiguous(ctx, &part, y);
}

/* y = the remembered frames, then x; the last frames of it are remembered for the next piece.
 * Nothing is before the first piece: y is x and *front says how many frames of zeros are due. */
static kin_status with_past(run *r, const kin_tensor *x, kin_tensor *y, int *front)
{
    kin_tensor *memory = &r->memory[r->used++], part[2];
    const int64_t keep = memory->size[1], n = x->size[1];

    *y = *x;
    *front = 2;
    if (r->whole)
        return KIN_OK;
    if (!r->first) {
        *front = 0;
        part[0] = *memory;
        part[1] = *x;
        KIN_TRY(kin_concat(r->ctx, part, 2, 1, y));
    }
    if (y->size[1] >= keep) {
        part[0] = kin_tensor_slice(y, 1, y->size[1] - keep, keep);
        return kin_copy_into(r->ctx, &part[0], memory);
    }
    KIN_TRY(kin_fill(r->ctx, memory, 0));
    part[0] = kin_tensor_slice(memory, 1, keep - n, n);
    return kin_copy_into(r->ctx, x, &part[0]);
}

/* --- layers --- */

static kin_status rms(run *r, kin_param *gamma, const kin_tensor *x, bool silu, kin_tensor *y)
{
    kin_tensor n;

    if (!silu)
        return kin_rmsnorm(r->ctx, x, gamma, NORM_EPS, y);
    KIN_TRY(kin_rmsnorm(r->ctx, x, gamma, NORM_EPS, &n));
    return kin_activation(r->ctx, &n, KIN_ACT_SILU, y);
}

/* causal 3x3x3 */
static kin_status causal(run *r, const kin_wan_layer *l, const kin_tensor *x,
                         const kin_tensor *residual, kin_tensor *y)
{
    kin_conv_options opt = {.top = 1, .bottom = 1, .left = 1, .right = 1};
    kin_tensor past;

    KIN_TRY(with_past(r, x, &past, &opt.front));
    return kin_conv(r->ctx, &past, l->w, l->b, &opt, residual, y);
}

/* every frame by itself */
static kin_status in_space(run *r, const kin_wan_layer *l, const kin_conv_options *opt)
{
    const int64_t *n = r->t.size;
    const kin_tensor frames = KIN_RESHAPE(&r->t, n[0] * n[1], n[2], n[3], n[4]);
    kin_tensor y;

    KIN_TRY(kin_conv(r->ctx, &frames, l->w, l->b, opt, NULL, &y));
    y = KIN_RESHAPE(&y, n[0], n[1], y.size[1], y.size[2], y.size[3]);
    return take(r, &y);
}

/* y = shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x)))))) */
static kin_status block(run *r, const kin_wan_resnet *b)
{
    kin_ctx *ctx = r->ctx;
    const kin_tensor x = r->t;
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor n, h, s = x, y;

    KIN_TRY(rms(r, b->gamma1, &x, true, &n));
    KIN_TRY(causal(r, &b->conv1, &n, NULL, &h));
    if (!ctx->tape)
        KIN_TRY(kin_ws_keep(ctx, mark, &h));
    KIN_TRY(rms(r, b->gamma2, &h, true, &n));
    if (b->shortcut.w)
        KIN_TRY(kin_linear(ctx, &x, b->shortcut.w, b->shortcut.b, &s));
    KIN_TRY(causal(r, &b->conv2, &n, &s, &y));
    return take(r, &y);
}

/* one head over the pixels of each frame */
static kin_status attend(run *r, const kin_wan_middle *m)
{
    const int64_t *n = r->t.size, frames = n[0] * n[1], pixels = n[2] * n[3], width = n[4];
    const kin_tensor x = KIN_RESHAPE(&r->t, frames, pixels, width);
    kin_tensor h, qkv, q, k, v, o, y;

    KIN_TRY(rms(r, m->gamma, &x, false, &h));
    KIN_TRY(kin_linear(r->ctx, &h, m->qkv.w, m->qkv.b, &qkv));
    qkv = KIN_RESHAPE(&qkv, frames, pixels, 3, 1, width);
    q = kin_tensor_select(&qkv, 2, 0);
    k = kin_tensor_select(&qkv, 2, 1);
    v = kin_tensor_select(&qkv, 2, 2);
    KIN_TRY(kin_attention(r->ctx, &q, &k, &v, NULL, &o));
    o = KIN_RESHAPE(&o, frames, pixels, width);
    KIN_TRY(kin_linear_residual(r->ctx, &o, m->proj.w, m->proj.b, &x, NULL, &y));
    y = KIN_RESHAPE(&y, n[0], n[1], n[2], n[3], width);
    return take(r, &y);
}

static kin_status middle(run *r, const kin_wan_middle *m)
{
    KIN_TRY(block(r, &m->before));
    KIN_TRY(attend(r, m));
    return block(r, &m->after);
}

/* --- time --- */

/* Frame 0 stays; frame j >= 1 of the result is the convolution of frames 2j-2, 2j-1, 2j. */
static kin_status halve_time(run *r, const kin_wan_layer *l)
{
    kin_tensor x = r->t, all, odd, part[2], y;
    int front;

    KIN_TRY(with_past(r, &r->t, &x, &front));
    if (x.size[1] == 1)
        return KIN_OK;
    KIN_TRY(kin_conv(r->ctx, &x, l->w, l->b, NULL, NULL, &all));
    odd = all;
    odd.size[1] = (all.size[1] + 1) / 2;
    odd.stride[1] *= 2;
    if (!r->first) {
        KIN_TRY(kin_contiguous(r->ctx, &odd, &y));
        return take(r, &y);
    }
    part[0] = kin_tensor_slice(&r->t, 1, 0, 1);
    part[1] = odd;
    KIN_TRY(kin_concat(r->ctx, part, 2, 1, &y));
    return take(r, &y);
}

/* Frame 0 stays one frame. Every later frame becomes two, the first and the second half of the
 * convolution's channels, for which frame 0 and what is before it count as zero. */
static kin_status double_time(run *r, const kin_wan_layer *l)
{
    const int64_t B = r->t.size[0], H = r->t.size[2], W = r->t.size[3], C = r->t.size[4];
    const int64_t later = r->t.size[1] - (r->first ? 1 : 0);
    kin_tensor *memory = &r->memory[r->used];
    kin_tensor x, past, y, part[2];
    kin_conv_options opt = {.front = 2};

    if (r->first && !r->whole)
        KIN_TRY(kin_fill(r->ctx, memory, 0)); /* the zeros before frame 1 */
    if (!later) {
        r->used++;
        return KIN_OK;
    }
    KIN_TRY(frames_of(r->ctx, &r->t, r->t.size[1] - later, later, &x));
    KIN_TRY(with_past(r, &x, &past, &opt.front));
    KIN_TRY(kin_conv(r->ctx, &past, l->w, l->b, &opt, NULL, &y));
    y = KIN_RESHAPE(&y, B * later, H * W, 2, C);
    x = kin_tensor_transpose(&y, 1, 2);
    KIN_TRY(kin_contiguous(r->ctx, &x, &y));
    y = KIN_RESHAPE(&y, B, 2 * later, H, W, C);
    if (r->first) {
        part[0] = kin_tensor_slice(&r->t, 1, 0, 1);
        part[1] = y;
        KIN_TRY(kin_concat(r->ctx, part, 2, 1, &past));
        return take(r, &past);
    }
    return take(r, &y);
}

/* --- pieces --- */

static kin_status end(run *r, const kin_wan_half *h, kin_tensor *y)
{
    kin_tensor n;

    KIN_TRY(rms(r, h->norm_out, &r->t, true, &n));
    return causal(r, &h->conv_out, &n, NULL, y);
}

static kin_status encode_piece(run *r)
{
    static const kin_conv_options halve = {.stride = 2, .bottom = 1, .right = 1};
    const kin_wan_half *h = &r->v->encoder;
    kin_tensor y;
    int at = 0;

    KIN_TRY(causal(r, &h->conv_in, &r->t, NULL, &y));
    KIN_TRY(take(r, &y));
    KIN_TRY(tap(r, "encoder.conv_in"));
    for (int i = 0; i < r->v->base.levels; i++) {
        const kin_wan_level *l = &h->level[i];

        for (int j = 0; j < l->count; j++) {
            KIN_TRY(block(r, &l->r[j]));
            KIN_TRY(tap(r, "encoder.down_blocks.%d", at++));
        }
        if (!l->space.w)
            continue;
        KIN_TRY(in_space(r, &l->space, &halve));
        if (l->time.w)
            KIN_TRY(halve_time(r, &l->time));
        KIN_TRY(tap(r, "encoder.down_blocks.%d", at++));
    }
    KIN_TRY(middle(r, &h->mid));
    KIN_TRY(tap(r, "encoder.mid_block"));
    KIN_TRY(end(r, h, &y));
    KIN_TRY(take(r, &y));
    KIN_TRY(tap(r, "encoder.conv_out"));
    KIN_TRY(kin_linear(r->ctx, &r->t, r->v->quant.w, r->v->quant.b, &y));
    KIN_TRY(take(r, &y));
    return tap(r, "quant_conv");
}

static kin_status decode_piece(run *r)
{
    static const kin_conv_options twice = {.up = 2, .top = 1, .bottom = 1, .left = 1, .right = 1};
    const kin_wan_half *h = &r->v->decoder;
    kin_tensor y;

    KIN_TRY(kin_linear(r->ctx, &r->t, r->v->post_quant.w, r->v->post_quant.b, &y));
    KIN_TRY(take(r, &y));
    KIN_TRY(tap(r, "post_quant_conv"));
    KIN_TRY(causal(r, &h->conv_in, &r->t, NULL, &y));
    KIN_TRY(take(r, &y));
    KIN_TRY(tap(r, "decoder.conv_in"));
    KIN_TRY(middle(r, &h->mid));
    KIN_TRY(tap(r, "decoder.mid_block"));
    for (int i = 0; i < r->v->base.levels; i++) {
        const kin_wan_level *l = &h->level[i];

        for (int j = 0; j < l->count; j++)
            KIN_TRY(block(r, &l->r[j]));
        if (l->time.w)
            KIN_TRY(double_time(r, &l->time));
        if (l->space.w)
            KIN_TRY(in_space(r, &l->space, &twice));
        KIN_TRY(tap(r, "decoder.up_blocks.%d", i));
    }
    KIN_TRY(end(r, h, &y));
    KIN_TRY(take(r, &y));
    return tap(r, "decoder.conv_out");
}

/* --- what is remembered --- */

static kin_status remember(run *r, int64_t frames, int64_t B, int64_t H, int64_t W, int64_t C)
{
    if (r->used == MEMORIES_MAX)
        return kin_fail(&r->ctx->error, KIN_ERR_ARG, "vae: too many layers");
    return KIN_WS(r->ctx, &r->memory[r->used++], r->t.dtype, B, frames, H, W, C);
}

static kin_status remember_block(run *r, const kin_wan_resnet *b, int64_t B, int64_t H, int64_t W)
{
    KIN_TRY(remember(r, 2, B, H, W, b->in));
    return remember(r, 2, B, H, W, b->out);
}

/* Memory for every causal layer, in the order in which a piece passes them: x is [B,C,F,H,W]. */
static kin_status prepare(run *r, const kin_wan_half *h, const kin_tensor *x, bool encoder)
{
    const int64_t B = x->size[0];
    int64_t H = x->size[3], W = x->size[4];

    r->t.dtype = x->dtype;
    r->used = 0;
    KIN_TRY(remember(r, 2, B, H, W, h->in));
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
            KIN_TRY(remember(r, encoder ? 1 : 2, B, H, W, h->level[i].width));
        if (!encoder && h->level[i].space.w) {
            H *= 2;
            W *= 2;
        }
    }
    return remember(r, 2, B, H, W, h->ends);
}

/* --- the whole --- */

typedef kin_status (*piece_fn)(run *r);

/* frames [from, from+count) of x [B,C,F,H,W] as [B,count,H,W,C] */
static kin_status piece_of(kin_ctx *ctx, const kin_tensor *x, int64_t from, int64_t count,
                           kin_tensor *y)
{
    static const int one[3] = {1, 1, 1};
    const kin_tensor part = kin_tensor_slice(x, 2, from, count);
    kin_tensor dense = part, tokens;

    if (!kin_tensor_is_contiguous(&part))
        KIN_TRY(kin_contiguous(ctx, &part, &dense));
    KIN_TRY(kin_patchify(ctx, &dense, one, true, &tokens));
    *y = KIN_RESHAPE(&tokens, x->size[0], count, x->size[3], x->size[4], x->size[1]);
    return KIN_OK;
}

/* [B,F,H,W,C] -> [B,C,F,H,W] */
static kin_status as_video(kin_ctx *ctx, const kin_tensor *t, kin_tensor *y)
{
    static const int one[3] = {1, 1, 1};
    const int64_t *n = t->size;
    const kin_tensor tokens = KIN_RESHAPE(t, n[0], n[1] * n[2] * n[3], n[4]);

    return kin_unpatchify(ctx, &tokens, one, true, n[4], n[1], n[2], n[3], y);
}

/* y [B,C',F',H',W'], which exists where it is not whole, from x [B,C,F,H,W], `step` frames a piece
 * after the first one of one frame */
static kin_status in_pieces(run *r, piece_fn fn, const kin_tensor *x, int64_t step, kin_tensor *y)
{
    int64_t done = 0;

    r->mark = kin_ws_mark(r->ctx);
    for (int64_t f = 0; f < x->size[2]; f += r->first ? 1 : step) {
        kin_tensor video, part;

        r->first = f == 0;
        r->used = 0;
        KIN_TRY(piece_of(r->ctx, x, f, r->whole ? x->size[2] : f ? step : 1, &part));
        KIN_TRY(take(r, &part));
        KIN_TRY(fn(r));
        KIN_TRY(as_video(r->ctx, &r->t, &video));
        if (r->whole)
            return take(r, &video) == KIN_OK ? (*y = r->t, KIN_OK) : r->ctx->error.status;
        part = kin_tensor_slice(y, 2, done, video.size[2]);
        KIN_TRY(kin_copy_into(r->ctx, &video, &part));
        done += video.size[2];
        kin_ws_release(r->ctx, r->mark);
    }
    return KIN_OK;
}

static run *begin(kin_ctx *ctx, const kin_vae *vae)
{
    run *r = kin_ws_bytes(ctx, sizeof *r);

    if (r)
        *r = (run){.ctx = ctx,
                   .v = (const kin_vae_wan *)vae,
                   .first = true,
                   .whole = ctx->tape || ctx->tap};
    return r;
}

static kin_status encode(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *x, kin_tensor *moments)
{
    const int64_t step = vae->info.frame_reduction, latent = (x->size[2] - 1) / step + 1;
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
    if (!r->whole)
        KIN_TRY(prepare(r, &r->v->encoder, x, true));
    return in_pieces(r, encode_piece, &used, step, moments);
}

/* --- clamp --- */

typedef struct clamp_saved {
    kin_tensor x, y;
} clamp_saved;

static kin_status clamp_backward(kin_ctx *ctx, void *saved)
{
    const clamp_saved *s = saved;
    const kin_tensor dy = kin_tape_grad_in(ctx, &s->y);
    kin_tensor dx;
    bool acc;

    if (!dy.data)
        return KIN_OK;
    KIN_TRY(kin_tape_grad_slot(ctx, &s->x, &dx, &acc));
    if (!dx.data || kin_ctx_is_plan(ctx))
        return KIN_OK;
    for (int64_t i = 0; i < kin_tensor_numel(&dx); i++) {
        const double v = kin_tensor_get(&s->x, i), old = acc ? kin_tensor_get(&dx, i) : 0.0;

        kin_tensor_set(&dx, i, old + (v >= -1 && v <= 1 ? kin_tensor_get(&dy, i) : 0.0));
    }
    return KIN_OK;
}

/* y = min(max(x, -1), 1); in place without a tape */
static kin_status clamp(kin_ctx *ctx, kin_tensor *x)
{
    const int64_t n = kin_tensor_numel(x);
    clamp_saved *saved;
    kin_tensor y = *x;

    if (kin_tape_needs(ctx, x))
        KIN_TRY(kin_ws_tensor(ctx, x->dtype, x->ndim, x->size, &y));
    for (int64_t i = 0; i < n && !kin_ctx_is_plan(ctx); i++) {
        const double v =
            x->dtype == KIN_DTYPE_F32 ? (double)((const float *)x->data)[i] : kin_tensor_get(x, i);

        if (y.data != x->data || v < -1 || v > 1)
            kin_tensor_set(&y, i, v < -1 ? -1 : v > 1 ? 1 : v);
    }
    if (kin_tape_needs(ctx, x)) {
        saved = kin_ws_bytes(ctx, sizeof *saved);
        if (!saved)
            return ctx->error.status;
        saved->x = *x;
        KIN_TRY(kin_tape_add(ctx, &y, clamp_backward, saved));
        saved->y = y;
    }
    *x = y;
    return KIN_OK;
}

static kin_status decode(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *z, kin_tensor *x)
{
    const int64_t frames = (z->size[2] - 1) * vae->info.frame_reduction + 1;
    const int64_t up = vae->info.reduction;
    run *r;

    if (!(ctx->tape || ctx->tap))
        KIN_TRY(KIN_WS(ctx, x, z->dtype, z->size[0], vae->info.out_channels, frames,
                       z->size[3] * up, z->size[4] * up));
    r = begin(ctx, vae);
    if (!r)
        return ctx->error.status;
    if (!r->whole)
        KIN_TRY(prepare(r, &r->v->decoder, z, false));
    KIN_TRY(in_pieces(r, decode_piece, z, 1, x));
    return clamp(ctx, x);
}

/* --- class --- */

static kin_status create(const cJSON *config, kin_params *params, kin_vae **out, kin_error *err)
{
    kin_vae_wan *v = kin_calloc(1, sizeof(*v));

    if (!v)
        return kin_fail(err, KIN_ERR_MEM, "vae: out of memory");
    *out = &v->base;
    return kin_vae_wan_build(config, params, v, err);
}

static void destroy(kin_vae *vae)
{
    kin_free(vae);
}

const kin_vae_class kin_vae_class_wan = {.name = "AutoencoderKLWan",
                                         .video = true,
                                         .create = create,
                                         .destroy = destroy,
                                         .encode = encode,
                                         .decode = decode};
