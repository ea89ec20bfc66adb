/* Dense products through cublasLt, with a stand-in for the library (cublaslt_fake.cc): which
 * epilogues it is asked for, what follows where it refuses, TF32. */
#include <math.h>
#include <string.h>

#include <cublasLt.h>

#include "tensor/device.h"
#include "tensor/kernels.h"
#include "tests/support/support.h"
#include "tests/tensor/cublaslt_fake.h"

enum { M = 24, N = 40, K = 16 };

/* One layer y = act(x w^T + b), and its gradients. */
typedef struct layer {
    kin_ctx *ctx;
    kin_params *params;
    kin_param *w, *b;
    float x[M * K], pre[M * N], y[M * N], dy[M * N];
    float wv[N * K], bv[N], dw[N * K], db[N];
    uint16_t half[N]; /* the bias in bf16 */
} layer;

static void draw(float *v, int n, uint32_t seed)
{
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        v[i] = (float)(int32_t)seed * 0x1p-31f;
    }
}

static void open_layer(layer *s, kin_dtype compute, kin_precision precision, bool half_bias)
{
    const kin_ctx_options opt = {
        .backend = KIN_BACKEND_CUDA, .compute = compute, .precision = precision};
    kin_error err = {0};
    assert_ok(kin_ctx_create(&opt, &s->ctx, &err), &err);
    assert_ok(kin_params_create(&s->params, &err), &err);
    s->w = kin_params_add(s->params, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(N, K), "w");
    s->b = kin_params_add(s->params, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(N), "b");
    draw(s->x, M * K, 1);
    draw(s->wv, N * K, 2);
    draw(s->bv, N, 3);
    draw(s->dy, M * N, 4);
    for (int i = 0; i < N && half_bias; i++) {
        uint32_t bits;
        memcpy(&bits, &s->bv[i], sizeof bits);
        s->half[i] = (uint16_t)(bits >> 16);
        bits &= 0xffff0000u;
        memcpy(&s->bv[i], &bits, sizeof bits);
    }
    const kin_tensor w = KIN_TENSOR(s->wv, KIN_DTYPE_F32, N, K);
    const kin_tensor b = half_bias ? (kin_tensor)KIN_TENSOR(s->half, KIN_DTYPE_BF16, N)
                                   : (kin_tensor)KIN_TENSOR(s->bv, KIN_DTYPE_F32, N);
    assert_ok(kin_params_bind(s->w, &w, &err), &err);
    assert_ok(kin_params_bind(s->b, &b, &err), &err);
}

static void close_layer(layer *s)
{
    kin_params_destroy(&s->params);
    kin_ctx_destroy(&s->ctx);
    memset(&kin_fake, 0, sizeof kin_fake);
}

static void forward(layer *s, kin_act act, bool keep, const kin_tensor *residual, float *y)
{
    const kin_tensor x = KIN_TENSOR(s->x, KIN_DTYPE_F32, M, K);
    kin_tensor pre = KIN_TENSOR(s->pre, KIN_DTYPE_F32, M, N);
    kin_tensor to = KIN_TENSOR(y, KIN_DTYPE_F32, M, N);
    const kin_linear_args a = {.m = M,
                               .n = N,
                               .k = K,
                               .x = &x,
                               .w = s->w,
                               .b = s->b,
                               .act = act,
                               .residual = residual,
                               .pre = keep ? &pre : NULL,
                               .y = &to};
    assert_ok(s->ctx->k->linear(s->ctx, &a), &s->ctx->error);
}

static double sum_of(const layer *s, int e)
{
    double sum = s->bv[e % N];
    for (int l = 0; l < K; l++)
        sum += (double)s->x[e / N * K + l] * (double)s->wv[e % N * K + l];
    return sum;
}

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
}

/* The largest error of y as act(sum), with the residual. */
static double error_of(const layer *s, bool act, const float *residual)
{
    double most = 0;
    for (int e = 0; e < M * N; e++) {
        const double sum = sum_of(s, e) + (residual ? (double)residual[e] : 0);
        most = fmax(most, fabs((double)s->y[e] - (act ? gelu(sum) : sum)));
    }
    return most;
}

/* GELU with and without its input kept, each tried once before it is used. */
static void gelu_epilogues(void **state)
{
    static layer s;
    (void)state;
    open_layer(&s, KIN_DTYPE_F32, KIN_PRECISION_HIGHEST, false);
    for (int i = 0; i < 3; i++) {
        forward(&s, KIN_ACT_GELU_TANH, true, NULL, s.y);
        assert_int_equal(kin_fake.runs[CUBLASLT_EPILOGUE_GELU_AUX_BIAS], i + 2);
        assert_true(error_of(&s, true, NULL) < 1e-5);
        for (int e = 0; e < M * N; e++)
            assert_true(fabs((double)s.pre[e] - sum_of(&s, e)) < 1e-5);
        forward(&s, KIN_ACT_GELU_TANH, false, NULL, s.y);
        assert_int_equal(kin_fake.runs[CUBLASLT_EPILOGUE_GELU_BIAS], i + 2);
        assert_true(error_of(&s, true, NULL) < 1e-5);
    }
    assert_int_equal(kin_fake.runs[CUBLASLT_EPILOGUE_DEFAULT], 0);
    close_layer(&s);
}

static double gelu_slope(double x)
{
    const double t = tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x));
    return 0.5 * (1 + t) +
           0.5 * x * (1 - t * t) * 0.79788456080286535588 * (1 + 3 * 0.044715 * x * x);
}

/* The gradient of x before a GELU that gave it, in one product; where the library's is another
 * function, or the activation another, or rows of what it read have odd strides, in two steps. */
static void gelu_gradient(void **state)
{
    static const struct {
        bool erf;
        kin_act act;
        int64_t stride;
        int runs; /* of DGELU, the trial among them */
    } cases[] = {{false, KIN_ACT_GELU_TANH, K, 3},
                 {true, KIN_ACT_GELU_TANH, K, 1},
                 {false, KIN_ACT_RELU, K, 0},
                 {false, KIN_ACT_GELU_TANH, K + 1, 0}};
    static layer s;
    static float past[M * (K + 1)], dx[M * K];
    (void)state;
    for (int i = 0; i < 4; i++) {
        const int64_t stride = cases[i].stride;
        open_layer(&s, KIN_DTYPE_F32, KIN_PRECISION_HIGHEST, false);
        kin_fake.erf = cases[i].erf;
        draw(past, M * (K + 1), 6);
        const kin_tensor dy = KIN_TENSOR(s.dy, KIN_DTYPE_F32, M, N);
        kin_tensor before = KIN_TENSOR(past, KIN_DTYPE_F32, M, K);
        kin_tensor to = KIN_TENSOR(dx, KIN_DTYPE_F32, M, K);
        before.stride[0] = stride;
        const kin_linear_bwd_args a = {.m = M,
                                       .n = N,
                                       .k = K,
                                       .dy = &dy,
                                       .w = s.w,
                                       .dx = &to,
                                       .act = cases[i].act,
                                       .past = &before};
        for (int j = 0; j < 2; j++) {
            assert_ok(s.ctx->k->linear_dx(s.ctx, &a), &s.ctx->error);
            for (int e = 0; e < M * K; e++) {
                const double x = (double)past[e / K * stride + e % K];
                double sum = 0;
                for (int l = 0; l < N; l++)
                    sum += (double)s.dy[e / K * N + l] * (double)s.wv[l * K + e % K];
                sum *= cases[i].act == KIN_ACT_RELU ? (x > 0 ? 1.0 : 0.0) : gelu_slope(x);
                assert_true(fabs((double)dx[e] - sum) < 1e-5);
            }
        }
        assert_int_equal(kin_fake.runs[CUBLASLT_EPILOGUE_DGELU], cases[i].runs);
        close_layer(&s);
    }
}

/* A library whose GELU is another function is not used for it, in any type. */
static void gelu_refused(void **state)
{
    static const struct {
        kin_dtype compute;
        kin_precision precision;
        double bound;
    } types[] = {{KIN_DTYPE_F32, KIN_PRECISION_HIGHEST, 1e-5},
                 {KIN_DTYPE_F32, KIN_PRECISION_HIGH, 1e-2},
                 {KIN_DTYPE_BF16, KIN_PRECISION_HIGHEST, 5e-2}};
    static layer s;
    (void)state;
    for (int i = 0; i < 3; i++) {
        open_layer(&s, types[i].compute, types[i].precision, false);
        kin_fake.erf = true;
        for (int j = 0; j < 2; j++) {
            forward(&s, KIN_ACT_GELU_TANH, true, NULL, s.y);
            assert_true(error_of(&s, true, NULL) < types[i].bound);
        }
        assert_int_equal(kin_fake.runs[CUBLASLT_EPILOGUE_GELU_AUX_BIAS], 1);
        assert_int_equal(kin_fake.runs[CUBLASLT_EPILOGUE_DEFAULT], 2);
        close_layer(&s);
    }
}

/* A residual is added by the product, also in place; a bias in bf16 is one for the library too. */
static void residuals(void **state)
{
    static layer s;
    static float before[M * N];
    (void)state;
    for (int i = 0; i < 2; i++) {
        open_layer(&s, KIN_DTYPE_F32, KIN_PRECISION_HIGHEST, i == 1);
        draw(before, M * N, 5);
        const kin_tensor host = KIN_TENSOR(before, KIN_DTYPE_F32, M, N);
        kin_tensor r;
        assert_ok(KIN_WS(s.ctx, &r, KIN_DTYPE_F32, M, N), &s.ctx->error);
        assert_ok(s.ctx->k->copy(s.ctx, &host, &r, false), &s.ctx->error);
        forward(&s, KIN_ACT_NONE, false, &r, i == 0 ? r.data : s.y);
        if (i == 0)
            assert_ok(s.ctx->device->read(s.ctx, s.y, r.data, sizeof s.y), &s.ctx->error);
        assert_true(error_of(&s, false, before) < 1e-5);
        assert_int_equal(kin_fake.runs[CUBLASLT_EPILOGUE_BIAS], 1);
        assert_int_equal(kin_fake.launched, 1);
        close_layer(&s);
    }
}

/* The bias gradient comes with the weight's in plain f32 alone, and both are added. */
static void bias_gradient(void **state)
{
    static const struct {
        kin_dtype compute;
        kin_precision precision;
        int runs;
    } types[] = {{KIN_DTYPE_F32, KIN_PRECISION_HIGHEST, 2},
                 {KIN_DTYPE_F32, KIN_PRECISION_HIGH, 0},
                 {KIN_DTYPE_BF16, KIN_PRECISION_HIGHEST, 0}};
    static layer s;
    (void)state;
    for (int i = 0; i < 3; i++) {
        open_layer(&s, types[i].compute, types[i].precision, false);
        memset(s.dw, 0, sizeof s.dw);
        memset(s.db, 0, sizeof s.db);
        const kin_tensor dw = KIN_TENSOR(s.dw, KIN_DTYPE_F32, N, K);
        const kin_tensor db = KIN_TENSOR(s.db, KIN_DTYPE_F32, N);
        const kin_tensor x = KIN_TENSOR(s.x, KIN_DTYPE_F32, M, K);
        const kin_tensor dy = KIN_TENSOR(s.dy, KIN_DTYPE_F32, M, N);
        s.w->grad = dw;
        s.b->grad = db;
        const kin_linear_bwd_args a = {
            .m = M, .n = N, .k = K, .dy = &dy, .x = &x, .w = s.w, .b = s.b};
        for (int j = 0; j < 2; j++)
            assert_ok(s.ctx->k->linear_dw(s.ctx, &a), &s.ctx->error);
        assert_int_equal(kin_fake.runs[CUBLASLT_EPILOGUE_BGRADB], types[i].runs);
        for (int e = 0; e < N; e++) {
            double want = 0;
            for (int r = 0; r < M; r++)
                want += 2 * (double)s.dy[r * N + e];
            assert_true(fabs((double)s.db[e] - want) < 1e-5);
        }
        close_layer(&s);
    }
}

/* HIGH rounds to TF32, HIGHEST and bf16 do not. */
static void tf32(void **state)
{
    static layer s;
    (void)state;
    open_layer(&s, KIN_DTYPE_F32, KIN_PRECISION_HIGH, false);
    forward(&s, KIN_ACT_NONE, false, NULL, s.y);
    assert_int_equal(kin_fake.tf32, 1);
    assert_true(error_of(&s, false, NULL) < 0x1p-10 * K && error_of(&s, false, NULL) > 0x1p-18);
    close_layer(&s);
    open_layer(&s, KIN_DTYPE_F32, KIN_PRECISION_HIGHEST, false);
    forward(&s, KIN_ACT_NONE, false, NULL, s.y);
    assert_int_equal(kin_fake.tf32, 0);
    assert_true(error_of(&s, false, NULL) < 1e-5);
    close_layer(&s);
    open_layer(&s, KIN_DTYPE_BF16, KIN_PRECISION_HIGH, false);
    forward(&s, KIN_ACT_NONE, false, NULL, s.y);
    assert_int_equal(kin_fake.tf32, 0);
    close_layer(&s);
}

/* Nothing can be launched: the own kernels do it all. */
static void failures(void **state)
{
    static layer s;
    (void)state;
    open_layer(&s, KIN_DTYPE_F32, KIN_PRECISION_HIGHEST, false);
    kin_fake.fail_every = 1;
    forward(&s, KIN_ACT_GELU_TANH, true, NULL, s.y);
    assert_true(error_of(&s, true, NULL) < 1e-5);
    /* what failed once is not asked for again */
    const int before = kin_fake.launched;
    forward(&s, KIN_ACT_GELU_TANH, true, NULL, s.y);
    assert_int_equal(kin_fake.launched, before);
    close_layer(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gelu_epilogues), cmocka_unit_test(gelu_refused),
        cmocka_unit_test(gelu_gradient),  cmocka_unit_test(residuals),
        cmocka_unit_test(bias_gradient),  cmocka_unit_test(tf32),
        cmocka_unit_test(failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
