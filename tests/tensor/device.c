/* Host and device memory of a context, parameters and adopted memory on the CUDA backend: what the
 * kernels' own tests do not see. Runs on the emulated device (test_device_emulated) and, in a build
 * with KIN_CUDA, on a real one. */
#include "tensor/device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tensor/cuda/peak.h"
#include "tensor/ops.h"
#include "tensor/tape.h"
#include "tests/support/support.h"

enum { N = 1000 };

static kin_ctx *open_ctx(kin_backend backend)
{
    const kin_ctx_options opt = {.backend = backend, .threads = 1};
    kin_error err = {0};
    kin_ctx *ctx;
    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    return ctx;
}

static void refusals(void **state)
{
    kin_ctx_options opt = {.backend = KIN_BACKEND_CUDA, .device = 200};
    kin_error err = {0};
    kin_ctx *ctx;
    (void)state;
    assert_int_equal(kin_ctx_create(&opt, &ctx, &err), KIN_ERR_UNSUPPORTED);
    assert_null(ctx);
    assert_non_null(strstr(err.text, "200"));
    opt = (kin_ctx_options){.backend = KIN_BACKEND_CUDA, .compute = KIN_DTYPE_I8};
    assert_int_equal(kin_ctx_create(&opt, &ctx, &err), KIN_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "int8"));
}

/* A host tensor 0, 1, 2, ... */
static kin_tensor counted(kin_ctx *ctx, int64_t n)
{
    kin_tensor t;
    assert_ok(KIN_WS_HOST(ctx, &t, KIN_DTYPE_F32, n), &ctx->error);
    for (int64_t i = 0; i < n; i++)
        ((float *)t.data)[i] = (float)i;
    return t;
}

static void check_counted(kin_ctx *ctx, const kin_tensor *t, float first)
{
    kin_tensor host;
    assert_ok(kin_host(ctx, t, &host), &ctx->error);
    for (int64_t i = 0; i < kin_tensor_numel(t); i++)
        if (((const float *)host.data)[i] != first + (float)i)
            fail_msg("element %d is %g", (int)i, (double)((const float *)host.data)[i]);
}

static void two_memories(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CUDA);
    kin_tensor t = counted(ctx, N), view, sum;
    double v;
    (void)state;
    assert_false(kin_device_holds(ctx->device, t.data));
    assert_ok(kin_settle(ctx, &t), &ctx->error);
    assert_true(kin_device_holds(ctx->device, t.data));
    check_counted(ctx, &t, 0);
    view = kin_tensor_slice(&t, 0, 7, 20);
    check_counted(ctx, &view, 7);
    assert_ok(kin_scalar(ctx, &view, &v), &ctx->error);
    assert_true(v == 7);
    /* written on the host, brought back */
    kin_tensor host;
    assert_ok(kin_host(ctx, &view, &host), &ctx->error);
    for (int i = 0; i < 20; i++)
        ((float *)host.data)[i] += 100;
    assert_ok(kin_host_back(ctx, &host, &view), &ctx->error);
    check_counted(ctx, &view, 107);
    /* an operand on each side */
    kin_tensor other = counted(ctx, 20);
    assert_ok(kin_add(ctx, &view, &other, -1.0f, &sum), &ctx->error);
    assert_ok(kin_host(ctx, &sum, &host), &ctx->error);
    for (int i = 0; i < 20; i++)
        assert_true(((const float *)host.data)[i] == 107.0f);
    kin_ctx_destroy(&ctx);
}

/* The tensor moves down over itself: by less than its size, by more, not at all. */
static void keep_moves_down(void **state)
{
    const int64_t below[] = {0, 64, 16 * N};
    (void)state;
    for (int i = 0; i < 3; i++) {
        kin_ctx *ctx = open_ctx(KIN_BACKEND_CUDA);
        const size_t mark = kin_ws_mark(ctx);
        kin_tensor gap, t, made;
        assert_ok(KIN_WS(ctx, &gap, KIN_DTYPE_U8, below[i]), &ctx->error);
        assert_ok(KIN_WS(ctx, &made, KIN_DTYPE_F32, N), &ctx->error);
        const size_t above = kin_ws_mark(ctx);
        t = counted(ctx, N);
        assert_ok(kin_copy_into(ctx, &t, &made), &ctx->error);
        kin_ws_release(ctx, above);
        assert_ok(kin_ws_keep(ctx, mark, &made), &ctx->error);
        assert_true((char *)made.data == ctx->device->base + mark);
        check_counted(ctx, &made, 0);
        kin_ctx_destroy(&ctx);
    }
}

/* y = x w^T with x = 1: the weight's sum. */
static double weight_sum(kin_ctx *ctx, kin_param *w)
{
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor x, y;
    double v;
    assert_ok(KIN_WS(ctx, &x, KIN_DTYPE_F32, 1, 4), &ctx->error);
    assert_ok(kin_fill(ctx, &x, 1), &ctx->error);
    assert_ok(kin_linear(ctx, &x, w, NULL, &y), &ctx->error);
    assert_ok(kin_scalar(ctx, &y, &v), &ctx->error);
    kin_ws_release(ctx, mark);
    return v;
}

static void parameters_follow_versions(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CUDA);
    kin_error err = {0};
    kin_params *params;
    (void)state;
    assert_ok(kin_params_create(&params, &err), &err);
    kin_param *w = kin_params_add(params, KIN_INIT(KIN_INIT_ONE, 1), KIN_DIMS(1, 4), "w");
    assert_ok(kin_params_alloc(params, KIN_DTYPE_F32, false, &err), &err);
    kin_params_init(params, 1);
    assert_true(weight_sum(ctx, w) == 4);
    ((float *)w->value.data)[0] = 5;
    assert_true(weight_sum(ctx, w) == 4);
    kin_param_touch(w);
    assert_true(weight_sum(ctx, w) == 8);
    /* memory given back is taken again */
    assert_true(kin_params_drop_packs(params) > 0);
    assert_true(weight_sum(ctx, w) == 8);
    /* adopted: the device's values count, the host's are old */
    assert_ok(ctx->device->adopt(ctx, w->value.data, 4 * sizeof(float)), &ctx->error);
    assert_int_equal(ctx->device->adopt(ctx, w->value.data, 8), KIN_ERR_ARG);
    kin_tensor twice = counted(ctx, 4);
    kin_tensor value = KIN_TENSOR(w->value.data, KIN_DTYPE_F32, 4);
    assert_ok(kin_copy_into(ctx, &twice, &value), &ctx->error);
    assert_true(((const float *)w->value.data)[0] == 5);
    assert_true(weight_sum(ctx, w) == 0 + 1 + 2 + 3);
    assert_ok(ctx->device->pull(ctx, w->value.data, 4 * sizeof(float)), &ctx->error);
    assert_true(((const float *)w->value.data)[3] == 3);
    ctx->device->release(ctx, w->value.data);
    kin_param_touch(w);
    assert_true(weight_sum(ctx, w) == 6);
    kin_params_destroy(&params);
    kin_ctx_destroy(&ctx);
}

/* Many ranges, looked up at their edges. */
static void adopted_ranges(void **state)
{
    enum { RANGES = 200, FLOATS = 3 };
    static float block[RANGES][2 * FLOATS];
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CUDA);
    (void)state;
    for (int i = 0; i < RANGES; i++) {
        const int at = i * 77 % RANGES; /* in no order */
        for (int k = 0; k < FLOATS; k++)
            block[at][k] = (float)at;
        assert_ok(ctx->device->adopt(ctx, block[at], FLOATS * sizeof(float)), &ctx->error);
    }
    for (int i = 0; i < RANGES; i++) {
        kin_tensor last = KIN_TENSOR(&block[i][FLOATS - 1], KIN_DTYPE_F32, 1);
        kin_tensor outside = KIN_TENSOR(&block[i][FLOATS], KIN_DTYPE_F32, 1);
        assert_ok(kin_fill(ctx, &last, -1), &ctx->error);
        assert_ok(kin_fill(ctx, &outside, -2), &ctx->error);
        assert_true(block[i][FLOATS - 1] == (float)i);
        assert_true(block[i][FLOATS] == -2.0f);
        assert_ok(ctx->device->pull(ctx, block[i], FLOATS * sizeof(float)), &ctx->error);
        assert_true(block[i][0] == (float)i && block[i][FLOATS - 1] == -1.0f);
    }
    for (int i = 0; i < RANGES; i++)
        ctx->device->release(ctx, block[i * 33 % RANGES]);
    kin_ctx_destroy(&ctx);
}

/* A training step on the device and on the CPU: loss and updated weight agree. */
static void step(kin_backend backend, bool adopted, double *loss, float after[12])
{
    kin_ctx *ctx = open_ctx(backend);
    kin_error err = {0};
    kin_params *params;
    float m[12] = {0}, v[12] = {0};
    kin_tensor x, target, y, l;
    assert_ok(kin_params_create(&params, &err), &err);
    kin_param *w = kin_params_add(params, KIN_INIT(KIN_INIT_NORMAL, 1), KIN_DIMS(3, 4), "w");
    assert_ok(kin_params_alloc(params, KIN_DTYPE_F32, false, &err), &err);
    assert_ok(kin_params_alloc_grads(params, false, &err), &err);
    kin_params_init(params, 7);
    float *mine[] = {w->value.data, w->grad.data, m, v};
    for (int i = 0; i < 4 && adopted; i++)
        assert_ok(ctx->device->adopt(ctx, mine[i], 12 * sizeof(float)), &ctx->error);
    x = counted(ctx, 20);
    x = KIN_RESHAPE(&x, 5, 4);
    target = counted(ctx, 15);
    target = KIN_RESHAPE(&target, 5, 3);
    for (int i = 0; i < 3; i++) {
        const size_t mark = kin_ws_mark(ctx);
        assert_ok(kin_tape_begin(ctx), &ctx->error);
        assert_ok(kin_linear_act(ctx, &x, w, NULL, KIN_ACT_SILU, &y), &ctx->error);
        assert_ok(kin_mse(ctx, &y, &target, NULL, &l), &ctx->error);
        assert_ok(kin_scalar(ctx, &l, loss), &ctx->error);
        assert_ok(kin_tape_backward(ctx, &l, NULL, 1), &ctx->error);
        kin_tape_end(ctx);
        kin_ws_release(ctx, mark);
        const kin_adamw_part part = {
            .n = 12, .w = mine[0], .m = m, .v = v, .g = mine[1], .lr = 0.1f};
        const kin_adamw_args args = {.part = &part,
                                     .parts = 1,
                                     .beta1 = 0.9f,
                                     .beta2 = 0.99f,
                                     .eps = 1e-8f,
                                     .grad_scale = 1,
                                     .step = i + 1};
        assert_ok(ctx->k->adamw(ctx, &args), &ctx->error);
        kin_param_touch(w);
    }
    if (adopted)
        assert_ok(ctx->device->pull(ctx, w->value.data, 12 * sizeof(float)), &ctx->error);
    memcpy(after, w->value.data, 12 * sizeof(float));
    kin_params_destroy(&params);
    kin_ctx_destroy(&ctx);
}

static void training_steps_agree(void **state)
{
    double loss[3];
    float after[3][12];
    (void)state;
    step(KIN_BACKEND_REF, false, &loss[0], after[0]);
    step(KIN_BACKEND_CUDA, false, &loss[1], after[1]);
    step(KIN_BACKEND_CUDA, true, &loss[2], after[2]);
    for (int i = 1; i < 3; i++) {
        assert_true(fabs(loss[i] - loss[0]) < 1e-4 * loss[0]);
        for (int k = 0; k < 12; k++)
            assert_true(fabsf(after[i][k] - after[0][k]) < 1e-4f);
    }
    assert_memory_equal(after[1], after[2], sizeof after[1]);
}

/* --- products in e4m3 --- */

enum { FP8_M = 16, FP8_N = 32, FP8_K = 48 };

typedef struct fp8_case {
    float x[FP8_M * FP8_K], w[FP8_N * FP8_K], y[FP8_M * FP8_N];
    int64_t n, k;
} fp8_case;

/* Ends the test where the device has no such products. */
static void fp8_or_skip(void)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CUDA);
    kin_device_facts f;
    assert_ok(ctx->device->facts(ctx, 0, &f), &ctx->error);
    kin_ctx_destroy(&ctx);
    if (f.capability < 89)
        skip();
}

static void fp8_draw(fp8_case *p, int64_t n, int64_t k)
{
    const kin_rng rng[2] = {{.seed = 3, .purpose = KIN_RNG_TEST},
                            {.seed = 4, .purpose = KIN_RNG_TEST}};
    p->n = n;
    p->k = k;
    kin_rng_normal(&rng[0], 0, FP8_M * k, p->x);
    kin_rng_normal(&rng[1], 0, n * k, p->w);
    /* some values far below the others, where e4m3 has fewer bits */
    for (int64_t i = 0; i < FP8_M * k; i += 5)
        p->x[i] *= 1e-4f;
}

/* y = x w^T in the given type; int8: the matrix may lose precision. */
static void fp8_run(fp8_case *p, kin_dtype compute, bool int8)
{
    const kin_ctx_options opt = {.backend = KIN_BACKEND_CUDA, .compute = compute};
    kin_error err = {0};
    kin_ctx *ctx;
    kin_params *params;
    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    assert_ok(kin_params_create(&params, &err), &err);
    kin_param *w = kin_params_add(params, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(p->n, p->k), "w");
    const kin_tensor value = KIN_TENSOR(p->w, KIN_DTYPE_F32, p->n, p->k);
    assert_ok(kin_params_bind(w, &value, &err), &err);
    w->int8 = int8;
    const kin_tensor x = KIN_TENSOR(p->x, KIN_DTYPE_F32, FP8_M, p->k);
    kin_tensor y = KIN_TENSOR(p->y, KIN_DTYPE_F32, FP8_M, p->n);
    const kin_linear_args a = {.m = FP8_M, .n = p->n, .k = p->k, .x = &x, .w = w, .y = &y};
    assert_ok(ctx->k->linear(ctx, &a), &ctx->error);
    kin_params_destroy(&params);
    kin_ctx_destroy(&ctx);
}

static double largest(const float *v, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)v[i]));
    return most;
}

/* What rounding to 3 bits of mantissa may do to v: half of the last bit, below the normal numbers
 * half of the smallest one. The factor itself is rounded to f32. */
static double fp8_error(double v, double amax)
{
    return fmax(0x1p-4 * fabs(v), 0x1p-10 * amax / 448) + 0x1p-22 * fabs(v);
}

static void fp8_products(void **state)
{
    static fp8_case p;
    bool coarser = false;
    (void)state;
    fp8_or_skip();
    fp8_draw(&p, FP8_N, FP8_K);
    fp8_run(&p, KIN_DTYPE_F8, true);
    const double xmax = largest(p.x, FP8_M * FP8_K), wmax = largest(p.w, FP8_N * FP8_K);
    for (int i = 0; i < FP8_M * FP8_N; i++) {
        double want = 0, bound = 0;
        for (int l = 0; l < FP8_K; l++) {
            const double x = p.x[i / FP8_N * FP8_K + l], w = p.w[i % FP8_N * FP8_K + l];
            const double ex = fp8_error(x, xmax), ew = fp8_error(w, wmax);
            want += x * w;
            bound += ex * fabs(w) + ew * fabs(x) + ex * ew + FP8_K * 0x1p-23 * fabs(x * w);
        }
        if (!(fabs(p.y[i] - want) <= bound))
            fail_msg("element %d: %g, not %g within %g", i, (double)p.y[i], want, bound);
        coarser = coarser || fabs(p.y[i] - want) > 0.02 * bound;
    }
    /* it was no product in bf16, unless the library is left out */
    assert_true(coarser || getenv("KINEMA_CUDA_PRODUCTS"));
}

/* What does not fit, or must keep its precision, is the product in bf16, bit by bit. */
static void fp8_others_are_bf16(void **state)
{
    static const struct {
        int64_t n, k;
        bool int8;
    } rows[] = {{FP8_N, FP8_K, false}, {FP8_N - 8, FP8_K, true}, {FP8_N, FP8_K - 1, true}};
    static fp8_case p[2];
    (void)state;
    fp8_or_skip();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (int k = 0; k < 2; k++) {
            fp8_draw(&p[k], rows[i].n, rows[i].k);
            fp8_run(&p[k], k ? KIN_DTYPE_BF16 : KIN_DTYPE_F8, rows[i].int8);
        }
        assert_memory_equal(p[0].y, p[1].y, (size_t)(FP8_M * rows[i].n) * sizeof(float));
    }
}

static void fp8_edges(void **state)
{
    static fp8_case p;
    (void)state;
    fp8_or_skip();
    fp8_draw(&p, FP8_N, FP8_K);
    memset(p.x, 0, sizeof p.x);
    fp8_run(&p, KIN_DTYPE_F8, true);
    for (int i = 0; i < FP8_M * FP8_N; i++)
        assert_true(p.y[i] == 0);
    p.x[3] = NAN;
    fp8_run(&p, KIN_DTYPE_F8, true);
    for (int i = 0; i < FP8_M * FP8_N; i++)
        assert_true(isnan(p.y[i]));
}

static void fp8_refusals(void **state)
{
    kin_ctx_options opt = {.backend = KIN_BACKEND_CPU, .compute = KIN_DTYPE_F8};
    kin_error err = {0};
    kin_ctx *ctx;
    (void)state;
    assert_int_equal(kin_ctx_create(&opt, &ctx, &err), KIN_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "--device cuda"));
    fp8_or_skip();
    opt.backend = KIN_BACKEND_CUDA;
    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    assert_int_equal(kin_tape_begin(ctx), KIN_ERR_UNSUPPORTED);
    assert_non_null(strstr(ctx->error.text, "fp8"));
    kin_ctx_destroy(&ctx);
}

static void peaks(void **state)
{
    static const struct {
        const char *name;
        int capability, units;
        double clock, tflops;
    } rows[] = {{"NVIDIA H200", 90, 1, 1, 989},
                {"NVIDIA H200 NVL", 90, 1, 1, 835},
                {"NVIDIA A100-SXM4-80GB", 80, 1, 1, 312},
                {"NVIDIA L40S", 89, 1, 1, 362},
                {"NVIDIA RTX A4000", 86, 48, 1.56e9, 0}, /* not the A40; not known */
                {"a device of nobody", 90, 132, 1.83e9, 989.4}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const double peak =
            kin_cuda_bf16_peak(rows[i].name, rows[i].capability, rows[i].units, rows[i].clock);
        if (fabs(peak * 1e-12 - rows[i].tflops) > 0.1)
            fail_msg("%s: %g TFLOP/s", rows[i].name, peak * 1e-12);
    }
}

static void facts(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_CUDA);
    kin_device_facts f;
    kin_tensor t;
    (void)state;
    assert_ok(KIN_WS(ctx, &t, KIN_DTYPE_F32, 1 << 20), &ctx->error);
    assert_ok(ctx->device->facts(ctx, 0, &f), &ctx->error);
    assert_true(f.capability >= 80 && f.bf16_measured == 0);
    assert_true(f.used >= (size_t)4 << 20 && f.used <= f.total);
    assert_ok(ctx->device->facts(ctx, 256, &f), &ctx->error);
    assert_true(ctx->device->library ? f.bf16_measured > 0 : f.bf16_measured == 0);
    kin_ctx_destroy(&ctx);
}

int main(void)
{
    char why[200];
    if (kin_cuda_count(why, sizeof why) == 0) {
        printf("no CUDA device: %s\n", why);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refusals),        cmocka_unit_test(two_memories),
        cmocka_unit_test(keep_moves_down), cmocka_unit_test(parameters_follow_versions),
        cmocka_unit_test(adopted_ranges),  cmocka_unit_test(training_steps_agree),
        cmocka_unit_test(peaks),           cmocka_unit_test(facts),
        cmocka_unit_test(fp8_refusals),    cmocka_unit_test(fp8_products),
        cmocka_unit_test(fp8_edges),       cmocka_unit_test(fp8_others_are_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
