/* tests/tensor/grad.h: small graphs of ops whose gradients test_grad.c proves. */
#ifndef KIN_TESTS_TENSOR_GRAD_H
#define KIN_TESTS_TENSOR_GRAD_H

#include "tensor/ops.h"

enum { GRAD_INPUTS = 6, GRAD_PARAMS = 16 };

/* Operands of one graph, f64 (or f32 for the CPU backend); same numbers in both. */
typedef struct grad_env {
    kin_dtype dtype;
    int inputs, params;
    kin_tensor in[GRAD_INPUTS]; /* watched while recording */
    double spread[GRAD_INPUTS];
    kin_param *p[GRAD_PARAMS];
    kin_params *table;
    int variant;
} grad_env;

typedef struct grad_case {
    const char *name;
    const char *ops; /* names of ops.h this case exercises, without kin_, separated by blanks */
    /* Declares operands: grad_input, grad_param. */
    void (*declare)(grad_env *e);
    /* Any number of ops; *y is the output whose product with fixed numbers is differentiated. */
    kin_status (*graph)(kin_ctx *ctx, grad_env *e, kin_tensor *y);
    int variant;
    bool f32_loose; /* single precision is judged ten times more loosely: divisions by small numbers
                     */
} grad_case;

/* For the files of cases: an operand of normal numbers times spread; one parameter; i32 or u8
 * values in the workspace. */
void grad_input(grad_env *e, double spread, int ndim, const int64_t *sizes);
void grad_param(grad_env *e, double scale, int ndim, const int64_t *sizes);

kin_status grad_ints(kin_ctx *ctx, kin_dtype dtype, const int *values, int ndim,
                     const int64_t *sizes, kin_tensor *out);

/* Every differentiable op of ops.h, alone and in the combinations the models use; each table ends
 * with name NULL. */
extern const grad_case grad_dense_cases[], grad_routing_cases[], grad_elementwise_cases[];

#endif
