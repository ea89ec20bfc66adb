/* Graphs of test_grad.c: routers, experts and their losses. */
#include "tests/tensor/grad.h"

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
    KIN_TRY(grad_ints(ctx, KIN_DTYPE_U8, null, KIN_DIMS(3), &mask));
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
    KIN_TRY(grad_ints(ctx, KIN_DTYPE_U8, null, KIN_DIMS(3), &mask));
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
    KIN_TRY(grad_ints(ctx, KIN_DTYPE_U8, null, KIN_DIMS(3), &mask));
    KIN_TRY(kin_cosine(ctx, &e->in[0], e->p[0], &z));
    KIN_TRY(kin_topk(ctx, &z, e->variant & 2 ? 2 : 1, e->variant & 4 ? &mask : NULL, EXPERTS - 1,
                     &idx, &w));
    KIN_TRY(kin_dispatch_build(ctx, &idx, &w, EXPERTS, EXPERTS - 1, 0, &d));
    KIN_TRY(kin_linear_grouped_operand(ctx, &e->in[0], &d, true, up, bias, KIN_ACT_GELU_TANH, &h));
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
    KIN_TRY(grad_ints(ctx, KIN_DTYPE_I32, pick, KIN_DIMS(6, 1), &idx));
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
    KIN_TRY(grad_ints(ctx, KIN_DTYPE_I32, pick[e->variant], KIN_DIMS(6, 2), &idx));
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
    KIN_TRY(grad_ints(ctx, KIN_DTYPE_I32, pick, KIN_DIMS(6, 2), &idx));
    KIN_TRY(grad_ints(ctx, KIN_DTYPE_U8, null, KIN_DIMS(3), &mask));
    KIN_TRY(kin_softmax(ctx, &e->in[0], &p));
    return kin_load_balance(ctx, &p, &idx, e->variant & 1 ? &mask : NULL, 3, e->variant & 2, 0.5f,
                            y);
}

const grad_case grad_routing_cases[] = {
    {"cosine", "cosine", declare_cosine, cosine, 0, false},
    {"gate_scores", "gate_scores", declare_cosine, gate_scores, 0, false},
    {"choose", "choose", declare_choice, choose, 0, false},
    {"choose, pools, null", "choose", declare_choice, choose, 1, false},
    {"choose, count", "choose", declare_choice, choose, 2, false},
    {"choose, above", "choose", declare_choice, choose, 3, false},
    {"topk", "topk", declare_cosine, topk, 0, false},
    {"topk, null sample", "topk", declare_cosine, topk, 1, false},
    {"experts", "linear_grouped_operand linear_grouped combine cosine topk", declare_moe, moe, 0,
     true},
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
    {NULL, NULL, NULL, NULL, 0, false},
};
