#include "diffusion/probe.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "diffusion/pipeline_parts.h"
#include "tensor/kernels.h"

enum { PROBE_SEED = 20, SMALL_FRAMES = 3, SMALL_PATCHES = 4 };

const float kin_probe_times[KIN_PROBE_TIMES] = {900.0f, 500.0f, 100.0f};

static const char prompt[] = "a red ball falls onto a wooden floor and bounces";

void kin_probe_free(kin_probe *probe)
{
    kin_free(probe->text);
    for (int i = 0; i < KIN_PROBE_TIMES; i++)
        kin_free(probe->y[i]);
    *probe = (kin_probe){0};
}

double kin_probe_difference(const float *a, const float *b, int64_t n)
{
    double off = 0, all = 0;

    for (int64_t i = 0; i < n; i++) {
        off += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        all += (double)a[i] * (double)a[i];
    }
    return all > 0 ? sqrt(off / all) : off > 0 ? INFINITY : 0;
}

/* Copy of a contiguous f32 tensor. */
static kin_status keep(kin_ctx *ctx, const kin_tensor *t, float **out, int64_t *n)
{
    *n = kin_tensor_numel(t);
    kin_free(*out);
    *out = kin_malloc((size_t)*n * sizeof(float));
    if (!*out)
        return kin_fail(&ctx->error, KIN_ERR_MEM, "probe: out of memory");
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor here;

    KIN_TRY(kin_host(ctx, t, &here));
    memcpy(*out, here.data, (size_t)*n * sizeof(float));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

static kin_status noise(kin_ctx *ctx, int ndim, const int64_t *size, kin_tensor *x)
{
    const kin_rng rng = {.seed = PROBE_SEED, .purpose = KIN_RNG_NOISE};

    KIN_TRY(kin_ws_tensor(ctx, KIN_DTYPE_F32, ndim, size, x));
    return ctx->k->randn(ctx, &rng, 0, x);
}

/* Latents of the model's own size, or small ones. */
static kin_status make_x(kin_pipeline *p, bool small, kin_tensor *x)
{
    const kin_model_info *info = kin_model_get_info(p->model);
    const int64_t pixels[3] = {p->frames, p->height, p->width};
    int64_t s[3];

    if (info->family == KIN_FAMILY_DIT)
        return noise(p->ctx, 4,
                     (int64_t[]){1, info->in_channels, info->input_size, info->input_size}, x);
    if (small) {
        s[0] = SMALL_FRAMES + (SMALL_FRAMES % info->patch[0] ? 1 : 0);
        s[1] = SMALL_PATCHES * info->patch[1];
        s[2] = SMALL_PATCHES * info->patch[2];
    } else {
        KIN_TRY(kin_pipeline_latent_size(p, pixels, s, &p->ctx->error));
    }
    return noise(p->ctx, 5, (int64_t[]){1, info->in_channels, s[0], s[1], s[2]}, x);
}

static kin_status forward(kin_pipeline *p, bool small, const kin_tensor *text, kin_probe *out)
{
    kin_ctx *ctx = p->ctx;
    int32_t class = 0;
    float at;
    const kin_tensor label = KIN_TENSOR(&class, KIN_DTYPE_I32, 1),
                     t = KIN_TENSOR(&at, KIN_DTYPE_F32, 1);
    kin_tensor x;

    KIN_TRY(make_x(p, small, &x));
    for (int i = 0; i < KIN_PROBE_TIMES; i++) {
        const size_t mark = kin_ws_mark(ctx);
        const kin_model_input in = {.x = &x, .t = &t, .label = text ? NULL : &label, .text = text};
        kin_model_output y = {0};

        at = kin_probe_times[i];
        KIN_TRY(kin_model_forward(ctx, p->model, &in, &y));
        KIN_TRY(keep(ctx, &y.y, &out->y[i], &out->n));
        kin_ws_release(ctx, mark);
    }
    return KIN_OK;
}

static kin_status run(kin_pipeline *p, kin_probe *out)
{
    const kin_model_info *info = kin_model_get_info(p->model);
    const bool any_size = info->family == KIN_FAMILY_WAN || info->family == KIN_FAMILY_COGVIDEOX;
    const char *const text = prompt;
    kin_ctx *ctx = p->ctx;
    kin_tensor states, null;
    kin_status status;

    if (info->family == KIN_FAMILY_VAE || info->family == KIN_FAMILY_CLASSIFIER)
        return kin_fail(&ctx->error, KIN_ERR_UNSUPPORTED, "probe: the model makes nothing");
    if (info->text_dim) {
        KIN_TRY(kin_pipeline_encode(p, &text, 1, &states, &null));
        KIN_TRY(keep(ctx, &states, &out->text, &out->texts));
        ctx->packed -= kin_params_drop_packs(p->text_params);
    }
    status = forward(p, any_size, info->text_dim ? &states : NULL, out);
    /* learned positions: of one size alone */
    if (status == KIN_ERR_SHAPE && any_size)
        status = forward(p, false, &states, out);
    return status;
}

kin_status kin_probe_run(kin_pipeline *p, kin_probe *out)
{
    const size_t mark = kin_ws_mark(p->ctx);
    const kin_status status = run(p, out);

    p->ctx->packed -= kin_params_drop_packs(p->params);
    kin_ws_release(p->ctx, mark);
    if (status != KIN_OK)
        kin_probe_free(out);
    return status;
}
