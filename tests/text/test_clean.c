#include "tests/support/support.h"

#include <stdlib.h>
#include <string.h>

#include "text/clean.h"

static void cleans_as(const char *in, const char *want)
{
    kin_error err = {0};
    kin_strbuf out = {0};
    assert_ok(kin_prompt_clean(in, strlen(in), &out, &err), &err);
    assert_string_equal(out.data ? out.data : "", want);
    kin_strbuf_free(&out);
}

static void prompts_as_the_published_pipeline_has_them(void **state)
{
    (void)state;
    cleans_as("", "");
    cleans_as(" \n ", "");
    cleans_as("  a   ball\t\nfalls  ", "a ball falls");
    cleans_as("it\xE2\x80\x99s \xE2\x80\x9Cso\xE2\x80\x9D", "it's \"so\"");
    cleans_as("a &amp;amp;amp; b", "a & b");
    cleans_as("<p> &amp;amp;amp;", "<p> &amp;");
    cleans_as("&copy 2024 &notin; &ampere &unknown; &",
              "\xC2\xA9 2024 \xE2\x88\x89 &ere &unknown; &");
    cleans_as("&#0;&#128;&#xD800;&#1114112;", "\xEF\xBF\xBD\xE2\x82\xAC\xEF\xBF\xBD\xEF\xBF\xBD");
    cleans_as("&EACUTE; &semi; &ampere;", "\xC3\x89 ; &ere;");
    cleans_as("\x1B[31mred\x1B[0m \x07", "red");
    cleans_as("cafe\xCC\x81 \xEF\xAC\x81ne", "caf\xC3\xA9 fine");
}

/* Anything else, also what is no UTF-8: ends, and cleaning what came out changes nothing more
 * unless it made a reference. */
static void any_bytes_are_taken(void **state)
{
    static const char *const parts[] = {
        "&", "#",  "x",  ";",     "amp", "<", "\xC3",         "\xA9",     "\xE2\x80", "\x9C",
        " ", "\r", "\n", "\x1B[", "0",   "m", "\xEF\xBD\xB6", "\xCC\x81", "\xFF",     "&lt"};
    kin_error err = {0};
    (void)state;
    for (int round = 0; round < 3000; round++) {
        kin_strbuf in = {0}, out = {0}, again = {0};
        for (int i = 0; i < 12; i++)
            kin_strbuf_add(&in, parts[(unsigned)rand() % (sizeof parts / sizeof *parts)]);
        assert_ok(kin_prompt_clean(in.data, in.len, &out, &err), &err);
        const char *text = out.data ? out.data : "";
        assert_true(kin_utf8_valid(text, out.len) || strchr(in.data, '&'));
        assert_null(strstr(text, "  "));
        assert_ok(kin_prompt_clean(text, out.len, &again, &err), &err);
        if (!strchr(text, '&') && !strchr(in.data, '&'))
            assert_string_equal(again.data ? again.data : "", text);
        kin_strbuf_free(&in);
        kin_strbuf_free(&out);
        kin_strbuf_free(&again);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_as_the_published_pipeline_has_them),
        cmocka_unit_test(any_bytes_are_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
