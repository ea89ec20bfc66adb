/* Progress lines and exit codes. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "cli/exit.h"
#include "cli/progress.h"
#include "cli/signals.h"

/* What a short run leaves in a file. */
static void run(const char *mode, char *text, size_t bytes)
{
    kin_progress p;
    FILE *f = tmpfile();
    assert_non_null(f);
    kin_progress_init(&p, mode, f);
    kin_progress_begin(&p, "make \"it\"", "steps", 3);
    kin_progress_note(&p, "a note with \"quotes\"");
    for (int64_t i = 1; i <= 3; i++)
        kin_progress_update(&p, i, i == 3 ? "last" : NULL, false);
    kin_progress_end(&p);
    rewind(f);
    text[fread(text, 1, bytes - 1, f)] = 0;
    fclose(f);
}

static void test_modes(void **state)
{
    (void)state;
    char text[2048];
    run("none", text, sizeof text);
    assert_string_equal(text, "");
    /* a file is no terminal: whole lines, no carriage return, no escape */
    run("auto", text, sizeof text);
    assert_non_null(strstr(text, "a note with \"quotes\"\n"));
    assert_non_null(strstr(text, "3/3 steps"));
    assert_non_null(strstr(text, "last\n"));
    assert_null(strchr(text, '\r'));
    assert_null(strchr(text, '\033'));
    assert_null(strstr(text, "1/3"));
    run("json", text, sizeof text);
    int lines = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), lines++) {
        cJSON *json = NULL;
        kin_error err;
        assert_int_equal(kin_json_parse(line, strlen(line), KIN_JSON_STRICT, &json, &err), KIN_OK);
        cJSON_Delete(json);
    }
    assert_int_equal(lines, 2);
}

static void test_time(void **state)
{
    (void)state;
    char buf[32];
    assert_string_equal(kin_progress_time(65, buf), "1:05");
    assert_string_equal(kin_progress_time(7384, buf), "2:03:04");
    assert_string_equal(kin_progress_time(0, buf), "0:00");
    assert_string_equal(kin_progress_time(-1, buf), "?");
}

static void test_exit_codes(void **state)
{
    (void)state;
    assert_int_equal(kin_exit_code(KIN_OK, 0), 0);
    assert_int_equal(kin_exit_code(KIN_ERR_IO, 0), 1);
    assert_int_equal(kin_exit_code(KIN_ERR_SHAPE, 0), 1);
    assert_int_equal(kin_exit_code(KIN_ERR_BACKEND, 0), 1);
    assert_int_equal(kin_exit_code(KIN_ERR_UNSUPPORTED, 0), 1);
    assert_int_equal(kin_exit_code(KIN_ERR_ARG, 0), 2);
    assert_int_equal(kin_exit_code(KIN_ERR_FORMAT, 0), 3);
    assert_int_equal(kin_exit_code(KIN_ERR_MEM, 0), 4);
    assert_int_equal(kin_exit_code(KIN_ERR_NUMERIC, 0), 5);
    assert_int_equal(kin_exit_code(KIN_ERR_THRESHOLD, 0), 6);
    assert_int_equal(kin_exit_code(KIN_ERR_INTERRUPTED, SIGINT), 130);
    assert_int_equal(kin_exit_code(KIN_ERR_INTERRUPTED, SIGTERM), 143);
}

static void test_signal(void **state)
{
    (void)state;
    kin_error err = {0};
    kin_signals_install();
    assert_int_equal(kin_signals_check("x", &err), KIN_OK);
    raise(SIGTERM);
    assert_int_equal(kin_signals_caught(), SIGTERM);
    assert_int_equal(kin_signals_check("x", &err), KIN_ERR_INTERRUPTED);
    assert_int_equal(err.signal, SIGTERM);
    assert_non_null(strstr(err.text, "x: interrupted by SIGTERM"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_time),
        cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_signal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
