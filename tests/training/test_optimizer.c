/* tests/training/test_optimizer.c: AdamW, clipping, averages and schedules against their formulas
 * in double. */
#include "tests/support/support.h"

#include <math.h>
#include <string.h>

#include "tensor/ctx.h"
#include "training/optimizer.h"

typedef struct fixture {
    kin_ctx *ctx;
    kin_params *a, *b;
} fixture;

static const char *const prefixes[] = {"", "text_encoder."};

static int open_fixture(void **state)
{
    static fixture f;
    kin_error err = {0};
    const kin_ctx_options o = {.backend = KIN_BACKEND_CPU};
    assert_ok(kin_ctx_create(&o, &f.ctx, &err), &err);
    assert_ok(kin_params_create(&f.a, &err), &err);
    assert_ok(kin_params_create(&f.b, &err), &err);
    const kin_init normal = KIN_INIT(KIN_INIT_NORMAL, 1);
    kin_params_add(f.a, normal, KIN_DIMS(7, 5), "time.weight");
    kin_params_add(f.a, normal, KIN_DIMS(7), "time.bias");
    kin_params_add(f.a, normal, KIN_DIMS(1, 6, 3), "scale_shift_table");
    kin_params_add(f.b, normal, KIN_DIMS(4, 3), "shared.weight");
    kin_params *const tables[] = {f.a, f.b};
    for (int i = 0; i < 2; i++) {
        assert_ok(kin_params_alloc(tables[i], KIN_DTYPE_F32, false, &err), &err);
        assert_ok(kin_params_alloc_grads(tables[i], false, &err), &err);
        kin_params_init(tables[i], 11 + (uint64_t)i);
    }
    *state = &f;
    return 0;
}

static int close_fixture(void **state)
{
    fixture *f = *state;
    kin_params_destroy(&f->a);
    kin_params_destroy(&f->b);
    kin_ctx_destroy(&f->ctx);
    return 0;
}

/* Gradient of element j of slot i at step s. */
static double grad_of(int i, int64_t j, int s)
{
    return sin(1.7 * i + 0.31 * (double)j + 2.3 * s) * (1 + i);
}

static kin_optimizer *make(fixture *f, const kin_optimizer_options *opt)
{
    kin_optimizer *o;
    kin_error err = {0};
    kin_params *const tables[] = {f->a, f->b};
    assert_ok(kin_optimizer_create(opt, tables, prefixes, 2, false, &o, &err), &err);
    return o;
}

static void set_grads(kin_optimizer *o, int step)
{
    for (int i = 0; i < o->count; i++)
        for (int64_t j = 0; j < o->slot[i].n; j++)
            ((float *)o->slot[i].param->grad.data)[j] = (float)grad_of(i, j, step);
}

/* Three steps of the published rule, each slot in double, gradients halved (two micro-batches). */
static void follows_the_rule(void **state)
{
    enum { SLOTS = 4, MOST = 64, STEPS = 3 };
    fixture *f = *state;
    double w[SLOTS][MOST], m[SLOTS][MOST] = {{0}}, v[SLOTS][MOST] = {{0}}, ema[SLOTS][MOST];
    kin_optimizer_options opt = kin_optimizer_options_default();
    opt.lr = 0.01;
    opt.beta2 = 0.99;
    opt.weight_decay = 0.1;
    opt.decay_matrices_only = true;
    opt.max_grad_norm = 1.5;
    opt.ema_decay = 0.3;
    opt.ema_warmup = true;
    opt.factors = 2;
    opt.factor[0] = (kin_lr_factor){"time.", 0.2};
    opt.factor[1] = (kin_lr_factor){"text_encoder.", 3};
    kin_optimizer *o = make(f, &opt);
    const double factor[SLOTS] = {0.2, 0.2, 1, 3}, decay[SLOTS] = {0.1, 0, 0, 0.1};
    assert_int_equal(o->count, SLOTS);
    for (int i = 0; i < SLOTS; i++)
        for (int64_t j = 0; j < o->slot[i].n; j++)
            w[i][j] = ema[i][j] = (double)((float *)o->slot[i].param->value.data)[j];
    for (int s = 1; s <= STEPS; s++) {
        double norm = 0;
        kin_optimizer_report r;
        for (int i = 0; i < SLOTS; i++)
            for (int64_t j = 0; j < o->slot[i].n; j++)
                norm += pow(0.5 * grad_of(i, j, s), 2);
        norm = sqrt(norm);
        set_grads(o, s);
        assert_ok(kin_optimizer_step(f->ctx, o, 0.5, &r), &f->ctx->error);
        assert_true(fabs(r.grad_norm - norm) < 1e-5 * norm);
        const double clip = fmin(1, 1.5 / (norm + 1e-6));
        assert_true(clip < 1);
        const double d = fmin(0.3, (1.0 + s) / (10.0 + s));
        for (int i = 0; i < SLOTS; i++)
            for (int64_t j = 0; j < o->slot[i].n; j++) {
                const double g = 0.5 * clip * grad_of(i, j, s), lr = 0.01 * factor[i];
                w[i][j] *= 1 - lr * decay[i];
                m[i][j] = 0.9 * m[i][j] + 0.1 * g;
                v[i][j] = 0.99 * v[i][j] + 0.01 * g * g;
                w[i][j] -=
                    lr * m[i][j] / (1 - pow(0.9, s)) / (sqrt(v[i][j] / (1 - pow(0.99, s))) + 1e-8);
                ema[i][j] = d * ema[i][j] + (1 - d) * w[i][j];
                const double got = (double)((float *)o->slot[i].param->value.data)[j];
                const double avg = (double)o->slot[i].ema[j];
                assert_true(((float *)o->slot[i].param->grad.data)[j] == 0.0f);
                if (!(fabs(got - w[i][j]) < 2e-6) || !(fabs(avg - ema[i][j]) < 2e-6))
                    fail_msg("step %d slot %d element %d: %g for %g, average %g for %g", s, i,
                             (int)j, got, w[i][j], avg, ema[i][j]);
            }
    }
    kin_optimizer_destroy(&o);
}

static void schedules_have_their_values(void **state)
{
    kin_optimizer_options o = kin_optimizer_options_default();
    (void)state;
    o.lr = 2;
    assert_true(kin_lr_at(&o, 1) == 2 && kin_lr_at(&o, 1000000) == 2);
    o.warmup_steps = 4;
    assert_true(kin_lr_at(&o, 1) == 0.5 && kin_lr_at(&o, 4) == 2 && kin_lr_at(&o, 5) == 2);
    o.schedule = KIN_LR_COSINE;
    o.steps = 104;
    o.final_fraction = 0.1;
    assert_true(fabs(kin_lr_at(&o, 4) - 2) < 1e-12);
    assert_true(fabs(kin_lr_at(&o, 54) - 1.1) < 1e-12);
    assert_true(fabs(kin_lr_at(&o, 104) - 0.2) < 1e-12);
    assert_true(fabs(kin_lr_at(&o, 500) - 0.2) < 1e-12);
    o.ema_decay = 0.5;
    assert_true(kin_ema_decay_at(&o, 1) == 0.5);
    o.ema_warmup = true;
    assert_true(kin_ema_decay_at(&o, 1) == 2.0 / 11);
    assert_true(kin_ema_decay_at(&o, 100) == 0.5);
}

static void nan_changes_nothing(void **state)
{
    fixture *f = *state;
    kin_optimizer_options opt = kin_optimizer_options_default();
    kin_optimizer *o = make(f, &opt);
    kin_optimizer_report r;
    const float before = ((float *)o->slot[0].param->value.data)[0];
    set_grads(o, 1);
    ((float *)o->slot[3].param->grad.data)[2] = NAN;
    assert_int_equal(kin_optimizer_step(f->ctx, o, 1, &r), KIN_ERR_NUMERIC);
    assert_true(((float *)o->slot[0].param->value.data)[0] == before);
    assert_int_equal(o->step, 0);
    kin_optimizer_destroy(&o);
}

static void averages_can_be_shown(void **state)
{
    fixture *f = *state;
    kin_optimizer_options opt = kin_optimizer_options_default();
    kin_optimizer *o = make(f, &opt);
    kin_optimizer_report r;
    kin_param *p = o->slot[1].param;
    set_grads(o, 1);
    opt.lr = 1;
    assert_ok(kin_optimizer_step(f->ctx, o, 1, &r), &f->ctx->error);
    const float weight = ((float *)p->value.data)[0], average = o->slot[1].ema[0];
    const uint64_t version = p->version;
    assert_true(weight != average);
    kin_optimizer_swap_ema(o);
    assert_true(((float *)p->value.data)[0] == average);
    assert_true(kin_optimizer_ema(o, 0, p)[0] == average);
    assert_true(p->version > version); /* packed forms are made anew */
    kin_optimizer_swap_ema(o);
    assert_true(((float *)p->value.data)[0] == weight);
    assert_true(kin_optimizer_ema(o, 0, p)[0] == average);
    assert_null(kin_optimizer_ema(o, 1, p));
    kin_optimizer_destroy(&o);
}

static void a_factor_must_name_something(void **state)
{
    fixture *f = *state;
    kin_optimizer_options opt = kin_optimizer_options_default();
    kin_optimizer *o;
    kin_error err = {0};
    kin_params *const tables[] = {f->a, NULL};
    opt.factors = 1;
    opt.factor[0] = (kin_lr_factor){"tine.", 0.2};
    assert_int_equal(kin_optimizer_create(&opt, tables, prefixes, 2, false, &o, &err), KIN_ERR_ARG);
    assert_non_null(strstr(err.text, "tine."));
    assert_null(o);
}

/* What has no gradient stays as it is, and the averages hold the present value, not one of long
 * ago: thresholds of a router. */
static void buffers_are_copied(void **state)
{
    const kin_optimizer_options opt = kin_optimizer_options_default();
    const kin_ctx_options c = {.backend = KIN_BACKEND_CPU};
    kin_error err = {0};
    kin_ctx *ctx;
    kin_params *params;
    kin_optimizer *o;
    kin_optimizer_report report;
    (void)state;
    assert_ok(kin_ctx_create(&c, &ctx, &err), &err);
    assert_ok(kin_params_create(&params, &err), &err);
    kin_params_add(params, KIN_INIT(KIN_INIT_NORMAL, 1), KIN_DIMS(3), "w");
    kin_param *buffer =
        kin_params_add(params, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(4), "threshold");
    buffer->trainable = false;
    assert_ok(kin_params_alloc(params, KIN_DTYPE_F32, false, &err), &err);
    assert_ok(kin_params_alloc_grads(params, false, &err), &err);
    kin_params *const tables[] = {params};
    assert_ok(kin_optimizer_create(&opt, tables, prefixes, 1, false, &o, &err), &err);
    for (int i = 0; i < 4; i++)
        kin_tensor_set(&buffer->value, i, 0.25 * (i + 1));
    assert_ok(kin_optimizer_step(ctx, o, 1, &report), &ctx->error);
    for (int i = 0; i < 4; i++) {
        assert_true(kin_optimizer_ema(o, 0, buffer)[i] == 0.25f * (float)(i + 1));
        assert_true(kin_tensor_get(&buffer->value, i) == 0.25 * (i + 1));
    }
    kin_optimizer_destroy(&o);
    kin_params_destroy(&params);
    kin_ctx_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(follows_the_rule, open_fixture, close_fixture),
        cmocka_unit_test(schedules_have_their_values),
        cmocka_unit_test(buffers_are_copied),
        cmocka_unit_test_setup_teardown(nan_changes_nothing, open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(averages_can_be_shown, open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(a_factor_must_name_something, open_fixture, close_fixture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
