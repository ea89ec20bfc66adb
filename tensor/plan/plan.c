/* tensor/plan/plan.c: the table of the dry run. No slot touches memory: the ops above allocate and
 * check as always, so the workspace's peak is that of a real run, and the slots count the work.
 * Products (linear, grouped, attention) count 2 operations per multiply-add into ctx->cost.flops,
 * all slots their operands once into ctx->cost.bytes. A routed row count is not known without data:
 * in a dry run the most pairs there can be count; tensor/profile.c calls
 * these slots beside the real ones, and then the rows are those that were routed. */
#include <stdarg.h>
#include <stddef.h>

#include "tensor/kernels.h"

/* note: a dimension of stride 0 is one entry in memory */
static double tensor_bytes(const kin_tensor *t)
{
    double n = 1;
    if (!t || !t->data)
        return 0;
    for (int i = 0; i < t->ndim; i++)
        n *= t->stride[i] ? (double)t->size[i] : 1.0;
    return n * (double)kin_dtype_size(t->dtype);
}

/* Adds flops and the bytes of the tensors up to a closing NULL. An optional operand that is absent
 * (NULL data) counts nothing; an absent pointer must be passed through `some`. */
static kin_status count(kin_ctx *ctx, double flops, const kin_tensor *first, ...)
{
    va_list list;
    ctx->cost.flops += flops;
    va_start(list, first);
    for (const kin_tensor *t = first; t; t = va_arg(list, const kin_tensor *))
        ctx->cost.bytes += tensor_bytes(t);
    va_end(list);
    return KIN_OK;
}
#define END ((const kin_tensor *)NULL)

static const kin_tensor nothing;

static const kin_tensor *some(const kin_tensor *t)
{
    return t ? t : &nothing;
}

static const kin_tensor *value(const kin_param *p)
{
    return p ? &p->value : &nothing;
}

static const kin_tensor *grad(const kin_param *p)
{
    return p ? &p->grad : &nothing;
}

static kin_status linear(kin_ctx *ctx, const kin_linear_args *a)
{
    double flops = 2.0 * (double)a->m * (double)a->n * (double)a->k;
    return count(ctx, flops, a->x, value(a->w), value(a->b), some(a->residual), some(a->gate),
                 some(a->pre), a->y, END);
}

static kin_status linear_dx(kin_ctx *ctx, const kin_linear_bwd_args *a)
{
    double flops = 2.0 * (double)a->m * (double)a->n * (double)a->k;
    return count(ctx, flops, a->dy, value(a->w), some(a->past), a->dx, END);
}

static kin_status linear_dw(kin_ctx *ctx, const kin_linear_bwd_args *a)
{
    bool w = a->w && a->w->grad.data;
    double flops = w ? 2.0 * (double)a->m * (double)a->n * (double)a->k : 0;
    return count(ctx, flops, a->dy, w ? some(a->x) : &nothing, grad(a->w), grad(a->b), END);
}

static double grouped_flops(const kin_ctx *ctx, const kin_dispatch *d, int64_t n, int64_t k)
{
    const int64_t rows = kin_ctx_is_plan(ctx) || ctx->device
                             ? d->rows
                             : ((const int32_t *)d->offset.data)[d->groups];
    return 2.0 * (double)rows * (double)n * (double)k;
}

static kin_status grouped(kin_ctx *ctx, const kin_grouped_args *a)
{
    for (int64_t e = 0; e < a->d->groups; e++)
        count(ctx, 0, value(a->w[e]), value(a->b ? a->b[e] : NULL), END);
    return count(ctx, grouped_flops(ctx, a->d, a->n, a->k), a->x, some(a->pre), a->y, END);
}

static kin_status grouped_dx(kin_ctx *ctx, const kin_grouped_bwd_args *a)
{
    for (int64_t e = 0; e < a->d->groups; e++)
        count(ctx, 0, value(a->w[e]), END);
    return count(ctx, grouped_flops(ctx, a->d, a->n, a->k), a->dy, some(a->past), a->dx, END);
}

static kin_status grouped_dw(kin_ctx *ctx, const kin_grouped_bwd_args *a)
{
    bool any = false;
    for (int64_t e = 0; e < a->d->groups; e++) {
        any = any || a->w[e]->grad.data;
        count(ctx, 0, grad(a->w[e]), grad(a->b ? a->b[e] : NULL), END);
    }
    return count(ctx, any ? grouped_flops(ctx, a->d, a->n, a->k) : 0, a->dy, some(a->x), END);
}

static kin_status combine(kin_ctx *ctx, const kin_combine_args *a)
{
    return count(ctx, 0, a->z, some(a->base), &a->d->weight, a->y, END);
}

static kin_status combine_bwd(kin_ctx *ctx, const kin_combine_args *a)
{
    return count(ctx, 0, a->dy, some(a->z), some(a->dz), some(a->dweight), END);
}

static kin_status norm(kin_ctx *ctx, const kin_norm_args *a)
{
    return count(ctx, 0, a->x, value(a->gamma), value(a->beta), some(a->scale), some(a->shift),
                 a->y, END);
}

static kin_status norm_bwd(kin_ctx *ctx, const kin_norm_args *a)
{
    return count(ctx, 0, a->x, a->dy, some(a->dx), some(a->scale), some(a->dscale), some(a->dshift),
                 grad(a->gamma), grad(a->beta), END);
}

static kin_status rope(kin_ctx *ctx, const kin_rope_args *a)
{
    return count(ctx, 0, a->x, a->cos, a->sin, a->y, END);
}

/* Flops of one product over all pairs of query and key. */
static double pair_flops(const kin_attention_args *a)
{
    return 2.0 * (double)kin_tensor_numel(a->q) * (double)a->k->size[1];
}

static kin_status attention(kin_ctx *ctx, const kin_attention_args *a)
{
    return count(ctx, 2 * pair_flops(a), a->q, a->k, a->v, some(a->bias), some(a->mask), a->o, END);
}

/* q k^T and dO v^T again, then dv, dk, dq: five products. */
static kin_status attention_bwd(kin_ctx *ctx, const kin_attention_args *a)
{
    return count(ctx, 5 * pair_flops(a), a->q, a->k, a->v, a->o, a->dout, some(a->bias),
                 some(a->dq), some(a->dk), some(a->dv), some(a->dbias), END);
}

static kin_status embedding(kin_ctx *ctx, const kin_embedding_args *a)
{
    return count(ctx, 0, a->ids, a->y, a->y, END); /* rows read, rows written */
}

static kin_status embedding_bwd(kin_ctx *ctx, const kin_embedding_args *a)
{
    return count(ctx, 0, a->ids, a->dy, a->dy, END);
}

static kin_status patch(kin_ctx *ctx, const kin_patch_args *a)
{
    return count(ctx, 0, a->src, a->dst, END);
}

static kin_status cosine(kin_ctx *ctx, const kin_cosine_args *a)
{
    return count(ctx, 0, a->x, value(a->proto), a->z, END);
}

static kin_status cosine_bwd(kin_ctx *ctx, const kin_cosine_args *a)
{
    return count(ctx, 0, a->x, a->dz, some(a->dx), grad(a->proto), END);
}

static kin_status topk(kin_ctx *ctx, const kin_topk_args *a)
{
    return count(ctx, 0, a->scores, a->idx, a->w, END);
}

static kin_status topk_bwd(kin_ctx *ctx, const kin_topk_args *a)
{
    return count(ctx, 0, a->dw, a->dscores, END);
}

static kin_status choose(kin_ctx *ctx, const kin_choose_args *a)
{
    return count(ctx, 0, a->scores, some(a->gate), a->idx, a->w, END);
}

static kin_status dispatch(kin_ctx *ctx, const kin_dispatch_args *a)
{
    return count(ctx, 0, a->idx, &a->d->order, &a->d->inverse, END);
}

static kin_status rcl(kin_ctx *ctx, const kin_rcl_args *a)
{
    return count(ctx, 0, a->x, value(a->proto), END);
}

static kin_status rcl_bwd(kin_ctx *ctx, const kin_rcl_args *a)
{
    return count(ctx, 0, a->x, some(a->dx), grad(a->proto), END);
}

static kin_status balance(kin_ctx *ctx, const kin_balance_args *a)
{
    return count(ctx, 0, a->p, a->idx, END);
}

static kin_status balance_bwd(kin_ctx *ctx, const kin_balance_args *a)
{
    return count(ctx, 0, a->idx, some(a->dp), END);
}

static kin_status sinusoid(kin_ctx *ctx, const kin_sinusoid_args *a)
{
    return count(ctx, 0, a->v, a->y, END);
}

static kin_status loss(kin_ctx *ctx, const kin_loss_args *a)
{
    return count(ctx, 0, a->x, a->target, END);
}

static kin_status loss_bwd(kin_ctx *ctx, const kin_loss_args *a)
{
    return count(ctx, 0, a->x, a->target, some(a->dx), END);
}

static kin_status binary(kin_ctx *ctx, const kin_binary_args *a)
{
    return count(ctx, 0, a->a, a->b, a->y, END);
}

static kin_status reduce(kin_ctx *ctx, const kin_reduce_args *a)
{
    return count(ctx, 0, a->x, some(a->other), a->y, END);
}

static kin_status unary(kin_ctx *ctx, const kin_unary_args *a)
{
    return count(ctx, 0, a->x, a->y, END);
}

static kin_status unary_bwd(kin_ctx *ctx, const kin_unary_args *a)
{
    return count(ctx, 0, some(a->x), a->dy, some(a->dx), END);
}

static kin_status gated_add(kin_ctx *ctx, const kin_gated_add_args *a)
{
    return count(ctx, 0, a->lin, a->residual, a->gate, a->y, END);
}

static kin_status gate_bwd(kin_ctx *ctx, const kin_gate_bwd_args *a)
{
    return count(ctx, 0, a->dy, some(a->lin), some(a->dlin), some(a->dgate), END);
}

/* note: taps that fall on zeros are counted as work, too */
static double conv_flops(const kin_conv_shape *s)
{
    return 2.0 * (double)(s->batch * s->out_frames * s->out_height * s->out_width) *
           (double)(s->out * s->in) * (double)(s->kt * s->kh * s->kw);
}

static kin_status conv(kin_ctx *ctx, const kin_conv_args *a)
{
    return count(ctx, conv_flops(&a->s), a->x, value(a->w), value(a->b), some(a->residual), a->y,
                 END);
}

static kin_status conv_dx(kin_ctx *ctx, const kin_conv_args *a)
{
    return count(ctx, conv_flops(&a->s), a->dy, value(a->w), a->dx, END);
}

static kin_status conv_dw(kin_ctx *ctx, const kin_conv_args *a)
{
    return count(ctx, conv_flops(&a->s), a->dy, a->x, grad(a->w), grad(a->b), END);
}

static kin_status groupnorm(kin_ctx *ctx, const kin_groupnorm_args *a)
{
    return count(ctx, 0, a->x, value(a->gamma), value(a->beta), a->y, END);
}

static kin_status groupnorm_bwd(kin_ctx *ctx, const kin_groupnorm_args *a)
{
    return count(ctx, 0, a->x, a->dy, some(a->dx), grad(a->gamma), grad(a->beta), END);
}

static kin_status posterior(kin_ctx *ctx, const kin_posterior_args *a)
{
    return count(ctx, 0, a->mean, a->logvar, some(a->noise), some(a->clamped), some(a->z), END);
}

static kin_status posterior_bwd(kin_ctx *ctx, const kin_posterior_args *a)
{
    return count(ctx, 0, a->mean, a->logvar, some(a->dz), some(a->dmean), some(a->dlogvar), END);
}

static kin_status softmax(kin_ctx *ctx, const kin_softmax_args *a)
{
    return count(ctx, 0, a->x, a->y, END);
}

static kin_status softmax_bwd(kin_ctx *ctx, const kin_softmax_args *a)
{
    return count(ctx, 0, a->y, a->dy, some(a->dx), END);
}

static kin_status copy(kin_ctx *ctx, const kin_tensor *src, kin_tensor *dst, bool acc)
{
    (void)acc;
    return count(ctx, 0, src, dst, END);
}

static kin_status fill(kin_ctx *ctx, kin_tensor *dst, double v)
{
    (void)v;
    return count(ctx, 0, dst, END);
}

static kin_status transpose(kin_ctx *ctx, const kin_tensor *x, kin_tensor *y, bool acc)
{
    (void)acc;
    return count(ctx, 0, x, y, END);
}

static kin_status randn(kin_ctx *ctx, const kin_rng *rng, uint64_t first, kin_tensor *y)
{
    (void)rng;
    (void)first;
    return count(ctx, 0, y, END);
}

static kin_status adamw(kin_ctx *ctx, const kin_adamw_args *a)
{
    /* w, m, v, g read and written; the average read and written */
    for (int64_t i = 0; i < a->parts; i++)
        ctx->cost.bytes += (double)a->part[i].n * 4.0 * (a->part[i].ema ? 10.0 : 8.0);
    return KIN_OK;
}

static kin_status sumsq(kin_ctx *ctx, const kin_adamw_part *part, int64_t parts, double *out)
{
    for (int64_t i = 0; i < parts; i++)
        ctx->cost.bytes += (double)part[i].n * 4.0;
    *out = 0; /* note: the caller's own variable, not a tensor */
    return KIN_OK;
}

void kin_kernels_init_plan(kin_kernels *k)
{
    *k = (kin_kernels){
        .linear = linear,
        .linear_dx = linear_dx,
        .linear_dw = linear_dw,
        .grouped = grouped,
        .grouped_dx = grouped_dx,
        .grouped_dw = grouped_dw,
        .combine = combine,
        .combine_bwd = combine_bwd,
        .layernorm = norm,
        .layernorm_bwd = norm_bwd,
        .rmsnorm = norm,
        .rmsnorm_bwd = norm_bwd,
        .rope = rope,
        .attention = attention,
        .attention_bwd = attention_bwd,
        .embedding = embedding,
        .embedding_bwd = embedding_bwd,
        .patch = patch,
        .cosine = cosine,
        .cosine_bwd = cosine_bwd,
        .topk = topk,
        .topk_bwd = topk_bwd,
        .choose = choose,
        .dispatch = dispatch,
        .rcl = rcl,
        .rcl_bwd = rcl_bwd,
        .balance = balance,
        .balance_bwd = balance_bwd,
        .sinusoid = sinusoid,
        .loss = loss,
        .loss_bwd = loss_bwd,
        .binary = binary,
        .reduce = reduce,
        .unary = unary,
        .unary_bwd = unary_bwd,
        .gated_add = gated_add,
        .gate_bwd = gate_bwd,
        .conv = conv,
        .conv_dx = conv_dx,
        .conv_dw = conv_dw,
        .groupnorm = groupnorm,
        .groupnorm_bwd = groupnorm_bwd,
        .posterior = posterior,
        .posterior_bwd = posterior_bwd,
        .softmax = softmax,
        .softmax_bwd = softmax_bwd,
        .copy = copy,
        .fill = fill,
        .transpose = transpose,
        .randn = randn,
        .adamw = adamw,
        .sumsq = sumsq,
    };
}
