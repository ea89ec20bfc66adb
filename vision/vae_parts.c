#include "vision/vae_parts.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* --- parameters --- */

kin_vae_maker kin_vae_under(const kin_vae_maker *m, const char *fmt, ...)
{
    kin_vae_maker u = *m;
    size_t n = strlen(u.name);
    va_list ap;

    if (n > 0 && n + 1 < sizeof u.name)
        u.name[n++] = '.';
    va_start(ap, fmt);
    vsnprintf(u.name + n, sizeof u.name - n, fmt, ap);
    va_end(ap);
    return u;
}

kin_init kin_vae_spread(int64_t fan_in)
{
    return KIN_INIT(KIN_INIT_NORMAL, (float)(1.0 / sqrt(3.0 * (double)fan_in)));
}

void kin_vae_add_conv(const kin_vae_maker *m, const char *name, int64_t in, int64_t out,
                      kin_vae_kernel k, kin_vae_layer *l)
{
    const kin_vae_maker own = kin_vae_under(m, "%s", name);
    const int64_t taps = (int64_t)(k.time ? k.time : 1) * k.high * k.wide;
    const kin_init init = kin_vae_spread(in * taps);

    l->w = k.time ? kin_params_add(m->params, init, KIN_DIMS(out, in, k.time, k.high, k.wide),
                                   "%s.weight", own.name)
                  : kin_params_add(m->params, init, KIN_DIMS(out, in, k.high, k.wide), "%s.weight",
                                   own.name);
    l->b =
        kin_params_add(m->params, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(out), "%s.bias", own.name);
}

void kin_vae_add_norm(const kin_vae_maker *m, const char *name, int64_t width, kin_vae_layer *l)
{
    const kin_vae_maker own = kin_vae_under(m, "%s", name);

    l->w = kin_params_add(m->params, KIN_INIT(KIN_INIT_ONE, 0), KIN_DIMS(width), "%s.weight",
                          own.name);
    l->b =
        kin_params_add(m->params, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(width), "%s.bias", own.name);
}

/* --- configuration --- */

kin_status kin_vae_read_widths(const cJSON *config, int64_t groups, int most, int64_t *width,
                               int *levels, kin_error *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(config, "block_out_channels"), *item;
    const int n = !list ? *levels : cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
    int i = 0;

    if (n < 1 || n > most)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "vae: block_out_channels must be a list of 1 to %d widths", most);
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsNumber(item) || item->valuedouble < 1 ||
            item->valuedouble > KIN_VAE_WIDTH_MAX || item->valuedouble != floor(item->valuedouble))
            return kin_fail(err, KIN_ERR_FORMAT,
                            "vae: block_out_channels must be whole numbers from 1 to %d",
                            KIN_VAE_WIDTH_MAX);
        width[i++] = (int64_t)item->valuedouble;
    }
    *levels = n;
    for (i = 0; i < n; i++) {
        if (width[i] % groups)
            return kin_fail(
                err, KIN_ERR_ARG,
                "vae: block_out_channels %lld must be a multiple of norm_num_groups %lld",
                (long long)width[i], (long long)groups);
    }
    return KIN_OK;
}

kin_status kin_vae_check_blocks(const cJSON *config, const char *key, const char *want, int levels,
                                bool optional, kin_error *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(config, key), *item;

    if (!list)
        return optional ? KIN_OK
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

kin_status kin_vae_check_null(const cJSON *config, const char *const *keys, kin_error *err)
{
    for (; *keys; keys++) {
        const cJSON *v = cJSON_GetObjectItemCaseSensitive(config, *keys);

        if (v && !cJSON_IsNull(v))
            return kin_fail(err, KIN_ERR_UNSUPPORTED, "vae: %s must be null", *keys);
    }
    return KIN_OK;
}

/* --- running --- */

static const int one_pixel[3] = {1, 1, 1};

kin_status kin_vae_channels_last(kin_ctx *ctx, const kin_tensor *x, kin_tensor *y)
{
    const bool video = x->ndim == 5;
    const int64_t *n = x->size, F = video ? n[2] : 1, H = n[x->ndim - 2], W = n[x->ndim - 1];
    const kin_tensor frames = KIN_RESHAPE(x, n[0], n[1], F, H, W);
    kin_tensor tokens;

    KIN_TRY(kin_patchify(ctx, &frames, one_pixel, true, &tokens));
    *y = video ? KIN_RESHAPE(&tokens, n[0], F, H, W, n[1]) : KIN_RESHAPE(&tokens, n[0], H, W, n[1]);
    return KIN_OK;
}

kin_status kin_vae_channels_first(kin_ctx *ctx, const kin_tensor *x, kin_tensor *y)
{
    const bool video = x->ndim == 5;
    const int64_t *n = x->size, F = video ? n[1] : 1, H = n[x->ndim - 3], W = n[x->ndim - 2],
                  C = n[x->ndim - 1];
    const kin_tensor tokens = KIN_RESHAPE(x, n[0], F * H * W, C);

    KIN_TRY(kin_unpatchify(ctx, &tokens, one_pixel, true, C, F, H, W, y));
    if (!video)
        *y = KIN_RESHAPE(y, n[0], C, H, W);
    return KIN_OK;
}

kin_status kin_vae_tap(kin_ctx *ctx, const kin_tensor *t, const char *fmt, ...)
{
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor activation = *t, picture;
    char name[96];
    va_list ap;

    if (!ctx->tap)
        return KIN_OK;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    activation.id = 0; /* no entry on the tape */
    KIN_TRY(kin_vae_channels_first(ctx, &activation, &picture));
    kin_tap(ctx, &picture, "%s", name);
    kin_ws_release(ctx, mark);
    return KIN_OK;
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
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor x, from, to;

    KIN_TRY(kin_host(ctx, &s->x, &x));
    KIN_TRY(kin_host(ctx, &dy, &from));
    KIN_TRY(kin_host(ctx, &dx, &to));
    for (int64_t i = 0; i < kin_tensor_numel(&dx); i++) {
        const double v = kin_tensor_get(&x, i), old = acc ? kin_tensor_get(&to, i) : 0.0;

        kin_tensor_set(&to, i, old + (v >= -1 && v <= 1 ? kin_tensor_get(&from, i) : 0.0));
    }
    KIN_TRY(kin_host_back(ctx, &to, &dx));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_vae_clamp(kin_ctx *ctx, kin_tensor *x)
{
    const int64_t n = kin_tensor_numel(x);
    clamp_saved *saved;
    kin_tensor from, y;

    KIN_TRY(kin_host(ctx, x, &from));
    y = from;
    if (kin_tape_needs(ctx, x))
        KIN_TRY(kin_ws_host(ctx, x->dtype, x->ndim, x->size, &y));
    for (int64_t i = 0; i < n && !kin_ctx_is_plan(ctx); i++) {
        const double v = x->dtype == KIN_DTYPE_F32 ? (double)((const float *)from.data)[i]
                                                   : kin_tensor_get(&from, i);

        if (y.data != from.data || v < -1 || v > 1)
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
