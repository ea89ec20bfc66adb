/* Gradients of every differentiable op: the tape on the reference kernels in double against
 * directional central differences; the CPU backend in single precision against those gradients; the
 * plan table over the same graphs. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "tests/support/near.h"
#include "tests/support/support.h"
#include "tests/tensor/grad.h"

/* Ops of ops.h that have no gradient, with the reason. */
static const char *const no_gradient[][2] = {
    {"dispatch_build", "sorts integers; weights pass through by reference, see combine"},
    {"sinusoid", "of times and quantities, which are data"},
    {"copy_into", "documented as off the tape"},
    {"fill", "documented as off the tape"},
    {"posterior_clamp", "documented as off the tape"},
};

enum { OUT_MAX = 512 };

static void draw(kin_tensor *t, uint64_t sample, double spread)
{
    kin_rng rng = {.seed = kin_test_seed(), .purpose = KIN_RNG_TEST, .sample = sample, .step = 77};
    for (int64_t i = 0; i < kin_tensor_numel(t); i++) {
        float v;
        kin_rng_normal(&rng, (uint64_t)i, 1, &v);
        kin_tensor_set(t, i, (double)(float)(spread * (double)v)); /* the same number in f32 */
    }
}

kin_status grad_ints(kin_ctx *ctx, kin_dtype dtype, const int *values, int ndim,
                     const int64_t *sizes, kin_tensor *out)
{
    KIN_TRY(kin_ws_tensor(ctx, dtype, ndim, sizes, out));
    for (int64_t i = 0; i < kin_tensor_numel(out); i++)
        kin_tensor_set(out, i, values[i]);
    return KIN_OK;
}

void grad_input(grad_env *e, double spread, int ndim, const int64_t *sizes)
{
    assert_true(e->inputs < GRAD_INPUTS);
    e->spread[e->inputs] = spread;
    e->in[e->inputs++] = kin_tensor_of(NULL, e->dtype, ndim, sizes);
}

void grad_param(grad_env *e, double scale, int ndim, const int64_t *sizes)
{
    assert_true(e->params < GRAD_PARAMS);
    kin_param *p = kin_params_add(e->table, KIN_INIT(KIN_INIT_NORMAL, (float)scale), ndim, sizes,
                                  "p%d", e->params);
    assert_non_null(p);
    e->p[e->params++] = p;
}

/* Operands of a case. plan: shapes only, at an address that must not be touched. */
static void env_open(grad_env *e, const grad_case *c, kin_dtype dtype, bool plan)
{
    kin_error err = {0};
    *e = (grad_env){.dtype = dtype, .variant = c->variant};
    assert_ok(kin_params_create(&e->table, &err), &err);
    c->declare(e);
    assert_ok(kin_params_alloc(e->table, dtype, plan, &err), &err);
    assert_ok(kin_params_alloc_grads(e->table, plan, &err), &err);
    for (int i = 0; i < e->params && !plan; i++)
        draw(&e->p[i]->value, (uint64_t)(100 + i), (double)e->p[i]->init.scale);
    for (int i = 0; i < e->inputs; i++) {
        e->in[i].data = (void *)(uintptr_t)4096;
        if (plan)
            continue;
        e->in[i].data = kin_malloc((size_t)kin_tensor_numel(&e->in[i]) * kin_dtype_size(dtype));
        assert_non_null(e->in[i].data);
        draw(&e->in[i], (uint64_t)i, e->spread[i]);
    }
}

static void env_close(grad_env *e, bool plan)
{
    for (int i = 0; i < e->inputs && !plan; i++)
        kin_free(e->in[i].data);
    kin_params_destroy(&e->table);
}

/* The factors r of the objective sum(r * y). */
static double factor(int64_t i)
{
    return (double)(float)(0.5 + cos(1.7 * (double)i));
}

/* The objective at the operands of e. */
static double objective(kin_ctx *ctx, const grad_case *c, grad_env *e)
{
    size_t mark = kin_ws_mark(ctx);
    double sum = 0;
    kin_tensor y;
    for (int i = 0; i < e->inputs; i++)
        e->in[i].id = 0;
    assert_ok(c->graph(ctx, e, &y), &ctx->error);
    for (int64_t i = 0; i < kin_tensor_numel(&y); i++)
        sum += factor(i) * kin_tensor_get(&y, i);
    kin_ws_release(ctx, mark);
    return sum;
}

typedef struct gradients {
    kin_tensor in[GRAD_INPUTS]; /* data NULL: nothing arrived */
    size_t peak;
} gradients;

/* Runs forward and backward; gradients of inputs are kept in the workspace, those of parameters in
 * the table. */
static void backward(kin_ctx *ctx, const grad_case *c, grad_env *e, gradients *g)
{
    kin_tensor y, dout;
    kin_params_zero_grads(e->table);
    ctx->ws.peak = ctx->ws.used;
    assert_ok(kin_tape_begin(ctx), &ctx->error);
    for (int i = 0; i < e->inputs; i++)
        assert_ok(kin_tape_watch(ctx, &e->in[i]), &ctx->error);
    assert_ok(c->graph(ctx, e, &y), &ctx->error);
    assert_true(kin_tensor_numel(&y) <= OUT_MAX);
    assert_ok(kin_ws_tensor(ctx, y.dtype, y.ndim, y.size, &dout), &ctx->error);
    for (int64_t i = 0; i < kin_tensor_numel(&y); i++)
        kin_tensor_set(&dout, i, factor(i));
    assert_ok(kin_tape_backward(ctx, &y, &dout, 1), &ctx->error);
    g->peak = ctx->ws.peak;
    for (int i = 0; i < e->inputs; i++)
        g->in[i] = kin_tape_grad(ctx, &e->in[i]);
    kin_tape_end(ctx);
}

/* Compares <gradient, u> with the central difference along u, for operand t alone. */
static void check_direction(kin_ctx *ctx, const grad_case *c, grad_env *e, kin_tensor *t,
                            const kin_tensor *g, const char *what, int index)
{
    double h = 1e-5, inner = 0, up, down, save[OUT_MAX];
    int64_t n = kin_tensor_numel(t);
    kin_tensor values = *t;
    values.id = 0;
    assert_true(n <= OUT_MAX);
    for (int round = 0; round < 3; round++) {
        inner = 0;
        for (int64_t i = 0; i < n; i++) {
            save[i] = kin_tensor_get(&values, i);
            double u = sin(12.9898 * (double)(i + 1) + 78.233 * (round + 1));
            inner += u * (g->data ? kin_tensor_get(g, i) : 0);
        }
        for (int sign = 0; sign < 2; sign++) {
            for (int64_t i = 0; i < n; i++) {
                double u = sin(12.9898 * (double)(i + 1) + 78.233 * (round + 1));
                kin_tensor_set(&values, i, save[i] + (sign ? -h : h) * u);
            }
            *(sign ? &down : &up) = objective(ctx, c, e);
        }
        for (int64_t i = 0; i < n; i++)
            kin_tensor_set(&values, i, save[i]);
        if (!kin_near_value(inner, (up - down) / (2 * h), 1e-7, 1e-8))
            fail_msg("%s: %s %d: gradient along u %.12g, difference quotient %.12g (KIN_SEED=%llu)",
                     c->name, what, index, inner, (up - down) / (2 * h),
                     (unsigned long long)kin_test_seed());
    }
}

static kin_ctx *open_ctx(kin_backend backend, kin_isa isa)
{
    kin_ctx_options opt = {.backend = backend, .isa = isa, .threads = 2};
    kin_error err = {0};
    kin_ctx *ctx;
    assert_ok(kin_ctx_create(&opt, &ctx, &err), &err);
    return ctx;
}

static void central_differences(void **state)
{
    const grad_case *c = *state;
    kin_ctx *ctx = open_ctx(KIN_BACKEND_REF, KIN_ISA_NONE);
    gradients g;
    grad_env e;
    double any = 0;
    env_open(&e, c, KIN_DTYPE_F64, false);
    backward(ctx, c, &e, &g);
    for (int i = 0; i < e.inputs; i++)
        check_direction(ctx, c, &e, &e.in[i], &g.in[i], "input", i);
    for (int i = 0; i < e.params; i++)
        check_direction(ctx, c, &e, &e.p[i]->value, &e.p[i]->grad, "parameter", i);
    /* a case whose gradients are all zero would prove nothing (the loss of one expert is such a
     * case) */
    for (int i = 0; i < e.inputs; i++)
        for (int64_t j = 0; g.in[i].data && j < kin_tensor_numel(&g.in[i]); j++)
            any += fabs(kin_tensor_get(&g.in[i], j));
    for (int i = 0; i < e.params; i++)
        for (int64_t j = 0; j < kin_tensor_numel(&e.p[i]->grad); j++)
            any += fabs(kin_tensor_get(&e.p[i]->grad, j));
    assert_true(any > 0 || strcmp(c->name, "rcl, one expert") == 0);
    env_close(&e, false);
    kin_ctx_destroy(&ctx);
}

/* Single precision on a CPU level against double on the reference. */
static void near_double(const grad_case *c, const kin_tensor *got, const kin_tensor *want,
                        const char *what, int index, kin_isa isa)
{
    char why[400];
    kin_near_bound b = {
        .length = 64, .eps_acc = 0x1p-23, .eps_out = 1e-5, .scale_min = c->f32_loose ? 10 : 1};
    if (!want->data && !got->data)
        return;
    if (!want->data || !got->data)
        fail_msg("%s on %s: %s %d: a gradient arrived on one side only", c->name, kin_isa_name(isa),
                 what, index);
    if (!kin_near_tensor(got, want, b, why, sizeof(why)))
        fail_msg("%s on %s: %s %d: %s", c->name, kin_isa_name(isa), what, index, why);
}

static void cpu_single(void **state)
{
    const grad_case *c = *state;
    for (kin_isa isa = KIN_ISA_AVX2; isa <= KIN_ISA_AMX; isa++) {
        if (!kin_isa_available(isa))
            continue;
        kin_ctx *ref = open_ctx(KIN_BACKEND_REF, KIN_ISA_NONE),
                *cpu = open_ctx(KIN_BACKEND_CPU, isa);
        gradients want, got;
        grad_env e, f;
        env_open(&e, c, KIN_DTYPE_F64, false);
        env_open(&f, c, KIN_DTYPE_F32, false);
        backward(ref, c, &e, &want);
        backward(cpu, c, &f, &got);
        for (int i = 0; i < e.inputs; i++)
            near_double(c, &got.in[i], &want.in[i], "input", i, isa);
        for (int i = 0; i < e.params; i++)
            near_double(c, &f.p[i]->grad, &e.p[i]->grad, "parameter", i, isa);
        env_close(&e, false);
        env_close(&f, false);
        kin_ctx_destroy(&ref);
        kin_ctx_destroy(&cpu);
    }
}

/* The dry run walks the same graph without touching an operand and needs the same workspace, the
 * scratch of the kernels included. */
static void plan_run(void **state)
{
    const grad_case *c = *state;
    for (kin_isa isa = KIN_ISA_AVX2; isa <= kin_isa_detect(); isa++) {
        kin_ctx *cpu = open_ctx(KIN_BACKEND_CPU, isa), *plan = open_ctx(KIN_BACKEND_PLAN, isa);
        gradients want, got;
        grad_env e, f;
        env_open(&e, c, KIN_DTYPE_F32, false);
        env_open(&f, c, KIN_DTYPE_F32, true);
        backward(cpu, c, &e, &want);
        backward(plan, c, &f, &got);
        if (got.peak != want.peak)
            fail_msg("%s on %s: planned %zu bytes, taken %zu", c->name, kin_isa_name(isa), got.peak,
                     want.peak);
        assert_true(plan->cost.bytes > 0);
        if (strstr(c->ops, "linear") || strstr(c->ops, "attention"))
            assert_true(plan->cost.flops > 0);
        env_close(&e, false);
        env_close(&f, true);
        kin_ctx_destroy(&cpu);
        kin_ctx_destroy(&plan);
    }
}

/* case i of all tables, NULL after the last */
static const grad_case *case_at(int i)
{
    static const grad_case *const tables[] = {grad_dense_cases, grad_routing_cases,
                                              grad_elementwise_cases};
    for (size_t t = 0; t < sizeof(tables) / sizeof(tables[0]); t++) {
        for (const grad_case *c = tables[t]; c->name; c++) {
            if (i-- == 0)
                return c;
        }
    }
    return NULL;
}

static const grad_case *case_named(const char *name)
{
    for (int i = 0; case_at(i); i++) {
        if (strcmp(case_at(i)->name, name) == 0)
            return case_at(i);
    }
    fail_msg("no case '%s'", name);
    return NULL;
}

/* Same bits with and without recomputation. */
static void same_gradients(kin_backend backend, const char *recorded, const char *recomputed)
{
    const grad_case *c = case_named(recorded), *d = case_named(recomputed);
    kin_ctx *a = open_ctx(backend, KIN_ISA_NONE), *b = open_ctx(backend, KIN_ISA_NONE);
    gradients want, got;
    grad_env e, f;
    char why[200];
    env_open(&e, c, KIN_DTYPE_F32, false);
    env_open(&f, d, KIN_DTYPE_F32, false);
    backward(a, c, &e, &want);
    backward(b, d, &f, &got);
    for (int i = 0; i < e.inputs; i++) {
        if (want.in[i].data || got.in[i].data)
            if (!kin_near_same_bits(&got.in[i], &want.in[i], why, sizeof(why)))
                fail_msg("%s: input %d: %s", recomputed, i, why);
    }
    for (int i = 0; i < e.params; i++) {
        if (!kin_near_same_bits(&f.p[i]->grad, &e.p[i]->grad, why, sizeof(why)))
            fail_msg("%s: parameter %d: %s", recomputed, i, why);
    }
    env_close(&e, false);
    env_close(&f, false);
    kin_ctx_destroy(&a);
    kin_ctx_destroy(&b);
}

static void checkpoint_bits(void **state)
{
    (void)state;
    for (kin_backend b = KIN_BACKEND_REF; b <= KIN_BACKEND_CPU; b++) {
        same_gradients(b, "block, recorded", "block, recomputed");
        same_gradients(b, "block, recorded", "block, second recomputed");
        same_gradients(b, "two outputs, recorded", "two outputs, recomputed");
    }
}

static bool has_word(const char *list, const char *word, size_t len)
{
    for (const char *p = list; (p = strstr(p, word)) != NULL; p++) {
        char after = p[len];
        if ((p == list || p[-1] == ' ') && (after == ' ' || after == '\0'))
            return true;
    }
    return false;
}

/* Every op that ops.h declares has a case here, or stands in the list of ops without gradient. */
static void no_op_is_missing(void **state)
{
    char line[512], name[64];
    int ops = 0, missing = 0;
    FILE *f = fopen(KIN_OPS_HEADER, "r");
    (void)state;
    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        bool found = false;
        if (sscanf(line, "kin_status kin_%63[a-z0-9_](", name) != 1)
            continue;
        ops++;
        for (int i = 0; case_at(i) && !found; i++)
            found = has_word(case_at(i)->ops, name, strlen(name));
        for (size_t i = 0; i < sizeof(no_gradient) / sizeof(no_gradient[0]) && !found; i++)
            found = strcmp(no_gradient[i][0], name) == 0;
        if (!found) {
            print_error("kin_%s has no gradient case\n", name);
            missing++;
        }
    }
    fclose(f);
    assert_true(ops >= 30);
    assert_int_equal(missing, 0);
    assert_false(has_word("linear_act add_param", "linear", 6));
    assert_true(has_word("linear_act add", "add", 3));
}

int main(void)
{
    enum { MAX = 512 };
    static struct CMUnitTest list[MAX];
    static char names[MAX][96];
    static const struct {
        const char *text;
        CMUnitTestFunction fn;
    } kinds[3] = {{"difference", central_differences}, {"cpu", cpu_single}, {"plan", plan_run}};
    int n = 0;
    (void)kin_test_seed();
    for (int i = 0; case_at(i) && n + 5 < MAX; i++) {
        for (int k = 0; k < 3; k++) {
            snprintf(names[n], sizeof(names[n]), "%s: %s", kinds[k].text, case_at(i)->name);
            list[n] = (struct CMUnitTest){.name = names[n],
                                          .test_func = kinds[k].fn,
                                          .initial_state = (void *)(uintptr_t)case_at(i)};
            n++;
        }
    }
    list[n++] = (struct CMUnitTest)cmocka_unit_test(checkpoint_bits);
    list[n++] = (struct CMUnitTest)cmocka_unit_test(no_op_is_missing);
    return _cmocka_run_group_tests("grad", list, (size_t)n, NULL, NULL);
}
