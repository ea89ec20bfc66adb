/* The reference kernels against second formulations: closed forms, hand-made numbers, other orders
 * of the same sums. The gradients of the reference are proved in test_grad.c. */
#include <math.h>

#include "tensor/ops.h"
#include "tests/support/near.h"
#include "tests/support/support.h"

static kin_ctx *ctx;

static int open_ctx(void **state)
{
    kin_ctx_options opt = {.backend = KIN_BACKEND_REF, .threads = 1};
    kin_error err = {0};
    (void)state;
    return kin_ctx_create(&opt, &ctx, &err);
}

static int close_ctx(void **state)
{
    (void)state;
    kin_ctx_destroy(&ctx);
    return 0;
}

static kin_tensor drawn(uint64_t sample, kin_dtype dtype, int ndim, const int64_t *sizes)
{
    kin_rng rng = {.seed = kin_test_seed(), .purpose = KIN_RNG_TEST, .sample = sample, .step = 5};
    kin_tensor t, f;
    assert_ok(kin_ws_tensor(ctx, KIN_DTYPE_F32, ndim, sizes, &f), &ctx->error);
    assert_ok(kin_ws_tensor(ctx, dtype, ndim, sizes, &t), &ctx->error);
    assert_ok(ctx->k->randn(ctx, &rng, 0, &f), &ctx->error);
    assert_ok(ctx->k->copy(ctx, &f, &t, false), &ctx->error);
    return t;
}

/* A parameter without a table, over a drawn tensor. */
static kin_param param(kin_tensor t)
{
    static char name[] = "p";
    return (kin_param){.name = name, .value = t};
}

static void assert_near(double got, double want)
{
    if (!kin_near_value(got, want, 1e-6, 1e-7))
        fail_msg("got %.9g, want %.9g", got, want);
}

static double get2(const kin_tensor *t, int64_t r, int64_t c)
{
    return kin_tensor_get(t, r * t->size[1] + c);
}

/* GELU at known points, SiLU and sigmoid by identities. */
static void activations(void **state)
{
    static const double x[5] = {-3, -0.5, 0, 0.7, 4};
    /* of the tanh form, by another program */
    static const double gelu[5] = {-0.00363739, -0.15428599, 0, 0.53057013, 3.9999298};
    kin_tensor t, y;
    (void)state;
    assert_ok(KIN_WS(ctx, &t, KIN_DTYPE_F32, 5), &ctx->error);
    for (int i = 0; i < 5; i++)
        kin_tensor_set(&t, i, x[i]);
    assert_ok(kin_activation(ctx, &t, KIN_ACT_GELU_TANH, &y), &ctx->error);
    for (int i = 0; i < 5; i++)
        assert_true(fabs(kin_tensor_get(&y, i) - gelu[i]) < 2e-6);
    assert_ok(kin_activation(ctx, &t, KIN_ACT_SIGMOID, &y), &ctx->error);
    for (int i = 0; i < 5; i++)
        assert_near(kin_tensor_get(&y, i), 0.5 + 0.5 * tanh(kin_tensor_get(&t, i) / 2));
    assert_ok(kin_activation(ctx, &t, KIN_ACT_SILU, &y), &ctx->error);
    for (int i = 0; i < 5; i++)
        assert_near(kin_tensor_get(&y, i),
                    kin_tensor_get(&t, i) * (0.5 + 0.5 * tanh(kin_tensor_get(&t, i) / 2)));
    assert_ok(kin_activation(ctx, &t, KIN_ACT_RELU, &y), &ctx->error);
    for (int i = 0; i < 5; i++)
        assert_near(kin_tensor_get(&y, i), fmax(x[i], 0));
}

/* y = x w^T column by column as axpys. */
static void linear_by_axpy(void **state)
{
    kin_tensor x = drawn(1, KIN_DTYPE_F32, KIN_DIMS(4, 7)), y;
    kin_tensor r = drawn(2, KIN_DTYPE_F32, KIN_DIMS(4, 5)),
               g = drawn(3, KIN_DTYPE_F32, KIN_DIMS(2, 5));
    kin_param w = param(drawn(4, KIN_DTYPE_BF16, KIN_DIMS(5, 7))),
              b = param(drawn(5, KIN_DTYPE_F16, KIN_DIMS(5)));
    double want[20];
    (void)state;
    for (int i = 0; i < 20; i++)
        want[i] = kin_tensor_get(&b.value, i % 5);
    for (int c = 0; c < 7; c++)
        for (int i = 0; i < 20; i++)
            want[i] += get2(&x, i / 5, c) * get2(&w.value, i % 5, c);
    assert_ok(kin_linear_residual(ctx, &x, &w, &b, &r, &g, &y), &ctx->error);
    for (int i = 0; i < 20; i++)
        assert_near(kin_tensor_get(&y, i),
                    kin_tensor_get(&r, i) + get2(&g, i / 10, i % 5) * want[i]);
}

/* Operands on the bf16 grid: rounding changes nothing; off the grid it does, by the known amount.
 */
static void linear_bf16(void **state)
{
    kin_tensor x, y;
    kin_param w;
    (void)state;
    assert_ok(KIN_WS(ctx, &x, KIN_DTYPE_F32, 1, 1), &ctx->error);
    assert_ok(KIN_WS(ctx, &w.value, KIN_DTYPE_F32, 1, 1), &ctx->error);
    w = param(w.value);
    kin_tensor_set(&x, 0, 1 + 0x1p-8 + 0x1p-12); /* rounds up to 1 + 2^-7 */
    kin_tensor_set(&w.value, 0, 3);
    ctx->compute = KIN_DTYPE_BF16;
    assert_ok(kin_linear(ctx, &x, &w, NULL, &y), &ctx->error);
    ctx->compute = KIN_DTYPE_F32;
    assert_true(kin_tensor_get(&y, 0) == 3 * (1 + 0x1p-7));
}

static void norms(void **state)
{
    kin_tensor x, y, scale, shift;
    (void)state;
    /* 1, 2, 3, 4: mean 2.5, biased variance 1.25 */
    assert_ok(KIN_WS(ctx, &x, KIN_DTYPE_F64, 1, 4), &ctx->error);
    assert_ok(KIN_WS(ctx, &scale, KIN_DTYPE_F64, 1, 4), &ctx->error);
    assert_ok(KIN_WS(ctx, &shift, KIN_DTYPE_F64, 1, 4), &ctx->error);
    for (int i = 0; i < 4; i++)
        kin_tensor_set(&x, i, i + 1);
    assert_ok(kin_fill(ctx, &scale, 2), &ctx->error);
    assert_ok(kin_fill(ctx, &shift, -1), &ctx->error);
    assert_ok(kin_layernorm(ctx, &x, NULL, NULL, &scale, &shift, 0, &y), &ctx->error);
    for (int i = 0; i < 4; i++)
        assert_near(kin_tensor_get(&y, i), (i + 1 - 2.5) / sqrt(1.25) * 3 - 1);
    assert_ok(kin_rmsnorm(ctx, &x, NULL, 0, &y), &ctx->error);
    for (int i = 0; i < 4; i++)
        assert_near(kin_tensor_get(&y, i), (i + 1) / sqrt(7.5));
}

/* Softmax over all keys in one vector, then the weighted mean; masked keys by leaving them out. */
static void attention(void **state)
{
    enum { B = 2, NQ = 3, NK = 5, A = 2, D = 4 };
    kin_tensor q = drawn(10, KIN_DTYPE_F64, KIN_DIMS(B, NQ, A, D)), o, mask, gate;
    kin_tensor k = drawn(11, KIN_DTYPE_F64, KIN_DIMS(B, NK, A, D));
    kin_tensor v = drawn(12, KIN_DTYPE_F64, KIN_DIMS(B, NK, A, D));
    kin_tensor bias = drawn(13, KIN_DTYPE_F64, KIN_DIMS(A, NQ, NK));
    static const int keep[B * NK] = {1, 0, 1, 1, 0, 0, 0, 0, 0, 0};
    static const double gates[B * A] = {0.5, 0, -2, 1};
    (void)state;
    assert_ok(KIN_WS(ctx, &mask, KIN_DTYPE_U8, B, NK), &ctx->error);
    assert_ok(KIN_WS(ctx, &gate, KIN_DTYPE_F64, B, A), &ctx->error);
    for (int i = 0; i < B * NK; i++)
        kin_tensor_set(&mask, i, keep[i]);
    for (int i = 0; i < B * A; i++)
        kin_tensor_set(&gate, i, gates[i]);
    kin_attention_options opt = {.bias = &bias, .mask = &mask, .gate = &gate, .scale = 0.3f};
    assert_ok(kin_attention(ctx, &q, &k, &v, &opt, &o), &ctx->error);
    for (int i = 0; i < B * NQ * A * D; i++) {
        int c = i % D, h = i / D % A, n = i / D / A % NQ, b = i / D / A / NQ;
        double top = 0, bottom = 0;
        for (int j = 0; j < NK; j++) {
            double s = 0;
            for (int l = 0; l < D; l++)
                s += kin_tensor_get(&q, ((b * NQ + n) * A + h) * D + l) *
                     kin_tensor_get(&k, ((b * NK + j) * A + h) * D + l);
            s = exp(s * (double)0.3f + kin_tensor_get(&bias, (h * NQ + n) * NK + j));
            /* a sample without any key looks at all of them alike */
            s = b == 1 ? 1 : keep[b * NK + j] ? s : 0;
            top += s * kin_tensor_get(&v, ((b * NK + j) * A + h) * D + c);
            bottom += s;
        }
        assert_near(kin_tensor_get(&o, i), gates[b * A + h] * top / bottom);
    }
}

/* Rotation keeps lengths; the inverse undoes it; the first pair turns as a complex number. */
static void rope(void **state)
{
    kin_tensor x = drawn(20, KIN_DTYPE_F64, KIN_DIMS(1, 2, 1, 4)), c, s, y, z;
    (void)state;
    assert_ok(KIN_WS(ctx, &c, KIN_DTYPE_F64, 2, 2), &ctx->error);
    assert_ok(KIN_WS(ctx, &s, KIN_DTYPE_F64, 2, 2), &ctx->error);
    assert_ok(KIN_WS(ctx, &z, KIN_DTYPE_F64, 1, 2, 1, 4), &ctx->error);
    for (int i = 0; i < 4; i++) {
        kin_tensor_set(&c, i, cos(0.4 + i));
        kin_tensor_set(&s, i, sin(0.4 + i));
    }
    assert_ok(kin_rope(ctx, &x, &c, &s, &y), &ctx->error);
    assert_near(kin_tensor_get(&y, 0),
                kin_tensor_get(&x, 0) * cos(0.4) - kin_tensor_get(&x, 1) * sin(0.4));
    assert_near(kin_tensor_get(&y, 7),
                kin_tensor_get(&x, 6) * sin(3.4) + kin_tensor_get(&x, 7) * cos(3.4));
    kin_rope_args back = {.x = &y, .cos = &c, .sin = &s, .inverse = true, .y = &z};
    assert_ok(ctx->k->rope(ctx, &back), &ctx->error);
    for (int i = 0; i < 8; i++)
        assert_near(kin_tensor_get(&z, i), kin_tensor_get(&x, i));
}

/* Token order (f, h, w); value order (C, pt, ph, pw) or (pt, ph, pw, C): addresses written out by
 * hand. */
static void patches(void **state)
{
    enum { C = 2, F = 2, H = 4, W = 6 };
    static const int p[3] = {1, 2, 3};
    kin_tensor v, t, back;
    (void)state;
    assert_ok(KIN_WS(ctx, &v, KIN_DTYPE_F32, 1, C, F, H, W), &ctx->error);
    for (int i = 0; i < C * F * H * W; i++)
        kin_tensor_set(&v, i, i);
    for (int last = 0; last < 2; last++) {
        assert_ok(kin_patchify(ctx, &v, p, last, &t), &ctx->error);
        assert_int_equal(t.size[1], 8);
        assert_int_equal(t.size[2], 12);
        /* token (1, 0, 1) = 5; channel 1, row 1, column 2 of its patch */
        int value = last ? (1 * 3 + 2) * C + 1 : 1 * 6 + 1 * 3 + 2;
        assert_true(kin_tensor_get(&t, 5 * 12 + value) == ((1 * F + 1) * H + 1) * W + 5);
        assert_ok(kin_unpatchify(ctx, &t, p, last, C, F, H, W, &back), &ctx->error);
        for (int i = 0; i < C * F * H * W; i++)
            assert_true(kin_tensor_get(&back, i) == i);
    }
}

static void sinusoids(void **state)
{
    kin_tensor v, y;
    (void)state;
    assert_ok(KIN_WS(ctx, &v, KIN_DTYPE_F32, 2, 1), &ctx->error);
    kin_tensor_set(&v, 0, 3);
    kin_tensor_set(&v, 1, 0);
    assert_ok(kin_sinusoid(ctx, &v, 4, 10, &y), &ctx->error);
    for (int j = 0; j < 4; j++) {
        double f = pow(10000, -j / 4.0);
        assert_near(kin_tensor_get(&y, j), cos(3 * f));
        assert_near(kin_tensor_get(&y, 4 + j), sin(3 * f));
        assert_true(kin_tensor_get(&y, 10 + j) == 1 && kin_tensor_get(&y, 14 + j) == 0);
    }
    assert_true(kin_tensor_get(&y, 8) == 0 && kin_tensor_get(&y, 9) == 0);
}

/* A written-out routing of five tokens (the last sample null) to three experts, two slots. */
static void routing(void **state)
{
    static const double scores[6][3] = {{0.1, 0.9, 0.5}, {0.7, 0.7, 0.2}, {-1, -2, -3},
                                        {0, 1, 2},       {9, 9, 9},       {9, 9, 9}};
    static const int want_idx[12] = {1, 2, 0, 1, 0, 1, 2, 1, 3, 3, 3, 3};
    static const double want_w[12] = {0.9, 0.5, 0.7, 0.7, -1, -2, 2, 1, 1, 0, 1, 0};
    static const int want_order[10] = {2, 4, 0, 3, 5, 7, 1, 6, 8, 10};
    static const int want_offset[5] = {0, 2, 6, 8, 10};
    static const int want_inverse[12] = {2, 6, 0, 3, 1, 4, 7, 5, 8, -1, 9, -1};
    kin_tensor s, null, idx, w, z, y;
    kin_dispatch d;
    (void)state;
    assert_ok(KIN_WS(ctx, &s, KIN_DTYPE_F64, 6, 3), &ctx->error);
    assert_ok(KIN_WS(ctx, &null, KIN_DTYPE_U8, 3), &ctx->error);
    for (int i = 0; i < 18; i++)
        kin_tensor_set(&s, i, scores[i / 3][i % 3]);
    for (int i = 0; i < 3; i++)
        kin_tensor_set(&null, i, i == 2);
    assert_ok(kin_topk(ctx, &s, 2, &null, 3, &idx, &w), &ctx->error);
    for (int i = 0; i < 12; i++) {
        assert_true(kin_tensor_get(&idx, i) == want_idx[i]);
        assert_true(kin_tensor_get(&w, i) == want_w[i]);
    }
    assert_ok(kin_dispatch_build(ctx, &idx, &w, 4, 3, 0, &d), &ctx->error);
    for (int i = 0; i < 5; i++)
        assert_true(kin_tensor_get(&d.offset, i) == want_offset[i]);
    for (int i = 0; i < 10; i++)
        assert_true(kin_tensor_get(&d.order, i) == want_order[i]);
    for (int i = 0; i < 12; i++)
        assert_true(kin_tensor_get(&d.inverse, i) == want_inverse[i]);
    /* sorted row r holds the number r */
    assert_ok(KIN_WS(ctx, &z, KIN_DTYPE_F64, 12, 1), &ctx->error);
    for (int i = 0; i < 12; i++)
        kin_tensor_set(&z, i, i);
    assert_ok(kin_combine(ctx, &z, &d, NULL, &y), &ctx->error);
    assert_near(kin_tensor_get(&y, 0), 0.9 * 2 + 0.5 * 6);
    assert_near(kin_tensor_get(&y, 2), -1 * 1 - 2 * 4);
    assert_near(kin_tensor_get(&y, 5), 9);
}

/* Each row through its expert as a plain linear. */
static void experts(void **state)
{
    enum { T = 5, K = 2, E = 3, N = 4, D = 6 };
    kin_tensor x = drawn(30, KIN_DTYPE_F64, KIN_DIMS(T, D)),
               s = drawn(31, KIN_DTYPE_F64, KIN_DIMS(T, E));
    kin_tensor idx, w, y, one;
    kin_param wp[E], bp[E], *wl[E], *bl[E];
    kin_dispatch d;
    (void)state;
    for (int e = 0; e < E; e++) {
        wp[e] = param(drawn(40 + (uint64_t)e, KIN_DTYPE_F64, KIN_DIMS(N, D)));
        bp[e] = param(drawn(50 + (uint64_t)e, KIN_DTYPE_F64, KIN_DIMS(N)));
        wl[e] = &wp[e];
        bl[e] = &bp[e];
    }
    assert_ok(kin_topk(ctx, &s, K, NULL, 0, &idx, &w), &ctx->error);
    assert_ok(kin_dispatch_build(ctx, &idx, &w, E, -1, 0, &d), &ctx->error);
    assert_ok(kin_linear_grouped(ctx, &x, &d, true, wl, bl, KIN_ACT_SILU, &y), &ctx->error);
    for (int t = 0; t < T; t++) {
        for (int k = 0; k < K; k++) {
            int e = (int)get2(&idx, t, k), row = (int)kin_tensor_get(&d.inverse, t * K + k);
            kin_tensor xt = kin_tensor_slice(&x, 0, t, 1);
            assert_ok(kin_linear_act(ctx, &xt, wl[e], bl[e], KIN_ACT_SILU, &one), &ctx->error);
            for (int j = 0; j < N; j++)
                assert_near(get2(&y, row, j), kin_tensor_get(&one, j));
        }
    }
}

/* Cosine and contrastive loss from normalised vectors. */
static void contrast(void **state)
{
    enum { T = 6, E = 4, D = 5 };
    static const int pick[T] = {0, 2, 2, 4, 0, 1}; /* 4 is the unconditional expert, 3 idle */
    kin_tensor x = drawn(60, KIN_DTYPE_F64, KIN_DIMS(T, D)), idx, z, loss;
    kin_param p = param(drawn(61, KIN_DTYPE_F64, KIN_DIMS(E, D)));
    double mean[E][D] = {{0}}, logit[E][E], want = 0;
    int count[E] = {0};
    (void)state;
    assert_ok(KIN_WS(ctx, &idx, KIN_DTYPE_I32, T, 1), &ctx->error);
    assert_ok(kin_cosine(ctx, &x, &p, &z), &ctx->error);
    for (int t = 0; t < T; t++) {
        kin_tensor_set(&idx, t, pick[t]);
        for (int e = 0; e < E; e++) {
            double dot = 0, xx = 0, pp = 0;
            for (int c = 0; c < D; c++) {
                dot += get2(&x, t, c) * get2(&p.value, e, c);
                xx += get2(&x, t, c) * get2(&x, t, c);
                pp += get2(&p.value, e, c) * get2(&p.value, e, c);
            }
            assert_near(get2(&z, t, e), dot / sqrt(xx * pp));
        }
        for (int c = 0; c < D && pick[t] < E; c++)
            mean[pick[t]][c] += get2(&x, t, c);
        if (pick[t] < E)
            count[pick[t]]++;
    }
    for (int i = 0; i < E; i++) {
        for (int j = 0; j < E; j++) {
            double dot = 0, mm = 0, pp = 0;
            for (int c = 0; c < D; c++) {
                dot += get2(&p.value, i, c) * mean[j][c];
                mm += mean[j][c] * mean[j][c];
                pp += get2(&p.value, i, c) * get2(&p.value, i, c);
            }
            logit[i][j] = count[j] ? dot / sqrt(mm * pp) / (double)0.07f : -INFINITY;
        }
    }
    for (int i = 0; i < E; i++) {
        double sum = 0;
        for (int j = 0; j < E; j++)
            sum += exp(logit[i][j]);
        if (count[i])
            want += (log(sum) - logit[i][i]) / 3;
    }
    assert_ok(kin_rcl(ctx, &x, &p, &idx, 1, 1, 0.07f, &loss), &ctx->error);
    assert_near(kin_tensor_get(&loss, 0), want);
}

/* Uniform probabilities and even shares give the coefficient itself; one expert with all gives E
 * times it. */
static void balances(void **state)
{
    kin_tensor p, idx, null, loss;
    (void)state;
    assert_ok(KIN_WS(ctx, &p, KIN_DTYPE_F64, 8, 4), &ctx->error);
    assert_ok(KIN_WS(ctx, &idx, KIN_DTYPE_I32, 8, 1), &ctx->error);
    assert_ok(KIN_WS(ctx, &null, KIN_DTYPE_U8, 2), &ctx->error);
    assert_ok(kin_fill(ctx, &p, 0.25), &ctx->error);
    for (int i = 0; i < 8; i++)
        kin_tensor_set(&idx, i, i % 4);
    for (int form = 0; form < 2; form++) {
        assert_ok(kin_load_balance(ctx, &p, &idx, NULL, 2, form, 0.5f, &loss), &ctx->error);
        assert_near(kin_tensor_get(&loss, 0), 0.5);
    }
    for (int i = 0; i < 32; i++)
        kin_tensor_set(&p, i, i % 4 == 2);
    for (int i = 0; i < 8; i++)
        kin_tensor_set(&idx, i, i < 4 ? 2 : 0);
    kin_tensor_set(&null, 0, 0);
    kin_tensor_set(&null, 1, 1);
    assert_ok(kin_load_balance(ctx, &p, &idx, &null, 2, false, 0.5f, &loss), &ctx->error);
    assert_near(kin_tensor_get(&loss, 0), 2);
    assert_ok(kin_load_balance(ctx, &p, &idx, NULL, 2, false, 0.5f, &loss), &ctx->error);
    assert_near(kin_tensor_get(&loss, 0), 1);
    kin_tensor_set(&null, 0, 1);
    assert_ok(kin_load_balance(ctx, &p, &idx, &null, 2, true, 0.5f, &loss), &ctx->error);
    assert_true(kin_tensor_get(&loss, 0) == 0);
}

static void losses(void **state)
{
    kin_tensor x, t, w, class, loss;
    (void)state;
    assert_ok(KIN_WS(ctx, &x, KIN_DTYPE_F64, 2, 2), &ctx->error);
    assert_ok(KIN_WS(ctx, &t, KIN_DTYPE_F64, 2, 2), &ctx->error);
    assert_ok(KIN_WS(ctx, &w, KIN_DTYPE_F64, 2), &ctx->error);
    assert_ok(KIN_WS(ctx, &class, KIN_DTYPE_I32, 2), &ctx->error);
    for (int i = 0; i < 4; i++) {
        kin_tensor_set(&x, i, i - 1.0); /* -1 0 | 1 2 */
        kin_tensor_set(&t, i, i % 2);   /*  0 1 | 0 1 */
        kin_tensor_set(&w, i / 2, i < 2 ? 3 : 0);
        kin_tensor_set(&class, i / 2, i / 2);
    }
    assert_ok(kin_mse(ctx, &x, &t, NULL, &loss), &ctx->error);
    assert_near(kin_tensor_get(&loss, 0), (1 + 1 + 1 + 1) / 4.0);
    assert_ok(kin_mse(ctx, &x, &t, &w, &loss), &ctx->error);
    assert_near(kin_tensor_get(&loss, 0), 3 * (1 + 1) / 4.0);
    assert_ok(kin_bce_logits(ctx, &x, &t, NULL, &loss), &ctx->error);
    assert_near(kin_tensor_get(&loss, 0),
                (log(1 + exp(-1)) + log(2) + log(1 + exp(1)) + log(1 + exp(-2))) / 4);
    assert_ok(kin_bce_logits(ctx, &x, &t, &w, &loss), &ctx->error);
    assert_near(kin_tensor_get(&loss, 0), (log(1 + exp(-1)) + log(2)) / 2);
    assert_ok(kin_cross_entropy(ctx, &x, &class, NULL, &loss), &ctx->error);
    assert_near(kin_tensor_get(&loss, 0), (log(1 + exp(1)) + log(1 + exp(-1))) / 2);
    assert_ok(kin_cross_entropy(ctx, &x, &class, &w, &loss), &ctx->error);
    assert_near(kin_tensor_get(&loss, 0), log(1 + exp(1)));
    assert_ok(kin_fill(ctx, &w, 0), &ctx->error);
    assert_ok(kin_cross_entropy(ctx, &x, &class, &w, &loss), &ctx->error);
    assert_true(kin_tensor_get(&loss, 0) == 0);
}

/* Two steps of torch.optim.AdamW(lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1) on w = 1
 * with gradients 0.5 and -1, written out; then the average. */
static void adamw(void **state)
{
    double w = 1, m = 0, v = 0, ema = 1;
    float fw = 1, fm = 0, fv = 0, fe = 1;
    (void)state;
    for (int step = 1; step <= 2; step++) {
        double g = step == 1 ? 0.5 : -1;
        float fg = (float)(2 * g);
        const kin_adamw_part part = {.n = 1,
                                     .w = &fw,
                                     .m = &fm,
                                     .v = &fv,
                                     .ema = &fe,
                                     .g = &fg,
                                     .lr = 0.1f,
                                     .weight_decay = 0.1f};
        kin_adamw_args a = {.part = &part,
                            .parts = 1,
                            .beta1 = 0.9f,
                            .beta2 = 0.99f,
                            .eps = 1e-8f,
                            .grad_scale = 0.5f,
                            .ema_decay = 0.75f,
                            .step = step};
        w -= 0.1 * 0.1 * w;
        m += 0.1 * (g - m);
        v = 0.99 * v + 0.01 * g * g;
        double mhat = m / (1 - pow(0.9, step)), vhat = v / (1 - pow(0.99, step));
        w -= 0.1 * mhat / (sqrt(vhat) + 1e-8);
        ema = 0.75 * ema + 0.25 * w;
        assert_ok(ctx->k->adamw(ctx, &a), &ctx->error);
        assert_true(fabs((double)fw - w) < 1e-6 && fabs((double)fe - ema) < 1e-6);
        assert_true(fabs((double)fm - m) < 1e-7 && fabs((double)fv - v) < 1e-7);
        assert_true(fg == 0.0f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(activations), cmocka_unit_test(linear_by_axpy),
        cmocka_unit_test(linear_bf16), cmocka_unit_test(norms),
        cmocka_unit_test(attention),   cmocka_unit_test(rope),
        cmocka_unit_test(patches),     cmocka_unit_test(sinusoids),
        cmocka_unit_test(routing),     cmocka_unit_test(experts),
        cmocka_unit_test(contrast),    cmocka_unit_test(balances),
        cmocka_unit_test(losses),      cmocka_unit_test(adamw),
    };
    return cmocka_run_group_tests(tests, open_ctx, close_ctx);
}
