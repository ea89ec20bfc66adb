/* Results that products alone read may be kept in bf16 (kin_operand_dtype): the products after them
 * must give the bits that f32 results give, forward and backward, at every level and number of
 * threads. Only the gradients before an attention may differ, by the rounding of its result. */
#include <math.h>
#include <string.h>

#include "tensor/ops.h"
#include "tensor/rng.h"
#include "tests/support/near.h"
#include "tests/support/support.h"

/* Edges everywhere: widths that are no multiple of a tile, more of k than one pass takes. */
enum { B = 2, N = 37, HEADS = 2, D = 44, HIDDEN = 1610, EXPERTS = 3 };

/* Weights after the attention, before it, of the experts. */
enum { PROJ, PROJ_B, UP, UP_B, DOWN, DOWN_B, SPLIT, QKV = SPLIT, QKV_B, DENSE_END };
enum { PROTO = DENSE_END, E_UP, E_UP_B = E_UP + EXPERTS, E_DOWN = E_UP_B + EXPERTS };
enum { SCALE = E_DOWN + EXPERTS, SHIFT, SAME, SAME_B, NEXT, PARAMS };

typedef struct net {
    kin_ctx *ctx;
    kin_params *params;
    kin_param *p[PARAMS];
    kin_tensor x, mod, y, dx;
} net;

static void add(net *n, int at, int64_t rows, int64_t cols)
{
    const kin_init start = KIN_INIT(KIN_INIT_NORMAL, cols ? 1.0f / sqrtf((float)cols) : 0.5f);

    n->p[at] = cols ? kin_params_add(n->params, start, KIN_DIMS(rows, cols), "p%d", at)
                    : kin_params_add(n->params, start, KIN_DIMS(rows), "p%d", at);
    assert_non_null(n->p[at]);
}

static void add_conv(net *n, int at)
{
    n->p[at] = kin_params_add(n->params, KIN_INIT(KIN_INIT_NORMAL, 1 / sqrtf(9.0f * D)),
                              KIN_DIMS(D, D, 3, 3), "p%d", at);
    assert_non_null(n->p[at]);
}

static void draw(kin_tensor *t, uint64_t sample)
{
    const kin_rng rng = {.seed = kin_test_seed(), .purpose = KIN_RNG_TEST, .sample = sample};

    kin_rng_normal(&rng, 0, kin_tensor_numel(t), t->data);
}

static void open_net(net *n, kin_isa isa, int threads)
{
    const kin_ctx_options opt = {
        .backend = KIN_BACKEND_CPU, .isa = isa, .threads = threads, .compute = KIN_DTYPE_BF16};
    kin_error err = {0};

    *n = (net){0};
    assert_ok(kin_ctx_create(&opt, &n->ctx, &err), &err);
    assert_ok(kin_params_create(&n->params, &err), &err);
    add(n, PROJ, D, D);
    add(n, PROJ_B, D, 0);
    add(n, UP, HIDDEN, D);
    add(n, UP_B, HIDDEN, 0);
    add(n, DOWN, D, HIDDEN);
    add(n, DOWN_B, D, 0);
    add(n, QKV, 3 * D, D);
    add(n, QKV_B, 3 * D, 0);
    add(n, PROTO, EXPERTS, D);
    for (int e = 0; e < EXPERTS; e++) {
        add(n, E_UP + e, 90, D);
        add(n, E_UP_B + e, 90, 0);
        add(n, E_DOWN + e, D, 90);
    }
    add(n, SCALE, D, 0);
    add(n, SHIFT, D, 0);
    add_conv(n, SAME);
    add(n, SAME_B, D, 0);
    add_conv(n, NEXT);
    assert_ok(kin_params_alloc(n->params, KIN_DTYPE_F32, false, &err), &err);
    assert_ok(kin_params_alloc_grads(n->params, false, &err), &err);
    kin_params_init(n->params, kin_test_seed());
    assert_ok(KIN_WS(n->ctx, &n->x, KIN_DTYPE_F32, B, N, D), &n->ctx->error);
    assert_ok(KIN_WS(n->ctx, &n->mod, KIN_DTYPE_F32, B, 2 * D), &n->ctx->error);
    draw(&n->x, 1);
    draw(&n->mod, 2);
}

static void close_net(net *n)
{
    kin_params_destroy(&n->params);
    kin_ctx_destroy(&n->ctx);
}

/* Attention and MLP of a transformer block. */
static kin_status block(net *n, bool operand, kin_tensor *y)
{
    const kin_attention_options opt = {.operand = operand};
    kin_ctx *ctx = n->ctx;
    kin_tensor scale = kin_tensor_slice(&n->mod, 1, 0, D),
               shift = kin_tensor_slice(&n->mod, 1, D, D);
    kin_tensor a, qkv, part[3], o, h, hidden;

    KIN_TRY((operand ? kin_layernorm_operand : kin_layernorm)(ctx, &n->x, NULL, NULL, &scale,
                                                              &shift, 1e-6f, &a));
    KIN_TRY((operand ? kin_linear_operand : kin_linear_act)(ctx, &a, n->p[QKV], n->p[QKV_B],
                                                            KIN_ACT_NONE, &qkv));
    qkv = KIN_RESHAPE(&qkv, B, N, 3, HEADS, D / HEADS);
    for (int i = 0; i < 3; i++)
        part[i] = kin_tensor_select(&qkv, 2, i);
    KIN_TRY(kin_attention(ctx, &part[0], &part[1], &part[2], &opt, &o));
    assert_int_equal(o.dtype, operand ? kin_operand_dtype(ctx) : KIN_DTYPE_F32);
    o = KIN_RESHAPE(&o, B, N, D);
    KIN_TRY(kin_linear_residual(ctx, &o, n->p[PROJ], n->p[PROJ_B], &n->x, NULL, &h));
    KIN_TRY((operand ? kin_linear_operand : kin_linear_act)(ctx, &h, n->p[UP], n->p[UP_B],
                                                            KIN_ACT_GELU_TANH, &hidden));
    return kin_linear_residual(ctx, &hidden, n->p[DOWN], n->p[DOWN_B], &h, NULL, y);
}

static kin_status experts(net *n, bool operand, kin_tensor *y)
{
    kin_ctx *ctx = n->ctx;
    kin_tensor x = KIN_RESHAPE(&n->x, B * N, D), z, idx, w, hidden, out;
    kin_dispatch d;

    KIN_TRY(kin_cosine(ctx, &x, n->p[PROTO], &z));
    KIN_TRY(kin_topk(ctx, &z, 2, NULL, -1, &idx, &w));
    KIN_TRY(kin_dispatch_build(ctx, &idx, &w, EXPERTS, -1, 0, &d));
    KIN_TRY((operand ? kin_linear_grouped_operand : kin_linear_grouped)(
        ctx, &x, &d, true, n->p + E_UP, n->p + E_UP_B, KIN_ACT_GELU_TANH, &hidden));
    assert_int_equal(hidden.dtype, operand ? kin_operand_dtype(ctx) : KIN_DTYPE_F32);
    KIN_TRY(kin_linear_grouped(ctx, &hidden, &d, false, n->p + E_DOWN, NULL, KIN_ACT_NONE, &out));
    KIN_TRY(kin_combine(ctx, &out, &d, NULL, y));
    *y = KIN_RESHAPE(y, B, N, D);
    return KIN_OK;
}

/* A resnet of an autoencoder and a convolution; the tokens are the pixels of one row. */
static kin_status pictures(net *n, bool operand, kin_tensor *y)
{
    const kin_conv_options same3 = {.top = 1, .bottom = 1, .left = 1, .right = 1};
    kin_ctx *ctx = n->ctx;
    kin_tensor x = KIN_RESHAPE(&n->x, B, 1, N, D), a, h;

    for (int i = 0; i < 2; i++) {
        KIN_TRY((operand ? kin_groupnorm_operand : kin_groupnorm)(
            ctx, i ? &h : &x, 4, n->p[SCALE], n->p[SHIFT], KIN_ACT_SILU, 1e-5f, &a));
        assert_int_equal(a.dtype, operand ? kin_operand_dtype(ctx) : KIN_DTYPE_F32);
        if (i == 0)
            KIN_TRY(kin_conv(ctx, &a, n->p[SAME], n->p[SAME_B], &same3, &x, &h));
    }
    KIN_TRY(kin_conv(ctx, &a, n->p[NEXT], NULL, &same3, NULL, y));
    *y = KIN_RESHAPE(y, B, N, D);
    return KIN_OK;
}

static void run(net *n, kin_status (*graph)(net *, bool, kin_tensor *), bool operand)
{
    kin_ctx *ctx = n->ctx;

    assert_ok(kin_tape_begin(ctx), &ctx->error);
    assert_ok(kin_tape_watch(ctx, &n->x), &ctx->error);
    assert_ok(graph(n, operand, &n->y), &ctx->error);
    assert_ok(kin_tape_backward(ctx, &n->y, &n->x, 1), &ctx->error);
    n->dx = kin_tape_grad(ctx, &n->x);
    kin_tape_end(ctx);
}

static void same(const char *what, const kin_tensor *got, const kin_tensor *want)
{
    char why[200];

    if (!kin_near_same_bits(got, want, why, sizeof why))
        fail_msg("%s: %s", what, why);
}

/* Within what rounding an attention's result to bf16 does to the gradients before it. */
static void near(const char *what, const kin_tensor *got, const kin_tensor *want)
{
    double err = 0, all = 0;

    for (int64_t i = 0; i < kin_tensor_numel(want); i++) {
        const double w = kin_tensor_get(want, i), e = kin_tensor_get(got, i) - w;

        err += e * e;
        all += w * w;
    }
    if (!(err <= 1e-4 * all))
        fail_msg("%s: %.3g of %.3g", what, sqrt(err), sqrt(all));
}

/* Results and all gradients, those of parameters from `first` on, are the same bits. */
static void same_graph(kin_isa isa, const char *what,
                       kin_status (*graph)(net *, bool, kin_tensor *), int first)
{
    net want, got;

    open_net(&want, isa, 1);
    open_net(&got, isa, 2);
    run(&want, graph, false);
    run(&got, graph, true);
    same(what, &got.y, &want.y);
    same("input", &got.dx, &want.dx);
    for (int i = first; i < PARAMS; i++)
        same(got.p[i]->name, &got.p[i]->grad, &want.p[i]->grad);
    close_net(&got);
    close_net(&want);
}

static void kept_in_bf16(void **state)
{
    (void)state;
    for (kin_isa isa = KIN_ISA_AVX2; isa <= KIN_ISA_AMX; isa++) {
        if (!kin_isa_available(isa))
            continue;
        net want, got;

        open_net(&want, isa, 1);
        assert_int_equal(kin_operand_dtype(want.ctx),
                         isa >= KIN_ISA_AMX_EMULATED ? KIN_DTYPE_BF16 : KIN_DTYPE_F32);
        run(&want, block, false);
        for (int threads = 1; threads <= 3; threads++) {
            open_net(&got, isa, threads);
            run(&got, block, true);
            same("block", &got.y, &want.y);
            near("input", &got.dx, &want.dx);
            for (int i = 0; i < DENSE_END; i++)
                (i < SPLIT ? same : near)(got.p[i]->name, &got.p[i]->grad, &want.p[i]->grad);
            close_net(&got);
        }
        close_net(&want);

        same_graph(isa, "experts", experts, PROTO);
        same_graph(isa, "pictures", pictures, SCALE);
    }
}

static kin_status mlp(net *n, bool operand, kin_tensor *y)
{
    kin_tensor hidden;

    KIN_TRY((operand ? kin_linear_operand : kin_linear_act)(n->ctx, &n->x, n->p[UP], n->p[UP_B],
                                                            KIN_ACT_GELU_TANH, &hidden));
    return kin_linear(n->ctx, &hidden, n->p[DOWN], n->p[DOWN_B], y);
}

static kin_status read_by_two(net *n, kin_tensor *y)
{
    kin_tensor hidden, part[2];

    KIN_TRY(kin_linear_operand(n->ctx, &n->x, n->p[UP], n->p[UP_B], KIN_ACT_GELU_TANH, &hidden));
    for (int i = 0; i < 2; i++)
        KIN_TRY(kin_linear(n->ctx, &hidden, n->p[DOWN], NULL, &part[i]));
    return kin_add(n->ctx, &part[0], &part[1], 1, y);
}

/* A product with adapters reads a hidden value several times: its gradient is then a sum, and the
 * activation's comes after it. Any other second reader is told. */
static void hidden_readers(void **state)
{
    (void)state;
    for (kin_isa isa = KIN_ISA_AVX2; isa <= KIN_ISA_AMX; isa++) {
        net n[2], two;

        if (!kin_isa_available(isa))
            continue;
        for (int i = 0; i < 2; i++) {
            open_net(&n[i], isa, 2);
            /* of the shapes that are there: A [D,HIDDEN], B [D,D] */
            kin_adapter low = {.a = n[i].p[DOWN], .b = n[i].p[PROJ], .scale = 0.5f};
            n[i].p[DOWN]->adapters = &low;
            run(&n[i], mlp, i == 1);
            n[i].p[DOWN]->adapters = NULL;
        }
        same("adapted", &n[1].y, &n[0].y);
        same("input", &n[1].dx, &n[0].dx);
        for (int i = PROJ; i <= DOWN_B; i++)
            same(n[1].p[i]->name, &n[1].p[i]->grad, &n[0].p[i]->grad);
        close_net(&n[0]);
        close_net(&n[1]);

        open_net(&two, isa, 2);
        assert_ok(kin_tape_begin(two.ctx), &two.ctx->error);
        assert_ok(kin_tape_watch(two.ctx, &two.x), &two.ctx->error);
        assert_ok(read_by_two(&two, &two.y), &two.ctx->error);
        assert_int_equal(kin_tape_backward(two.ctx, &two.y, &two.x, 1), KIN_ERR_ARG);
        assert_non_null(strstr(two.ctx->error.text, "read twice"));
        kin_tape_end(two.ctx);
        close_net(&two);
    }
}

/* Products in 8-bit integers make of a bf16 operand what they make of its values in f32, rows of
 * experts likewise; matrices too small for them take it widened and leave f32. */
static void eight_bits(void **state)
{
    enum { ROWS = 45, K = 210, WIDE = 96, NARROW = 40 };
    (void)state;
    for (kin_isa isa = KIN_ISA_AVX2; isa <= KIN_ISA_AMX; isa++) {
        const kin_ctx_options opt = {
            .backend = KIN_BACKEND_CPU, .isa = isa, .threads = 2, .compute = KIN_DTYPE_I8};
        const kin_init start = KIN_INIT(KIN_INIT_NORMAL, 0.1f);
        kin_params *params;
        kin_param *w[2 + EXPERTS];
        kin_tensor x, half, y[2], kept;
        kin_error err = {0};
        kin_ctx *ctx;

        if (!kin_isa_available(isa))
            continue;
        assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
        assert_ok(kin_params_create(&params, &err), &err);
        for (int i = 0; i < 2 + EXPERTS; i++)
            w[i] = kin_params_add(params, start, KIN_DIMS(i == 1 ? NARROW : WIDE, K), "w%d", i);
        kin_params_allow_int8(w, 2 + EXPERTS);
        assert_ok(kin_params_alloc(params, KIN_DTYPE_F32, false, &err), &err);
        kin_params_init(params, kin_test_seed());
        assert_ok(KIN_WS(ctx, &x, KIN_DTYPE_F32, ROWS, K), &err);
        assert_ok(kin_ws_tensor(ctx, kin_operand_dtype(ctx), 2, x.size, &half), &err);
        draw(&x, 3);
        for (int64_t i = 0; i < ROWS * K; i++) {
            uint16_t h = kin_f32_to_bf16(((float *)x.data)[i]);
            ((float *)x.data)[i] = kin_bf16_to_f32(h);
        }
        assert_ok(kin_copy_into(ctx, &x, &half), &ctx->error);

        for (int i = 0; i < 2; i++) {
            assert_ok(kin_linear_act(ctx, &x, w[i], NULL, KIN_ACT_GELU_TANH, &y[0]), &ctx->error);
            assert_ok(kin_linear_act(ctx, &half, w[i], NULL, KIN_ACT_GELU_TANH, &y[1]),
                      &ctx->error);
            same(i ? "narrow" : "wide", &y[1], &y[0]);
            assert_ok(kin_linear_operand(ctx, &half, w[i], NULL, KIN_ACT_NONE, &kept), &ctx->error);
            assert_int_equal(kept.dtype, i ? KIN_DTYPE_F32 : kin_operand_dtype(ctx));
        }
        for (int gather = 0; gather < 2; gather++) {
            kin_tensor idx, weight;
            kin_dispatch d;

            assert_ok(KIN_WS(ctx, &idx, KIN_DTYPE_I32, ROWS, 1), &err);
            for (int i = 0; i < ROWS; i++)
                ((int32_t *)idx.data)[i] = i * 7 % EXPERTS;
            assert_ok(KIN_WS(ctx, &weight, KIN_DTYPE_F32, ROWS, 1), &err);
            assert_ok(ctx->k->fill(ctx, &weight, 1), &ctx->error);
            assert_ok(kin_dispatch_build(ctx, &idx, &weight, EXPERTS, -1, 0, &d), &ctx->error);
            for (int i = 0; i < 2; i++)
                assert_ok(kin_linear_grouped(ctx, i ? &half : &x, &d, gather, w + 2, NULL,
                                             KIN_ACT_SILU, &y[i]),
                          &ctx->error);
            same("experts", &y[1], &y[0]);
        }
        kin_params_destroy(&params);
        kin_ctx_destroy(&ctx);
    }
}

/* A convolution in its residual's place gives the bits of one in a place of its own. */
static void in_place(void **state)
{
    (void)state;
    for (kin_isa isa = KIN_ISA_AVX2; isa <= KIN_ISA_AMX; isa++) {
        if (!kin_isa_available(isa))
            continue;
        kin_conv_options opt = {.top = 1, .bottom = 1, .left = 1, .right = 1};
        net n;

        open_net(&n, isa, 3);
        for (int i = 0; i < 2; i++) {
            kin_tensor x = KIN_RESHAPE(&n.x, B, 1, N, D), rest, want, got;

            n.ctx->compute = i ? KIN_DTYPE_F32 : KIN_DTYPE_BF16; /* f32: by way of Winograd, too */
            assert_ok(kin_scale(n.ctx, &x, 3, &rest), &n.ctx->error);
            opt.in_place = false;
            assert_ok(kin_conv(n.ctx, &x, n.p[SAME], n.p[SAME_B], &opt, &rest, &want),
                      &n.ctx->error);
            opt.in_place = true;
            assert_ok(kin_conv(n.ctx, &x, n.p[SAME], n.p[SAME_B], &opt, &rest, &got),
                      &n.ctx->error);
            assert_ptr_equal(got.data, rest.data);
            same("in place", &got, &want);
        }
        close_net(&n);
    }
}

/* What is kept is the f32 result rounded to nearest even. */
static void the_rounding(void **state)
{
    (void)state;
    for (kin_isa isa = KIN_ISA_AMX_EMULATED; isa <= KIN_ISA_AMX; isa++) {
        if (!kin_isa_available(isa))
            continue;
        kin_tensor wide, half, n, m;
        net t;

        open_net(&t, isa, 2);
        assert_ok(kin_linear_act(t.ctx, &t.x, t.p[UP], t.p[UP_B], KIN_ACT_SILU, &wide),
                  &t.ctx->error);
        assert_ok(kin_linear_operand(t.ctx, &t.x, t.p[UP], t.p[UP_B], KIN_ACT_SILU, &half),
                  &t.ctx->error);
        assert_ok(kin_layernorm(t.ctx, &t.x, NULL, NULL, NULL, NULL, 1e-6f, &n), &t.ctx->error);
        assert_ok(kin_layernorm_operand(t.ctx, &t.x, NULL, NULL, NULL, NULL, 1e-6f, &m),
                  &t.ctx->error);
        for (int64_t i = 0; i < kin_tensor_numel(&wide); i++)
            assert_int_equal(((uint16_t *)half.data)[i], kin_f32_to_bf16(((float *)wide.data)[i]));
        for (int64_t i = 0; i < kin_tensor_numel(&n); i++)
            assert_int_equal(((uint16_t *)m.data)[i], kin_f32_to_bf16(((float *)n.data)[i]));
        close_net(&t);
    }
}

/* Weights that are read as they lie, in f32 and in bf16, give the bits of packed ones. */
static void read_once(void **state)
{
    (void)state;
    for (kin_isa isa = KIN_ISA_AVX2; isa <= KIN_ISA_AMX; isa++) {
        if (!kin_isa_available(isa))
            continue;
        for (int half = 0; half < 2; half++) {
            kin_error err = {0};
            kin_tensor x, stored, y[2];
            net n;

            open_net(&n, isa, 3);
            n.p[UP]->grad.data = NULL;
            x = KIN_RESHAPE(&n.x, B * N, D);
            if (half) {
                assert_ok(KIN_WS(n.ctx, &stored, KIN_DTYPE_BF16, HIDDEN, D), &n.ctx->error);
                for (int64_t i = 0; i < kin_tensor_numel(&stored); i++)
                    kin_tensor_set(&stored, i, kin_tensor_get(&n.p[UP]->value, i));
                assert_ok(kin_params_bind(n.p[UP], &stored, &err), &err);
            }
            for (int i = 0; i < 2; i++) {
                n.p[UP]->once = i == 1;
                kin_param_drop_packs(n.p[UP]);
                assert_ok(kin_linear(n.ctx, &x, n.p[UP], n.p[UP_B], &y[i]), &n.ctx->error);
                /* what cannot be read as it lies is packed all the same */
                if (i == 1 && (!half || isa >= KIN_ISA_AMX_EMULATED))
                    assert_int_equal(kin_param_pack_bytes(n.p[UP]), 0);
            }
            same(half ? "bf16 once" : "f32 once", &y[1], &y[0]);
            close_net(&n);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kept_in_bf16), cmocka_unit_test(the_rounding),
        cmocka_unit_test(in_place),     cmocka_unit_test(read_once),
        cmocka_unit_test(eight_bits),   cmocka_unit_test(hidden_readers)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
