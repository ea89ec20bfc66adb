/* diffusion/router.c: which expert takes which token.
 * ProMoE: tokens of null samples go to the unconditional expert; the others to their K best by the
 * cosine to a prototype (token choice), or every expert takes its best tokens of a sample (expert
 * choice); the routing contrastive loss shapes the prototypes. TC, EC, DiffMoE: the same two ways,
 * and expert choice over the whole batch, by the probabilities of a linear gate. */
#include "diffusion/moe.h"

/* --- scores --- */

/* Softmax over the N tokens of each sample: z [B*N,E]. */
static kin_status softmax_over_tokens(kin_ctx *ctx, const kin_tensor *z, int64_t batch,
                                      kin_tensor *s)
{
    const int64_t T = z->size[0], E = z->size[1];
    kin_tensor by_expert, p;

    KIN_TRY(kin_transpose(ctx, z, &by_expert));
    by_expert = KIN_RESHAPE(&by_expert, E * batch, T / batch);
    KIN_TRY(kin_softmax(ctx, &by_expert, &p));
    p = KIN_RESHAPE(&p, E, T);
    return kin_transpose(ctx, &p, s);
}

static kin_status promoe_scores(kin_ctx *ctx, const kin_moe *m, const kin_tensor *x, int64_t batch,
                                kin_tensor *s)
{
    kin_tensor z;

    KIN_TRY(kin_cosine(ctx, x, m->gate, &z));
    switch (m->cfg.mode) {
    case KIN_ROUTE_SOFTMAX:
        return m->cfg.router == KIN_ROUTER_PROMOE_EC ? softmax_over_tokens(ctx, &z, batch, s)
                                                     : kin_softmax(ctx, &z, s);
    case KIN_ROUTE_SIGMOID: return kin_activation(ctx, &z, KIN_ACT_SIGMOID, s);
    case KIN_ROUTE_IDENTITY:
    default: *s = z; return KIN_OK;
    }
}

/* Probabilities over the experts. */
static kin_status gate_scores(kin_ctx *ctx, const kin_moe *m, const kin_tensor *x, kin_tensor *s)
{
    kin_tensor z;

    KIN_TRY(kin_gate_scores(ctx, x, m->gate, &z));
    return kin_softmax(ctx, &z, s);
}

/* --- taps --- */

/* idx and score as [B,N,K] under names that all routers share */
static void tap_route(kin_ctx *ctx, int layer, const kin_routing *r, int64_t batch)
{
    const int64_t K = r->idx.size[1], N = r->idx.size[0] / batch;
    const kin_tensor idx = KIN_RESHAPE(&r->idx, batch, N, K);
    const kin_tensor score = KIN_RESHAPE(&r->score, batch, N, K);

    kin_tap(ctx, &idx, "layers.%d.route", layer);
    kin_tap(ctx, &score, "layers.%d.weight", layer);
}

/* Expert choice in the reference's form: for each pool that is not null and each expert the k
 * chosen tokens in rising order and their scores, [pools,E,k]. */
static kin_status tap_chosen(kin_ctx *ctx, int layer, const kin_routing *r,
                             const kin_choose_options *o)
{
    const int64_t E = r->idx.size[1], per = r->idx.size[0] / o->pools, k = o->k;
    kin_tensor token, score, idx, from_score, null;
    int64_t at = 0;

    if (!ctx->tap || kin_ctx_is_plan(ctx))
        return KIN_OK;
    KIN_TRY(KIN_WS_HOST(ctx, &token, KIN_DTYPE_I32, o->pools, E, k));
    KIN_TRY(KIN_WS_HOST(ctx, &score, KIN_DTYPE_F32, o->pools, E, k));
    KIN_TRY(kin_host(ctx, &r->idx, &idx));
    KIN_TRY(kin_host(ctx, &r->score, &from_score));
    if (o->null)
        KIN_TRY(kin_host(ctx, o->null, &null));
    for (int64_t p = 0; p < o->pools; p++) {
        if (o->null && ((const uint8_t *)null.data)[p])
            continue;
        for (int64_t i = 0; i < E * per; i++) {
            const int64_t from = (p * per + i % per) * E + i / per;

            if (((const int32_t *)idx.data)[from] < 0)
                continue;
            kin_tensor_set(&token, at, (double)(i % per));
            kin_tensor_set(&score, at++, kin_tensor_get(&from_score, from));
        }
    }
    token = kin_tensor_slice(&token, 0, 0, at / (E * k));
    score = kin_tensor_slice(&score, 0, 0, at / (E * k));
    kin_tap(ctx, &token, "layers.%d.assign", layer);
    kin_tap(ctx, &score, "layers.%d.score", layer);
    return KIN_OK;
}

/* --- ProMoE --- */

static kin_status promoe_losses(kin_ctx *ctx, const kin_moe *m, const kin_moe_call *call,
                                const kin_tensor *x, const kin_tensor *s, int64_t batch,
                                kin_routing *r)
{
    const kin_moe_config *c = &m->cfg;
    const bool tc = c->router == KIN_ROUTER_PROMOE_TC;
    const int64_t slots = tc && !c->rcl_any_slot ? 1 : r->idx.size[1];
    kin_tensor rcl, p = *s, balance, sum;

    KIN_TRY(kin_rcl(ctx, x, m->gate, &r->idx, slots, c->rcl_per_sample ? batch : 1,
                    (float)c->rcl_tau, &rcl));
    kin_tap(ctx, &rcl, "layers.%d.rcl", call->layer);
    KIN_TRY(kin_scale(ctx, &rcl, (float)c->rcl_lambda, &r->aux));
    if (!tc || c->balance <= 0)
        return KIN_OK;
    if (c->mode != KIN_ROUTE_SOFTMAX)
        KIN_TRY(kin_softmax(ctx, s, &p));
    KIN_TRY(kin_load_balance(ctx, &p, &r->idx, call->null, batch, c->seq_aux, (float)c->balance,
                             &balance));
    kin_tap(ctx, &balance, "layers.%d.load_balance", call->layer);
    KIN_TRY(kin_add(ctx, &r->aux, &balance, 1.0f, &sum));
    r->aux = sum;
    return KIN_OK;
}

/* Tokens that one expert takes of a pool: int(tokens / E * capacity), in this order. */
static int64_t chosen_tokens(int64_t tokens, const kin_moe_config *c)
{
    return (int64_t)((double)tokens / (double)c->experts * c->capacity);
}

/* Expert choice, one pool per sample. */
static kin_status choose_per_sample(kin_ctx *ctx, const kin_moe *m, const kin_moe_call *call,
                                    const kin_tensor *s, int64_t batch, kin_routing *r)
{
    const int64_t N = s->size[0] / batch, E = m->cfg.experts, k = chosen_tokens(N, &m->cfg);
    kin_choose_options o = {.rule = KIN_TAKE_TOP,
                            .pools = batch,
                            .k = k,
                            .null = m->cfg.uncond ? call->null : NULL,
                            .null_expert = E};

    if (m->cfg.router == KIN_ROUTER_PROMOE_EC) /* at least one token, at most all */
        o.k = k < 1 ? 1 : k > N ? N : k;
    KIN_TRY(kin_choose(ctx, s, &o, &r->idx, &r->score));
    r->rows = batch * (o.null && N > E * o.k ? N : E * o.k);
    return tap_chosen(ctx, call->layer, r, &o);
}

static kin_status promoe_assign(kin_ctx *ctx, const kin_moe *m, const kin_moe_call *call,
                                const kin_tensor *x, int64_t batch, kin_routing *r)
{
    const int64_t T = x->size[0], K = m->cfg.top_k;
    kin_tensor s, view;

    KIN_TRY(promoe_scores(ctx, m, x, batch, &s));
    if (m->cfg.router == KIN_ROUTER_PROMOE_EC) {
        KIN_TRY(choose_per_sample(ctx, m, call, &s, batch, r));
    } else {
        KIN_TRY(kin_topk(ctx, &s, K, m->cfg.uncond ? call->null : NULL, m->cfg.experts, &r->idx,
                         &r->score));
        view = KIN_RESHAPE(&r->idx, batch, T / batch, K);
        kin_tap(ctx, &view, "layers.%d.assign", call->layer);
        view = KIN_RESHAPE(&r->score, batch, T / batch, K);
        kin_tap(ctx, &view, "layers.%d.score", call->layer);
    }
    return call->want_aux ? promoe_losses(ctx, m, call, x, &s, batch, r) : KIN_OK;
}

/* --- TC, EC --- */

static kin_status tc_assign(kin_ctx *ctx, const kin_moe *m, const kin_moe_call *call,
                            const kin_tensor *x, int64_t batch, kin_routing *r)
{
    kin_tensor s;

    KIN_TRY(gate_scores(ctx, m, x, &s));
    KIN_TRY(kin_topk(ctx, &s, m->cfg.top_k, NULL, 0, &r->idx, &r->score));
    kin_tap(ctx, &r->idx, "layers.%d.assign", call->layer);
    kin_tap(ctx, &r->score, "layers.%d.score", call->layer);
    if (!call->want_aux)
        return KIN_OK;
    KIN_TRY(kin_load_balance(ctx, &s, &r->idx, NULL, batch, false, (float)m->cfg.balance, &r->aux));
    kin_tap(ctx, &r->aux, "layers.%d.aux", call->layer);
    return KIN_OK;
}

static kin_status ec_assign(kin_ctx *ctx, const kin_moe *m, const kin_moe_call *call,
                            const kin_tensor *x, int64_t batch, kin_routing *r)
{
    kin_tensor s;

    KIN_TRY(gate_scores(ctx, m, x, &s));
    return choose_per_sample(ctx, m, call, &s, batch, r);
}

/* --- DiffMoE --- */

/* threshold = decay * threshold + (1 - decay) * k-th largest prediction, once per batch */
static kin_status follow_thresholds(kin_ctx *ctx, const kin_moe *m, const kin_moe_call *call,
                                    const kin_tensor *kth)
{
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor found;

    if (kin_ctx_is_plan(ctx) || (call->counted && *call->counted))
        return KIN_OK;
    KIN_TRY(kin_host(ctx, kth, &found));
    /* note: values that belong to someone else (a mapped file) stay as they are */
    for (int64_t e = 0; e < m->cfg.experts && m->threshold->owned; e++) {
        const double d = kin_tensor_get(&m->decay->value, 0);

        kin_tensor_set(&m->threshold->value, e,
                       d * kin_tensor_get(&m->threshold->value, e) +
                           (1 - d) * kin_tensor_get(&found, e));
    }
    if (m->threshold->owned)
        kin_param_touch(m->threshold);
    if (call->counted)
        *call->counted = true;
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

/* 1 where an expert takes a token */
static kin_status chosen_mask(kin_ctx *ctx, const kin_tensor *idx, kin_dtype dtype,
                              kin_tensor *mask)
{
    kin_tensor taken;

    KIN_TRY(kin_ws_host(ctx, dtype, idx->ndim, idx->size, mask));
    const size_t mark = kin_ws_mark(ctx);

    KIN_TRY(kin_host(ctx, idx, &taken));
    for (int64_t i = 0; i < kin_tensor_numel(idx) && !kin_ctx_is_plan(ctx); i++)
        kin_tensor_set(mask, i, ((const int32_t *)taken.data)[i] >= 0);
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

static kin_status diffmoe_train(kin_ctx *ctx, const kin_moe *m, const kin_moe_call *call,
                                const kin_tensor *s, const kin_tensor *logits,
                                const kin_tensor *predicted, kin_routing *r)
{
    kin_tensor kth, mask, loss;
    kin_choose_options o = {.rule = KIN_TAKE_TOP,
                            .pools = 1,
                            .k = chosen_tokens(s->size[0], &m->cfg),
                            .gate = predicted,
                            .kth = &kth};

    KIN_TRY(kin_choose(ctx, s, &o, &r->idx, &r->score));
    r->rows = m->cfg.experts * o.k;
    KIN_TRY(follow_thresholds(ctx, m, call, &kth));
    kin_tap(ctx, &m->threshold->value, "layers.%d.threshold", call->layer);
    KIN_TRY(tap_chosen(ctx, call->layer, r, &o));
    KIN_TRY(chosen_mask(ctx, &r->idx, s->dtype, &mask));
    KIN_TRY(kin_bce_logits(ctx, logits, &mask, NULL, &loss));
    kin_tap(ctx, &loss, "layers.%d.cap_loss", call->layer);
    return kin_scale(ctx, &loss, (float)m->cfg.predictor_weight, &r->aux);
}

/* How many tokens each expert has, for the tap alone. */
static kin_status tap_count(kin_ctx *ctx, const kin_moe *m, int layer, const kin_tensor *idx)
{
    const int64_t E = m->cfg.experts;
    kin_tensor count, taken;

    if (!ctx->tap || kin_ctx_is_plan(ctx))
        return KIN_OK;
    KIN_TRY(KIN_WS_HOST(ctx, &count, KIN_DTYPE_I32, E));
    KIN_TRY(kin_fill(ctx, &count, 0));
    KIN_TRY(kin_host(ctx, idx, &taken));
    for (int64_t i = 0; i < kin_tensor_numel(idx); i++)
        ((int32_t *)count.data)[i % E] += ((const int32_t *)taken.data)[i] >= 0;
    kin_tap(ctx, &count, "layers.%d.count", layer);
    return KIN_OK;
}

static kin_status diffmoe_infer(kin_ctx *ctx, const kin_moe *m, const kin_moe_call *call,
                                const kin_tensor *s, const kin_tensor *predicted, kin_routing *r)
{
    kin_tensor threshold; /* the parameter may be of another type */
    const kin_choose_options o = {.rule = call->infer_batch ? KIN_TAKE_COUNT : KIN_TAKE_ABOVE,
                                  .pools = 1,
                                  .gate = predicted,
                                  .threshold = &threshold};

    KIN_TRY(KIN_WS(ctx, &threshold, s->dtype, m->cfg.experts));
    KIN_TRY(kin_copy_into(ctx, &m->threshold->value, &threshold));
    KIN_TRY(kin_choose(ctx, s, &o, &r->idx, &r->score));
    r->rows = s->size[0] * m->cfg.experts;
    return tap_count(ctx, m, call->layer, &r->idx);
}

static kin_status diffmoe_assign(kin_ctx *ctx, const kin_moe *m, const kin_moe_call *call,
                                 const kin_tensor *x, int64_t batch, kin_routing *r)
{
    const int64_t N = x->size[0] / batch, E = m->cfg.experts;
    /* the predictor learns from the tokens and never moves them */
    kin_tensor detached = *x, hidden, logits, cut, s, predicted, view;

    detached.id = 0;
    KIN_TRY(gate_scores(ctx, m, x, &s));
    KIN_TRY(kin_linear_act(ctx, &detached, m->cp_w1, m->cp_b1, KIN_ACT_SILU, &hidden));
    KIN_TRY(kin_linear(ctx, &hidden, m->cp_w2, m->cp_b2, &logits));
    view = KIN_RESHAPE(&logits, batch, N, E);
    kin_tap(ctx, &view, "layers.%d.cap_logits", call->layer);
    cut = logits;
    cut.id = 0;
    KIN_TRY(kin_activation(ctx, &cut, KIN_ACT_SIGMOID, &predicted));
    return ctx->tape ? diffmoe_train(ctx, m, call, &s, &logits, &predicted, r)
                     : diffmoe_infer(ctx, m, call, &s, &predicted, r);
}

kin_status kin_router_assign(kin_ctx *ctx, const kin_moe *m, const kin_moe_call *call,
                             const kin_tensor *x, kin_routing *r)
{
    const int64_t B = x->size[0];
    const kin_tensor rows = KIN_RESHAPE(x, B * x->size[1], m->width);

    *r = (kin_routing){0};
    switch (m->cfg.router) {
    case KIN_ROUTER_TC: KIN_TRY(tc_assign(ctx, m, call, &rows, B, r)); break;
    case KIN_ROUTER_EC: KIN_TRY(ec_assign(ctx, m, call, &rows, B, r)); break;
    case KIN_ROUTER_DIFFMOE: KIN_TRY(diffmoe_assign(ctx, m, call, &rows, B, r)); break;
    case KIN_ROUTER_NONE:
    case KIN_ROUTER_PROMOE_TC:
    case KIN_ROUTER_PROMOE_EC:
    default: KIN_TRY(promoe_assign(ctx, m, call, &rows, B, r)); break;
    }
    tap_route(ctx, call->layer, r, B);
    return KIN_OK;
}
