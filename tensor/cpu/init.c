/* tensor/cpu/init.c: puts the CPU kernels into a table that already holds the reference. */
#include "tensor/cpu/cpu.h"

void kin_kernels_init_cpu(kin_kernels *k, kin_isa isa)
{
    if (isa == KIN_ISA_NONE)
        return;
    k->linear = kin_cpu_linear;
    k->linear_dx = kin_cpu_linear_dx;
    k->linear_dw = kin_cpu_linear_dw;
    k->grouped = kin_cpu_grouped;
    k->grouped_dx = kin_cpu_grouped_dx;
    k->grouped_dw = kin_cpu_grouped_dw;
    k->attention = kin_cpu_attention;
    k->attention_bwd = kin_cpu_attention_bwd;
}
