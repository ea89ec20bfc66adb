/* The graphs of test_grad.c: every differentiable op of ops.h, alone and in the combinations the
 * models use. */
#include "tests/tensor/grad.h"

/* i32 or u8 values in the workspace. */
static kin_status ints(kin_ctx *ctx, kin_dtype dtype, const int *values, int ndim,
                       const int64_t *sizes, kin_tensor *out)
{
    KIN_TRY(kin_ws_tensor(ctx, dtype, ndim, sizes, out));
    for (int64_t i = 0; i < kin_tensor_numel(out); i++)
        kin_tensor_set(out, i, values[i]);
    return KIN_OK;
}

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
    return kin_groupnorm(ctx, &e->in[0], 3, e->p[0], e->p[1],
                         e->variant ? KIN_ACT_SILU : KIN_ACT_NONE, 1e-3f, y);
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
    KIN_TRY(ints(ctx, KIN_DTYPE_U8, keep, KIN_DIMS(2, 6), &mask));
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
    KIN_TRY(ints(ctx, KIN_DTYPE_I32, id, KIN_DIMS(2, 3), &ids));
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

/* --- routing --- */

static void declare_cosine(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(6, 5));
    grad_param(e, 1, KIN_DIMS(4, 5));
}

static kin_status cosine(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    return kin_cosine(ctx, &e->in[0], e->p[0], y);
}

static void declare_choice(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(6, 5));
}

static kin_status gate_scores(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    return kin_gate_scores(ctx, &e->in[0], e->p[0], y);
}

/* variant 0: one pool, 1: a pool per sample, one of them null, 2: as many as have gate above the
 * threshold, 3: exactly those */
static kin_status choose(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    static const int null[3] = {0, 1, 0};
    static const kin_take rule[4] = {KIN_TAKE_TOP, KIN_TAKE_TOP, KIN_TAKE_COUNT, KIN_TAKE_ABOVE};
    kin_choose_options o = {.rule = rule[e->variant], .pools = 1, .k = 2, .null_expert = 5};
    kin_tensor mask, gate, threshold, idx;
    KIN_TRY(ints(ctx, KIN_DTYPE_U8, null, KIN_DIMS(3), &mask));
    KIN_TRY(KIN_WS(ctx, &gate, e->dtype, 6, 5));
    KIN_TRY(KIN_WS(ctx, &threshold, e->dtype, 5));
    for (int i = 0; i < 30 && !kin_ctx_is_plan(ctx); i++)
        kin_tensor_set(&gate, i, i * 7 % 10 * 0.1);
    KIN_TRY(kin_fill(ctx, &threshold, 0.55));
    if (e->variant == 1) {
        o.pools = 3;
        o.k = 1;
        o.null = &mask;
    }
    o.gate = &gate;
    o.threshold = &threshold;
    return kin_choose(ctx, &e->in[0], &o, &idx, y);
}

static kin_status topk(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    static const int null[3] = {0, 1, 0};
    kin_tensor mask, idx;
    KIN_TRY(ints(ctx, KIN_DTYPE_U8, null, KIN_DIMS(3), &mask));
    return kin_topk(ctx, &e->in[0], 2, e->variant ? &mask : NULL, 5, &idx, y);
}

enum { EXPERTS = 3 };

/* Tokens, prototypes, two layers of experts (the last one unconditional), a base to add to. */
static void declare_moe(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(6, 5));
    grad_input(e, 1, KIN_DIMS(6, 5));
    grad_param(e, 1, KIN_DIMS(EXPERTS - 1, 5));
    for (int i = 0; i < EXPERTS; i++)
        grad_param(e, 0.5, KIN_DIMS(4, 5));
    for (int i = 0; i < EXPERTS; i++)
        grad_param(e, 0.5, KIN_DIMS(4));
    for (int i = 0; i < EXPERTS; i++)
        grad_param(e, 0.5, KIN_DIMS(5, 4));
    for (int i = 0; i < EXPERTS; i++)
        grad_param(e, 0.5, KIN_DIMS(5));
}

/* variant bit 0: base, bit 1: K = 2, bit 2: null sample, bit 3: second layer on gathered tokens */
static kin_status moe(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    static const int null[3] = {0, 1, 0};
    static kin_param *up[EXPERTS], *bias[EXPERTS], *down[EXPERTS], *down_bias[EXPERTS];
    kin_tensor mask, z, idx, w, h, out;
    kin_dispatch d;
    for (int i = 0; i < EXPERTS; i++) {
        up[i] = e->p[1 + i];
        bias[i] = e->p[1 + EXPERTS + i];
        down[i] = e->p[1 + 2 * EXPERTS + i];
        down_bias[i] = e->p[1 + 3 * EXPERTS + i];
    }
    KIN_TRY(ints(ctx, KIN_DTYPE_U8, null, KIN_DIMS(3), &mask));
    KIN_TRY(kin_cosine(ctx, &e->in[0], e->p[0], &z));
    KIN_TRY(kin_topk(ctx, &z, e->variant & 2 ? 2 : 1, e->variant & 4 ? &mask : NULL, EXPERTS - 1,
                     &idx, &w));
    KIN_TRY(kin_dispatch_build(ctx, &idx, &w, EXPERTS, EXPERTS - 1, 0, &d));
    KIN_TRY(kin_linear_grouped(ctx, &e->in[0], &d, true, up, bias, KIN_ACT_GELU_TANH, &h));
    KIN_TRY(kin_linear_grouped(ctx, &h, &d, false, down, down_bias, KIN_ACT_NONE, &out));
    return kin_combine(ctx, &out, &d, e->variant & 1 ? &e->in[1] : NULL, y);
}

/* Expert choice through experts without biases: each of two takes three of the six tokens; a token
 * may have none or both. */
static kin_status moe_chosen(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    static kin_param *up[EXPERTS - 1], *down[EXPERTS - 1];
    kin_tensor z, idx, w, h, out;
    kin_dispatch d;
    for (int i = 0; i < EXPERTS - 1; i++) {
        up[i] = e->p[1 + i];
        down[i] = e->p[1 + 2 * EXPERTS + i];
    }
    KIN_TRY(kin_gate_scores(ctx, &e->in[0], e->p[0], &z));
    KIN_TRY(kin_choose(ctx, &z, &(kin_choose_options){.pools = 1, .k = 3}, &idx, &w));
    KIN_TRY(kin_dispatch_build(ctx, &idx, &w, EXPERTS - 1, -1, 6, &d));
    KIN_TRY(kin_linear_grouped(ctx, &e->in[0], &d, true, up, NULL, KIN_ACT_SILU, &h));
    KIN_TRY(kin_linear_grouped(ctx, &h, &d, false, down, NULL, KIN_ACT_NONE, &out));
    return kin_combine(ctx, &out, &d, &e->in[1], y);
}

/* SwiGLU experts: two grouped products of the same tokens, multiplied. */
static kin_status moe_swiglu(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    static kin_param *gate[EXPERTS], *up[EXPERTS], *bias[EXPERTS], *down[EXPERTS], *db[EXPERTS];
    static const int pick[6] = {0, 1, 1, 0, 2, 1};
    kin_tensor idx, w, g, u, h, out;
    kin_dispatch d;
    for (int i = 0; i < EXPERTS; i++) {
        gate[i] = e->p[1 + i];
        up[i] = e->p[1 + (i + 1) % EXPERTS];
        bias[i] = e->p[1 + EXPERTS + i];
        down[i] = e->p[1 + 2 * EXPERTS + i];
        db[i] = e->p[1 + 3 * EXPERTS + i];
    }
    KIN_TRY(ints(ctx, KIN_DTYPE_I32, pick, KIN_DIMS(6, 1), &idx));
    KIN_TRY(KIN_WS(ctx, &w, e->dtype, 6, 1));
    KIN_TRY(kin_fill(ctx, &w, 1));
    KIN_TRY(kin_dispatch_build(ctx, &idx, &w, EXPERTS, -1, 0, &d));
    KIN_TRY(kin_linear_grouped(ctx, &e->in[0], &d, true, gate, bias, KIN_ACT_SILU, &g));
    KIN_TRY(kin_linear_grouped(ctx, &e->in[0], &d, true, up, bias, KIN_ACT_NONE, &u));
    KIN_TRY(kin_mul(ctx, &g, &u, 1, &h));
    KIN_TRY(kin_linear_grouped(ctx, &h, &d, false, down, db, KIN_ACT_NONE, &out));
    return kin_combine(ctx, &out, &d, &e->in[1], y);
}

/* variant 0: two slots, 1: slot 0 only, 2: one expert has tokens, 3: the idle expert in between, 4:
 * three parts, one of them without experts */
static kin_status rcl(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    static const int pick[5][12] = {{0, 1, 1, 2, 3, 0, 4, 4, 2, 1, 0, 3},
                                    {0, 1, 1, 2, 3, 0, 4, 4, 2, 1, 0, 3},
                                    {2, 2, 2, 2, 2, 2, 2, 2, 4, 4, 4, 4},
                                    {0, 3, 3, 0, 2, 0, 2, 3, 0, 3, 4, 4},
                                    {0, 1, 2, -1, 4, -1, 4, -1, 3, 1, -1, 0}};
    kin_tensor idx;
    KIN_TRY(ints(ctx, KIN_DTYPE_I32, pick[e->variant], KIN_DIMS(6, 2), &idx));
    return kin_rcl(ctx, &e->in[0], e->p[0], &idx, e->variant == 1 ? 1 : 2, e->variant == 4 ? 3 : 1,
                   0.25f, y);
}

static void declare_balance(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(6, 4));
}

static kin_status balance(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    static const int pick[12] = {0, 1, 1, 2, 3, 0, 3, 3, 2, 1, 0, 3}, null[3] = {0, 0, 1};
    kin_tensor idx, mask, p;
    KIN_TRY(ints(ctx, KIN_DTYPE_I32, pick, KIN_DIMS(6, 2), &idx));
    KIN_TRY(ints(ctx, KIN_DTYPE_U8, null, KIN_DIMS(3), &mask));
    KIN_TRY(kin_softmax(ctx, &e->in[0], &p));
    return kin_load_balance(ctx, &p, &idx, e->variant & 1 ? &mask : NULL, 3, e->variant & 2, 0.5f,
                            y);
}

/* --- losses --- */

static void declare_loss(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(3, 2, 4));
}

/* variant / 2: loss, variant & 1: weighted */
static kin_status loss(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    static const int class[3] = {7, 0, 3};
    kin_tensor target, weight, x = e->in[0];
    const kin_tensor *w = e->variant & 1 ? &weight : NULL;
    KIN_TRY(KIN_WS(ctx, &target, e->dtype, 3, 2, 4));
    KIN_TRY(KIN_WS(ctx, &weight, e->dtype, 3));
    for (int i = 0; i < 24; i++)
        kin_tensor_set(&target, i, i % 5 * 0.25);
    for (int i = 0; i < 3; i++)
        kin_tensor_set(&weight, i, i == 1 ? 0 : 0.5 * (i + 1));
    if (e->variant / 2 == 0)
        return kin_mse(ctx, &x, &target, w, y);
    if (e->variant / 2 == 1)
        return kin_bce_logits(ctx, &x, &target, w, y);
    if (e->variant / 2 == 3)
        return kin_l1(ctx, &x, &target, w, y);
    x = KIN_RESHAPE(&x, 3, 8);
    KIN_TRY(ints(ctx, KIN_DTYPE_I32, class, KIN_DIMS(3), &target));
    return kin_cross_entropy(ctx, &x, &target, w, y);
}

/* --- elementwise --- */

static void declare_binary(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(2, 3, 4));
    grad_input(e, 1, KIN_DIMS(2, 3, 4));
    grad_input(e, 1, KIN_DIMS(3, 1));
    grad_input(e, 1, KIN_DIMS(2, 1, 4));
    grad_input(e, 1, 0, NULL);
    grad_param(e, 1, KIN_DIMS(4));
}

/* variant: second operand; 5: both the same tensor; 6: broadcast first operand */
static kin_status add(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    const kin_tensor *a = &e->in[e->variant == 6 ? 2 : 0];
    const kin_tensor *b = &e->in[e->variant == 5 ? 0 : e->variant == 6 ? 3 : e->variant];
    return kin_add(ctx, a, b, -0.75f, y);
}

static kin_status mul(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    const kin_tensor *a = &e->in[e->variant == 6 ? 2 : 0];
    const kin_tensor *b = &e->in[e->variant == 5 ? 0 : e->variant == 6 ? 3 : e->variant];
    return kin_mul(ctx, a, b, 1.25f, y);
}

static kin_status add_param(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    return kin_add_param(ctx, &e->in[0], e->p[0], 0.5f, y);
}

/* A parameter as a tensor, twice, and once more as an addend: its gradient has three parts. */
static kin_status param_tensor(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    kin_tensor p, square, h;
    KIN_TRY(kin_param_tensor(ctx, e->p[0], &p));
    KIN_TRY(kin_mul(ctx, &p, &p, 1, &square));
    KIN_TRY(kin_mul(ctx, &e->in[0], &square, 1, &h));
    return kin_add_param(ctx, &h, e->p[0], 2, y);
}

static kin_status activation(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    return kin_activation(ctx, &e->in[0], (kin_act)e->variant, y);
}

static kin_status scale(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    return kin_scale(ctx, &e->in[0], -2.5f, y);
}

static kin_status softmax(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    return kin_softmax(ctx, &e->in[0], y);
}

static kin_status sum(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    kin_tensor square;
    KIN_TRY(kin_mul(ctx, &e->in[0], &e->in[0], 1, &square));
    return kin_sum(ctx, &square, 0.3f, y);
}

/* Parts of unequal size, one twice, one expanded from one row. */
static kin_status concat(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    kin_tensor parts[4] = {e->in[0], e->in[1], e->in[0], e->in[3]};
    if (e->variant == 1) {
        parts[3] = kin_tensor_slice(&e->in[1], 1, 1, 2);
        return kin_concat(ctx, parts, 4, 1, y);
    }
    kin_tensor row = KIN_RESHAPE(&e->in[3], 2, 4);
    row = kin_tensor_expand(&row, 1, 3);
    parts[3] = row;
    return kin_concat(ctx, parts, 4, e->variant, y);
}

static kin_status contiguous(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    kin_tensor t = kin_tensor_transpose(&e->in[0], 0, 1), c;
    KIN_TRY(kin_contiguous(ctx, &t, &c));
    return kin_mul(ctx, &c, &c, 1, y);
}

static kin_status transpose(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    kin_tensor m = KIN_RESHAPE(&e->in[0], 6, 4), t;
    KIN_TRY(kin_transpose(ctx, &m, &t));
    return kin_mul(ctx, &t, &t, 1, y);
}

/* --- the tape itself --- */

/* Slices that overlap, a select, a reshape of a slice: gradients meet in one buffer. */
static kin_status views(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    kin_tensor left = kin_tensor_slice(&e->in[0], 2, 0, 3);
    kin_tensor right = kin_tensor_slice(&e->in[0], 2, 1, 3), product, row, square, both;
    KIN_TRY(kin_mul(ctx, &left, &right, 1, &product));
    row = kin_tensor_select(&e->in[0], 1, 1);
    row = kin_tensor_slice(&row, 1, 1, 3);
    row = kin_tensor_expand(&row, 1, 3);
    KIN_TRY(kin_mul(ctx, &product, &row, 1, &square));
    product = KIN_RESHAPE(&square, 6, 3);
    product = kin_tensor_slice(&product, 0, 2, 3);
    product = KIN_RESHAPE(&product, 9);
    kin_tensor second = KIN_RESHAPE(&square, 18);
    second = kin_tensor_slice(&second, 0, 9, 9);
    KIN_TRY(kin_add(ctx, &product, &second, 1, &both));
    return kin_scale(ctx, &both, 3, y);
}

/* x feeds four places; sums on the way back arrive in any order. */
static kin_status fan_out(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    kin_tensor a, b, c, d;
    KIN_TRY(kin_scale(ctx, &e->in[0], 2, &a));
    KIN_TRY(kin_add(ctx, &e->in[0], &a, 1, &b));
    KIN_TRY(kin_activation(ctx, &b, KIN_ACT_SILU, &c));
    KIN_TRY(kin_add(ctx, &b, &c, 1, &d));
    KIN_TRY(kin_mul(ctx, &d, &e->in[0], 1, &c));
    KIN_TRY(kin_add(ctx, &c, &a, 1, &b));
    return kin_add(ctx, &b, &e->in[0], 1, y);
}

/* A block as the transformers have it: modulated norm, MLP, gated residual. */
static void declare_block(grad_env *e)
{
    grad_input(e, 1, KIN_DIMS(2, 3, 6));
    grad_input(e, 1, KIN_DIMS(2, 18));
    grad_param(e, 0.5, KIN_DIMS(8, 6));
    grad_param(e, 0.5, KIN_DIMS(8));
    grad_param(e, 0.5, KIN_DIMS(6, 8));
    grad_param(e, 0.5, KIN_DIMS(6));
}

static kin_status block(kin_ctx *ctx, void *arg, const kin_tensor *in, kin_tensor *out)
{
    grad_env *e = arg;
    kin_tensor shift = kin_tensor_slice(&in[1], 1, 0, 6), n, h;
    kin_tensor scl = kin_tensor_slice(&in[1], 1, 6, 6), gate = kin_tensor_slice(&in[1], 1, 12, 6);
    KIN_TRY(kin_layernorm(ctx, &in[0], NULL, NULL, &scl, &shift, 1e-6f, &n));
    KIN_TRY(kin_linear_act(ctx, &n, e->p[0], e->p[1], KIN_ACT_GELU_TANH, &h));
    return kin_linear_residual(ctx, &h, e->p[2], e->p[3], &in[0], &gate, &out[0]);
}

/* Two blocks with the same weights; variant 0: recorded, 1: both recomputed, 2: only the second. */
static kin_status blocks(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    kin_tensor in[2] = {e->in[0], e->in[1]}, h = {0};
    if (e->variant == 1)
        KIN_TRY(kin_checkpoint(ctx, block, e, in, 2, &h, 1));
    else
        KIN_TRY(block(ctx, e, in, &h));
    in[0] = h;
    if (e->variant == 0)
        return block(ctx, e, in, y);
    return kin_checkpoint(ctx, block, e, in, 2, y, 1);
}

/* Two outputs, of which one leaves the region as a view and one input is not watched. */
static kin_status pair_block(kin_ctx *ctx, void *arg, const kin_tensor *in, kin_tensor *out)
{
    kin_tensor h;
    (void)arg;
    KIN_TRY(kin_mul(ctx, &in[0], &in[1], 1, &h));
    KIN_TRY(kin_softmax(ctx, &h, &out[0]));
    out[1] = kin_tensor_slice(&h, 1, 1, 2);
    return KIN_OK;
}

static kin_status two_outputs(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    kin_tensor in[2] = {e->in[0], e->in[1]}, out[2] = {{0}}, h;
    if (e->variant)
        KIN_TRY(kin_checkpoint(ctx, pair_block, NULL, in, 2, out, 2));
    else
        KIN_TRY(pair_block(ctx, NULL, in, out));
    h = kin_tensor_slice(&out[0], 1, 0, 2);
    return kin_mul(ctx, &h, &out[1], 1, y);
}

/* One tensor comes into a recomputed region as both inputs. */
static kin_status same_input(kin_ctx *ctx, grad_env *e, kin_tensor *y)
{
    kin_tensor in[2] = {e->in[0], e->in[0]}, out[2] = {{0}}, h;
    KIN_TRY(kin_checkpoint(ctx, pair_block, NULL, in, 2, out, 2));
    h = kin_tensor_slice(&out[0], 1, 0, 2);
    return kin_mul(ctx, &h, &out[1], 1, y);
}

const grad_case grad_cases[] = {
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
    {"groupnorm, silu", "groupnorm", declare_groupnorm, groupnorm, 1, true},
    {"posterior, sample", "posterior_sample", declare_posterior, posterior, 0, false},
    {"posterior, divergence", "posterior_kl", declare_posterior, posterior, 1, false},
    {"rope", "rope", declare_rope, rope, 0, false},
    {"embedding", "embedding", declare_embedding, embedding, 0, false},
    {"patchify", "patchify", declare_video, patchify, 0, false},
    {"patchify, channel last", "patchify", declare_video, patchify, 1, false},
    {"unpatchify", "unpatchify", declare_video, unpatchify, 0, false},
    {"unpatchify, channel last", "unpatchify", declare_video, unpatchify, 1, false},
    {"cosine", "cosine", declare_cosine, cosine, 0, false},
    {"gate_scores", "gate_scores", declare_cosine, gate_scores, 0, false},
    {"choose", "choose", declare_choice, choose, 0, false},
    {"choose, pools, null", "choose", declare_choice, choose, 1, false},
    {"choose, count", "choose", declare_choice, choose, 2, false},
    {"choose, above", "choose", declare_choice, choose, 3, false},
    {"topk", "topk", declare_cosine, topk, 0, false},
    {"topk, null sample", "topk", declare_cosine, topk, 1, false},
    {"experts", "linear_grouped combine cosine topk", declare_moe, moe, 0, true},
    {"experts, base", "linear_grouped combine", declare_moe, moe, 1, true},
    {"experts, two slots", "linear_grouped combine", declare_moe, moe, 2, true},
    {"experts, two slots, base, null", "linear_grouped combine", declare_moe, moe, 7, true},
    {"experts, null", "linear_grouped combine", declare_moe, moe, 4, true},
    {"experts, chosen by them", "linear_grouped combine choose gate_scores", declare_moe,
     moe_chosen, 0, true},
    {"experts, swiglu", "linear_grouped combine mul", declare_moe, moe_swiglu, 0, true},
    {"rcl", "rcl", declare_cosine, rcl, 0, true},
    {"rcl, slot 0", "rcl", declare_cosine, rcl, 1, true},
    {"rcl, one expert", "rcl", declare_cosine, rcl, 2, true},
    {"rcl, idle expert", "rcl", declare_cosine, rcl, 3, true},
    {"rcl, parts", "rcl", declare_cosine, rcl, 4, true},
    {"balance", "load_balance softmax", declare_balance, balance, 0, false},
    {"balance, null", "load_balance softmax", declare_balance, balance, 1, false},
    {"balance, sequence", "load_balance softmax", declare_balance, balance, 2, false},
    {"balance, sequence, null", "load_balance softmax", declare_balance, balance, 3, false},
    {"mse", "mse", declare_loss, loss, 0, false},
    {"mse, weighted", "mse", declare_loss, loss, 1, false},
    {"l1", "l1", declare_loss, loss, 6, false},
    {"l1, weighted", "l1", declare_loss, loss, 7, false},
    {"bce", "bce_logits", declare_loss, loss, 2, false},
    {"bce, weighted", "bce_logits", declare_loss, loss, 3, false},
    {"cross entropy", "cross_entropy", declare_loss, loss, 4, false},
    {"cross entropy, weighted", "cross_entropy", declare_loss, loss, 5, false},
    {"add", "add", declare_binary, add, 1, false},
    {"add, broadcast rows", "add", declare_binary, add, 2, false},
    {"add, broadcast middle", "add", declare_binary, add, 3, false},
    {"add, scalar", "add", declare_binary, add, 4, false},
    {"add, to itself", "add", declare_binary, add, 5, false},
    {"add, both broadcast", "add", declare_binary, add, 6, false},
    {"mul", "mul", declare_binary, mul, 1, false},
    {"mul, broadcast rows", "mul", declare_binary, mul, 2, false},
    {"mul, broadcast middle", "mul", declare_binary, mul, 3, false},
    {"mul, scalar", "mul", declare_binary, mul, 4, false},
    {"mul, by itself", "mul", declare_binary, mul, 5, false},
    {"mul, both broadcast", "mul", declare_binary, mul, 6, false},
    {"add_param", "add_param", declare_binary, add_param, 0, false},
    {"param_tensor, used three times", "param_tensor add_param", declare_binary, param_tensor, 0,
     false},
    {"activation, none", "activation", declare_binary, activation, KIN_ACT_NONE, false},
    {"activation, gelu", "activation", declare_binary, activation, KIN_ACT_GELU_TANH, false},
    {"activation, silu", "activation", declare_binary, activation, KIN_ACT_SILU, false},
    {"activation, sigmoid", "activation", declare_binary, activation, KIN_ACT_SIGMOID, false},
    {"activation, relu", "activation", declare_binary, activation, KIN_ACT_RELU, false},
    {"scale", "scale", declare_binary, scale, 0, false},
    {"softmax", "softmax", declare_binary, softmax, 0, false},
    {"sum", "sum", declare_binary, sum, 0, false},
    {"concat, first", "concat", declare_binary, concat, 0, false},
    {"concat, middle", "concat", declare_binary, concat, 1, false},
    {"concat, last", "concat", declare_binary, concat, 2, false},
    {"contiguous", "contiguous", declare_binary, contiguous, 0, false},
    {"transpose", "transpose", declare_binary, transpose, 0, false},
    {"views", "", declare_binary, views, 0, false},
    {"fan-out", "", declare_binary, fan_out, 0, false},
    {"block, recorded", "", declare_block, blocks, 0, true},
    {"block, recomputed", "", declare_block, blocks, 1, true},
    {"block, second recomputed", "", declare_block, blocks, 2, true},
    {"two outputs, recorded", "", declare_binary, two_outputs, 0, false},
    {"two outputs, recomputed", "", declare_binary, two_outputs, 1, false},
    {"one input twice, recomputed", "", declare_binary, same_input, 0, false},
};
const int grad_case_count = sizeof(grad_cases) / sizeof(grad_cases[0]);
