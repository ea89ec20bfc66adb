#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/alloc.h"

enum { REPLACEMENT = 0xFFFD };

size_t kin_unicode_next(const char *s, size_t n, int32_t *c)
{
    utf8proc_int32_t code;
    utf8proc_ssize_t len =
        utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &code);
    *c = len > 0 ? code : REPLACEMENT;
    return len > 0 ? (size_t)len : 1;
}

void kin_unicode_put(kin_strbuf *b, int32_t c)
{
    utf8proc_uint8_t bytes[4];
    utf8proc_ssize_t len = utf8proc_encode_char(c, bytes);
    kin_strbuf_add_bytes(b, (const char *)bytes, (size_t)len);
}

bool kin_unicode_is_space(int32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

bool kin_unicode_is_blank(int32_t c)
{
    return kin_unicode_is_space(c) || (c >= 0x1C && c <= 0x1F);
}

size_t kin_unicode_leading(const char *s, size_t n, bool (*is)(int32_t c))
{
    size_t i = 0;
    int32_t c;
    while (i < n) {
        size_t len = kin_unicode_next(s + i, n - i, &c);
        if (!is(c))
            break;
        i += len;
    }
    return i;
}

size_t kin_unicode_trimmed(const char *s, size_t n, bool (*is)(int32_t c))
{
    size_t end = 0;
    int32_t c;
    for (size_t i = 0; i < n;) {
        i += kin_unicode_next(s + i, n - i, &c);
        end = is(c) ? end : i;
    }
    return end;
}

size_t kin_unicode_cluster(const char *s, size_t n)
{
    utf8proc_int32_t state = 0;
    int32_t last, c;
    size_t len = kin_unicode_next(s, n, &last);
    while (len < n) {
        size_t more = kin_unicode_next(s + len, n - len, &c);
        if (utf8proc_grapheme_break_stateful(last, c, &state))
            return len;
        len += more;
        last = c;
    }
    return len;
}

/* utf8proc takes well-formed text only. */
static void well_formed(const char *s, size_t n, kin_strbuf *out)
{
    for (size_t i = 0; i < n;) {
        int32_t c;
        i += kin_unicode_next(s + i, n - i, &c);
        kin_unicode_put(out, c);
    }
}

kin_status kin_unicode_normalize(const char *s, size_t n, kin_unicode_form form, kin_strbuf *out,
                                 kin_error *err)
{
    kin_strbuf clean = {0};
    utf8proc_uint8_t *made = NULL;
    well_formed(s, n, &clean);
    utf8proc_option_t options =
        UTF8PROC_STABLE | UTF8PROC_COMPOSE | (form == KIN_UNICODE_NFKC ? UTF8PROC_COMPAT : 0);
    utf8proc_ssize_t len = clean.failed || !clean.data
                               ? 0
                               : utf8proc_map((const utf8proc_uint8_t *)clean.data,
                                              (utf8proc_ssize_t)clean.len, &made, options);
    bool failed = clean.failed || len < 0;
    if (!failed && len > 0)
        kin_strbuf_add_bytes(out, (const char *)made, (size_t)len);
    free(made); /* note: malloc of the library */
    kin_strbuf_free(&clean);
    return failed || out->failed ? kin_fail(err, KIN_ERR_MEM, "text: no memory for a normal form")
                                 : KIN_OK;
}
