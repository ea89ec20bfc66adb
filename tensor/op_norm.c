/* LayerNorm with modulation and RMSNorm, over the last dimension; the norm of queries and keys with
 * their rotary turn. */
#include "tensor/op_common.h"

typedef struct saved_norm {
    kin_tensor x, y, scale, shift, mean, rstd, cos, sin;
    int64_t turn_rows;
    kin_live live;
    kin_param *gamma, *beta;
    float eps;
    bool rms;
} saved_norm;

static kin_norm_args norm_args(saved_norm *s)
{
    return (kin_norm_args){.rows = s->x.size[0],
                           .d = s->x.size[1],
                           .eps = s->eps,
                           .x = &s->x,
                           .gamma = s->gamma,
                           .beta = s->beta,
                           .scale = kin_op_opt(&s->scale),
                           .shift = kin_op_opt(&s->shift),
                           .y = &s->y,
                           .mean = &s->mean,
                           .rstd = &s->rstd,
                           .cos = kin_op_opt(&s->cos),
                           .sin = kin_op_opt(&s->sin),
                           .turn_rows = s->turn_rows,
                           .live = s->live};
}

static kin_status norm_bwd(kin_ctx *ctx, void *saved)
{
    saved_norm *s = saved;
    kin_tensor dy = kin_tape_grad_in(ctx, &s->y), dx, dscale = {0}, dshift = {0};
    if (!dy.data)
        return KIN_OK;
    kin_norm_args a = norm_args(s);
    a.dy = &dy;
    KIN_TRY(kin_tape_grad_slot(ctx, &s->x, &dx, &a.acc_dx));
    a.dx = dx.data ? &dx : NULL;
    if (s->scale.data) {
        KIN_TRY(kin_tape_grad_slot(ctx, &s->scale, &dscale, &a.acc_dscale));
        KIN_TRY(kin_tape_grad_slot(ctx, &s->shift, &dshift, &a.acc_dshift));
        a.dscale = dscale.data ? &dscale : NULL;
        a.dshift = dshift.data ? &dshift : NULL;
    }
    return s->rms ? ctx->k->rmsnorm_bwd(ctx, &a) : ctx->k->layernorm_bwd(ctx, &a);
}

static kin_status norm_check(kin_ctx *ctx, const char *op, const kin_tensor *x, const saved_norm *s)
{
    int64_t d = s->x.size[1];
    if (d < 1)
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "%s: the last dimension is empty", op);
    if (s->gamma && kin_tensor_numel(&s->gamma->value) != d)
        return kin_op_mismatch(ctx, s->gamma->name, &s->gamma->value, x,
                               "the weight must have the last size of x");
    if (s->beta && kin_tensor_numel(&s->beta->value) != d)
        return kin_op_mismatch(ctx, s->beta->name, &s->beta->value, x,
                               "the bias must have the last size of x");
    if ((s->scale.data != NULL) != (s->shift.data != NULL))
        return kin_fail(&ctx->error, KIN_ERR_ARG, "%s: scale and shift come together", op);
    if (s->scale.data &&
        (s->scale.size[1] != d || s->shift.size[1] != d || s->scale.size[0] != s->shift.size[0] ||
         s->scale.size[0] < 1 || s->x.size[0] % s->scale.size[0] != 0))
        return kin_op_mismatch(ctx, op, &s->scale, x,
                               "scale and shift are [B, D] with B dividing the rows");
    return KIN_OK;
}

static kin_status norm_run(kin_ctx *ctx, const char *op, const kin_tensor *x,
                           const kin_tensor *scale, const kin_tensor *shift, bool operand,
                           saved_norm *s, kin_tensor *y)
{
    kin_dtype dtype;
    KIN_TRY(kin_op_dtype(ctx, op, x, &dtype));
    KIN_TRY(kin_op_rows(ctx, op, x, &s->x));
    KIN_TRY(kin_op_rows(ctx, op, scale, &s->scale));
    KIN_TRY(kin_op_rows(ctx, op, shift, &s->shift));
    KIN_TRY(norm_check(ctx, op, x, s));
    KIN_TRY(kin_ws_tensor(ctx, kin_op_kept(ctx, dtype, operand), x->ndim, x->size, y));
    KIN_TRY(kin_op_rows(ctx, op, y, &s->y));
    KIN_TRY(KIN_WS(ctx, &s->mean, dtype, s->x.size[0]));
    KIN_TRY(KIN_WS(ctx, &s->rstd, dtype, s->x.size[0]));
    kin_norm_args a = norm_args(s);
    KIN_TRY(s->rms ? ctx->k->rmsnorm(ctx, &a) : ctx->k->layernorm(ctx, &a));
    bool grad = kin_tape_needs(ctx, x) || kin_tape_needs(ctx, scale) ||
                kin_tape_needs(ctx, shift) || kin_tape_needs_param(ctx, s->gamma) ||
                kin_tape_needs_param(ctx, s->beta);
    if (!grad)
        return KIN_OK;
    KIN_TRY(kin_tape_add(ctx, y, norm_bwd, s));
    s->y.id = y->id;
    return KIN_OK;
}

static kin_status layernorm(kin_ctx *ctx, const kin_tensor *x, kin_param *gamma, kin_param *beta,
                            const kin_tensor *scale, const kin_tensor *shift, float eps,
                            bool operand, kin_tensor *y)
{
    saved_norm *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    s->gamma = gamma;
    s->beta = beta;
    s->eps = eps;
    return norm_run(ctx, "layernorm", x, scale, shift, operand, s, y);
}

kin_status kin_layernorm(kin_ctx *ctx, const kin_tensor *x, kin_param *gamma, kin_param *beta,
                         const kin_tensor *scale, const kin_tensor *shift, float eps, kin_tensor *y)
{
    return layernorm(ctx, x, gamma, beta, scale, shift, eps, false, y);
}

kin_status kin_layernorm_operand(kin_ctx *ctx, const kin_tensor *x, kin_param *gamma,
                                 kin_param *beta, const kin_tensor *scale, const kin_tensor *shift,
                                 float eps, kin_tensor *y)
{
    return layernorm(ctx, x, gamma, beta, scale, shift, eps, true, y);
}

kin_status kin_rmsnorm(kin_ctx *ctx, const kin_tensor *x, kin_param *gamma, float eps,
                       kin_tensor *y)
{
    saved_norm *s = kin_op_record(ctx, sizeof *s);
    if (!s)
        return KIN_ERR_MEM;
    s->gamma = gamma;
    s->eps = eps;
    s->rms = true;
    return norm_run(ctx, "rmsnorm", x, NULL, NULL, false, s, y);
}

kin_status kin_head_norm(kin_ctx *ctx, const kin_tensor *x, const kin_head_norm_options *opt,
                         kin_tensor *y)
{
    saved_norm *s = kin_op_record(ctx, sizeof *s);
    kin_tensor rows = *x;
    if (!s)
        return KIN_ERR_MEM;
    if (x->ndim != 3 || opt->heads < 1 || x->size[2] % opt->heads != 0)
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "head norm: x must be [B,N,A*d] with A = %lld",
                        (long long)opt->heads);
    int64_t B = x->size[0], N = x->size[1], d = x->size[2] / opt->heads;
    if (opt->cos) {
        const kin_tensor *c = opt->cos;
        if (c->ndim != 2 || c->size[0] != N || 2 * c->size[1] != d ||
            !kin_tensor_same_shape(c, opt->sin) || c->dtype != x->dtype)
            return kin_op_mismatch(ctx, "head norm", x, c, "the tables are [N,d/2]");
        s->cos = *c;
        s->sin = *opt->sin;
    }
    s->gamma = opt->gamma;
    s->beta = opt->beta;
    s->eps = opt->eps;
    s->rms = !opt->per_head;
    s->turn_rows = opt->per_head ? opt->heads : 1;
    if (opt->per_head && !kin_tape_recording(ctx))
        s->live = opt->live;
    if (opt->per_head)
        rows = KIN_RESHAPE(x, B, N, opt->heads, d);
    KIN_TRY(norm_run(ctx, "head norm", &rows, NULL, NULL, opt->operand, s, y));
    *y = KIN_RESHAPE(y, B, N, opt->heads, d);
    return KIN_OK;
}
