/* tensor/ref/embed.c: rotary rotation, table rows, patches, sinusoids. */
#include "tensor/ref/ref.h"

kin_status kin_ref_rope(kin_ctx *ctx, const kin_rope_args *a)
{
    const kin_tensor *x = a->x, *y = a->y;
    int64_t pairs = x->size[3] / 2, rows = x->size[0] * x->size[1] * x->size[2];
    (void)ctx;
    for (int64_t r = 0; r < rows; r++) {
        int64_t h = r % x->size[2], n = r / x->size[2] % x->size[1],
                b = r / x->size[2] / x->size[1];
        int64_t xr = b * x->stride[0] + n * x->stride[1] + h * x->stride[2];
        int64_t yr = b * y->stride[0] + n * y->stride[1] + h * y->stride[2];
        for (int64_t k = 0; k < pairs; k++) {
            double c = kin_ref_get2(a->cos, n, k), s = kin_ref_get2(a->sin, n, k);
            double x0 = kin_ref_load(x, xr + 2 * k * x->stride[3]);
            double x1 = kin_ref_load(x, xr + (2 * k + 1) * x->stride[3]);
            if (a->inverse)
                s = -s;
            kin_ref_put(y, yr + 2 * k * y->stride[3], x0 * c - x1 * s, a->acc);
            kin_ref_put(y, yr + (2 * k + 1) * y->stride[3], x0 * s + x1 * c, a->acc);
        }
    }
    return KIN_OK;
}

kin_status kin_ref_embedding(kin_ctx *ctx, const kin_embedding_args *a)
{
    const kin_tensor *table = &a->table->value;
    (void)ctx;
    for (int64_t i = 0; i < a->ids->size[0]; i++) {
        int64_t id = (int64_t)kin_ref_load(a->ids, i * a->ids->stride[0]);
        for (int64_t j = 0; j < table->size[1]; j++)
            kin_ref_put2(a->y, i, j, kin_ref_get2(table, id, j), false);
    }
    return KIN_OK;
}

kin_status kin_ref_embedding_bwd(kin_ctx *ctx, const kin_embedding_args *a)
{
    (void)ctx;
    for (int64_t i = 0; i < a->ids->size[0] && kin_ref_wants_grad(a->table); i++) {
        int64_t id = (int64_t)kin_ref_load(a->ids, i * a->ids->stride[0]);
        for (int64_t j = 0; j < a->table->grad.size[1]; j++)
            kin_ref_grad_add(a->table, id, j, kin_ref_get2(a->dy, i, j));
    }
    return KIN_OK;
}

/* Copies one patch: token n of sample b, whose corner in the video is (f, h, w). */
static void patch_copy(const kin_patch_args *a, int64_t b, int64_t n, const int64_t corner[3])
{
    const kin_tensor *video = a->to_tokens ? a->src : a->dst;
    const kin_tensor *tokens = a->to_tokens ? a->dst : a->src;
    int64_t channels = video->size[1], p[3] = {a->pt, a->ph, a->pw};
    for (int64_t c = 0; c < channels; c++) {
        for (int64_t i = 0; i < p[0] * p[1] * p[2]; i++) {
            int64_t f = corner[0] + i / (p[1] * p[2]), h = corner[1] + i / p[2] % p[1];
            int64_t w = corner[2] + i % p[2];
            int64_t v = a->channel_last ? i * channels + c : c * p[0] * p[1] * p[2] + i;
            int64_t vat = b * video->stride[0] + c * video->stride[1] + f * video->stride[2] +
                          h * video->stride[3] + w * video->stride[4];
            int64_t tat = b * tokens->stride[0] + n * tokens->stride[1] + v * tokens->stride[2];
            if (a->to_tokens)
                kin_ref_put(tokens, tat, kin_ref_load(video, vat), a->acc);
            else
                kin_ref_put(video, vat, kin_ref_load(tokens, tat), a->acc);
        }
    }
}

kin_status kin_ref_patch(kin_ctx *ctx, const kin_patch_args *a)
{
    const kin_tensor *video = a->to_tokens ? a->src : a->dst;
    int64_t nf = video->size[2] / a->pt, nh = video->size[3] / a->ph, nw = video->size[4] / a->pw;
    (void)ctx;
    for (int64_t b = 0; b < video->size[0]; b++) {
        for (int64_t n = 0; n < nf * nh * nw; n++) {
            int64_t corner[3] = {n / (nh * nw) * a->pt, n / nw % nh * a->ph, n % nw * a->pw};
            patch_copy(a, b, n, corner);
        }
    }
    return KIN_OK;
}

kin_status kin_ref_sinusoid(kin_ctx *ctx, const kin_sinusoid_args *a)
{
    const kin_tensor *y = a->y;
    (void)ctx;
    for (int64_t j = 0; j < a->half; j++) {
        /* note: f32 on purpose, see kin_sinusoid_args */
        float f = expf(-logf(10000.0f) * (float)j / (float)a->half);
        for (int64_t b = 0; b < y->size[0]; b++) {
            for (int64_t i = 0; i < y->size[1]; i++) {
                int64_t row = b * y->stride[0] + i * y->stride[1];
                float v = (float)kin_ref_get2(a->v, b, i) * f;
                kin_ref_put(y, row + j * y->stride[2], cos((double)v), false);
                kin_ref_put(y, row + (a->half + j) * y->stride[2], sin((double)v), false);
            }
        }
    }
    return KIN_OK;
}
