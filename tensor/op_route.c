/* Routing: cosine scores, top-k, dispatch, grouped experts, combination, routing losses (ProMoE).
 */
#include "tensor/op_common.h"

/* --- cosine --- */

typedef struct saved_cosine {
    kin_tensor x, z, xinv, pinv;
    kin_param *proto;
    bool plain;
} saved_cosine;

static kin_status cosine_bwd(kin_ctx *ctx, void *saved)
{
    saved_cosine *s = saved;
    kin_tensor dz = kin_tape_grad_in(ctx, &s->z), dx;
    if (!dz.data)
        return KIN_OK;
    kin_cosine_args a = {.plain = s->plain,
                         .x = &s->x,
                         .proto = s->proto,
                         .z = &s->z,
                         .xinv = &s->xinv,
                         .pinv = &s->pinv,
                         .dz = &dz};
    KIN_TRY(kin_tape_grad_slot(ctx, &s->x, &dx, &a.acc));
    a.dx = dx.data ? &dx : NULL;
    return ctx->k->cosine_bwd(ctx, &a);
}

static kin_status score(kin_ctx *ctx, bool plain, const kin_tensor *x, kin_param *proto,
                        kin_tensor *z)
{
    kin_dtype dtype;
    KIN_TRY(kin_op_dtype(ctx, "cosine", x, &dtype));
    saved_cosine *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    if (x->ndim != 2 || proto->value.ndim != 2 || proto->value.size[1] != x->size[1])
        return kin_op_mismatch(ctx, "cosine", x, &proto->value, "tokens [T,D], prototypes [E,D]");
    s->x = *x;
    s->proto = proto;
    s->plain = plain;
    KIN_TRY(KIN_WS(ctx, z, dtype, x->size[0], proto->value.size[0]));
    KIN_TRY(KIN_WS(ctx, &s->xinv, dtype, x->size[0]));
    KIN_TRY(KIN_WS(ctx, &s->pinv, dtype, proto->value.size[0]));
    kin_cosine_args a = {
        .plain = plain, .x = x, .proto = proto, .z = z, .xinv = &s->xinv, .pinv = &s->pinv};
    KIN_TRY(ctx->k->cosine(ctx, &a));
    if (!kin_tape_needs(ctx, x) && !kin_tape_needs_param(ctx, proto))
        return KIN_OK;
    KIN_TRY(kin_tape_add(ctx, z, cosine_bwd, s));
    s->z = *z;
    return KIN_OK;
}

kin_status kin_cosine(kin_ctx *ctx, const kin_tensor *x, kin_param *proto, kin_tensor *z)
{
    return score(ctx, false, x, proto, z);
}

kin_status kin_gate_scores(kin_ctx *ctx, const kin_tensor *x, kin_param *gate, kin_tensor *z)
{
    return score(ctx, true, x, gate, z);
}

/* --- top-k --- */

typedef struct saved_topk {
    kin_tensor scores, null, idx, w;
    int64_t null_expert, k;
} saved_topk;

static kin_status topk_bwd(kin_ctx *ctx, void *saved)
{
    saved_topk *s = saved;
    kin_tensor dw = kin_tape_grad_in(ctx, &s->w), dscores;
    if (!dw.data)
        return KIN_OK;
    KIN_TRY(kin_tape_grad_slot_add(ctx, &s->scores, &dscores));
    if (!dscores.data)
        return KIN_OK;
    kin_topk_args a = {.scores = &s->scores,
                       .null = kin_op_opt(&s->null),
                       .null_expert = s->null_expert,
                       .k = s->k,
                       .idx = &s->idx,
                       .dw = &dw,
                       .dscores = &dscores,
                       .acc = true};
    return ctx->k->topk_bwd(ctx, &a);
}

kin_status kin_topk(kin_ctx *ctx, const kin_tensor *scores, int64_t k, const kin_tensor *null,
                    int64_t null_expert, kin_tensor *idx, kin_tensor *w)
{
    kin_dtype dtype;
    KIN_TRY(kin_op_dtype(ctx, "topk", scores, &dtype));
    if (scores->ndim != 2 || k < 1 || k > scores->size[1])
        return kin_fail(&ctx->error, KIN_ERR_ARG,
                        "topk: k %lld must be between 1 and the number of experts", (long long)k);
    if (null && (null->ndim != 1 || null->dtype != KIN_DTYPE_U8 || null->size[0] < 1 ||
                 scores->size[0] % null->size[0] != 0))
        return kin_op_mismatch(ctx, "topk", null, scores,
                               "the null mask is u8 [B] with B dividing the tokens");
    saved_topk *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    KIN_TRY(KIN_WS(ctx, idx, KIN_DTYPE_I32, scores->size[0], k));
    KIN_TRY(KIN_WS(ctx, w, dtype, scores->size[0], k));
    kin_topk_args a = {
        .scores = scores, .null = null, .null_expert = null_expert, .k = k, .idx = idx, .w = w};
    KIN_TRY(ctx->k->topk(ctx, &a));
    if (!kin_tape_needs(ctx, scores))
        return KIN_OK;
    *s = (saved_topk){.scores = *scores, .idx = *idx, .null_expert = null_expert, .k = k};
    if (null)
        s->null = *null;
    KIN_TRY(kin_tape_add(ctx, w, topk_bwd, s));
    s->w = *w;
    return KIN_OK;
}

/* --- expert choice --- */

static kin_status check_choice(kin_ctx *ctx, const kin_tensor *scores, const kin_choose_options *o)
{
    const bool gated = o->rule != KIN_TAKE_TOP || o->kth;
    if (scores->ndim != 2 || o->pools < 1 || scores->size[0] % o->pools != 0)
        return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                        "expert choice: scores must be [T,E] with T a multiple of %lld pools",
                        (long long)o->pools);
    if ((o->rule == KIN_TAKE_TOP || o->kth) &&
        (o->k < 1 || o->k > scores->size[0] / o->pools || (o->kth && o->pools != 1)))
        return kin_fail(&ctx->error, KIN_ERR_ARG,
                        "expert choice: k %lld must be between 1 and the %lld tokens of a pool",
                        (long long)o->k, (long long)(scores->size[0] / o->pools));
    if (o->null && (o->null->ndim != 1 || o->null->dtype != KIN_DTYPE_U8 ||
                    o->null->size[0] != o->pools || o->kth))
        return kin_op_mismatch(ctx, "expert choice", o->null, scores,
                               "the null mask is u8 [pools], without thresholds");
    if (gated && (!o->gate || !kin_tensor_same_shape(o->gate, scores)))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                        "expert choice: the gate must have the scores' shape");
    if (o->rule != KIN_TAKE_TOP &&
        (!o->threshold || kin_tensor_numel(o->threshold) != scores->size[1]))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "expert choice: thresholds must be [%lld]",
                        (long long)scores->size[1]);
    return KIN_OK;
}

kin_status kin_choose(kin_ctx *ctx, const kin_tensor *scores, const kin_choose_options *opt,
                      kin_tensor *idx, kin_tensor *w)
{
    const int64_t experts = scores->size[1];
    kin_dtype dtype;
    KIN_TRY(kin_op_dtype(ctx, "expert choice", scores, &dtype));
    KIN_TRY(check_choice(ctx, scores, opt));
    saved_topk *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    KIN_TRY(KIN_WS(ctx, idx, KIN_DTYPE_I32, scores->size[0], experts));
    KIN_TRY(KIN_WS(ctx, w, dtype, scores->size[0], experts));
    if (opt->kth)
        KIN_TRY(KIN_WS(ctx, opt->kth, dtype, experts));
    kin_choose_args a = {.scores = scores,
                         .pools = opt->pools,
                         .null = opt->null,
                         .null_expert = opt->null_expert,
                         .rule = opt->rule,
                         .k = opt->k,
                         .gate = opt->gate,
                         .threshold = opt->threshold,
                         .idx = idx,
                         .w = w,
                         .kth = opt->kth};
    KIN_TRY(ctx->k->choose(ctx, &a));
    if (!kin_tape_needs(ctx, scores))
        return KIN_OK;
    *s =
        (saved_topk){.scores = *scores, .idx = *idx, .null_expert = opt->null_expert, .k = experts};
    if (opt->null)
        s->null = *opt->null;
    KIN_TRY(kin_tape_add(ctx, w, topk_bwd, s));
    s->w = *w;
    return KIN_OK;
}

kin_status kin_dispatch_build(kin_ctx *ctx, const kin_tensor *idx, const kin_tensor *w,
                              int64_t groups, int64_t null_expert, int64_t rows, kin_dispatch *d)
{
    if (idx->ndim != 2 || idx->dtype != KIN_DTYPE_I32 || !kin_tensor_same_shape(idx, w) ||
        groups < 1)
        return kin_op_mismatch(ctx, "dispatch", idx, w, "indices i32 [T,K] and weights [T,K]");
    const int64_t slots = idx->size[0] * idx->size[1];
    *d = (kin_dispatch){.tokens = idx->size[0],
                        .slots = idx->size[1],
                        .groups = groups,
                        .rows = rows > 0 && rows < slots ? rows : slots,
                        .weight = *w};
    KIN_TRY(KIN_WS(ctx, &d->order, KIN_DTYPE_I32, d->rows));
    KIN_TRY(KIN_WS(ctx, &d->offset, KIN_DTYPE_I32, groups + 1));
    KIN_TRY(KIN_WS(ctx, &d->inverse, KIN_DTYPE_I32, slots));
    kin_dispatch_args a = {.idx = idx, .null_expert = null_expert, .d = d};
    return ctx->k->dispatch(ctx, &a);
}

/* --- experts --- */

typedef struct saved_grouped {
    kin_dispatch d;
    kin_tensor x, y, pre;
    kin_param *const *w, *const *b;
    int64_t n, k;
    kin_act act;
    bool gather;
} saved_grouped;

/* dx of tokens (+)= sum over their slots of the sorted rows. */
static kin_status add_to_tokens(kin_ctx *ctx, const saved_grouped *s, const kin_tensor *rows,
                                kin_tensor *dx, bool acc)
{
    kin_combine_args c = {.d = &s->d, .n = s->k, .z = rows, .y = dx, .acc = acc};
    return ctx->k->combine(ctx, &c);
}

static kin_status grouped_bwd(kin_ctx *ctx, void *saved)
{
    saved_grouped *s = saved;
    kin_tensor dy = kin_tape_grad_in(ctx, &s->y), dx, rows;
    const kin_tape_past *past = NULL;
    bool acc;
    if (!dy.data)
        return KIN_OK;
    if (s->gather)
        KIN_TRY(kin_tape_grad_slot(ctx, &s->x, &dx, &acc));
    else
        KIN_TRY(kin_tape_grad_slot_past(ctx, &s->x, kin_op_kept(ctx, dy.dtype, true), &dx, &acc,
                                        &past));
    size_t mark = kin_ws_mark(ctx);
    kin_tensor dpre = dy;
    if (s->act != KIN_ACT_NONE && !kin_tape_is_past(ctx, &s->y)) {
        KIN_TRY(KIN_WS(ctx, &dpre, kin_op_kept(ctx, dy.dtype, true), dy.size[0], s->n));
        kin_unary_args u = {.act = s->act, .alpha = 1, .x = &s->pre, .dy = &dy, .dx = &dpre};
        KIN_TRY(ctx->k->unary_bwd(ctx, &u));
    }
    kin_grouped_bwd_args a = {.n = s->n,
                              .k = s->k,
                              .d = &s->d,
                              .gather = s->gather,
                              .dy = &dpre,
                              .x = &s->x,
                              .w = s->w,
                              .b = s->b,
                              .act = past ? past->act : KIN_ACT_NONE,
                              .past = past ? &past->pre : NULL};
    KIN_TRY(ctx->k->grouped_dw(ctx, &a));
    if (dx.data && !s->gather && !acc) {
        a.dx = &dx;
        KIN_TRY(ctx->k->grouped_dx(ctx, &a));
    } else if (dx.data) {
        KIN_TRY(KIN_WS(ctx, &rows, dx.dtype, dy.size[0], s->k));
        a.dx = &rows;
        KIN_TRY(ctx->k->grouped_dx(ctx, &a));
        KIN_TRY(s->gather ? add_to_tokens(ctx, s, &rows, &dx, acc)
                          : ctx->k->copy(ctx, &rows, &dx, acc));
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

static kin_status linear_grouped(kin_ctx *ctx, const kin_tensor *x, const kin_dispatch *d,
                                 bool gather, kin_param *const *w, kin_param *const *b, kin_act act,
                                 bool operand, kin_tensor *y)
{
    kin_dtype dtype;
    KIN_TRY(kin_op_product_dtype(ctx, "experts", x, &dtype));
    saved_grouped *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    const int64_t rows = d->rows;
    kin_op_matrix(w[0], &s->n, &s->k);
    if (x->ndim != 2 || x->size[1] != s->k || x->size[0] != (gather ? d->tokens : rows))
        return kin_op_mismatch(ctx, "experts", x, &w[0]->value, "x is [T,k] (gathered) or [R,k]");
    bool grad = kin_tape_needs(ctx, x);
    for (int64_t e = 0; e < d->groups; e++) {
        if (!kin_tensor_same_shape(&w[e]->value, &w[0]->value) ||
            (b && kin_tensor_numel(&b[e]->value) != s->n))
            return kin_op_mismatch(ctx, w[e]->name, &w[e]->value, &w[0]->value,
                                   "experts must have one shape");
        if (w[e]->adapters)
            return kin_fail(&ctx->error, KIN_ERR_UNSUPPORTED, "experts: %s cannot have an adapter",
                            w[e]->name);
        grad |= kin_tape_needs_param(ctx, w[e]) || (b && kin_tape_needs_param(ctx, b[e]));
    }
    kin_tensor in = *x;
    KIN_TRY(kin_op_widened(ctx, w[0], s->n, s->k, &in));
    operand = operand && kin_op_takes_kept(ctx, w[0], s->n, s->k);
    KIN_TRY(KIN_WS(ctx, y, kin_op_kept(ctx, dtype, operand), rows, s->n));
    if (grad && act != KIN_ACT_NONE)
        KIN_TRY(KIN_WS(ctx, &s->pre, kin_op_kept(ctx, dtype, true), rows, s->n));
    kin_grouped_args a = {.n = s->n,
                          .k = s->k,
                          .d = d,
                          .gather = gather,
                          .x = &in,
                          .w = w,
                          .b = b,
                          .act = act,
                          .pre = s->pre.data ? &s->pre : NULL,
                          .y = y};
    KIN_TRY(ctx->k->grouped(ctx, &a));
    if (!grad)
        return KIN_OK;
    s->d = *d;
    s->x = *x;
    s->w = w;
    s->b = b;
    s->act = act;
    s->gather = gather;
    KIN_TRY(kin_tape_add(ctx, y, grouped_bwd, s));
    s->y = *y;
    return operand && act != KIN_ACT_NONE ? kin_tape_note_past(ctx, y, act, &s->pre) : KIN_OK;
}

kin_status kin_linear_grouped(kin_ctx *ctx, const kin_tensor *x, const kin_dispatch *d, bool gather,
                              kin_param *const *w, kin_param *const *b, kin_act act, kin_tensor *y)
{
    return linear_grouped(ctx, x, d, gather, w, b, act, false, y);
}

kin_status kin_linear_grouped_operand(kin_ctx *ctx, const kin_tensor *x, const kin_dispatch *d,
                                      bool gather, kin_param *const *w, kin_param *const *b,
                                      kin_act act, kin_tensor *y)
{
    return linear_grouped(ctx, x, d, gather, w, b, act, true, y);
}

typedef struct saved_combine {
    kin_dispatch d;
    kin_tensor z, base, y;
} saved_combine;

static kin_status combine_bwd(kin_ctx *ctx, void *saved)
{
    saved_combine *s = saved;
    kin_tensor dy = kin_tape_grad_in(ctx, &s->y), dz, dweight, dbase;
    bool acc, acc_base;
    if (!dy.data)
        return KIN_OK;
    KIN_TRY(kin_tape_grad_slot(ctx, &s->z, &dz, &acc));
    if (acc)
        return kin_fail(&ctx->error, KIN_ERR_UNSUPPORTED, "combine: expert rows used twice");
    kin_combine_args a = {.d = &s->d,
                          .n = s->z.size[1],
                          .z = &s->z,
                          .weighted = true,
                          .dy = &dy,
                          .dz = dz.data ? &dz : NULL};
    KIN_TRY(kin_tape_grad_slot(ctx, &s->d.weight, &dweight, &a.acc));
    a.dweight = dweight.data ? &dweight : NULL;
    KIN_TRY(ctx->k->combine_bwd(ctx, &a));
    if (!s->base.data || kin_tape_grad_give(ctx, &s->y, &s->base))
        return KIN_OK;
    KIN_TRY(kin_tape_grad_slot(ctx, &s->base, &dbase, &acc_base));
    return dbase.data ? ctx->k->copy(ctx, &dy, &dbase, acc_base) : KIN_OK;
}

kin_status kin_combine(kin_ctx *ctx, const kin_tensor *z, const kin_dispatch *d,
                       const kin_tensor *base, kin_tensor *y)
{
    kin_dtype dtype;
    KIN_TRY(kin_op_dtype(ctx, "combine", z, &dtype));
    if (z->ndim != 2 || z->size[0] != d->rows)
        return kin_op_mismatch(ctx, "combine", z, &d->order, "z is [R,n]");
    if (base && (base->ndim != 2 || base->size[0] != d->tokens || base->size[1] != z->size[1]))
        return kin_op_mismatch(ctx, "combine", z, base, "base is [T,n]");
    saved_combine *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    KIN_TRY(KIN_WS(ctx, y, dtype, d->tokens, z->size[1]));
    kin_combine_args a = {.d = d, .n = z->size[1], .z = z, .base = base, .weighted = true, .y = y};
    KIN_TRY(ctx->k->combine(ctx, &a));
    if (!kin_tape_needs(ctx, z) && !kin_tape_needs(ctx, base) && !kin_tape_needs(ctx, &d->weight))
        return KIN_OK;
    s->d = *d;
    s->z = *z;
    s->base = base ? *base : (kin_tensor){0};
    KIN_TRY(kin_tape_add(ctx, y, combine_bwd, s));
    s->y = *y;
    return KIN_OK;
}

/* --- routing losses --- */

typedef struct saved_rcl {
    kin_tensor x, idx, loss;
    kin_param *proto;
    int64_t slots, parts;
    float tau;
} saved_rcl;

static kin_rcl_args rcl_args(saved_rcl *s)
{
    return (kin_rcl_args){.x = &s->x,
                          .proto = s->proto,
                          .idx = &s->idx,
                          .parts = s->parts,
                          .slots = s->slots,
                          .tau = s->tau,
                          .loss = &s->loss};
}

static kin_status rcl_bwd(kin_ctx *ctx, void *saved)
{
    saved_rcl *s = saved;
    kin_tensor dloss = kin_tape_grad_in(ctx, &s->loss), dx;
    if (!dloss.data)
        return KIN_OK;
    kin_rcl_args a = rcl_args(s);
    a.dloss = &dloss;
    /* note: tokens without expert get no gradient, so the slot is always one to add to */
    KIN_TRY(kin_tape_grad_slot_add(ctx, &s->x, &dx));
    a.acc = true;
    a.dx = dx.data ? &dx : NULL;
    return ctx->k->rcl_bwd(ctx, &a);
}

kin_status kin_rcl(kin_ctx *ctx, const kin_tensor *x, kin_param *proto, const kin_tensor *idx,
                   int64_t slots, int64_t parts, float tau, kin_tensor *loss)
{
    kin_dtype dtype;
    KIN_TRY(kin_op_dtype(ctx, "rcl", x, &dtype));
    if (x->ndim != 2 || idx->ndim != 2 || idx->size[0] != x->size[0] ||
        proto->value.size[1] != x->size[1])
        return kin_op_mismatch(ctx, "rcl", x, idx, "tokens [T,D] and assignment i32 [T,K]");
    if (slots < 1 || slots > idx->size[1] || !(tau > 0))
        return kin_fail(&ctx->error, KIN_ERR_ARG,
                        "rcl: slots %lld and temperature %g must be positive", (long long)slots,
                        (double)tau);
    if (parts < 1 || x->size[0] % parts != 0)
        return kin_fail(&ctx->error, KIN_ERR_ARG, "rcl: %lld parts must divide the %lld tokens",
                        (long long)parts, (long long)x->size[0]);
    saved_rcl *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    *s = (saved_rcl){
        .x = *x, .idx = *idx, .proto = proto, .slots = slots, .parts = parts, .tau = tau};
    KIN_TRY(kin_ws_tensor(ctx, dtype, 0, NULL, loss));
    s->loss = *loss;
    kin_rcl_args a = rcl_args(s);
    KIN_TRY(ctx->k->rcl(ctx, &a));
    if (!kin_tape_needs(ctx, x) && !kin_tape_needs_param(ctx, proto))
        return KIN_OK;
    KIN_TRY(kin_tape_add(ctx, loss, rcl_bwd, s));
    s->loss = *loss;
    return KIN_OK;
}

typedef struct saved_balance {
    kin_tensor p, idx, null, loss;
    int64_t samples;
    bool per_sequence;
    float coef;
} saved_balance;

static kin_balance_args balance_args(saved_balance *s)
{
    return (kin_balance_args){.p = &s->p,
                              .idx = &s->idx,
                              .null = kin_op_opt(&s->null),
                              .per_sequence = s->per_sequence,
                              .samples = s->samples,
                              .coef = s->coef,
                              .loss = &s->loss};
}

static kin_status balance_bwd(kin_ctx *ctx, void *saved)
{
    saved_balance *s = saved;
    kin_tensor dloss = kin_tape_grad_in(ctx, &s->loss), dp;
    if (!dloss.data)
        return KIN_OK;
    kin_balance_args a = balance_args(s);
    a.dloss = &dloss;
    KIN_TRY(kin_tape_grad_slot_add(ctx, &s->p, &dp));
    a.acc = true;
    a.dp = &dp;
    return dp.data ? ctx->k->balance_bwd(ctx, &a) : KIN_OK;
}

kin_status kin_load_balance(kin_ctx *ctx, const kin_tensor *p, const kin_tensor *idx,
                            const kin_tensor *null, int64_t samples, bool per_sequence, float coef,
                            kin_tensor *loss)
{
    kin_dtype dtype;
    KIN_TRY(kin_op_dtype(ctx, "load balance", p, &dtype));
    if (p->ndim != 2 || idx->ndim != 2 || idx->size[0] != p->size[0] || samples < 1 ||
        p->size[0] % samples != 0)
        return kin_op_mismatch(ctx, "load balance", p, idx,
                               "probabilities [T,E], assignment i32 [T,K], B dividing T");
    saved_balance *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    *s = (saved_balance){
        .p = *p, .idx = *idx, .samples = samples, .per_sequence = per_sequence, .coef = coef};
    if (null)
        s->null = *null;
    KIN_TRY(kin_ws_tensor(ctx, dtype, 0, NULL, loss));
    s->loss = *loss;
    kin_balance_args a = balance_args(s);
    KIN_TRY(ctx->k->balance(ctx, &a));
    if (!kin_tape_needs(ctx, p))
        return KIN_OK;
    KIN_TRY(kin_tape_add(ctx, loss, balance_bwd, s));
    s->loss = *loss;
    return KIN_OK;
}
