/* tests/tensor/rig.h: the stand on which a backend's kernels run beside the reference. A case draws
 * inputs, makes each output twice (side 0: reference, side 1: backend under test; pre-filled with
 * NaN and guarded), calls the slot on both sides and compares. */
#ifndef KIN_TESTS_TENSOR_RIG_H
#define KIN_TESTS_TENSOR_RIG_H

#include "tensor/kernels.h"
#include "tests/support/canary.h"
#include "tests/support/near.h"
#include "tests/support/support.h"

enum { RIG_MEMORY = 160, RIG_SLOTS = sizeof(kin_kernels) / sizeof(void *) };

typedef struct rig {
    char name[64];   /* "cpu avx2 f32" */
    kin_ctx *ctx[2]; /* reference, under test */
    kin_ctx *one;    /* as ctx[1], with one thread */
    unsigned ran[RIG_SLOTS];
    unsigned by_cudnn[RIG_SLOTS]; /* calls in which the device ran a graph of cuDNN */
    long launches;                /* of such graphs, before the present call */
    uint64_t sample;              /* of the generator: one stream per drawn tensor */
    char what[160];               /* the running case */
    size_t mark[2];
    kin_canary memory[RIG_MEMORY];
    uint64_t sum[RIG_MEMORY]; /* checksum of inputs, 0 for outputs */
    int memories;
    kin_params *params;
    int cases;
} rig;

typedef struct pair { /* reference, under test */
    kin_tensor t[2];
} pair;

typedef struct param_pair {
    kin_param *p[2];
    pair grad;
} param_pair;

/* Stands for the backends of this machine: CPU at each ISA level, in f32, bf16 and, where there are
 * AMX tiles, f32 of high precision. Returns how many. */
int rig_open_all(rig *rigs, int cap);
/* The CUDA device in f32 and bf16: 2 stands. */
int rig_open_cuda(rig *rigs, int cap);
/* One of the CPU's. */
void rig_open(rig *r, kin_isa isa, kin_dtype compute, kin_precision precision);
void rig_close(rig *r);

/* Starts a case (text for messages); the former one must have been ended. */
void rig_begin(rig *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Checks every guard and that no input changed, frees all. */
void rig_end(rig *r);

/* An input of normal numbers times `spread`; rows `pad` elements apart. */
kin_tensor rig_in(rig *r, double spread, int pad, int ndim, const int64_t *sizes);
/* Integers in [lo, hi), i32 or u8. */
kin_tensor rig_ints(rig *r, kin_dtype dtype, int lo, int hi, int ndim, const int64_t *sizes);
/* A copy of `from` as an input of its own. */
kin_tensor rig_copy(rig *r, const kin_tensor *from);
/* Outputs of both sides. filled: the same normal numbers (for acc), else NaN. */
pair rig_out(rig *r, kin_dtype dtype, bool filled, int pad, int ndim, const int64_t *sizes);
/* One parameter for each side: same values of type dtype, gradients that start with the same
 * numbers (grad true). */
param_pair rig_param(rig *r, kin_dtype dtype, double spread, bool grad, int ndim,
                     const int64_t *sizes);

void rig_near(rig *r, const char *name, const pair *p, kin_near_bound bound);
/* got (a backend's) against want. */
void rig_near_one(rig *r, const char *name, const kin_tensor *got, const kin_tensor *want,
                  kin_near_bound bound);
void rig_same(rig *r, const char *name, const kin_tensor *a, const kin_tensor *b);

/* Loosens a bound where operands are rounded to bf16 on the way (results of a function of a
 * product). */
kin_near_bound rig_bf16(const rig *r, kin_near_bound bound, double factor);
static inline bool rig_is_bf16(const rig *r)
{
    return r->ctx[1]->compute == KIN_DTYPE_BF16;
}
/* True where cuDNN is there to be used. */
bool rig_has_cudnn(const rig *r);

void rig_returned(rig *r, int side, size_t slot, const char *name, kin_status status);
#define RIG_CALL(r, side, slot, ...)                                               \
    rig_returned((r), (side), offsetof(kin_kernels, slot) / sizeof(void *), #slot, \
                 (r)->ctx[side]->k->slot((r)->ctx[side], __VA_ARGS__))
/* The same slot on the one-thread context. */
#define RIG_CALL_ONE(r, slot, ...)                                            \
    rig_returned((r), 1, offsetof(kin_kernels, slot) / sizeof(void *), #slot, \
                 (r)->one->k->slot((r)->one, __VA_ARGS__))
#define RIG_FAIL(r, ...) rig_fail((r), __VA_ARGS__)
void rig_fail(rig *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The bodies, one per group of slots (kernels_*.c). */
void kernels_linear(rig *r);
void kernels_linear_bwd(rig *r);
void kernels_linear_rows(rig *r);
void kernels_grouped(rig *r);
void kernels_grouped_rows(rig *r);
void kernels_grouped_trained(rig *r);
void kernels_combine(rig *r);
void kernels_conv(rig *r);
void kernels_conv_rows(rig *r);
void kernels_groupnorm(rig *r);
void kernels_posterior(rig *r);
void kernels_norm(rig *r);
void kernels_norm_rows(rig *r);
void kernels_attention(rig *r);
void kernels_attention_rows(rig *r);
void kernels_rope(rig *r);
void kernels_embedding(rig *r);
void kernels_patch(rig *r);
void kernels_sinusoid(rig *r);
void kernels_cosine(rig *r);
void kernels_topk(rig *r);
void kernels_choose(rig *r);
void kernels_dispatch(rig *r);
void kernels_rcl(rig *r);
void kernels_balance(rig *r);
void kernels_binary(rig *r);
void kernels_reduce(rig *r);
void kernels_unary(rig *r);
void kernels_gate(rig *r);
void kernels_softmax(rig *r);
void kernels_copy(rig *r);
void kernels_transpose(rig *r);
void kernels_loss(rig *r);
void kernels_optim(rig *r);
void kernels_randn(rig *r);

#endif
