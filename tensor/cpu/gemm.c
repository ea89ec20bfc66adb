/* tensor/cpu/gemm.c: blocking and threading of the packed products. A task is a range of row blocks
 * times a range of column panels of one product; it packs its rows of A (L2), then runs panel by
 * panel. k is cut every pass of the engine from 0, whatever the shape, so a row's bits depend on k
 * alone. */
#include <omp.h>
#include <string.h>

#include "tensor/cpu/cpu.h"

/* Panels of B taken together (see run_group); twice as many words where the L2 cache is that of the
 * processors with AMX. */
enum { GROUP_FLOATS = 65536, GROUP_MAX = 8 };
/* Steps of a pass where B lies in rows: then several panels are packed at a time, from longer
 * pieces of each row; more row blocks share them. */
enum { ROWS_PASS = 512 };
/* Words of B from which on the next panel is fetched while one is used: less stays in the L2 cache.
 */
enum { FAR_WORDS = 196608 };
/* Row stride of sums that become bf16: a group of panels of a deep engine and a cache line. */
enum { HALF_LD = GROUP_MAX * 32 + 16 };

const kin_simd *kin_cpu_simd(const kin_ctx *ctx)
{
    return ctx->isa >= KIN_ISA_AVX512 ? &kin_avx512_simd : &kin_avx2_simd;
}

kin_product kin_cpu_product_of(const kin_ctx *ctx, kin_dtype compute)
{
    bool tiles = ctx->isa >= KIN_ISA_AMX_EMULATED;
    bool bytes = tiles || (ctx->isa >= KIN_ISA_AVX512 && kin_isa_have_vnni());
    if (compute == KIN_DTYPE_I8)
        return bytes ? KIN_PRODUCT_I8 : KIN_PRODUCT_W16;
    if (compute != KIN_DTYPE_BF16)
        return tiles && ctx->precision == KIN_PRECISION_HIGH ? KIN_PRODUCT_HIGH : KIN_PRODUCT_F32;
    if (tiles)
        return KIN_PRODUCT_AMX;
    return ctx->isa >= KIN_ISA_AVX512 && kin_isa_fast_dot() ? KIN_PRODUCT_DOT : KIN_PRODUCT_ROUND;
}

kin_product kin_cpu_product(const kin_ctx *ctx)
{
    return kin_cpu_product_of(ctx, ctx->compute == KIN_DTYPE_I8 ? KIN_DTYPE_F32 : ctx->compute);
}

kin_product kin_cpu_weight_product(const kin_ctx *ctx, const kin_param *w)
{
    kin_product mode = kin_cpu_product(ctx);
    return mode == KIN_PRODUCT_F32 && w->value.dtype == KIN_DTYPE_BF16 ? KIN_PRODUCT_W16 : mode;
}

const kin_engine *kin_cpu_engine(const kin_ctx *ctx, kin_product mode)
{
    bool tiles = mode == KIN_PRODUCT_AMX || mode == KIN_PRODUCT_HIGH || mode == KIN_PRODUCT_I8;
    if (tiles && ctx->isa >= KIN_ISA_AMX_EMULATED)
        return ctx->isa == KIN_ISA_AMX ? &kin_amx_engines[mode] : &kin_amx_emulated_engines[mode];
    return &kin_cpu_simd(ctx)->engines[mode];
}

/* One product and how it is cut: row blocks of <= mr rows and tasks over them, almost equal ones;
 * the same of column panels. */
typedef struct job {
    const kin_gemm *g;
    const kin_simd *s;
    const kin_engine *e;
    int64_t blocks, mtasks;
    int64_t panels, ptasks;
    kin_live live_n, live_k; /* as the product's where they fall on panels and packed steps */
} job;

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static bool in_rows(const job *j)
{
    return !j->g->b_pack && j->g->b_steps;
}

/* Steps of a pass over k. Deep engines cut k evenly, into passes of about what they name: 768
 * elements in two passes of 512 and 256 took 5-10 % longer than in one, 1,152 in three 6 %. (A sum
 * that waits in the result is the same sum: no bit depends on the cut.) */
static int64_t pass_steps(const job *j)
{
    const kin_engine *e = j->e;
    if (in_rows(j))
        return e->pass > ROWS_PASS ? ROWS_PASS : e->pass;
    if (!e->deep)
        return e->pass;
    const int64_t all = kin_engine_steps(e, j->g->k), unit = (int64_t)e->align * e->parts;
    const int64_t passes = all > e->pass * 3 / 2 ? ceil_div(all - e->pass / 2, e->pass) : 1;
    return ceil_div(ceil_div(all, passes), unit) * unit;
}

/* Row blocks of a task, at most. Each task reads all its panels of B, so many rows are best; deep
 * engines, which multiply as fast as they pack, rather pack rows once than for several tasks over
 * panels. */
static int64_t task_blocks(const job *j, int64_t want)
{
    const int64_t most = in_rows(j) ? j->e->blocks * j->e->pass / pass_steps(j) : j->e->blocks;
    int64_t n = most;
    /* each task packs its panels of a B that is not packed */
    if (j->e->deep && (j->g->b_pack || j->g->b_steps))
        n = ceil_div(j->blocks, want);
    n = n < most ? n : most;
    return n < 4 ? 4 : n;
}

/* Cuts a product into about `want` tasks. */
static void job_cut(job *j, int64_t want, int threads)
{
    j->blocks = ceil_div(j->g->m, j->e->mr);
    j->panels = ceil_div(j->g->n, j->e->nr);
    j->mtasks = ceil_div(j->blocks, task_blocks(j, want));
    j->ptasks = ceil_div(want, j->mtasks);
    if (j->ptasks > j->panels)
        j->ptasks = j->panels;
    /* as many for each thread: of 19 tasks one of two threads has a tenth more */
    const int64_t least = j->mtasks, top = want == 1 ? 0 : 2 * least;
    for (int64_t n = least; n <= top && n <= j->blocks; n++)
        if (n * j->ptasks % threads == 0) {
            j->mtasks = n;
            break;
        }
}

typedef struct thread_scratch {
    float *a, *tile, *b;
} thread_scratch;

/* Row blocks [b0, b1) of A for elements [k0, k0+kn). */
static void pack_a(const job *j, int64_t b0, int64_t b1, int64_t k0, int64_t kn, float *dst)
{
    const kin_gemm *g = j->g;
    int64_t words = kin_engine_steps(j->e, kn) * j->e->mr, row0;
    for (int64_t i = b0; i < b1; i++, dst += words) {
        int64_t rows = kin_engine_block_rows(j->e, g->m, j->blocks, i, &row0);
        const void *src = kin_engine_at(g->a, g->a_half, k0 + (g->a_rows ? 0 : row0 * g->lda));
        kin_engine_left_rows(j->e, src, g->a_half, g->lda, g->a_rows ? g->a_rows + row0 : NULL,
                             rows, kn, dst);
    }
}

static void copy_tile(int64_t rows, int64_t cols, const float *src, int64_t ld_src, float *dst,
                      int64_t ld_dst)
{
    for (int64_t r = 0; r < rows; r++)
        memcpy(dst + r * ld_dst, src + r * ld_src, (size_t)cols * sizeof(float));
}

static int64_t group_floats(const kin_engine *e)
{
    return e->deep ? 2 * GROUP_FLOATS : GROUP_FLOATS;
}

/* Panels taken together: B of a group stays in the L2 cache, a row block of them in the L1 cache.
 */
static int64_t group_panels(const kin_engine *e, int64_t steps)
{
    int64_t n = group_floats(e) / (steps * e->right_words + 1);
    return n < 1 ? 1 : n > GROUP_MAX ? GROUP_MAX : n;
}

/* One pass of a task: elements [k0, k0+kn) of k, row blocks [b0, b1), panels [p0, p1), `together`
 * of them at a time. far: B is large, so the next panels are fetched while these are used. */
typedef struct pass {
    int64_t k0, kn, steps;
    int64_t b0, b1, p0, p1, together;
    bool first, last, far;
} pass;

/* Row block `block` at rows [row0, row0+rows). */
typedef struct place {
    int64_t block, row0, rows;
} place;

/* Panels of B as a pass reads them: panel p at b + (p - first panel) * step. */
typedef struct right {
    const float *b;
    int64_t step;
} right;

static int64_t panel_words(const job *j)
{
    return kin_engine_steps(j->e, j->g->k) * j->e->right_words;
}

/* Where panel p begins in a B that is not packed, at element k0. */
static const void *raw_panel(const job *j, int64_t p, int64_t k0)
{
    const kin_gemm *g = j->g;
    int64_t c0 = p * j->e->nr;
    return kin_engine_at(g->b, g->b_half, g->b_steps ? k0 * g->ldb + c0 : c0 * g->ldb + k0);
}

/* Panels [p, end) of the pass, packed into buf where they are not. */
static right take_panels(const job *j, const pass *s, int64_t p, int64_t end, float *buf)
{
    const kin_gemm *g = j->g;
    const kin_engine *e = j->e;
    if (g->b_pack) {
        int64_t words = panel_words(j);
        int64_t at = p * words + kin_engine_steps(e, s->k0) * e->right_words;
        return (right){g->b_pack + at, words};
    }
    right r = {buf, s->steps * e->right_words};
    int64_t cols = (end * e->nr < g->n ? end * e->nr : g->n) - p * e->nr;
    if (g->b_steps) {
        kin_engine_right_steps(e, raw_panel(j, p, s->k0), g->b_half, g->ldb, NULL, cols, s->kn,
                               r.step, buf);
        return r;
    }
    for (; p < end; p++, buf += r.step, cols -= e->nr)
        kin_engine_right_rows(e, raw_panel(j, p, s->k0), g->b_half, g->ldb,
                              cols < e->nr ? cols : e->nr, s->kn, buf);
    return r;
}

/* From what a pass reads of a packed panel to what is read next in its place. */
static int64_t next_words(const job *j, const pass *s)
{
    const kin_engine *e = j->e;
    if (!e->deep)
        return s->together * panel_words(j);
    return s->last ? s->together * panel_words(j) - kin_engine_steps(e, s->k0) * e->right_words
                   : s->steps * e->right_words;
}

/* The slice of the panel after panel p that the tile of row block t is to fetch. */
static kin_ahead ahead_of(const job *j, const pass *s, const place *t, int64_t p, const float *b)
{
    const kin_engine *e = j->e;
    const kin_gemm *g = j->g;
    int64_t block = t->block - s->b0, blocks = s->b1 - s->b0, lines = e->nr / 16;
    if (!s->far)
        return kin_ahead_none(b);
    if (g->b_pack)
        return kin_engine_ahead(e, b + next_words(j, s), s->steps, block, blocks);
    int64_t ahead = p + s->together, k0 = s->k0;
    if (g->b_steps && e->deep) {
        ahead = s->last ? ahead : p;
        k0 = s->last ? 0 : k0 + s->kn;
    } else if (g->b_steps && ahead >= s->p1) { /* those of the next pass */
        ahead -= s->p1 - s->p0;
        k0 += s->kn;
    }
    const char *next = raw_panel(j, ahead, k0);
    const int64_t ld = g->ldb * (g->b_half ? 2 : 4), line = 64;
    if (!g->b_steps) { /* rows one after the other; all of k in the first pass */
        int64_t step = (e->nr * ld / s->steps + blocks - 1) / blocks;
        return s->first ? (kin_ahead){next + block * step * s->steps, step} : kin_ahead_none(b);
    }
    if (g->b_half) /* a row of a panel is one line */
        lines = 1;
    if (block >= lines * e->group)
        return kin_ahead_none(b);
    return (kin_ahead){next + block / lines * ld + block % lines * line, ld * e->group};
}

/* Before the last pass over columns [col0, col0+nr) of t's rows: asks for what their sums will meet
 * (a residual, or what an activation read), into the L2 cache: another layer wrote it long ago. */
static void fetch_met(const job *j, const pass *s, const place *t, int64_t col0)
{
    const kin_epilogue *e = j->g->epi;
    const void *met = !e || !s->last ? NULL : e->past ? e->past : e->residual;
    if (!met)
        return;
    const bool half = e->past && e->past_half;
    const int64_t ld = e->past ? e->ld_past : e->ld_residual, line = half ? 32 : 16;
    for (int64_t r = t->row0; r < t->row0 + t->rows; r++)
        for (int64_t c = col0; c < col0 + j->e->nr; c += line)
            __builtin_prefetch(kin_engine_at(met, half, r * ld + c), 0, 2);
}

/* Asks for the lines that a tile will be written to. */
static void fetch_rows(const float *c, int64_t ldc, int64_t rows, int64_t cols)
{
    for (int64_t r = 0; r < rows; r++, c += ldc) {
        __builtin_prefetch(c, 1);
        if (cols > 16)
            __builtin_prefetch(c + 16, 1);
    }
}

/* Sums of t's rows, columns [col0, col0+cols), into the result. */
static void finish_tile(const job *j, const place *t, int64_t col0, int64_t cols, float *tile,
                        int64_t ld)
{
    (j->e->epilogue ? j->e->epilogue : j->s->epilogue)(j->g->epi, j->g->deq, t->row0, col0,
                                                       (int)t->rows, (int)cols, tile, ld);
}

/* Panel p of one row block in one of several passes. */
static void run_tile(const job *j, const pass *s, const place *t, int64_t p, const float *a,
                     const float *b, float *tile)
{
    const kin_gemm *g = j->g;
    int64_t nr = j->e->nr, col0 = p * nr, ldc = g->epi ? g->epi->ld_y : g->ldc;
    float *c = (g->epi ? (float *)g->epi->y : g->c) + t->row0 * ldc + col0;
    bool acc = !s->first || (!g->epi && g->acc);
    bool finish = g->epi && s->last;
    int64_t cols = g->n - col0 < nr ? g->n - col0 : nr;
    kin_tile run = cols <= nr / 2 ? j->e->tile_half : j->e->tile;
    kin_ahead next = ahead_of(j, s, t, p, b);
    /* of the next row block */
    fetch_rows(c + t->rows * ldc, ldc, t->rows, cols);
    if (!finish && cols == nr) {
        run((int)t->rows, s->steps, a, b, c, ldc, acc, next);
        return;
    }
    if (acc)
        copy_tile(t->rows, cols, c, ldc, tile, nr);
    run((int)t->rows, s->steps, a, b, tile, nr, acc, next);
    if (finish)
        finish_tile(j, t, col0, cols, tile, nr);
    else
        copy_tile(t->rows, cols, tile, nr, c, ldc);
}

/* Panels [p0, p1) of one row block whose sum takes a single pass: through a buffer in the L1 cache,
 * so that what follows the product runs over long rows. */
static void run_group(const job *j, const pass *s, const place *t, int64_t p0, int64_t p1,
                      const float *a, right r, float *buf)
{
    const kin_gemm *g = j->g;
    int64_t nr = j->e->nr, col0 = p0 * nr, end = p1 * nr < g->n ? p1 * nr : g->n;
    int64_t ld = (p1 - p0) * nr, ldc = g->epi ? g->epi->ld_y : g->ldc;
    const float *out = (g->epi ? (float *)g->epi->y : g->c) + t->row0 * ldc + col0;
    for (int64_t p = p0; p < p1; p++, r.b += r.step) {
        kin_tile run = end - p * nr <= nr / 2 ? j->e->tile_half : j->e->tile;
        kin_ahead next = ahead_of(j, s, t, p, r.b);
        fetch_rows(out + (p - p0) * nr, ldc, t->rows, end - p * nr);
        run((int)t->rows, s->steps, a, r.b, buf + (p - p0) * nr, ld, false, next);
    }
    if (g->epi)
        finish_tile(j, t, col0, end - col0, buf, ld);
    else
        j->s->put_rows(t->rows, end - col0, 1.0f, buf, ld, g->c + t->row0 * g->ldc + col0, g->ldc,
                       g->acc);
}

/* Panels [p0, p1) of one row block in one of the passes of a deep engine: sums go straight to the
 * result, where the next pass finds them in the L2 cache and what follows the product works on them
 * in place. A copy through a buffer took a sixth of the time: the tiles are that quick. */
static void run_direct(const job *j, const pass *s, const place *t, int64_t p0, int64_t p1,
                       const float *a, right r, float *tile)
{
    const kin_gemm *g = j->g;
    int64_t nr = j->e->nr, col0 = p0 * nr, whole = p1 * nr <= g->n ? p1 : p1 - 1;
    int64_t ldc = g->epi ? g->epi->ld_y : g->ldc;
    float *c = (g->epi ? (float *)g->epi->y : g->c) + t->row0 * ldc + col0;
    bool acc = !s->first || (!g->epi && g->acc);
    for (int64_t p = p0; p < whole; p++, r.b += r.step) {
        fetch_met(j, s, t, p * nr);
        j->e->tile((int)t->rows, s->steps, a, r.b, c + (p - p0) * nr, ldc, acc,
                   ahead_of(j, s, t, p, r.b));
    }
    if (s->last && g->epi && whole > p0)
        finish_tile(j, t, col0, (whole - p0) * nr, c, ldc);
    if (whole < p1)
        run_tile(j, s, t, whole, a, r.b, tile);
}

/* The same where the result is kept in bf16: sums wait in a buffer, a row block after the other. */
static void run_half(const job *j, const pass *s, const place *t, int64_t p0, int64_t p1,
                     const float *a, right r, float *sums)
{
    const int64_t nr = j->e->nr, col0 = p0 * nr, end = p1 * nr < j->g->n ? p1 * nr : j->g->n;
    float *c = sums + (s->first && s->last ? 0 : (t->block - s->b0) * j->e->mr * HALF_LD);
    for (int64_t p = p0; p < p1; p++, r.b += r.step) {
        fetch_met(j, s, t, p * nr);
        j->e->tile((int)t->rows, s->steps, a, r.b, c + (p - p0) * nr, HALF_LD, !s->first,
                   ahead_of(j, s, t, p, r.b));
    }
    if (s->last)
        finish_tile(j, t, col0, end - col0, c, HALF_LD);
}

/* Panels [p, end) of a pass over the packed rows a. */
static void run_panels(const job *j, const pass *s, int64_t p, int64_t end, const float *a,
                       const thread_scratch *w)
{
    const kin_engine *e = j->e;
    right r = take_panels(j, s, p, end, w->b);
    for (int64_t i = s->b0; i < s->b1; i++, a += s->steps * e->mr) {
        place t = {.block = i};
        t.rows = kin_engine_block_rows(e, j->g->m, j->blocks, i, &t.row0);
        if (e->deep && j->g->epi && j->g->epi->half)
            run_half(j, s, &t, p, end, a, r, w->tile);
        else if (e->deep)
            run_direct(j, s, &t, p, end, a, r, w->tile);
        else if (s->first && s->last)
            run_group(j, s, &t, p, end, a, r, w->tile);
        else
            for (int64_t q = p; q < end; q++)
                run_tile(j, s, &t, q, a, r.b + (q - p) * r.step, w->tile);
    }
}

/* Where at or after `at` a piece of `size` elements is live, in steps of `unit` (which divides the
 * pieces); `size` if nowhere. */
static int64_t live_from(const kin_live *live, int64_t size, int64_t unit, int64_t at)
{
    if (live->part)
        while (at < size && !live->part[at * live->parts / size])
            at += unit;
    return at < size ? at : size;
}

/* How far pieces are live from `at` on, at most to `end`. */
static int64_t live_to(const kin_live *live, int64_t size, int64_t unit, int64_t at, int64_t end)
{
    if (!live->part)
        return end;
    while (at < end && live->part[at * live->parts / size])
        at += unit;
    return at < end ? at : end;
}

/* live, or all where its pieces are not whole units or none is live. */
static kin_live live_in(const kin_live *live, int64_t size, int64_t unit)
{
    const kin_live all = {0};
    if (!live->part || size % live->parts != 0 || size / live->parts % unit != 0)
        return all;
    return live_from(live, size, unit, 0) < size ? *live : all;
}

/* The pass over the elements of k that are live at or after k0. */
static void pass_at(const job *j, int64_t k0, pass *s)
{
    const kin_gemm *g = j->g;
    int64_t k = g->k, unit = (int64_t)j->e->group * j->e->align;
    int64_t kc = pass_steps(j) / j->e->parts * j->e->group;
    s->k0 = live_from(&j->live_k, k, unit, k0);
    s->kn = live_to(&j->live_k, k, unit, s->k0, s->k0 + kc < k ? s->k0 + kc : k) - s->k0;
    s->steps = kin_engine_steps(j->e, s->kn);
    s->first = s->k0 == live_from(&j->live_k, k, unit, 0);
    s->last = live_from(&j->live_k, k, unit, s->k0 + s->kn) >= k;
}

/* The next panels from p on that are wanted, at most s->together: *end; returns the first, s->p1 if
 * none. */
static int64_t next_panels(const job *j, const pass *s, int64_t p, int64_t *end)
{
    const int64_t nr = j->e->nr;
    int64_t n = (j->g->n + nr - 1) / nr * nr;
    if (!j->live_n.part) {
        *end = p + s->together < s->p1 ? p + s->together : s->p1;
        return p;
    }
    p = live_from(&j->live_n, n, nr, p * nr) / nr;
    *end = p + s->together < s->p1 ? p + s->together : s->p1;
    *end = live_to(&j->live_n, n, nr, p * nr, *end * nr) / nr;
    return p < s->p1 ? p : s->p1;
}

/* Pass after pass, each over all panels: sums wait in the result. */
static void run_wide(const job *j, pass *s, const thread_scratch *w)
{
    int64_t k0 = 0, end;
    do { /* once where k is 0 */
        pass_at(j, k0, s);
        s->together = in_rows(j) || (s->first && s->last) ? group_panels(j->e, s->steps) : 1;
        pack_a(j, s->b0, s->b1, s->k0, s->kn, w->a);
        for (int64_t p = next_panels(j, s, s->p0, &end); p < s->p1;
             p = next_panels(j, s, end, &end))
            run_panels(j, s, p, end, w->a, w);
        k0 = s->k0 + s->kn;
    } while (!s->last);
}

/* All of k for some panels at a time, rows packed once. */
static void run_deep(const job *j, pass *s, const thread_scratch *w)
{
    const int64_t each = (s->b1 - s->b0) * j->e->mr;
    int64_t k0 = 0, end;
    do {
        pass_at(j, k0, s);
        pack_a(j, s->b0, s->b1, s->k0, s->kn, w->a + kin_engine_steps(j->e, s->k0) * each);
        k0 = s->k0 + s->kn;
    } while (!s->last);
    pass_at(j, 0, s);
    s->together = group_panels(j->e, s->steps);
    for (int64_t p = next_panels(j, s, s->p0, &end); p < s->p1; p = next_panels(j, s, end, &end)) {
        k0 = 0;
        do {
            pass_at(j, k0, s);
            run_panels(j, s, p, end, w->a + kin_engine_steps(j->e, s->k0) * each, w);
            k0 = s->k0 + s->kn;
        } while (!s->last);
    }
}

static void run_task(const job *j, int64_t task, const thread_scratch *w)
{
    const int64_t i = task % j->mtasks, q = task / j->mtasks;
    pass s = {.b0 = i * j->blocks / j->mtasks, .p0 = q * j->panels / j->ptasks};
    s.b1 = (i + 1) * j->blocks / j->mtasks;
    s.p1 = (q + 1) * j->panels / j->ptasks;
    s.far = (s.p1 - s.p0) * panel_words(j) > FAR_WORDS;
    if (j->e->deep)
        run_deep(j, &s, w);
    else
        run_wide(j, &s, w);
}

/* Floats of scratch per thread: rows of A, panels of B, a group of tiles. */
typedef struct need {
    size_t a, b, all;
} need;

/* The most a task can take, so that the need does not follow the rows of each product. */
static need need_of(const kin_engine *e, const kin_gemm *g, int64_t count)
{
    int64_t blocks = e->blocks > 4 ? e->blocks : 4, panels = (int64_t)e->pass * e->right_words;
    int64_t steps = e->pass;
    bool half = false;
    need n = {0};
    for (int64_t i = 0; i < count; i++) {
        int64_t all = kin_engine_steps(e, g[i].k);
        half = half || (g[i].epi && g[i].epi->half);
        if (g[i].b)
            n.b = (size_t)(panels > group_floats(e) ? panels : group_floats(e)) + 16;
        steps = e->deep && all > steps ? all : steps;
    }
    n.a = (size_t)(blocks * e->mr * steps + 32 + 15) / 16 * 16;
    n.all = n.a + n.b + (size_t)(half ? blocks * e->mr * HALF_LD : e->mr * e->nr * GROUP_MAX);
    n.all = (n.all + 15) / 16 * 16;
    return n;
}

/* Inside a parallel region; work: one piece per thread. Task t belongs to the job whose range of
 * first[] holds it. */
static void run_jobs(const job *jobs, const int64_t *first, int64_t count, float *work, need n)
{
    float *mine = work + (size_t)omp_get_thread_num() * n.all;
    thread_scratch w = {.a = mine, .b = mine + n.a, .tile = mine + n.a + n.b};
    int64_t e = 0;
    kin_engine_enter(jobs->e);
#pragma omp for schedule(dynamic, 1)
    for (int64_t t = 0; t < first[count]; t++) {
        while (t >= first[e + 1])
            e++;
        while (t < first[e])
            e--;
        run_task(&jobs[e], t - first[e], &w);
    }
    kin_engine_leave(jobs->e);
}

/* Cuts all products; each gets tasks in proportion to its rows. */
static void cut_jobs(const kin_ctx *ctx, const kin_engine *e, const kin_gemm *g, int64_t count,
                     job *jobs, int64_t *first)
{
    int64_t rows = 0;
    for (int64_t i = 0; i < count; i++)
        rows += g[i].m;
    first[0] = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t want =
            ctx->threads == 1 || rows == 0 ? 1 : ceil_div(4 * ctx->threads * g[i].m, rows);
        jobs[i] = (job){.g = &g[i], .s = kin_cpu_simd(ctx), .e = e};
        jobs[i].live_n = live_in(&g[i].live_n, g[i].n, e->nr);
        jobs[i].live_k = live_in(&g[i].live_k, g[i].k, (int64_t)e->group * e->align);
        first[i + 1] = first[i];
        if (g[i].m <= 0 || g[i].n <= 0)
            continue;
        job_cut(&jobs[i], want > 0 ? want : 1, ctx->threads);
        first[i + 1] += jobs[i].mtasks * jobs[i].ptasks;
    }
}

kin_status kin_cpu_gemm(kin_ctx *ctx, const kin_gemm *g, int64_t count, kin_product mode)
{
    const kin_engine *e = kin_cpu_engine(ctx, mode);
    size_t mark = kin_ws_mark(ctx);
    job *jobs = kin_ws_bytes(ctx, (size_t)count * sizeof(*jobs));
    int64_t *first = kin_ws_bytes(ctx, (size_t)(count + 1) * sizeof(*first));
    if (!jobs || !first)
        return ctx->error.status;
    need n = need_of(e, g, count);
    float *work = kin_ws_bytes(ctx, (size_t)ctx->threads * n.all * sizeof(float));
    if (!work)
        return ctx->error.status;
    if (kin_cpu_planned(ctx, mark))
        return KIN_OK;
    cut_jobs(ctx, e, g, count, jobs, first);
    int threads = first[count] < ctx->threads ? (int)first[count] : ctx->threads;
    if (threads > 0) {
#pragma omp parallel num_threads(threads) if (threads > 1)
        run_jobs(jobs, first, count, work, n);
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}
