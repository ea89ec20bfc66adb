/* tests/golden/golden.h: reference cases. A case is one .safetensors file whose metadata holds
 * `kind` and `config`, or one .json file with a top-level `kind`. A kind is a function that
 * computes what the file says and hands every result to a check below; a tensor out.*, grad.* or
 * grad_in.* that nobody checked makes the case fail.
 *
 * A new kind: a file tests/golden/kind_NAME.c that defines `const kin_golden_kind
 * kin_golden_kinds_NAME[]` (rows ended by a row without a name). CMake finds the file and puts its
 * rows into the table. */
#ifndef KIN_TESTS_GOLDEN_H
#define KIN_TESTS_GOLDEN_H

#include <stdbool.h>

#include <cjson/cJSON.h>

#include "base/path.h"
#include "base/status.h"
#include "base/text.h"
#include "io/safetensors.h"
#include "tensor/ctx.h"
#include "tensor/params.h"

enum { KIN_GOLDEN_MAX_TOLERANCES = 16 };

typedef struct kin_golden_case {
    kin_ctx *ctx;           /* backend under test; its workspace is released after the case */
    const char *path;       /* of the case file */
    char dir[KIN_PATH_MAX]; /* its folder: what the config names is relative to it */
    char kind[64];
    cJSON *config;         /* .safetensors: the metadata's config; .json: the whole file */
    kin_safetensors *file; /* NULL for .json */
    bool *seen;            /* [tensors of file]: checked or ignored */

    /* the verdict so far */
    int checks;
    bool failed;
    char why[1400];  /* first failure */
    char worst[200]; /* check with the largest error in units of its tolerance */
    double worst_error, worst_ratio;
    int skipped;          /* parts that kinema does not claim to compute */
    kin_strbuf skip_text; /* a line for each */

    /* taps */
    double tap_tol;
    void (*tap_rename)(const char *tapped, char *out, size_t bytes);
    struct {
        const char *name;
        double tol;
    } tolerance[KIN_GOLDEN_MAX_TOLERANCES];
    int tolerances;
} kin_golden_case;

typedef struct kin_golden_kind {
    const char *name;
    /* Anything but KIN_OK is a failure with ctx->error as its text; so is kin_golden_fail. */
    kin_status (*run)(kin_golden_case *c);
} kin_golden_kind;

/* The row of a kind, NULL: unknown. */
const kin_golden_kind *kin_golden_find(const char *kind);

/* --- inputs --- */

bool kin_golden_has(const kin_golden_case *c, const char *name);
/* View of a tensor of the file. Fails: FORMAT (no such tensor). */
kin_status kin_golden_tensor(kin_golden_case *c, const char *name, kin_tensor *out);
/* The same, contiguous and writable in the workspace; integers as i32, masks as u8, floats as they
 * are. */
kin_status kin_golden_input(kin_golden_case *c, const char *name, kin_tensor *out);
/* As kin_golden_input for a tensor that may be absent (then data NULL). */
kin_status kin_golden_input_optional(kin_golden_case *c, const char *name, kin_tensor *out);
/* As kin_golden_input in f32 whatever the file holds (e.g. int64 timesteps). */
kin_status kin_golden_input_f32(kin_golden_case *c, const char *name, kin_tensor *out);

/* Numbers of the config (a missing or null key gives `fallback`). */
double kin_golden_number(const kin_golden_case *c, const char *key, double fallback);
bool kin_golden_bool(const kin_golden_case *c, const char *key, bool fallback);
const char *kin_golden_string(const kin_golden_case *c, const char *key); /* NULL: none */

/* Binds every parameter of the table to the tensor prefix+name ("w.") of the file, and gives it a
 * zeroed gradient where `grads`. A parameter that the file lacks, or a tensor w.* that no parameter
 * took, fails with its name, unless allow_rest (tensors left over) is set. */
kin_status kin_golden_bind(kin_golden_case *c, kin_params *params, const char *prefix, bool grads,
                           bool allow_rest);

/* --- verdicts; all record the worst relative error and the first failure, and return nothing ---
 */

/* What f32 of high precision may differ by, where a case states less. */
#define KIN_GOLDEN_HIGH_TOL 1e-4

/* Norm-wise relative error max|a-b| / max(max|b|, 1e-30) <= tol, b = the file's tensor `name`.
 * Integers must be equal. Shapes must agree but for dimensions of size 1. A value that is not
 * finite fails. */
void kin_golden_check(kin_golden_case *c, const char *name, const kin_tensor *got, double tol);
/* The same with max|a-b| <= tol. */
void kin_golden_check_abs(kin_golden_case *c, const char *name, const kin_tensor *got, double tol);
/* Comparison with numbers that are not a tensor of the file. */
void kin_golden_check_values(kin_golden_case *c, const char *name, const double *want,
                             const double *got, int64_t n, double tol);
/* A yes/no check (integers, text) under a name for the report. */
void kin_golden_expect(kin_golden_case *c, bool ok, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void kin_golden_fail(kin_golden_case *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* p->grad against grad.NAME for every grad.* of the file. A gradient in the file that has no
 * parameter fails. */
void kin_golden_check_grads(kin_golden_case *c, const kin_params *params, double tol);
/* Says that a part of the case, by name, is not judged, because kinema differs there on purpose. */
void kin_golden_skip(kin_golden_case *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Says that tensors whose name starts with `prefix` are not compared by this kind; say why beside
 * the call. */
void kin_golden_ignore(kin_golden_case *c, const char *prefix);

/* From here on every tapped tensor X (ctx->tap) is checked against out.X where the file has it.
 * rename (or NULL) turns a tapped name into another ("" = none). A name tapped twice is checked
 * twice. */
void kin_golden_taps(kin_golden_case *c, double tol,
                     void (*rename)(const char *tapped, char *out, size_t bytes));
/* Another tolerance for one tapped or checked tensor, by its full name ("out.time_sinusoid"); a
 * string that lives on. */
void kin_golden_tolerance(kin_golden_case *c, const char *name, double tol);

/* --- files --- */

/* Reads `path` relative to the case's folder; relative, without "..". Whole file, kin_free. */
kin_status kin_golden_read(kin_golden_case *c, const char *path, char **data, size_t *bytes);
/* Joined path of a file or folder that the config names, under the same rule. */
kin_status kin_golden_path(kin_golden_case *c, const char *path, char out[KIN_PATH_MAX]);

/* --- one case (case.c) --- */

/* Opens and runs a case file. *c is filled for the report; kin_golden_close frees it. Never returns
 * failure: the verdict is in *c. A file that is no case has kind "" and failed set. */
void kin_golden_open(kin_golden_case *c, kin_ctx *ctx, const char *path);
void kin_golden_run(kin_golden_case *c);
void kin_golden_close(kin_golden_case *c);

#endif
