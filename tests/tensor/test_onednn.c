/* oneDNN's products against the reference and against themselves: bits of a row must not depend on
 * the number of rows or threads. They are called directly, whatever the table in
 * tensor/cpu/choose.c prefers here. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "tensor/cpu/onednn.h"
#include "tests/support/support.h"

typedef struct rig {
    kin_ctx *ref, *cpu[2];
    kin_params *params;
    kin_param *w, *b;
    float *x, *y, *want;
} rig;

enum { M = 150, N = 80, K = 96 };

static void fill(float *p, int64_t n, uint64_t sample)
{
    kin_rng rng = {.seed = 5, .purpose = KIN_RNG_TEST, .sample = sample};
    kin_rng_normal(&rng, 0, n, p);
}

static void open_rig(rig *r, kin_dtype compute)
{
    kin_error err = {0};
    kin_ctx_options opt = {.backend = KIN_BACKEND_REF, .threads = 1, .compute = compute};
    assert_ok(kin_ctx_create(&opt, &r->ref, &err), &err);
    opt.backend = KIN_BACKEND_CPU;
    for (int t = 0; t < 2; t++) {
        opt.threads = 1 + 2 * t;
        assert_ok(kin_ctx_create(&opt, &r->cpu[t], &err), &err);
    }
    assert_ok(kin_params_create(&r->params, &err), &err);
    r->w = kin_params_add(r->params, KIN_INIT(KIN_INIT_NORMAL, 0.2f), KIN_DIMS(N, K), "w");
    r->b = kin_params_add(r->params, KIN_INIT(KIN_INIT_NORMAL, 1.0f), KIN_DIMS(N), "b");
    assert_ok(kin_params_alloc(r->params, KIN_DTYPE_F32, false, &err), &err);
    kin_params_init(r->params, 3);
    r->x = kin_malloc(sizeof(float) * M * K);
    r->y = kin_malloc(sizeof(float) * M * N);
    r->want = kin_malloc(sizeof(float) * M * N);
    fill(r->x, M * K, 1);
}

static void close_rig(rig *r)
{
    kin_params_destroy(&r->params);
    kin_ctx_destroy(&r->ref);
    kin_ctx_destroy(&r->cpu[0]);
    kin_ctx_destroy(&r->cpu[1]);
    kin_free(r->x);
    kin_free(r->y);
    kin_free(r->want);
}

/* False where this machine's oneDNN has no such product (bf16 below AVX-512). */
static bool run(rig *r, kin_ctx *ctx, bool onednn, int64_t rows, float *y)
{
    kin_tensor x = KIN_TENSOR(r->x, KIN_DTYPE_F32, rows, K),
               out = KIN_TENSOR(y, KIN_DTYPE_F32, rows, N);
    kin_linear_args a = {
        .m = rows, .n = N, .k = K, .x = &x, .w = r->w, .b = r->b, .act = KIN_ACT_SILU, .y = &out};
    memset(y, 0xff, sizeof(float) * (size_t)(rows * N));
    kin_status st = onednn ? kin_onednn_linear(ctx, &a) : ctx->k->linear(ctx, &a);
    if (onednn && st == KIN_ERR_BACKEND && ctx->isa < KIN_ISA_AVX512)
        return false;
    assert_ok(st, &ctx->error);
    return true;
}

static double distance(const float *a, const float *b, int64_t n)
{
    double e = 0, s = 0;
    for (int64_t i = 0; i < n; i++) {
        e += (double)(a[i] - b[i]) * (double)(a[i] - b[i]);
        s += (double)b[i] * (double)b[i];
    }
    return sqrt(e / s);
}

static void check(kin_dtype compute)
{
    rig r;
    open_rig(&r, compute);
    run(&r, r.ref, false, M, r.want);
    if (!run(&r, r.cpu[0], true, M, r.y)) {
        close_rig(&r);
        skip();
    }
    assert_true(distance(r.y, r.want, M * N) < 1e-6);
    memcpy(r.want, r.y, sizeof(float) * M * N);
    /* other threads, fewer rows: the same bits */
    run(&r, r.cpu[1], true, M, r.y);
    assert_memory_equal(r.y, r.want, sizeof(float) * M * N);
    for (int64_t rows = 1; rows < M; rows += 37) {
        run(&r, r.cpu[1], true, rows, r.y);
        assert_memory_equal(r.y, r.want, sizeof(float) * (size_t)(rows * N));
    }
    /* a changed weight is noticed */
    kin_params_init(r.params, 4);
    run(&r, r.cpu[0], true, M, r.y);
    assert_true(distance(r.y, r.want, M * N) > 0.1);
    run(&r, r.ref, false, M, r.want);
    assert_true(distance(r.y, r.want, M * N) < 1e-6);
    close_rig(&r);
}

static void forward_f32(void **state)
{
    (void)state;
    check(KIN_DTYPE_F32);
}

static void forward_bf16(void **state)
{
    (void)state;
    check(KIN_DTYPE_BF16);
}

static void backward(void **state)
{
    rig r;
    float dy[70 * N], dx[70 * K], want[70 * K];
    (void)state;
    open_rig(&r, KIN_DTYPE_F32);
    fill(dy, 70 * N, 2);
    fill(dx, 70 * K, 3);
    memcpy(want, dx, sizeof(dx));
    kin_tensor tdy = KIN_TENSOR(dy, KIN_DTYPE_F32, 70, N),
               tdx = KIN_TENSOR(dx, KIN_DTYPE_F32, 70, K);
    kin_linear_bwd_args a = {
        .m = 70, .n = N, .k = K, .dy = &tdy, .w = r.w, .dx = &tdx, .acc = true};
    assert_ok(kin_onednn_linear_dx(r.cpu[1], &a), &r.cpu[1]->error);
    tdx.data = want;
    assert_ok(r.ref->k->linear_dx(r.ref, &a), &r.ref->error);
    assert_true(distance(dx, want, 70 * K) < 1e-6);
    close_rig(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_f32),
        cmocka_unit_test(forward_bf16),
        cmocka_unit_test(backward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
