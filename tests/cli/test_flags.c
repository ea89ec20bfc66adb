/* The flag table and its parser: precedence, rules, messages, saved settings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "cli/flags.h"

enum { MAX_WORDS = 24 };

/* Parses "kinema" and the words up to NULL. */
static kin_status parse(kin_args *a, kin_error *err, ...)
{
    char *argv[MAX_WORDS] = {"kinema"};
    int argc = 1;
    va_list list;
    va_start(list, err);
    for (char *w; (w = va_arg(list, char *)) != NULL;)
        argv[argc++] = w;
    va_end(list);
    memset(a, 0, sizeof *a);
    memset(err, 0, sizeof *err);
    return kin_args_parse(argc, argv, a, err);
}

/* Expects a usage error whose text holds `part`. */
#define EXPECT_ERROR(status, part, ...)                               \
    do {                                                              \
        kin_args a_;                                                  \
        kin_error e_;                                                 \
        assert_int_equal(parse(&a_, &e_, __VA_ARGS__, NULL), status); \
        if (!strstr(e_.text, part))                                   \
            fail_msg("'%s' is not in '%s'", part, e_.text);           \
        kin_args_free(&a_);                                           \
    } while (0)

static void test_table(void **state)
{
    (void)state;
    const kin_flag *rows = kin_flag_table();
    for (int i = 0; rows[i].name; i++) {
        assert_non_null(rows[i].help);
        assert_true(rows[i].verbs != 0);
        if (rows[i].type != KIN_FLAG_BOOL)
            assert_non_null(rows[i].metavar);
        if (rows[i].type == KIN_FLAG_INT || rows[i].type == KIN_FLAG_REAL)
            assert_true(rows[i].lo < rows[i].hi);
        for (int j = 0; j < i; j++)
            if (rows[i].verbs & rows[j].verbs) {
                assert_string_not_equal(rows[i].name, rows[j].name);
                assert_false(rows[i].letter && rows[i].letter == rows[j].letter);
            }
    }
}

static void test_values(void **state)
{
    (void)state;
    kin_args a;
    kin_error err;
    assert_int_equal(parse(&a, &err, "generate", "a red ball", "-o", "x.mp4", "--steps=7",
                           "--cfg-scale", "1.5", "-W", "64", "--cfg-mode", "multi", "--allow-flat",
                           "--seed", "9007199254740991", NULL),
                     KIN_OK);
    assert_string_equal(kin_args_text(&a, "prompt"), "a red ball");
    assert_string_equal(kin_args_text(&a, "output"), "x.mp4");
    assert_int_equal(kin_args_int(&a, "steps"), 7);
    assert_true(kin_args_real(&a, "cfg-scale") == 1.5);
    assert_int_equal(kin_args_int(&a, "width"), 64);
    assert_int_equal(kin_args_int(&a, "seed"), 9007199254740991);
    assert_string_equal(kin_args_text(&a, "cfg-mode"), "multi");
    assert_true(kin_args_bool(&a, "allow-flat"));
    assert_false(kin_args_bool(&a, "dry-run"));
    assert_int_equal(kin_args_source(&a, "height"), KIN_SOURCE_NONE);
    assert_int_equal(kin_args_int(&a, "count"), 1);
    assert_int_equal(kin_args_source(&a, "count"), KIN_SOURCE_DEFAULT);
    kin_args_free(&a);
    /* behind "--" nothing is a flag; a value may begin with a dash */
    assert_int_equal(parse(&a, &err, "generate", "-n", "-x", "--", "-p", NULL), KIN_OK);
    assert_string_equal(kin_args_text(&a, "prompt"), "-p");
    assert_string_equal(kin_args_text(&a, "negative-prompt"), "-x");
    kin_args_free(&a);
    assert_int_equal(parse(&a, &err, "dataset", "check", "clips", "--strict", NULL), KIN_OK);
    assert_string_equal(a.positional, "clips");
    kin_args_free(&a);
}

static void test_refused(void **state)
{
    (void)state;
    EXPECT_ERROR(KIN_ERR_ARG, "did you mean --steps?", "generate", "x", "--step", "5");
    EXPECT_ERROR(KIN_ERR_ARG, "did you mean --cfg-scale?", "generate", "x", "--cfg_scale=5");
    EXPECT_ERROR(KIN_ERR_ARG, "unknown flag '-Z'", "generate", "x", "-Z");
    EXPECT_ERROR(KIN_ERR_ARG, "unknown flag '--zzzzzzzz'", "train", "--zzzzzzzz");
    EXPECT_ERROR(KIN_ERR_ARG, "did you mean 'generate'?", "genrate", "x");
    EXPECT_ERROR(KIN_ERR_ARG, "did you mean 'dataset simulate'?", "dataset", "simulat");
    EXPECT_ERROR(KIN_ERR_ARG, "second word", "dataset", NULL);
    EXPECT_ERROR(KIN_ERR_ARG, "0 must be between 1 and", "generate", "x", "--steps", "0");
    EXPECT_ERROR(KIN_ERR_ARG, "must be a whole number", "generate", "x", "--steps", "5.5");
    EXPECT_ERROR(KIN_ERR_ARG, "must be a whole number", "generate", "x", "--steps", "");
    EXPECT_ERROR(KIN_ERR_ARG, "must be between", "generate", "x", "--steps",
                 "99999999999999999999");
    EXPECT_ERROR(KIN_ERR_ARG, "must be a number", "generate", "x", "--cfg-scale", "nan");
    EXPECT_ERROR(KIN_ERR_ARG, "must be between", "generate", "x", "--cfg-scale", "-1");
    EXPECT_ERROR(KIN_ERR_ARG, "must be one of plain|multi", "generate", "x", "--cfg-mode", "plai");
    EXPECT_ERROR(KIN_ERR_ARG, "must be one of f32|bf16|int8", "generate", "x", "--dtype", "");
    EXPECT_ERROR(KIN_ERR_ARG, "must be true or false", "generate", "x", "--force=yes");
    EXPECT_ERROR(KIN_ERR_ARG, "needs a value", "generate", "x", "--steps");
    EXPECT_ERROR(KIN_ERR_ARG, "given twice", "generate", "x", "--steps", "5", "--steps", "6");
    EXPECT_ERROR(KIN_ERR_ARG, "given twice", "generate", "x", "-p", "y");
    EXPECT_ERROR(KIN_ERR_ARG, "one argument too many", "generate", "x", "y");
    EXPECT_ERROR(KIN_ERR_ARG, "one argument too many", "train", "x");
    /* a flag of another verb is unknown here */
    EXPECT_ERROR(KIN_ERR_ARG, "unknown flag '--strict'", "generate", "x", "--strict");
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void test_precedence(void **state)
{
    (void)state;
    char path[] = "/tmp/kinema_flags_XXXXXX";
    kin_args a;
    kin_error err;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    write_file(path, "{\"steps\": 11, \"cfg-scale\": 2, \"seed\": 5, \"allow-flat\": true, "
                     "\"kinema\": {\"version\": \"1\"}}");
    setenv("KINEMA_STEPS", "12", 1);
    setenv("KINEMA_CFG_SCALE", "4", 1);
    assert_int_equal(parse(&a, &err, "generate", "x", "-c", path, "--steps", "13", NULL), KIN_OK);
    assert_int_equal(kin_args_int(&a, "steps"), 13);
    assert_int_equal(kin_args_source(&a, "steps"), KIN_SOURCE_FLAG);
    assert_true(kin_args_real(&a, "cfg-scale") == 4);
    assert_int_equal(kin_args_source(&a, "cfg-scale"), KIN_SOURCE_ENV);
    assert_int_equal(kin_args_int(&a, "seed"), 5);
    assert_int_equal(kin_args_source(&a, "seed"), KIN_SOURCE_FILE);
    assert_true(kin_args_bool(&a, "allow-flat"));
    /* what is saved can be read back and says the same */
    cJSON *json = NULL;
    assert_int_equal(kin_args_settings(&a, &json, &err), KIN_OK);
    kin_args_free(&a);
    char *text = cJSON_Print(json);
    cJSON_Delete(json);
    write_file(path, text);
    cJSON_free(text);
    unsetenv("KINEMA_STEPS");
    unsetenv("KINEMA_CFG_SCALE");
    assert_int_equal(parse(&a, &err, "generate", "-c", path, NULL), KIN_OK);
    assert_string_equal(kin_args_text(&a, "prompt"), "x");
    assert_int_equal(kin_args_int(&a, "steps"), 13);
    assert_true(kin_args_real(&a, "cfg-scale") == 4);
    kin_args_free(&a);

    setenv("KINEMA_STEPS", "none", 1);
    EXPECT_ERROR(KIN_ERR_ARG, "KINEMA_STEPS: 'none'", "generate", "x");
    unsetenv("KINEMA_STEPS");
    write_file(path, "{\"stepz\": 11}");
    EXPECT_ERROR(KIN_ERR_FORMAT, "did you mean 'steps'?", "generate", "x", "-c", path);
    write_file(path, "{\"steps\": \"11\"}");
    EXPECT_ERROR(KIN_ERR_FORMAT, "wrong type", "generate", "x", "-c", path);
    write_file(path, "{\"steps\": 0}");
    EXPECT_ERROR(KIN_ERR_FORMAT, "must be between", "generate", "x", "-c", path);
    write_file(path, "{\"steps\": 1.5}");
    EXPECT_ERROR(KIN_ERR_FORMAT, "whole number", "generate", "x", "-c", path);
    write_file(path, "{\"dry-run\": true}");
    EXPECT_ERROR(KIN_ERR_FORMAT, "no known key", "generate", "x", "-c", path);
    write_file(path, "[1]");
    EXPECT_ERROR(KIN_ERR_FORMAT, "must be an object", "generate", "x", "-c", path);
    write_file(path, "{\"steps\": 11");
    EXPECT_ERROR(KIN_ERR_FORMAT, path, "generate", "x", "-c", path);
    unlink(path);
}

/* Help names every flag of the verb and no other. */
static void test_help(void **state)
{
    (void)state;
    for (const kin_verb_row *v = kin_verb_table(); v->name; v++) {
        char *text = NULL, flag[64];
        size_t bytes = 0;
        FILE *f = open_memstream(&text, &bytes);
        assert_non_null(f);
        kin_args_help(v, f);
        fclose(f);
        for (const kin_flag *row = kin_flag_table(); row->name; row++) {
            snprintf(flag, sizeof flag, "--%s ", row->name);
            bool shared = false;
            for (const kin_flag *other = kin_flag_table(); other->name; other++)
                shared = shared || ((other->verbs & v->verb) && !strcmp(other->name, row->name));
            if ((strstr(text, flag) != NULL) != shared)
                fail_msg("help of %s: %s is %s", v->name, flag, shared ? "missing" : "too much");
        }
        free(text);
    }
    kin_args a;
    kin_error err;
    assert_int_equal(parse(&a, &err, "generate", "--steps", "0x", "-h", NULL), KIN_ERR_ARG);
    kin_args_free(&a);
    assert_int_equal(parse(&a, &err, "train", "--help", "--nonsense", NULL), KIN_OK);
    assert_true(a.help);
    kin_args_free(&a);
    assert_int_equal(parse(&a, &err, "--version", NULL), KIN_OK);
    assert_true(a.version);
}

/* Every allocation that fails gives KIN_ERR_MEM and leaks nothing (leaks: by the sanitizer build).
 */
static void test_out_of_memory(void **state)
{
    (void)state;
    kin_args a;
    kin_error err;
    bool ended = false;
    for (uint64_t k = 1; k < 100 && !ended; k++) {
        kin_alloc_fail_at(k);
        kin_status status = parse(&a, &err, "generate", "x", "--steps", "3", NULL);
        kin_alloc_fail_at(0);
        kin_args_free(&a);
        ended = status == KIN_OK;
        assert_true(ended || status == KIN_ERR_MEM);
        assert_true(k > 1 || !ended);
    }
    assert_true(ended);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),   cmocka_unit_test(test_values),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_precedence),
        cmocka_unit_test(test_help),    cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
