/* tensor/cuda/product.cuh: y = epilogue(A B^T) for A [m,k] and B [n,k] of any strides, dense or
 * over the rows of experts. One description; product.cu runs it with kernels of its own, library.cu
 * with cublasLt where that takes it. */
#ifndef KIN_TENSOR_CUDA_PRODUCT_CUH
#define KIN_TENSOR_CUDA_PRODUCT_CUH

#include "tensor/cuda/kernel.cuh"

typedef struct kin_matrix { /* element (i, l) at data[i * row + l * col] */
    const void *data;
    int dtype; /* f32, bf16 or f16 */
    int64_t row, col;
} kin_matrix;

typedef struct kin_product {
    int64_t m, n, k;
    kin_matrix a, b;
    /* Experts: offset [groups+1] on the device, else NULL. ROWS: expert e has the rows
     * [offset[e], offset[e+1]) of A and y, and bs[e] in place of b.data; m is the most rows there
     * can be. OVER (over_rows): the sum runs over those rows: A is [m, rows], B [n, rows], the
     * result of expert e goes to ys[e] (NULL: skipped), k is the most rows there can be. */
    const int32_t *offset;
    int64_t groups;
    bool over_rows;
    const void *const *bs;
    float *const *ys;
    const void *const *biases; /* ROWS: [groups] or NULL */
    bool aligned;              /* bs: every one at a multiple of 16 bytes */
    int64_t gathered;          /* rows of the operand that order picks from */
    const int32_t *order; /* NULL, or sorted row s stands for row order[s] / slots of A (OVER: B) */
    int64_t slots;
    /* y = residual + gate * act(pre = sum + bias), y += with acc; with past, a gradient:
     * y = sum * act'(past) and no more */
    const void *bias; /* [n] or NULL, of bias_dtype */
    int bias_dtype;
    int act;
    int64_t gate_rows; /* of y, that share one of gate */
    /* y [m,n], columns contiguous; the others no data: none */
    kin_tensor gate, residual, pre, past, y;
    bool acc;
} kin_product;

/* Runs p; bf16: both operands are rounded to bf16 first. Sums in f32. */
void kin_product_run(kin_cuda_call *c, const kin_product *p, bool bf16);
/* Grid of blocks of tile x tile results; a call that needs more than there can be fails. */
dim3 kin_product_grid(kin_cuda_call *c, const kin_product *p, int tile);
/* In bf16 by product_mma.cu; false: not taken. */
bool kin_product_mma(kin_cuda_call *c, const kin_product *p);
/* An operand of `rows` rows and `sums` indices of the sum (along: those contiguous, else the rows)
 * that is not in bf16 becomes a copy that is, its rows padded to 16 bytes by zeros. */
void kin_product_round(kin_cuda_call *c, kin_matrix *m, bool along, int64_t rows, int64_t sums);
/* The same through cublasLt: true if it was taken. library.cu, or none. */
bool kin_library_product(kin_cuda_call *c, const kin_product *p, bool bf16);
/* p in f32 (no epilogue), and sums[i] += the sum of A's row i: both or, if false, neither. Not
 * where A would be rounded: the sums are of A as it is. */
bool kin_library_sums(kin_cuda_call *c, const kin_product *p, float *sums);
/* p with its operand A (f32) and the weight w [n,k] in e4m3, sums in f32, its B not looked at;
 * false: not taken. */
bool kin_library_fp8(kin_cuda_call *c, const kin_product *p, kin_param *w);
/* The epilogue on a sum that lies in pre_sum [m,n] (row stride of y where it is y itself). */
void kin_product_epilogue(kin_cuda_call *c, const kin_product *p, const float *sum, int64_t row);

/* Where p's sum goes before its epilogue: y itself, or scratch where y's old contents are still
 * needed. */
typedef struct kin_sum_place {
    float *data;
    int64_t row;
} kin_sum_place;
static inline kin_sum_place kin_place_of_sum(kin_cuda_call *c, const kin_product *p)
{
    kin_sum_place s = {(float *)p->y.data, p->y.stride[0]};
    if (p->residual.data && p->residual.data == p->y.data) {
        s.data = (float *)kin_cuda_scratch(c, (size_t)(p->m * p->n) * sizeof(float));
        s.row = p->n;
    }
    return s;
}

/* True if y is the sum alone, but for the bias. */
static inline bool kin_product_is_plain(const kin_product *p)
{
    return !p->act && !p->gate.data && !p->residual.data && !p->pre.data && !p->past.data;
}

static inline kin_matrix kin_rows_of(const kin_tensor &t) /* a 2-D view as it is */
{
    kin_matrix m = {t.data, t.dtype, t.stride[0], 1};
    return m;
}

static inline kin_matrix kin_turned(kin_matrix m) /* transposed */
{
    kin_matrix t = {m.data, m.dtype, m.col, m.row};
    return t;
}

/* dst[j] += sum over rows [r0, r1) of x[.., j], of each of `groups` ranges (offset) or of all m
 * rows (offset NULL, one group); dst[e] NULL: skipped. */
void kin_column_sums(kin_cuda_call *c, const kin_tensor &x, int64_t m, const int32_t *offset,
                     int64_t groups, float *const *dst);

#endif
