/* tensor/plan/scratch.c: what the CPU kernels take beside their operands, in a dry run: each slot
 * counts its work (plan.c) and then runs the CPU kernel itself, which on a plan context takes its
 * scratch and its packed weights and returns before it computes (kin_cpu_planned). So plan and run
 * cannot drift apart. Operands that the CPU backend hands to the reference kernels (not f32, other
 * losses than MSE) take next to nothing and are left out. */
#include "tensor/cpu/cpu.h"
#include "tensor/plan/plan.h"

#define SIZED(slot, args, taken)                        \
    static kin_status slot(kin_ctx *ctx, const args *a) \
    {                                                   \
        const size_t mark = kin_ws_mark(ctx);           \
        kin_kernels count;                              \
        kin_kernels_init_plan(&count);                  \
        KIN_TRY(count.slot(ctx, a));                    \
        if (!(taken))                                   \
            return KIN_OK;                              \
        KIN_TRY(kin_cpu_##slot(ctx, a));                \
        kin_ws_release(ctx, mark);                      \
        return KIN_OK;                                  \
    }

SIZED(linear, kin_linear_args, kin_is_operand(a->x))
SIZED(linear_dx, kin_linear_bwd_args, kin_is_operand(a->dy))
SIZED(linear_dw, kin_linear_bwd_args, kin_is_operand(a->dy))
SIZED(grouped, kin_grouped_args, kin_is_operand(a->x))
SIZED(grouped_dx, kin_grouped_bwd_args, kin_is_operand(a->dy))
SIZED(grouped_dw, kin_grouped_bwd_args, kin_is_operand(a->dy))
SIZED(layernorm, kin_norm_args, kin_is_f32(a->x))
SIZED(layernorm_bwd, kin_norm_args, kin_is_f32(a->x))
SIZED(rmsnorm, kin_norm_args, kin_is_f32(a->x))
SIZED(rmsnorm_bwd, kin_norm_args, kin_is_f32(a->x))
SIZED(conv, kin_conv_args, kin_is_f32(a->x))
SIZED(conv_dx, kin_conv_args, kin_is_f32(a->dy))
SIZED(conv_dw, kin_conv_args, kin_is_f32(a->dy))
SIZED(groupnorm, kin_groupnorm_args, kin_is_f32(a->x))
SIZED(groupnorm_bwd, kin_groupnorm_args, kin_is_f32(a->x))
SIZED(attention, kin_attention_args, kin_is_operand(a->q))
SIZED(attention_bwd, kin_attention_args, kin_is_operand(a->q))
SIZED(cosine, kin_cosine_args, kin_is_f32(a->x) && a->proto->value.dtype != KIN_DTYPE_F64)
SIZED(cosine_bwd, kin_cosine_args, kin_is_f32(a->x) && a->proto->value.dtype != KIN_DTYPE_F64)
SIZED(dispatch, kin_dispatch_args, true)
SIZED(rcl, kin_rcl_args, kin_is_f32(a->x) && a->proto->value.dtype != KIN_DTYPE_F64)
SIZED(rcl_bwd, kin_rcl_args, kin_is_f32(a->x) && a->proto->value.dtype != KIN_DTYPE_F64)
SIZED(balance, kin_balance_args, kin_is_f32(a->p))
SIZED(balance_bwd, kin_balance_args, kin_is_f32(a->dp))
SIZED(loss, kin_loss_args, kin_is_f32(a->x) && a->kind == KIN_LOSS_MSE)

void kin_plan_add_scratch(kin_kernels *k)
{
    k->linear = linear;
    k->linear_dx = linear_dx;
    k->linear_dw = linear_dw;
    k->grouped = grouped;
    k->grouped_dx = grouped_dx;
    k->grouped_dw = grouped_dw;
    k->layernorm = layernorm;
    k->layernorm_bwd = layernorm_bwd;
    k->rmsnorm = rmsnorm;
    k->rmsnorm_bwd = rmsnorm_bwd;
    k->conv = conv;
    k->conv_dx = conv_dx;
    k->conv_dw = conv_dw;
    k->groupnorm = groupnorm;
    k->groupnorm_bwd = groupnorm_bwd;
    k->attention = attention;
    k->attention_bwd = attention_bwd;
    k->cosine = cosine;
    k->cosine_bwd = cosine_bwd;
    k->dispatch = dispatch;
    k->rcl = rcl;
    k->rcl_bwd = rcl_bwd;
    k->balance = balance;
    k->balance_bwd = balance_bwd;
    k->loss = loss;
}
