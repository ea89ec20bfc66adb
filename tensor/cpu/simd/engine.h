/* tensor/cpu/simd/engine.h: one way of doing products: how both operands are packed and the
 * register tile that takes them. gemm.c, gemm_tn.c, grouped.c, pack.c and attention know products
 * only through this table, so a new mode is a new row of it.
 *
 * Packed operands are counted in steps of k. A step of the left operand has `mr` words of 32 bits,
 * a step of a right panel (nr columns) `right_words`. A word holds `group` consecutive elements of
 * k. The order of words inside `align` steps is the engine's own; whole runs of `align` steps
 * follow each other, so an operand may be cut at any element that is a multiple of group*align, and
 * what is left over is padded with zeros. */
#ifndef KIN_CPU_SIMD_ENGINE_H
#define KIN_CPU_SIMD_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

/* How products treat their operands. */
typedef enum kin_product {
    KIN_PRODUCT_F32 = 0,
    KIN_PRODUCT_W16,   /* f32, the right operand rounded to bf16 and kept so */
    KIN_PRODUCT_ROUND, /* the same, the left operand rounded to bf16, kept in f32 */
    KIN_PRODUCT_DOT,   /* pairs of bf16, vdpbf16ps */
    KIN_PRODUCT_AMX,   /* pairs of bf16, AMX tiles */
    KIN_PRODUCT_HIGH,  /* f32 as the sum of two bf16, three products on AMX tiles */
    KIN_PRODUCT_I8, /* words of four bytes (quant.h), left signed, right unsigned; sums in int32 */
    KIN_PRODUCT_COUNT
} kin_product;

/* Packs k elements of each of nrows vectors (row i at src + rows[i]*ld, or i*ld) for `lanes` lanes;
 * missing rows are 0. dst has room for 16 words more. */
typedef void (*kin_pack_rows)(const float *src, int64_t ld, const int32_t *rows, int64_t nrows,
                              int lanes, int64_t k, float *dst);
/* The same of k rows of ncols contiguous values, one step after the other: lane c is column c. More
 * columns than lanes make further panels, `step` words apart. */
typedef void (*kin_pack_cols)(const float *src, int64_t ld, const int32_t *rows, int64_t ncols,
                              int lanes, int64_t k, int64_t step, float *dst);
/* The same from operands that lie in bf16. */
typedef void (*kin_pack_half_rows)(const uint16_t *src, int64_t ld, const int32_t *rows,
                                   int64_t nrows, int lanes, int64_t k, float *dst);
typedef void (*kin_pack_half_cols)(const uint16_t *src, int64_t ld, const int32_t *rows,
                                   int64_t ncols, int lanes, int64_t k, int64_t step, float *dst);
/* What is fetched into the caches while a tile runs: `step` bytes per packed step from `at` on. A
 * panel of the right operand comes from far away once for all row blocks that use it; fetched a
 * slice per tile, a panel ahead, it costs nothing. step 0: nothing. */
typedef struct kin_ahead {
    const char *at;
    int64_t step;
} kin_ahead;
/* c[rows][nr] (+)= a b over `steps`, each element one chain in the order of k that depends neither
 * on its neighbours nor on rows. rows <= mr, exactly these are written. */
typedef void (*kin_tile)(int rows, int64_t steps, const float *a, const float *b, float *c,
                         int64_t ldc, bool acc, kin_ahead next);

/* A left operand of plain rows, nothing turned: row i starts i*KIN_FLAT_WORDS words on (odd in
 * cache lines, so that the rows of a tile fall into different sets). For operands used once, such
 * as the weights of attention. */
enum { KIN_FLAT_WORDS = 272 };
/* rows x k floats (row stride ld) as such words. */
typedef void (*kin_flat_rows)(const float *src, int64_t ld, int64_t rows, int64_t k, float *dst);

struct kin_score;
struct kin_epilogue;
struct kin_dequant;

typedef struct kin_engine {
    int mr, nr;      /* rows and columns of the tile; mr 0: not at this level */
    int row_unit;    /* rows are best cut at multiples of this */
    int right_words; /* words of a step of a right panel */
    int group;       /* elements of k in a word */
    int align;       /* steps are padded to a multiple of this */
    int parts;       /* words that hold one group (2: high and low halves of split f32) */
    int pass;        /* steps per pass over k: what stays in the caches */
    int blocks;      /* row blocks per task, at most */
    bool deep;       /* passes over k end before the next panels begin (see gemm.c) */
    bool rounded;    /* operands are rounded to bf16 */
    kin_pack_rows left_rows, right_rows; /* right_rows: x row^T; one panel */
    kin_pack_cols left_cols, right_steps;
    struct { /* of operands in bf16; NULL: this mode does not take them */
        kin_pack_half_rows left_rows, right_rows;
        kin_pack_half_cols left_cols, right_steps;
    } half;
    kin_tile tile, tile_half; /* half: the first nr/2 columns of the panel, the same bits */
    kin_tile tile_flat, tile_flat_half; /* left operand of plain rows; NULL: not in this mode */
    kin_flat_rows flat_rows;            /* NULL: words are the floats themselves */
    /* kin_simd.softmax_block whose weights become a row block as left operand; NULL: not in this
     * mode */
    void (*softmax)(const struct kin_score *a, int rows, int64_t keys, float *s, int64_t ld,
                    float *max, float *sum, float *factor, float *left);
    /* kin_simd.epilogue by this engine's instructions; NULL: that one */
    void (*epilogue)(const struct kin_epilogue *e, const struct kin_dequant *d, int64_t row0,
                     int64_t col0, int rows, int cols, const float *tile, int64_t ldt);
    void (*enter)(void); /* once per thread and parallel region, around all tiles; or NULL */
    void (*leave)(void);
} kin_engine;

/* Element i of a matrix of floats, or of bf16 where `half` is set. */
static inline const void *kin_engine_at(const void *src, bool half, int64_t i)
{
    return (const char *)src + i * (half ? 2 : 4);
}
/* The packing routines by the type of what is packed. */
static inline void kin_engine_left_rows(const kin_engine *e, const void *src, bool half, int64_t ld,
                                        const int32_t *rows, int64_t nrows, int64_t k, float *dst)
{
    if (half)
        e->half.left_rows(src, ld, rows, nrows, e->mr, k, dst);
    else
        e->left_rows(src, ld, rows, nrows, e->mr, k, dst);
}
static inline void kin_engine_right_rows(const kin_engine *e, const void *src, bool half,
                                         int64_t ld, int64_t nrows, int64_t k, float *dst)
{
    if (half)
        e->half.right_rows(src, ld, NULL, nrows, e->nr, k, dst);
    else
        e->right_rows(src, ld, NULL, nrows, e->nr, k, dst);
}
static inline void kin_engine_left_cols(const kin_engine *e, const void *src, bool half, int64_t ld,
                                        const int32_t *rows, int64_t ncols, int64_t k, int64_t step,
                                        float *dst)
{
    if (half)
        e->half.left_cols(src, ld, rows, ncols, e->mr, k, step, dst);
    else
        e->left_cols(src, ld, rows, ncols, e->mr, k, step, dst);
}
static inline void kin_engine_right_steps(const kin_engine *e, const void *src, bool half,
                                          int64_t ld, const int32_t *rows, int64_t ncols, int64_t k,
                                          int64_t step, float *dst)
{
    if (half)
        e->half.right_steps(src, ld, rows, ncols, e->nr, k, step, dst);
    else
        e->right_steps(src, ld, rows, ncols, e->nr, k, step, dst);
}

/* Steps of k elements, padding included; also the place of element k (a multiple of group*align).
 */
static inline int64_t kin_engine_steps(const kin_engine *e, int64_t k)
{
    int64_t unit = (int64_t)e->group * e->align;
    return (k + unit - 1) / unit * e->align * e->parts;
}
/* Row block i of `blocks` almost equal ones; returns its rows, *row0 the first. */
static inline int64_t kin_engine_block_rows(const kin_engine *e, int64_t m, int64_t blocks,
                                            int64_t i, int64_t *row0)
{
    int64_t units = (m + e->row_unit - 1) / e->row_unit;
    int64_t end = (i + 1) * units / blocks * e->row_unit;
    *row0 = i * units / blocks * e->row_unit;
    return (end < m ? end : m) - *row0;
}
/* Slice i of n of the `steps` packed steps of a right panel at p. */
static inline kin_ahead kin_engine_ahead(const kin_engine *e, const float *p, int64_t steps,
                                         int64_t i, int64_t n)
{
    int64_t step = (e->right_words * 4 + n - 1) / n;
    return (kin_ahead){(const char *)p + i * step * steps, step};
}
static inline kin_ahead kin_ahead_none(const float *p)
{
    return (kin_ahead){(const char *)p, 0};
}
static inline void kin_engine_enter(const kin_engine *e)
{
    if (e->enter)
        e->enter();
}
static inline void kin_engine_leave(const kin_engine *e)
{
    if (e->leave)
        e->leave();
}

#endif
