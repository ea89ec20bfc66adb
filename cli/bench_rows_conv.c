/* cli/bench_rows_conv.c: rows of convolution, group norm and posterior, at sizes of the published
 * Stable Diffusion VAE. Work is that of the plain sums: a 3x3 kernel done by transform has a share
 * above 1. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "cli/bench.h"
#include "tensor/ops.h"
#include "vision/vae.h"

#define RUN(slot)                                       \
    static kin_status run_##slot(kin_ctx *ctx, void *a) \
    {                                                   \
        return ctx->k->slot(ctx, a);                    \
    }
RUN(conv)
RUN(conv_dx)
RUN(conv_dw)
RUN(groupnorm)
RUN(groupnorm_bwd)
RUN(posterior)
RUN(posterior_bwd)

typedef struct conv_size {
    int64_t side, in, out; /* of the square output */
    int kernel, stride, up;
} conv_size;

static kin_status make_weight(kin_params *params, const conv_size *s, kin_error *err)
{
    kin_params_add(params, KIN_INIT(KIN_INIT_NORMAL, 0.02f),
                   KIN_DIMS(s->out, s->in, s->kernel, s->kernel), "weight");
    kin_params_add(params, KIN_INIT(KIN_INIT_NORMAL, 0.02f), KIN_DIMS(s->out), "bias");
    KIN_TRY(kin_params_alloc(params, KIN_DTYPE_F32, false, err));
    KIN_TRY(kin_params_alloc_grads(params, false, err));
    kin_params_init(params, 1);
    return KIN_OK;
}

static kin_status conv_of(kin_bench *b, const conv_size *s, kin_params *params)
{
    kin_ctx *ctx = b->ctx;
    const int64_t side = s->side * s->stride / s->up;
    const int pad = s->kernel == 3 && s->stride == 1;
    kin_tensor x, y, dy, dx;
    KIN_TRY(make_weight(params, s, b->err));
    KIN_TRY(KIN_NOISE(ctx, &x, side * side, s->in));
    KIN_TRY(KIN_NOISE(ctx, &dy, s->side * s->side, s->out));
    KIN_TRY(KIN_WS(ctx, &y, KIN_DTYPE_F32, s->side * s->side, s->out));
    KIN_TRY(KIN_WS(ctx, &dx, KIN_DTYPE_F32, side * side, s->in));
    kin_conv_args a = {.s = {.batch = 1,
                             .frames = 1,
                             .height = side,
                             .width = side,
                             .in = s->in,
                             .out_frames = 1,
                             .out_height = s->side,
                             .out_width = s->side,
                             .out = s->out,
                             .kt = 1,
                             .kh = s->kernel,
                             .kw = s->kernel,
                             .stride = s->stride,
                             .up = s->up,
                             .top = pad,
                             .left = pad},
                       .x = &x,
                       .w = params->list[0],
                       .b = params->list[1],
                       .y = &y,
                       .dy = &dy,
                       .dx = &dx};
    const struct {
        const char *op;
        kin_bench_fn run;
    } rows[] = {{"conv", run_conv}, {"conv_dx", run_conv_dx}, {"conv_dw", run_conv_dw}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        kin_bench_row row = {.op = rows[i].op, .run = rows[i].run, .user = &a};
        snprintf(row.shape, sizeof row.shape, "%lldx%lldx%lld->%lld k%d s%d%s", (long long)s->side,
                 (long long)s->side, (long long)s->in, (long long)s->out, s->kernel, s->stride,
                 s->up == 2 ? " doubled" : "");
        KIN_TRY(kin_bench_run_row(b, &row));
    }
    return KIN_OK;
}

static kin_status conv_rows(kin_bench *b, const conv_size *s)
{
    const size_t mark = kin_ws_mark(b->ctx);
    kin_params *params;
    KIN_TRY(kin_params_create(&params, b->err));
    const kin_status status = conv_of(b, s, params);
    kin_params_destroy(&params);
    kin_ws_release(b->ctx, mark);
    return status;
}

static kin_status groupnorm_of(kin_bench *b, int64_t pixels, int64_t channels, kin_params *params)
{
    kin_ctx *ctx = b->ctx;
    kin_tensor x, y, dy, dx, mean, rstd;
    kin_params_add(params, KIN_INIT(KIN_INIT_ONE, 0), KIN_DIMS(channels), "gamma");
    kin_params_add(params, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(channels), "beta");
    KIN_TRY(kin_params_alloc(params, KIN_DTYPE_F32, false, b->err));
    KIN_TRY(kin_params_alloc_grads(params, false, b->err));
    kin_params_init(params, 1);
    KIN_TRY(KIN_NOISE(ctx, &x, pixels, channels));
    KIN_TRY(KIN_NOISE(ctx, &dy, pixels, channels));
    KIN_TRY(KIN_WS(ctx, &y, KIN_DTYPE_F32, pixels, channels));
    KIN_TRY(KIN_WS(ctx, &dx, KIN_DTYPE_F32, pixels, channels));
    KIN_TRY(KIN_WS(ctx, &mean, KIN_DTYPE_F32, 1, 32));
    KIN_TRY(KIN_WS(ctx, &rstd, KIN_DTYPE_F32, 1, 32));
    kin_groupnorm_args a = {.batch = 1,
                            .pixels = pixels,
                            .channels = channels,
                            .groups = 32,
                            .eps = 1e-6f,
                            .act = KIN_ACT_SILU,
                            .x = &x,
                            .gamma = params->list[0],
                            .beta = params->list[1],
                            .y = &y,
                            .mean = &mean,
                            .rstd = &rstd,
                            .dy = &dy,
                            .dx = &dx};
    kin_bench_row f = {.op = "groupnorm", .run = run_groupnorm, .user = &a};
    snprintf(f.shape, sizeof f.shape, "%lldx%lld silu", (long long)pixels, (long long)channels);
    kin_bench_row g = f;
    g.op = "groupnorm_bwd";
    g.run = run_groupnorm_bwd;
    KIN_TRY(kin_bench_run_row(b, &f));
    KIN_TRY(ctx->k->groupnorm(ctx, &a));
    return kin_bench_run_row(b, &g);
}

static kin_status groupnorm_rows(kin_bench *b)
{
    kin_params *params;
    KIN_TRY(kin_params_create(&params, b->err));
    const kin_status status = groupnorm_of(b, 64 * 64, 256, params);
    kin_params_destroy(&params);
    return status;
}

static kin_status posterior_rows(kin_bench *b)
{
    kin_ctx *ctx = b->ctx;
    kin_tensor mean, logvar, noise, z, dz, dm, dv;
    kin_tensor *const all[] = {&mean, &logvar, &noise, &z, &dz, &dm, &dv};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        KIN_TRY(KIN_NOISE(ctx, all[i], 8, 4096));
    kin_posterior_args a = {.mean = &mean,
                            .logvar = &logvar,
                            .noise = &noise,
                            .lo = -30,
                            .hi = 20,
                            .z = &z,
                            .dz = &dz,
                            .dmean = &dm,
                            .dlogvar = &dv};
    kin_bench_row f = {.op = "posterior", .run = run_posterior, .user = &a, .shape = "8x4096"};
    kin_bench_row g = {
        .op = "posterior_bwd", .run = run_posterior_bwd, .user = &a, .shape = "8x4096"};
    KIN_TRY(kin_bench_run_row(b, &f));
    return kin_bench_run_row(b, &g);
}

/* --- a whole VAE, on request (--filter vae): the published Stable Diffusion one --- */

static const char sd_vae[] =
    "{\"_class_name\": \"AutoencoderKL\", \"block_out_channels\": [128, 256, 512, 512],"
    " \"layers_per_block\": 2, \"sample_size\": 256, \"down_block_types\": ["
    "\"DownEncoderBlock2D\", \"DownEncoderBlock2D\", \"DownEncoderBlock2D\","
    " \"DownEncoderBlock2D\"], \"up_block_types\": [\"UpDecoderBlock2D\", \"UpDecoderBlock2D\","
    " \"UpDecoderBlock2D\", \"UpDecoderBlock2D\"]}";

typedef struct vae_call {
    kin_params *params;
    kin_vae *vae;
    kin_tensor in;
} vae_call;

static kin_status run_vae_decode(kin_ctx *ctx, void *user)
{
    const vae_call *c = user;
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor x;
    const kin_status status = kin_vae_decode(ctx, c->vae, &c->in, &x);
    kin_ws_release(ctx, mark);
    return status;
}

static kin_status run_vae_encode(kin_ctx *ctx, void *user)
{
    const vae_call *c = user;
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor mean, logvar;
    const kin_status status = kin_vae_encode(ctx, c->vae, &c->in, &mean, &logvar);
    kin_ws_release(ctx, mark);
    return status;
}

static kin_status vae_of(kin_bench *b, vae_call *c)
{
    kin_bench_row row = {.op = "vae_decode", .run = run_vae_decode, .user = c, .shape = "256x256"};
    cJSON *config = NULL;
    KIN_TRY(kin_params_create(&c->params, b->err));
    KIN_TRY(kin_json_parse(sd_vae, strlen(sd_vae), KIN_JSON_STRICT, &config, b->err));
    const kin_status status = kin_vae_create(config, c->params, &c->vae, b->err);
    cJSON_Delete(config);
    KIN_TRY(status);
    KIN_TRY(kin_params_alloc(c->params, KIN_DTYPE_F32, false, b->err));
    kin_params_init(c->params, 1);
    KIN_TRY(KIN_NOISE(b->ctx, &c->in, 1, 4, 32, 32));
    KIN_TRY(kin_bench_run_row(b, &row));
    row.op = "vae_encode";
    row.run = run_vae_encode;
    KIN_TRY(KIN_NOISE(b->ctx, &c->in, 1, 3, 256, 256));
    return kin_bench_run_row(b, &row);
}

static kin_status vae_rows(kin_bench *b)
{
    const char *filter = kin_args_text(b->args, "filter");
    vae_call c = {0};
    if (!filter || strncmp(filter, "vae", 3) != 0)
        return KIN_OK;
    const kin_status status = vae_of(b, &c);
    kin_vae_destroy(&c.vae);
    kin_params_destroy(&c.params);
    return status;
}

kin_status kin_bench_rows_conv(kin_bench *b)
{
    static const conv_size sizes[] = {{64, 128, 128, 3, 1, 1}, {64, 256, 256, 3, 1, 1},
                                      {32, 512, 512, 3, 1, 1}, {64, 256, 256, 3, 1, 2},
                                      {32, 256, 256, 3, 2, 1}, {128, 128, 3, 3, 1, 1}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        KIN_TRY(conv_rows(b, &sizes[i]));
    KIN_TRY(vae_rows(b));
    /* nothing else follows the type of products */
    if (b->ctx->compute != KIN_DTYPE_F32)
        return KIN_OK;
    const size_t mark = kin_ws_mark(b->ctx);
    KIN_TRY(groupnorm_rows(b));
    kin_ws_release(b->ctx, mark);
    return posterior_rows(b);
}
