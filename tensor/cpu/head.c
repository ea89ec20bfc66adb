/* tensor/cpu/head.c: packing and small products of one attention head. */
#include "tensor/cpu/attention.h"

void kin_head_maths_init(const kin_ctx *ctx, const kin_attention_args *a, kin_head_maths *h)
{
    h->s = kin_cpu_simd(ctx);
    h->mode = kin_cpu_product(ctx);
    int64_t nr = h->s->nr, nk = a->k->size[1], nq = a->q->size[1];
    h->d = a->q->size[3];
    h->d_pad = (h->d + nr - 1) / nr * nr;
    h->d_steps = kin_head_steps(h, h->d);
    int64_t blocks = (nk + KIN_KEY_BLOCK - 1) / KIN_KEY_BLOCK;
    h->key_block = blocks > 0 ? (nk + blocks - 1) / blocks : nr;
    if (blocks > 1)
        h->key_block = (h->key_block + nr - 1) / nr * nr;
    h->key_pad = (h->key_block + nr - 1) / nr * nr;
    blocks = (nq + KIN_QUERY_BLOCK - 1) / KIN_QUERY_BLOCK;
    h->query_block = blocks > 0 ? (nq + blocks - 1) / blocks : 1;
}

int64_t kin_head_steps(const kin_head_maths *h, int64_t k)
{
    return h->mode == KIN_PRODUCT_DOT ? (k + 1) / 2 : k;
}

int64_t kin_head_blocks(const kin_head_maths *h, int64_t rows)
{
    return (rows + h->s->mr - 1) / h->s->mr;
}

int64_t kin_head_block_rows(int64_t rows, int64_t blocks, int64_t i, int64_t *row0)
{
    *row0 = i * rows / blocks;
    return (i + 1) * rows / blocks - *row0;
}

static void round_if_asked(const kin_head_maths *h, float *x, int64_t n)
{
    if (h->mode == KIN_PRODUCT_ROUND)
        h->s->round_bf16(x, n);
}

void kin_head_pack_left(const kin_head_maths *h, const float *src, int64_t ld, int64_t rows,
                        int64_t k, float *dst)
{
    const kin_simd *s = h->s;
    int64_t blocks = kin_head_blocks(h, rows), size = kin_head_steps(h, k) * s->mr, row0;
    for (int64_t i = 0; i < blocks; i++) {
        int64_t n = kin_head_block_rows(rows, blocks, i, &row0);
        (h->mode == KIN_PRODUCT_DOT ? s->pack_t16 : s->pack_t)(src + row0 * ld, ld, NULL, n, s->mr,
                                                               k, dst + i * size);
    }
    round_if_asked(h, dst, blocks * size);
}

void kin_head_pack_left_cols(const kin_head_maths *h, const float *src, int64_t ld, int64_t count,
                             int64_t k, float *dst)
{
    const kin_simd *s = h->s;
    (h->mode == KIN_PRODUCT_DOT ? s->pack_n16 : s->pack_n)(src, ld, NULL, count, s->mr, k, 0, dst);
    round_if_asked(h, dst, k * s->mr);
}

void kin_head_pack_rows(const kin_head_maths *h, const float *src, int64_t ld, int64_t rows,
                        float *dst)
{
    const kin_simd *s = h->s;
    int64_t size = h->d_steps * s->nr;
    for (int64_t r = 0; r < rows; r += s->nr, dst += size) {
        (h->mode == KIN_PRODUCT_DOT ? s->pack_t16 : s->pack_t)(src + r * ld, ld, NULL, rows - r,
                                                               s->nr, h->d, dst);
        round_if_asked(h, dst, size);
    }
}

void kin_head_pack_steps(const kin_head_maths *h, const float *src, int64_t ld, int64_t rows,
                         float *dst)
{
    const kin_simd *s = h->s;
    (h->mode == KIN_PRODUCT_DOT ? s->pack_n16 : s->pack_n)(src, ld, NULL, h->d, s->nr, rows,
                                                           kin_head_steps(h, rows) * s->nr, dst);
    round_if_asked(h, dst, kin_head_steps(h, rows) * h->d_pad);
}

void kin_head_product(const kin_head_maths *h, int64_t rows, int64_t steps, const float *left,
                      const float *right, int64_t cols, float *c, int64_t ldc, bool acc)
{
    const kin_simd *s = h->s;
    bool dot = h->mode == KIN_PRODUCT_DOT;
    for (int64_t j = 0; j < cols; j += s->nr, right += steps * s->nr) {
        if (cols - j > s->nr / 2)
            (dot ? s->tile16 : s->tile)((int)rows, steps, left, right, c + j, ldc, acc);
        else
            (dot ? s->tile16_half : s->tile_half)((int)rows, steps, left, right, c + j, ldc, acc);
    }
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
