#include "diffusion/guided.h"

#include "samplers/guidance.h"

static bool is_dit(const kin_guided *g)
{
    return kin_model_get_info(g->model)->family == KIN_FAMILY_DIT;
}

/* velocity of one branch into v */
static kin_status run_branch(kin_ctx *ctx, const kin_guided *g, const kin_tensor *x,
                             const kin_tensor *sigma, const kin_tensor *t, int step,
                             kin_branch branch, kin_tensor *v)
{
    const kin_model_info *info = kin_model_get_info(g->model);
    const bool uncond = branch == KIN_BRANCH_UNCOND, cond = branch == KIN_BRANCH_COND;
    const size_t mark = kin_ws_mark(ctx);
    kin_model_input in = {.x = x, .t = t};
    kin_model_output out;
    kin_tensor u, got;

    if (is_dit(g)) {
        in.label = uncond ? g->null_label : g->label;
    } else {
        in.text = uncond ? g->uncond_text : g->text;
        in.null = uncond ? g->uncond_null : g->null;
        in.prior = cond ? g->prior : NULL;
        in.quant = cond ? g->quant : NULL;
    }
    if (g->draws && info->phys_blocks) {
        KIN_TRY(KIN_WS(ctx, &u, KIN_DTYPE_F32, info->phys_blocks, x->size[0], info->phys_heads));
        KIN_TRY(g->draws(ctx, g->user, step, branch, &u));
        in.u = &u;
    }
    KIN_TRY(kin_model_forward(ctx, g->model, &in, &out));
    KIN_TRY(kin_model_velocity(ctx, g->model, x, &out.y, sigma, &got));
    KIN_TRY(kin_copy_into(ctx, &got, v));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

static kin_status mix(kin_ctx *ctx, const kin_guided *g, const kin_tensor *x,
                      const kin_tensor *sigma, const kin_tensor *t, int step, kin_tensor *v)
{
    kin_tensor u, m;

    /* the order of the branches is that of the published samplers: c, m, u */
    KIN_TRY(run_branch(ctx, g, x, sigma, t, step, KIN_BRANCH_COND, v));
    kin_tap(ctx, v, "model_cond");
    if (g->mode == KIN_CFG_PLAIN && (g->scale == 1.0f || (is_dit(g) && g->scale < 1.0f)))
        return KIN_OK;
    if (g->mode == KIN_CFG_MULTI) {
        KIN_TRY(kin_ws_tensor(ctx, x->dtype, x->ndim, x->size, &m));
        KIN_TRY(run_branch(ctx, g, x, sigma, t, step, KIN_BRANCH_TEXT, &m));
        kin_tap(ctx, &m, "model_text");
    }
    KIN_TRY(kin_ws_tensor(ctx, x->dtype, x->ndim, x->size, &u));
    KIN_TRY(run_branch(ctx, g, x, sigma, t, step, KIN_BRANCH_UNCOND, &u));
    kin_tap(ctx, &u, "model_uncond");
    if (g->mode == KIN_CFG_MULTI)
        return kin_guidance_mix_multi(ctx, &u, &m, v, g->scale, g->phys_scale, v);
    return kin_guidance_mix(ctx, &u, v, g->scale, v);
}

kin_status kin_guided_velocity(kin_ctx *ctx, const kin_guided *g, const kin_tensor *x, float sigma,
                               float t, int step, kin_tensor *v)
{
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor s, times;

    if (!kin_tensor_same_shape(x, v))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "guidance: v must have x's shape");
    if (g->mode == KIN_CFG_MULTI && is_dit(g))
        return kin_fail(&ctx->error, KIN_ERR_ARG,
                        "guidance: multi needs a model with text and physics");
    KIN_TRY(KIN_WS(ctx, &s, KIN_DTYPE_F32, x->size[0]));
    KIN_TRY(KIN_WS(ctx, &times, KIN_DTYPE_F32, x->size[0]));
    KIN_TRY(kin_fill(ctx, &s, (double)sigma));
    KIN_TRY(kin_fill(ctx, &times, (double)t));
    KIN_TRY(mix(ctx, g, x, &s, &times, step, v));
    kin_tap(ctx, v, "guided");
    kin_ws_release(ctx, mark);
    return KIN_OK;
}
