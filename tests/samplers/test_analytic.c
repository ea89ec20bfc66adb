/* tests/samplers/test_analytic.c: flow Euler on data N(m, s^2) in one dimension, where the path is
 * known in closed form: x(t) = (1-t) m + sqrt((1-t)^2 s^2 + t^2) xi with constant xi. Own
 * parameters, and those of the reference file. */
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "samplers/sampler.h"

enum { MAX_POINTS = 16 };

typedef struct gaussian {
    double m, s;
} gaussian;

static double path(const gaussian *g, double t, double xi)
{
    return (1.0 - t) * g->m + sqrt((1.0 - t) * (1.0 - t) * g->s * g->s + t * t) * xi;
}

/* velocity = eps - x0 of the ideal predictions */
static kin_status ideal(kin_ctx *ctx, void *user, const kin_tensor *x, float sigma, float t,
                        int step, kin_tensor *v)
{
    (void)ctx, (void)t, (void)step;
    const gaussian *g = user;
    double b = (double)sigma, a = 1.0 - b, var = a * a * g->s * g->s + b * b;
    for (int64_t i = 0; i < kin_tensor_numel(x); i++) {
        double d = (kin_tensor_get(x, i) - a * g->m) / var;
        kin_tensor_set(v, i, b * d - (g->m + a * g->s * g->s * d));
    }
    return KIN_OK;
}

/* Largest |x_end - exact| of a schedule over the points. */
static double solve(kin_ctx *ctx, gaussian *g, const kin_schedule *schedule, const double *xi,
                    int64_t n)
{
    const kin_sampler *euler;
    kin_error err = {0};
    float data[MAX_POINTS];
    double worst = 0.0, start = (double)schedule->sigma[0];
    kin_tensor x = KIN_TENSOR(data, KIN_DTYPE_F32, n);
    for (int64_t i = 0; i < n; i++)
        data[i] = (float)path(g, start, xi[i]);
    assert_ok(kin_sampler_find("euler", &euler, &err), &err);
    kin_sampler_run_args args = {.schedule = schedule, .model = ideal, .user = g};
    assert_ok(kin_sampler_run(ctx, euler, &args, &x), &ctx->error);
    for (int64_t i = 0; i < n; i++)
        worst = fmax(worst, fabs((double)data[i] - path(g, 0.0, xi[i])));
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

static void error_falls_as_one_over_n(void **state)
{
    (void)state;
    kin_ctx *ctx = context();
    kin_error err = {0};
    gaussian g = {-0.4, 0.9};
    const double xi[] = {-2.0, -0.5, 0.0, 0.7, 2.5};
    const double shifts[] = {1.0, 3.0};
    for (int j = 0; j < 2; j++) {
        double before = 0.0;
        for (int n = 20; n <= 320; n *= 2) {
            kin_schedule s = {0};
            assert_ok(kin_schedule_flow(n, shifts[j], &s, &err), &err);
            double now = solve(ctx, &g, &s, xi, 5);
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

/* The class's own error at every step count, within 2 % and 2e-6. */
static int compare_solver(kin_ctx *ctx, gaussian *g, const double *xi, int64_t points,
                          const cJSON *solver)
{
    kin_error err = {0};
    kin_flow_scheduler cfg;
    int compared = 0;
    const cJSON *steps = cJSON_GetObjectItemCaseSensitive(solver, "num_inference_steps");
    const cJSON *errors = cJSON_GetObjectItemCaseSensitive(solver, "max_abs_error");
    assert_ok(
        kin_flow_scheduler_read(cJSON_GetObjectItemCaseSensitive(solver, "scheduler"), &cfg, &err),
        &err);
    for (int i = 0; i < cJSON_GetArraySize(steps); i++) {
        kin_schedule s = {0};
        kin_flow_request r = {.steps = cJSON_GetArrayItem(steps, i)->valueint};
        double want = cJSON_GetArrayItem(errors, i)->valuedouble;
        assert_ok(kin_schedule_flow_match(&cfg, &r, &s, &err), &err);
        double got = solve(ctx, g, &s, xi, points);
        if (fabs(got - want) > 0.02 * want + 2e-6)
            fail_msg("%d steps, shift %g: error %g, official %g", r.steps, cfg.shift, got, want);
        kin_schedule_free(&s);
        compared++;
    }
    return compared;
}

static void errors_are_those_of_the_official_class(void **state)
{
    (void)state;
    const char *dir = kin_test_golden_dir();
    char file[1024];
    cJSON *json;
    kin_error err = {0};
    double xi[MAX_POINTS];
    if (!dir)
        skip();
    snprintf(file, sizeof file, "%s/samplers/analytic.json", dir);
    assert_ok(kin_json_read(file, 1 << 24, KIN_JSON_ALLOW_INFINITY, &json, &err), &err);
    kin_ctx *ctx = context();
    gaussian g = {cJSON_GetObjectItemCaseSensitive(json, "m")->valuedouble,
                  cJSON_GetObjectItemCaseSensitive(json, "s")->valuedouble};
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(json, "xi"), *solver;
    int points = cJSON_GetArraySize(list), compared = 0;
    assert_true(points > 0 && points <= MAX_POINTS);
    for (int i = 0; i < points; i++)
        xi[i] = cJSON_GetArrayItem(list, i)->valuedouble;
    cJSON_ArrayForEach(solver, cJSON_GetObjectItemCaseSensitive(json, "solvers"))
    {
        const char *class = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(solver, "class"));
        if (strcmp(class, "FlowMatchEulerDiscreteScheduler") == 0)
            compared += compare_solver(ctx, &g, xi, points, solver);
    }
    print_message("%d errors compared\n", compared);
    assert_true(compared >= 12);
    cJSON_Delete(json);
    kin_ctx_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_falls_as_one_over_n),
        cmocka_unit_test(errors_are_those_of_the_official_class),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
