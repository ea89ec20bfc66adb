/* tests/golden/kind_annotation.c: kind annotation, the official reading with its errors. */
#include "tests/golden/golden.h"

#include <string.h>

#include "physics/annotation.h"

extern const kin_golden_kind kin_golden_kinds_annotation[];

/* A list of n numbers. */
static bool numbers(const cJSON *list, int n, double *out)
{
    const cJSON *v;
    int i = 0;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != n)
        return false;
    cJSON_ArrayForEach(v, list)
    {
        out[i++] = v->valuedouble;
    }
    return true;
}

static void check_prior(kin_golden_case *c, const cJSON *want, const kin_physics_prior *got,
                        const char *name)
{
    double a[KIN_PHYS_CATEGORIES], b[KIN_PHYS_CATEGORIES];
    const char *caption = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(want, "caption"));
    kin_golden_expect(c, caption && got->caption && strcmp(caption, got->caption) == 0,
                      "caption of %s", name);
    bool listed = numbers(cJSON_GetObjectItemCaseSensitive(want, "prior"), KIN_PHYS_CATEGORIES, a);
    for (int i = 0; i < KIN_PHYS_CATEGORIES; i++)
        listed = listed && (double)got->prior[i] == a[i];
    kin_golden_expect(c, listed, "prior of %s", name);
    if (!numbers(cJSON_GetObjectItemCaseSensitive(want, "quantities"), KIN_PHYS_QUANTITIES, a)) {
        kin_golden_fail(c, "quantities of %s are not %d numbers", name, (int)KIN_PHYS_QUANTITIES);
        return;
    }
    for (int i = 0; i < KIN_PHYS_QUANTITIES; i++)
        b[i] = (double)got->quant[i];
    kin_golden_check_values(c, name, a, b, KIN_PHYS_QUANTITIES, 1e-6);
}

static kin_status check_case(kin_golden_case *c, const cJSON *row)
{
    kin_physics_prior p = {0};
    kin_py_error py = KIN_PY_OK;
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "name"));
    const char *want = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "error"));
    name = name ? name : "a case";
    KIN_TRY(kin_annotation_official(cJSON_GetObjectItemCaseSensitive(row, "record"), NULL, &p, &py,
                                    &c->ctx->error));
    const char *got = kin_py_error_name(py);
    kin_golden_expect(c, (want && got) ? strcmp(want, got) == 0 : want == got, "error of %s", name);
    if (!want && !got)
        check_prior(c, row, &p, name);
    kin_physics_prior_free(&p);
    return KIN_OK;
}

/* Records of one file: the carry goes from one to the next, records without n0 leave no result. */
static kin_status check_sequence(kin_golden_case *c, const cJSON *sequence)
{
    const cJSON *record;
    const cJSON *result = cJSON_GetObjectItemCaseSensitive(sequence, "results");
    result = result ? result->child : NULL;
    kin_annotation_carry carry = {0};
    cJSON_ArrayForEach(record, cJSON_GetObjectItemCaseSensitive(sequence, "records"))
    {
        kin_physics_prior p = {0};
        kin_py_error py = KIN_PY_OK;
        KIN_TRY(kin_annotation_official(record, &carry, &p, &py, &c->ctx->error));
        if (py == KIN_PY_OK && result) {
            check_prior(c, result, &p, "a record of the sequence");
            result = result->next;
        } else {
            kin_golden_expect(c, py == KIN_PY_SKIPPED, "outcome of a record of the sequence");
        }
        kin_physics_prior_free(&p);
    }
    kin_golden_expect(c, result == NULL, "number of results of the sequence");
    return KIN_OK;
}

static kin_status run_annotation(kin_golden_case *c)
{
    const cJSON *row;
    cJSON_ArrayForEach(row, cJSON_GetObjectItemCaseSensitive(c->config, "cases"))
    {
        KIN_TRY(check_case(c, row));
    }
    return check_sequence(c, cJSON_GetObjectItemCaseSensitive(c->config, "sequence"));
}

const kin_golden_kind kin_golden_kinds_annotation[] = {
    {"annotation", run_annotation},
    {NULL, NULL},
};
