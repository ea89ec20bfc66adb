/* Taxonomy, official and tolerant annotation readings, against the official cases and by planted
 * quirks. */
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/path.h"
#include "physics/annotation.h"
#include "physics/annotation_text.h"

static void test_taxonomy(void **state)
{
    (void)state;
    int total = 0, labels = 0;
    kin_phys_match how;
    for (int q = 0; q < KIN_PHYS_QUESTIONS; q++) {
        assert_int_equal(kin_phys_question_first(q), total);
        total += kin_phys_question_count(q);
    }
    assert_int_equal(total, KIN_PHYS_CATEGORIES);
    for (int i = 0; i < KIN_PHYS_CATEGORIES; i++) {
        assert_int_equal(kin_phys_find(kin_phys_phrase(i), &how), i);
        assert_int_equal(how, KIN_PHYS_MATCH_EXACT);
        assert_int_equal(kin_phys_find(kin_phys_title(i), &how), i);
        assert_int_equal(how, KIN_PHYS_MATCH_EXACT);
        labels += kin_phys_is_label(i);
    }
    assert_int_equal(labels, KIN_PHYS_LABELS);
    assert_int_equal(kin_phys_find("Deformation ", &how), KIN_PHYS_DEFORMATION);
    assert_int_equal(how, KIN_PHYS_MATCH_LOOSE);
    assert_int_equal(kin_phys_find("Unnatural Light Sources", &how), KIN_PHYS_UNNATURAL_LIGHT);
    assert_int_equal(how, KIN_PHYS_MATCH_ALIAS);
    assert_int_equal(kin_phys_find("liquid objects appearance", &how), KIN_PHYS_LIQUIDS_APPEAR);
    assert_int_equal(kin_phys_find("magic", &how), -1);
    assert_int_equal(how, KIN_PHYS_MATCH_NONE);
    assert_string_equal(kin_phys_phrase(KIN_PHYS_LIQUIDS_APPEAR), "liquids objects appearance");
    assert_null(kin_phys_phrase(29));
}

static void test_py_float(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool ok;
        double v;
    } t[] = {{"1", true, 1},
             {" 1.5\n", true, 1.5},
             {"+.5", true, .5},
             {"1.", true, 1},
             {"1_000", true, 1000},
             {"1__0", false, 0},
             {"_1", false, 0},
             {"1_", false, 0},
             {"1_.5", false, 0},
             {"1e3", true, 1000},
             {"1e", false, 0},
             {"e3", false, 0},
             {"-1E-2", true, -.01},
             {"0x10", false, 0},
             {"", false, 0},
             {".", false, 0},
             {"1,5", false, 0},
             {"5s", false, 0},
             {"1_0.0_1", true, 10.01},
             {"\xC2\xA0"
              "2",
              true, 2}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        double v = 0;
        if (kin_py_float((kin_span){t[i].text, strlen(t[i].text)}, &v) != t[i].ok || v != t[i].v)
            fail_msg("float(\"%s\") = %g", t[i].text, v);
    }
    double v;
    assert_true(kin_py_float((kin_span){"-Infinity", 9}, &v) && isinf(v) && v < 0);
    assert_true(kin_py_float((kin_span){"NaN", 3}, &v) && isnan(v));
}

static cJSON *read_json(const char *dir, const char *name)
{
    char path[KIN_PATH_MAX];
    kin_error err = {0};
    cJSON *json = NULL;
    assert_ok(kin_path_join(path, dir, name, &err), &err);
    assert_ok(kin_json_read(path, 1 << 24, KIN_JSON_STRICT, &json, &err), &err);
    return json;
}

static void check_vector(const char *name, const char *what, const cJSON *want, const float *got,
                         int n)
{
    assert_int_equal(cJSON_GetArraySize(want), n);
    int i = 0;
    const cJSON *e;
    cJSON_ArrayForEach(e, want)
    {
        if ((float)e->valuedouble != got[i])
            fail_msg("%s: %s[%d] = %.9g, official %.9g", name, what, i, (double)got[i],
                     e->valuedouble);
        i++;
    }
}

static void check_result(const char *name, const cJSON *want, const kin_physics_prior *p)
{
    check_vector(name, "prior", cJSON_GetObjectItem(want, "prior"), p->prior, KIN_PHYS_CATEGORIES);
    check_vector(name, "quantities", cJSON_GetObjectItem(want, "quantities"), p->quant,
                 KIN_PHYS_QUANTITIES);
    assert_string_equal(p->caption, cJSON_GetObjectItem(want, "caption")->valuestring);
}

static void test_golden_cases(void **state)
{
    (void)state;
    if (!kin_test_golden_dir())
        skip();
    cJSON *root = read_json(kin_test_golden_dir(), "video/annotation.json");
    const cJSON *c;
    int n = 0;
    cJSON_ArrayForEach(c, cJSON_GetObjectItem(root, "cases"))
    {
        kin_physics_prior p;
        kin_py_error py;
        kin_error err = {0};
        const char *name = cJSON_GetObjectItem(c, "name")->valuestring;
        assert_ok(kin_annotation_official(cJSON_GetObjectItem(c, "record"), NULL, &p, &py, &err),
                  &err);
        const cJSON *want = cJSON_GetObjectItem(c, "error");
        const char *got = kin_py_error_name(py);
        if (cJSON_IsString(want) ? !got || strcmp(got, want->valuestring) != 0 : got != NULL)
            fail_msg("%s: error %s", name, got ? got : "none");
        if (!cJSON_IsString(want)) {
            check_result(name, c, &p);
            kin_physics_prior q;
            assert_ok(kin_annotation_read(cJSON_GetObjectItem(c, "record"), NULL, &q, &err), &err);
            for (int i = 0; i < KIN_PHYS_CATEGORIES; i++)
                assert_true(q.prior[i] >= p.prior[i]);
            /* the tolerant reading may mend a temperature, never a time that was read */
            assert_memory_equal(q.quant + 10, p.quant + 10, 4 * sizeof(float));
            kin_physics_prior_free(&q);
        }
        kin_physics_prior_free(&p);
        n++;
    }
    assert_true(n >= 30);
    cJSON_Delete(root);
}

static void test_golden_sequence(void **state)
{
    (void)state;
    if (!kin_test_golden_dir())
        skip();
    cJSON *root = read_json(kin_test_golden_dir(), "video/annotation.json");
    const cJSON *seq = cJSON_GetObjectItem(root, "sequence"), *r;
    const cJSON *want = cJSON_GetObjectItem(seq, "results")->child;
    kin_annotation_carry carry = {0};
    cJSON_ArrayForEach(r, cJSON_GetObjectItem(seq, "records"))
    {
        kin_physics_prior p;
        kin_py_error py;
        kin_error err = {0};
        assert_ok(kin_annotation_official(r, &carry, &p, &py, &err), &err);
        if (py == KIN_PY_SKIPPED)
            continue;
        assert_int_equal(py, KIN_PY_OK);
        assert_non_null(want);
        check_result("sequence", want, &p);
        want = want->next;
        kin_physics_prior_free(&p);
    }
    assert_null(want);
    cJSON_Delete(root);
}

static void test_training_records(void **state)
{
    (void)state;
    if (!kin_test_data_dir())
        skip();
    cJSON *records = read_json(kin_test_data_dir(), "wisa/wisa.json");
    cJSON *expected = read_json(kin_test_data_dir(), "wisa/expected.json");
    const cJSON *r;
    int n = 0;
    cJSON_ArrayForEach(r, records)
    {
        kin_physics_prior p;
        kin_error err = {0};
        const char *file = cJSON_GetObjectItem(r, "file")->valuestring;
        const cJSON *want = cJSON_GetObjectItemCaseSensitive(expected, file);
        assert_ok(kin_annotation_official_training(r, &p, &err), &err);
        check_vector(file, "prior", cJSON_GetObjectItem(want, "prior"), p.prior,
                     KIN_PHYS_CATEGORIES);
        check_vector(file, "quantity", cJSON_GetObjectItem(want, "quantity"), p.quant,
                     KIN_PHYS_QUANTITIES);
        assert_int_equal(strlen(p.caption), cJSON_GetObjectItem(want, "prompt_bytes")->valueint);
        kin_physics_prior_free(&p);
        n++;
    }
    assert_int_equal(n, 6);
    cJSON_Delete(records);
    cJSON_Delete(expected);
}

typedef struct notes {
    int count[3];
    char last[3][512];
} notes;

static void take(void *user, kin_annotation_note kind, const char *field, const char *text)
{
    notes *n = user;
    n->count[kind]++;
    snprintf(n->last[kind], sizeof n->last[kind], "%s: %s", field, text);
}

#define QS                                                                                     \
    "\"q0\":\"collision\",\"q1\":\"melting\",\"q2\":\"reflection\",\"q3\":\"no\",\"q4\":\"no " \
    "change\""

static kin_status read_text(const char *json, bool strict, notes *n, kin_physics_prior *p,
                            kin_error *err)
{
    kin_annotation_options o = {strict, take, n};
    memset(n, 0, sizeof *n);
    cJSON *record = cJSON_Parse(json);
    assert_non_null(record);
    kin_status status = kin_annotation_read(record, &o, p, err);
    cJSON_Delete(record);
    return status;
}

static void test_tolerant(void **state)
{
    (void)state;
    notes n;
    kin_physics_prior p;
    kin_error err = {0};
    /* alias, other case, kg/m3, single time in minutes, default temperature, unknown label */
    assert_ok(read_text("{\"en_caption\":\"A.\",\"phys_law\":\" L.\",\"n0\":\"steel: 7850 kg/m3; "
                        "oil: 0.8-0.9 g/cm3; fog: thick g/cm\xC2\xB3\",\"n1\":\"5 minutes\","
                        "\"n2\":\"warm\",\"label\":\"Magic\",\"q0\":\"Rigid  Body Motion\","
                        "\"q1\":\"freezing\",\"q2\":\"sparkles\",\"q3\":\"no\","
                        "\"q4\":\"liquid objects appearance\"}",
                        false, &n, &p, &err),
              &err);
    assert_string_equal(p.caption, "A. L.");
    assert_int_equal(p.caption_bytes, 2);
    assert_true(p.prior[KIN_PHYS_RIGID_BODY_MOTION] == 1 && p.prior[KIN_PHYS_SOLIDIFICATION] == 1 &&
                p.prior[KIN_PHYS_LIQUIDS_APPEAR] == 1 && p.prior[KIN_PHYS_COLLISION] == 0);
    assert_true(p.quant[0] == 7.85f && p.quant[1] == 7.85f && p.quant[2] == 0.8f &&
                p.quant[3] == 0.9f && p.quant[4] == 0);
    assert_true(p.quant[10] == 0 && p.quant[12] == 3 && p.quant[13] == 2 && p.quant[14] == 2);
    assert_int_equal(n.count[KIN_NOTE_ALIAS], 6);    /* q0, q1, q4, two densities, n1 */
    assert_int_equal(n.count[KIN_NOTE_FALLBACK], 1); /* n2 */
    assert_int_equal(n.count[KIN_NOTE_DROP], 3);     /* label, q2, fog */
    kin_physics_prior_free(&p);
    /* a missing time falls back on the duration, or fails */
    assert_ok(
        read_text("{\"captions\":\"A.\",\"duration\":2.5,\"physical_annotation\":{\"phys_law\":"
                  "\"\"," QS ",\"quantify_n0\":[[1,2],[3]],\"quantify_n2\":[20,25]}}",
                  false, &n, &p, &err),
        &err);
    assert_true(p.quant[12] == 2.5f && p.quant[0] == 1 && p.quant[2] == 0);
    assert_int_equal(n.count[KIN_NOTE_FALLBACK], 2);
    assert_int_equal(n.count[KIN_NOTE_DROP], 1);
    kin_physics_prior_free(&p);
    assert_int_equal(read_text("{\"en_caption\":\"A.\",\"phys_law\":\"\",\"n0\":\"\",\"n2\":\"1 to "
                               "2\"," QS "}",
                               false, &n, &p, &err),
                     KIN_ERR_FORMAT);
    assert_null(p.caption);
}

static void test_strict(void **state)
{
    (void)state;
    notes n;
    kin_physics_prior p;
    kin_error err = {0};
    assert_ok(read_text("{\"captions\":\"A.\",\"label\":\"Collision\",\"physical_annotation\":{"
                        "\"phys_law\":\"\"," QS ",\"quantify_n0\":[[1,2]],\"quantify_n1\":[0,2],"
                        "\"quantify_n2\":[20,25]}}",
                        true, &n, &p, &err),
              &err);
    kin_physics_prior_free(&p);
    assert_int_equal(read_text("{\"captions\":\"A.\",\"label\":\"Collision \","
                               "\"physical_annotation\":{\"phys_law\":\"\"," QS
                               ",\"quantify_n0\":[[1,2]],\"quantify_n1\":[0,2],\"quantify_n2\":[20,"
                               "25]}}",
                               true, &n, &p, &err),
                     KIN_ERR_FORMAT);
    assert_non_null(strstr(err.text, "label"));
    assert_int_equal(n.count[KIN_NOTE_ALIAS], 1);
}

static void test_split(void **state)
{
    (void)state;
    static const double t[][3] = {{0, 0, 0},    {5, 5, 0},    {-10, -1, 1},
                                  {0.3, 3, -1}, {1000, 1, 3}, {0.001, 1, -3}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        double c, e;
        kin_quantity_split(t[i][0], &c, &e);
        assert_true(fabs(c - t[i][1]) < 1e-15 && e == t[i][2]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taxonomy),         cmocka_unit_test(test_py_float),
        cmocka_unit_test(test_golden_cases),     cmocka_unit_test(test_golden_sequence),
        cmocka_unit_test(test_training_records), cmocka_unit_test(test_tolerant),
        cmocka_unit_test(test_strict),           cmocka_unit_test(test_split),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
