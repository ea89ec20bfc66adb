/* tensor/cpu/conv_wino.c: 3x3 convolution of stride 1 by Winograd's F(2x2,3x3): 16 products per
 * tile of 2x2 pixels, each the sum over channels (and frames) of one of 16 places. A task
 * transforms the pixels of its tiles, multiplies place by place and transforms back with bias and
 * residual. Doubled input: its second and third row of a tile are equal, so their difference, and
 * with it 7 of the 16 places, is zero. */
#include <omp.h>
#include <string.h>

#include "tensor/cpu/conv.h"

enum { PLACES = 16, LEAST_CHANNELS = 32, BLOCKS = 8 };

typedef struct plan {
    const kin_conv_job *j;
    const kin_simd *s;
    const kin_engine *e;
    kin_conv_cut cut;       /* of tiles */
    int64_t most;           /* tiles of a rectangle */
    int64_t depth, steps;   /* kt * in, packed */
    int64_t panels, ld;     /* of output; ld: columns of the products */
    bool zero[PLACES];      /* places that are zero whatever x is */
    const float *pack;      /* [PLACES][panels][steps][right_words] */
    size_t v, left, m, pad; /* floats of one thread's scratch; pad: a pixel of zeros */
} plan;

typedef struct scratch {
    float *v, *left, *m, *pad;
} scratch;

bool kin_conv_takes_wino(const kin_conv_job *j)
{
    const kin_conv_shape *s = &j->s;
    return (j->mode == KIN_PRODUCT_F32 || j->mode == KIN_PRODUCT_W16) && s->kh == 3 && s->kw == 3 &&
           s->stride == 1 && j->gap == 1 && s->in >= LEAST_CHANNELS && s->out >= LEAST_CHANNELS;
}

static size_t lines(int64_t floats)
{
    return ((size_t)floats + 31) / 16 * 16;
}

static void plan_init(const kin_ctx *ctx, const kin_conv_job *j, plan *p)
{
    const kin_engine *e = kin_cpu_engine(ctx, KIN_PRODUCT_F32);
    const kin_conv_shape *s = &j->s;
    *p = (plan){.j = j, .s = kin_cpu_simd(ctx), .e = e, .depth = s->kt * s->in};
    p->cut = kin_conv_cut_of(ctx, j, (s->out_height + 1) / 2, (s->out_width + 1) / 2,
                             (int64_t)BLOCKS * e->mr, e->mr);
    p->most = p->cut.high * p->cut.wide;
    p->steps = kin_engine_steps(e, p->depth);
    p->panels = (s->out + e->nr - 1) / e->nr;
    p->ld = p->panels * e->nr;
    for (int i = 0; i < PLACES; i++)
        p->zero[i] =
            s->up == 2 && ((i / 4 == 2 && s->top % 2 == 1) || (i % 4 == 2 && s->left % 2 == 1));
    p->v = lines(PLACES * p->most * p->depth);
    p->left = lines((p->most + e->mr - 1) / e->mr * e->mr * p->steps);
    p->m = lines(PLACES * p->most * p->ld);
    p->pad = lines(s->in);
}

/* --- the weight --- */

/* Columns [c0, c0+cn) of all places. planes [taps][cn][in] -> wide [kt][PLACES][cn][in]. */
static void pack_columns(const plan *p, int64_t panel, float *run, float *planes, float *wide,
                         float *dst)
{
    const kin_conv_shape *s = &p->j->s;
    const kin_engine *e = p->e;
    const int64_t c0 = panel * e->nr, cn = s->out - c0 < e->nr ? s->out - c0 : e->nr;
    const int64_t n = cn * s->in, words = p->steps * e->right_words;
    kin_conv_planes(p->s, p->j, c0, cn, run, planes);
    for (int64_t t = 0; t < s->kt; t++)
        p->s->wino_weight(planes + t * 9 * n, n, wide + t * PLACES * n);
    for (int64_t i = 0; i < PLACES; i++)
        for (int64_t t = 0; t < s->kt && !p->zero[i]; t++)
            e->right_rows(wide + (t * PLACES + i) * n, s->in, NULL, cn, e->nr, s->in,
                          dst + (i * p->panels + panel) * words + t * s->in * e->right_words);
}

static kin_status pack_weight(kin_ctx *ctx, plan *p)
{
    const kin_conv_job *j = p->j;
    const kin_engine *e = p->e;
    const uint64_t key = 0x30000u + (uint64_t)e->nr * 4u + (p->zero[2] ? 2u : 0u) + j->turned;
    kin_pack *pack = kin_param_pack_find(j->w, key);
    if (pack) {
        p->pack = pack->data;
        return KIN_OK;
    }
    KIN_TRY(kin_cpu_pack_get(
        ctx, j->w, key,
        (size_t)(PLACES * p->panels * p->steps * e->right_words + 16) * sizeof(float), &pack));
    const int64_t cols = e->nr < j->s.out ? e->nr : j->s.out;
    const size_t run = lines((j->s.in > cols ? j->s.in : cols) * kin_conv_taps(j));
    const size_t planes = lines(kin_conv_taps(j) * cols * j->s.in);
    const size_t each = run + planes + lines(PLACES * cols * p->depth);
    const size_t mark = kin_ws_mark(ctx);
    float *work = kin_ws_bytes(ctx, (size_t)ctx->threads * each * sizeof(float));
    if (!work)
        return ctx->error.status;
    p->pack = pack->data;
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
    float *dst = pack->data;
#pragma omp parallel for num_threads(ctx->threads) if (ctx->threads > 1) schedule(dynamic, 1)
    for (int64_t i = 0; i < p->panels; i++) {
        float *mine = work + (size_t)omp_get_thread_num() * each;
        pack_columns(p, i, mine, mine + run, mine + run + planes, dst);
    }
    kin_ws_release(ctx, mark);
    kin_param_drop_pages(j->w);
    return KIN_OK;
}

/* --- one rectangle of tiles --- */

/* The 16 pixels of a tile in frame f of x; pad where there is none. */
static void tile_pixels(const plan *p, int64_t b, int64_t f, int64_t row, int64_t col,
                        const float *pad, const float *px[PLACES])
{
    const kin_conv_job *j = p->j;
    const kin_conv_shape *s = &j->s;
    int64_t at[4];
    for (int v = 0; v < 4; v++)
        at[v] = kin_conv_place(j, 2 * col + v - s->left, s->width);
    for (int u = 0; u < 4; u++) {
        const int64_t i = kin_conv_place(j, 2 * row + u - s->top, s->height);
        const bool none = f < 0 || f >= s->frames || i < 0;
        const int64_t first = ((b * s->frames + f) * s->height + i) * s->width;
        for (int v = 0; v < 4; v++)
            px[u * 4 + v] = none || at[v] < 0 ? pad : (const float *)j->x + (first + at[v]) * s->in;
    }
}

static void transform_in(const plan *p, const kin_conv_part *r, const scratch *w)
{
    const kin_conv_shape *s = &p->j->s;
    const int64_t b = r->picture / s->out_frames, f0 = r->picture % s->out_frames - s->front;
    const int64_t n = r->h * r->w, step = n * p->depth;
    const float *px[PLACES];
    for (int64_t i = 0; i < n; i++)
        for (int64_t t = 0; t < s->kt; t++) {
            tile_pixels(p, b, f0 + t, r->row + i / r->w, r->col + i % r->w, w->pad, px);
            p->s->wino_in(px, s->in, w->v + i * p->depth + t * s->in, step);
        }
}

static void multiply(const plan *p, const kin_conv_part *r, const scratch *w)
{
    const kin_engine *e = p->e;
    const int64_t n = r->h * r->w, blocks = (n + e->mr - 1) / e->mr;
    const int64_t words = p->steps * e->right_words;
    int64_t row0;
    for (int64_t at = 0; at < PLACES; at++) {
        if (p->zero[at])
            continue;
        const float *v = w->v + at * n * p->depth, *b = p->pack + at * p->panels * words;
        float *m = w->m + at * n * p->ld;
        for (int64_t i = 0; i < blocks; i++) {
            const int64_t rows = kin_engine_block_rows(e, n, blocks, i, &row0);
            e->left_rows(v + row0 * p->depth, p->depth, NULL, rows, e->mr, p->depth,
                         w->left + i * p->steps * e->mr);
        }
        for (int64_t c = 0; c < p->panels; c++, b += words) {
            const kin_tile run = p->j->s.out - c * e->nr <= e->nr / 2 ? e->tile_half : e->tile;
            for (int64_t i = 0; i < blocks; i++) {
                const int64_t rows = kin_engine_block_rows(e, n, blocks, i, &row0);
                /* note: the panel after the last one is the next place's first */
                const kin_ahead next = at + 1 < PLACES || c + 1 < p->panels
                                           ? kin_engine_ahead(e, b + words, p->steps, i, blocks)
                                           : kin_ahead_none(b);
                run((int)rows, p->steps, w->left + i * p->steps * e->mr, b,
                    m + row0 * p->ld + c * e->nr, p->ld, false, next);
            }
        }
    }
}

static void transform_out(const plan *p, const kin_conv_part *r, const scratch *w)
{
    const kin_conv_job *j = p->j;
    const kin_conv_shape *s = &j->s;
    const int64_t n = r->h * r->w;
    for (int64_t i = 0; i < n; i++) {
        float *y[4];
        const float *add[4];
        for (int k = 0; k < 4; k++) {
            const int64_t row = 2 * (r->row + i / r->w) + k / 2,
                          col = 2 * (r->col + i % r->w) + k % 2;
            const int64_t at = ((r->picture * s->out_height + row) * s->out_width + col) * s->out;
            const bool in = row < s->out_height && col < s->out_width;
            y[k] = in ? j->y + at : NULL;
            add[k] = !in ? NULL : j->acc ? y[k] : j->residual ? j->residual + at : NULL;
        }
        p->s->wino_out(w->m + i * p->ld, n * p->ld, s->out, j->bias, add, y);
    }
}

static void run_part(const plan *p, int64_t i, const scratch *w)
{
    const kin_conv_part r = kin_conv_part_of(&p->cut, i);
    const int64_t n = r.h * r.w;
    transform_in(p, &r, w);
    for (int at = 0; at < PLACES; at++)
        if (p->zero[at])
            memset(w->m + at * n * p->ld, 0, (size_t)(n * p->ld) * sizeof(float));
    multiply(p, &r, w);
    transform_out(p, &r, w);
}

kin_status kin_conv_wino(kin_ctx *ctx, const kin_conv_job *j)
{
    plan p;
    plan_init(ctx, j, &p);
    KIN_TRY(pack_weight(ctx, &p));
    const size_t mark = kin_ws_mark(ctx), each = p.v + p.left + p.m + p.pad;
    const int threads = p.cut.count < ctx->threads ? (int)p.cut.count : ctx->threads;
    float *work = kin_ws_bytes(ctx, (size_t)threads * each * sizeof(float));
    if (!work)
        return ctx->error.status;
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        float *mine = work + (size_t)omp_get_thread_num() * each;
        const scratch w = {.v = mine,
                           .left = mine + p.v,
                           .m = mine + p.v + p.left,
                           .pad = mine + p.v + p.left + p.m};
        memset(w.pad, 0, p.pad * sizeof(float));
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < p.cut.count; i++)
            run_part(&p, i, &w);
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}
