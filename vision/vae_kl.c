/* vision/vae_kl.c: AutoencoderKL, the autoencoder of Stable Diffusion (Rombach et al. 2022,
 * arXiv:2112.10752) as diffusers has it. Inside, activations are [B,H,W,C]. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "vision/vae_class.h"

enum { LEVELS_MAX = 8, LAYERS_MAX = 16, CHANNELS_MAX = 1 << 14 };
#define NORM_EPS 1e-6f

typedef struct layer { /* a weight (or gamma) and a bias (or beta) */
    kin_param *w, *b;
} layer;

typedef struct resnet {
    layer norm1, conv1, norm2, conv2, shortcut; /* shortcut.w NULL: none */
} resnet;

typedef struct middle {
    resnet before, after;
    layer norm, q, k, v, out; /* attention; q.w NULL: none */
} middle;

typedef struct level {
    resnet r[LAYERS_MAX + 1];
    int count;
    layer sample; /* the convolution that halves or doubles; w NULL: none */
} level;

typedef struct half { /* encoder or decoder */
    layer conv_in, norm_out, conv_out;
    middle mid;
    level level[LEVELS_MAX];
} half;

typedef struct vae_kl {
    kin_vae base;
    int64_t groups, layers, width[LEVELS_MAX];
    kin_act act;
    bool attention, quant, post_quant;
    half encoder, decoder;
    layer quant_conv, post_quant_conv; /* w NULL: none */
} vae_kl;

/* --- configuration --- */

static const char *const known_keys[] = {"_class_name",
                                         "_diffusers_version",
                                         "_name_or_path",
                                         "in_channels",
                                         "out_channels",
                                         "down_block_types",
                                         "up_block_types",
                                         "block_out_channels",
                                         "layers_per_block",
                                         "act_fn",
                                         "latent_channels",
                                         "norm_num_groups",
                                         "sample_size",
                                         "scaling_factor",
                                         "shift_factor",
                                         "latents_mean",
                                         "latents_std",
                                         "force_upcast",
                                         "use_quant_conv",
                                         "use_post_quant_conv",
                                         "mid_block_add_attention",
                                         NULL};

/* A list of `levels` names that are all `want`, or absent. */
static kin_status check_blocks(const cJSON *config, const char *key, const char *want, int levels,
                               kin_error *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(config, key), *item;

    if (!list)
        return levels == 1
                   ? KIN_OK
                   : kin_fail(err, KIN_ERR_FORMAT, "vae: %s must name %d blocks", key, levels);
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != levels)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "vae: %s must be a list as long as block_out_channels (%d)", key, levels);
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsString(item) || strcmp(item->valuestring, want) != 0)
            return kin_fail(err, KIN_ERR_UNSUPPORTED, "vae: %s: only %s is known", key, want);
    }
    return KIN_OK;
}

static kin_status read_widths(const cJSON *config, vae_kl *v, kin_error *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(config, "block_out_channels"), *item;

    v->base.levels = 1;
    v->width[0] = 64;
    if (list) {
        const int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;

        if (n < 1 || n > LEVELS_MAX)
            return kin_fail(err, KIN_ERR_FORMAT,
                            "vae: block_out_channels must be a list of 1 to %d widths", LEVELS_MAX);
        v->base.levels = 0;
        cJSON_ArrayForEach(item, list)
        {
            if (!cJSON_IsNumber(item) || item->valuedouble < 1 ||
                item->valuedouble > CHANNELS_MAX || item->valuedouble != floor(item->valuedouble))
                return kin_fail(err, KIN_ERR_FORMAT,
                                "vae: block_out_channels must be whole numbers from 1 to %d",
                                CHANNELS_MAX);
            v->width[v->base.levels++] = (int64_t)item->valuedouble;
        }
    }
    for (int i = 0; i < v->base.levels; i++) {
        if (v->width[i] % v->groups)
            return kin_fail(
                err, KIN_ERR_ARG,
                "vae: block_out_channels %lld must be a multiple of norm_num_groups %lld",
                (long long)v->width[i], (long long)v->groups);
    }
    KIN_TRY(check_blocks(config, "down_block_types", "DownEncoderBlock2D", v->base.levels, err));
    return check_blocks(config, "up_block_types", "UpDecoderBlock2D", v->base.levels, err);
}

static kin_status read_factor(const cJSON *config, const char *key, bool positive, float *inout,
                              kin_error *err)
{
    double d = (double)*inout;

    KIN_TRY(kin_json_get_f64(config, key, &d, err));
    if (!isfinite(d) || fabs(d) > 1e6 || (positive && d < 1e-6))
        return kin_fail(err, KIN_ERR_FORMAT, "vae: %s %g is out of range", key, d);
    *inout = (float)d;
    return KIN_OK;
}

static kin_status read_act(const cJSON *config, kin_act *act, kin_error *err)
{
    const char *name = "silu";

    KIN_TRY(kin_json_get_str(config, "act_fn", &name, err));
    if (!strcmp(name, "silu") || !strcmp(name, "swish"))
        *act = KIN_ACT_SILU;
    else if (!strcmp(name, "relu"))
        *act = KIN_ACT_RELU;
    else
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "vae: act_fn %.40s is not known (silu, relu)",
                        name);
    return KIN_OK;
}

static kin_status read_config(const cJSON *config, vae_kl *v, kin_error *err)
{
    kin_vae_info *info = &v->base.info;
    bool upcast = true;

    *info = (kin_vae_info){.in_channels = 3,
                           .out_channels = 3,
                           .latent_channels = 4,
                           .sample_size = 32,
                           .scaling_factor = 0.18215f};
    v->groups = 32;
    v->layers = 1;
    v->attention = v->quant = v->post_quant = true;
    KIN_TRY(kin_json_known_keys(config, known_keys, "vae/config.json", err));
    KIN_TRY(kin_json_get_i64(config, "in_channels", 1, 1024, &info->in_channels, err));
    KIN_TRY(kin_json_get_i64(config, "out_channels", 1, 1024, &info->out_channels, err));
    KIN_TRY(kin_json_get_i64(config, "latent_channels", 1, 1024, &info->latent_channels, err));
    KIN_TRY(kin_json_get_i64(config, "layers_per_block", 1, LAYERS_MAX, &v->layers, err));
    KIN_TRY(kin_json_get_i64(config, "norm_num_groups", 1, CHANNELS_MAX, &v->groups, err));
    KIN_TRY(kin_json_get_i64(config, "sample_size", 1, 1 << 16, &info->sample_size, err));
    KIN_TRY(kin_json_get_bool(config, "force_upcast", &upcast, err)); /* norms are f32 here */
    KIN_TRY(kin_json_get_bool(config, "use_quant_conv", &v->quant, err));
    KIN_TRY(kin_json_get_bool(config, "use_post_quant_conv", &v->post_quant, err));
    KIN_TRY(kin_json_get_bool(config, "mid_block_add_attention", &v->attention, err));
    KIN_TRY(read_factor(config, "scaling_factor", true, &info->scaling_factor, err));
    KIN_TRY(read_factor(config, "shift_factor", false, &info->shift_factor, err));
    for (const char *const *key = (const char *const[]){"latents_mean", "latents_std", NULL}; *key;
         key++) {
        const cJSON *value = cJSON_GetObjectItemCaseSensitive(config, *key);

        if (value && !cJSON_IsNull(value))
            return kin_fail(err, KIN_ERR_UNSUPPORTED, "vae: %s must be null", *key);
    }
    KIN_TRY(read_act(config, &v->act, err));
    KIN_TRY(read_widths(config, v, err));
    info->reduction = (int64_t)1 << (v->base.levels - 1);
    return KIN_OK;
}

/* --- parameters --- */

static void add_norm(kin_params *p, const char *name, int64_t width, layer *l)
{
    l->w = kin_params_add(p, KIN_INIT(KIN_INIT_ONE, 0), KIN_DIMS(width), "%s.weight", name);
    l->b = kin_params_add(p, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(width), "%s.bias", name);
}

/* Start values have the variance of PyTorch's layers. */
static kin_init spread_of(int64_t fan_in)
{
    return KIN_INIT(KIN_INIT_NORMAL, (float)(1.0 / sqrt(3.0 * (double)fan_in)));
}

static void add_conv(kin_params *p, const char *name, int64_t in, int64_t out, int kernel, layer *l)
{
    const kin_init init = spread_of(in * kernel * kernel);

    l->w = kin_params_add(p, init, KIN_DIMS(out, in, kernel, kernel), "%s.weight", name);
    l->b = kin_params_add(p, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(out), "%s.bias", name);
}

static void add_linear(kin_params *p, const char *name, int64_t width, layer *l)
{
    l->w = kin_params_add(p, spread_of(width), KIN_DIMS(width, width), "%s.weight", name);
    l->b = kin_params_add(p, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(width), "%s.bias", name);
}

typedef struct maker { /* a prefix to which names are added */
    kin_params *params;
    char name[128];
} maker;

/* maker with `more` after its name */
static maker under(const maker *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static maker under(const maker *m, const char *fmt, ...)
{
    maker u = *m;
    const size_t n = strlen(u.name);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(u.name + n, sizeof u.name - n, fmt, ap);
    va_end(ap);
    return u;
}
#define UNDER(m, ...) under((m), __VA_ARGS__).name

static void add_resnet(const maker *m, int64_t in, int64_t out, resnet *r)
{
    add_norm(m->params, UNDER(m, ".norm1"), in, &r->norm1);
    add_conv(m->params, UNDER(m, ".conv1"), in, out, 3, &r->conv1);
    add_norm(m->params, UNDER(m, ".norm2"), out, &r->norm2);
    add_conv(m->params, UNDER(m, ".conv2"), out, out, 3, &r->conv2);
    if (in != out)
        add_conv(m->params, UNDER(m, ".conv_shortcut"), in, out, 1, &r->shortcut);
}

static void add_middle(const maker *m, int64_t width, bool attention, middle *mid)
{
    const maker before = under(m, ".mid_block.resnets.0"), after = under(m, ".mid_block.resnets.1");
    const maker a = under(m, ".mid_block.attentions.0");

    add_resnet(&before, width, width, &mid->before);
    if (attention) {
        add_norm(m->params, UNDER(&a, ".group_norm"), width, &mid->norm);
        add_linear(m->params, UNDER(&a, ".to_q"), width, &mid->q);
        add_linear(m->params, UNDER(&a, ".to_k"), width, &mid->k);
        add_linear(m->params, UNDER(&a, ".to_v"), width, &mid->v);
        add_linear(m->params, UNDER(&a, ".to_out.0"), width, &mid->out);
    }
    add_resnet(&after, width, width, &mid->after);
}

/* `kind`: "down" or "up" */
static void add_level(const maker *m, const char *kind, int i, int64_t in, int64_t out, int count,
                      bool sample, level *l)
{
    const maker block = under(m, ".%s_blocks.%d", kind, i);

    l->count = count;
    for (int j = 0; j < count; j++) {
        const maker r = under(&block, ".resnets.%d", j);

        add_resnet(&r, j ? out : in, out, &l->r[j]);
    }
    if (sample)
        add_conv(m->params, UNDER(&block, ".%ssamplers.0.conv", kind), out, out, 3, &l->sample);
}

static void add_encoder(vae_kl *v, kin_params *params)
{
    const maker m = {.params = params, .name = "encoder"};
    const int n = v->base.levels;
    const kin_vae_info *info = &v->base.info;
    half *h = &v->encoder;

    add_conv(params, UNDER(&m, ".conv_in"), info->in_channels, v->width[0], 3, &h->conv_in);
    for (int i = 0; i < n; i++)
        add_level(&m, "down", i, v->width[i ? i - 1 : 0], v->width[i], (int)v->layers, i + 1 < n,
                  &h->level[i]);
    add_middle(&m, v->width[n - 1], v->attention, &h->mid);
    add_norm(params, UNDER(&m, ".conv_norm_out"), v->width[n - 1], &h->norm_out);
    add_conv(params, UNDER(&m, ".conv_out"), v->width[n - 1], 2 * info->latent_channels, 3,
             &h->conv_out);
    if (v->quant)
        add_conv(params, "quant_conv", 2 * info->latent_channels, 2 * info->latent_channels, 1,
                 &v->quant_conv);
}

static void add_decoder(vae_kl *v, kin_params *params)
{
    const maker m = {.params = params, .name = "decoder"};
    const int n = v->base.levels;
    const kin_vae_info *info = &v->base.info;
    half *h = &v->decoder;

    if (v->post_quant)
        add_conv(params, "post_quant_conv", info->latent_channels, info->latent_channels, 1,
                 &v->post_quant_conv);
    add_conv(params, UNDER(&m, ".conv_in"), info->latent_channels, v->width[n - 1], 3, &h->conv_in);
    add_middle(&m, v->width[n - 1], v->attention, &h->mid);
    for (int i = 0; i < n; i++)
        add_level(&m, "up", i, v->width[i ? n - i : n - 1], v->width[n - 1 - i], (int)v->layers + 1,
                  i + 1 < n, &h->level[i]);
    add_norm(params, UNDER(&m, ".conv_norm_out"), v->width[0], &h->norm_out);
    add_conv(params, UNDER(&m, ".conv_out"), v->width[0], info->out_channels, 3, &h->conv_out);
}

static kin_status create(const cJSON *config, kin_params *params, kin_vae **out, kin_error *err)
{
    vae_kl *v = kin_calloc(1, sizeof(*v));

    if (!v)
        return kin_fail(err, KIN_ERR_MEM, "vae: out of memory");
    *out = &v->base;
    KIN_TRY(read_config(config, v, err));
    add_encoder(v, params);
    add_decoder(v, params);
    return KIN_OK;
}

static void destroy(kin_vae *vae)
{
    kin_free(vae);
}

/* --- running --- */

typedef struct run {
    kin_ctx *ctx;
    const vae_kl *v;
    size_t mark;  /* everything from here on is the present activation and what made it */
    kin_tensor t; /* [B,H,W,C] */
} run;

/* t becomes the activation; without a tape what made it is forgotten. */
static kin_status take(run *r, const kin_tensor *t)
{
    r->t = *t;
    return r->ctx->tape ? KIN_OK : kin_ws_keep(r->ctx, r->mark, &r->t);
}

/* Hands the activation to the tap as [B,C,H,W]. */
static kin_status tap(run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static kin_status tap(run *r, const char *fmt, ...)
{
    static const int one[3] = {1, 1, 1};
    const int64_t *n = r->t.size;
    const size_t mark = kin_ws_mark(r->ctx);
    kin_tensor tokens = r->t, picture;
    char name[96];
    va_list ap;

    if (!r->ctx->tap)
        return KIN_OK;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    tokens.id = 0; /* no entry on the tape */
    tokens = KIN_RESHAPE(&tokens, n[0], n[1] * n[2], n[3]);
    KIN_TRY(kin_unpatchify(r->ctx, &tokens, one, true, n[3], 1, n[1], n[2], &picture));
    picture = KIN_RESHAPE(&picture, n[0], n[3], n[1], n[2]);
    kin_tap(r->ctx, &picture, "%s", name);
    kin_ws_release(r->ctx, mark);
    return KIN_OK;
}

static const kin_conv_options same3 = {.top = 1, .bottom = 1, .left = 1, .right = 1};

static kin_status norm(const run *r, const layer *l, const kin_tensor *x, kin_act act,
                       kin_tensor *y)
{
    return kin_groupnorm(r->ctx, x, r->v->groups, l->w, l->b, act, NORM_EPS, y);
}

static kin_status conv(run *r, const layer *l, const kin_conv_options *opt)
{
    kin_tensor y;

    KIN_TRY(kin_conv(r->ctx, &r->t, l->w, l->b, opt, NULL, &y));
    return take(r, &y);
}

/* A 1x1 convolution is a product per pixel. */
static kin_status conv1(run *r, const layer *l)
{
    kin_tensor y;

    KIN_TRY(kin_linear(r->ctx, &r->t, l->w, l->b, &y));
    return take(r, &y);
}

typedef struct resnet_call {
    const vae_kl *v;
    const resnet *b;
} resnet_call;

/* y = shortcut(x) + conv2(act(norm2(conv1(act(norm1(x)))))) */
static kin_status resnet_forward(kin_ctx *ctx, void *arg, const kin_tensor *x, kin_tensor *y)
{
    const resnet_call *c = arg;
    const run r = {.ctx = ctx, .v = c->v};
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor n, h, s = *x;

    KIN_TRY(norm(&r, &c->b->norm1, x, c->v->act, &n));
    KIN_TRY(kin_conv(ctx, &n, c->b->conv1.w, c->b->conv1.b, &same3, NULL, &h));
    if (!ctx->tape)
        KIN_TRY(kin_ws_keep(ctx, mark, &h));
    KIN_TRY(norm(&r, &c->b->norm2, &h, c->v->act, &n));
    if (c->b->shortcut.w)
        KIN_TRY(kin_linear(ctx, x, c->b->shortcut.w, c->b->shortcut.b, &s));
    return kin_conv(ctx, &n, c->b->conv2.w, c->b->conv2.b, &same3, &s, y);
}

static kin_status block(run *r, const resnet *b)
{
    const bool again = r->v->base.checkpoint && r->ctx->tape;
    resnet_call *call = kin_ws_bytes(r->ctx, sizeof *call);
    kin_tensor y;

    if (!call)
        return r->ctx->error.status;
    *call = (resnet_call){.v = r->v, .b = b};
    if (again)
        KIN_TRY(kin_checkpoint(r->ctx, resnet_forward, call, &r->t, 1, &y, 1));
    else
        KIN_TRY(resnet_forward(r->ctx, call, &r->t, &y));
    return take(r, &y);
}

/* One head over all pixels. */
static kin_status attend(run *r, const middle *m)
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

static kin_status run_middle(run *r, const middle *m)
{
    KIN_TRY(block(r, &m->before));
    if (m->q.w)
        KIN_TRY(attend(r, m));
    return block(r, &m->after);
}

static kin_status run_level(run *r, const level *l, const kin_conv_options *sample)
{
    for (int j = 0; j < l->count; j++)
        KIN_TRY(block(r, &l->r[j]));
    return l->sample.w ? conv(r, &l->sample, sample) : KIN_OK;
}

/* The norm before conv_out is followed by SiLU whatever act_fn says. */
static kin_status run_end(run *r, const half *h)
{
    kin_tensor n;

    KIN_TRY(norm(r, &h->norm_out, &r->t, KIN_ACT_SILU, &n));
    KIN_TRY(take(r, &n));
    return conv(r, &h->conv_out, &same3);
}

static kin_status begin(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *x, run *r)
{
    static const int one[3] = {1, 1, 1};
    const int64_t *n = x->size;
    const kin_tensor video = KIN_RESHAPE(x, n[0], n[1], 1, n[2], n[3]);
    kin_tensor tokens;

    *r = (run){.ctx = ctx, .v = (const vae_kl *)vae, .mark = kin_ws_mark(ctx)};
    KIN_TRY(kin_patchify(ctx, &video, one, true, &tokens));
    r->t = KIN_RESHAPE(&tokens, n[0], n[2], n[3], n[1]);
    return KIN_OK;
}

static kin_status finish(run *r, kin_tensor *y)
{
    static const int one[3] = {1, 1, 1};
    const int64_t *n = r->t.size;
    const kin_tensor tokens = KIN_RESHAPE(&r->t, n[0], n[1] * n[2], n[3]);
    kin_tensor video;

    KIN_TRY(kin_unpatchify(r->ctx, &tokens, one, true, n[3], 1, n[1], n[2], &video));
    video = KIN_RESHAPE(&video, n[0], n[3], n[1], n[2]);
    KIN_TRY(take(r, &video));
    *y = r->t;
    return KIN_OK;
}

static kin_status encode(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *x, kin_tensor *moments)
{
    static const kin_conv_options halve = {.stride = 2, .bottom = 1, .right = 1};
    const vae_kl *v = (const vae_kl *)vae;
    run r;

    KIN_TRY(begin(ctx, vae, x, &r));
    KIN_TRY(conv(&r, &v->encoder.conv_in, &same3));
    KIN_TRY(tap(&r, "encoder.conv_in"));
    for (int i = 0; i < vae->levels; i++) {
        KIN_TRY(run_level(&r, &v->encoder.level[i], &halve));
        KIN_TRY(tap(&r, "encoder.down_blocks.%d", i));
    }
    KIN_TRY(run_middle(&r, &v->encoder.mid));
    KIN_TRY(tap(&r, "encoder.mid_block"));
    KIN_TRY(run_end(&r, &v->encoder));
    if (v->quant_conv.w) {
        KIN_TRY(conv1(&r, &v->quant_conv));
        KIN_TRY(tap(&r, "quant_conv"));
    }
    return finish(&r, moments);
}

static kin_status decode(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *z, kin_tensor *x)
{
    static const kin_conv_options twice = {.up = 2, .top = 1, .bottom = 1, .left = 1, .right = 1};
    const vae_kl *v = (const vae_kl *)vae;
    run r;

    KIN_TRY(begin(ctx, vae, z, &r));
    if (v->post_quant_conv.w)
        KIN_TRY(conv1(&r, &v->post_quant_conv));
    KIN_TRY(conv(&r, &v->decoder.conv_in, &same3));
    KIN_TRY(tap(&r, "decoder.conv_in"));
    KIN_TRY(run_middle(&r, &v->decoder.mid));
    KIN_TRY(tap(&r, "decoder.mid_block"));
    for (int i = 0; i < vae->levels; i++) {
        KIN_TRY(run_level(&r, &v->decoder.level[i], &twice));
        KIN_TRY(tap(&r, "decoder.up_blocks.%d", i));
    }
    KIN_TRY(run_end(&r, &v->decoder));
    return finish(&r, x);
}

const kin_vae_class kin_vae_class_kl = {.name = "AutoencoderKL",
                                        .create = create,
                                        .destroy = destroy,
                                        .encode = encode,
                                        .decode = decode};
