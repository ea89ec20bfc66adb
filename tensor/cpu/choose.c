/* tensor/cpu/choose.c: which engine does the dense products, from measurement (docs/SPEED.md).
 *
 * | level        | compute | engine | why |
 * |--------------|---------|--------|---------------------------------------------------------------|
 * | avx2, avx512 | f32     | own    | as fast as oneDNN 2.6 (0.83-0.87 of the peak), 4 times faster
 * | |              |         |        | for few rows, and a row's bits depend on nothing but the
 * row  | | avx2, avx512 | bf16    | own    | vdpbf16ps on Zen 4; rounded f32 where that is slower |
 * | amx          | f32     | own    | as avx512 | | amx          | bf16    | oneDNN | its AMX
 * tiles: 7-12 times the f32 peak                        |
 *
 * note: oneDNN's own limit (dnnl_set_max_cpu_isa) can be set once per process, so lower levels are
 * never left to it: they use the own kernels. */
#include "tensor/cpu/onednn.h"

bool kin_cpu_use_onednn(const kin_ctx *ctx, const kin_param *w)
{
    return ctx->isa == KIN_ISA_AMX && ctx->compute == KIN_DTYPE_BF16 &&
           w->value.dtype != KIN_DTYPE_F16;
}
