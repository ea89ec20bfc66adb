/* Context and workspace, parameter table, tape. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tensor/device.h"
#include "tensor/ops.h"
#include "tests/support/near.h"
#include "tests/support/support.h"

static kin_ctx *open_ctx(kin_backend backend, size_t limit)
{
    kin_ctx_options opt = {.backend = backend, .threads = 1, .ws_limit = limit};
    kin_error err = {0};
    kin_ctx *ctx;
    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    return ctx;
}

static void options(void **state)
{
    kin_ctx_options opt = {.backend = KIN_BACKEND_CPU};
    kin_error err = {0};
    kin_ctx *ctx;
    (void)state;
    opt.threads = -1;
    assert_int_equal(kin_ctx_create(&opt, &ctx, &err), KIN_ERR_ARG);
    assert_null(ctx);
    assert_non_null(strstr(err.text, "-1"));
    opt.threads = 0;
    opt.compute = KIN_DTYPE_F16;
    assert_int_equal(kin_ctx_create(&opt, &ctx, &err), KIN_ERR_UNSUPPORTED);
    opt.compute = KIN_DTYPE_I8;
    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    assert_int_equal(kin_tape_begin(ctx), KIN_ERR_UNSUPPORTED);
    assert_non_null(strstr(ctx->error.text, "int8"));
    kin_ctx_destroy(&ctx);
    opt.compute = KIN_DTYPE_F32;
    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    assert_true(ctx->threads >= 1);
    assert_int_equal(ctx->isa, kin_isa_detect());
    kin_ctx_destroy(&ctx);
    assert_null(ctx);
    kin_ctx_destroy(&ctx);
}

/* Without a device the CUDA backend says so and leaves nothing behind. */
static void no_device(void **state)
{
    const kin_ctx_options opt = {.backend = KIN_BACKEND_CUDA};
    kin_error err = {0};
    kin_ctx *ctx;
    char why[200] = "";
    (void)state;
    if (kin_cuda_count(why, sizeof why) > 0)
        skip();
    assert_true(why[0] != '\0');
    assert_int_equal(kin_ctx_create(&opt, &ctx, &err), KIN_ERR_UNSUPPORTED);
    assert_null(ctx);
    assert_non_null(strstr(err.text, why));
}

static void isa_names(void **state)
{
    kin_ctx_options opt = {.backend = KIN_BACKEND_CPU, .threads = 1};
    kin_error err = {0};
    kin_ctx *ctx;
    const char *old = getenv("KINEMA_ISA");
    char keep[32] = "";
    (void)state;
    if (old)
        strncpy(keep, old, sizeof(keep) - 1);
    assert_string_equal(kin_isa_name(KIN_ISA_AVX2), "avx2");
    assert_string_equal(kin_isa_name(KIN_ISA_AVX512), "avx512");
    assert_string_equal(kin_isa_name(KIN_ISA_AMX_EMULATED), "amx-emulated");
    assert_string_equal(kin_isa_name(KIN_ISA_AMX), "amx");
    assert_false(kin_isa_available(KIN_ISA_NONE));
    assert_true(kin_isa_available(kin_isa_detect()));
    assert_int_equal(kin_isa_available(KIN_ISA_AMX_EMULATED), kin_isa_detect() >= KIN_ISA_AVX512);
    assert_string_equal(kin_isa_name(KIN_ISA_NONE), "none");
    setenv("KINEMA_ISA", "sse9", 1);
    assert_int_equal(kin_ctx_create(&opt, &ctx, &err), KIN_ERR_ARG);
    assert_non_null(strstr(err.text, "sse9"));
    setenv("KINEMA_ISA", "avx2", 1);
    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    assert_int_equal(ctx->isa, KIN_ISA_AVX2);
    kin_ctx_destroy(&ctx);
    unsetenv("KINEMA_ISA");
    if (kin_isa_detect() < KIN_ISA_AMX) {
        opt.isa = KIN_ISA_AMX;
        assert_int_equal(kin_ctx_create(&opt, &ctx, &err), KIN_ERR_UNSUPPORTED);
        setenv("KINEMA_ISA", "amx", 1);
        opt.isa = KIN_ISA_NONE;
        assert_int_equal(kin_ctx_create(&opt, &ctx, &err), KIN_ERR_UNSUPPORTED);
    }
    if (old)
        setenv("KINEMA_ISA", keep, 1);
    else
        unsetenv("KINEMA_ISA");
}

static void workspace(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_REF, 1 << 20);
    kin_tensor a, b, c;
    (void)state;
    size_t start = kin_ws_mark(ctx);
    assert_ok(KIN_WS(ctx, &a, KIN_DTYPE_F32, 3, 5), &ctx->error);
    assert_ok(KIN_WS(ctx, &b, KIN_DTYPE_U8, 7), &ctx->error);
    assert_int_equal((uintptr_t)a.data % 64, 0);
    assert_int_equal((uintptr_t)b.data % 64, 0);
    assert_true((char *)b.data >= (char *)a.data + 60);
    assert_true(kin_tensor_is_contiguous(&a));
    assert_int_equal(a.id, 0);
    memset(a.data, 1, 60);
    memset(b.data, 2, 7);
    size_t mark = kin_ws_mark(ctx);
    assert_ok(KIN_WS(ctx, &c, KIN_DTYPE_F64, 100), &ctx->error);
    void *first = c.data;
    kin_ws_release(ctx, mark);
    assert_ok(KIN_WS(ctx, &c, KIN_DTYPE_F64, 100), &ctx->error);
    assert_ptr_equal(c.data, first);
    size_t peak = ctx->ws.peak;
    kin_ws_release(ctx, start);
    assert_int_equal(kin_ws_mark(ctx), start);
    assert_int_equal(ctx->ws.peak, peak);
    assert_ok(kin_ws_tensor(ctx, KIN_DTYPE_F32, 0, NULL, &a), &ctx->error);
    assert_int_equal(kin_tensor_numel(&a), 1);
    kin_ctx_destroy(&ctx);
}

static void workspace_limit(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_REF, 4096);
    kin_tensor t;
    (void)state;
    assert_ok(KIN_WS(ctx, &t, KIN_DTYPE_U8, 4096), &ctx->error);
    assert_int_equal(KIN_WS(ctx, &t, KIN_DTYPE_U8, 1), KIN_ERR_MEM);
    assert_int_equal(ctx->error.status, KIN_ERR_MEM);
    assert_non_null(strstr(ctx->error.text, "4096"));
    assert_null(kin_ws_bytes(ctx, 1));
    kin_ws_release(ctx, 0);
    assert_int_equal(KIN_WS(ctx, &t, KIN_DTYPE_U8, 4097), KIN_ERR_MEM);
    assert_ok(KIN_WS(ctx, &t, KIN_DTYPE_U8, 4096), &ctx->error);
    /* sizes that overflow must not pass for small ones */
    assert_int_equal(KIN_WS(ctx, &t, KIN_DTYPE_F64, INT64_MAX, 4), KIN_ERR_MEM);
    assert_int_equal(KIN_WS(ctx, &t, KIN_DTYPE_F64, INT64_MAX / 4), KIN_ERR_MEM);
    assert_int_equal(KIN_WS(ctx, &t, KIN_DTYPE_F64, -1), KIN_ERR_MEM);
    assert_null(kin_ws_bytes(ctx, SIZE_MAX - 3));
    kin_ctx_destroy(&ctx);
}

/* The workspace takes no heap, so a step takes none either. */
static void no_heap_in_ops(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_REF, 0);
    kin_tensor x, y;
    (void)state;
    assert_ok(KIN_WS(ctx, &x, KIN_DTYPE_F32, 8, 8), &ctx->error);
    assert_ok(kin_fill(ctx, &x, 1), &ctx->error);
    uint64_t before = kin_alloc_count();
    for (int i = 0; i < 50; i++)
        assert_ok(kin_softmax(ctx, &x, &y), &ctx->error);
    assert_int_equal(kin_alloc_count(), before);
    assert_true(fabs(kin_tensor_get(&y, 3) - 0.125) < 1e-7);
    kin_ctx_destroy(&ctx);
}

/* Every allocation of a context may fail; none may leak or crash. */
static void create_without_memory(void **state)
{
    kin_ctx_options opt = {.backend = KIN_BACKEND_REF, .threads = 1};
    kin_error err = {0};
    kin_ctx *ctx;
    (void)state;
    for (uint64_t k = 1; k <= 2; k++) {
        kin_alloc_fail_at(k);
        assert_int_equal(kin_ctx_create(&opt, &ctx, &err), KIN_ERR_MEM);
        assert_null(ctx);
    }
    kin_alloc_fail_at(0);
}

static int taps;
static void tap(void *user, const char *name, const kin_tensor *t)
{
    assert_ptr_equal(user, &taps);
    assert_string_equal(name, "blocks.3.out");
    assert_int_equal(t->ndim, 1);
    taps++;
}

static void taps_are_called(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_REF, 0);
    float v[2] = {0};
    kin_tensor t = KIN_TENSOR(v, KIN_DTYPE_F32, 2);
    (void)state;
    kin_tap(ctx, &t, "blocks.%d.out", 3);
    assert_int_equal(taps, 0);
    ctx->tap = tap;
    ctx->tap_user = &taps;
    kin_tap(ctx, &t, "blocks.%d.out", 3);
    assert_int_equal(taps, 1);
    kin_ctx_destroy(&ctx);
}

/* --- parameter table --- */

static void params_table(void **state)
{
    kin_params *params;
    kin_error err = {0};
    (void)state;
    assert_ok(kin_params_create(&params, &err), &err);
    kin_param *w = kin_params_add(params, KIN_INIT(KIN_INIT_NORMAL, 0.02f), KIN_DIMS(300, 40),
                                  "blocks.%d.w", 0);
    kin_param *b = kin_params_add(params, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(7), "b");
    kin_param *s = kin_params_add(params, KIN_INIT(KIN_INIT_CONST, 3), 0, NULL, "s");
    kin_param *x = kin_params_add(params, KIN_INIT(KIN_INIT_XAVIER, 0), KIN_DIMS(8, 2, 3), "x");
    assert_ptr_equal(kin_params_find(params, "blocks.0.w"), w);
    assert_null(kin_params_find(params, "blocks.0"));
    assert_int_equal(kin_params_numel(params), 12000 + 7 + 1 + 48);
    b->trainable = false;
    assert_ok(kin_params_alloc(params, KIN_DTYPE_F32, false, &err), &err);
    assert_ok(kin_params_alloc_grads(params, false, &err), &err);
    assert_int_equal(kin_params_bytes(params), 4 * (12000 + 7 + 1 + 48));
    assert_null(b->grad.data);
    assert_non_null(w->grad.data);
    uint64_t version = w->version;
    kin_params_init(params, 9);
    assert_true(w->version > version);
    double sum = 0, sq = 0, bound = sqrt(6.0 / (8 + 6));
    for (int i = 0; i < 12000; i++) {
        double v = kin_tensor_get(&w->value, i);
        sum += v;
        sq += v * v;
    }
    assert_true(fabs(sum / 12000) < 6 * 0.02 / sqrt(12000));
    assert_true(fabs(sqrt(sq / 12000) - 0.02) < 0.001);
    assert_true(kin_tensor_get(&b->value, 6) == 0 && kin_tensor_get(&s->value, 0) == 3);
    double largest = 0;
    for (int i = 0; i < 48; i++)
        largest = fmax(largest, fabs(kin_tensor_get(&x->value, i)));
    assert_true(largest <= bound && largest > 0.7 * bound);
    kin_tensor_set(&w->grad, 11999, 5);
    kin_params_zero_grads(params);
    assert_true(kin_tensor_get(&w->grad, 11999) == 0);
    kin_params_destroy(&params);
    kin_params_destroy(&params);
}

/* Start values follow from seed and index alone; gate_start adds to two rows. */
static void params_init_again(void **state)
{
    kin_params *p[2];
    kin_param *w[2];
    kin_error err = {0};
    char why[128];
    (void)state;
    for (int i = 0; i < 2; i++) {
        kin_init init = KIN_INIT(KIN_INIT_NORMAL, 1);
        assert_ok(kin_params_create(&p[i], &err), &err);
        kin_params_add(p[i], KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(3 + i), "first");
        if (i) {
            init.add = 2;
            init.row_a = 1;
            init.row_b = 3;
        }
        w[i] = kin_params_add(p[i], init, KIN_DIMS(4, 6), "w");
        assert_ok(kin_params_alloc(p[i], KIN_DTYPE_F32, false, &err), &err);
        kin_params_init(p[i], 77);
    }
    for (int i = 0; i < 24; i++) {
        double d = kin_tensor_get(&w[1]->value, i) - kin_tensor_get(&w[0]->value, i);
        assert_true(fabs(d - (i / 6 == 1 || i / 6 == 3 ? 2 : 0)) < 1e-6);
    }
    kin_params_init(p[0], 78);
    assert_false(kin_near_same_bits(&w[0]->value, &w[1]->value, why, sizeof(why)));
    kin_params_destroy(&p[0]);
    kin_params_destroy(&p[1]);
}

static void params_misuse(void **state)
{
    kin_params *params;
    kin_error err = {0};
    float data[6] = {0};
    kin_tensor wrong = KIN_TENSOR(data, KIN_DTYPE_F32, 3, 2);
    kin_tensor ints = KIN_TENSOR(data, KIN_DTYPE_I32, 2, 3);
    kin_tensor right = KIN_TENSOR(data, KIN_DTYPE_F32, 2, 3);
    (void)state;
    assert_ok(kin_params_create(&params, &err), &err);
    kin_param *p = kin_params_add(params, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(2, 3), "w");
    assert_int_equal(kin_params_bind(p, &wrong, &err), KIN_ERR_SHAPE);
    assert_non_null(strstr(err.text, "[3, 2]"));
    assert_non_null(strstr(err.text, "[2, 3]"));
    assert_int_equal(kin_params_bind(p, &ints, &err), KIN_ERR_FORMAT);
    assert_ok(kin_params_bind(p, &right, &err), &err);
    assert_ptr_equal(p->value.data, data);
    assert_false(p->owned);
    assert_ok(kin_params_alloc(params, KIN_DTYPE_F32, false, &err), &err);
    assert_ptr_equal(p->value.data, data);
    assert_null(kin_params_add(params, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(1), "w"));
    assert_int_equal(params->failed, KIN_ERR_ARG);
    kin_params_destroy(&params);
    assert_ok(kin_params_create(&params, &err), &err);
    kin_alloc_fail_at(1);
    assert_null(kin_params_add(params, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(1), "w"));
    kin_alloc_fail_at(0);
    assert_int_equal(kin_params_alloc(params, KIN_DTYPE_F32, false, &err), KIN_ERR_MEM);
    kin_params_destroy(&params);
}

static int freed;
static void count_free(void *extra)
{
    assert_ptr_equal(extra, &freed);
    freed++;
}

static void packs(void **state)
{
    kin_params *params;
    kin_error err = {0};
    (void)state;
    assert_ok(kin_params_create(&params, &err), &err);
    kin_param *p = kin_params_add(params, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(4), "w");
    assert_ok(kin_params_alloc(params, KIN_DTYPE_F32, false, &err), &err);
    assert_null(kin_param_pack_find(p, 5));
    kin_pack *five = kin_param_pack_get(p, 5, 100, false);
    assert_non_null(five);
    assert_int_equal((uintptr_t)five->data % 64, 0);
    assert_ptr_equal(kin_param_pack_find(p, 5), five);
    assert_null(kin_param_pack_find(p, 6));
    kin_pack *six = kin_param_pack_get(p, 6, 50, false);
    six->extra = &freed;
    six->free_extra = count_free;
    assert_int_equal(kin_params_pack_bytes(params), 150);
    kin_param_touch(p);
    assert_null(kin_param_pack_find(p, 5));
    void *data = five->data;
    assert_ptr_equal(kin_param_pack_get(p, 5, 100, false), five);
    assert_ptr_equal(five->data, data);
    assert_ptr_equal(kin_param_pack_find(p, 5), five);
    assert_null(kin_param_pack_find(p, 6));
    assert_ptr_equal(kin_param_pack_get(p, 5, 200, false), five);
    assert_true(five->bytes >= 200);
    assert_int_equal(freed, 0);
    kin_params_destroy(&params);
    assert_int_equal(freed, 1);
}

/* --- tape --- */

static void tape_basics(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_REF, 0);
    kin_tensor x, y, z, g, half;
    (void)state;
    assert_ok(KIN_WS(ctx, &x, KIN_DTYPE_F64, 2, 3), &ctx->error);
    assert_ok(kin_fill(ctx, &x, 2), &ctx->error);
    assert_int_equal(kin_tape_backward(ctx, &x, NULL, 1), KIN_ERR_ARG);
    assert_false(kin_tape_needs(ctx, &x));

    assert_ok(kin_tape_begin(ctx), &ctx->error);
    assert_false(kin_tape_needs(ctx, &x));
    assert_ok(kin_mul(ctx, &x, &x, 1, &y), &ctx->error);
    assert_int_equal(y.id, 0); /* nothing to differentiate: no entry */
    assert_ok(kin_tape_watch(ctx, &x), &ctx->error);
    assert_true(kin_tape_needs(ctx, &x));
    half = kin_tensor_slice(&x, 0, 0, 1);
    assert_true(kin_tape_needs(ctx, &half));
    assert_ok(kin_mul(ctx, &x, &x, 1, &y), &ctx->error);
    assert_ok(kin_sum(ctx, &y, 0.5f, &z), &ctx->error);
    assert_ok(kin_tape_backward(ctx, &z, NULL, 1), &ctx->error);
    g = kin_tape_grad(ctx, &x);
    for (int i = 0; i < 6; i++)
        assert_true(kin_tensor_get(&g, i) == 2);
    half = kin_tensor_slice(&x, 1, 1, 1);
    g = kin_tape_grad(ctx, &half);
    assert_int_equal(g.size[1], 1);
    assert_true(kin_tensor_get(&g, 1) == 2);
    kin_tape_end(ctx);
    assert_null(ctx->tape);
    kin_ctx_destroy(&ctx);
}

/* An output nothing depends on, and an input nothing reaches. */
static void tape_unreached(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_REF, 0);
    kin_tensor x, u, y, unused, strided;
    (void)state;
    assert_ok(KIN_WS(ctx, &x, KIN_DTYPE_F32, 3), &ctx->error);
    assert_ok(KIN_WS(ctx, &u, KIN_DTYPE_F32, 3), &ctx->error);
    assert_ok(kin_fill(ctx, &x, 1), &ctx->error);
    assert_ok(kin_fill(ctx, &u, 1), &ctx->error);
    assert_ok(kin_tape_begin(ctx), &ctx->error);
    assert_ok(kin_tape_watch(ctx, &x), &ctx->error);
    assert_ok(kin_tape_watch(ctx, &u), &ctx->error);
    assert_ok(kin_scale(ctx, &x, 3, &y), &ctx->error);
    assert_ok(kin_scale(ctx, &u, 3, &unused), &ctx->error);
    assert_ok(kin_tape_backward(ctx, &y, NULL, 1), &ctx->error);
    assert_non_null(kin_tape_grad(ctx, &x).data);
    assert_null(kin_tape_grad(ctx, &u).data);
    assert_null(kin_tape_grad(ctx, &unused).data);
    kin_tape_end(ctx);
    strided = KIN_RESHAPE(&x, 3, 1);
    strided = kin_tensor_expand(&strided, 1, 2);
    assert_ok(kin_tape_begin(ctx), &ctx->error);
    assert_int_equal(kin_tape_watch(ctx, &strided), KIN_ERR_ARG);
    kin_tape_end(ctx);
    kin_ctx_destroy(&ctx);
}

/* More entries than fit one chunk of the tape, and gradients of parameters that gather over two
 * passes. */
static void tape_is_long(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_REF, 0);
    kin_params *params;
    kin_error err = {0};
    (void)state;
    assert_ok(kin_params_create(&params, &err), &err);
    kin_param *p = kin_params_add(params, KIN_INIT(KIN_INIT_ONE, 0), KIN_DIMS(2), "p");
    assert_ok(kin_params_alloc(params, KIN_DTYPE_F64, false, &err), &err);
    assert_ok(kin_params_alloc_grads(params, false, &err), &err);
    kin_params_init(params, 1);
    size_t mark = kin_ws_mark(ctx);
    for (int pass = 0; pass < 2; pass++) {
        kin_tensor x, y;
        assert_ok(KIN_WS(ctx, &x, KIN_DTYPE_F64, 2), &ctx->error);
        assert_ok(kin_fill(ctx, &x, 0), &ctx->error);
        assert_ok(kin_tape_begin(ctx), &ctx->error);
        for (int i = 0; i < 1000; i++) {
            assert_ok(kin_add_param(ctx, &x, p, 1, &y), &ctx->error);
            x = y;
        }
        assert_ok(kin_tape_backward(ctx, &y, NULL, 1), &ctx->error);
        kin_tape_end(ctx);
        kin_ws_release(ctx, mark);
        assert_true(kin_tensor_get(&p->grad, 0) == 1000 * (pass + 1));
        assert_true(kin_tensor_get(&p->grad, 1) == 1000 * (pass + 1));
    }
    kin_params_destroy(&params);
    kin_ctx_destroy(&ctx);
}

/* A workspace that runs out in the middle of forward or backward is an error, not a crash. */
static void tape_without_memory(void **state)
{
    (void)state;
    int failed = 0, passed = 0;
    for (size_t limit = 1024; limit <= 64 * 1024; limit += 1024) {
        kin_ctx *ctx = open_ctx(KIN_BACKEND_REF, limit);
        kin_tensor x, y, z;
        kin_status status = KIN_WS(ctx, &x, KIN_DTYPE_F32, 40, 10);
        if (status == KIN_OK)
            status = kin_fill(ctx, &x, 1);
        if (status == KIN_OK)
            status = kin_tape_begin(ctx);
        if (status == KIN_OK)
            status = kin_tape_watch(ctx, &x);
        if (status == KIN_OK)
            status = kin_softmax(ctx, &x, &y);
        if (status == KIN_OK)
            status = kin_mul(ctx, &x, &y, 1, &z);
        if (status == KIN_OK)
            status = kin_tape_backward(ctx, &z, NULL, 1);
        assert_true(status == KIN_OK || status == KIN_ERR_MEM);
        *(status == KIN_OK ? &passed : &failed) += 1;
        kin_ctx_destroy(&ctx);
    }
    assert_true(failed > 2 && passed > 2);
}

/* Shapes that do not fit are refused with both shapes in the text. */
static void ops_refuse(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_BACKEND_REF, 0);
    kin_tensor a, b, y, v, ids, scalar;
    (void)state;
    assert_ok(KIN_WS(ctx, &a, KIN_DTYPE_F32, 2, 3), &ctx->error);
    assert_ok(KIN_WS(ctx, &b, KIN_DTYPE_F32, 4, 3), &ctx->error);
    assert_ok(KIN_WS(ctx, &v, KIN_DTYPE_F32, 1, 3, 2, 5, 4), &ctx->error);
    assert_ok(KIN_WS(ctx, &ids, KIN_DTYPE_I32, 2), &ctx->error);
    assert_ok(kin_ws_tensor(ctx, KIN_DTYPE_F32, 0, NULL, &scalar), &ctx->error);
    assert_int_equal(kin_add(ctx, &a, &b, 1, &y), KIN_ERR_SHAPE);
    assert_non_null(strstr(ctx->error.text, "[2, 3]"));
    assert_non_null(strstr(ctx->error.text, "[4, 3]"));
    assert_int_equal(kin_mse(ctx, &a, &b, NULL, &y), KIN_ERR_SHAPE);
    assert_int_equal(kin_patchify(ctx, &v, (int[3]){1, 2, 2}, false, &y), KIN_ERR_SHAPE);
    assert_non_null(strstr(ctx->error.text, "height 5"));
    assert_int_equal(kin_softmax(ctx, &ids, &y), KIN_ERR_ARG);
    assert_int_equal(kin_topk(ctx, &a, 4, NULL, 3, &ids, &y), KIN_ERR_ARG);
    assert_int_equal(kin_concat(ctx, &a, 1, 2, &y), KIN_ERR_ARG);
    assert_int_equal(kin_attention(ctx, &a, &a, &a, NULL, &y), KIN_ERR_SHAPE);
    assert_int_equal(kin_copy_into(ctx, &a, &b), KIN_ERR_SHAPE);
    /* a column of a matrix is no row */
    kin_tensor column = kin_tensor_select(&b, 1, 1);
    assert_int_equal(kin_softmax(ctx, &column, &y), KIN_ERR_SHAPE);

    kin_params *params;
    kin_error err = {0};
    assert_ok(kin_params_create(&params, &err), &err);
    kin_param *w = kin_params_add(params, KIN_INIT(KIN_INIT_ONE, 0), KIN_DIMS(5, 4), "blocks.w");
    assert_ok(kin_params_alloc(params, KIN_DTYPE_F32, false, &err), &err);
    assert_int_equal(kin_linear(ctx, &a, w, NULL, &y), KIN_ERR_SHAPE);
    assert_non_null(strstr(ctx->error.text, "blocks.w"));
    assert_int_equal(kin_linear(ctx, &scalar, w, NULL, &y), KIN_ERR_SHAPE);
    assert_int_equal(kin_layernorm(ctx, &a, w, NULL, NULL, NULL, 1e-6f, &y), KIN_ERR_SHAPE);
    int32_t *id = ids.data;
    id[0] = 4;
    id[1] = 5;
    assert_int_equal(kin_embedding(ctx, w, &ids, &y), KIN_ERR_ARG);
    assert_non_null(strstr(ctx->error.text, "5"));
    id[1] = -1;
    assert_int_equal(kin_embedding(ctx, w, &ids, &y), KIN_ERR_ARG);
    id[1] = 0;
    assert_ok(kin_embedding(ctx, w, &ids, &y), &ctx->error);
    kin_params_destroy(&params);
    kin_ctx_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options),
        cmocka_unit_test(no_device),
        cmocka_unit_test(isa_names),
        cmocka_unit_test(workspace),
        cmocka_unit_test(workspace_limit),
        cmocka_unit_test(no_heap_in_ops),
        cmocka_unit_test(create_without_memory),
        cmocka_unit_test(taps_are_called),
        cmocka_unit_test(params_table),
        cmocka_unit_test(params_init_again),
        cmocka_unit_test(params_misuse),
        cmocka_unit_test(packs),
        cmocka_unit_test(tape_basics),
        cmocka_unit_test(tape_unreached),
        cmocka_unit_test(tape_is_long),
        cmocka_unit_test(tape_without_memory),
        cmocka_unit_test(ops_refuse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
