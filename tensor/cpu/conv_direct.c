/* tensor/cpu/conv_direct.c: convolution as products of every tap, without the matrix of all
 * patches: a task copies the pixels its rectangle of output needs (zeros included), packs their
 * rows tap by tap and multiplies by the packed weight of the tap. */
#include <omp.h>
#include <string.h>

#include "tensor/cpu/conv.h"

/* Steps of a pass of a deep engine: a block of rows of so many takes 2/3 of the L1 cache. */
enum { DEEP_STEPS = 256 };

typedef struct plan {
    const kin_conv_job *j;
    const kin_simd *s;
    const kin_engine *e;
    bool half; /* pixels are gathered in bf16 */
    kin_conv_cut cut;
    int64_t most;          /* pixels of a rectangle, at most */
    int64_t sh, sw;        /* rows and columns of X it needs, at most */
    int64_t taps, steps;   /* packed steps of one tap */
    int64_t together;      /* taps of one pass */
    int64_t panels, ld;    /* of output; ld: columns of the sums */
    const float *pack;     /* [panels][taps*steps][right_words] */
    size_t src, left, sum; /* words of 32 bits of one thread's scratch */
    size_t row;            /* int32 */
} plan;

typedef struct scratch {
    char *src; /* pixels, floats or bf16 */
    float *left, *sum;
    int32_t *row;
} scratch;

static size_t lines(int64_t floats)
{
    return ((size_t)floats + 31) / 16 * 16;
}

static void plan_init(const kin_ctx *ctx, const kin_conv_job *j, plan *p)
{
    const kin_engine *e = kin_cpu_engine(ctx, j->mode);
    const kin_conv_shape *s = &j->s;
    *p = (plan){.j = j, .s = kin_cpu_simd(ctx), .e = e, .taps = kin_conv_taps(j)};
    p->cut =
        kin_conv_cut_of(ctx, j, s->out_height, s->out_width, (int64_t)e->blocks * e->mr, 2 * e->mr);
    p->most = p->cut.high * p->cut.wide;
    p->sh = (p->cut.high - 1) * s->stride + s->kh;
    p->sw = (p->cut.wide - 1) * s->stride + s->kw;
    p->steps = kin_engine_steps(e, s->in);
    const int64_t pass = e->deep ? DEEP_STEPS : e->pass;
    p->together = pass / p->steps < 1 ? 1 : pass / p->steps;
    if (p->together > p->taps)
        p->together = p->taps;
    p->panels = (s->out + e->nr - 1) / e->nr;
    /* note: a cache line more, so that the rows of a tile fall into different sets */
    p->ld = p->panels * e->nr + (e->deep ? 16 : 0);
    p->half = e->half.left_rows != NULL;
    p->src = lines(s->kt * p->sh * p->sw * s->in / (p->half ? 2 : 1));
    p->left = lines((p->most + e->mr - 1) / e->mr * e->mr * p->together * p->steps);
    p->sum = lines(p->most * p->ld);
    p->row = lines(p->most);
}

/* --- the weight --- */

static kin_status pack_weight(kin_ctx *ctx, plan *p)
{
    const kin_conv_job *j = p->j;
    const kin_engine *e = p->e;
    const int64_t words = p->taps * p->steps * e->right_words;
    const uint64_t key = 0x20000u + (uint64_t)e->nr * 64u + (uint64_t)j->mode * 2u + j->turned;
    kin_pack *pack = kin_param_pack_find(j->w, key);
    if (pack) {
        p->pack = pack->data;
        return KIN_OK;
    }
    KIN_TRY(
        kin_cpu_pack_get(ctx, j->w, key, (size_t)(p->panels * words + 16) * sizeof(float), &pack));
    const int64_t cols = e->nr < j->s.out ? e->nr : j->s.out;
    const size_t run = lines((j->s.in > cols ? j->s.in : cols) * p->taps);
    const size_t each = run + lines(p->taps * cols * j->s.in);
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
        const int64_t c0 = i * e->nr, cn = j->s.out - c0 < e->nr ? j->s.out - c0 : e->nr;
        kin_conv_planes(p->s, j, c0, cn, mine, mine + run);
        for (int64_t t = 0; t < p->taps; t++)
            e->right_rows(mine + run + t * cn * j->s.in, j->s.in, NULL, cn, e->nr, j->s.in,
                          dst + i * words + t * p->steps * e->right_words);
    }
    kin_ws_release(ctx, mark);
    kin_param_drop_pages(j->w);
    return KIN_OK;
}

/* --- one rectangle --- */

/* The pixels of X that it needs, [kt][rows][cols][in], and the first of every output pixel. */
static void gather(const plan *p, const kin_conv_part *r, const scratch *w)
{
    const kin_conv_job *j = p->j;
    const kin_conv_shape *s = &j->s;
    const int64_t high = (r->h - 1) * s->stride + s->kh, wide = (r->w - 1) * s->stride + s->kw;
    const int64_t b = r->picture / s->out_frames, f0 = r->picture % s->out_frames - s->front;
    const size_t row = (size_t)(wide * s->in) * (p->half ? sizeof(uint16_t) : sizeof(float));
    char *dst = w->src;
    for (int64_t t = 0; t < s->kt; t++)
        for (int64_t u = 0; u < high; u++, dst += row)
            kin_conv_pixels(p->s, j, p->half, b, f0 + t, r->row * s->stride + u - s->top,
                            r->col * s->stride - s->left, wide, dst);
    for (int64_t i = 0; i < r->h * r->w; i++)
        w->row[i] = (int32_t)(i / r->w * s->stride * wide + i % r->w * s->stride);
}

/* Rows of all blocks for taps [t0, t1). */
static void pack_left(const plan *p, const kin_conv_part *r, int64_t t0, int64_t t1,
                      const scratch *w)
{
    const kin_conv_shape *s = &p->j->s;
    const kin_engine *e = p->e;
    const int64_t high = (r->h - 1) * s->stride + s->kh, wide = (r->w - 1) * s->stride + s->kw;
    const int64_t m = r->h * r->w, blocks = (m + e->mr - 1) / e->mr;
    float *dst = w->left;
    int64_t row0;
    for (int64_t i = 0; i < blocks; i++) {
        const int64_t rows = kin_engine_block_rows(e, m, blocks, i, &row0);
        for (int64_t t = t0; t < t1; t++, dst += p->steps * e->mr) {
            const int64_t v = t % s->kw, u = t / s->kw % s->kh, f = t / s->kw / s->kh;
            const void *src = kin_engine_at(w->src, p->half, ((f * high + u) * wide + v) * s->in);
            kin_engine_left_rows(e, src, p->half, s->in, w->row + row0, rows, s->in, dst);
        }
    }
}

/* Panels pass by a block of rows, whose left operand stays in the L1 cache. */
static void multiply_deep(const plan *p, const kin_conv_part *r, int64_t t0, int64_t t1,
                          const scratch *w)
{
    const kin_engine *e = p->e;
    const int64_t m = r->h * r->w, blocks = (m + e->mr - 1) / e->mr, steps = (t1 - t0) * p->steps;
    const int64_t words = p->taps * p->steps * e->right_words, first = t0 * p->steps;
    /* of the next pass, or of the next rectangle */
    const int64_t ahead = (t1 < p->taps ? steps : -first) * e->right_words;
    int64_t row0;
    for (int64_t i = 0; i < blocks; i++) {
        const int64_t rows = kin_engine_block_rows(e, m, blocks, i, &row0);
        const float *a = w->left + i * steps * e->mr, *b = p->pack + first * e->right_words;
        float *sum = w->sum + row0 * p->ld;
        for (int64_t c = 0; c < p->panels; c++, b += words, sum += e->nr)
            (p->j->s.out - c * e->nr <= e->nr / 2 ? e->tile_half : e->tile)(
                (int)rows, steps, a, b, sum, p->ld, t0 > 0,
                kin_engine_ahead(e, b + ahead, steps, i, blocks));
    }
}

/* Blocks of rows pass by a panel. */
static void multiply_wide(const plan *p, const kin_conv_part *r, int64_t t0, int64_t t1,
                          const scratch *w)
{
    const kin_engine *e = p->e;
    const int64_t m = r->h * r->w, blocks = (m + e->mr - 1) / e->mr, steps = (t1 - t0) * p->steps;
    const int64_t words = p->taps * p->steps * e->right_words;
    const float *b = p->pack + t0 * p->steps * e->right_words;
    int64_t row0;
    for (int64_t c = 0; c < p->panels; c++, b += words) {
        const int64_t cols = p->j->s.out - c * e->nr;
        const kin_tile run = cols <= e->nr / 2 ? e->tile_half : e->tile;
        for (int64_t i = 0; i < blocks; i++) {
            const int64_t rows = kin_engine_block_rows(e, m, blocks, i, &row0);
            const kin_ahead next = c + 1 < p->panels
                                       ? kin_engine_ahead(e, b + words, steps, i, blocks)
                                       : kin_ahead_none(b);
            run((int)rows, steps, w->left + i * steps * e->mr, b, w->sum + row0 * p->ld + c * e->nr,
                p->ld, t0 > 0, next);
        }
    }
}

static void finish(const plan *p, const kin_conv_part *r, const scratch *w)
{
    const kin_conv_job *j = p->j;
    const kin_conv_shape *s = &j->s;
    const kin_epilogue epi = {
        .bias = j->bias, .residual = j->residual, .ld_residual = s->out, .y = j->y, .ld_y = s->out};
    for (int64_t i = 0; i < r->h; i++) {
        const int64_t row = (r->picture * s->out_height + r->row + i) * s->out_width + r->col;
        const float *sum = w->sum + i * r->w * p->ld;
        if (j->acc)
            p->s->put_rows(r->w, s->out, 1.0f, sum, p->ld, j->y + row * s->out, s->out, true);
        else
            p->s->epilogue(&epi, NULL, row, 0, (int)r->w, (int)s->out, sum, p->ld);
    }
}

static void run_part(const plan *p, int64_t i, const scratch *w)
{
    const kin_conv_part r = kin_conv_part_of(&p->cut, i);
    gather(p, &r, w);
    for (int64_t t = 0; t < p->taps; t += p->together) {
        const int64_t end = t + p->together < p->taps ? t + p->together : p->taps;
        pack_left(p, &r, t, end, w);
        (p->e->deep ? multiply_deep : multiply_wide)(p, &r, t, end, w);
    }
    finish(p, &r, w);
}

kin_status kin_conv_direct(kin_ctx *ctx, const kin_conv_job *j)
{
    plan p;
    plan_init(ctx, j, &p);
    KIN_TRY(pack_weight(ctx, &p));
    const size_t mark = kin_ws_mark(ctx), each = p.src + p.left + p.sum + p.row;
    const int threads = p.cut.count < ctx->threads ? (int)p.cut.count : ctx->threads;
    float *work = kin_ws_bytes(ctx, (size_t)threads * each * sizeof(float));
    if (!work)
        return ctx->error.status;
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        float *mine = work + (size_t)omp_get_thread_num() * each;
        const scratch w = {.src = (char *)mine,
                           .left = mine + p.src,
                           .sum = mine + p.src + p.left,
                           .row = (int32_t *)(void *)(mine + p.src + p.left + p.sum)};
        kin_engine_enter(p.e);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < p.cut.count; i++)
            run_part(&p, i, &w);
        kin_engine_leave(p.e);
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}
