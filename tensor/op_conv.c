/* Convolution, group norm and the posterior of an autoencoder. Channels are last: [B,H,W,C] or
 * [B,F,H,W,C]. */
#include "tensor/op_common.h"

/* --- convolution --- */

typedef struct saved_conv {
    kin_conv_shape s;
    kin_tensor x, y, residual; /* [rows, channels] */
    kin_param *w, *b;
} saved_conv;

static kin_status conv_bwd(kin_ctx *ctx, void *saved)
{
    saved_conv *s = saved;
    kin_tensor dy = kin_tape_grad_in(ctx, &s->y), dx, dres = {0};
    bool acc_res = false;
    if (!dy.data)
        return KIN_OK;
    kin_conv_args a = {.s = s->s, .x = &s->x, .w = s->w, .b = s->b, .dy = &dy};
    KIN_TRY(kin_tape_grad_slot(ctx, &s->x, &dx, &a.acc));
    if (s->residual.data && !kin_tape_grad_give(ctx, &s->y, &s->residual))
        KIN_TRY(kin_tape_grad_slot(ctx, &s->residual, &dres, &acc_res));
    if (s->w->grad.data || (s->b && s->b->grad.data))
        KIN_TRY(ctx->k->conv_dw(ctx, &a));
    if (dx.data) {
        a.dx = &dx;
        KIN_TRY(ctx->k->conv_dx(ctx, &a));
    }
    /* note: after dx, which may be the same node and was told to overwrite */
    return dres.data ? ctx->k->copy(ctx, &dy, &dres, acc_res) : KIN_OK;
}

/* Size of an output dimension, or 0. */
static int64_t out_size(int64_t size, int before, int after, int kernel, int stride)
{
    int64_t room = size + before + after - kernel;
    return room < 0 ? 0 : room / stride + 1;
}

static kin_status conv_shape(kin_ctx *ctx, const kin_tensor *x, const kin_param *w,
                             const kin_conv_options *opt, kin_conv_shape *s)
{
    const kin_tensor *v = &w->value;
    const bool video = x->ndim == 5;
    const int64_t *size = x->size;
    if ((x->ndim != 4 && !video) || !kin_tensor_is_contiguous(x) || v->ndim < 4 || v->ndim > 5)
        return kin_op_mismatch(
            ctx, w->name, x, v,
            "x is [B,H,W,C] or [B,F,H,W,C], contiguous; w is [out,in,(kt,)kh,kw]");
    const int64_t *k = v->size + v->ndim - 2;
    *s = (kin_conv_shape){.batch = size[0],
                          .frames = video ? size[1] : 1,
                          .height = size[x->ndim - 3],
                          .width = size[x->ndim - 2],
                          .in = size[x->ndim - 1],
                          .out = v->size[0],
                          .kt = v->ndim == 5 ? (int)v->size[2] : 1,
                          .kh = (int)k[0],
                          .kw = (int)k[1],
                          .stride = opt->stride ? opt->stride : 1,
                          .up = opt->up ? opt->up : 1,
                          .front = opt->front,
                          .top = opt->top,
                          .left = opt->left};
    s->out_frames = out_size(s->frames, s->front, 0, s->kt, 1);
    s->out_height = out_size(s->height * s->up, s->top, opt->bottom, s->kh, s->stride);
    s->out_width = out_size(s->width * s->up, s->left, opt->right, s->kw, s->stride);
    if (s->in != v->size[1])
        return kin_op_mismatch(ctx, w->name, x, v, "x must have the weight's input channels");
    if (s->stride < 1 || s->stride > 2 || s->up < 1 || s->up > 2 || s->stride * s->up > 2 ||
        s->front < 0 || s->front >= s->kt || s->top < 0 || s->top >= s->kh || s->left < 0 ||
        s->left >= s->kw || opt->bottom < 0 || opt->bottom >= s->kh || opt->right < 0 ||
        opt->right >= s->kw)
        return kin_op_mismatch(
            ctx, w->name, x, v,
            "convolution: stride or doubling at most 2, zeros less than the kernel");
    if (s->out_frames < 1 || s->out_height < 1 || s->out_width < 1)
        return kin_op_mismatch(ctx, w->name, x, v, "convolution: x is smaller than the kernel");
    return KIN_OK;
}

/* Contiguous t as rows of its last dimension. */
static kin_tensor rows_of(const kin_tensor *t)
{
    return KIN_RESHAPE(t, -1, t->size[t->ndim - 1]);
}

kin_status kin_conv(kin_ctx *ctx, const kin_tensor *x, kin_param *w, kin_param *b,
                    const kin_conv_options *opt, const kin_tensor *residual, kin_tensor *y)
{
    static const kin_conv_options none = {0};
    saved_conv *s = kin_op_record(ctx, sizeof *s);
    kin_dtype dtype;
    if (!s)
        return KIN_ERR_MEM;
    opt = opt ? opt : &none;
    KIN_TRY(kin_op_product_dtype(ctx, w->name, x, &dtype));
    KIN_TRY(conv_shape(ctx, x, w, opt, &s->s));
    const kin_conv_shape *c = &s->s;
    const int64_t sizes[5] = {c->batch, c->out_frames, c->out_height, c->out_width, c->out};
    const int64_t flat[4] = {c->batch, c->out_height, c->out_width, c->out};
    if (b && kin_tensor_numel(&b->value) != c->out)
        return kin_op_mismatch(ctx, b->name, &b->value, &w->value,
                               "a bias has one entry per output");
    if (opt->in_place && residual && !kin_tape_recording(ctx))
        *y = kin_tensor_of(residual->data, dtype, x->ndim, x->ndim == 5 ? sizes : flat);
    else
        KIN_TRY(kin_ws_tensor(ctx, dtype, x->ndim, x->ndim == 5 ? sizes : flat, y));
    if (residual && (!kin_tensor_same_shape(residual, y) || !kin_tensor_is_contiguous(residual)))
        return kin_op_mismatch(ctx, w->name, residual, y,
                               "the residual must have the result's shape");
    s->x = rows_of(x);
    s->y = rows_of(y);
    if (residual)
        s->residual = rows_of(residual);
    s->w = w;
    s->b = b;
    kin_conv_args a = {
        .s = *c, .x = &s->x, .w = w, .b = b, .residual = kin_op_opt(&s->residual), .y = &s->y};
    KIN_TRY(ctx->k->conv(ctx, &a));
    if (!kin_tape_needs(ctx, x) && !kin_tape_needs(ctx, residual) &&
        !kin_tape_needs_param(ctx, w) && !kin_tape_needs_param(ctx, b))
        return KIN_OK;
    KIN_TRY(kin_tape_add(ctx, y, conv_bwd, s));
    s->y.id = y->id;
    return KIN_OK;
}

/* --- group norm --- */

typedef struct saved_groupnorm {
    kin_groupnorm_args a;
    kin_tensor x, y, mean, rstd;
} saved_groupnorm;

static kin_status groupnorm_bwd(kin_ctx *ctx, void *saved)
{
    saved_groupnorm *s = saved;
    kin_tensor dy = kin_tape_grad_in(ctx, &s->y), dx;
    kin_groupnorm_args a = s->a;
    if (!dy.data)
        return KIN_OK;
    KIN_TRY(kin_tape_grad_slot(ctx, &s->x, &dx, &a.acc));
    a.dy = &dy;
    a.dx = dx.data ? &dx : NULL;
    return ctx->k->groupnorm_bwd(ctx, &a);
}

static kin_status groupnorm(kin_ctx *ctx, const kin_tensor *x, int64_t groups, kin_param *gamma,
                            kin_param *beta, kin_act act, float eps, bool operand, kin_tensor *y)
{
    saved_groupnorm *s = kin_op_record(ctx, sizeof *s);
    const int64_t channels = x->ndim ? x->size[x->ndim - 1] : 0;
    kin_dtype dtype;
    if (!s)
        return KIN_ERR_MEM;
    KIN_TRY(kin_op_dtype(ctx, "groupnorm", x, &dtype));
    if (x->ndim < 3 || !kin_tensor_is_contiguous(x) || kin_tensor_numel(x) < 1 || groups < 1 ||
        channels % groups || kin_tensor_numel(&gamma->value) != channels ||
        kin_tensor_numel(&beta->value) != channels)
        return kin_op_mismatch(ctx, gamma->name, x, &gamma->value,
                               "groupnorm: x is [B,...,C], contiguous, C a multiple of the groups");
    /* note: convolutions, which read it, are in f32 where other products are in 8-bit integers */
    operand = operand && ctx->compute == KIN_DTYPE_BF16;
    KIN_TRY(kin_ws_tensor(ctx, kin_op_kept(ctx, dtype, operand), x->ndim, x->size, y));
    KIN_TRY(KIN_WS(ctx, &s->mean, dtype, x->size[0], groups));
    KIN_TRY(KIN_WS(ctx, &s->rstd, dtype, x->size[0], groups));
    s->x = rows_of(x);
    s->y = rows_of(y);
    s->a = (kin_groupnorm_args){.batch = x->size[0],
                                .pixels = s->x.size[0] / x->size[0],
                                .channels = channels,
                                .groups = groups,
                                .eps = eps,
                                .act = act,
                                .x = &s->x,
                                .gamma = gamma,
                                .beta = beta,
                                .y = &s->y,
                                .mean = &s->mean,
                                .rstd = &s->rstd};
    KIN_TRY(ctx->k->groupnorm(ctx, &s->a));
    if (!kin_tape_needs(ctx, x) && !kin_tape_needs_param(ctx, gamma) &&
        !kin_tape_needs_param(ctx, beta))
        return KIN_OK;
    KIN_TRY(kin_tape_add(ctx, y, groupnorm_bwd, s));
    s->y.id = y->id;
    return KIN_OK;
}

kin_status kin_groupnorm(kin_ctx *ctx, const kin_tensor *x, int64_t groups, kin_param *gamma,
                         kin_param *beta, kin_act act, float eps, kin_tensor *y)
{
    return groupnorm(ctx, x, groups, gamma, beta, act, eps, false, y);
}

kin_status kin_groupnorm_operand(kin_ctx *ctx, const kin_tensor *x, int64_t groups,
                                 kin_param *gamma, kin_param *beta, kin_act act, float eps,
                                 kin_tensor *y)
{
    return groupnorm(ctx, x, groups, gamma, beta, act, eps, true, y);
}

/* --- posterior --- */

typedef struct saved_posterior {
    kin_tensor mean, logvar, noise, z, kl; /* [B,n]; kl [B] */
    float lo, hi;
} saved_posterior;

static kin_status posterior_bwd(kin_ctx *ctx, void *saved)
{
    saved_posterior *s = saved;
    kin_tensor dz = {0}, dkl = {0}, dmean, dlogvar;
    if (s->z.data)
        dz = kin_tape_grad_in(ctx, &s->z);
    else
        dkl = kin_tape_grad_in(ctx, &s->kl);
    if (!dz.data && !dkl.data)
        return KIN_OK;
    /* note: both may be views of one tensor: they add to a zeroed gradient */
    KIN_TRY(kin_tape_grad_slot_add(ctx, &s->mean, &dmean));
    KIN_TRY(kin_tape_grad_slot_add(ctx, &s->logvar, &dlogvar));
    kin_posterior_args a = {.mean = &s->mean,
                            .logvar = &s->logvar,
                            .noise = kin_op_opt(&s->noise),
                            .lo = s->lo,
                            .hi = s->hi,
                            .dz = kin_op_opt(&dz),
                            .dkl = kin_op_opt(&dkl),
                            .dmean = dmean.data ? &dmean : NULL,
                            .dlogvar = dlogvar.data ? &dlogvar : NULL,
                            .acc_dmean = true,
                            .acc_dlogvar = true};
    return ctx->k->posterior_bwd(ctx, &a);
}

/* t [B,...] as [B,n]; a sample is contiguous. */
static kin_status sample_rows(kin_ctx *ctx, const kin_tensor *t, kin_tensor *rows)
{
    kin_tensor one = kin_tensor_select(t, 0, 0);
    if (!kin_tensor_is_contiguous(&one))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "posterior: a sample must be contiguous");
    *rows = *t;
    rows->ndim = 2;
    rows->size[1] = kin_tensor_numel(&one);
    rows->stride[1] = 1;
    return KIN_OK;
}

static kin_status posterior_run(kin_ctx *ctx, const kin_tensor *mean, const kin_tensor *logvar,
                                const kin_tensor *noise, float lo, float hi, kin_tensor *out)
{
    saved_posterior *s = kin_op_record(ctx, sizeof *s);
    kin_dtype dtype;
    if (!s)
        return KIN_ERR_MEM;
    KIN_TRY(kin_op_dtype(ctx, "posterior", mean, &dtype));
    if (mean->ndim < 2 || kin_tensor_numel(mean) < 1 || !kin_tensor_same_shape(mean, logvar) ||
        (noise && !kin_tensor_same_shape(mean, noise)))
        return kin_op_mismatch(ctx, "posterior", mean, logvar,
                               "mean, logvar, noise have one shape");
    KIN_TRY(sample_rows(ctx, mean, &s->mean));
    KIN_TRY(sample_rows(ctx, logvar, &s->logvar));
    s->lo = lo;
    s->hi = hi;
    kin_posterior_args a = {.mean = &s->mean, .logvar = &s->logvar, .lo = lo, .hi = hi};
    if (noise) {
        KIN_TRY(sample_rows(ctx, noise, &s->noise));
        KIN_TRY(kin_ws_tensor(ctx, dtype, mean->ndim, mean->size, out));
        KIN_TRY(sample_rows(ctx, out, &s->z));
        a.noise = &s->noise;
        a.z = &s->z;
    } else {
        KIN_TRY(KIN_WS(ctx, out, dtype, mean->size[0]));
        s->kl = *out;
        a.kl = &s->kl;
    }
    KIN_TRY(ctx->k->posterior(ctx, &a));
    if (!kin_tape_needs(ctx, mean) && !kin_tape_needs(ctx, logvar))
        return KIN_OK;
    KIN_TRY(kin_tape_add(ctx, out, posterior_bwd, s));
    *(noise ? &s->z.id : &s->kl.id) = out->id;
    return KIN_OK;
}

kin_status kin_posterior_sample(kin_ctx *ctx, const kin_tensor *mean, const kin_tensor *logvar,
                                const kin_tensor *noise, float lo, float hi, kin_tensor *z)
{
    return posterior_run(ctx, mean, logvar, noise, lo, hi, z);
}

kin_status kin_posterior_kl(kin_ctx *ctx, const kin_tensor *mean, const kin_tensor *logvar,
                            float lo, float hi, kin_tensor *kl)
{
    return posterior_run(ctx, mean, logvar, NULL, lo, hi, kl);
}

kin_status kin_posterior_clamp(kin_ctx *ctx, kin_tensor *logvar, float lo, float hi)
{
    kin_tensor rows;
    KIN_TRY(sample_rows(ctx, logvar, &rows));
    kin_posterior_args a = {.mean = &rows, .logvar = &rows, .lo = lo, .hi = hi, .clamped = &rows};
    return ctx->k->posterior(ctx, &a);
}
