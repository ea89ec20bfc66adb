#include "physics/mopa.h"

#define MOPA_LAYER_NORM_EPS 1e-6f /* whatever eps the config has */

void kin_mopa_register(kin_params *params, const char *prefix, const kin_mopa_config *cfg,
                       kin_mopa *m)
{
    const kin_init xavier = KIN_INIT(KIN_INIT_XAVIER, 1), zero = KIN_INIT(KIN_INIT_ZERO, 0),
                   one = KIN_INIT(KIN_INIT_ONE, 1);
    const int64_t inner = cfg->heads * cfg->head_dim, d = cfg->width;
    const int64_t norm = cfg->layer_norm ? cfg->head_dim : inner;

    *m = (kin_mopa){.cfg = *cfg};
    m->q_w = kin_params_add(params, xavier, KIN_DIMS(inner, d), "%sto_q.weight", prefix);
    m->q_b = kin_params_add(params, zero, KIN_DIMS(inner), "%sto_q.bias", prefix);
    m->k_w = kin_params_add(params, xavier, KIN_DIMS(inner, d), "%sto_k.weight", prefix);
    m->k_b = kin_params_add(params, zero, KIN_DIMS(inner), "%sto_k.bias", prefix);
    m->v_w = kin_params_add(params, xavier, KIN_DIMS(inner, d), "%sto_v.weight", prefix);
    m->v_b = kin_params_add(params, zero, KIN_DIMS(inner), "%sto_v.bias", prefix);
    m->o_w = kin_params_add(params, zero, KIN_DIMS(d, inner), "%sto_out.0.weight", prefix);
    m->o_b = kin_params_add(params, zero, KIN_DIMS(d), "%sto_out.0.bias", prefix);
    m->nq_w = kin_params_add(params, one, KIN_DIMS(norm), "%snorm_q.weight", prefix);
    m->nk_w = kin_params_add(params, one, KIN_DIMS(norm), "%snorm_k.weight", prefix);
    if (cfg->layer_norm) {
        m->nq_b = kin_params_add(params, zero, KIN_DIMS(norm), "%snorm_q.bias", prefix);
        m->nk_b = kin_params_add(params, zero, KIN_DIMS(norm), "%snorm_k.bias", prefix);
    }
    kin_params_allow_int8((kin_param *[]){m->q_w, m->k_w, m->v_w, m->o_w}, 4);
}

static double gate_of(const kin_mopa_config *cfg, double prior, const kin_tensor *u, int64_t at)
{
    const bool flip = u && (float)kin_tensor_get(u, at) < cfg->flip;

    if (prior == 1.0)
        return flip ? (double)cfg->floor : 1.0;
    if (prior == 0.0)
        return flip ? 1.0 : (double)cfg->floor;
    return prior;
}

/* into gates [B,heads], contiguous */
static kin_status fill_gates(kin_ctx *ctx, const kin_mopa_config *cfg, const kin_tensor *prior,
                             const kin_tensor *u, kin_tensor *gates)
{
    const int64_t batch = gates->size[0], per = cfg->heads / cfg->categories;

    if (prior && (prior->ndim != 2 || prior->size[0] != batch || prior->size[1] != cfg->categories))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "mopa: prior must be [%lld,%lld]",
                        (long long)batch, (long long)cfg->categories);
    if (u && (u->ndim != 2 || u->size[0] != batch || u->size[1] != cfg->heads))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "mopa: draws must be [%lld,%lld]",
                        (long long)batch, (long long)cfg->heads);
    if (kin_ctx_is_plan(ctx))
        return KIN_OK;
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor read_prior, read_u;

    if (prior)
        KIN_TRY(kin_host(ctx, prior, &read_prior));
    if (u)
        KIN_TRY(kin_host(ctx, u, &read_u));
    for (int64_t b = 0; b < batch; b++) {
        for (int64_t h = 0; h < cfg->heads; h++) {
            const double p =
                prior ? kin_tensor_get(&read_prior, b * cfg->categories + h / per) : 0.0;

            kin_tensor_set(gates, b * cfg->heads + h,
                           gate_of(cfg, p, u ? &read_u : NULL, b * cfg->heads + h));
        }
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

kin_status kin_mopa_gates(kin_ctx *ctx, const kin_mopa_config *cfg, const kin_tensor *prior,
                          const kin_tensor *u, int64_t batch, kin_dtype dtype, kin_tensor *gates)
{
    KIN_TRY(KIN_WS_HOST(ctx, gates, dtype, batch, cfg->heads));
    return fill_gates(ctx, cfg, prior, u, gates);
}

kin_status kin_mopa_gates_of_blocks(kin_ctx *ctx, const kin_mopa_config *cfg, int64_t blocks,
                                    const kin_tensor *prior, const kin_tensor *u, int64_t batch,
                                    kin_dtype dtype, kin_tensor *gates)
{
    KIN_TRY(KIN_WS_HOST(ctx, gates, dtype, blocks, batch, cfg->heads));
    for (int64_t i = 0; i < blocks; i++) {
        kin_tensor own = kin_tensor_select(gates, 0, i), draws;

        if (u)
            draws = kin_tensor_select(u, 0, i);
        KIN_TRY(fill_gates(ctx, cfg, prior, u ? &draws : NULL, &own));
    }
    return KIN_OK;
}

/* q or k: projection, norm, split into heads, rotary -> [B,N,P,p] */
static kin_status project(kin_ctx *ctx, const kin_mopa *m, const kin_tensor *x, kin_param *w,
                          kin_param *b, kin_param *nw, kin_param *nb, const kin_tensor *cos,
                          const kin_tensor *sin, const kin_live *live, kin_tensor *y)
{
    const kin_mopa_config *c = &m->cfg;
    const kin_head_norm_options opt = {.heads = c->heads,
                                       .per_head = c->layer_norm,
                                       .gamma = nw,
                                       .beta = nb,
                                       .eps = c->layer_norm ? MOPA_LAYER_NORM_EPS : c->eps,
                                       .cos = cos,
                                       .sin = sin,
                                       .operand = true,
                                       .live = *live};
    kin_linear_options out = {0};
    kin_tensor z;

    /* the RMS norm takes all heads of a token together */
    if (c->layer_norm)
        out.out = *live;
    KIN_TRY(kin_linear_with(ctx, x, w, b, &out, &z));
    return kin_head_norm(ctx, &z, &opt, y);
}

/* Heads whose gate is not 0 in every sample; nothing where all are or the gates cannot be read. */
static kin_status live_heads(kin_ctx *ctx, const kin_tensor *gates, kin_live *live)
{
    const int64_t batch = gates->size[0], heads = gates->size[1];
    uint8_t *part = kin_ws_bytes(ctx, (size_t)heads);
    bool all = true;

    *live = (kin_live){0};
    if (!part)
        return ctx->error.status;
    if (kin_ctx_is_plan(ctx) || ctx->device)
        return KIN_OK;
    for (int64_t h = 0; h < heads; h++) {
        part[h] = 0;
        for (int64_t b = 0; b < batch; b++)
            part[h] |= kin_tensor_get(gates, b * heads + h) != 0.0;
        all = all && part[h];
    }
    if (!all)
        *live = (kin_live){part, heads};
    return KIN_OK;
}

kin_status kin_mopa_forward(kin_ctx *ctx, const kin_mopa *m, const kin_tensor *x,
                            const kin_tensor *cos, const kin_tensor *sin, const kin_tensor *gates,
                            const kin_tensor *residual, const kin_tensor *gate, kin_tensor *y)
{
    const kin_mopa_config *c = &m->cfg;
    const kin_attention_options opt = {.gate = gates, .operand = true};
    kin_linear_options value = {.operand = true};
    kin_linear_options last = {.residual = residual, .gate = residual ? gate : NULL};
    kin_tensor q, k, v, o;

    KIN_TRY(live_heads(ctx, gates, &value.out));
    last.in = value.out;
    KIN_TRY(project(ctx, m, x, m->q_w, m->q_b, m->nq_w, m->nq_b, cos, sin, &value.out, &q));
    KIN_TRY(project(ctx, m, x, m->k_w, m->k_b, m->nk_w, m->nk_b, cos, sin, &value.out, &k));
    KIN_TRY(kin_linear_with(ctx, x, m->v_w, m->v_b, &value, &v));
    v = KIN_RESHAPE(&v, x->size[0], x->size[1], c->heads, c->head_dim);
    KIN_TRY(kin_attention(ctx, &q, &k, &v, &opt, &o));
    o = KIN_RESHAPE(&o, x->size[0], x->size[1], c->heads * c->head_dim);
    return kin_linear_with(ctx, &o, m->o_w, m->o_b, &last, y);
}
