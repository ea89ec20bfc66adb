/* diffusion/router.c: which expert takes which token. ProMoE: tokens of null samples go to the
 * unconditional expert, all others to their K best by the cosine to a prototype; the routing
 * contrastive loss shapes the prototypes. */
#include "diffusion/moe.h"

static kin_status scores_of(kin_ctx *ctx, const kin_moe *m, const kin_tensor *x, kin_tensor *s)
{
    kin_tensor z;

    KIN_TRY(kin_cosine(ctx, x, m->centers, &z));
    switch (m->cfg.mode) {
    case KIN_ROUTE_SOFTMAX: return kin_softmax(ctx, &z, s);
    case KIN_ROUTE_SIGMOID: return kin_activation(ctx, &z, KIN_ACT_SIGMOID, s);
    case KIN_ROUTE_IDENTITY:
    default: *s = z; return KIN_OK;
    }
}

static kin_status aux_losses(kin_ctx *ctx, const kin_moe *m, int layer, const kin_tensor *x,
                             const kin_tensor *s, const kin_tensor *null, int64_t batch,
                             kin_routing *r)
{
    const kin_moe_config *c = &m->cfg;
    kin_tensor rcl, p = *s, balance, sum;

    KIN_TRY(kin_rcl(ctx, x, m->centers, &r->idx, c->rcl_any_slot ? c->top_k : 1, (float)c->rcl_tau,
                    &rcl));
    kin_tap(ctx, &rcl, "layers.%d.rcl", layer);
    KIN_TRY(kin_scale(ctx, &rcl, (float)c->rcl_lambda, &r->aux));
    if (c->balance <= 0)
        return KIN_OK;
    if (c->mode != KIN_ROUTE_SOFTMAX)
        KIN_TRY(kin_softmax(ctx, s, &p));
    KIN_TRY(
        kin_load_balance(ctx, &p, &r->idx, null, batch, c->seq_aux, (float)c->balance, &balance));
    kin_tap(ctx, &balance, "layers.%d.load_balance", layer);
    KIN_TRY(kin_add(ctx, &r->aux, &balance, 1.0f, &sum));
    r->aux = sum;
    return KIN_OK;
}

kin_status kin_router_assign(kin_ctx *ctx, const kin_moe *m, int layer, const kin_tensor *x,
                             const kin_tensor *null, bool want_aux, kin_routing *r)
{
    const int64_t B = x->size[0], N = x->size[1], K = m->cfg.top_k;
    const kin_tensor rows = KIN_RESHAPE(x, B * N, m->width);
    kin_tensor s, view;

    r->aux = (kin_tensor){0};
    KIN_TRY(scores_of(ctx, m, &rows, &s));
    KIN_TRY(kin_topk(ctx, &s, K, m->cfg.uncond ? null : NULL, m->cfg.experts, &r->idx, &r->score));
    view = KIN_RESHAPE(&r->idx, B, N, K);
    kin_tap(ctx, &view, "layers.%d.assign", layer);
    view = KIN_RESHAPE(&r->score, B, N, K);
    kin_tap(ctx, &view, "layers.%d.score", layer);
    return want_aux ? aux_losses(ctx, m, layer, &rows, &s, null, B, r) : KIN_OK;
}
