#include "physics/annotation.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "physics/annotation_text.h"

enum { MAX_DENSITIES = 5 };

void kin_physics_prior_free(kin_physics_prior *p)
{
    if (!p)
        return;
    kin_free(p->caption);
    memset(p, 0, sizeof *p);
}

const char *kin_py_error_name(kin_py_error e)
{
    switch (e) {
    case KIN_PY_OK: return NULL;
    case KIN_PY_SKIPPED: return "skipped: record without n0";
    case KIN_PY_KEY_ERROR: return "KeyError";
    case KIN_PY_UNBOUND_LOCAL_ERROR: return "UnboundLocalError";
    case KIN_PY_OVERFLOW_ERROR: return "OverflowError";
    case KIN_PY_VALUE_ERROR: return "ValueError";
    case KIN_PY_ZERO_DIVISION_ERROR: return "ZeroDivisionError";
    case KIN_PY_RUNTIME_ERROR: return "RuntimeError";
    case KIN_PY_TYPE_ERROR: return "TypeError";
    case KIN_PY_ATTRIBUTE_ERROR: return "AttributeError";
    }
    return "unknown";
}

void kin_quantity_split(double x, double *coefficient, double *exponent)
{
    if (x == 0) {
        *coefficient = *exponent = x;
        return;
    }
    *exponent = floor(log10(fabs(x)));
    *coefficient = x / pow(10.0, *exponent);
}

void kin_quantities_pack(int objects, const double (*density)[2], const double time[2],
                         const double temperature[2], float quant[KIN_PHYS_QUANTITIES])
{
    const double span[4] = {time[0], time[1], temperature[0], temperature[1]};
    memset(quant, 0, KIN_PHYS_QUANTITIES * sizeof *quant);
    for (int i = 0; i < objects && i < MAX_DENSITIES; i++) {
        quant[2 * i] = (float)density[i][0];
        quant[2 * i + 1] = (float)density[i][1];
    }
    for (int i = 0; i < 4; i++) {
        double c, e;
        kin_quantity_split(span[i], &c, &e);
        quant[2 * MAX_DENSITIES + 2 * i] = (float)c;
        quant[2 * MAX_DENSITIES + 2 * i + 1] = (float)e;
    }
}

static kin_span span_of(const char *s)
{
    return (kin_span){s, strlen(s)};
}

/* out->caption = caption + law. */
static kin_status join(const char *caption, const char *law, kin_physics_prior *out, kin_error *err)
{
    size_t a = strlen(caption), b = strlen(law);
    out->caption = kin_malloc(a + b + 1);
    if (!out->caption)
        return kin_fail(err, KIN_ERR_MEM, "annotation: %zu bytes of prompt text", a + b + 1);
    memcpy(out->caption, caption, a);
    memcpy(out->caption + a, law, b + 1);
    out->caption_bytes = a;
    return KIN_OK;
}

/* data[caption key] + data['phys_law'] of the inference script; detail_caption wins if both parts
 * are there. */
static kin_py_error official_caption(const cJSON *record, const char **caption, const char **law)
{
    const cJSON *l = cJSON_GetObjectItemCaseSensitive(record, "phys_law");
    const cJSON *c = cJSON_GetObjectItemCaseSensitive(record, "detail_caption");
    if (!cJSON_IsString(c) || !cJSON_IsString(l)) {
        c = cJSON_GetObjectItemCaseSensitive(record, "en_caption");
        if (!c || !l)
            return KIN_PY_KEY_ERROR;
        if (!cJSON_IsString(c) || !cJSON_IsString(l))
            return KIN_PY_TYPE_ERROR;
    }
    *caption = c->valuestring;
    *law = l->valuestring;
    return KIN_PY_OK;
}

/* `phrase in answer` as Python has it for a string (substring), a list (an equal element), an
 * object (a key). */
static kin_py_error contains(const cJSON *answer, const char *phrase, bool *in)
{
    const cJSON *e;
    *in = false;
    if (cJSON_IsString(answer)) {
        *in = strstr(answer->valuestring, phrase) != NULL;
    } else if (cJSON_IsArray(answer)) {
        cJSON_ArrayForEach(e, answer) *in |=
            cJSON_IsString(e) && strcmp(e->valuestring, phrase) == 0;
    } else if (cJSON_IsObject(answer)) {
        *in = cJSON_GetObjectItemCaseSensitive(answer, phrase) != NULL;
    } else {
        return KIN_PY_TYPE_ERROR;
    }
    return KIN_PY_OK;
}

static kin_py_error official_prior(const cJSON *record, float prior[KIN_PHYS_CATEGORIES],
                                   int *question)
{
    for (int q = 0; q < KIN_PHYS_QUESTIONS; q++) {
        const char key[3] = {'q', (char)('0' + q), 0};
        const cJSON *answer = cJSON_GetObjectItemCaseSensitive(record, key);
        *question = q;
        if (!answer)
            return KIN_PY_KEY_ERROR;
        int first = kin_phys_question_first(q);
        for (int i = first; i < first + kin_phys_question_count(q); i++) {
            bool in;
            kin_py_error e = contains(answer, kin_phys_phrase(i), &in);
            if (e != KIN_PY_OK)
                return e;
            prior[i] = in ? 1 : 0;
        }
    }
    return KIN_PY_OK;
}

/* What split_to_coefficient_and_exponent raises for x. */
static kin_py_error split_error(double x)
{
    if (isinf(x))
        return KIN_PY_OVERFLOW_ERROR;
    if (isnan(x))
        return KIN_PY_VALUE_ERROR;
    if (x != 0 && pow(10.0, floor(log10(fabs(x)))) == 0)
        return KIN_PY_ZERO_DIVISION_ERROR;
    return KIN_PY_OK;
}

static kin_py_error official_quantities(int objects, const double (*density)[2],
                                        const double time[2], const double temperature[2],
                                        float quant[KIN_PHYS_QUANTITIES])
{
    const double span[4] = {time[0], time[1], temperature[0], temperature[1]};
    for (int i = 0; i < objects; i++)
        for (int k = 0; k < 2; k++)
            if (isfinite(density[i][k]) && fabs(density[i][k]) > FLT_MAX)
                return KIN_PY_RUNTIME_ERROR;
    for (int i = 0; i < 4; i++) {
        kin_py_error e = split_error(span[i]);
        if (e != KIN_PY_OK)
            return e;
    }
    kin_quantities_pack(objects, density, time, temperature, quant);
    return KIN_PY_OK;
}

static int official_densities(const char *n0, double density[MAX_DENSITIES][2])
{
    kin_span rest = span_of(n0), piece;
    int count = 0;
    while (count < MAX_DENSITIES && kin_n0_next(&rest, &piece))
        if (kin_span_read_density(piece, density[count]) == KIN_DENSITY_VALUE)
            count++;
    return count;
}

/* n0, n1, n2 and q0..q4 in the order of the script, so that the first fault decides. */
static kin_py_error official_numbers(const cJSON *record, kin_annotation_carry *carry,
                                     kin_physics_prior *out)
{
    const cJSON *n0 = cJSON_GetObjectItemCaseSensitive(record, "n0");
    const cJSON *n1 = cJSON_GetObjectItemCaseSensitive(record, "n1");
    const cJSON *n2 = cJSON_GetObjectItemCaseSensitive(record, "n2");
    double density[MAX_DENSITIES][2], time[2], temperature[2] = {20, 25};
    int question;
    if (!cJSON_IsString(n0))
        return KIN_PY_ATTRIBUTE_ERROR;
    int objects = official_densities(n0->valuestring, density);
    if (!cJSON_IsString(n1))
        return n1 ? KIN_PY_ATTRIBUTE_ERROR : KIN_PY_KEY_ERROR;
    if (kin_span_read_range(span_of(n1->valuestring), time)) {
        *carry = (kin_annotation_carry){1, time[0], time[1]};
    } else if (carry->set) {
        time[0] = carry->lo;
        time[1] = carry->hi;
    } else {
        return KIN_PY_UNBOUND_LOCAL_ERROR;
    }
    if (!cJSON_IsString(n2))
        return n2 ? KIN_PY_ATTRIBUTE_ERROR : KIN_PY_KEY_ERROR;
    kin_span_read_range(span_of(n2->valuestring), temperature);
    kin_py_error e = official_prior(record, out->prior, &question);
    return e != KIN_PY_OK ? e
                          : official_quantities(objects, (const double(*)[2])density, time,
                                                temperature, out->quant);
}

kin_status kin_annotation_official(const cJSON *record, kin_annotation_carry *carry,
                                   kin_physics_prior *out, kin_py_error *py, kin_error *err)
{
    const char *caption = NULL, *law = NULL;
    kin_annotation_carry alone = {0};
    memset(out, 0, sizeof *out);
    if (!cJSON_IsObject(record))
        return kin_fail(err, KIN_ERR_ARG, "annotation: a record must be a JSON object");
    *py = official_caption(record, &caption, &law);
    if (*py == KIN_PY_OK && !cJSON_GetObjectItemCaseSensitive(record, "n0"))
        *py = KIN_PY_SKIPPED;
    if (*py == KIN_PY_OK)
        *py = official_numbers(record, carry ? carry : &alone, out);
    if (*py != KIN_PY_OK) {
        memset(out, 0, sizeof *out);
        return KIN_OK;
    }
    kin_status status = join(caption, law, out, err);
    if (status != KIN_OK)
        kin_physics_prior_free(out);
    return status;
}

/* A pair of numbers [lo, hi] under `key` of the annotation. */
static kin_status read_pair(const cJSON *pair, const char *key, double out[2], kin_error *err)
{
    if (!cJSON_IsArray(pair) || cJSON_GetArraySize(pair) != 2 || !cJSON_IsNumber(pair->child) ||
        !cJSON_IsNumber(pair->child->next))
        return kin_fail(err, KIN_ERR_FORMAT, "annotation: %s must be a pair of numbers", key);
    out[0] = pair->child->valuedouble;
    out[1] = pair->child->next->valuedouble;
    return KIN_OK;
}

static kin_status read_quantify(const cJSON *a, float quant[KIN_PHYS_QUANTITIES], kin_error *err)
{
    double density[MAX_DENSITIES][2], time[2], temperature[2];
    int objects = 0;
    const cJSON *n0 = cJSON_GetObjectItemCaseSensitive(a, "quantify_n0"), *e;
    if (!cJSON_IsArray(n0))
        return kin_fail(err, KIN_ERR_FORMAT, "annotation: quantify_n0 must be a list of pairs");
    cJSON_ArrayForEach(e, n0)
    {
        double v[2];
        KIN_TRY(read_pair(e, "an entry of quantify_n0", v, err));
        if (objects < MAX_DENSITIES)
            memcpy(density[objects++], v, sizeof v);
    }
    KIN_TRY(
        read_pair(cJSON_GetObjectItemCaseSensitive(a, "quantify_n1"), "quantify_n1", time, err));
    KIN_TRY(read_pair(cJSON_GetObjectItemCaseSensitive(a, "quantify_n2"), "quantify_n2",
                      temperature, err));
    kin_py_error py =
        official_quantities(objects, (const double(*)[2])density, time, temperature, quant);
    if (py != KIN_PY_OK)
        return kin_fail(err, KIN_ERR_FORMAT, "annotation: quantify_*: value out of range (%s)",
                        kin_py_error_name(py));
    return KIN_OK;
}

kin_status kin_annotation_official_training(const cJSON *record, kin_physics_prior *out,
                                            kin_error *err)
{
    int question = 0;
    memset(out, 0, sizeof *out);
    const cJSON *caption = cJSON_GetObjectItemCaseSensitive(record, "captions");
    const cJSON *a = cJSON_GetObjectItemCaseSensitive(record, "physical_annotation");
    const cJSON *law = cJSON_GetObjectItemCaseSensitive(a, "phys_law");
    if (!cJSON_IsString(caption))
        return kin_fail(err, KIN_ERR_FORMAT, "annotation: captions must be a string");
    if (!cJSON_IsObject(a))
        return kin_fail(err, KIN_ERR_FORMAT, "annotation: physical_annotation must be an object");
    if (!cJSON_IsString(law))
        return kin_fail(err, KIN_ERR_FORMAT, "annotation: phys_law must be a string");
    kin_py_error py = official_prior(a, out->prior, &question);
    if (py != KIN_PY_OK) {
        memset(out, 0, sizeof *out);
        return kin_fail(err, KIN_ERR_FORMAT, "annotation: q%d must be a text (%s)", question,
                        kin_py_error_name(py));
    }
    kin_status status = read_quantify(a, out->quant, err);
    if (status == KIN_OK)
        status = join(caption->valuestring, law->valuestring, out, err);
    if (status != KIN_OK)
        kin_physics_prior_free(out);
    return status;
}
