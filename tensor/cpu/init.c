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
    k->layernorm = kin_cpu_layernorm;
    k->layernorm_bwd = kin_cpu_layernorm_bwd;
    k->rmsnorm = kin_cpu_rmsnorm;
    k->rmsnorm_bwd = kin_cpu_rmsnorm_bwd;
    k->conv = kin_cpu_conv;
    k->conv_dx = kin_cpu_conv_dx;
    k->conv_dw = kin_cpu_conv_dw;
    k->groupnorm = kin_cpu_groupnorm;
    k->groupnorm_bwd = kin_cpu_groupnorm_bwd;
    k->rope = kin_cpu_rope;
    k->embedding = kin_cpu_embedding;
    k->embedding_bwd = kin_cpu_embedding_bwd;
    k->patch = kin_cpu_patch;
    k->unary = kin_cpu_unary;
    k->unary_bwd = kin_cpu_unary_bwd;
    k->binary = kin_cpu_binary;
    k->copy = kin_cpu_copy;
    k->fill = kin_cpu_fill;
    k->transpose = kin_cpu_transpose;
    k->softmax = kin_cpu_softmax;
    k->softmax_bwd = kin_cpu_softmax_bwd;
    k->gated_add = kin_cpu_gated_add;
    k->gate_bwd = kin_cpu_gate_bwd;
    k->reduce = kin_cpu_reduce;
    k->adamw = kin_cpu_adamw;
    k->sumsq = kin_cpu_sumsq;
    k->randn = kin_cpu_randn;
    k->loss = kin_cpu_loss;
    k->loss_bwd = kin_cpu_loss_bwd;
    k->grouped = kin_cpu_grouped;
    k->grouped_dx = kin_cpu_grouped_dx;
    k->grouped_dw = kin_cpu_grouped_dw;
    k->combine = kin_cpu_combine;
    k->combine_bwd = kin_cpu_combine_bwd;
    k->cosine = kin_cpu_cosine;
    k->cosine_bwd = kin_cpu_cosine_bwd;
    k->topk = kin_cpu_topk;
    k->topk_bwd = kin_cpu_topk_bwd;
    k->choose = kin_cpu_choose;
    k->dispatch = kin_cpu_dispatch;
    k->balance = kin_cpu_balance;
    k->balance_bwd = kin_cpu_balance_bwd;
    k->rcl = kin_cpu_rcl;
    k->rcl_bwd = kin_cpu_rcl_bwd;
}
