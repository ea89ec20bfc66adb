/* tests/samplers/test_sampler.c: the callback interface, guidance identities, time densities. */
#include "tests/support/support.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "samplers/density.h"
#include "samplers/guidance.h"
#include "samplers/sampler.h"
#include "tensor/kernels.h"

enum { N = 35 };

typedef struct watch {
    int calls, hooks, draws, stop_at, nan_at;
    float last_sigma;
    uint64_t allocs;
} watch;

static kin_status constant(kin_ctx *ctx, void *user, const kin_tensor *x, float sigma, float t,
                           int step, kin_tensor *v)
{
    watch *w = user;
    kin_tensor scratch;
    (void)t;
    assert_int_equal(step, w->calls);
    /* what the model leaves in the workspace is taken away again */
    KIN_TRY(kin_ws_tensor(ctx, KIN_DTYPE_F32, x->ndim, x->size, &scratch));
    for (int i = 0; i < N; i++)
        ((float *)v->data)[i] = step == w->nan_at && i == 3 ? NAN : (float)(i - 10);
    w->last_sigma = sigma;
    w->calls++;
    return KIN_OK;
}

static kin_status hook(kin_ctx *ctx, void *user, int step, const kin_tensor *x)
{
    watch *w = user;
    assert_int_equal(step, w->hooks++);
    assert_int_equal(x->size[0], N);
    return step == w->stop_at ? kin_fail(&ctx->error, KIN_ERR_INTERRUPTED, "stop") : KIN_OK;
}

static kin_status ones(kin_ctx *ctx, void *user, int step, int draw, kin_tensor *n)
{
    (void)step;
    assert_int_equal(draw, 0);
    ((watch *)user)->draws++;
    return ctx->k->fill(ctx, n, 1.0);
}

static kin_ctx *context(void)
{
    kin_ctx *ctx = NULL;
    kin_error err = {0};
    assert_ok(
        kin_ctx_create(&(kin_ctx_options){.backend = KIN_BACKEND_CPU, .threads = 1}, &ctx, &err),
        &err);
    return ctx;
}

/* A constant velocity is integrated exactly: x(0) = x(1) - v. No heap memory, workspace as before.
 */
static void straight_paths_are_exact(void **state)
{
    (void)state;
    kin_ctx *ctx = context();
    kin_error err = {0};
    kin_schedule s = {0};
    float x[N];
    watch w = {.stop_at = -1, .nan_at = -1};
    kin_tensor t = KIN_TENSOR(x, KIN_DTYPE_F32, N);
    for (int i = 0; i < N; i++)
        x[i] = (float)i;
    assert_ok(kin_schedule_flow(8, 3.0, &s, &err), &err);
    kin_sampler_run_args args = {.schedule = &s, .model = constant, .hook = hook, .user = &w};
    size_t used = ctx->ws.used;
    uint64_t before = kin_alloc_count();
    assert_ok(kin_sampler_run(ctx, &args, &t), &ctx->error);
    assert_true(kin_alloc_count() == before);
    assert_true(ctx->ws.used == used);
    assert_int_equal(w.calls, 8);
    assert_int_equal(w.hooks, 8);
    for (int i = 0; i < N; i++)
        assert_true(fabsf(x[i] - 10.0f) < 1e-5f);
    kin_schedule_free(&s);
    kin_ctx_destroy(&ctx);
}

static void runs_stop_where_asked(void **state)
{
    (void)state;
    kin_ctx *ctx = context();
    kin_error err = {0};
    kin_schedule s = {0};
    float x[N] = {0};
    kin_tensor t = KIN_TENSOR(x, KIN_DTYPE_F32, N);
    assert_ok(kin_schedule_flow(8, 1.0, &s, &err), &err);
    watch w = {.stop_at = 2, .nan_at = -1};
    kin_sampler_run_args args = {.schedule = &s, .model = constant, .hook = hook, .user = &w};
    assert_int_equal(kin_sampler_run(ctx, &args, &t), KIN_ERR_INTERRUPTED);
    assert_int_equal(w.calls, 3);
    w = (watch){.stop_at = -1, .nan_at = 4};
    assert_int_equal(kin_sampler_run(ctx, &args, &t), KIN_ERR_NUMERIC);
    assert_non_null(strstr(ctx->error.text, "step 5 of 8"));
    s.cfg.stochastic = true;
    assert_int_equal(kin_sampler_run(ctx, &args, &t), KIN_ERR_ARG);
    kin_tensor wide = KIN_TENSOR(x, KIN_DTYPE_F64, N / 2);
    s.cfg.stochastic = false;
    assert_int_equal(kin_sampler_run(ctx, &args, &wide), KIN_ERR_SHAPE);
    const kin_sampler *none;
    assert_int_equal(kin_sampler_find("eular", &none, &err), KIN_ERR_ARG);
    assert_non_null(strstr(err.text, "euler"));
    kin_schedule_free(&s);
    kin_ctx_destroy(&ctx);
}

/* Stochastic: after the last step x = x0 of that step, x - sigma v. */
static void stochastic_steps_draw_noise(void **state)
{
    (void)state;
    kin_ctx *ctx = context();
    kin_error err = {0};
    kin_schedule s = {0};
    float x[N] = {0};
    kin_tensor t = KIN_TENSOR(x, KIN_DTYPE_F32, N);
    watch w = {.stop_at = -1, .nan_at = -1};
    assert_ok(kin_schedule_flow(4, 1.0, &s, &err), &err);
    s.cfg.stochastic = true;
    kin_sampler_run_args args = {
        .schedule = &s, .model = constant, .hook = hook, .noise = ones, .user = &w};
    assert_ok(kin_sampler_run(ctx, &args, &t), &ctx->error);
    assert_int_equal(w.draws, 4);
    for (int i = 0; i < N; i++) {
        double v = i - 10, want = 0.0;
        for (int k = 0; k < 4; k++) {
            double sigma = 1.0 - k / 4.0, next = sigma - 0.25, x0 = want - sigma * v;
            want = (1.0 - next) * x0 + next;
        }
        assert_true(fabs((double)x[i] - want) < 1e-4);
    }
    kin_schedule_free(&s);
    kin_ctx_destroy(&ctx);
}

static void guidance_identities_hold(void **state)
{
    (void)state;
    kin_ctx *ctx = context();
    float u[N], m[N], c[N], y[N];
    kin_tensor tu = KIN_TENSOR(u, KIN_DTYPE_F32, N), tm = KIN_TENSOR(m, KIN_DTYPE_F32, N);
    kin_tensor tc = KIN_TENSOR(c, KIN_DTYPE_F32, N), ty = KIN_TENSOR(y, KIN_DTYPE_F32, N);
    for (int i = 0; i < N; i++) {
        u[i] = sinf((float)i);
        m[i] = cosf((float)(3 * i));
        c[i] = (float)i / 8.0f - 2.0f;
    }
    const float scales[][2] = {
        {1.0f, 1.0f}, {0.0f, 0.0f}, {3.0f, 0.0f}, {2.5f, 2.5f}, {6.0f, 3.0f}};
    for (int k = 0; k < 5; k++) {
        float g = scales[k][0], gp = scales[k][1];
        assert_ok(kin_guidance_mix(ctx, &tu, &tc, g, &ty), &ctx->error);
        for (int i = 0; i < N; i++)
            assert_true(fabsf(y[i] - (u[i] + g * (c[i] - u[i]))) < 1e-5f);
        assert_ok(kin_guidance_mix_multi(ctx, &tu, &tm, &tc, g, gp, &ty), &ctx->error);
        for (int i = 0; i < N; i++) {
            assert_true(fabsf(y[i] - (u[i] + g * (m[i] - u[i]) + gp * (c[i] - m[i]))) < 1e-5f);
            /* equal scales: the text branch drops out, multi is plain */
            if (g == gp)
                assert_true(fabsf(y[i] - (u[i] + g * (c[i] - u[i]))) < 1e-5f);
        }
    }
    /* the result may lie on an operand */
    kin_tensor *aliased[] = {&tu, &tm, &tc};
    for (int k = 0; k < 3; k++) {
        float old[N];
        memcpy(old, aliased[k]->data, sizeof old);
        assert_ok(kin_guidance_mix_multi(ctx, &tu, &tm, &tc, 6.0f, 3.0f, &ty), &ctx->error);
        assert_ok(kin_guidance_mix_multi(ctx, &tu, &tm, &tc, 6.0f, 3.0f, aliased[k]), &ctx->error);
        assert_memory_equal(aliased[k]->data, y, sizeof y);
        memcpy(aliased[k]->data, old, sizeof old);
    }
    kin_tensor part = KIN_TENSOR(c, KIN_DTYPE_F32, N - 1);
    assert_int_equal(kin_guidance_mix(ctx, &tu, &part, 1.0f, &ty), KIN_ERR_SHAPE);
    kin_ctx_destroy(&ctx);
}

static void densities_map_draws(void **state)
{
    (void)state;
    kin_density d = kin_density_default();
    kin_error err = {0};
    float z[] = {-3.0f, 0.0f, 0.5f, 2.0f}, u[4];
    kin_density_apply(&d, z, 4, u);
    for (int i = 0; i < 4; i++)
        assert_true(fabs((double)u[i] - 1.0 / (1.0 + exp(-(double)z[i]))) < 1e-7);
    float p[] = {0.0f, 0.25f, 0.5f, 1.0f};
    assert_ok(kin_density_parse("mode", &d.kind, &err), &err);
    kin_density_apply(&d, p, 4, u);
    /* the ends are swapped and kept, the curve falls */
    assert_true(fabsf(u[0] - 1.0f) < 1e-6f && fabsf(u[3]) < 1e-6f && u[1] > u[2]);
    assert_ok(kin_density_parse("uniform", &d.kind, &err), &err);
    kin_density_apply(&d, p, 4, u);
    assert_memory_equal(u, p, sizeof p);
    assert_false(kin_density_wants_normal(d.kind));
    assert_int_equal(kin_density_parse("normal", &d.kind, &err), KIN_ERR_ARG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(straight_paths_are_exact),    cmocka_unit_test(runs_stop_where_asked),
        cmocka_unit_test(stochastic_steps_draw_noise), cmocka_unit_test(guidance_identities_hold),
        cmocka_unit_test(densities_map_draws),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
