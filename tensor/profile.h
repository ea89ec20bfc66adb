/* tensor/profile.h: where the time goes. A profile is a kernel table that stands before the
 * context's own: every slot counts its calls, its exclusive time (without the slots it calls
 * itself) and its work as the plan table counts it, then runs the real kernel. On a device each
 * slot is waited for, so that its time is its own. Results are unchanged. */
#ifndef KIN_TENSOR_PROFILE_H
#define KIN_TENSOR_PROFILE_H

#include <time.h>

#include "tensor/kernels.h"

enum { KIN_PROFILE_OPS = sizeof(kin_kernels) / sizeof(void (*)(void)) };

typedef struct kin_profile_op {
    const char *name; /* of the slot */
    int64_t calls;
    double seconds;
    double flops, bytes; /* tensor/plan: products only; operands once */
} kin_profile_op;

typedef struct kin_profile {
    kin_kernels table;        /* first member: ctx->k points here while profiling */
    const kin_kernels *inner; /* the context's own table; NULL: not on */
    kin_kernels plan;
    clockid_t clock;
    double children; /* seconds of the slots that the running one called */
    kin_profile_op op[KIN_PROFILE_OPS];
} kin_profile;

/* Puts *p before ctx's kernels; p must stay in place until kin_profile_off, which must come before
 * kin_ctx_destroy. clock: CLOCK_MONOTONIC or CLOCK_THREAD_CPUTIME_ID. */
void kin_profile_on(kin_ctx *ctx, kin_profile *p, clockid_t clock);
void kin_profile_off(kin_ctx *ctx, kin_profile *p);
/* Sets all counts to 0. */
void kin_profile_clear(kin_profile *p);
/* Sum of the seconds, flops or bytes of all ops into one; name is "total". */
kin_profile_op kin_profile_total(const kin_profile *p);

#endif
