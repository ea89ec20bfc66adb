#include "base/text.h"

#include <string.h>

#include "base/alloc.h"
#include "tests/support/support.h"

static bool valid(const char *s)
{
    return kin_utf8_valid(s, strlen(s));
}

static void utf8(void **state)
{
    (void)state;
    assert_true(valid(""));
    assert_true(valid("ascii"));
    assert_true(valid("\xC2\x80 \xDF\xBF \xE0\xA0\x80 \xED\x9F\xBF \xEE\x80\x80 \xF0\x90\x80\x80 "
                      "\xF4\x8F\xBF\xBF"));
    static const char *const wrong[] = {
        "\x80",
        "\xC0\x80",
        "\xC1\xBF",
        "\xC2",
        "\xE0\x9F\xBF",
        "\xED\xA0\x80",
        "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80",
        "\xF5\x80",
        "\xE2\x82",
        "\xFF",
        "\xC3(",
        "\xF0\x9F\x98",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_false(valid(wrong[i]));
    assert_true(kin_utf8_valid("a\0b", 3));
}

static void strbuf(void **state)
{
    (void)state;
    kin_strbuf b = {0};
    kin_strbuf_add(&b, "");
    assert_string_equal(b.data, "");
    for (int i = 0; i < 1000; i++)
        kin_strbuf_addf(&b, "%d,", i);
    assert_int_equal(b.len, 2890 + 1000);
    assert_int_equal(strlen(b.data), b.len);
    assert_memory_equal(b.data + b.len - 8, "998,999,", 9);
    kin_strbuf_free(&b);
    assert_null(b.data);
    kin_strbuf_add_json(&b, "a\"\\\n\x01\xC3\xA9");
    assert_string_equal(b.data, "\"a\\\"\\\\\\n\\u0001\xC3\xA9\"");
    kin_strbuf_free(&b);
    kin_strbuf_free(&b);
}

static void strbuf_remembers_failure(void **state)
{
    (void)state;
    kin_strbuf b = {0};
    kin_alloc_fail_at(1);
    kin_strbuf_add(&b, "x");
    kin_alloc_fail_at(0);
    assert_true(b.failed);
    kin_strbuf_add(&b, "y");
    assert_true(b.failed);
    assert_int_equal(b.len, 0);
    kin_strbuf_free(&b);
    assert_false(b.failed);
}

static void nearest(void **state)
{
    (void)state;
    static const char *const names[] = {"generate", "train", "inspect", NULL};
    assert_string_equal(kin_nearest_name("genrate", names), "generate");
    assert_string_equal(kin_nearest_name("trian", names), "train");
    assert_string_equal(kin_nearest_name("inspect", names), "inspect");
    assert_null(kin_nearest_name("convert", names));
    char longer[200];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    assert_null(kin_nearest_name(longer, names));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8),
        cmocka_unit_test(strbuf),
        cmocka_unit_test(strbuf_remembers_failure),
        cmocka_unit_test(nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
