/* The flag table and its parser: precedence, rules, messages, saved settings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "cli/args.h"
#include "cli/help.h"

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
    const kin_flag *rows = kin_flags;
    for (int i = 0; rows[i].name; i++) {
        assert_non_null(rows[i].help);
        assert_true(rows[i].verbs != 0);
        if (rows[i].type != KIN_FLAG_BOOL)
            assert_non_null(rows[i].metavar);
        if (rows[i].type == KIN_FLAG_INT || rows[i].type == KIN_FLAG_REAL ||
            rows[i].type == KIN_FLAG_SIZE)
            assert_true(rows[i].lo < rows[i].hi);
        for (int j = 0; j < i; j++)
            if (rows[i].verbs & rows[j].verbs) {
                assert_string_not_equal(rows[i].name, rows[j].name);
                assert_false(rows[i].letter && rows[i].letter == rows[j].letter);
            }
    }
}

/* A value that may be left out: the next word is taken where it is one. */
static void test_size(void **state)
{
    (void)state;
    kin_args a;
    kin_error err;
    assert_int_equal(parse(&a, &err, "generate", "--offload", "a ball", NULL), KIN_OK);
    assert_string_equal(kin_args_text(&a, "offload"), "auto");
    assert_int_equal(kin_args_int(&a, "offload"), 0);
    assert_string_equal(kin_args_text(&a, "prompt"), "a ball");
    kin_args_free(&a);
    assert_int_equal(parse(&a, &err, "generate", "a ball", "--offload", "800", NULL), KIN_OK);
    assert_int_equal(kin_args_int(&a, "offload"), 800);
    kin_args_free(&a);
    assert_int_equal(parse(&a, &err, "generate", "a ball", "--offload", "--seed", "3", NULL),
                     KIN_OK);
    assert_string_equal(kin_args_text(&a, "offload"), "auto");
    kin_args_free(&a);
    assert_int_equal(parse(&a, &err, "generate", "a ball", "--offload=auto", NULL), KIN_OK);
    kin_args_free(&a);
    EXPECT_ERROR(KIN_ERR_ARG, "--offload: 0 must be between 1", "generate", "--offload", "0");
    EXPECT_ERROR(KIN_ERR_ARG, "--offload: 'much' must be a whole number", "generate",
                 "--offload=much");
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

static void expect_origin(const kin_args *a, const char *name, const char *origin)
{
    cJSON *json = NULL;
    kin_error err;
    assert_int_equal(kin_args_origins(a, &json, &err), KIN_OK);
    const cJSON *found = cJSON_GetObjectItemCaseSensitive(json, name);
    assert_true(cJSON_IsString(found));
    assert_string_equal(found->valuestring, origin);
    cJSON_Delete(json);
}

/* The user's configuration stands between -c and the defaults, and says what it is. */
static void test_user_file(void **state)
{
    (void)state;
    char dir[] = "/tmp/kinema_xdg_XXXXXX", folder[64], path[96], given[96];
    kin_args a;
    kin_error err;
    assert_non_null(mkdtemp(dir));
    snprintf(folder, sizeof folder, "%s/kinema", dir);
    snprintf(path, sizeof path, "%s/config.json", folder);
    snprintf(given, sizeof given, "%s/given.json", folder);
    assert_int_equal(mkdir(folder, 0777), 0);
    setenv("XDG_CONFIG_HOME", dir, 1);
    assert_int_equal(parse(&a, &err, "generate", "x", NULL), KIN_OK); /* none is there */
    expect_origin(&a, "steps", "default");
    kin_args_free(&a);

    write_file(path, "{\"steps\": 9, \"seed\": 2, \"cfg-scale\": 5, \"threads\": 3, "
                     "\"fps-jitter\": 0.1, \"dataset simulate\": {\"seed\": 4, \"width\": 64}, "
                     "\"generate\": {\"cfg-scale\": 6}}");
    write_file(given, "{\"seed\": 3}");
    setenv("KINEMA_THREADS", "1", 1);
    assert_int_equal(parse(&a, &err, "generate", "x", "-c", given, "--eta", "0.5", NULL), KIN_OK);
    assert_int_equal(kin_args_int(&a, "steps"), 9);
    assert_int_equal(kin_args_source(&a, "steps"), KIN_SOURCE_USER);
    assert_int_equal(kin_args_int(&a, "seed"), 3);
    assert_true(kin_args_real(&a, "cfg-scale") == 6);
    assert_int_equal(kin_args_int(&a, "threads"), 1);
    expect_origin(&a, "steps", path);
    expect_origin(&a, "seed", given);
    expect_origin(&a, "threads", "KINEMA_THREADS");
    expect_origin(&a, "eta", "flag");
    expect_origin(&a, "batch", "default");
    kin_args_free(&a);
    unsetenv("KINEMA_THREADS");
    assert_int_equal(parse(&a, &err, "dataset", "simulate", "-o", "d", NULL), KIN_OK);
    assert_int_equal(kin_args_int(&a, "seed"), 4);
    assert_int_equal(kin_args_int(&a, "width"), 64);
    assert_true(kin_args_real(&a, "fps-jitter") == 0.1);
    kin_args_free(&a);
    assert_int_equal(parse(&a, &err, "train", "-o", "d", NULL), KIN_OK); /* has threads alone */
    assert_int_equal(kin_args_int(&a, "threads"), 3);
    kin_args_free(&a);

    write_file(path, "{\"stepz\": 9}");
    EXPECT_ERROR(KIN_ERR_FORMAT, "did you mean 'steps'?", "train", "-o", "d");
    write_file(path, "{\"generate\": {\"widht\": 9}}");
    EXPECT_ERROR(KIN_ERR_FORMAT, "did you mean 'width'?", "generate", "x");
    write_file(path, "{\"generat\": {}}");
    EXPECT_ERROR(KIN_ERR_FORMAT, "config.json: 'generat' is no known key", "generate", "x");
    write_file(path, "{\"steps\": \"9\"}");
    EXPECT_ERROR(KIN_ERR_FORMAT, path, "generate", "x");
    write_file(path, "{");
    EXPECT_ERROR(KIN_ERR_FORMAT, path, "generate", "x");
    assert_int_equal(parse(&a, &err, "generate", "--help", NULL), KIN_OK); /* help needs none */
    kin_args_free(&a);
    unlink(path);
    unlink(given);
    rmdir(folder);
    rmdir(dir);
    setenv("XDG_CONFIG_HOME", "/nowhere", 1);
}

/* Help names every flag of the verb and no other. */
static void test_help(void **state)
{
    (void)state;
    for (const kin_verb_row *v = kin_verbs; v->name; v++) {
        char *text = NULL, flag[64];
        size_t bytes = 0;
        FILE *f = open_memstream(&text, &bytes);
        assert_non_null(f);
        kin_help_show(v, f);
        fclose(f);
        for (const kin_flag *row = kin_flags; row->name; row++) {
            snprintf(flag, sizeof flag, "--%s ", row->name);
            bool shared = false;
            for (const kin_flag *other = kin_flags; other->name; other++)
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
    /* not the configuration of whoever runs the tests */
    setenv("XDG_CONFIG_HOME", "/nowhere", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),      cmocka_unit_test(test_values),
        cmocka_unit_test(test_size),       cmocka_unit_test(test_refused),
        cmocka_unit_test(test_precedence), cmocka_unit_test(test_user_file),
        cmocka_unit_test(test_help),       cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
