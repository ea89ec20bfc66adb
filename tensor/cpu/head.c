/* tensor/cpu/head.c: packing and small products of one attention head. */
#include "tensor/cpu/attention.h"

void kin_head_maths_init(const kin_ctx *ctx, const kin_attention_args *a, kin_head_maths *h)
{
    h->s = kin_cpu_simd(ctx);
    h->e = kin_cpu_engine(ctx, kin_cpu_product_of(ctx, kin_attention_dtype(ctx)));
    int64_t nr = h->e->nr, nk = a->k->size[1], nq = a->q->size[1];
    h->d = a->q->size[3];
    h->d_pad = (h->d + nr - 1) / nr * nr;
    h->d_steps = kin_head_steps(h, h->d);
    const int64_t most = h->e->tile_flat ? KIN_KEY_BLOCK : KIN_DEEP_KEY_BLOCK;
    int64_t blocks = (nk + most - 1) / most;
    h->key_block = blocks > 0 ? (nk + blocks - 1) / blocks : nr;
    if (blocks > 1)
        h->key_block = (h->key_block + nr - 1) / nr * nr;
    h->key_pad = (h->key_block + nr - 1) / nr * nr;
    blocks = (nq + KIN_QUERY_BLOCK - 1) / KIN_QUERY_BLOCK;
    h->query_block = blocks > 0 ? (nq + blocks - 1) / blocks : 1;
    /* note: a block of keys always fits in a plain row, a head may not */
    h->flat = h->e->tile_flat && h->d_steps <= KIN_FLAT_WORDS;
    /* note: odd in cache lines, as plain rows are */
    h->ld_score = h->flat ? KIN_FLAT_WORDS : h->key_pad + 16;
}

int64_t kin_head_steps(const kin_head_maths *h, int64_t k)
{
    return kin_engine_steps(h->e, k);
}

int64_t kin_head_blocks(const kin_head_maths *h, int64_t rows)
{
    return (rows + h->e->mr - 1) / h->e->mr;
}

const float *kin_head_row(const kin_head_maths *h, kin_head_part src, float *row)
{
    if (!src.half)
        return src.data;
    h->s->to_f32(src.data, KIN_DTYPE_BF16, h->d, row);
    return row;
}

void kin_head_pack_left(const kin_head_maths *h, kin_head_part src, int64_t rows, int64_t k,
                        float *dst)
{
    const kin_engine *e = h->e;
    int64_t blocks = kin_head_blocks(h, rows), size = kin_head_steps(h, k) * e->mr, row0;
    for (int64_t i = 0; i < blocks; i++) {
        int64_t n = kin_engine_block_rows(e, rows, blocks, i, &row0);
        kin_engine_left_rows(e, kin_engine_at(src.data, src.half, row0 * src.ld), src.half, src.ld,
                             NULL, n, k, dst + i * size);
    }
}

void kin_head_pack_left_cols(const kin_head_maths *h, const float *src, int64_t ld, int64_t count,
                             int64_t k, float *dst)
{
    h->e->left_cols(src, ld, NULL, count, h->e->mr, k, 0, dst);
}

void kin_head_pack_rows(const kin_head_maths *h, kin_head_part src, int64_t rows, float *dst)
{
    const kin_engine *e = h->e;
    for (int64_t r = 0; r < rows; r += e->nr, dst += h->d_steps * e->right_words)
        kin_engine_right_rows(e, kin_engine_at(src.data, src.half, r * src.ld), src.half, src.ld,
                              rows - r, h->d, dst);
}

void kin_head_pack_steps(const kin_head_maths *h, kin_head_part src, int64_t rows, float *dst)
{
    const kin_engine *e = h->e;
    kin_engine_right_steps(e, src.data, src.half, src.ld, NULL, h->d, rows,
                           kin_head_steps(h, rows) * e->right_words, dst);
}

int64_t kin_head_left(const kin_head_maths *h, int64_t k)
{
    return h->e->mr * (h->flat ? KIN_FLAT_WORDS : kin_head_steps(h, k));
}

void kin_head_rows(const kin_head_maths *h, kin_head_part src, int64_t rows, int64_t k, float *left,
                   const float *right, int64_t cols, float *c, int64_t ldc, bool acc)
{
    const kin_engine *e = h->e;
    const float *words = left;
    int64_t steps = kin_head_steps(h, k);
    if (!h->flat) {
        kin_head_pack_left(h, src, rows, k, left);
        kin_head_product(h, rows, steps, left, right, cols, c, ldc, acc);
        return;
    }
    if (e->flat_rows)
        e->flat_rows(src.data, src.ld, rows, k, left);
    else if (src.ld == KIN_FLAT_WORDS)
        words = src.data;
    else
        h->s->put_rows(rows, k, 1.0f, src.data, src.ld, left, KIN_FLAT_WORDS, false);
    for (int64_t j = 0; j < cols; j += e->nr, right += steps * e->right_words)
        (cols - j > e->nr / 2 ? e->tile_flat : e->tile_flat_half)(
            (int)rows, steps, words, right, c + j, ldc, acc, kin_ahead_none(right));
}

void kin_head_product(const kin_head_maths *h, int64_t rows, int64_t steps, const float *left,
                      const float *right, int64_t cols, float *c, int64_t ldc, bool acc)
{
    const kin_engine *e = h->e;
    for (int64_t j = 0; j < cols; j += e->nr, right += steps * e->right_words)
        (cols - j > e->nr / 2 ? e->tile : e->tile_half)((int)rows, steps, left, right, c + j, ldc,
                                                        acc, kin_ahead_none(right));
}

bool kin_head_keep(const kin_tensor *mask, int64_t b, int64_t keys, float *keep)
{
    const uint8_t *m = (const uint8_t *)mask->data + b * mask->stride[0];
    bool none = true;
    for (int64_t j = 0; j < keys; j++) {
        keep[j] = m[j * mask->stride[1]] ? 1.0f : 0.0f;
        none = none && keep[j] == 0.0f;
    }
    return none;
}
