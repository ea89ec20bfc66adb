/* Copies and kernels on two lanes, on the emulated device, which runs them in either order that
 * their events allow: page-locked staging, and parameters that leave the device. */
#include "tensor/device.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "tensor/cuda/emulate/lanes.h"
#include "tensor/ops.h"
#include "tensor/replay.h"
#include "tests/support/support.h"

enum { LAYERS = 6, WIDTH = 64, ROWS = 3, PASSES = 3 };

static const kin_emulated_order orders[] = {KIN_EMULATED_COPIES_LATE, KIN_EMULATED_COPIES_EARLY};

static kin_ctx *open_ctx(kin_dtype compute, size_t offload)
{
    const kin_ctx_options opt = {
        .backend = KIN_BACKEND_CUDA, .threads = 1, .compute = compute, .offload = offload};
    kin_error err = {0};
    kin_ctx *ctx;
    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    return ctx;
}

/* More than both halves of the staging memory, there and back, between small uploads. */
static void large_copies(void **state)
{
    const int64_t n = (5 << 20) + 3; /* floats: 20 MB */
    float *from = kin_malloc((size_t)n * sizeof *from), *to = kin_malloc((size_t)n * sizeof *to);
    (void)state;
    assert_true(from && to);
    for (int k = 0; k < 2; k++) {
        kin_emulated_set_order(orders[k]);
        kin_ctx *ctx = open_ctx(KIN_DTYPE_F32, 0);
        for (int64_t i = 0; i < n; i++)
            from[i] = (float)(i % 100003) + (float)k;
        assert_ok(ctx->device->adopt(ctx, from, (size_t)n * sizeof *from), &ctx->error);
        /* the source may change at once */
        const float first = from[0], last = from[n - 1];
        memcpy(to, from, (size_t)n * sizeof *to);
        memset(from, 0, (size_t)n * sizeof *from);
        assert_ok(ctx->device->pull(ctx, from, (size_t)n * sizeof *from), &ctx->error);
        assert_true(from[0] == first && from[n - 1] == last);
        assert_memory_equal(from, to, (size_t)n * sizeof *to);
        ctx->device->release(ctx, from);
        kin_ctx_destroy(&ctx);
    }
    kin_free(from);
    kin_free(to);
}

/* Uploads alone never wait while they fit into one half. */
static void small_uploads_do_not_wait(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_DTYPE_F32, 0);
    kin_tensor x, y;
    (void)state;
    assert_ok(KIN_WS_HOST(ctx, &x, KIN_DTYPE_F32, 100), &ctx->error);
    assert_ok(KIN_WS(ctx, &y, KIN_DTYPE_F32, 100), &ctx->error);
    const long before = ctx->device->waits(ctx);
    for (int i = 0; i < 1000; i++) {
        for (int k = 0; k < 100; k++)
            ((float *)x.data)[k] = (float)(i + k);
        assert_ok(kin_copy_into(ctx, &x, &y), &ctx->error);
    }
    assert_int_equal(ctx->device->waits(ctx), before);
    assert_ok(kin_host(ctx, &y, &x), &ctx->error);
    assert_int_equal(ctx->device->waits(ctx), before + 1);
    assert_true(((const float *)x.data)[99] == 999.0f + 99.0f);
    kin_ctx_destroy(&ctx);
}

typedef struct stack { /* LAYERS matrices with biases, after one another */
    kin_params *params;
    kin_param *w[LAYERS], *b[LAYERS];
} stack;

static void make_stack(stack *s)
{
    kin_error err = {0};
    assert_ok(kin_params_create(&s->params, &err), &err);
    for (int i = 0; i < LAYERS; i++) {
        /* of several sizes, so that the places do not fit each other */
        const int64_t k = WIDTH + 16 * (i % 3), n = WIDTH + 16 * ((i + 1) % 3);
        s->w[i] =
            kin_params_add(s->params, KIN_INIT(KIN_INIT_NORMAL, 0.2f), KIN_DIMS(n, k), "w%d", i);
        s->b[i] = kin_params_add(s->params, KIN_INIT(KIN_INIT_NORMAL, 1), KIN_DIMS(n), "b%d", i);
    }
    assert_ok(kin_params_alloc(s->params, KIN_DTYPE_F32, false, &err), &err);
    kin_params_init(s->params, 5);
}

/* PASSES of the stack, each on the result of the one before; one weight changes in between. */
static void run_stack(kin_ctx *ctx, stack *s, float out[ROWS * WIDTH])
{
    const kin_rng rng = {.seed = 3, .purpose = KIN_RNG_TEST};
    kin_tensor x, host;
    assert_ok(KIN_WS(ctx, &x, KIN_DTYPE_F32, ROWS, WIDTH), &ctx->error);
    assert_ok(ctx->k->randn(ctx, &rng, 0, &x), &ctx->error);
    for (int pass = 0; pass < PASSES; pass++) {
        for (int i = 0; i < LAYERS; i++) {
            kin_tensor y;
            assert_ok(kin_linear_act(ctx, &x, s->w[i], s->b[i], KIN_ACT_SILU, &y), &ctx->error);
            x = y;
        }
        ((float *)s->w[1]->value.data)[0] = (float)pass;
        kin_param_touch(s->w[1]);
    }
    assert_ok(kin_host(ctx, &x, &host), &ctx->error);
    memcpy(out, host.data, ROWS * WIDTH * sizeof(float));
}

static void offload_keeps_the_bits(void **state)
{
    static const kin_dtype types[] = {KIN_DTYPE_F32, KIN_DTYPE_BF16};
    float whole[ROWS * WIDTH], part[ROWS * WIDTH];
    (void)state;
    for (int t = 0; t < 2; t++) {
        stack s;
        make_stack(&s);
        kin_ctx *ctx = open_ctx(types[t], 0);
        run_stack(ctx, &s, whole);
        kin_ctx_destroy(&ctx);
        kin_params_destroy(&s.params);
        for (int k = 0; k < 2; k++) {
            kin_emulated_set_order(orders[k]);
            /* two of the six matrices fit, with the raw bytes of the conversion */
            const size_t budget = 90000 / (size_t)(t + 1);
            make_stack(&s);
            assert_true(kin_params_bytes(s.params) / (size_t)(t + 1) > 3 * budget / 2);
            (void)kin_emulated_peak();
            ctx = open_ctx(types[t], budget);
            run_stack(ctx, &s, part);
            assert_memory_equal(whole, part, sizeof whole);
            assert_true(kin_emulated_peak() <= budget);
            /* forms may outlive the context, and the other way round */
            if (k == 0)
                kin_ctx_destroy(&ctx);
            kin_params_destroy(&s.params);
            if (k == 1)
                kin_ctx_destroy(&ctx);
        }
    }
}

/* Less memory than one operation reads; what lies on two contexts. */
static void offload_refusals(void **state)
{
    const kin_ctx_options cpu = {.backend = KIN_BACKEND_REF, .offload = 1000};
    kin_error err = {0};
    kin_ctx *ctx, *other;
    kin_tensor x, y;
    stack s;
    (void)state;
    assert_int_equal(kin_ctx_create(&cpu, &ctx, &err), KIN_ERR_ARG);
    assert_non_null(strstr(err.text, "offload"));
    /* more than any device has */
    const kin_ctx_options large = {.backend = KIN_BACKEND_CUDA, .offload = (size_t)1 << 60};
    assert_int_equal(kin_ctx_create(&large, &ctx, &err), KIN_ERR_MEM);
    assert_non_null(strstr(err.text, "offload"));
    make_stack(&s);
    ctx = open_ctx(KIN_DTYPE_F32, 8192);
    other = open_ctx(KIN_DTYPE_F32, 90000);
    assert_ok(KIN_WS(ctx, &x, KIN_DTYPE_F32, ROWS, WIDTH), &ctx->error);
    assert_ok(kin_fill(ctx, &x, 1), &ctx->error);
    assert_int_equal(kin_linear(ctx, &x, s.w[0], NULL, &y), KIN_ERR_MEM);
    assert_non_null(strstr(ctx->error.text, "w0"));
    assert_ok(KIN_WS(other, &x, KIN_DTYPE_F32, ROWS, WIDTH), &other->error);
    assert_ok(kin_fill(other, &x, 1), &other->error);
    assert_ok(kin_linear(other, &x, s.w[0], NULL, &y), &other->error);
    kin_ctx_destroy(&other);
    kin_params_drop_packs(s.params);
    kin_params_destroy(&s.params);
    kin_ctx_destroy(&ctx);
}

/* Layers that are used one after the other can do with the device memory of one. */
static void forms_are_handed_on(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_DTYPE_F32, 0);
    stack s;
    kin_tensor x, y;
    double first, second;
    size_t freed = 0;
    (void)state;
    make_stack(&s);
    assert_ok(KIN_WS(ctx, &x, KIN_DTYPE_F32, 1, WIDTH), &ctx->error);
    assert_ok(kin_fill(ctx, &x, 1), &ctx->error);
    /* w0 and w3 have one shape */
    assert_ok(kin_linear(ctx, &x, s.w[3], NULL, &y), &ctx->error);
    assert_ok(kin_scalar(ctx, &y, &second), &ctx->error);
    kin_params_drop_packs(s.params);
    assert_ok(kin_linear(ctx, &x, s.w[0], NULL, &y), &ctx->error);
    assert_ok(kin_scalar(ctx, &y, &first), &ctx->error);
    (void)kin_emulated_peak();
    const size_t one = kin_emulated_peak();
    assert_ok(kin_param_give_packs(s.w[0], s.w[3], &freed, &ctx->error), &ctx->error);
    assert_ok(kin_linear(ctx, &x, s.w[3], NULL, &y), &ctx->error);
    assert_ok(kin_scalar(ctx, &y, &first), &ctx->error);
    assert_true(first == second);
    assert_int_equal(kin_emulated_peak(), one);
    /* where the next one has its own, this one's is given back */
    assert_ok(kin_linear(ctx, &x, s.w[0], NULL, &y), &ctx->error);
    assert_ok(kin_param_give_packs(s.w[0], s.w[3], &freed, &ctx->error), &ctx->error);
    assert_int_equal(freed, WIDTH * (WIDTH + 16) * sizeof(float));
    (void)kin_emulated_peak();
    assert_int_equal(kin_emulated_peak(), one);
    kin_params_destroy(&s.params);
    kin_ctx_destroy(&ctx);
}

/* y = (x + h) w^T, and v, the first of y, where it is asked for. */
typedef struct job {
    kin_tensor x, h, y;
    kin_param *w;
    bool read;
    double v;
} job;

static kin_status work(kin_ctx *ctx, void *user)
{
    job *j = user;
    kin_tensor sum;
    KIN_TRY(kin_add(ctx, &j->x, &j->h, 1.0f, &sum));
    KIN_TRY(kin_linear(ctx, &sum, j->w, NULL, &j->y));
    return j->read ? kin_scalar(ctx, &j->y, &j->v) : KIN_OK;
}

/* Runs the job on x and h of one value each; the sum of the weight's first row times x + h. */
static void check_job(kin_ctx *ctx, kin_replay *r, job *j, float x, float h, kin_replay_counts want)
{
    const size_t mark = kin_ws_mark(ctx);
    const kin_tensor *const reads[] = {&j->x, &j->h, NULL};
    double sum = 0, v;
    for (int64_t k = 0; k < WIDTH; k++) {
        ((float *)j->h.data)[k] = h;
        sum += (double)((const float *)j->w->value.data)[k] * (double)(x + h);
    }
    assert_ok(kin_fill(ctx, &j->x, (double)x), &ctx->error);
    j->y = (kin_tensor){0};
    assert_ok(kin_replay_run(r, ctx,
                             &(kin_replay_work){.fn = work,
                                                .user = j,
                                                .reads = reads,
                                                .count = 3,
                                                .result = &j->y,
                                                .bytes = sizeof j->y}),
              &ctx->error);
    assert_ok(kin_scalar(ctx, &j->y, &v), &ctx->error);
    assert_true(fabs(v - sum) < 1e-4);
    const kin_replay_counts got = kin_replay_count(r);
    assert_int_equal(got.called, want.called);
    assert_int_equal(got.recorded, want.recorded);
    assert_int_equal(got.played, want.played);
    kin_ws_release(ctx, mark);
}

static void recordings_follow_their_reads(void **state)
{
    kin_ctx *ctx = open_ctx(KIN_DTYPE_BF16, 0);
    kin_replay *r;
    stack s;
    job j = {0};
    (void)state;
    make_stack(&s);
    /* numbers that bf16 holds */
    for (int64_t k = 0; k < kin_tensor_numel(&s.w[0]->value); k++)
        ((float *)s.w[0]->value.data)[k] = (float)(k % 7) / 8;
    j.w = s.w[0];
    assert_ok(KIN_WS(ctx, &j.x, KIN_DTYPE_F32, 1, WIDTH), &ctx->error);
    assert_ok(KIN_WS_HOST(ctx, &j.h, KIN_DTYPE_F32, 1, WIDTH), &ctx->error);
    assert_ok(kin_replay_create(ctx, &r), &ctx->error);
    check_job(ctx, r, &j, 1, 2, (kin_replay_counts){1, 0, 0});
    check_job(ctx, r, &j, 3, 2, (kin_replay_counts){1, 1, 1});
    check_job(ctx, r, &j, 4, 2, (kin_replay_counts){1, 1, 2});
    /* another value on the host is other work */
    check_job(ctx, r, &j, 4, 5, (kin_replay_counts){2, 1, 2});
    check_job(ctx, r, &j, 1, 2, (kin_replay_counts){2, 1, 3});
    /* another mark too */
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor gap;
    assert_ok(KIN_WS(ctx, &gap, KIN_DTYPE_F32, 100), &ctx->error);
    check_job(ctx, r, &j, 2, 2, (kin_replay_counts){3, 1, 3});
    kin_ws_release(ctx, mark);
    check_job(ctx, r, &j, 2, 2, (kin_replay_counts){3, 1, 4});
    /* the weight's copy goes and comes again elsewhere */
    ((float *)s.w[0]->value.data)[0] = 2;
    kin_param_touch(s.w[0]);
    assert_true(kin_params_drop_packs(s.params) > 0);
    check_job(ctx, r, &j, 1, 2, (kin_replay_counts){4, 1, 4});
    check_job(ctx, r, &j, 3, 2, (kin_replay_counts){4, 2, 5});
    /* what cannot be played is called, from then on */
    kin_emulated_refuse_plays(true);
    check_job(ctx, r, &j, 5, 2, (kin_replay_counts){5, 2, 5});
    kin_emulated_refuse_plays(false);
    check_job(ctx, r, &j, 6, 2, (kin_replay_counts){6, 2, 5});
    /* a host that wants to read cannot be recorded */
    j.read = true;
    check_job(ctx, r, &j, 1, 7, (kin_replay_counts){7, 2, 5});
    check_job(ctx, r, &j, 2, 7, (kin_replay_counts){8, 2, 5});
    check_job(ctx, r, &j, 3, 7, (kin_replay_counts){9, 2, 5});
    kin_replay_destroy(&r);
    kin_params_destroy(&s.params);
    kin_ctx_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(large_copies),           cmocka_unit_test(small_uploads_do_not_wait),
        cmocka_unit_test(offload_keeps_the_bits), cmocka_unit_test(offload_refusals),
        cmocka_unit_test(forms_are_handed_on),    cmocka_unit_test(recordings_follow_their_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
