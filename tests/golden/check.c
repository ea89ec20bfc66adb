/* tests/golden/check.c: comparisons and the verdict. */
#include "tests/golden/golden.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void kin_golden_fail(kin_golden_case *c, const char *fmt, ...)
{
    if (c->failed)
        return; /* the first failure is the one to read */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->why, sizeof c->why, fmt, ap);
    va_end(ap);
    c->failed = true;
}

void kin_golden_skip(kin_golden_case *c, const char *fmt, ...)
{
    char what[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    kin_strbuf_addf(&c->skip_text, "skip  %-24s %s  %s\n", c->kind, c->path, what);
    c->skipped++;
}

static void record(kin_golden_case *c, const char *name, double error, double tol)
{
    if (c->ctx->precision == KIN_PRECISION_HIGH)
        tol = fmax(tol, KIN_GOLDEN_HIGH_TOL);
    /* note: not >= against a NaN; a NaN error is recorded as infinite */
    double ratio = isfinite(error) ? error / tol : INFINITY;
    if (c->checks == 0 || ratio > c->worst_ratio) {
        c->worst_ratio = ratio;
        c->worst_error = error;
        snprintf(c->worst, sizeof c->worst, "%s", name);
    }
    c->checks++;
    if (!(error <= tol))
        kin_golden_fail(c, "%s: error %.3g is above %.3g", name, error, tol);
}

void kin_golden_expect(kin_golden_case *c, bool ok, const char *fmt, ...)
{
    char name[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    c->checks++;
    if (c->checks == 1)
        snprintf(c->worst, sizeof c->worst, "%.199s", name);
    if (ok)
        return;
    snprintf(c->worst, sizeof c->worst, "%.199s", name);
    c->worst_error = c->worst_ratio = INFINITY;
    kin_golden_fail(c, "%s differs", name);
}

static bool is_integer(kin_dtype dtype)
{
    return dtype == KIN_DTYPE_I8 || dtype == KIN_DTYPE_U8 || dtype == KIN_DTYPE_I32 ||
           dtype == KIN_DTYPE_I64;
}

/* Equal shapes, dimensions of size 1 apart. */
static bool same_shape(const kin_tensor *a, const kin_tensor *b)
{
    int i = 0, j = 0;
    for (;;) {
        while (i < a->ndim && a->size[i] == 1)
            i++;
        while (j < b->ndim && b->size[j] == 1)
            j++;
        if (i == a->ndim || j == b->ndim)
            return i == a->ndim && j == b->ndim;
        if (a->size[i++] != b->size[j++])
            return false;
    }
}

static double tolerance(const kin_golden_case *c, const char *name, double tol)
{
    for (int i = 0; i < c->tolerances; i++)
        if (strcmp(c->tolerance[i].name, name) == 0)
            return c->tolerance[i].tol;
    return tol;
}

void kin_golden_tolerance(kin_golden_case *c, const char *name, double tol)
{
    if (c->tolerances == KIN_GOLDEN_MAX_TOLERANCES) {
        kin_golden_fail(c, "too many tolerances");
        return;
    }
    c->tolerance[c->tolerances].name = name;
    c->tolerance[c->tolerances++].tol = tol;
}

/* Marks the tensor as checked and returns it; false after a recorded failure. */
static bool reference(kin_golden_case *c, const char *name, const kin_tensor *got, kin_tensor *want)
{
    char a[96], b[96];
    int64_t at = c->file ? kin_safetensors_find(c->file, name) : -1;
    kin_error err = {0};
    if (at < 0) {
        kin_golden_fail(c, "the file has no tensor %s", name);
        return false;
    }
    c->seen[at] = true;
    if (kin_safetensors_tensor(c->file, at, want, &err) != KIN_OK) {
        kin_golden_fail(c, "%s", err.text);
        return false;
    }
    if (!got->data || !same_shape(got, want)) {
        kin_golden_fail(c, "%s: got %s, the case has %s", name,
                        got->data ? kin_tensor_describe(got, a, sizeof a) : "nothing",
                        kin_tensor_describe(want, b, sizeof b));
        return false;
    }
    return true;
}

static bool on_host(kin_golden_case *c, const kin_tensor *got, kin_tensor *here)
{
    if (kin_host(c->ctx, got, here) == KIN_OK)
        return true;
    kin_golden_fail(c, "%s", c->ctx->error.text);
    return false;
}

/* max|a-b| and max|b|; *bad: a value of either side is not finite. */
static double distance(const kin_tensor *got, const kin_tensor *want, double *size)
{
    double worst = 0.0, most = 0.0;
    int64_t n = kin_tensor_numel(want);
    for (int64_t i = 0; i < n; i++) {
        double a = kin_tensor_get(got, i), b = kin_tensor_get(want, i);
        if (!isfinite(a) || !isfinite(b))
            worst = INFINITY;
        worst = fmax(worst, fabs(a - b));
        most = fmax(most, fabs(b));
    }
    *size = most;
    return worst;
}

void kin_golden_check(kin_golden_case *c, const char *name, const kin_tensor *got, double tol)
{
    kin_tensor want, here = *got;
    double size;
    if (!reference(c, name, got, &want) || !on_host(c, got, &here))
        return;
    double error = distance(&here, &want, &size);
    if (is_integer(want.dtype)) {
        kin_golden_expect(c, error == 0.0, "%s", name);
        return;
    }
    record(c, name, error / fmax(size, 1e-30), tolerance(c, name, tol));
}

void kin_golden_check_abs(kin_golden_case *c, const char *name, const kin_tensor *got, double tol)
{
    kin_tensor want, here = *got;
    double size;
    if (reference(c, name, got, &want) && on_host(c, got, &here))
        record(c, name, distance(&here, &want, &size), tolerance(c, name, tol));
}

void kin_golden_check_values(kin_golden_case *c, const char *name, const double *want,
                             const double *got, int64_t n, double tol)
{
    double worst = 0.0, most = 0.0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(got[i]) || !isfinite(want[i]))
            worst = INFINITY;
        worst = fmax(worst, fabs(got[i] - want[i]));
        most = fmax(most, fabs(want[i]));
    }
    record(c, name, worst / fmax(most, 1e-30), tol);
}

void kin_golden_check_grads(kin_golden_case *c, const kin_params *params, double tol)
{
    int64_t n = c->file ? kin_safetensors_count(c->file) : 0;
    for (int64_t i = 0; i < n; i++) {
        const char *name = kin_safetensors_at(c->file, i)->name;
        if (strncmp(name, "grad.", 5) != 0)
            continue;
        const kin_param *p = kin_params_find(params, name + 5);
        if (!p || !p->grad.data)
            kin_golden_fail(c, "%s has no parameter with a gradient", name);
        else
            kin_golden_check(c, name, &p->grad, tol);
    }
}

void kin_golden_ignore(kin_golden_case *c, const char *prefix)
{
    int64_t n = c->file ? kin_safetensors_count(c->file) : 0;
    for (int64_t i = 0; i < n; i++)
        if (strncmp(kin_safetensors_at(c->file, i)->name, prefix, strlen(prefix)) == 0)
            c->seen[i] = true;
}

static void on_tap(void *user, const char *name, const kin_tensor *t)
{
    kin_golden_case *c = user;
    char full[320] = "out.", renamed[256];
    if (c->tap_rename) {
        c->tap_rename(name, renamed, sizeof renamed);
        name = renamed;
    }
    snprintf(full + 4, sizeof full - 4, "%s", name);
    if (*name && kin_golden_has(c, full))
        kin_golden_check(c, full, t, c->tap_tol);
}

void kin_golden_taps(kin_golden_case *c, double tol,
                     void (*rename)(const char *tapped, char *out, size_t bytes))
{
    c->tap_tol = tol;
    c->tap_rename = rename;
    c->ctx->tap = on_tap;
    c->ctx->tap_user = c;
}
