/* tensor/cpu/embed.c: rotary rotation, table rows, patches. */
#include <omp.h>
#include <string.h>

#include "tensor/cpu/cpu.h"
#include "tensor/ref/ref.h"

kin_status kin_cpu_rope(kin_ctx *ctx, const kin_rope_args *a)
{
    const kin_tensor *x = a->x, *y = a->y;
    int64_t nb = x->size[0], nn = x->size[1], heads = x->size[2], d = x->size[3];
    if (!kin_is_f32(x) || !kin_is_f32(a->cos) || d % 2 != 0)
        return kin_ref_rope(ctx, a);
    const kin_simd *s = kin_cpu_simd(ctx);
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, nb *nn *heads *d)) schedule(static)
    for (int64_t i = 0; i < nb * nn; i++) {
        int64_t b = i / nn, n = i % nn;
        s->rope_heads(kin_f32(x) + b * x->stride[0] + n * x->stride[1], x->stride[2], heads,
                      kin_f32(a->cos) + n * kin_ld(a->cos), kin_f32(a->sin) + n * kin_ld(a->sin), d,
                      a->inverse, kin_f32(y) + b * y->stride[0] + n * y->stride[1], y->stride[2],
                      a->acc);
    }
    return KIN_OK;
}

kin_status kin_cpu_embedding(kin_ctx *ctx, const kin_embedding_args *a)
{
    const kin_tensor *t = &a->table->value;
    if (!kin_is_f32(a->y) || t->dtype == KIN_DTYPE_F64)
        return kin_ref_embedding(ctx, a);
    const kin_simd *s = kin_cpu_simd(ctx);
    int64_t n = a->ids->size[0], d = t->size[1];
    const int32_t *ids = a->ids->data;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, n *d)) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        int64_t id = ids[i * a->ids->stride[0]];
        kin_cpu_values(s, t, id * t->stride[0], d, kin_f32(a->y) + i * kin_ld(a->y));
    }
    return KIN_OK;
}

kin_status kin_cpu_embedding_bwd(kin_ctx *ctx, const kin_embedding_args *a)
{
    enum { STRIP = 64 };
    if (!a->table->grad.data)
        return KIN_OK;
    if (!kin_is_f32(a->dy) || !kin_is_f32(&a->table->grad))
        return kin_ref_embedding_bwd(ctx, a);
    const kin_simd *s = kin_cpu_simd(ctx);
    int64_t n = a->ids->size[0], d = a->table->grad.size[1], strips = (d + STRIP - 1) / STRIP;
    const int32_t *ids = a->ids->data;
    float *grad = a->table->grad.data;
    /* a thread owns columns, so that equal ids add up in order */
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, n *d)) schedule(static)
    for (int64_t t = 0; t < strips; t++) {
        int64_t c = t * STRIP, len = d - c < STRIP ? d - c : STRIP;
        for (int64_t i = 0; i < n; i++)
            s->put_rows(1, len, 1.0f, kin_f32(a->dy) + i * kin_ld(a->dy) + c, 0,
                        grad + ids[i * a->ids->stride[0]] * d + c, 0, true);
    }
    return KIN_OK;
}

static void put(float *dst, float v, bool acc)
{
    *dst = acc ? *dst + v : v;
}

/* One row of patches of channel c: frame offset and line fixed, all pixels of the line. */
static void patch_line(const kin_patch_args *a, const kin_tensor *video, float *line, float *token,
                       int64_t step_token, int64_t step_value, int64_t tokens)
{
    int64_t sw = video->stride[4];
    for (int64_t n = 0; n < tokens; n++, token += step_token) {
        for (int64_t i = 0; i < a->pw; i++, line += sw) {
            if (a->to_tokens)
                put(token + i * step_value, *line, a->acc);
            else
                put(line, token[i * step_value], a->acc);
        }
    }
}

kin_status kin_cpu_patch(kin_ctx *ctx, const kin_patch_args *a)
{
    const kin_tensor *video = a->to_tokens ? a->src : a->dst,
                     *tokens = a->to_tokens ? a->dst : a->src;
    if (!kin_is_f32(video) || !kin_is_f32(tokens))
        return kin_ref_patch(ctx, a);
    int64_t nb = video->size[0], channels = video->size[1], frames = video->size[2],
            height = video->size[3];
    int64_t nh = height / a->ph, nw = video->size[4] / a->pw,
            lines = nb * channels * frames * height;
    int64_t per = (int64_t)a->pt * a->ph * a->pw;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, 2 * lines * video->size[4])) \
    schedule(static)
    for (int64_t i = 0; i < lines; i++) {
        int64_t h = i % height, f = i / height % frames, c = i / (height * frames) % channels;
        int64_t b = i / (height * frames * channels);
        int64_t inner = (f % a->pt * a->ph + h % a->ph) * a->pw;
        int64_t n = (f / a->pt * nh + h / a->ph) * nw, sv = tokens->stride[2];
        float *line = kin_f32(video) + b * video->stride[0] + c * video->stride[1] +
                      f * video->stride[2] + h * video->stride[3];
        float *token = kin_f32(tokens) + b * tokens->stride[0] + n * tokens->stride[1] +
                       (a->channel_last ? inner * channels + c : c * per + inner) * sv;
        if (f / a->pt < frames / a->pt && h / a->ph < nh)
            patch_line(a, video, line, token, tokens->stride[1],
                       a->channel_last ? channels * sv : sv, nw);
    }
    return KIN_OK;
}
