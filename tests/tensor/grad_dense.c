/* Graphs of test_grad.c: layers: convolution, products, norms, attention, in and out of token
 * space. */
#include "tests/tensor/grad.h"

/* --- convolution, group norm, posterior --- */

static void declare_conv(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(2, 4, 4, 3));
    grad_param(e, 0.5, KIN_DIMS(4, 3, 3, 3));
    grad_param(e, 0.5, KIN_DIMS(4));
    grad_input(e, 1, KIN_DIMS(2, 4, 4, 4));
}

/* variant 0: same size with a residual; 1: halved, zeros at the end; 2: doubled */
static kin_status conv(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    static const kin_conv_options opt[] = {{.top = 1, .bottom = 1, .left = 1, .right = 1},
                                           {.stride = 2, .bottom = 1, .right = 1},
                                           {.up = 2, .top = 1, .bottom = 1, .left = 1, .right = 1}};
    return kin_conv(ctx, &e->in[0], e->p[0], e->variant == 1 ? NULL : e->p[1], &opt[e->variant],
                    e->variant == 0 ? &e->in[1] : NULL, y);
}

static void declare_causal(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(1, 3, 3, 4, 2));
    grad_param(e, 0.5, KIN_DIMS(2, 2, 3, 3, 3));
    grad_param(e, 0.5, KIN_DIMS(2));
}

/* x is the residual too */
static kin_status causal(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    const kin_conv_options opt = {.front = 2, .top = 1, .bottom = 1, .left = 1, .right = 1};
    return kin_conv(ctx, &e->in[0], e->p[0], e->p[1], &opt, &e->in[0], y);
}

static void declare_groupnorm(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(2, 3, 2, 6));
    grad_param(e, 1, KIN_DIMS(6));
    grad_param(e, 1, KIN_DIMS(6));
}

static kin_status groupnorm(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    return (e->variant ? kin_groupnorm_operand : kin_groupnorm)(
        ctx, &e->in[0], 3, e->p[0], e->p[1], e->variant ? KIN_ACT_SILU : KIN_ACT_NONE, 1e-3f, y);
}

static void declare_posterior(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(2, 4, 2, 3)); /* mean and logvar of two channels */
}

/* variant 0: sample, 1: divergence */
static kin_status posterior(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    kin_tensor mean = kin_tensor_slice(&e->in[0], 1, 0, 2);
    kin_tensor logvar = kin_tensor_slice(&e->in[0], 1, 2, 2);
    kin_tensor noise;
    if (e->variant)
        return kin_posterior_kl(ctx, &mean, &logvar, -30, 20, y);
    KIN_TRY(KIN_WS(ctx, &noise, e->dtype, 2, 2, 2, 3));
    for (int i = 0; i < 24; i++)
        kin_tensor_set(&noise, i, i % 7 * 0.5 - 1.5);
    return kin_posterior_sample(ctx, &mean, &logvar, &noise, -30, 20, y);
}

/* --- products --- */

static void declare_linear(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(2, 3, 5));
    grad_param(e, 0.5, KIN_DIMS(4, 5));
    grad_param(e, 0.5, KIN_DIMS(4));
    grad_input(e, 1, KIN_DIMS(2, 3, 4));
    grad_input(e, 1, KIN_DIMS(2, 4));
}

static kin_status linear(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    return kin_linear(ctx, &e->in[0], e->p[0], e->variant ? e->p[1] : NULL, y);
}

static kin_status linear_act(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    return kin_linear_act(ctx, &e->in[0], e->p[0], e->p[1], (kin_act)e->variant, y);
}

/* variant bit 0: residual, bit 1: gate */
static kin_status linear_residual(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    return kin_linear_residual(ctx, &e->in[0], e->p[0], e->p[1], &e->in[1],
                               e->variant & 2 ? &e->in[2] : NULL, y);
}

/* variant 1: x is the residual too */
static kin_status gated_add(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    return kin_gated_add(ctx, &e->in[1], e->variant ? &e->in[1] : &e->in[3], &e->in[2], y);
}

static void declare_gated(grad_env *e)
{
    declare_linear(e);
    grad_input(e, 1, KIN_DIMS(2, 3, 4));
}

static void declare_patch_weight(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(3, 12));
    grad_param(e, 0.5, KIN_DIMS(5, 3, 2, 2));
    grad_param(e, 0.5, KIN_DIMS(5));
}

static kin_status patch_weight(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    return kin_linear(ctx, &e->in[0], e->p[0], e->p[1], y);
}

/* x is the residual too, and the gate is a slice of a wider tensor: the shape of a transformer's
 * MLP. */
static void declare_self_residual(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(4, 5));
    grad_input(e, 1, KIN_DIMS(2, 15));
    grad_param(e, 0.5, KIN_DIMS(5, 5));
    grad_param(e, 0.5, KIN_DIMS(5));
}

static kin_status self_residual(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    kin_tensor gate = kin_tensor_slice(&e->in[1], 1, 5, 5), h;
    KIN_TRY(kin_linear_residual(ctx, &e->in[0], e->p[0], e->p[1], &e->in[0], &gate, &h));
    gate = kin_tensor_slice(&e->in[1], 1, 10, 5);
    return kin_linear_residual(ctx, &h, e->p[0], e->p[1], &h, &gate, y);
}

/* --- norms --- */

static void declare_norm(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(2, 3, 7));
    grad_input(e, 1, KIN_DIMS(2, 28));
    grad_param(e, 1, KIN_DIMS(7));
    grad_param(e, 1, KIN_DIMS(7));
}

/* variant bit 0: gamma, bit 1: beta, bit 2: scale and shift (chunks of one modulation row) */
static kin_status layernorm(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    kin_tensor scale = kin_tensor_slice(&e->in[1], 1, 7, 7);
    kin_tensor shift = kin_tensor_slice(&e->in[1], 1, 21, 7);
    bool mod = e->variant & 4;
    return kin_layernorm(ctx, &e->in[0], e->variant & 1 ? e->p[0] : NULL,
                         e->variant & 2 ? e->p[1] : NULL, mod ? &scale : NULL, mod ? &shift : NULL,
                         1e-5f, y);
}

static kin_status rmsnorm(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    return kin_rmsnorm(ctx, &e->in[0], e->variant ? e->p[0] : NULL, 1e-6f, y);
}

/* --- attention --- */

static void declare_attention(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(2, 5, 2, 4));
    grad_input(e, 1, KIN_DIMS(2, 6, 2, 4));
    grad_input(e, 1, KIN_DIMS(2, 6, 2, 4));
    grad_input(e, 1, KIN_DIMS(2, 5, 6));
}

/* variant bit 0: bias, bit 1: mask, bit 2: gate */
static kin_status attention(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    static const int keep[12] = {1, 1, 0, 1, 0, 1, 1, 0, 0, 1, 1, 1};
    static const double gates[4] = {0.5, 0, -1.5, 2};
    kin_tensor mask, gate;
    KIN_TRY(grad_ints(ctx, KIN_DTYPE_U8, keep, KIN_DIMS(2, 6), &mask));
    KIN_TRY(KIN_WS(ctx, &gate, e->dtype, 2, 2));
    for (int i = 0; i < 4; i++)
        kin_tensor_set(&gate, i, gates[i]);
    kin_attention_options opt = {.bias = e->variant & 1 ? &e->in[3] : NULL,
                                 .mask = e->variant & 2 ? &mask : NULL,
                                 .gate = e->variant & 4 ? &gate : NULL,
                                 .scale = e->variant & 1 ? 0.7f : 0};
    return kin_attention(ctx, &e->in[0], &e->in[1], &e->in[2], &opt, y);
}

/* One product makes q, k and v: views of one node. */
static void declare_qkv(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(2, 5, 6));
    grad_param(e, 0.5, KIN_DIMS(24, 6));
    grad_param(e, 0.5, KIN_DIMS(24));
}

static kin_status qkv_attention(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    kin_tensor qkv, q, k, v;
    KIN_TRY(kin_linear(ctx, &e->in[0], e->p[0], e->p[1], &qkv));
    qkv = KIN_RESHAPE(&qkv, 2, 5, 3, 2, 4);
    q = kin_tensor_select(&qkv, 2, 0);
    k = kin_tensor_select(&qkv, 2, 1);
    v = kin_tensor_select(&qkv, 2, 2);
    return kin_attention(ctx, &q, &k, &v, NULL, y);
}

/* q, k and v are the same tensor. */
static void declare_one(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(1, 5, 2, 4));
}

static kin_status same_attention(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    return kin_attention(ctx, &e->in[0], &e->in[0], &e->in[0], NULL, y);
}

static void declare_head_norm(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(2, 3, 12));
    grad_param(e, 1, KIN_DIMS(12));
    grad_param(e, 1, KIN_DIMS(4));
    grad_param(e, 1, KIN_DIMS(4));
}

/* variant bit 0: per head, bit 1: turned */
static kin_status head_norm(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    kin_tensor c, s;
    KIN_TRY(KIN_WS(ctx, &c, e->dtype, 3, 2));
    KIN_TRY(KIN_WS(ctx, &s, e->dtype, 3, 2));
    for (int i = 0; i < 6; i++) {
        kin_tensor_set(&c, i, 0.8 - 0.2 * i);
        kin_tensor_set(&s, i, 0.1 + 0.15 * i);
    }
    bool per_head = e->variant & 1, turn = e->variant & 2;
    const kin_head_norm_options opt = {.heads = 3,
                                       .per_head = per_head,
                                       .gamma = e->p[per_head ? 1 : 0],
                                       .beta = per_head ? e->p[2] : NULL,
                                       .eps = 1e-6f,
                                       .cos = turn ? &c : NULL,
                                       .sin = turn ? &s : NULL};
    return kin_head_norm(ctx, &e->in[0], &opt, y);
}

static void declare_rope(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(2, 3, 2, 6));
}

static kin_status rope(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    kin_tensor c, s;
    KIN_TRY(KIN_WS(ctx, &c, e->dtype, 3, 3));
    KIN_TRY(KIN_WS(ctx, &s, e->dtype, 3, 3));
    for (int i = 0; i < 9; i++) {
        kin_tensor_set(&c, i, 0.8 - 0.2 * i);
        kin_tensor_set(&s, i, 0.1 + 0.15 * i);
    }
    return kin_rope(ctx, &e->in[0], &c, &s, y);
}

/* --- in and out of token space --- */

static void declare_embedding(grad_env *e)
{
    grad_param(e, 1, KIN_DIMS(5, 3));
}

static kin_status embedding(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    static const int id[6] = {4, 0, 4, 2, 2, 4};
    kin_tensor ids;
    KIN_TRY(grad_ints(ctx, KIN_DTYPE_I32, id, KIN_DIMS(2, 3), &ids));
    return kin_embedding(ctx, e->p[0], &ids, y);
}

static void declare_video(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(2, 3, 2, 4, 6));
    grad_input(e, 1, KIN_DIMS(2, 12, 12));
}

static const int patch[3] = {1, 2, 2};

static kin_status patchify(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    return kin_patchify(ctx, &e->in[0], patch, e->variant, y);
}

static kin_status unpatchify(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    return kin_unpatchify(ctx, &e->in[1], patch, e->variant, 3, 2, 4, 6, y);
}

const grad_case grad_dense_cases[] = {
    {"linear", "linear", declare_linear, linear, 0, false},
    {"linear, bias", "linear", declare_linear, linear, 1, false},
    {"linear, flat weight", "linear", declare_patch_weight, patch_weight, 0, false},
    {"linear, gelu", "linear_act", declare_linear, linear_act, KIN_ACT_GELU_TANH, false},
    {"linear, silu", "linear_act", declare_linear, linear_act, KIN_ACT_SILU, false},
    {"linear, sigmoid", "linear_act", declare_linear, linear_act, KIN_ACT_SIGMOID, false},
    {"linear, relu", "linear_act", declare_linear, linear_act, KIN_ACT_RELU, false},
    {"linear, residual", "linear_residual", declare_linear, linear_residual, 1, false},
    {"linear, gated residual", "linear_residual", declare_linear, linear_residual, 3, false},
    {"gated_add", "gated_add", declare_gated, gated_add, 0, false},
    {"gated_add, x is the residual", "gated_add", declare_gated, gated_add, 1, false},
    {"linear, x is the residual", "linear_residual", declare_self_residual, self_residual, 0,
     false},
    {"layernorm", "layernorm", declare_norm, layernorm, 0, true},
    {"layernorm, affine", "layernorm", declare_norm, layernorm, 3, true},
    {"layernorm, modulated", "layernorm", declare_norm, layernorm, 4, true},
    {"layernorm, all", "layernorm", declare_norm, layernorm, 7, true},
    {"rmsnorm", "rmsnorm", declare_norm, rmsnorm, 0, true},
    {"rmsnorm, gamma", "rmsnorm", declare_norm, rmsnorm, 1, true},
    {"attention", "attention", declare_attention, attention, 0, true},
    {"attention, bias", "attention", declare_attention, attention, 1, true},
    {"attention, mask", "attention", declare_attention, attention, 2, true},
    {"attention, gate", "attention", declare_attention, attention, 4, true},
    {"attention, all", "attention", declare_attention, attention, 7, true},
    {"attention, one product", "attention linear", declare_qkv, qkv_attention, 0, true},
    {"attention, one tensor", "attention", declare_one, same_attention, 0, true},
    {"head_norm", "head_norm", declare_head_norm, head_norm, 0, true},
    {"head_norm, per head", "head_norm", declare_head_norm, head_norm, 1, true},
    {"head_norm, turned", "head_norm", declare_head_norm, head_norm, 2, true},
    {"head_norm, per head, turned", "head_norm", declare_head_norm, head_norm, 3, true},
    {"conv, residual", "conv", declare_conv, conv, 0, false},
    {"conv, halved", "conv", declare_conv, conv, 1, false},
    {"conv, doubled", "conv", declare_conv, conv, 2, false},
    {"conv, causal", "conv", declare_causal, causal, 0, false},
    {"groupnorm", "groupnorm", declare_groupnorm, groupnorm, 0, true},
    {"groupnorm, silu", "groupnorm_operand", declare_groupnorm, groupnorm, 1, true},
    {"posterior, sample", "posterior_sample", declare_posterior, posterior, 0, false},
    {"posterior, divergence", "posterior_kl", declare_posterior, posterior, 1, false},
    {"rope", "rope", declare_rope, rope, 0, false},
    {"embedding", "embedding", declare_embedding, embedding, 0, false},
    {"patchify", "patchify", declare_video, patchify, 0, false},
    {"patchify, channel last", "patchify", declare_video, patchify, 1, false},
    {"unpatchify", "unpatchify", declare_video, unpatchify, 0, false},
    {"unpatchify, channel last", "unpatchify", declare_video, unpatchify, 1, false},
    {NULL, NULL, NULL, NULL, 0, false},
};
