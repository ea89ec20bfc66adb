/* vision/vae_cog.c: AutoencoderKLCogVideoX, the causal video autoencoder of CogVideoX (Yang et al.
 * 2024, arXiv:2408.06072) as diffusers has it. Inside, activations are [B,F,H,W,C].
 *
 * A video goes through in batches of frames (encoder 8, decoder 2 latent ones, what is left over
 * with the first), each with the last frames of the one before. Group norms take all frames of a
 * batch together, so the batches are part of the definition, in training too. */
#include "vision/vae_cog.h"

#include "vision/vae_causal.h"

#define SPATIAL_NORM_EPS 1e-6f /* and of the encoder's norm_out */

typedef struct run {
    kin_causal c; /* first */
    const kin_vae_cog *v;
    bool encoder;
    kin_tensor q; /* decoder: the latent frames of the batch, [B,f,h,w,L] */
} run;

static kin_status tap(run *r, const char *module)
{
    return kin_vae_tap(r->c.ctx, &r->c.t, "%s.%s", r->encoder ? "encoder" : "decoder", module);
}

/* --- layers --- */

/* y = x with every entry of dimension `dim` repeated */
static kin_status repeat(kin_ctx *ctx, const kin_tensor *x, int dim, int64_t times, kin_tensor *y)
{
    int64_t outer = 1, inner = 1, size[KIN_MAX_DIMS];
    kin_tensor view;

    for (int i = 0; i < x->ndim; i++) {
        size[i] = x->size[i] * (i == dim ? times : 1);
        outer *= i < dim ? x->size[i] : 1;
        inner *= i > dim ? x->size[i] : 1;
    }
    *y = *x;
    if (times == 1)
        return KIN_OK;
    view = KIN_RESHAPE(x, outer * x->size[dim], inner);
    view = kin_tensor_expand(&view, 1, times);
    KIN_TRY(kin_contiguous(ctx, &view, y));
    *y = kin_tensor_reshape(y, x->ndim, size);
    return KIN_OK;
}

/* x [B,n,H,W,C] to `frames` frames: an odd number above 1 takes the first from the first alone */
static kin_status stretch_time(kin_ctx *ctx, const kin_tensor *x, int64_t frames, kin_tensor *y)
{
    const int64_t n = x->size[1];
    kin_tensor part[2], dense, rest;

    if (frames % 2 == 0 || frames == 1)
        return repeat(ctx, x, 1, frames / n, y);
    part[0] = kin_tensor_slice(x, 1, 0, 1);
    rest = kin_tensor_slice(x, 1, 1, n - 1);
    KIN_TRY(kin_contiguous(ctx, &rest, &dense));
    KIN_TRY(repeat(ctx, &dense, 1, (frames - 1) / (n - 1), &part[1]));
    return kin_concat(ctx, part, 2, 1, y);
}

/* a 1x1x1 convolution of the latent frames, stretched to the size of x (nearest; the convolution
 * first, for it is the same and less work) */
static kin_status from_latent(run *r, const kin_vae_layer *l, const kin_tensor *x, kin_tensor *y)
{
    kin_tensor a, b;

    KIN_TRY(kin_linear(r->c.ctx, &r->q, l->w, l->b, &a));
    KIN_TRY(stretch_time(r->c.ctx, &a, x->size[1], &b));
    KIN_TRY(repeat(r->c.ctx, &b, 2, x->size[2] / r->q.size[2], &a));
    return repeat(r->c.ctx, &a, 3, x->size[3] / r->q.size[3], y);
}

/* y = silu(norm(x)); the decoder's norm is n * conv_y(q) + conv_b(q) */
static kin_status norm(run *r, const kin_cog_norm *n, const kin_tensor *x, float eps, kin_tensor *y)
{
    kin_ctx *ctx = r->c.ctx;
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor g, f, h;

    if (!n->y.w)
        return kin_groupnorm(ctx, x, r->v->groups, n->norm.w, n->norm.b, KIN_ACT_SILU, eps, y);
    KIN_TRY(kin_groupnorm(ctx, x, r->v->groups, n->norm.w, n->norm.b, KIN_ACT_NONE,
                          SPATIAL_NORM_EPS, &g));
    KIN_TRY(from_latent(r, &n->y, x, &f));
    KIN_TRY(kin_mul(ctx, &g, &f, 1.0f, &h));
    if (!ctx->tape)
        KIN_TRY(kin_ws_keep(ctx, mark, &h));
    KIN_TRY(from_latent(r, &n->b, x, &f));
    KIN_TRY(kin_add(ctx, &h, &f, 1.0f, &g));
    if (!ctx->tape)
        KIN_TRY(kin_ws_keep(ctx, mark, &g));
    return kin_activation(ctx, &g, KIN_ACT_SILU, y);
}

static kin_status conv(run *r, const kin_vae_layer *l, const kin_tensor *x)
{
    kin_tensor y;

    KIN_TRY(kin_causal_conv(&r->c, l->w, l->b, x, NULL, &y));
    return kin_causal_take(&r->c, &y);
}

static kin_status block(run *r, const kin_cog_resnet *b)
{
    kin_ctx *ctx = r->c.ctx;
    const kin_tensor x = r->c.t;
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor n, h, s = x, y;

    KIN_TRY(norm(r, &b->norm1, &x, r->v->eps, &n));
    KIN_TRY(kin_causal_conv(&r->c, b->conv1.w, b->conv1.b, &n, NULL, &h));
    if (!ctx->tape)
        KIN_TRY(kin_ws_keep(ctx, mark, &h));
    KIN_TRY(norm(r, &b->norm2, &h, r->v->eps, &n));
    if (b->shortcut.w)
        KIN_TRY(kin_linear(ctx, &x, b->shortcut.w, b->shortcut.b, &s));
    KIN_TRY(kin_causal_conv(&r->c, b->conv2.w, b->conv2.b, &n, &s, &y));
    return kin_causal_take(&r->c, &y);
}

/* frames from, from + 2, ... */
static kin_tensor every_second(const kin_tensor *x, int64_t from)
{
    kin_tensor y = kin_tensor_slice(x, 1, from, x->size[1] - from);

    y.size[1] = (y.size[1] + 1) / 2;
    y.stride[1] *= 2;
    return y;
}

/* means of frame pairs; of an odd number the first stays */
static kin_status halve_time(run *r)
{
    kin_ctx *ctx = r->c.ctx;
    const int64_t n = r->c.t.size[1], odd = n % 2;
    kin_tensor a, b, sum, part[2], y;

    if (n == 1)
        return KIN_OK;
    a = every_second(&r->c.t, odd);
    b = every_second(&r->c.t, odd + 1);
    KIN_TRY(kin_add(ctx, &a, &b, 1.0f, &sum));
    KIN_TRY(kin_scale(ctx, &sum, 0.5f, &part[1]));
    if (!odd)
        return kin_causal_take(&r->c, &part[1]);
    part[0] = kin_tensor_slice(&r->c.t, 1, 0, 1);
    KIN_TRY(kin_concat(ctx, part, 2, 1, &y));
    return kin_causal_take(&r->c, &y);
}

static int64_t halved(int64_t n)
{
    return n % 2 ? 1 + (n - 1) / 2 : n / 2;
}

static int64_t doubled(int64_t n)
{
    return n % 2 ? 2 * n - 1 : 2 * n;
}

static kin_status double_time(run *r)
{
    kin_tensor y;

    KIN_TRY(stretch_time(r->c.ctx, &r->c.t, doubled(r->c.t.size[1]), &y));
    return kin_causal_take(&r->c, &y);
}

/* --- batches of frames --- */

static kin_status end(run *r, const kin_cog_half *h)
{
    kin_tensor n;

    KIN_TRY(norm(r, &h->norm_out, &r->c.t, SPATIAL_NORM_EPS, &n));
    return conv(r, &h->conv_out, &n);
}

static kin_status middle(run *r, const kin_cog_half *h)
{
    KIN_TRY(block(r, &h->mid[0]));
    KIN_TRY(block(r, &h->mid[1]));
    return tap(r, "mid_block");
}

/* the convolution between two levels */
static kin_status resample(run *r, const kin_cog_level *l)
{
    static const kin_conv_options halve = {.stride = 2, .bottom = 1, .right = 1},
                                  twice = {.up = 2, .top = 1, .bottom = 1, .left = 1, .right = 1};

    if (!l->sample.w)
        return KIN_OK;
    if (l->time)
        KIN_TRY(r->encoder ? halve_time(r) : double_time(r));
    return kin_causal_in_space(&r->c, l->sample.w, l->sample.b, r->encoder ? &halve : &twice);
}

static kin_status convert_batch(run *r)
{
    const kin_cog_half *h = r->encoder ? &r->v->encoder : &r->v->decoder;
    const size_t mark = r->c.mark;
    const kin_tensor x = r->c.t;

    if (!r->encoder) { /* the latent frames stay below what a batch forgets */
        r->q = x;
        r->c.mark = kin_ws_mark(r->c.ctx);
    }
    KIN_TRY(conv(r, &h->conv_in, &x));
    KIN_TRY(tap(r, "conv_in"));
    if (!r->encoder)
        KIN_TRY(middle(r, h));
    for (int i = 0; i < r->v->base.levels; i++) {
        for (int j = 0; j < h->level[i].count; j++)
            KIN_TRY(block(r, &h->level[i].r[j]));
        KIN_TRY(resample(r, &h->level[i]));
        KIN_TRY(kin_vae_tap(r->c.ctx, &r->c.t, "%s_blocks.%d",
                            r->encoder ? "encoder.down" : "decoder.up", i));
    }
    if (r->encoder)
        KIN_TRY(middle(r, h));
    KIN_TRY(end(r, h));
    r->c.mark = mark;
    return tap(r, "conv_out");
}

/* --- what is remembered --- */

static kin_status remember(run *r, const kin_tensor *x, int64_t H, int64_t W, int64_t C)
{
    return kin_causal_remember(&r->c, x->dtype, 2, x->size[0], H, W, C);
}

static kin_status remember_block(run *r, const kin_cog_resnet *b, const kin_tensor *x, int64_t H,
                                 int64_t W)
{
    KIN_TRY(remember(r, x, H, W, b->in));
    return remember(r, x, H, W, b->out);
}

static kin_status remember_middle(run *r, const kin_cog_half *h, const kin_tensor *x, int64_t H,
                                  int64_t W)
{
    KIN_TRY(remember_block(r, &h->mid[0], x, H, W));
    return remember_block(r, &h->mid[1], x, H, W);
}

/* Memory for every causal layer, in the order in which a batch passes them: x is [B,C,F,H,W]. */
static kin_status prepare(run *r, const kin_cog_half *h, const kin_tensor *x, bool encoder)
{
    int64_t H = x->size[3], W = x->size[4];

    KIN_TRY(remember(r, x, H, W, x->size[1]));
    if (!encoder)
        KIN_TRY(remember_middle(r, h, x, H, W));
    for (int i = 0; i < r->v->base.levels; i++) {
        for (int j = 0; j < h->level[i].count; j++)
            KIN_TRY(remember_block(r, &h->level[i].r[j], x, H, W));
        if (h->level[i].sample.w) {
            H = encoder ? H / 2 : 2 * H;
            W = encoder ? W / 2 : 2 * W;
        }
    }
    if (encoder)
        KIN_TRY(remember_middle(r, h, x, H, W));
    return remember(r, x, H, W, h->ends);
}

/* --- the whole --- */

enum { ENCODER_BATCH = 8, DECODER_BATCH = 2 };

/* frames of the batch that begins at frame `from` of n */
static int64_t batch_of(int64_t n, int64_t from, int64_t step)
{
    return from ? step : n < step ? n : step + n % step;
}

/* frames that come out of n */
static int64_t frames_out(const kin_vae_cog *v, int64_t n, bool encoder)
{
    const int64_t step = encoder ? ENCODER_BATCH : DECODER_BATCH;
    int64_t sum = 0;

    for (int64_t f = 0; f < n; f += batch_of(n, f, step)) {
        int64_t k = batch_of(n, f, step);

        for (int i = 0; i < v->halvings; i++)
            k = encoder ? halved(k) : doubled(k);
        sum += k;
    }
    return sum;
}

/* y from x [B,C,F,H,W]: it exists without a tape, else it is made of the batches' nodes */
static kin_status in_batches(run *r, bool encoder, const kin_tensor *x, kin_tensor *y)
{
    const int64_t n = x->size[2], step = encoder ? ENCODER_BATCH : DECODER_BATCH;
    kin_ctx *ctx = r->c.ctx;
    kin_tensor *made = kin_ws_bytes(ctx, (size_t)(ctx->tape ? n / step + 1 : 1) * sizeof(*made));
    int64_t done = 0;
    int count = 0;

    if (!made)
        return ctx->error.status;
    r->c.mark = kin_ws_mark(ctx);
    for (int64_t f = 0; f < n; f += batch_of(n, f, step)) {
        kin_tensor video, part;

        r->c.first = f == 0;
        r->c.used = 0;
        KIN_TRY(kin_causal_piece(ctx, x, f, batch_of(n, f, step), &part));
        KIN_TRY(kin_causal_take(&r->c, &part));
        KIN_TRY(convert_batch(r));
        KIN_TRY(kin_vae_channels_first(ctx, &r->c.t, &video));
        if (ctx->tape) {
            made[count++] = video;
            continue;
        }
        part = kin_tensor_slice(y, 2, done, video.size[2]);
        KIN_TRY(kin_copy_into(ctx, &video, &part));
        done += video.size[2];
        kin_ws_release(ctx, r->c.mark);
    }
    return ctx->tape ? kin_concat(ctx, made, count, 2, y) : KIN_OK;
}

static kin_status convert(kin_ctx *ctx, const kin_vae *vae, bool encoder, const kin_tensor *x,
                          kin_tensor *y)
{
    const kin_vae_cog *v = (const kin_vae_cog *)vae;
    const int64_t side = vae->info.reduction,
                  C = encoder ? 2 * vae->info.latent_channels : vae->info.out_channels;
    run *r;

    if (!ctx->tape)
        KIN_TRY(KIN_WS(ctx, y, x->dtype, x->size[0], C, frames_out(v, x->size[2], encoder),
                       encoder ? x->size[3] / side : x->size[3] * side,
                       encoder ? x->size[4] / side : x->size[4] * side));
    r = kin_ws_bytes(ctx, sizeof *r);
    if (!r)
        return ctx->error.status;
    *r = (run){.c = {.ctx = ctx, .repeat = true}, .v = v, .encoder = encoder};
    if (!ctx->tape)
        KIN_TRY(prepare(r, encoder ? &v->encoder : &v->decoder, x, encoder));
    return in_batches(r, encoder, x, y);
}

static kin_status encode(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *x, kin_tensor *moments)
{
    return convert(ctx, vae, true, x, moments);
}

static kin_status decode(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *z, kin_tensor *x)
{
    return convert(ctx, vae, false, z, x);
}

static int64_t frames(const kin_vae *vae, int64_t n, bool encoder)
{
    return frames_out((const kin_vae_cog *)vae, n, encoder);
}

const kin_vae_class kin_vae_class_cog = {.name = "AutoencoderKLCogVideoX",
                                         .video = true,
                                         .bytes = sizeof(kin_vae_cog),
                                         .build = kin_vae_cog_build,
                                         .encode = encode,
                                         .decode = decode,
                                         .frames = frames};
