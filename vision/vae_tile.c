/* vision/vae_tile.c: decoding in overlapping tiles, as tiled_decode of diffusers' AutoencoderKL: a
 * tile's top and left strips are blended linearly with what the tiles above and to the left hold
 * there, then every tile gives its first `limit` rows and columns. */
#include <string.h>

#include "vision/vae.h"

kin_vae_tiling kin_vae_tiling_default(const kin_vae *vae)
{
    return (kin_vae_tiling){.tile = kin_vae_get_info(vae)->sample_size, .overlap = 0.25};
}

typedef struct tiles {
    kin_ctx *ctx;
    const kin_vae *vae;
    int64_t latent, step;  /* side of a tile and distance of two, in the latent */
    int64_t extent, limit; /* rows that are blended, rows that a tile gives, in pixels */
    int64_t rows, cols;    /* tiles */
    float *above, *left;   /* [cols][C][extent][tile], [C][tile][extent]: the ends of tiles */
    int64_t above_rows;    /* rows of the tiles above, columns of the tile to the left */
    int64_t left_cols;
} tiles;

static kin_status set_sizes(tiles *t, const kin_vae_tiling *tiling, const kin_tensor *z)
{
    const kin_vae_info *info = kin_vae_get_info(t->vae);
    const int64_t tile = tiling->tile ? tiling->tile : info->sample_size;

    if (tile < info->reduction || tile % info->reduction)
        return kin_fail(&t->ctx->error, KIN_ERR_ARG,
                        "vae: tile %lld must be a multiple of %lld pixels", (long long)tile,
                        (long long)info->reduction);
    if (!(tiling->overlap >= 0 && tiling->overlap < 1))
        return kin_fail(&t->ctx->error, KIN_ERR_ARG, "vae: overlap %g must lie in [0, 1)",
                        tiling->overlap);
    t->latent = tile / info->reduction;
    t->step = (int64_t)((double)t->latent * (1 - tiling->overlap));
    t->extent = (int64_t)((double)tile * tiling->overlap);
    t->limit = tile - t->extent;
    if (t->step < 1 || t->step * info->reduction != t->limit)
        return kin_fail(&t->ctx->error, KIN_ERR_ARG,
                        "vae: overlap %g of tiles of %lld pixels must be whole latents",
                        tiling->overlap, (long long)tile);
    t->rows = (z->size[2] + t->step - 1) / t->step;
    t->cols = (z->size[3] + t->step - 1) / t->step;
    return KIN_OK;
}

/* A decoded tile [C,h,w] and its neighbours. */
typedef struct tile {
    float *p;
    int64_t channels, h, w;
} tile;

static int64_t least(int64_t a, int64_t b, int64_t c)
{
    const int64_t m = a < b ? a : b;

    return m < c ? m : c;
}

static float mix(float a, float b, int64_t i, int64_t n)
{
    const float w = (float)((double)i / (double)n);

    return a * (1 - w) + b * w;
}

/* The first rows become a mixture with the last ones of the tile above. */
static void blend_above(const tiles *t, const tile *d, const float *above)
{
    const int64_t n = least(t->above_rows, d->h, t->extent), side = t->limit + t->extent;

    for (int64_t c = 0; c < d->channels; c++)
        for (int64_t i = 0; i < n; i++) {
            const float *a = above + (c * t->extent + t->extent - n + i) * side;
            float *b = d->p + (c * d->h + i) * d->w;

            for (int64_t j = 0; j < d->w; j++)
                b[j] = mix(a[j], b[j], i, n);
        }
}

static void blend_left(const tiles *t, const tile *d)
{
    const int64_t n = least(t->left_cols, d->w, t->extent), side = t->limit + t->extent;

    for (int64_t c = 0; c < d->channels; c++)
        for (int64_t i = 0; i < d->h; i++) {
            const float *a = t->left + (c * side + i) * t->extent + t->extent - n;
            float *b = d->p + (c * d->h + i) * d->w;

            for (int64_t j = 0; j < n; j++)
                b[j] = mix(a[j], b[j], j, n);
        }
}

/* Keeps the last rows and columns for the tiles below and to the right; strips end at extent. */
static void keep_ends(const tiles *t, const tile *d, float *above)
{
    const int64_t side = t->limit + t->extent;
    const int64_t rows = d->h < t->extent ? d->h : t->extent;
    const int64_t cols = d->w < t->extent ? d->w : t->extent;

    for (int64_t c = 0; c < d->channels; c++) {
        const float *from = d->p + c * d->h * d->w;

        for (int64_t i = 0; i < rows; i++)
            memcpy(above + (c * t->extent + t->extent - rows + i) * side,
                   from + (d->h - rows + i) * d->w, (size_t)d->w * sizeof(float));
        for (int64_t i = 0; i < d->h; i++)
            memcpy(t->left + (c * side + i) * t->extent + t->extent - cols,
                   from + i * d->w + d->w - cols, (size_t)cols * sizeof(float));
    }
}

/* The first `limit` rows and columns go into the picture [C,H,W]. */
static void put(const tiles *t, const tile *d, int64_t row, int64_t col, const kin_tensor *x)
{
    const int64_t rows = d->h < t->limit ? d->h : t->limit;
    const int64_t cols = d->w < t->limit ? d->w : t->limit, W = x->size[2];

    for (int64_t c = 0; c < d->channels; c++)
        for (int64_t i = 0; i < rows; i++)
            memcpy((float *)x->data + (c * x->size[1] + row * t->limit + i) * W + col * t->limit,
                   d->p + (c * d->h + i) * d->w, (size_t)cols * sizeof(float));
}

static kin_status run_tile(tiles *t, int64_t row, int64_t col, const kin_tensor *z,
                           const kin_tensor *x)
{
    const size_t mark = kin_ws_mark(t->ctx);
    const int64_t h0 = row * t->step, w0 = col * t->step;
    const int64_t h = z->size[2] - h0, w = z->size[3] - w0;
    kin_tensor part = kin_tensor_slice(z, 2, h0, h < t->latent ? h : t->latent), picture;

    part = kin_tensor_slice(&part, 3, w0, w < t->latent ? w : t->latent);
    KIN_TRY(kin_contiguous(t->ctx, &part, &part));
    KIN_TRY(kin_vae_decode(t->ctx, t->vae, &part, &picture));
    if (!kin_ctx_is_plan(t->ctx)) {
        kin_tensor shown;

        KIN_TRY(kin_host(t->ctx, &picture, &shown));
        const tile d = {shown.data, shown.size[1], shown.size[2], shown.size[3]};
        float *above = t->above + col * d.channels * t->extent * (t->limit + t->extent);

        if (row > 0)
            blend_above(t, &d, above);
        if (col > 0)
            blend_left(t, &d);
        keep_ends(t, &d, above);
        put(t, &d, row, col, x);
        t->left_cols = d.w;
        /* note: all tiles of a row have one height; the next row needs it */
        if (col + 1 == t->cols)
            t->above_rows = d.h;
    }
    kin_ws_release(t->ctx, mark);
    return KIN_OK;
}

static kin_status run_tiles(tiles *t, const kin_tensor *z, const kin_tensor *x)
{
    const size_t mark = kin_ws_mark(t->ctx);
    const int64_t strip = x->size[0] * t->extent * (t->limit + t->extent);

    t->above = kin_ws_bytes(t->ctx, (size_t)(t->cols * strip) * sizeof(float));
    t->left = kin_ws_bytes(t->ctx, (size_t)strip * sizeof(float));
    if (!t->above || !t->left)
        return t->ctx->error.status;
    for (int64_t row = 0; row < t->rows; row++)
        for (int64_t col = 0; col < t->cols; col++) {
            KIN_TRY(run_tile(t, row, col, z, x));
            /* none is larger than the first */
            if (kin_ctx_is_plan(t->ctx))
                goto done;
        }
done:
    kin_ws_release(t->ctx, mark);
    return KIN_OK;
}

kin_status kin_vae_decode_tiled(kin_ctx *ctx, const kin_vae *vae, const kin_tensor *z,
                                const kin_vae_tiling *tiling, kin_tensor *x)
{
    const kin_vae_info *info = kin_vae_get_info(vae);
    tiles t = {.ctx = ctx, .vae = vae};

    if (z->ndim != 4)
        return kin_vae_decode(ctx, vae, z, x); /* which says what is wrong */
    KIN_TRY(set_sizes(&t, tiling, z));
    if (z->size[2] <= t.latent && z->size[3] <= t.latent)
        return kin_vae_decode(ctx, vae, z, x);
    KIN_TRY(KIN_WS_HOST(ctx, x, KIN_DTYPE_F32, z->size[0], info->out_channels,
                        z->size[2] * info->reduction, z->size[3] * info->reduction));
    for (int64_t b = 0; b < z->size[0]; b++) {
        const kin_tensor one = kin_tensor_slice(z, 0, b, 1), picture = kin_tensor_select(x, 0, b);

        KIN_TRY(run_tiles(&t, &one, &picture));
    }
    return KIN_OK;
}
