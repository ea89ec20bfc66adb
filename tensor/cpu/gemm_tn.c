/* tensor/cpu/gemm_tn.c: products that sum over rows, c += a^T b (weight gradients). Both operands
 * are packed once, by all threads, in the order of memory; a stretch of rows at a time, so that the
 * packed copies stay small. An element is one chain over all rows, whatever the stretches. */
#include <omp.h>
#include <string.h>

#include "tensor/cpu/cpu.h"

/* Rows per packing task; packed steps per stretch and floats of packed operands at a time; the same
 * of deep engines, whose sums would move through memory too often; panels taken together. */
enum { PACK_ROWS = 128, MAX_STEPS = 256, BUDGET = 2097152 };
enum { DEEP_STEPS = 1024, DEEP_BUDGET = 4194304, TOGETHER = 8 };

typedef struct stretch {
    const kin_gemm_tn *g;
    const kin_simd *s;
    const kin_engine *e;
    int64_t blocks, panels; /* row blocks of c, column panels of c */
    int64_t k0, kn, steps;  /* rows of this stretch, packed steps */
    float *a, *b;           /* [blocks][steps][mr], [panels][steps][right_words] */
    float *tiles;           /* one tile per thread */
} stretch;

/* Packs rows [r0, r1) of the stretch of one operand; r0 is a multiple of PACK_ROWS. */
static void pack_rows(const stretch *t, bool left, int64_t r0, int64_t r1)
{
    const kin_gemm_tn *g = t->g;
    const kin_engine *e = t->e;
    const int32_t *rows = left || !g->b_rows ? NULL : g->b_rows + t->k0 + r0;
    int64_t ld = left ? g->lda : g->ldb, at = kin_engine_steps(e, r0);
    bool half = left ? g->a_half : g->b_half;
    const void *src = kin_engine_at(left ? g->a : g->b, half, rows ? 0 : (t->k0 + r0) * ld);
    if (left)
        kin_engine_left_cols(e, src, half, ld, rows, g->m, r1 - r0, t->steps * e->mr,
                             t->a + at * e->mr);
    else
        kin_engine_right_steps(e, src, half, ld, rows, g->n, r1 - r0, t->steps * e->right_words,
                               t->b + at * e->right_words);
}

/* The tile of row block i and panel p, packed steps [s0, s0+sn). */
static void tile_of(const stretch *t, int64_t i, int64_t p, int64_t s0, int64_t sn)
{
    const kin_gemm_tn *g = t->g;
    const kin_engine *e = t->e;
    int64_t row0 = i * e->mr, col0 = p * e->nr;
    int rows = (int)(g->m - row0 < e->mr ? g->m - row0 : e->mr);
    int64_t cols = g->n - col0 < e->nr ? g->n - col0 : e->nr;
    const float *a = t->a + (i * t->steps + s0) * e->mr;
    const float *b = t->b + (p * t->steps + s0) * e->right_words;
    float *c = g->c + row0 * g->ldc + col0, *tile = t->tiles + omp_get_thread_num() * e->mr * e->nr;
    /* asks for the lines of the tile after this one */
    for (int64_t r = e->mr; s0 == 0 && r < 2 * e->mr && row0 + r < g->m; r++) {
        __builtin_prefetch(c + r * g->ldc, 1);
        if (cols > 16)
            __builtin_prefetch(c + r * g->ldc + 16, 1);
    }
    if (cols == e->nr) {
        e->tile(rows, sn, a, b, c, g->ldc, true, kin_ahead_none(b));
        return;
    }
    t->s->put_rows(rows, cols, 1.0f, c, g->ldc, tile, e->nr, false);
    (cols <= e->nr / 2 ? e->tile_half : e->tile)(rows, sn, a, b, tile, e->nr, true,
                                                 kin_ahead_none(b));
    t->s->put_rows(rows, cols, 1.0f, tile, e->nr, c, g->ldc, false);
}

/* Row blocks [b0, b1), which stay in the L2 cache, against panels [p0, p1), some at a time: of
 * those, too, and of their part of c, a pass over k at a time. */
static void tiles_of(const stretch *t, int64_t b0, int64_t b1, int64_t p0, int64_t p1)
{
    const int64_t pass = t->e->pass;
    for (int64_t p = p0; p < p1; p += TOGETHER) {
        const int64_t end = p + TOGETHER < p1 ? p + TOGETHER : p1;
        for (int64_t s0 = 0; s0 < t->steps; s0 += pass) {
            const int64_t sn = t->steps - s0 < pass ? t->steps - s0 : pass;
            for (int64_t i = b0; i < b1; i++)
                for (int64_t q = p; q < end; q++)
                    tile_of(t, i, q, s0, sn);
        }
    }
}

/* Inside a parallel region: packs the stretch, then multiplies. */
static void run_stretch(const stretch *t, int64_t threads)
{
    int64_t pieces = (t->kn + PACK_ROWS - 1) / PACK_ROWS, want = 4 * threads;
    int64_t block_step = t->blocks / want < 1 ? 1 : t->blocks / want > 8 ? 8 : t->blocks / want;
    int64_t groups = (t->blocks + block_step - 1) / block_step;
    int64_t cuts = threads > 1 && groups < want ? (want + groups - 1) / groups : 1;
    int64_t panel_step = (t->panels + cuts - 1) / cuts;
    cuts = (t->panels + panel_step - 1) / panel_step;
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < 2 * pieces; i++) {
        int64_t r0 = i / 2 * PACK_ROWS, r1 = r0 + PACK_ROWS < t->kn ? r0 + PACK_ROWS : t->kn;
        pack_rows(t, i % 2 == 0, r0, r1);
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < groups * cuts; i++) {
        int64_t b0 = i / cuts * block_step, p0 = i % cuts * panel_step;
        int64_t b1 = b0 + block_step < t->blocks ? b0 + block_step : t->blocks;
        int64_t p1 = p0 + panel_step < t->panels ? p0 + panel_step : t->panels;
        tiles_of(t, b0, b1, p0, p1);
    }
}

/* Blocks and panels of t->g; returns the most rows of a stretch. */
static int64_t cut(stretch *t)
{
    const kin_engine *e = t->e;
    t->blocks = (t->g->m + e->mr - 1) / e->mr;
    t->panels = (t->g->n + e->nr - 1) / e->nr;
    int64_t width = t->blocks * e->mr + t->panels * e->right_words;
    int64_t budget = e->deep ? DEEP_BUDGET : BUDGET, top = e->deep ? DEEP_STEPS : MAX_STEPS;
    int64_t most = width ? budget / width / PACK_ROWS * PACK_ROWS : PACK_ROWS;
    most = most < PACK_ROWS ? PACK_ROWS : most > top ? top : most;
    return most / e->parts * e->group;
}

/* Inside a parallel region: one product, stretch by stretch. */
static void run_product(stretch t, int64_t threads)
{
    int64_t most = cut(&t);
    if (t.blocks == 0 || t.panels == 0)
        return;
    for (t.k0 = 0; t.k0 < t.g->k; t.k0 += most) {
        t.kn = t.g->k - t.k0 < most ? t.g->k - t.k0 : most;
        t.steps = kin_engine_steps(t.e, t.kn);
        run_stretch(&t, threads);
    }
}

kin_status kin_cpu_gemm_tn(kin_ctx *ctx, const kin_gemm_tn *g, int64_t count, kin_product mode)
{
    const kin_engine *e = kin_cpu_engine(ctx, mode);
    stretch t = {.s = kin_cpu_simd(ctx), .e = e};
    size_t mark = kin_ws_mark(ctx);
    int64_t a_words = 0, b_words = 0, work = 0;
    for (int64_t i = 0; i < count; i++) {
        t.g = &g[i];
        int64_t rows = g[i].k_max > g[i].k ? g[i].k_max : g[i].k, most = cut(&t);
        int64_t steps = kin_engine_steps(e, most < rows ? most : rows);
        int64_t a = t.blocks * e->mr * steps, b = t.panels * e->right_words * steps;
        a_words = a > a_words ? a : a_words;
        b_words = b > b_words ? b : b_words;
        work += g[i].m * g[i].n / 64 * g[i].k;
    }
    t.a = kin_ws_bytes(ctx, (size_t)(a_words + 16) * sizeof(float));
    t.b = kin_ws_bytes(ctx, (size_t)(b_words + 16) * sizeof(float));
    t.tiles = kin_ws_bytes(ctx, (size_t)(ctx->threads * e->mr * e->nr) * sizeof(float));
    if (!t.a || !t.b || !t.tiles)
        return ctx->error.status;
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
    int threads = kin_cpu_threads(ctx, work);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        stretch mine = t;
        kin_engine_enter(e);
        for (int64_t i = 0; i < count; i++) {
            mine.g = &g[i];
            run_product(mine, threads);
        }
        kin_engine_leave(e);
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}
