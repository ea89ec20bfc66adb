/* tests/samplers/test_analytic.c: solvers on data N(m, s^2) in one dimension, where the path is
 * known in closed form: x(t) = (1-t) m + sqrt((1-t)^2 s^2 + t^2) xi with constant xi. Orders
 * of convergence; the errors of the official classes are a reference case. */
#include "tests/support/support.h"

#include <math.h>

#include "samplers/sampler.h"

enum { MAX_POINTS = 16 };

typedef struct gaussian {
    double m, s;
} gaussian;

static double path(const gaussian *g, double t, double xi)
{
    return (1.0 - t) * g->m + sqrt((1.0 - t) * (1.0 - t) * g->s * g->s + t * t) * xi;
}

typedef struct problem {
    gaussian g;
    const kin_schedule *schedule;
} problem;

/* a and b of the model's input of call i: of a flow, or with a^2 + b^2 = 1 */
static void level(const kin_schedule *s, int i, double *a, double *b)
{
    const double sigma = (double)s->sigma[i];
    *b = sigma;
    *a = 1.0 - sigma;
    if (!kin_scheduler_is_flow(&s->cfg)) {
        *a = s->ab ? sqrt(s->ab[i]) : 1.0 / sqrt(sigma * sigma + 1.0);
        *b = s->ab ? sqrt(1.0 - s->ab[i]) : sigma * *a;
    }
}

/* the ideal velocity eps - x0, or the ideal eps */
static kin_status ideal(kin_ctx *ctx, void *user, const kin_tensor *x, float sigma, float t,
                        int step, kin_tensor *v)
{
    (void)ctx, (void)t, (void)sigma;
    const problem *p = user;
    const gaussian *g = &p->g;
    double a, b;
    level(p->schedule, step, &a, &b);
    const double var = a * a * g->s * g->s + b * b;
    for (int64_t i = 0; i < kin_tensor_numel(x); i++) {
        const double d = (kin_tensor_get(x, i) - a * g->m) / var;
        const double x0 = g->m + a * g->s * g->s * d;
        kin_tensor_set(v, i, p->schedule->cfg.prediction == KIN_PREDICT_FLOW ? b * d - x0 : b * d);
    }
    return KIN_OK;
}

/* Largest |x_end - exact| of a schedule over the points, where it ends at the levels of its last
 * step: the jump to a level of 0 is of first order whatever the solver. */
static double solve(kin_ctx *ctx, const gaussian *g, const kin_schedule *schedule, const double *xi,
                    int64_t n, double from, double to)
{
    float data[MAX_POINTS];
    double worst = 0.0;
    problem p = {*g, schedule};
    kin_tensor x = KIN_TENSOR(data, KIN_DTYPE_F32, n);
    for (int64_t i = 0; i < n; i++)
        data[i] = (float)(path(g, from, xi[i]) / schedule->init_sigma);
    kin_sampler_run_args args = {.schedule = schedule, .model = ideal, .user = &p};
    assert_ok(kin_sampler_run(ctx, &args, &x), &ctx->error);
    for (int64_t i = 0; i < n; i++)
        worst = fmax(worst, fabs((double)data[i] - path(g, to, xi[i])));
    return worst;
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

static const double points[] = {-2.0, -0.5, 0.0, 0.7, 2.5};

static void euler_falls_as_one_over_n(void **state)
{
    (void)state;
    kin_ctx *ctx = context();
    kin_error err = {0};
    gaussian g = {-0.4, 0.9};
    const double shifts[] = {1.0, 3.0};
    for (int j = 0; j < 2; j++) {
        double before = 0.0;
        for (int n = 20; n <= 320; n *= 2) {
            kin_schedule s = {0};
            assert_ok(kin_schedule_flow(n, shifts[j], &s, &err), &err);
            double now = solve(ctx, &g, &s, points, 5, 1.0, 0.0);
            double order = n > 20 ? log2(before / now) : 1.0;
            print_message("shift %g, %3d steps: error %.5f, order %.3f\n", shifts[j], n, now,
                          order);
            assert_true(order > 0.9 && order < 1.1);
            before = now;
            kin_schedule_free(&s);
        }
        assert_true(before < 0.02);
    }
    kin_ctx_destroy(&ctx);
}

/* Solvers of second order on a smooth grid between sigma 0.9 and 0.1, where their steps are even in
 * no variable of theirs: the error falls by four when the steps double. */
static void second_order_falls_as_one_over_n_squared(void **state)
{
    (void)state;
    kin_ctx *ctx = context();
    kin_error err = {0};
    const gaussian g = {0.7, 0.4};
    const kin_scheduler_class classes[] = {KIN_SCHEDULER_FLOW_HEUN, KIN_SCHEDULER_DPM,
                                           KIN_SCHEDULER_UNIPC};
    for (int j = 0; j < 3; j++) {
        kin_scheduler cfg = kin_scheduler_default(classes[j]);
        double before = 0.0;
        cfg.flow_sigmas = true;
        cfg.prediction = KIN_PREDICT_FLOW;
        /* no step of first order at the end: it ends above 0 */
        cfg.final_sigma_min = true;
        cfg.lower_order_final = false;
        for (int n = 20; n <= 160; n *= 2) {
            kin_schedule s = {0};
            const bool heun = classes[j] == KIN_SCHEDULER_FLOW_HEUN;
            assert_ok(kin_schedule_make(&cfg, &(kin_schedule_request){.steps = n + heun}, &s, &err),
                      &err);
            for (int i = 0; i <= n; i++) {
                const float sigma = (float)(0.9 - 0.8 * i / n);
                if (!heun) {
                    s.sigma[i] = sigma;
                    continue;
                }
                s.sigma[2 * i] = sigma;
                if (i)
                    s.sigma[2 * i - 1] = sigma;
            }
            /* Heun: the closing Euler step to 0 is left out */
            s.n = heun ? 2 * n : n;
            const double now = solve(ctx, &g, &s, points, 5, 0.9, 0.1);
            const double order = n > 20 ? log2(before / now) : 2.0;
            print_message("%s, %2d steps: error %.2e, order %.2f\n", kin_scheduler_name(classes[j]),
                          n, now, order);
            /* note: UniPC's corrector raises its order to three */
            assert_true(order > 1.7 && order < (classes[j] == KIN_SCHEDULER_UNIPC ? 3.6 : 2.3));
            before = now;
            kin_schedule_free(&s);
        }
        assert_true(before < 1e-3);
    }
    kin_ctx_destroy(&ctx);
}

/* For one and the same problem the deterministic classes with betas end at the same place. */
static void classes_with_betas_agree(void **state)
{
    (void)state;
    kin_ctx *ctx = context();
    kin_error err = {0};
    const gaussian g = {-0.4, 0.9};
    const kin_scheduler_class classes[] = {KIN_SCHEDULER_EULER, KIN_SCHEDULER_HEUN,
                                           KIN_SCHEDULER_DPM,   KIN_SCHEDULER_UNIPC,
                                           KIN_SCHEDULER_DDIM,  KIN_SCHEDULER_COG_DDIM};
    for (int j = 0; j < 6; j++) {
        kin_scheduler cfg = kin_scheduler_default(classes[j]);
        kin_schedule s = {0};
        float data[MAX_POINTS];
        double a, b;
        cfg.clip = false;
        cfg.spacing = KIN_TIME_TRAILING;
        assert_ok(kin_schedule_make(&cfg, &(kin_schedule_request){.steps = 200}, &s, &err), &err);
        problem p = {g, &s};
        kin_tensor x = KIN_TENSOR(data, KIN_DTYPE_F32, 5);
        level(&s, 0, &a, &b);
        const double scale = classes[j] <= KIN_SCHEDULER_HEUN ? s.init_sigma / b : 1.0;
        for (int i = 0; i < 5; i++)
            data[i] = (float)((a * g.m + sqrt(a * a * g.s * g.s + b * b) * points[i]) * scale /
                              s.init_sigma);
        const kin_sampler_run_args args = {.schedule = &s, .model = ideal, .user = &p};
        assert_ok(kin_sampler_run(ctx, &args, &x), &ctx->error);
        for (int i = 0; i < 5; i++)
            assert_true(fabs((double)data[i] - (g.m + g.s * points[i])) < 0.06);
        kin_schedule_free(&s);
    }
    kin_ctx_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(euler_falls_as_one_over_n),
        cmocka_unit_test(second_order_falls_as_one_over_n_squared),
        cmocka_unit_test(classes_with_betas_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
