/* tensor/cpu/gemm_tn.c: products that sum over rows, c += a^T b (weight gradients). Both operands
 * are packed once, by all threads, in the order of memory; a stretch of rows at a time, so that the
 * packed copies stay small. An element is one chain over all rows, whatever the stretches. */
#include <omp.h>
#include <string.h>

#include "tensor/cpu/cpu.h"

/* Rows per packing task; packed steps per stretch and floats of packed operands at a time. */
enum { PACK_ROWS = 128, MAX_STEPS = 256, BUDGET = 2097152 };

typedef struct stretch {
    const kin_gemm_tn *g;
    const kin_simd *s;
    kin_product mode;
    int64_t blocks, panels; /* row blocks of c, column panels of c */
    int64_t k0, kn, steps;  /* rows of this stretch, packed steps */
    float *a, *b;           /* [blocks][steps][mr], [panels][steps][nr] */
    float *tiles;           /* one tile per thread */
} stretch;

/* Packs rows [r0, r1) of the stretch (r0 even) of one operand. */
static void pack_rows(const stretch *t, bool left, int64_t r0, int64_t r1)
{
    const kin_gemm_tn *g = t->g;
    bool dot = t->mode == KIN_PRODUCT_DOT;
    int lanes = left ? t->s->mr : t->s->nr;
    const float *src = left ? g->a : g->b;
    const int32_t *rows = left ? NULL : g->b_rows;
    int64_t ld = left ? g->lda : g->ldb, cols = left ? g->m : g->n, at = t->k0 + r0;
    int64_t step = t->steps * lanes;
    float *dst = (left ? t->a : t->b) + (dot ? r0 / 2 : r0) * lanes;
    (dot ? t->s->pack_n16 : t->s->pack_n)(rows ? src : src + at * ld, ld, rows ? rows + at : NULL,
                                          cols, lanes, r1 - r0, step, dst);
    if (t->mode == KIN_PRODUCT_ROUND) {
        for (int64_t p = 0; p < (left ? t->blocks : t->panels); p++)
            t->s->round_bf16(dst + p * step, (r1 - r0) * lanes);
    }
}

static void tile_of(const stretch *t, int64_t i, int64_t p)
{
    const kin_gemm_tn *g = t->g;
    const kin_simd *s = t->s;
    int64_t row0 = i * s->mr, col0 = p * s->nr;
    int rows = (int)(g->m - row0 < s->mr ? g->m - row0 : s->mr);
    int64_t cols = g->n - col0 < s->nr ? g->n - col0 : s->nr;
    const float *a = t->a + i * t->steps * s->mr, *b = t->b + p * t->steps * s->nr;
    float *c = g->c + row0 * g->ldc + col0, *tile = t->tiles + omp_get_thread_num() * s->mr * s->nr;
    bool dot = t->mode == KIN_PRODUCT_DOT;
    if (cols == s->nr) {
        (dot ? s->tile16 : s->tile)(rows, t->steps, a, b, c, g->ldc, true);
        return;
    }
    s->put_rows(rows, cols, 1.0f, c, g->ldc, tile, s->nr, false);
    if (cols <= s->nr / 2)
        (dot ? s->tile16_half : s->tile_half)(rows, t->steps, a, b, tile, s->nr, true);
    else
        (dot ? s->tile16 : s->tile)(rows, t->steps, a, b, tile, s->nr, true);
    s->put_rows(rows, cols, 1.0f, tile, s->nr, c, g->ldc, false);
}

/* Inside a parallel region: packs the stretch, then multiplies. */
static void run_stretch(const stretch *t, int64_t block_step)
{
    int64_t pieces = (t->kn + PACK_ROWS - 1) / PACK_ROWS;
    int64_t groups = (t->blocks + block_step - 1) / block_step;
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < 2 * pieces; i++) {
        int64_t r0 = i / 2 * PACK_ROWS, r1 = r0 + PACK_ROWS < t->kn ? r0 + PACK_ROWS : t->kn;
        pack_rows(t, i % 2 == 0, r0, r1);
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < groups * t->panels; i++) {
        int64_t b0 = i % groups * block_step,
                b1 = b0 + block_step < t->blocks ? b0 + block_step : t->blocks;
        for (int64_t j = b0; j < b1; j++)
            tile_of(t, j, i / groups);
    }
}

kin_status kin_cpu_gemm_tn(kin_ctx *ctx, const kin_gemm_tn *g, kin_product mode)
{
    stretch t = {.g = g, .s = kin_cpu_simd(ctx), .mode = mode};
    size_t mark = kin_ws_mark(ctx);
    int mr = t.s->mr, nr = t.s->nr;
    if (g->m <= 0 || g->n <= 0 || g->k <= 0)
        return KIN_OK;
    t.blocks = (g->m + mr - 1) / mr;
    t.panels = (g->n + nr - 1) / nr;
    int64_t width = t.blocks * mr + t.panels * nr, most = BUDGET / width / PACK_ROWS * PACK_ROWS;
    most = most < PACK_ROWS ? PACK_ROWS : most > MAX_STEPS ? MAX_STEPS : most;
    most = mode == KIN_PRODUCT_DOT ? 2 * most : most;
    most = most < g->k ? most : g->k;
    int64_t steps = mode == KIN_PRODUCT_DOT ? (most + 1) / 2 : most;
    int threads = kin_cpu_threads(ctx, g->m * g->n / 64 * g->k);
    t.a = kin_ws_bytes(ctx, (size_t)(t.blocks * mr * steps + 16) * sizeof(float));
    t.b = kin_ws_bytes(ctx, (size_t)(t.panels * nr * steps + 16) * sizeof(float));
    t.tiles = kin_ws_bytes(ctx, (size_t)(threads * mr * nr) * sizeof(float));
    if (!t.a || !t.b || !t.tiles)
        return ctx->error.status;
    int64_t block_step = t.blocks * t.panels / (8 * (int64_t)threads);
    block_step = block_step < 1 ? 1 : block_step > 8 ? 8 : block_step;
    for (t.k0 = 0; t.k0 < g->k; t.k0 += most) {
        t.kn = g->k - t.k0 < most ? g->k - t.k0 : most;
        t.steps = mode == KIN_PRODUCT_DOT ? (t.kn + 1) / 2 : t.kn;
#pragma omp parallel num_threads(threads) if (threads > 1)
        run_stretch(&t, block_step);
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}
