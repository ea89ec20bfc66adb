/* tests/golden/kind_analytic.c: kind analytic: solvers on data N(m, s^2) in one dimension, where
 * the path is known: x = a m + sqrt(a^2 s^2 + b^2) xi with constant xi. */
#include "tests/golden/golden.h"

#include <math.h>
#include <string.h>

#include "samplers/sampler.h"

extern const kin_golden_kind kin_golden_kinds_analytic[];

enum { MAX_POINTS = 16 };

typedef struct gaussian {
    kin_golden_case *c;
    double m, s, xi[MAX_POINTS];
    int points;
    const kin_schedule *schedule;
    double before_last; /* error of the sample that goes into the last model call */
} gaussian;

/* a and b of x = a x0 + b eps before call i, as the solver holds x (call n: the end) */
static void level(const kin_schedule *s, int i, double *a, double *b)
{
    const double sigma = (double)s->sigma[i];
    const kin_scheduler_class c = s->cfg.class;
    if (s->ab) {
        const double ab = i < s->n ? s->ab[i] : s->ab_prev[s->n - 1];
        *a = sqrt(ab);
        *b = sqrt(1.0 - ab);
    } else if (kin_scheduler_is_flow(&s->cfg)) {
        *a = 1.0 - sigma;
        *b = sigma;
    } else if (c == KIN_SCHEDULER_DPM || c == KIN_SCHEDULER_UNIPC) {
        *a = 1.0 / sqrt(sigma * sigma + 1.0);
        *b = sigma * *a;
    } else {
        *a = 1.0;
        *b = sigma;
    }
}

static double path(const gaussian *g, double a, double b, double xi)
{
    return a * g->m + sqrt(a * a * g->s * g->s + b * b) * xi;
}

static double worst_error(const gaussian *g, int i, const kin_tensor *x)
{
    double a, b, worst = 0.0;
    level(g->schedule, i, &a, &b);
    for (int k = 0; k < g->points; k++)
        worst = fmax(worst, fabs(kin_tensor_get(x, k) - path(g, a, b, g->xi[k])));
    return worst;
}

/* The ideal prediction for an input whose a^2 + b^2 is 1 (flows: a + b), whatever scale the solver
 * works in. */
static double ideal(const gaussian *g, kin_prediction prediction, double a, double b, double x)
{
    const double d = (x - a * g->m) / (a * a * g->s * g->s + b * b);
    const double x0 = g->m + a * g->s * g->s * d, eps = b * d;
    switch (prediction) {
    case KIN_PREDICT_EPSILON: return eps;
    case KIN_PREDICT_SAMPLE: return x0;
    case KIN_PREDICT_V: return a * eps - b * x0;
    case KIN_PREDICT_FLOW: break;
    }
    return eps - x0;
}

static kin_status model(kin_ctx *ctx, void *user, const kin_tensor *x, float sigma, float t,
                        int step, kin_tensor *y)
{
    (void)ctx, (void)sigma, (void)t;
    const gaussian *g = user;
    double a, b;
    level(g->schedule, step, &a, &b);
    if (!kin_scheduler_is_flow(&g->schedule->cfg)) {
        const double norm = sqrt(a * a + b * b);
        a /= norm;
        b /= norm;
    }
    for (int k = 0; k < g->points; k++)
        kin_tensor_set(y, k, ideal(g, g->schedule->cfg.prediction, a, b, kin_tensor_get(x, k)));
    return KIN_OK;
}

static kin_status hook(kin_ctx *ctx, void *user, int step, const kin_tensor *x)
{
    (void)ctx;
    gaussian *g = user;
    if (step == g->schedule->n - 2)
        g->before_last = worst_error(g, step + 1, x);
    return KIN_OK;
}

static kin_status solve(gaussian *g, const kin_scheduler *cfg, int steps, double *error)
{
    kin_ctx *ctx = g->c->ctx;
    kin_schedule s = {0};
    float data[MAX_POINTS];
    double a, b;
    const kin_schedule_request r = {.steps = steps};
    kin_tensor x = KIN_TENSOR(data, KIN_DTYPE_F32, g->points);
    KIN_TRY(kin_schedule_make(cfg, &r, &s, &ctx->error));
    g->schedule = &s;
    level(&s, 0, &a, &b);
    /* the run multiplies by init_sigma, as if this were noise */
    for (int k = 0; k < g->points; k++)
        data[k] = (float)(path(g, a, b, g->xi[k]) / s.init_sigma);
    const kin_sampler_run_args args = {.schedule = &s, .model = model, .hook = hook, .user = g};
    const kin_status status = kin_sampler_run(ctx, &args, &x);
    *error = 0.0;
    for (int k = 0; k < g->points; k++)
        *error = fmax(*error, fabs((double)data[k] - path(g, 1.0, 0.0, g->xi[k])));
    kin_schedule_free(&s);
    return status;
}

static double entry(const cJSON *object, const char *key, int i)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(object, key);
    const cJSON *v = list ? cJSON_GetArrayItem(list, i) : NULL;
    return cJSON_IsNumber(v) ? v->valuedouble : (double)NAN;
}

static kin_status run_solver(gaussian *g, const cJSON *solver)
{
    kin_scheduler cfg;
    kin_error *err = &g->c->ctx->error;
    const char *class = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(solver, "class"));
    cJSON *config = cJSON_Duplicate(cJSON_GetObjectItemCaseSensitive(solver, "scheduler"), true);
    kin_status status = KIN_OK;
    cJSON_DeleteItemFromObject(config, "_class_name");
    cJSON_AddStringToObject(config, "_class_name", class);
    KIN_GOTO(kin_scheduler_read(config, &cfg, err));
    for (int i = 0; i < cJSON_GetArraySize(cJSON_GetObjectItem(solver, "max_abs_error")); i++) {
        const int steps = (int)entry(solver, "num_inference_steps", i);
        const double want = entry(solver, "max_abs_error", i);
        const double want_before = entry(solver, "max_abs_error_before_last_call", i);
        double got;
        KIN_GOTO(solve(g, &cfg, steps, &got));
        kin_golden_expect(g->c, fabs(got - want) <= 0.02 * want + 2e-6,
                          "%s, %d steps: error %g, official %g;", class, steps, got, want);
        kin_golden_expect(g->c, fabs(g->before_last - want_before) <= 0.02 * want_before + 2e-6,
                          "%s, %d steps: error %g before the last call, official %g;", class, steps,
                          g->before_last, want_before);
    }
done:
    cJSON_Delete(config);
    return status;
}

static void check_ideal(gaussian *g, const char *key, kin_prediction prediction, const char *name)
{
    const cJSON *table = cJSON_GetObjectItemCaseSensitive(g->c->config, key);
    const cJSON *values = cJSON_GetObjectItemCaseSensitive(table, name);
    const cJSON *xs = cJSON_GetObjectItemCaseSensitive(table, "x");
    for (int i = 0; i < cJSON_GetArraySize(values); i++) {
        const double a = entry(table, "a", i), b = entry(table, "b", i);
        for (int k = 0; k < g->points; k++) {
            const double want = cJSON_GetArrayItem(cJSON_GetArrayItem(values, i), k)->valuedouble;
            const double x = cJSON_GetArrayItem(cJSON_GetArrayItem(xs, i), k)->valuedouble;
            kin_golden_expect(g->c, fabs(path(g, a, b, g->xi[k]) - x) < 1e-9, "%s: x", key);
            kin_golden_expect(g->c, fabs(ideal(g, prediction, a, b, x) - want) < 1e-8, "%s: %s",
                              key, name);
        }
    }
}

static kin_status run_analytic(kin_golden_case *c)
{
    gaussian g = {.c = c, .m = kin_golden_number(c, "m", 0.0), .s = kin_golden_number(c, "s", 0.0)};
    const cJSON *xi = cJSON_GetObjectItemCaseSensitive(c->config, "xi"), *solver;
    g.points = cJSON_GetArraySize(xi);
    if (g.points < 1 || g.points > MAX_POINTS)
        return kin_fail(&c->ctx->error, KIN_ERR_FORMAT, "case: %d points", g.points);
    for (int k = 0; k < g.points; k++)
        g.xi[k] = cJSON_GetArrayItem(xi, k)->valuedouble;
    check_ideal(&g, "flow", KIN_PREDICT_FLOW, "velocity");
    check_ideal(&g, "flow", KIN_PREDICT_EPSILON, "eps");
    check_ideal(&g, "vp", KIN_PREDICT_V, "v");
    check_ideal(&g, "vp", KIN_PREDICT_SAMPLE, "x0");
    cJSON_ArrayForEach(solver, cJSON_GetObjectItemCaseSensitive(c->config, "solvers"))
    {
        KIN_TRY(run_solver(&g, solver));
    }
    return KIN_OK;
}

const kin_golden_kind kin_golden_kinds_analytic[] = {
    {"analytic", run_analytic},
    {NULL, NULL},
};
