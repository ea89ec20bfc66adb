#include "diffusion/moe.h"

#include <math.h>
#include <stdio.h>

#include "base/alloc.h"

static bool is_promoe(const kin_moe_config *c)
{
    return c->router == KIN_ROUTER_PROMOE_TC || c->router == KIN_ROUTER_PROMOE_EC;
}

/* Prototypes, or the linear gate as its authors start it. */
static void register_gate(kin_params *params, const char *prefix, kin_moe *m)
{
    const float bound = (float)(1.0 / sqrt((double)m->width));
    const bool tc = m->cfg.router == KIN_ROUTER_TC, promoe = is_promoe(&m->cfg);
    const kin_init init = promoe ? KIN_INIT(KIN_INIT_NORMAL, 0.02f)
                          : tc   ? KIN_INIT(KIN_INIT_UNIFORM, bound)
                                 : KIN_INIT(KIN_INIT_NORMAL, 0.006f);

    m->gate = kin_params_add(params, init, KIN_DIMS(m->cfg.experts, m->width), "%s%s", prefix,
                             promoe ? "cluster_centers"
                             : tc   ? "gate.weight"
                                    : "gate_weight");
}

static kin_status register_experts(kin_params *params, const char *prefix, kin_moe *m,
                                   kin_error *err)
{
    kin_param **block = kin_calloc((size_t)m->groups * 5, sizeof(*block));
    char name[128];

    if (!block)
        return kin_fail(err, KIN_ERR_MEM, "experts: out of memory for %lld entries",
                        (long long)m->groups);
    m->w1 = block;
    m->w2 = block + m->groups;
    if (m->cfg.form == KIN_FFN_SWIGLU) {
        m->gate_w = block + 2 * m->groups;
    } else {
        m->b1 = block + 3 * m->groups;
        m->b2 = block + 4 * m->groups;
    }
    for (int64_t e = 0; e < m->groups; e++) {
        kin_ffn f;

        snprintf(name, sizeof(name), "%sexperts.%lld.", prefix, (long long)e);
        kin_ffn_register(params, name, m->cfg.form, m->width, m->cfg.hidden, &f);
        m->w1[e] = f.w1;
        m->w2[e] = f.w2;
        if (m->gate_w) {
            m->gate_w[e] = f.gate;
        } else {
            m->b1[e] = f.b1;
            m->b2[e] = f.b2;
        }
    }
    if (!m->cfg.shared)
        return KIN_OK;
    snprintf(name, sizeof(name), "%s%s.", prefix,
             is_promoe(&m->cfg) ? "shared_expert" : "shared_experts");
    kin_ffn_register(params, name, m->cfg.shared_form, m->width, m->cfg.shared_hidden, &m->shared);
    return KIN_OK;
}

static void register_predictor(kin_params *params, const char *prefix, kin_moe *m)
{
    const kin_init xavier = KIN_INIT(KIN_INIT_XAVIER, 1), zero = KIN_INIT(KIN_INIT_ZERO, 0);
    const int64_t d = m->width, experts = m->cfg.experts;

    m->cp_w1 =
        kin_params_add(params, xavier, KIN_DIMS(d, d), "%scapacity_predictor.0.weight", prefix);
    m->cp_b1 = kin_params_add(params, zero, KIN_DIMS(d), "%scapacity_predictor.0.bias", prefix);
    m->cp_w2 = kin_params_add(params, xavier, KIN_DIMS(experts, d), "%scapacity_predictor.2.weight",
                              prefix);
    m->cp_b2 =
        kin_params_add(params, zero, KIN_DIMS(experts), "%scapacity_predictor.2.bias", prefix);
    m->threshold = kin_params_add(params, zero, KIN_DIMS(experts), "%sexpert_threshold", prefix);
    m->decay =
        kin_params_add(params, KIN_INIT(KIN_INIT_CONST, 0.95f), KIN_DIMS(1), "%sema_decay", prefix);
    if (m->threshold && m->decay)
        m->threshold->trainable = m->decay->trainable = false;
}

kin_status kin_moe_register(kin_params *params, const char *prefix, int64_t width,
                            const kin_moe_config *cfg, kin_moe *m, kin_error *err)
{
    *m = (kin_moe){.cfg = *cfg, .width = width, .groups = cfg->experts + (cfg->uncond ? 1 : 0)};
    if (cfg->hidden < 1 || (cfg->shared && cfg->shared_hidden < 1))
        return kin_fail(
            err, KIN_ERR_ARG,
            "MoE_config: moe_intermediate_size and shared_expert_intermediate_size must "
            "be at least 1");
    register_gate(params, prefix, m);
    KIN_TRY(register_experts(params, prefix, m, err));
    if (cfg->router == KIN_ROUTER_DIFFMOE)
        register_predictor(params, prefix, m);
    return KIN_OK;
}

void kin_moe_free(kin_moe *m)
{
    kin_free(m->w1);
    *m = (kin_moe){0};
}

bool kin_moe_has_aux(const kin_ctx *ctx, const kin_moe_config *cfg)
{
    switch (cfg->router) {
    case KIN_ROUTER_NONE:
    case KIN_ROUTER_EC: return false;
    case KIN_ROUTER_DIFFMOE: return ctx->tape != NULL;
    case KIN_ROUTER_PROMOE_TC:
    case KIN_ROUTER_PROMOE_EC:
    case KIN_ROUTER_TC:
    default: return ctx->tape || ctx->tap;
    }
}

/* Values between the two layers of all experts, sorted rows. */
static kin_status experts_hidden(kin_ctx *ctx, const kin_moe *m, const kin_dispatch *d,
                                 const kin_tensor *x, kin_tensor *hidden)
{
    kin_tensor a, u;

    if (!m->gate_w)
        return kin_linear_grouped_operand(ctx, x, d, true, m->w1, m->b1, KIN_ACT_GELU_TANH, hidden);
    KIN_TRY(kin_linear_grouped(ctx, x, d, true, m->gate_w, NULL, KIN_ACT_SILU, &a));
    KIN_TRY(kin_linear_grouped(ctx, x, d, true, m->w1, NULL, KIN_ACT_NONE, &u));
    return kin_mul(ctx, &a, &u, 1.0f, hidden);
}

/* F = shared(x) + sum over slots of weight * expert(x), x [T,D] */
static kin_status run_experts(kin_ctx *ctx, const kin_moe *m, const kin_tensor *x,
                              const kin_routing *r, kin_tensor *f)
{
    const int64_t null_expert = m->cfg.uncond ? m->cfg.experts : -1;
    kin_dispatch d;
    kin_tensor hidden, z, shared;

    if (m->shared.w1) {
        KIN_TRY(kin_ffn_hidden(ctx, &m->shared, x, &hidden));
        KIN_TRY(kin_linear(ctx, &hidden, m->shared.w2, m->shared.b2, &shared));
    }
    KIN_TRY(kin_dispatch_build(ctx, &r->idx, &r->score, m->groups, null_expert, r->rows, &d));
    KIN_TRY(experts_hidden(ctx, m, &d, x, &hidden));
    KIN_TRY(kin_linear_grouped(ctx, &hidden, &d, false, m->w2, m->b2, KIN_ACT_NONE, &z));
    return kin_combine(ctx, &z, &d, m->shared.w1 ? &shared : NULL, f);
}

kin_status kin_moe_forward(kin_ctx *ctx, const kin_moe *m, const kin_moe_call *call,
                           const kin_tensor *x, const kin_tensor *residual, const kin_tensor *gate,
                           kin_tensor *y, kin_tensor *aux)
{
    const int64_t B = x->size[0], N = x->size[1];
    const kin_tensor rows = KIN_RESHAPE(x, B * N, m->width);
    kin_routing r;
    kin_tensor f;

    kin_tap(ctx, x, "layers.%d.in", call->layer);
    KIN_TRY(kin_router_assign(ctx, m, call, x, &r));
    KIN_TRY(run_experts(ctx, m, &rows, &r, &f));
    f = KIN_RESHAPE(&f, B, N, m->width);
    kin_tap(ctx, &f, "layers.%d.moe", call->layer);
    *aux = r.aux;
    return kin_gated_add(ctx, &f, residual, gate, y);
}
