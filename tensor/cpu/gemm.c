/* tensor/cpu/gemm.c: blocking and threading of the packed products. A task is a range of row blocks
 * times a range of column panels of one product; it packs its rows of A (L2), then runs panel by
 * panel. k is cut every KC packed steps from 0, whatever the shape, so a row's bits depend on k
 * alone. */
#include <omp.h>
#include <string.h>

#include "tensor/cpu/cpu.h"

/* Steps of k per pass, row blocks per task. */
enum { KC = 512, MAX_BLOCKS = 12 };
/* Panels of B taken together where one pass does (see run_group). */
enum { GROUP_FLOATS = 65536, GROUP_MAX = 8 };

const kin_simd *kin_cpu_simd(const kin_ctx *ctx)
{
    return ctx->isa >= KIN_ISA_AVX512 ? &kin_avx512_simd : &kin_avx2_simd;
}

kin_product kin_cpu_product(const kin_ctx *ctx)
{
    if (ctx->compute != KIN_DTYPE_BF16)
        return KIN_PRODUCT_F32;
    return ctx->isa >= KIN_ISA_AVX512 && kin_isa_fast_dot() ? KIN_PRODUCT_DOT : KIN_PRODUCT_ROUND;
}

/* How one product is cut. */
typedef struct split {
    int64_t blocks, block_step,
        mtasks; /* row blocks (<= mr rows each), blocks per task, tasks over rows */
    int64_t panels, panel_step, ptasks;
} split;

static split split_of(const kin_gemm *g, const kin_simd *s, int64_t want)
{
    split p;
    p.blocks = (g->m + s->mr - 1) / s->mr;
    p.panels = (g->n + s->nr - 1) / s->nr;
    p.block_step = (p.blocks + want - 1) / want;
    if (p.block_step > MAX_BLOCKS)
        p.block_step = MAX_BLOCKS;
    if (p.block_step < 4)
        p.block_step = p.blocks < 4 ? p.blocks : 4;
    p.mtasks = (p.blocks + p.block_step - 1) / p.block_step;
    p.ptasks = (want + p.mtasks - 1) / p.mtasks;
    if (p.ptasks > p.panels)
        p.ptasks = p.panels;
    p.panel_step = (p.panels + p.ptasks - 1) / p.ptasks;
    p.ptasks = (p.panels + p.panel_step - 1) / p.panel_step;
    return p;
}

typedef struct thread_scratch {
    float *a, *tile;
} thread_scratch;

/* Rows [*row0, *row0 + result) of row block i. */
static int64_t block_rows(const kin_gemm *g, const split *p, int64_t i, int64_t *row0)
{
    *row0 = i * g->m / p->blocks;
    return (i + 1) * g->m / p->blocks - *row0;
}

/* Row blocks [b0, b1) of A for steps [k0, k0+kn). */
static void pack_a(const kin_gemm *g, const kin_simd *s, kin_product mode, const split *sp,
                   int64_t b0, int64_t b1, int64_t k0, int64_t kn, float *dst)
{
    bool dot = mode == KIN_PRODUCT_DOT;
    int64_t floats = (dot ? (kn + 1) / 2 : kn) * s->mr, row0;
    for (int64_t i = b0; i < b1; i++) {
        int64_t rows = block_rows(g, sp, i, &row0);
        const float *src = g->a + k0 + (g->a_rows ? 0 : row0 * g->lda);
        (dot ? s->pack_t16 : s->pack_t)(src, g->lda, g->a_rows ? g->a_rows + row0 : NULL, rows,
                                        s->mr, kn, dst + (i - b0) * floats);
    }
    if (mode == KIN_PRODUCT_ROUND)
        s->round_bf16(dst, (b1 - b0) * floats);
}

static void copy_tile(int rows, int64_t cols, const float *src, int64_t ld_src, float *dst,
                      int64_t ld_dst)
{
    for (int r = 0; r < rows; r++)
        memcpy(dst + r * ld_dst, src + r * ld_src, (size_t)cols * sizeof(float));
}

/* Panels taken together: B of a group stays in the L2 cache, a row block of them in the L1 cache.
 */
static int64_t group_panels(const kin_simd *s, int64_t steps)
{
    int64_t n = GROUP_FLOATS / (steps * s->nr + 1);
    return n < 1 ? 1 : n > GROUP_MAX ? GROUP_MAX : n;
}

typedef struct tile_place {
    int64_t row0, rows, col0;
    int64_t steps;
    bool first, last;
} tile_place;

static void run_tile(const kin_gemm *g, const kin_simd *s, kin_product mode, const tile_place *t,
                     const float *a, const float *b, float *tile)
{
    float *c = g->epi ? g->epi->y : g->c;
    int64_t ldc = g->epi ? g->epi->ld_y : g->ldc;
    bool acc = !t->first || (!g->epi && g->acc);
    bool finish = g->epi && t->last;
    int64_t cols = g->n - t->col0 < s->nr ? g->n - t->col0 : s->nr;
    int rows = (int)t->rows;
    void (*run)(int, int64_t, const float *, const float *, float *, int64_t, bool) =
        mode == KIN_PRODUCT_DOT ? s->tile16 : s->tile;
    if (cols <= s->nr / 2)
        run = mode == KIN_PRODUCT_DOT ? s->tile16_half : s->tile_half;
    c += t->row0 * ldc + t->col0;
    if (!finish && cols == s->nr) {
        run(rows, t->steps, a, b, c, ldc, acc);
        return;
    }
    if (acc)
        copy_tile(rows, cols, c, ldc, tile, s->nr);
    run(rows, t->steps, a, b, tile, s->nr, acc);
    if (finish)
        s->epilogue(g->epi, t->row0, t->col0, rows, (int)cols, tile, s->nr);
    else
        copy_tile(rows, cols, tile, s->nr, c, ldc);
}

/* Panels [p0, p1) of one row block whose sum takes a single pass: through a buffer in the L1 cache,
 * so that what follows the product runs over long rows. */
static void run_group(const kin_gemm *g, const kin_simd *s, kin_product mode, const tile_place *t,
                      const float *a, const float *b, int64_t b_step, int64_t p0, int64_t p1,
                      float *buf)
{
    int64_t col0 = p0 * s->nr, end = p1 * s->nr < g->n ? p1 * s->nr : g->n, ld = (p1 - p0) * s->nr;
    for (int64_t p = p0; p < p1; p++, b += b_step) {
        bool half = end - p * s->nr <= s->nr / 2;
        float *c = buf + (p - p0) * s->nr;
        if (mode == KIN_PRODUCT_DOT)
            (half ? s->tile16_half : s->tile16)((int)t->rows, t->steps, a, b, c, ld, false);
        else
            (half ? s->tile_half : s->tile)((int)t->rows, t->steps, a, b, c, ld, false);
    }
    if (g->epi)
        s->epilogue(g->epi, t->row0, col0, (int)t->rows, (int)(end - col0), buf, ld);
    else
        s->put_rows(t->rows, end - col0, 1.0f, buf, ld, g->c + t->row0 * g->ldc + col0, g->ldc,
                    g->acc);
}

static void run_task(const kin_gemm *g, const kin_simd *s, kin_product mode, const split *sp,
                     int64_t task, const thread_scratch *w)
{
    int64_t b0 = task % sp->mtasks * sp->block_step, p0 = task / sp->mtasks * sp->panel_step;
    int64_t b1 = b0 + sp->block_step < sp->blocks ? b0 + sp->block_step : sp->blocks;
    int64_t p1 = p0 + sp->panel_step < sp->panels ? p0 + sp->panel_step : sp->panels;
    bool dot = mode == KIN_PRODUCT_DOT;
    int64_t kc = KC * (dot ? 2 : 1), all = dot ? (g->k + 1) / 2 : g->k;
    for (int64_t k0 = 0; k0 == 0 || k0 < g->k; k0 += kc) {
        int64_t kn = g->k - k0 < kc ? g->k - k0 : kc;
        tile_place t = {
            .steps = dot ? (kn + 1) / 2 : kn, .first = k0 == 0, .last = k0 + kn >= g->k};
        pack_a(g, s, mode, sp, b0, b1, k0, kn, w->a);
        /* packed steps between panels, and the first of them */
        int64_t b_step = all * s->nr;
        const float *b = g->b_pack + p0 * b_step + (dot ? k0 / 2 : k0) * s->nr;
        bool group = t.first && t.last;
        int64_t step = group ? group_panels(s, t.steps) : 1;
        for (int64_t p = p0; p < p1; p += step, b += step * b_step) {
            int64_t end = p + step < p1 ? p + step : p1;
            t.col0 = p * s->nr;
            for (int64_t i = b0; i < b1; i++) {
                const float *a = w->a + (i - b0) * t.steps * s->mr;
                t.rows = block_rows(g, sp, i, &t.row0);
                if (group)
                    run_group(g, s, mode, &t, a, b, b_step, p, end, w->tile);
                else
                    run_tile(g, s, mode, &t, a, b, w->tile);
            }
        }
    }
}

kin_status kin_cpu_gemm(kin_ctx *ctx, const kin_gemm *g, int64_t count, kin_product mode)
{
    const kin_simd *s = kin_cpu_simd(ctx);
    size_t mark = kin_ws_mark(ctx);
    split *sp = kin_ws_bytes(ctx, (size_t)count * sizeof(*sp));
    int64_t *first = kin_ws_bytes(ctx, (size_t)(count + 1) * sizeof(*first));
    if (!sp || !first)
        return ctx->error.status;
    int64_t rows = 0;
    size_t a_floats = 0;
    for (int64_t i = 0; i < count; i++)
        rows += g[i].m;
    first[0] = 0;
    for (int64_t i = 0; i < count; i++) {
        /* each product gets tasks in proportion to its rows */
        int64_t want =
            ctx->threads == 1 || rows == 0 ? 1 : (4 * ctx->threads * g[i].m + rows - 1) / rows;
        first[i + 1] = first[i];
        if (g[i].m <= 0 || g[i].n <= 0)
            continue;
        sp[i] = split_of(&g[i], s, want > 0 ? want : 1);
        first[i + 1] += sp[i].mtasks * sp[i].ptasks;
        size_t need = (size_t)(sp[i].block_step * s->mr) * KC + 32;
        a_floats = need > a_floats ? need : a_floats;
    }
    a_floats = (a_floats + 15) / 16 * 16;
    size_t t_floats = (size_t)s->mr * (size_t)s->nr * GROUP_MAX;
    size_t per_thread = (a_floats + t_floats + 15) / 16 * 16;
    int threads = first[count] < ctx->threads ? (int)first[count] : ctx->threads;
    if (threads > 0) {
        float *work = kin_ws_bytes(ctx, (size_t)threads * per_thread * sizeof(float));
        if (!work)
            return ctx->error.status;
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
            float *mine = work + (size_t)omp_get_thread_num() * per_thread;
            thread_scratch w = {mine, mine + a_floats};
            int64_t e = 0;
#pragma omp for schedule(dynamic, 1)
            for (int64_t t = 0; t < first[count]; t++) {
                while (t >= first[e + 1])
                    e++;
                while (t < first[e])
                    e--;
                run_task(&g[e], s, mode, &sp[e], t - first[e], &w);
            }
        }
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}
