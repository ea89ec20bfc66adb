#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/path.h"
#include "tests/support/support.h"

static kin_status parse(const char *text, unsigned flags, cJSON **out, kin_error *err)
{
    return kin_json_parse(text, strlen(text), flags, out, err);
}

static void accepts_sound_values(void **state)
{
    (void)state;
    static const char *const sound[] = {
        "{}",
        "[]",
        " [1, -0.5e+3, 0, true, false, null] ",
        "\"x\"",
        "-0",
        "{\"a\":{\"a\":[{}]}}",
        "\"\\ud83d\\ude00\"",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\"",
        "1e308",
        "1e-400",
        "\"\xF0\x9F\x98\x80\"",
    };
    for (size_t i = 0; i < sizeof sound / sizeof *sound; i++) {
        kin_error err = {0};
        cJSON *v = NULL;
        assert_ok(parse(sound[i], 0, &v, &err), &err);
        assert_non_null(v);
        cJSON_Delete(v);
    }
}

static void refuses_damaged_values(void **state)
{
    (void)state;
    static const char *const damaged[] = {
        "",
        " ",
        "[1,]",
        "{\"a\":1,}",
        "[1 2]",
        "{a:1}",
        "01",
        "1.",
        ".5",
        "1e",
        "+1",
        "-",
        "1e400",
        "-1e400",
        "NaN",
        "Infinity",
        "-Infinity",
        "nul",
        "truex",
        "[1] x",
        "[1][2]",
        "\"a",
        "\"a\nb\"",
        "\"\t\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\u0000\"",
        "\"\xC3(\"",
        "\"\xED\xA0\x80\"",
        "\"\xC0\x80\"",
        "\"\\ud800\\u0041\"",
        "[",
        "{\"a\":1,\"a\":2}",
        "{\"a\":1,\"\\u0061\":2}",
        "{\"a\"}",
        "{\"a\":}",
        "[[{\"k\":1,\"b\":2,\"k\":3}]]",
        "\xEF\xBB\xBF[]",
        "'a'",
        "[1]/**/",
        "\"\\",
        "[\"",
        "}",
        "--1",
        "1e+",
    };
    for (size_t i = 0; i < sizeof damaged / sizeof *damaged; i++) {
        kin_error err = {0};
        cJSON *v = NULL;
        if (parse(damaged[i], 0, &v, &err) != KIN_ERR_FORMAT)
            fail_msg("accepted: %s", damaged[i]);
        assert_null(v);
        assert_true(strlen(err.text) > 10);
    }
}

static void says_line_and_column(void **state)
{
    (void)state;
    kin_error err = {0};
    cJSON *v;
    assert_int_equal(parse("[1,\n 2,\n  x]", 0, &v, &err), KIN_ERR_FORMAT);
    assert_non_null(strstr(err.text, "line 3 column 3"));
}

static void limits_depth_and_values(void **state)
{
    (void)state;
    char text[2 * KIN_JSON_MAX_DEPTH + 3] = {0};
    kin_error err = {0};
    cJSON *v;
    memset(text, '[', KIN_JSON_MAX_DEPTH);
    memset(text + KIN_JSON_MAX_DEPTH, ']', KIN_JSON_MAX_DEPTH);
    assert_ok(parse(text, 0, &v, &err), &err);
    cJSON_Delete(v);
    memset(text, '[', KIN_JSON_MAX_DEPTH + 1);
    memset(text + KIN_JSON_MAX_DEPTH + 1, ']', KIN_JSON_MAX_DEPTH + 1);
    assert_int_equal(parse(text, 0, &v, &err), KIN_ERR_FORMAT);
    assert_ok(kin_json_parse_max("[1,2]", 5, 0, 3, &v, &err), &err);
    cJSON_Delete(v);
    assert_int_equal(kin_json_parse_max("[1,2]", 5, 0, 2, &v, &err), KIN_ERR_FORMAT);
}

static void flags_open_one_door_each(void **state)
{
    (void)state;
    kin_error err = {0};
    cJSON *v;
    assert_ok(parse("{\"a\":-Infinity,\"b\":\"Infinity \\\" -Infinity\",\"c\":Infinity}",
                    KIN_JSON_ALLOW_INFINITY, &v, &err),
              &err);
    assert_true(cJSON_GetObjectItem(v, "a")->valuedouble == -INFINITY);
    assert_true(cJSON_GetObjectItem(v, "c")->valuedouble == INFINITY);
    assert_string_equal(cJSON_GetObjectItem(v, "b")->valuestring, "Infinity \" -Infinity");
    cJSON_Delete(v);
    assert_int_equal(parse("1e999", KIN_JSON_ALLOW_INFINITY, &v, &err), KIN_ERR_FORMAT);

    assert_ok(parse("\xEF\xBB\xBF[]", KIN_JSON_ALLOW_BOM, &v, &err), &err);
    cJSON_Delete(v);

    assert_ok(parse("[1,2]\n[]\n[3] [4]", KIN_JSON_CONCATENATED, &v, &err), &err);
    assert_int_equal(cJSON_GetArraySize(v), 4);
    for (int i = 0; i < 4; i++)
        assert_int_equal(cJSON_GetArrayItem(v, i)->valueint, i + 1);
    cJSON_Delete(v);
    assert_ok(parse("[][5]", KIN_JSON_CONCATENATED, &v, &err), &err);
    assert_int_equal(cJSON_GetArraySize(v), 1);
    cJSON_Delete(v);
    assert_int_equal(parse("{}{}", KIN_JSON_CONCATENATED, &v, &err), KIN_ERR_FORMAT);
    assert_int_equal(parse("[1]{}", KIN_JSON_CONCATENATED, &v, &err), KIN_ERR_FORMAT);
}

static void members_are_checked(void **state)
{
    (void)state;
    kin_error err = {0};
    cJSON *v;
    assert_ok(
        parse("{\"i\":7,\"f\":2.5,\"b\":true,\"s\":\"x\",\"n\":null,\"big\":1e300}", 0, &v, &err),
        &err);
    int64_t i = -1;
    double f = -1;
    bool b = false;
    const char *s = "d";
    assert_ok(kin_json_get_i64(v, "i", 0, 7, &i, &err), &err);
    assert_int_equal(i, 7);
    assert_int_equal(kin_json_get_i64(v, "i", 0, 6, &i, &err), KIN_ERR_FORMAT);
    assert_int_equal(kin_json_get_i64(v, "f", 0, 9, &i, &err), KIN_ERR_FORMAT);
    assert_int_equal(kin_json_get_i64(v, "big", 0, INT64_MAX, &i, &err), KIN_ERR_FORMAT);
    assert_ok(kin_json_get_i64(v, "n", 0, 9, &i, &err), &err);
    assert_ok(kin_json_get_i64(v, "I", 0, 9, &i, &err), &err);
    assert_int_equal(i, 7);
    assert_ok(kin_json_get_f64(v, "f", &f, &err), &err);
    assert_true(f == 2.5);
    assert_int_equal(kin_json_get_f64(v, "s", &f, &err), KIN_ERR_FORMAT);
    assert_ok(kin_json_get_bool(v, "b", &b, &err), &err);
    assert_true(b);
    assert_int_equal(kin_json_get_bool(v, "i", &b, &err), KIN_ERR_FORMAT);
    assert_ok(kin_json_get_str(v, "missing", &s, &err), &err);
    assert_string_equal(s, "d");
    assert_ok(kin_json_get_str(v, "s", &s, &err), &err);
    assert_string_equal(s, "x");
    static const char *const known[] = {"i", "f", "b", "s", "n", "big", NULL};
    static const char *const fewer[] = {"i", "f", "b", "s", "n", "bigger", NULL};
    assert_ok(kin_json_known_keys(v, known, "test", &err), &err);
    assert_int_equal(kin_json_known_keys(v, fewer, "test", &err), KIN_ERR_FORMAT);
    cJSON_Delete(v);
    assert_ok(parse("{\"guidence_scale\":1}", 0, &v, &err), &err);
    static const char *const keys[] = {"steps", "guidance_scale", NULL};
    assert_int_equal(kin_json_known_keys(v, keys, "test", &err), KIN_ERR_FORMAT);
    assert_non_null(strstr(err.text, "guidance_scale"));
    cJSON_Delete(v);
}

/* json_* of broken/: what the text alone decides (the record rules are tested in tests/io). */
static void hostile_files(void **state)
{
    (void)state;
    const char *data = kin_test_data_dir();
    if (!data)
        skip();
    static const struct {
        const char *name;
        bool sound;
    } files[] = {
        {"json_ok", true},
        {"json_ok_bom", true},
        {"json_ok_concatenated", true},
        {"json_ok_escapes", true},
        {"json_trailing_comma", false},
        {"json_depth", false},
        {"json_depth_open", false},
        {"json_1e400", false},
        {"json_lone_surrogate", false},
        {"json_duplicate_key", false},
        {"json_truncated", false},
        {"json_empty", false},
        {"json_invalid_utf8", false},
        {"json_control_char", false},
        {"json_nan", false},
        {"json_garbage_after", false},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[KIN_PATH_MAX];
        kin_error err = {0};
        cJSON *v = NULL;
        snprintf(path, sizeof path, "%s/broken/%s.json", data, files[i].name);
        kin_status st =
            kin_json_read(path, 1 << 20, KIN_JSON_ALLOW_BOM | KIN_JSON_CONCATENATED, &v, &err);
        if ((st == KIN_OK) != files[i].sound)
            fail_msg("%s: %s %s", files[i].name, kin_status_name(st), err.text);
        if (st != KIN_OK) {
            assert_int_equal(st, KIN_ERR_FORMAT);
            assert_non_null(strstr(err.text, files[i].name));
        }
        cJSON_Delete(v);
    }
}

static void out_of_memory_is_an_error(void **state)
{
    (void)state;
    kin_error err = {0};
    cJSON *v = NULL;
    kin_alloc_fail_at(1);
    assert_int_equal(parse("{\"a\":1,\"b\":2}", 0, &v, &err), KIN_ERR_MEM);
    kin_alloc_fail_at(0);
    assert_null(v);
}

/* A small tree in one expression, with a replaced key. */
static bool build_tree(cJSON *o)
{
    cJSON *list = NULL;
    return kin_json_put(o, "a", cJSON_CreateNumber(1)) &&
           kin_json_put(o, "a", cJSON_CreateString("two")) &&
           (list = cJSON_AddArrayToObject(o, "list")) && kin_json_append(list, cJSON_CreateTrue());
}

/* However far the memory reaches: a tree that says it is whole is, and nothing is lost hold of. */
static void trees_are_built_whole_or_not(void **state)
{
    (void)state;
    cJSON_Hooks counted = {kin_malloc, kin_free};
    cJSON_InitHooks(&counted);
    for (uint64_t k = 1; k < 40; k++) {
        kin_alloc_fail_at(k);
        cJSON *o = cJSON_CreateObject();
        const bool whole = build_tree(o);
        kin_alloc_fail_at(0);
        char *text = whole ? cJSON_PrintUnformatted(o) : NULL;
        if (whole)
            assert_string_equal(text, "{\"a\":\"two\",\"list\":[true]}");
        assert_int_equal(whole, k > 9); /* it takes nine */
        cJSON_free(text);
        cJSON_Delete(o);
    }
    assert_false(kin_json_put(NULL, "a", cJSON_CreateNull()));
    assert_false(kin_json_append(NULL, cJSON_CreateNull()));
    cJSON_InitHooks(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts_sound_values),
        cmocka_unit_test(refuses_damaged_values),
        cmocka_unit_test(says_line_and_column),
        cmocka_unit_test(limits_depth_and_values),
        cmocka_unit_test(flags_open_one_door_each),
        cmocka_unit_test(members_are_checked),
        cmocka_unit_test(hostile_files),
        cmocka_unit_test(out_of_memory_is_an_error),
        cmocka_unit_test(trees_are_built_whole_or_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
