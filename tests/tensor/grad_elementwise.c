/* Graphs of test_grad.c: losses, elementwise ops, and what the tape does between ops. */
#include "tests/tensor/grad.h"

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
    KIN_TRY(grad_ints(ctx, KIN_DTYPE_I32, class, KIN_DIMS(3), &target));
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
    KIN_TRY(kin_layernorm_operand(ctx, &in[0], NULL, NULL, &scl, &shift, 1e-6f, &n));
    KIN_TRY(kin_linear_operand(ctx, &n, e->p[0], e->p[1], KIN_ACT_GELU_TANH, &h));
    const kin_linear_options last = {.residual = &in[0], .gate = &gate};
    return kin_linear_with(ctx, &h, e->p[2], e->p[3], &last, &out[0]);
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

const grad_case grad_elementwise_cases[] = {
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
    {"block, recorded", "layernorm_operand linear_operand linear_with", declare_block, blocks, 0,
     true},
    {"block, recomputed", "", declare_block, blocks, 1, true},
    {"block, second recomputed", "", declare_block, blocks, 2, true},
    {"two outputs, recorded", "", declare_binary, two_outputs, 0, false},
    {"two outputs, recomputed", "", declare_binary, two_outputs, 1, false},
    {"one input twice, recomputed", "", declare_binary, same_input, 0, false},
    {NULL, NULL, NULL, NULL, 0, false},
};
