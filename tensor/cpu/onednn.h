/* tensor/cpu/onednn.h: dense products by oneDNN, all of its calls in one place (2.x and 3.x). A
 * weight is reordered once per version and kept with the parameter, together with one product of
 * KIN_ONEDNN_ROWS rows; every call is cut into such blocks (the last one padded), each run by one
 * thread. So the bits of a row depend neither on the number of rows nor on the number of threads,
 * whatever the library chooses inside. */
#ifndef KIN_CPU_ONEDNN_H
#define KIN_CPU_ONEDNN_H

#include "tensor/cpu/cpu.h"

enum { KIN_ONEDNN_ROWS = 64 };

/* As kin_cpu_linear and kin_cpu_linear_dx. The weight must be f32 or bf16. Fails: BACKEND, MEM. */
kin_status kin_onednn_linear(kin_ctx *ctx, const kin_linear_args *a);
kin_status kin_onednn_linear_dx(kin_ctx *ctx, const kin_linear_bwd_args *a);

#endif
