/* Ways in and out of token space, and losses: embedding, patches, sinusoids, MSE / BCE /
 * cross-entropy. */
#include "tensor/device.h"
#include "tensor/op_common.h"

typedef struct saved_embedding {
    kin_tensor ids, y;
    kin_param *table;
} saved_embedding;

static kin_status embedding_bwd(kin_ctx *ctx, void *saved)
{
    saved_embedding *s = saved;
    kin_tensor dy = kin_tape_grad_in(ctx, &s->y);
    if (!dy.data)
        return KIN_OK;
    kin_embedding_args a = {.table = s->table, .ids = &s->ids, .dy = &dy};
    return ctx->k->embedding_bwd(ctx, &a);
}

kin_status kin_embedding(kin_ctx *ctx, kin_param *table, const kin_tensor *ids, kin_tensor *y)
{
    if (table->value.ndim != 2 || ids->dtype != KIN_DTYPE_I32 || !kin_tensor_is_contiguous(ids) ||
        ids->ndim >= KIN_MAX_DIMS)
        return kin_op_mismatch(ctx, table->name, &table->value, ids,
                               "table [V,D] and contiguous i32 ids");
    int64_t n = kin_tensor_numel(ids), sizes[KIN_MAX_DIMS];
    const int32_t *id = ids->data;
    /* note: the host would have to wait for those that lie on a device */
    const bool known = !kin_ctx_is_plan(ctx) && !(ctx->device && kin_device_holds(ctx->device, id));
    for (int64_t i = 0; i < n && known; i++)
        if (id[i] < 0 || id[i] >= table->value.size[0])
            return kin_fail(&ctx->error, KIN_ERR_ARG, "%s: id %d must be in [0, %lld)", table->name,
                            id[i], (long long)table->value.size[0]);
    for (int i = 0; i < ids->ndim; i++)
        sizes[i] = ids->size[i];
    sizes[ids->ndim] = table->value.size[1];
    kin_dtype dtype = table->value.dtype == KIN_DTYPE_F64 ? KIN_DTYPE_F64 : KIN_DTYPE_F32;
    KIN_TRY(kin_ws_tensor(ctx, dtype, ids->ndim + 1, sizes, y));
    saved_embedding *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    s->table = table;
    s->ids = KIN_RESHAPE(ids, n);
    s->y = KIN_RESHAPE(y, n, table->value.size[1]);
    kin_embedding_args a = {.table = table, .ids = &s->ids, .y = &s->y};
    KIN_TRY(ctx->k->embedding(ctx, &a));
    if (!kin_tape_needs_param(ctx, table))
        return KIN_OK;
    KIN_TRY(kin_tape_add(ctx, y, embedding_bwd, s));
    s->y.id = y->id;
    return KIN_OK;
}

typedef struct saved_patch {
    kin_tensor src, dst;
    int p[3];
    bool channel_last, to_tokens;
} saved_patch;

static kin_status patch_bwd(kin_ctx *ctx, void *saved)
{
    saved_patch *s = saved;
    kin_tensor dy, dx;
    kin_patch_args a = {.src = &dy,
                        .dst = &dx,
                        .pt = s->p[0],
                        .ph = s->p[1],
                        .pw = s->p[2],
                        .channel_last = s->channel_last,
                        .to_tokens = !s->to_tokens};
    KIN_TRY(kin_op_grads(ctx, &s->dst, &s->src, &dy, &dx, &a.acc));
    return dx.data ? ctx->k->patch(ctx, &a) : KIN_OK;
}

static kin_status patch_run(kin_ctx *ctx, const kin_tensor *src, const int p[3], bool channel_last,
                            bool to_tokens, kin_tensor *dst)
{
    kin_patch_args a = {.src = src,
                        .dst = dst,
                        .pt = p[0],
                        .ph = p[1],
                        .pw = p[2],
                        .channel_last = channel_last,
                        .to_tokens = to_tokens};
    KIN_TRY(ctx->k->patch(ctx, &a));
    if (!kin_tape_needs(ctx, src))
        return KIN_OK;
    saved_patch *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    *s = (saved_patch){
        .src = *src, .p = {p[0], p[1], p[2]}, .channel_last = channel_last, .to_tokens = to_tokens};
    KIN_TRY(kin_tape_add(ctx, dst, patch_bwd, s));
    s->dst = *dst;
    return KIN_OK;
}

kin_status kin_patchify(kin_ctx *ctx, const kin_tensor *video, const int patch[3],
                        bool channel_last, kin_tensor *tokens)
{
    kin_dtype dtype;
    KIN_TRY(kin_op_dtype(ctx, "patchify", video, &dtype));
    if (video->ndim != 5)
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "patchify: %d dimensions, must be [B,C,F,H,W]",
                        video->ndim);
    for (int i = 0; i < 3; i++)
        if (patch[i] < 1 || video->size[2 + i] % patch[i] != 0)
            return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                            "patchify: %s %lld must be a multiple of the patch size %d",
                            (const char *[]){"frames", "height", "width"}[i],
                            (long long)video->size[2 + i], patch[i]);
    int64_t n =
        video->size[2] / patch[0] * (video->size[3] / patch[1]) * (video->size[4] / patch[2]);
    KIN_TRY(KIN_WS(ctx, tokens, dtype, video->size[0], n,
                   video->size[1] * patch[0] * patch[1] * patch[2]));
    return patch_run(ctx, video, patch, channel_last, true, tokens);
}

kin_status kin_unpatchify(kin_ctx *ctx, const kin_tensor *tokens, const int patch[3],
                          bool channel_last, int64_t channels, int64_t frames, int64_t height,
                          int64_t width, kin_tensor *video)
{
    kin_dtype dtype;
    KIN_TRY(kin_op_dtype(ctx, "unpatchify", tokens, &dtype));
    if (tokens->ndim != 3 || frames % patch[0] || height % patch[1] || width % patch[2] ||
        tokens->size[1] != frames / patch[0] * (height / patch[1]) * (width / patch[2]) ||
        tokens->size[2] != channels * patch[0] * patch[1] * patch[2])
        return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                        "unpatchify: tokens do not make a %lldx%lldx%lldx%lld video",
                        (long long)channels, (long long)frames, (long long)height,
                        (long long)width);
    KIN_TRY(KIN_WS(ctx, video, dtype, tokens->size[0], channels, frames, height, width));
    return patch_run(ctx, tokens, patch, channel_last, false, video);
}

kin_status kin_sinusoid(kin_ctx *ctx, const kin_tensor *v, int64_t half, int64_t dim, kin_tensor *y)
{
    kin_dtype dtype;
    KIN_TRY(kin_op_dtype(ctx, "sinusoid", v, &dtype));
    if (v->ndim != 2 || half < 1 || dim < 2 * half * v->size[1])
        return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                        "sinusoid: v must be [B,n] and 2*half*n <= dim %lld", (long long)dim);
    int64_t used = 2 * half * v->size[1];
    KIN_TRY(KIN_WS(ctx, y, dtype, v->size[0], dim));
    if (used < dim)
        KIN_TRY(ctx->k->fill(ctx, y, 0.0));
    kin_tensor pieces = *y;
    pieces.ndim = 3;
    pieces.size[1] = v->size[1];
    pieces.size[2] = 2 * half;
    pieces.stride[1] = 2 * half;
    pieces.stride[2] = 1;
    kin_sinusoid_args a = {.v = v, .half = half, .y = &pieces};
    return ctx->k->sinusoid(ctx, &a);
}

/* --- losses --- */

typedef struct saved_loss {
    kin_loss_kind kind;
    kin_tensor x, target, weight, loss;
} saved_loss;

static kin_status loss_bwd(kin_ctx *ctx, void *saved)
{
    saved_loss *s = saved;
    kin_tensor dloss, dx;
    kin_loss_args a = {.kind = s->kind,
                       .x = &s->x,
                       .target = &s->target,
                       .weight = kin_op_opt(&s->weight),
                       .dloss = &dloss};
    KIN_TRY(kin_op_grads(ctx, &s->loss, &s->x, &dloss, &dx, &a.acc));
    a.dx = &dx;
    return dx.data ? ctx->k->loss_bwd(ctx, &a) : KIN_OK;
}

static kin_status loss_run(kin_ctx *ctx, const char *op, kin_loss_kind kind, const kin_tensor *x,
                           const kin_tensor *target, const kin_tensor *weight, kin_tensor *loss)
{
    kin_dtype dtype;
    KIN_TRY(kin_op_dtype(ctx, op, x, &dtype));
    bool classes = kind == KIN_LOSS_CROSS_ENTROPY;
    if (x->ndim < 1 || !kin_tensor_is_contiguous(x) || !kin_tensor_is_contiguous(target) ||
        (classes ? x->ndim != 2 || target->ndim != 1 || target->size[0] != x->size[0] ||
                       target->dtype != KIN_DTYPE_I32
                 : !kin_tensor_same_shape(x, target) || target->dtype != dtype))
        return kin_op_mismatch(ctx, op, x, target,
                               classes ? "logits [B,n] and i32 classes [B]" : "one shape and type");
    if (weight && (weight->ndim != 1 || weight->size[0] != x->size[0] || weight->dtype != dtype))
        return kin_op_mismatch(ctx, op, weight, x, "weights are [B]");
    saved_loss *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    s->kind = kind;
    int64_t B = x->size[0];
    s->x = KIN_RESHAPE(x, B, -1);
    s->target = classes ? *target : KIN_RESHAPE(target, B, -1);
    if (weight)
        s->weight = *weight;
    KIN_TRY(kin_ws_tensor(ctx, dtype, 0, NULL, loss));
    kin_loss_args a = {.kind = kind,
                       .x = &s->x,
                       .target = &s->target,
                       .weight = kin_op_opt(&s->weight),
                       .loss = loss};
    KIN_TRY(ctx->k->loss(ctx, &a));
    if (!kin_tape_needs(ctx, x))
        return KIN_OK;
    KIN_TRY(kin_tape_add(ctx, loss, loss_bwd, s));
    s->loss = *loss;
    return KIN_OK;
}

kin_status kin_mse(kin_ctx *ctx, const kin_tensor *x, const kin_tensor *target,
                   const kin_tensor *weight, kin_tensor *loss)
{
    return loss_run(ctx, "mse", KIN_LOSS_MSE, x, target, weight, loss);
}

kin_status kin_l1(kin_ctx *ctx, const kin_tensor *x, const kin_tensor *target,
                  const kin_tensor *weight, kin_tensor *loss)
{
    return loss_run(ctx, "l1", KIN_LOSS_L1, x, target, weight, loss);
}

kin_status kin_bce_logits(kin_ctx *ctx, const kin_tensor *x, const kin_tensor *target,
                          const kin_tensor *weight, kin_tensor *loss)
{
    return loss_run(ctx, "bce", KIN_LOSS_BCE_LOGITS, x, target, weight, loss);
}

kin_status kin_cross_entropy(kin_ctx *ctx, const kin_tensor *x, const kin_tensor *target,
                             const kin_tensor *weight, kin_tensor *loss)
{
    return loss_run(ctx, "cross entropy", KIN_LOSS_CROSS_ENTROPY, x, target, weight, loss);
}
