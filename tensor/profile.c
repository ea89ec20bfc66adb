#include "tensor/profile.h"

#include <string.h>

#include "tensor/device.h"

/* Slots of the form (ctx, args), and their arguments' types. */
/* clang-format off */
#define SLOTS(X) \
    X(linear, kin_linear_args) \
    X(linear_dx, kin_linear_bwd_args) \
    X(linear_dw, kin_linear_bwd_args) \
    X(grouped, kin_grouped_args) \
    X(grouped_dx, kin_grouped_bwd_args) \
    X(grouped_dw, kin_grouped_bwd_args) \
    X(combine, kin_combine_args) \
    X(combine_bwd, kin_combine_args) \
    X(layernorm, kin_norm_args) \
    X(layernorm_bwd, kin_norm_args) \
    X(rmsnorm, kin_norm_args) \
    X(rmsnorm_bwd, kin_norm_args) \
    X(rope, kin_rope_args) \
    X(attention, kin_attention_args) \
    X(attention_bwd, kin_attention_args) \
    X(embedding, kin_embedding_args) \
    X(embedding_bwd, kin_embedding_args) \
    X(patch, kin_patch_args) \
    X(cosine, kin_cosine_args) \
    X(cosine_bwd, kin_cosine_args) \
    X(topk, kin_topk_args) \
    X(topk_bwd, kin_topk_args) \
    X(choose, kin_choose_args) \
    X(dispatch, kin_dispatch_args) \
    X(rcl, kin_rcl_args) \
    X(rcl_bwd, kin_rcl_args) \
    X(balance, kin_balance_args) \
    X(balance_bwd, kin_balance_args) \
    X(sinusoid, kin_sinusoid_args) \
    X(loss, kin_loss_args) \
    X(loss_bwd, kin_loss_args) \
    X(binary, kin_binary_args) \
    X(reduce, kin_reduce_args) \
    X(unary, kin_unary_args) \
    X(unary_bwd, kin_unary_args) \
    X(gated_add, kin_gated_add_args) \
    X(gate_bwd, kin_gate_bwd_args) \
    X(conv, kin_conv_args) \
    X(conv_dx, kin_conv_args) \
    X(conv_dw, kin_conv_args) \
    X(groupnorm, kin_groupnorm_args) \
    X(groupnorm_bwd, kin_groupnorm_args) \
    X(posterior, kin_posterior_args) \
    X(posterior_bwd, kin_posterior_args) \
    X(softmax, kin_softmax_args) \
    X(softmax_bwd, kin_softmax_args) \
    X(adamw, kin_adamw_args)
/* clang-format on */

/* Rows of kin_profile.op: the slots above, then the ones of other forms. */
enum {
#define ROW(slot, args) ROW_##slot,
    SLOTS(ROW)
#undef ROW
        ROW_copy,
    ROW_fill,
    ROW_transpose,
    ROW_randn,
    ROW_sumsq,
    ROWS
};
_Static_assert((int)ROWS == (int)KIN_PROFILE_OPS,
               "a slot of kin_kernels is missing here: add it to SLOTS");

typedef struct call {
    kin_ctx *ctx;
    kin_profile *p;
    kin_profile_op *op;
    double start, outer; /* outer: children of the caller so far */
    kin_cost cost;
} call;

static double now(const kin_profile *p)
{
    struct timespec t;
    clock_gettime(p->clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* note: the table is the profile's first member */
static kin_profile *profile_of(const kin_ctx *ctx)
{
    return (kin_profile *)(uintptr_t)ctx->k;
}

static call enter(kin_ctx *ctx, int row)
{
    kin_profile *p = profile_of(ctx);
    return (call){.ctx = ctx, .p = p, .op = &p->op[row], .cost = ctx->cost};
}

/* To be called once the plan's slot has added the call's work to ctx->cost. */
static void begin(kin_ctx *ctx, call *c)
{
    c->op->calls++;
    c->op->flops += ctx->cost.flops - c->cost.flops;
    c->op->bytes += ctx->cost.bytes - c->cost.bytes;
    ctx->cost = c->cost;
    c->outer = c->p->children;
    c->p->children = 0;
    c->start = now(c->p);
}

static kin_status leave(call *c, kin_status status)
{
    if (c->ctx->device && status == KIN_OK)
        status = c->ctx->device->wait(c->ctx);
    double spent = now(c->p) - c->start;
    c->op->seconds += spent - c->p->children;
    c->p->children = c->outer + spent;
    return status;
}

#define WRAP(slot, args)                                          \
    static kin_status profile_##slot(kin_ctx *ctx, const args *a) \
    {                                                             \
        call c = enter(ctx, ROW_##slot);                          \
        c.p->plan.slot(ctx, a);                                   \
        begin(ctx, &c);                                           \
        return leave(&c, c.p->inner->slot(ctx, a));               \
    }
SLOTS(WRAP)
#undef WRAP

static kin_status profile_copy(kin_ctx *ctx, const kin_tensor *src, kin_tensor *dst, bool acc)
{
    call c = enter(ctx, ROW_copy);
    c.p->plan.copy(ctx, src, dst, acc);
    begin(ctx, &c);
    return leave(&c, c.p->inner->copy(ctx, src, dst, acc));
}

static kin_status profile_fill(kin_ctx *ctx, kin_tensor *dst, double value)
{
    call c = enter(ctx, ROW_fill);
    c.p->plan.fill(ctx, dst, value);
    begin(ctx, &c);
    return leave(&c, c.p->inner->fill(ctx, dst, value));
}

static kin_status profile_transpose(kin_ctx *ctx, const kin_tensor *x, kin_tensor *y, bool acc)
{
    call c = enter(ctx, ROW_transpose);
    c.p->plan.transpose(ctx, x, y, acc);
    begin(ctx, &c);
    return leave(&c, c.p->inner->transpose(ctx, x, y, acc));
}

static kin_status profile_randn(kin_ctx *ctx, const kin_rng *rng, uint64_t first, kin_tensor *y)
{
    call c = enter(ctx, ROW_randn);
    c.p->plan.randn(ctx, rng, first, y);
    begin(ctx, &c);
    return leave(&c, c.p->inner->randn(ctx, rng, first, y));
}

static kin_status profile_sumsq(kin_ctx *ctx, const kin_adamw_part *part, int64_t parts,
                                double *out)
{
    call c = enter(ctx, ROW_sumsq);
    c.p->plan.sumsq(ctx, part, parts, out);
    begin(ctx, &c);
    return leave(&c, c.p->inner->sumsq(ctx, part, parts, out));
}

void kin_profile_clear(kin_profile *p)
{
    static const char *const names[ROWS] = {
#define NAME(slot, args) #slot,
        SLOTS(NAME)
#undef NAME
            "copy",
        "fill", "transpose", "randn", "sumsq"};
    for (int i = 0; i < ROWS; i++)
        p->op[i] = (kin_profile_op){.name = names[i]};
    p->children = 0;
}

void kin_profile_on(kin_ctx *ctx, kin_profile *p, clockid_t clock)
{
    memset(p, 0, sizeof *p);
    p->table = (kin_kernels){
#define FILL(slot, args) .slot = profile_##slot,
        SLOTS(FILL)
#undef FILL
            .copy = profile_copy,
        .fill = profile_fill,
        .transpose = profile_transpose,
        .randn = profile_randn,
        .sumsq = profile_sumsq,
    };
    p->inner = ctx->k;
    p->clock = clock;
    kin_kernels_init_plan(&p->plan);
    kin_profile_clear(p);
    ctx->k = &p->table;
}

void kin_profile_off(kin_ctx *ctx, kin_profile *p)
{
    if (p->inner)
        ctx->k = p->inner;
    p->inner = NULL;
}

kin_profile_op kin_profile_total(const kin_profile *p)
{
    kin_profile_op sum = {.name = "total"};
    for (int i = 0; i < ROWS; i++) {
        sum.calls += p->op[i].calls;
        sum.seconds += p->op[i].seconds;
        sum.flops += p->op[i].flops;
        sum.bytes += p->op[i].bytes;
    }
    return sum;
}
