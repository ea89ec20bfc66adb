/* tensor/cuda/lt.h: one product through cublasLt: descriptors, the algorithm its heuristic names
 * (asked for once per shape, type, alignment and epilogue), and the launch. What of a kin_product
 * becomes such a product: library.cu. */
#ifndef KIN_TENSOR_CUDA_LT_H
#define KIN_TENSOR_CUDA_LT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kin_lt kin_lt;

typedef enum kin_lt_type { KIN_LT_F32, KIN_LT_BF16, KIN_LT_E4M3 } kin_lt_type;

/* What is done to the sum, in this order. GELU is the tanh form, AUX its input kept. Alone: SUMS,
 * also the sums of B's rows; SLOPE, times the derivative of GELU at aux. */
enum { KIN_LT_BIAS = 1, KIN_LT_GELU = 2, KIN_LT_AUX = 4, KIN_LT_SUMS = 8, KIN_LT_SLOPE = 16 };

/* y = epilogue(a b^T + c), y and c [m,n], a [m,k], b [n,k], in row-major order. int64_t alone: the
 * key of its algorithm. */
typedef struct kin_lt_product {
    int64_t type, out; /* kin_lt_type of a and b; of y, c, bias, sums and aux */
    int64_t tf32;      /* f32 operands may be rounded to TF32 */
    int64_t m, n, k;
    int64_t along_a, along_b; /* 1: the sum's index is the contiguous one */
    int64_t ld_a, ld_b, ld_c, ld_y, ld_aux;
    int64_t align_a, align_b, align_c, align_y, align_bias, align_aux; /* bytes, powers of two */
    int64_t add;                                                       /* 0: no c */
    int64_t epilogue;                                                  /* KIN_LT_... */
} kin_lt_product;

typedef struct kin_lt_data { /* device addresses; NULL: none */
    const void *a, *b, *c;
    void *y;
    void *bias; /* [n]; SUMS: [m], written */
    void *aux;
    const float *step[2]; /* E4M3: factors of a and b */
} kin_lt_data;

/* NULL: there is no library to be had. workspace: of kernels, on the device, the caller's. */
kin_lt *kin_lt_open(void *workspace, size_t bytes);
void kin_lt_close(kin_lt **lt);
/* False: the library takes no such product. */
bool kin_lt_takes(kin_lt *lt, const kin_lt_product *p, const kin_lt_data *d);
/* Launches it on a stream; false: it does not take it, or could not launch it (then, where it had
 * never run before, from now on). */
bool kin_lt_run(kin_lt *lt, const kin_lt_product *p, const kin_lt_data *d, void *stream);
/* For measurements: the library's algorithms for p, best first, at most KIN_LT_OFFERS; one run of
 * one of them. */
enum { KIN_LT_OFFERS = 16 };
typedef struct kin_lt_algo {
    uint64_t data[8];
} kin_lt_algo;
int kin_lt_offers(kin_lt *lt, const kin_lt_product *p, const kin_lt_data *d, kin_lt_algo *out);
bool kin_lt_run_offer(kin_lt *lt, const kin_lt_product *p, const kin_lt_data *d,
                      const kin_lt_algo *algo, void *stream);
/* Largest power of two up to 256 that divides the address and rows of ld elements. */
int64_t kin_lt_alignment(const void *p, int64_t ld, int64_t size);

#ifdef __cplusplus
}
#endif

#endif
