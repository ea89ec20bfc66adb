/* vision/vae_kl.c: AutoencoderKL, the autoencoder of Stable Diffusion (Rombach et al. 2022,
 * arXiv:2112.10752) as diffusers has it. Inside, activations are [B,H,W,C]. */
#include "vision/vae_kl.h"

#define NORM_EPS 1e-6f

typedef struct run {
    kin_ctx *ctx;
    const kin_kl_vae *v;
    size_t mark;  /* everything from here on is the present activation and what made it */
    kin_tensor t; /* [B,H,W,C] */
} run;

/* t becomes the activation; without a tape what made it is forgotten. */
static kin_status take(run *r, const kin_tensor *t)
{
    r->t = *t;
    return r->ctx->tape ? KIN_OK : kin_ws_keep(r->ctx, r->mark, &r->t);
}

static const kin_conv_options same3 = {.top = 1, .bottom = 1, .left = 1, .right = 1};

/* for products alone */
static kin_status norm(const run *r, const kin_vae_layer *l, const kin_tensor *x, kin_act act,
                       kin_tensor *y)
{
    return kin_groupnorm_operand(r->ctx, x, r->v->groups, l->w, l->b, act, NORM_EPS, y);
}

static kin_status conv(run *r, const kin_vae_layer *l, const kin_conv_options *opt)
{
    kin_tensor y;

    KIN_TRY(kin_conv(r->ctx, &r->t, l->w, l->b, opt, NULL, &y));
    return take(r, &y);
}

/* A 1x1 convolution is a product per pixel. */
static kin_status conv1(run *r, const kin_vae_layer *l)
{
    kin_tensor y;

    KIN_TRY(kin_linear(r->ctx, &r->t, l->w, l->b, &y));
    return take(r, &y);
}

typedef struct resnet_call {
    const kin_kl_vae *v;
    const kin_kl_resnet *b;
    bool in_place; /* the result may take x's place */
} resnet_call;

/* y = shortcut(x) + conv2(act(norm2(conv1(act(norm1(x)))))) */
static kin_status resnet_forward(kin_ctx *ctx, void *arg, const kin_tensor *x, kin_tensor *y)
{
    const resnet_call *c = arg;
    const run r = {.ctx = ctx, .v = c->v};
    kin_conv_options add = same3;
    kin_tensor n, h, s = *x;

    KIN_TRY(norm(&r, &c->b->norm1, x, c->v->act, &n));
    KIN_TRY(kin_conv(ctx, &n, c->b->conv1.w, c->b->conv1.b, &same3, NULL, &h));
    KIN_TRY(norm(&r, &c->b->norm2, &h, c->v->act, &n));
    if (c->b->shortcut.w)
        KIN_TRY(kin_linear(ctx, x, c->b->shortcut.w, c->b->shortcut.b, &s));
    add.in_place = c->in_place;
    return kin_conv(ctx, &n, c->b->conv2.w, c->b->conv2.b, &add, &s, y);
}

static kin_status block(run *r, const kin_kl_resnet *b)
{
    const bool again = r->v->base.checkpoint && r->ctx->tape;
    resnet_call *call = kin_ws_bytes(r->ctx, sizeof *call);
    kin_tensor y;

    if (!call)
        return r->ctx->error.status;
    *call = (resnet_call){.v = r->v, .b = b, .in_place = !r->ctx->tape};
    if (again)
        KIN_TRY(kin_checkpoint(r->ctx, resnet_forward, call, &r->t, 1, &y, 1));
    else
        KIN_TRY(resnet_forward(r->ctx, call, &r->t, &y));
    return take(r, &y);
}

/* One head over all pixels. */
static kin_status attend(run *r, const kin_kl_middle *m)
{
    const int64_t *n = r->t.size;
    kin_tensor x, q, k, v, o, y;

    KIN_TRY(norm(r, &m->norm, &r->t, KIN_ACT_NONE, &x));
    x = KIN_RESHAPE(&x, n[0], n[1] * n[2], 1, n[3]);
    KIN_TRY(kin_linear(r->ctx, &x, m->q.w, m->q.b, &q));
    KIN_TRY(kin_linear(r->ctx, &x, m->k.w, m->k.b, &k));
    KIN_TRY(kin_linear(r->ctx, &x, m->v.w, m->v.b, &v));
    KIN_TRY(kin_attention(r->ctx, &q, &k, &v, NULL, &o));
    o = KIN_RESHAPE(&o, n[0], n[1], n[2], n[3]);
    KIN_TRY(kin_linear_residual(r->ctx, &o, m->out.w, m->out.b, &r->t, NULL, &y));
    return take(r, &y);
}

static kin_status run_middle(run *r, const kin_kl_middle *m)
{
    KIN_TRY(block(r, &m->before));
    if (m->q.w)
        KIN_TRY(attend(r, m));
    return block(r, &m->after);
}

static kin_status run_level(run *r, const kin_kl_level *l, const kin_conv_options *sample)
{
    for (int j = 0; j < l->count; j++)
        KIN_TRY(block(r, &l->r[j]));
    return l->sample.w ? conv(r, &l->sample, sample) : KIN_OK;
}

/* The norm before conv_out is followed by SiLU whatever act_fn says. */
static kin_status run_end(run *r, const kin_kl_half *h)
{
    kin_tensor n;

    KIN_TRY(norm(r, &h->norm_out, &r->t, KIN_ACT_SILU, &n));
    KIN_TRY(take(r, &n));
    return conv(r, &h->conv_out, &same3);
}

static kin_status begin(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *x, run *r)
{
    *r = (run){.ctx = ctx, .v = (const kin_kl_vae *)vae, .mark = kin_ws_mark(ctx)};
    return kin_vae_channels_last(ctx, x, &r->t);
}

static kin_status finish(run *r, kin_tensor *y)
{
    kin_tensor picture;

    KIN_TRY(kin_vae_channels_first(r->ctx, &r->t, &picture));
    KIN_TRY(take(r, &picture));
    *y = r->t;
    return KIN_OK;
}

static kin_status encode(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *x, kin_tensor *moments)
{
    static const kin_conv_options halve = {.stride = 2, .bottom = 1, .right = 1};
    const kin_kl_vae *v = (const kin_kl_vae *)vae;
    run r;

    KIN_TRY(begin(ctx, vae, x, &r));
    KIN_TRY(conv(&r, &v->encoder.conv_in, &same3));
    KIN_TRY(kin_vae_tap(ctx, &r.t, "encoder.conv_in"));
    for (int i = 0; i < vae->levels; i++) {
        KIN_TRY(run_level(&r, &v->encoder.level[i], &halve));
        KIN_TRY(kin_vae_tap(ctx, &r.t, "encoder.down_blocks.%d", i));
    }
    KIN_TRY(run_middle(&r, &v->encoder.mid));
    KIN_TRY(kin_vae_tap(ctx, &r.t, "encoder.mid_block"));
    KIN_TRY(run_end(&r, &v->encoder));
    if (v->quant_conv.w) {
        KIN_TRY(conv1(&r, &v->quant_conv));
        KIN_TRY(kin_vae_tap(ctx, &r.t, "quant_conv"));
    }
    return finish(&r, moments);
}

static kin_status decode(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *z, kin_tensor *x)
{
    static const kin_conv_options twice = {.up = 2, .top = 1, .bottom = 1, .left = 1, .right = 1};
    const kin_kl_vae *v = (const kin_kl_vae *)vae;
    run r;

    KIN_TRY(begin(ctx, vae, z, &r));
    if (v->post_quant_conv.w)
        KIN_TRY(conv1(&r, &v->post_quant_conv));
    KIN_TRY(conv(&r, &v->decoder.conv_in, &same3));
    KIN_TRY(kin_vae_tap(ctx, &r.t, "decoder.conv_in"));
    KIN_TRY(run_middle(&r, &v->decoder.mid));
    KIN_TRY(kin_vae_tap(ctx, &r.t, "decoder.mid_block"));
    for (int i = 0; i < vae->levels; i++) {
        KIN_TRY(run_level(&r, &v->decoder.level[i], &twice));
        KIN_TRY(kin_vae_tap(ctx, &r.t, "decoder.up_blocks.%d", i));
    }
    KIN_TRY(run_end(&r, &v->decoder));
    return finish(&r, x);
}

const kin_vae_class kin_vae_class_kl = {.name = "AutoencoderKL",
                                        .bytes = sizeof(kin_kl_vae),
                                        .build = kin_vae_kl_build,
                                        .encode = encode,
                                        .decode = decode};
