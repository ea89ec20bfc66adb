/* tensor/tensor.h: the tensor value type.
 * A tensor is a view: it owns nothing. Memory belongs to a workspace, a parameter table or a mapped
 * file. Dimension letters, the same everywhere: B batch, F frames, H W height and width, C
 * channels, N tokens, D width, A heads, d head size, E experts, K experts per token. Row-major,
 * PyTorch order. */
#ifndef KIN_TENSOR_TENSOR_H
#define KIN_TENSOR_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { KIN_MAX_DIMS = 6, KIN_BLOCK = 32 };

typedef enum kin_dtype {
    KIN_DTYPE_F32 = 0,
    KIN_DTYPE_F64,
    KIN_DTYPE_BF16,
    KIN_DTYPE_F16,
    KIN_DTYPE_I8,
    KIN_DTYPE_U8,
    KIN_DTYPE_I32,
    KIN_DTYPE_I64,
    KIN_DTYPE_F8 /* e4m3 (tensor/e4m3.h); a type of products, no tensor of the host has it */
} kin_dtype;

typedef struct kin_tensor {
    void *data;
    kin_dtype dtype;
    int ndim; /* 0 = scalar (one element) */
    int64_t size[KIN_MAX_DIMS];
    int64_t stride[KIN_MAX_DIMS]; /* in elements; the last is 1; 0 broadcasts */
    int32_t id;                   /* tape node this is a view of; 0 = no gradient */
    /* i8 alone, NULL else: matrices in 8-bit blocks. Bits of an f16 factor for every KIN_BLOCK
     * values of a row, the last ones of a row may be fewer; a value is its integer times that. */
    const uint16_t *scale;
} kin_tensor;

size_t kin_dtype_size(kin_dtype dtype);
const char *kin_dtype_name(kin_dtype dtype);            /* "f32", "bf16", ... */
bool kin_dtype_parse(const char *name, kin_dtype *out); /* the same names */

/* Elements of a shape that a file names (sizes >= 0). false: they, or where one size is 0 the
 * strides of a contiguous tensor (kin_tensor_of), do not fit into int64_t. */
bool kin_shape_numel(int ndim, const int64_t *sizes, size_t *numel);
/* A contiguous tensor over caller's memory. sizes[ndim]: a shape that kin_shape_numel takes. */
kin_tensor kin_tensor_of(void *data, kin_dtype dtype, int ndim, const int64_t *sizes);
#define KIN_TENSOR(data, dtype, ...)                                                          \
    kin_tensor_of((data), (dtype), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
                  (int64_t[]){__VA_ARGS__})
int64_t kin_tensor_numel(const kin_tensor *t);
bool kin_tensor_is_contiguous(const kin_tensor *t);
bool kin_tensor_same_shape(const kin_tensor *a, const kin_tensor *b);

/* Views; they keep `id`, so gradients flow through them without a tape entry.
 * reshape: t contiguous, equal element counts (one size may be -1). Programming errors assert. */
kin_tensor kin_tensor_reshape(const kin_tensor *t, int ndim, const int64_t *sizes);
#define KIN_RESHAPE(t, ...)                                                            \
    kin_tensor_reshape((t), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
                       (int64_t[]){__VA_ARGS__})
/* Entries [start, start+len) of dimension dim. */
kin_tensor kin_tensor_slice(const kin_tensor *t, int dim, int64_t start, int64_t len);
/* Entry `index` of dimension dim, dimension removed. */
kin_tensor kin_tensor_select(const kin_tensor *t, int dim, int64_t index);
/* Swaps two dimensions (the last must stay contiguous). */
kin_tensor kin_tensor_transpose(const kin_tensor *t, int a, int b);
/* Inserts a dimension of the given size with stride 0 at position dim. */
kin_tensor kin_tensor_expand(const kin_tensor *t, int dim, int64_t size);

/* "[2, 3, 4] f32" into buf; returns buf. */
const char *kin_tensor_describe(const kin_tensor *t, char *buf, size_t bytes);

/* Bit conversions, round to nearest even; NaN stays NaN. */
float kin_bf16_to_f32(uint16_t v);
uint16_t kin_f32_to_bf16(float v);
float kin_f16_to_f32(uint16_t v);
uint16_t kin_f32_to_f16(float v);

/* Factors of one row of k values in blocks. */
static inline int64_t kin_blocks_of(int64_t k)
{
    return (k + KIN_BLOCK - 1) / KIN_BLOCK;
}
/* The factor of the element `at`, counted from t->data, of a matrix in blocks. */
static inline float kin_block_scale(const kin_tensor *t, int64_t at)
{
    const int64_t k = t->size[t->ndim - 1];
    return kin_f16_to_f32(t->scale[at / k * kin_blocks_of(k) + at % k / KIN_BLOCK]);
}

/* Element i (flat, row-major over the logical shape) as double, and back. Slow: for references and
 * tests. */
double kin_tensor_get(const kin_tensor *t, int64_t i);
void kin_tensor_set(const kin_tensor *t, int64_t i, double v);

#endif
