/* tensor/cpu/attention.h: shared by the forward and the backward of attention: packed operands of
 * one head and products of small blocks on the register tile. */
#ifndef KIN_CPU_ATTENTION_H
#define KIN_CPU_ATTENTION_H

#include "tensor/cpu/cpu.h"

/* Keys, and in backward queries, are taken in equal blocks of at most this many; the cut depends on
 * their number and the engine alone. Engines without plain rows (AMX) take more keys: what is done
 * once per row and block costs more beside their tiles. */
enum { KIN_KEY_BLOCK = 256, KIN_DEEP_KEY_BLOCK = 512, KIN_QUERY_BLOCK = 144 };
_Static_assert((int)KIN_KEY_BLOCK <= (int)KIN_FLAT_WORDS, "a row of scores is one plain row");

typedef struct kin_head_maths {
    const kin_simd *s;
    const kin_engine *e;
    int64_t d, d_pad; /* head size, rounded up to whole panels */
    int64_t d_steps;  /* packed steps over d */
    int64_t key_block, key_pad;
    int64_t query_block;
    bool flat;        /* left operands are plain rows */
    int64_t ld_score; /* row stride of blocks of scores */
} kin_head_maths;

void kin_head_maths_init(const kin_ctx *ctx, const kin_attention_args *a, kin_head_maths *h);
int64_t kin_head_steps(const kin_head_maths *h, int64_t k);
/* Row blocks of `rows` rows. */
int64_t kin_head_blocks(const kin_head_maths *h, int64_t rows);

/* Rows of one head: floats, or bf16 where half is set; `ld` elements from row to row. */
typedef struct kin_head_part {
    const void *data;
    bool half;
    int64_t ld;
} kin_head_part;

/* Rows from i on of a head of sample b. t [B,N,A,d]. */
static inline kin_head_part kin_head_at(const kin_tensor *t, int64_t b, int64_t i, int64_t head)
{
    const bool half = kin_is_half(t);
    int64_t at = b * t->stride[0] + i * t->stride[1] + head * t->stride[2];
    return (kin_head_part){kin_engine_at(t->data, half, at), half, t->stride[1]};
}
static inline kin_head_part kin_head_floats(const float *data, int64_t ld)
{
    return (kin_head_part){data, false, ld};
}
/* The first row as floats, made in `row` [d] where it is bf16. */
const float *kin_head_row(const kin_head_maths *h, kin_head_part src, float *row);

/* Rows of k values as left operand, [blocks][steps][mr]. */
void kin_head_pack_left(const kin_head_maths *h, kin_head_part src, int64_t rows, int64_t k,
                        float *dst);
/* Columns col0.. (count <= mr) of k rows as left operand (transposed): [steps][mr]. */
void kin_head_pack_left_cols(const kin_head_maths *h, const float *src, int64_t ld, int64_t count,
                             int64_t k, float *dst);
/* Rows as columns of the right operand (x row^T): panels [steps of d][nr]. */
void kin_head_pack_rows(const kin_head_maths *h, kin_head_part src, int64_t rows, float *dst);
/* Rows as steps of the right operand: panels of d, [steps of rows][nr]. */
void kin_head_pack_steps(const kin_head_maths *h, kin_head_part src, int64_t rows, float *dst);
/* c[rows][cols] (+)= left right; columns up to the next multiple of nr/2 are written too. */
void kin_head_product(const kin_head_maths *h, int64_t rows, int64_t steps, const float *left,
                      const float *right, int64_t cols, float *c, int64_t ldc, bool acc);

/* c[rows][cols] (+)= right of `rows` rows (at most mr) of k values; `left`: kin_head_left words. */
void kin_head_rows(const kin_head_maths *h, kin_head_part src, int64_t rows, int64_t k, float *left,
                   const float *right, int64_t cols, float *c, int64_t ldc, bool acc);
/* Words of one row block of k values as left operand. */
int64_t kin_head_left(const kin_head_maths *h, int64_t k);

/* The mask of sample b as floats; returns true when every key is excluded. */
bool kin_head_keep(const kin_tensor *mask, int64_t b, int64_t keys, float *keep);
static inline float kin_head_gate(const kin_tensor *gate, int64_t b, int64_t head)
{
    return gate && gate->data
               ? ((const float *)gate->data)[b * gate->stride[0] + head * gate->stride[1]]
               : 1.0f;
}

#endif
