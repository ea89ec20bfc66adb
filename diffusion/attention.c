#include "diffusion/attention.h"

void kin_wan_attention_register(kin_params *params, const char *prefix, int64_t width,
                                int64_t heads, float eps, kin_wan_attention *a)
{
    const kin_init xavier = KIN_INIT(KIN_INIT_XAVIER, 1), zero = KIN_INIT(KIN_INIT_ZERO, 0),
                   one = KIN_INIT(KIN_INIT_ONE, 1);
    const int64_t d = width;

    *a = (kin_wan_attention){.width = width, .heads = heads, .eps = eps};
    a->nk = kin_params_add(params, one, KIN_DIMS(d), "%snorm_k.weight", prefix);
    a->nq = kin_params_add(params, one, KIN_DIMS(d), "%snorm_q.weight", prefix);
    a->q_w = kin_params_add(params, xavier, KIN_DIMS(d, d), "%sto_q.weight", prefix);
    a->q_b = kin_params_add(params, zero, KIN_DIMS(d), "%sto_q.bias", prefix);
    a->k_w = kin_params_add(params, xavier, KIN_DIMS(d, d), "%sto_k.weight", prefix);
    a->k_b = kin_params_add(params, zero, KIN_DIMS(d), "%sto_k.bias", prefix);
    a->v_w = kin_params_add(params, xavier, KIN_DIMS(d, d), "%sto_v.weight", prefix);
    a->v_b = kin_params_add(params, zero, KIN_DIMS(d), "%sto_v.bias", prefix);
    a->o_w = kin_params_add(params, xavier, KIN_DIMS(d, d), "%sto_out.0.weight", prefix);
    a->o_b = kin_params_add(params, zero, KIN_DIMS(d), "%sto_out.0.bias", prefix);
    kin_params_allow_int8((kin_param *[]){a->q_w, a->k_w, a->v_w, a->o_w}, 4);
}

/* projection, RMS norm over all heads (norm NULL: none), rotary turn (cos NULL: none) -> [B,N,A,d]
 */
static kin_status project(kin_ctx *ctx, const kin_wan_attention *a, const kin_tensor *x,
                          kin_param *w, kin_param *b, kin_param *norm, const kin_tensor *cos,
                          const kin_tensor *sin, kin_tensor *y)
{
    const kin_head_norm_options opt = {
        .heads = a->heads, .gamma = norm, .eps = a->eps, .cos = cos, .sin = sin, .operand = true};
    kin_tensor z;

    KIN_TRY(kin_linear_with(ctx, x, w, b, &(kin_linear_options){.operand = !norm}, &z));
    if (norm)
        return kin_head_norm(ctx, &z, &opt, y);
    *y = KIN_RESHAPE(&z, x->size[0], x->size[1], a->heads, a->width / a->heads);
    return KIN_OK;
}

/* y = residual + gate * to_out(attention(q, k, v)) */
static kin_status attend(kin_ctx *ctx, const kin_wan_attention *a, const kin_tensor *q,
                         const kin_tensor *k, const kin_tensor *v, const kin_tensor *residual,
                         const kin_tensor *gate, kin_tensor *y)
{
    const kin_attention_options opt = {.operand = true};
    kin_tensor o;

    KIN_TRY(kin_attention(ctx, q, k, v, &opt, &o));
    o = KIN_RESHAPE(&o, q->size[0], q->size[1], a->width);
    return kin_linear_residual(ctx, &o, a->o_w, a->o_b, residual, gate, y);
}

kin_status kin_wan_attention_forward(kin_ctx *ctx, const kin_wan_attention *a, const kin_tensor *x,
                                     const kin_tensor *context, const kin_tensor *cos,
                                     const kin_tensor *sin, const kin_tensor *residual,
                                     const kin_tensor *gate, kin_tensor *y)
{
    const kin_tensor *keys = context ? context : x;
    kin_tensor q, k, v;

    KIN_TRY(project(ctx, a, x, a->q_w, a->q_b, a->nq, cos, sin, &q));
    KIN_TRY(project(ctx, a, keys, a->k_w, a->k_b, a->nk, cos, sin, &k));
    KIN_TRY(project(ctx, a, keys, a->v_w, a->v_b, NULL, NULL, NULL, &v));
    return attend(ctx, a, &q, &k, &v, residual, gate, y);
}

kin_status kin_wan_attention_keys(kin_ctx *ctx, const kin_wan_attention *a,
                                  const kin_tensor *context, kin_tensor *k, kin_tensor *v)
{
    KIN_TRY(project(ctx, a, context, a->k_w, a->k_b, a->nk, NULL, NULL, k));
    return project(ctx, a, context, a->v_w, a->v_b, NULL, NULL, NULL, v);
}

kin_status kin_wan_attention_cross(kin_ctx *ctx, const kin_wan_attention *a, const kin_tensor *x,
                                   const kin_tensor *k, const kin_tensor *v,
                                   const kin_tensor *residual, kin_tensor *y)
{
    kin_tensor q;

    KIN_TRY(project(ctx, a, x, a->q_w, a->q_b, a->nq, NULL, NULL, &q));
    return attend(ctx, a, &q, k, v, residual, NULL, y);
}

void kin_dit_attention_register(kin_params *params, const char *prefix, int64_t width,
                                int64_t heads, int64_t head_dim, bool qk_norm, kin_dit_attention *a)
{
    const kin_init xavier = KIN_INIT(KIN_INIT_XAVIER, 1), zero = KIN_INIT(KIN_INIT_ZERO, 0),
                   one = KIN_INIT(KIN_INIT_ONE, 1);
    const int64_t inner = heads * head_dim;

    *a = (kin_dit_attention){.heads = heads, .head_dim = head_dim};
    a->qkv_w = kin_params_add(params, xavier, KIN_DIMS(3 * inner, width), "%sqkv.weight", prefix);
    a->qkv_b = kin_params_add(params, zero, KIN_DIMS(3 * inner), "%sqkv.bias", prefix);
    if (qk_norm) {
        a->nq_w = kin_params_add(params, one, KIN_DIMS(head_dim), "%sq_norm.weight", prefix);
        a->nq_b = kin_params_add(params, zero, KIN_DIMS(head_dim), "%sq_norm.bias", prefix);
        a->nk_w = kin_params_add(params, one, KIN_DIMS(head_dim), "%sk_norm.weight", prefix);
        a->nk_b = kin_params_add(params, zero, KIN_DIMS(head_dim), "%sk_norm.bias", prefix);
    }
    a->proj_w = kin_params_add(params, xavier, KIN_DIMS(width, inner), "%sproj.weight", prefix);
    a->proj_b = kin_params_add(params, zero, KIN_DIMS(width), "%sproj.bias", prefix);
    kin_params_allow_int8((kin_param *[]){a->qkv_w, a->proj_w}, 2);
}

static kin_status head_norm(kin_ctx *ctx, kin_param *w, kin_param *b, kin_tensor *x)
{
    kin_tensor dense, y;

    KIN_TRY(kin_contiguous(ctx, x, &dense));
    KIN_TRY(kin_layernorm(ctx, &dense, w, b, NULL, NULL, 1e-5f, &y));
    *x = y;
    return KIN_OK;
}

kin_status kin_dit_attention_forward(kin_ctx *ctx, const kin_dit_attention *a, const kin_tensor *x,
                                     const kin_tensor *residual, const kin_tensor *gate,
                                     kin_tensor *y)
{
    const int64_t B = x->size[0], S = x->size[1];
    const kin_attention_options opt = {.operand = true};
    kin_tensor qkv, q, k, v, o;

    KIN_TRY(kin_linear_with(ctx, x, a->qkv_w, a->qkv_b, &(kin_linear_options){.operand = !a->nq_w},
                            &qkv));
    qkv = KIN_RESHAPE(&qkv, B, S, 3, a->heads, a->head_dim);
    q = kin_tensor_select(&qkv, 2, 0);
    k = kin_tensor_select(&qkv, 2, 1);
    v = kin_tensor_select(&qkv, 2, 2);
    if (a->nq_w) {
        KIN_TRY(head_norm(ctx, a->nq_w, a->nq_b, &q));
        KIN_TRY(head_norm(ctx, a->nk_w, a->nk_b, &k));
    }
    KIN_TRY(kin_attention(ctx, &q, &k, &v, &opt, &o));
    o = KIN_RESHAPE(&o, B, S, a->heads * a->head_dim);
    return kin_linear_residual(ctx, &o, a->proj_w, a->proj_b, residual, gate, y);
}
