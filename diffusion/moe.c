#include "diffusion/moe.h"

#include <stdio.h>

#include "base/alloc.h"

static void register_expert(kin_params *params, const char *prefix, const char *name, int64_t width,
                            int64_t hidden, kin_param **up_w, kin_param **up_b, kin_param **down_w,
                            kin_param **down_b)
{
    const kin_init xavier = KIN_INIT(KIN_INIT_XAVIER, 1), zero = KIN_INIT(KIN_INIT_ZERO, 0);

    *up_w = kin_params_add(params, xavier, KIN_DIMS(hidden, width), "%s%s.up_proj.weight", prefix,
                           name);
    *up_b = kin_params_add(params, zero, KIN_DIMS(hidden), "%s%s.up_proj.bias", prefix, name);
    *down_w = kin_params_add(params, xavier, KIN_DIMS(width, hidden), "%s%s.down_proj.weight",
                             prefix, name);
    *down_b = kin_params_add(params, zero, KIN_DIMS(width), "%s%s.down_proj.bias", prefix, name);
    kin_params_allow_int8((kin_param *[]){*up_w, *down_w}, 2);
}

kin_status kin_moe_register(kin_params *params, const char *prefix, int64_t width,
                            const kin_moe_config *cfg, kin_moe *m, kin_error *err)
{
    const int64_t groups = cfg->experts + (cfg->uncond ? 1 : 0);
    kin_param **block;

    *m = (kin_moe){.cfg = *cfg, .width = width, .groups = groups};
    if (cfg->hidden < 1 || (cfg->shared && cfg->shared_hidden < 1))
        return kin_fail(
            err, KIN_ERR_ARG,
            "MoE_config: moe_intermediate_size and shared_expert_intermediate_size must "
            "be at least 1");
    block = kin_calloc((size_t)groups * 4, sizeof(*block));
    if (!block)
        return kin_fail(err, KIN_ERR_MEM, "experts: out of memory for %lld entries",
                        (long long)groups);
    m->up_w = block;
    m->up_b = block + groups;
    m->down_w = block + 2 * groups;
    m->down_b = block + 3 * groups;
    m->centers = kin_params_add(params, KIN_INIT(KIN_INIT_NORMAL, 0.02f),
                                KIN_DIMS(cfg->experts, width), "%scluster_centers", prefix);
    for (int64_t e = 0; e < groups; e++) {
        char name[40];

        snprintf(name, sizeof(name), "experts.%lld", (long long)e);
        register_expert(params, prefix, name, width, cfg->hidden, &m->up_w[e], &m->up_b[e],
                        &m->down_w[e], &m->down_b[e]);
    }
    if (cfg->shared)
        register_expert(params, prefix, "shared_expert", width, cfg->shared_hidden, &m->sup_w,
                        &m->sup_b, &m->sdown_w, &m->sdown_b);
    return KIN_OK;
}

void kin_moe_free(kin_moe *m)
{
    kin_free(m->up_w);
    *m = (kin_moe){0};
}

/* F = shared(x) + sum over slots of weight * expert(x), x [T,D] */
static kin_status run_experts(kin_ctx *ctx, const kin_moe *m, const kin_tensor *x,
                              const kin_routing *r, kin_tensor *f)
{
    const int64_t null_expert = m->cfg.uncond ? m->cfg.experts : -1;
    kin_dispatch d;
    kin_tensor hidden, z, shared;

    if (m->sup_w) {
        KIN_TRY(kin_linear_act(ctx, x, m->sup_w, m->sup_b, KIN_ACT_GELU_TANH, &hidden));
        KIN_TRY(kin_linear(ctx, &hidden, m->sdown_w, m->sdown_b, &shared));
    }
    KIN_TRY(kin_dispatch_build(ctx, &r->idx, &r->score, m->groups, null_expert, &d));
    KIN_TRY(kin_linear_grouped(ctx, x, &d, true, m->up_w, m->up_b, KIN_ACT_GELU_TANH, &hidden));
    KIN_TRY(kin_linear_grouped(ctx, &hidden, &d, false, m->down_w, m->down_b, KIN_ACT_NONE, &z));
    return kin_combine(ctx, &z, &d, m->sup_w ? &shared : NULL, f);
}

kin_status kin_moe_forward(kin_ctx *ctx, const kin_moe *m, int layer, const kin_tensor *x,
                           const kin_tensor *null, bool want_aux, const kin_tensor *residual,
                           const kin_tensor *gate, kin_tensor *y, kin_tensor *aux)
{
    const int64_t B = x->size[0], N = x->size[1];
    const kin_tensor rows = KIN_RESHAPE(x, B * N, m->width);
    kin_routing r;
    kin_tensor f;

    kin_tap(ctx, x, "layers.%d.in", layer);
    KIN_TRY(kin_router_assign(ctx, m, layer, x, null, want_aux, &r));
    KIN_TRY(run_experts(ctx, m, &rows, &r, &f));
    f = KIN_RESHAPE(&f, B, N, m->width);
    kin_tap(ctx, &f, "layers.%d.moe", layer);
    *aux = r.aux;
    return kin_gated_add(ctx, &f, residual, gate, y);
}
