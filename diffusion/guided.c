#include "diffusion/guided.h"

#include <string.h>

#include "samplers/guidance.h"
#include "tensor/device.h"

enum {
    MAX_BRANCHES = 3,
    /* patches of all branches together up to which they run as one batch; beyond, memory counts for
     * more than the gain. Both ways give the same bytes: no sample's result depends on its
     * neighbours. */
    STACKED_PATCHES = 8192
};

static bool is_dit(const kin_guided *g)
{
    return kin_model_get_info(g->model)->family == KIN_FAMILY_DIT;
}

static bool in_interval(const kin_guided *g, float t)
{
    if (g->interval[0] == 0 && g->interval[1] == 0)
        return true;
    return t >= g->interval[0] && t <= g->interval[1];
}

/* The branches that a guidance needs, in the order of the published samplers: c, m, u. */
static int list_all(const kin_guided *g, kin_branch out[MAX_BRANCHES])
{
    int n = 0;

    out[n++] = KIN_BRANCH_COND;
    if (g->mode == KIN_CFG_PLAIN && (g->scale == 1.0f || (is_dit(g) && g->scale < 1.0f)))
        return n;
    if (g->mode == KIN_CFG_MULTI)
        out[n++] = KIN_BRANCH_TEXT;
    out[n++] = KIN_BRANCH_UNCOND;
    return n;
}

/* those of one time: c alone outside the interval */
static int list_branches(const kin_guided *g, float t, kin_branch out[MAX_BRANCHES])
{
    const int n = list_all(g, out);

    return in_interval(g, t) ? n : 1;
}

static bool on_host(const kin_ctx *ctx, const kin_tensor *t)
{
    return ctx->device && !kin_device_holds(ctx->device, t->data);
}

/* One part in its place, to; NULL: zeros. */
static kin_status put(kin_ctx *ctx, const kin_tensor *part, kin_tensor *to)
{
    const size_t bytes = (size_t)kin_tensor_numel(to) * kin_dtype_size(to->dtype);

    if (on_host(ctx, to) && part)
        memcpy(to->data, part->data, bytes);
    else if (on_host(ctx, to))
        memset(to->data, 0, bytes);
    else
        return part ? ctx->k->copy(ctx, part, to, false) : kin_fill(ctx, to, 0);
    return KIN_OK;
}

/* out [n*B,...]: part[i] in rows i*B..; a NULL part gives zeros. On the host where all parts are.
 */
static kin_status stack(kin_ctx *ctx, const kin_tensor *const part[MAX_BRANCHES], int n,
                        kin_tensor *out)
{
    const kin_tensor *like = NULL;
    int64_t size[KIN_MAX_DIMS];
    bool host = true;

    for (int i = 0; i < n; i++) {
        like = part[i] ? part[i] : like;
        host = host && (!part[i] || on_host(ctx, part[i]));
    }
    if (!like)
        return kin_fail(&ctx->error, KIN_ERR_ARG, "guidance: no branch has this input");
    memcpy(size, like->size, sizeof(size));
    size[0] *= n;
    KIN_TRY((host ? kin_ws_host : kin_ws_tensor)(ctx, like->dtype, like->ndim, size, out));
    for (int i = 0; i < n; i++) {
        kin_tensor to = kin_tensor_slice(out, 0, i * like->size[0], like->size[0]);

        if (part[i] && (!kin_tensor_is_contiguous(part[i]) || part[i]->size[0] != like->size[0]))
            return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                            "guidance: conditions of the branches differ");
        KIN_TRY(put(ctx, part[i], &to));
    }
    return KIN_OK;
}

typedef struct branch_input {
    kin_tensor x, t, sigma, label, text, null, prior, quant, u;
} branch_input;

/* one kind of input for all branches; out stays NULL where every branch does without */
static kin_status stack_input(kin_ctx *ctx, const kin_branch *branch, int n, const kin_tensor *cond,
                              const kin_tensor *text, const kin_tensor *uncond, kin_tensor *t,
                              const kin_tensor **out)
{
    const kin_tensor *part[MAX_BRANCHES];
    bool any = false;

    for (int i = 0; i < n; i++) {
        part[i] = branch[i] == KIN_BRANCH_COND   ? cond
                  : branch[i] == KIN_BRANCH_TEXT ? text
                                                 : uncond;
        any = any || part[i];
    }
    *out = NULL;
    if (!any)
        return KIN_OK;
    KIN_TRY(stack(ctx, part, n, t));
    *out = t;
    return KIN_OK;
}

/* gate draws [L,n*B,P], each branch from its own call */
static kin_status draw_gates(kin_ctx *ctx, const kin_guided *g, const kin_branch *branch, int n,
                             int64_t batch, int step, kin_tensor *u)
{
    const kin_model_info *info = kin_model_get_info(g->model);

    const int64_t row = batch * info->phys_heads;

    KIN_TRY(KIN_WS_HOST(ctx, u, KIN_DTYPE_F32, info->phys_blocks, n * batch, info->phys_heads));
    for (int i = 0; i < n; i++) {
        kin_tensor own;

        KIN_TRY(KIN_WS_HOST(ctx, &own, KIN_DTYPE_F32, info->phys_blocks, batch, info->phys_heads));
        KIN_TRY(g->draws(ctx, g->user, step, branch[i], &own));
        for (int64_t l = 0; l < info->phys_blocks && !kin_ctx_is_plan(ctx); l++)
            memcpy((float *)u->data + (l * n + i) * row, (const float *)own.data + l * row,
                   (size_t)row * sizeof(float));
    }
    return KIN_OK;
}

/* what the solver reads: the velocity, or the first channels of the network's own output */
static kin_status read_output(kin_ctx *ctx, const kin_guided *g, const branch_input *b,
                              const kin_tensor *y, int64_t channels, kin_tensor *out)
{
    if (!g->raw)
        return kin_model_velocity(ctx, g->model, &b->x, y, &b->sigma, out);
    const kin_tensor part = kin_tensor_slice(y, 1, 0, channels);

    return kin_contiguous(ctx, &part, out);
}

/* The part of g->cache that belongs to these branches. note: m has c's text; where branches run one
 * by one the cache holds it once */
static kin_status find_cache(kin_ctx *ctx, const kin_guided *g, const kin_branch *branch, int n,
                             int64_t batch, kin_text_cache *cache, const kin_text_cache **out)
{
    kin_branch all[MAX_BRANCHES];
    const int count = list_all(g, all);
    const bool shared = g->cache.rows < count * batch;
    int64_t first = 0;

    *out = NULL;
    if (!g->cache.kv)
        return KIN_OK;
    if (branch[0] != KIN_BRANCH_COND)
        first = branch[0] == KIN_BRANCH_TEXT ? !shared : g->cache.rows / batch - 1;
    *out = cache;
    return kin_text_cache_rows(ctx, g->model, &g->cache, first * batch, n * batch, cache);
}

/* [rows] of one value, in host memory */
static kin_status constant(kin_ctx *ctx, int64_t rows, float value, kin_tensor *t)
{
    KIN_TRY(KIN_WS_HOST(ctx, t, KIN_DTYPE_F32, rows));
    for (int64_t i = 0; i < rows && !kin_ctx_is_plan(ctx); i++)
        ((float *)t->data)[i] = value;
    return KIN_OK;
}

/* outputs of n branches in one forward; v[i] [B,C,...] are the caller's */
static kin_status run_branches(kin_ctx *ctx, const kin_guided *g, const kin_tensor *x, float sigma,
                               float t, int step, const kin_branch *branch, int n, kin_tensor *v)
{
    const int64_t batch = x->size[0];
    const kin_tensor *const same[MAX_BRANCHES] = {x, x, x};
    const size_t mark = kin_ws_mark(ctx);
    branch_input b;
    kin_model_input in = {.x = &b.x, .t = &b.t};
    kin_text_cache cache;
    kin_model_output out;
    kin_tensor all;

    KIN_TRY(stack(ctx, same, n, &b.x));
    KIN_TRY(constant(ctx, n * batch, t, &b.t));
    KIN_TRY(kin_settle(ctx, &b.t));
    KIN_TRY(constant(ctx, n * batch, sigma, &b.sigma));
    if (is_dit(g)) {
        KIN_TRY(
            stack_input(ctx, branch, n, g->label, g->label, g->null_label, &b.label, &in.label));
    } else {
        KIN_TRY(stack_input(ctx, branch, n, g->text, g->text, g->uncond_text, &b.text, &in.text));
        KIN_TRY(find_cache(ctx, g, branch, n, batch, &cache, &in.cache));
        KIN_TRY(stack_input(ctx, branch, n, g->null, g->null, g->uncond_null, &b.null, &in.null));
        KIN_TRY(stack_input(ctx, branch, n, g->prior, NULL, NULL, &b.prior, &in.prior));
        KIN_TRY(stack_input(ctx, branch, n, g->quant, NULL, NULL, &b.quant, &in.quant));
        if (in.null)
            KIN_TRY(kin_settle(ctx, &b.null));
        if (in.quant)
            KIN_TRY(kin_settle(ctx, &b.quant));
        if (g->draws && kin_model_get_info(g->model)->phys_blocks) {
            KIN_TRY(draw_gates(ctx, g, branch, n, batch, step, &b.u));
            in.u = &b.u;
        }
    }
    KIN_TRY(kin_model_replay(ctx, g->replay, g->model, &in, &out));
    KIN_TRY(read_output(ctx, g, &b, &out.y, v[0].size[1], &all));
    for (int i = 0; i < n; i++) {
        const kin_tensor part = kin_tensor_slice(&all, 0, i * batch, batch);

        KIN_TRY(kin_copy_into(ctx, &part, &v[i]));
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

/* Whether n branches run as one batch. note: where the batch is one pool they stay apart, as
 * published */
static bool runs_stacked(const kin_guided *g, const kin_tensor *x, int n)
{
    const kin_model_info *info = kin_model_get_info(g->model);
    const int64_t patches = kin_tensor_numel(x) /
                            (info->in_channels * info->patch[0] * info->patch[1] * info->patch[2]);

    return n * patches <= STACKED_PATCHES && !kin_model_pools_batch(g->model);
}

kin_status kin_guided_cache(kin_ctx *ctx, kin_guided *g, const kin_tensor *x)
{
    kin_branch branch[MAX_BRANCHES];
    const kin_tensor *part[MAX_BRANCHES];
    const int n = list_all(g, branch);
    const bool stacked = runs_stacked(g, x, n);
    kin_tensor text;
    int parts = 0;

    if (is_dit(g) || !g->text)
        return KIN_OK;
    for (int i = 0; i < n; i++) {
        if (branch[i] != KIN_BRANCH_TEXT || stacked)
            part[parts++] = branch[i] == KIN_BRANCH_UNCOND ? g->uncond_text : g->text;
    }
    KIN_TRY(stack(ctx, part, parts, &text));
    return kin_model_cache_text(ctx, g->model, &text, &g->cache);
}

/* channels from `first` on of the unguided c, kept aside, back into y */
static kin_status keep_channels(kin_ctx *ctx, const kin_tensor *c, int64_t first, kin_tensor *y)
{
    const int64_t n = y->size[1] - first;
    const kin_tensor from = kin_tensor_slice(c, 1, first, n);
    kin_tensor to = kin_tensor_slice(y, 1, first, n);

    return kin_copy_into(ctx, &from, &to);
}

static float scale_at(const kin_guided *g, float scale, float t)
{
    if (!g->dynamic_steps)
        return scale;
    return (float)kin_guidance_dynamic((double)scale, (double)t, g->dynamic_steps);
}

/* the guided mixture, into v[0] */
static kin_status mix(kin_ctx *ctx, const kin_guided *g, float t, const kin_branch *branch, int n,
                      int64_t predicted, kin_tensor *v)
{
    static const char *const names[] = {"model_cond", "model_text", "model_uncond"};
    const int64_t guided = g->channels ? g->channels : predicted;
    kin_tensor cond;

    for (int i = 0; i < n; i++)
        kin_tap(ctx, &v[i], "%s", names[branch[i]]);
    if (n == 1)
        return KIN_OK;
    KIN_TRY(kin_ws_tensor(ctx, v[0].dtype, v[0].ndim, v[0].size, &cond));
    KIN_TRY(kin_copy_into(ctx, &v[0], &cond));
    if (n == 3)
        KIN_TRY(kin_guidance_mix_multi(ctx, &v[2], &v[1], &v[0], scale_at(g, g->scale, t),
                                       scale_at(g, g->phys_scale, t), &v[0]));
    else
        KIN_TRY(kin_guidance_mix(ctx, &v[1], &v[0], scale_at(g, g->scale, t), &v[0]));
    if (g->rescale > 0)
        KIN_TRY(kin_guidance_rescale(ctx, &cond, predicted, g->rescale, &v[0]));
    return guided < v[0].size[1] ? keep_channels(ctx, &cond, guided, &v[0]) : KIN_OK;
}

static kin_status check_output(kin_ctx *ctx, const kin_guided *g, const kin_tensor *x,
                               const kin_tensor *y)
{
    const kin_model_info *info = kin_model_get_info(g->model);
    const int64_t c = y->ndim == x->ndim && y->ndim > 1 ? y->size[1] : 0;
    kin_tensor same = *y;

    same.size[1] = info->in_channels;
    if ((c != info->in_channels && !(g->raw && c == info->out_channels)) ||
        !kin_tensor_same_shape(x, &same))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                        "guidance: y must have x's shape, or all output channels");
    if (g->mode == KIN_CFG_MULTI && is_dit(g))
        return kin_fail(&ctx->error, KIN_ERR_ARG,
                        "guidance: multi needs a model with text and physics");
    return KIN_OK;
}

kin_status kin_guided_output(kin_ctx *ctx, const kin_guided *g, const kin_tensor *x, float sigma,
                             float t, int step, kin_tensor *y)
{
    const size_t mark = kin_ws_mark(ctx);
    kin_branch branch[MAX_BRANCHES];
    kin_tensor of[MAX_BRANCHES] = {*y}, in = *x;
    int n, each;

    KIN_TRY(check_output(ctx, g, x, y));
    n = list_branches(g, t, branch);
    /* on a device, latents cross over once in each direction */
    if (on_host(ctx, x))
        KIN_TRY(kin_settle(ctx, &in));
    for (int i = on_host(ctx, y) ? 0 : 1; i < n; i++)
        KIN_TRY(kin_ws_tensor(ctx, y->dtype, y->ndim, y->size, &of[i]));
    each = runs_stacked(g, x, n) ? n : 1;
    for (int i = 0; i < n; i += each)
        KIN_TRY(run_branches(ctx, g, &in, sigma, t, step, branch + i, each, of + i));
    KIN_TRY(mix(ctx, g, t, branch, n, x->size[1], of));
    if (on_host(ctx, y))
        KIN_TRY(kin_copy_into(ctx, &of[0], y));
    kin_tap(ctx, y, "guided");
    kin_ws_release(ctx, mark);
    return KIN_OK;
}
