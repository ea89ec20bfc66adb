#include "text/entities.h"

#include <gumbo.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include "text/unicode.h"

enum { NAME_MAX_CHARS = 32, WHOLE_MAX = 24, LAST_CHAR = 0x10FFFF, REPLACEMENT = 0xFFFD };

int32_t kin_entities_cp1252(int32_t c)
{
    static const uint16_t high[32] = {
        0x20AC, 0x81,   0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021, 0x02C6, 0x2030, 0x0160,
        0x2039, 0x0152, 0x8D,   0x017D, 0x8F,   0x90,   0x2018, 0x2019, 0x201C, 0x201D, 0x2022,
        0x2013, 0x2014, 0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0x9D,   0x017E, 0x0178};
    return c >= 0x80 && c < 0xA0 ? high[c - 0x80] : c;
}

/* --- names --- */

static const GumboNode *first_text(const GumboNode *node)
{
    if (node->type == GUMBO_NODE_TEXT || node->type == GUMBO_NODE_WHITESPACE)
        return node;
    const GumboVector *kids = node->type == GUMBO_NODE_DOCUMENT  ? &node->v.document.children
                              : node->type == GUMBO_NODE_ELEMENT ? &node->v.element.children
                                                                 : NULL;
    for (unsigned i = 0; kids && i < kids->length; i++) {
        const GumboNode *found = first_text(kids->data[i]);
        if (found)
            return found;
    }
    return NULL;
}

/* Appends what HTML makes of s, "&name" or "&name;", in text. */
static void resolve_name(const char *s, size_t n, kin_strbuf *out)
{
    char page[8 * NAME_MAX_CHARS];
    const int len = snprintf(page, sizeof page, "<title>%.*s</title>", (int)n, s);
    if (len < 0 || (size_t)len >= sizeof page) {
        kin_strbuf_add_bytes(out, s, n);
        return;
    }
    GumboOutput *tree = gumbo_parse_with_options(&kGumboDefaultOptions, page, (size_t)len);
    const GumboNode *text = first_text(tree->document);
    if (text)
        kin_strbuf_add(out, text->v.text.text);
    else
        kin_strbuf_add_bytes(out, s, n);
    gumbo_destroy_output(&kGumboDefaultOptions, tree);
}

/* --- numbers --- */

static bool is_left_out(int32_t c)
{
    return (c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || (c >= 0x7F && c <= 0x9F) ||
           (c >= 0xFDD0 && c <= 0xFDEF) || (c & 0xFFFE) == 0xFFFE;
}

static int digit_of(char c, int base)
{
    const int d = c >= '0' && c <= '9'   ? c - '0'
                  : c >= 'a' && c <= 'f' ? c - 'a' + 10
                  : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                         : 99;
    return d < base ? d : -1;
}

/* The reference "&#..." at s: its bytes, or 0 where there is no digit. */
static size_t number_at(const char *s, size_t n, int32_t *c)
{
    const bool hex = n > 2 && (s[2] == 'x' || s[2] == 'X');
    const size_t first = hex ? 3 : 2;
    size_t i = first;
    *c = 0;
    for (; i < n && digit_of(s[i], hex ? 16 : 10) >= 0; i++)
        if (*c <= LAST_CHAR)
            *c = *c * (hex ? 16 : 10) + digit_of(s[i], hex ? 16 : 10);
    if (i == first)
        return 0;
    return i + (i < n && s[i] == ';');
}

static void put_number(int32_t c, kin_strbuf *out)
{
    if (c == 0 || (c >= 0xD800 && c <= 0xDFFF) || c > LAST_CHAR)
        kin_unicode_put(out, REPLACEMENT);
    else if (c >= 0x80 && c <= 0x9F)
        kin_unicode_put(out, kin_entities_cp1252(c));
    else if (!is_left_out(c))
        kin_unicode_put(out, c);
}

/* --- text --- */

/* Bytes of "&name" at s, of at most 32 characters, and a semicolon behind it; 0: no name. */
static size_t name_at(const char *s, size_t n)
{
    size_t i = 1;
    for (int chars = 0; i < n && chars < NAME_MAX_CHARS && !strchr("\t\n\f <&#;", s[i]) && s[i];
         chars++) {
        int32_t c;
        i += kin_unicode_next(s + i, n - i, &c);
    }
    return i == 1 ? 0 : i + (i < n && s[i] == ';');
}

/* Copies up to the next '&'. */
static size_t plain(const char *s, size_t n, kin_strbuf *out)
{
    const char *end = n ? memchr(s, '&', n) : NULL;
    const size_t len = end ? (size_t)(end - s) : n;
    kin_strbuf_add_bytes(out, s, len);
    return len;
}

void kin_entities_unescape(const char *s, size_t n, kin_strbuf *out)
{
    for (size_t i = plain(s, n, out); i < n; i += plain(s + i, n - i, out)) {
        int32_t c;
        const bool number = i + 1 < n && s[i + 1] == '#';
        const size_t len = number ? number_at(s + i, n - i, &c) : name_at(s + i, n - i);
        if (len == 0)
            kin_strbuf_add_bytes(out, s + i, 1);
        else if (number)
            put_number(c, out);
        else
            resolve_name(s + i, len, out);
        i += len ? len : 1;
    }
}

/* Bytes of "&name;" or "&#number;" at s with at most 24 letters and digits; 0: none. */
static size_t whole_at(const char *s, size_t n)
{
    size_t i = n > 1 && s[1] == '#' ? 2 : 1;
    const size_t first = i;
    while (i < n && i - first < WHOLE_MAX &&
           ((s[i] >= '0' && s[i] <= '9') || (s[i] >= 'a' && s[i] <= 'z') ||
            (s[i] >= 'A' && s[i] <= 'Z')))
        i++;
    return i > first && i < n && s[i] == ';' ? i + 1 : 0;
}

/* "&NAME;" by the name in small letters: its characters in capitals. */
static void resolve_capitals(const char *s, size_t n, kin_strbuf *out)
{
    char small[WHOLE_MAX + 4];
    kin_strbuf got = {0};
    for (size_t i = 0; i < n; i++) {
        if (s[i] >= 'a' && s[i] <= 'z') {
            kin_strbuf_add_bytes(out, s, n);
            return;
        }
        small[i] = (char)(s[i] >= 'A' && s[i] <= 'Z' ? s[i] - 'A' + 'a' : s[i]);
    }
    resolve_name(small, n, &got);
    if (got.data && got.len && got.data[got.len - 1] != ';') {
        for (size_t i = 0; i < got.len;) {
            int32_t c;
            i += kin_unicode_next(got.data + i, got.len - i, &c);
            kin_unicode_put(out, utf8proc_toupper(c));
        }
    } else {
        kin_strbuf_add_bytes(out, s, n);
    }
    out->failed |= got.failed;
    kin_strbuf_free(&got);
}

void kin_entities_unescape_whole(const char *s, size_t n, kin_strbuf *out)
{
    for (size_t i = plain(s, n, out); i < n; i += plain(s + i, n - i, out)) {
        const size_t len = whole_at(s + i, n - i);
        kin_strbuf got = {0};
        if (len == 0) {
            kin_strbuf_add_bytes(out, s + i++, 1);
            continue;
        }
        kin_entities_unescape(s + i, len, &got);
        /* note: a semicolon that is left means that only a beginning was a name; &semi; is one */
        if (got.len && got.data[got.len - 1] == ';' && got.len > 1) {
            if (got.len == len && memcmp(got.data, s + i, len) == 0)
                resolve_capitals(s + i, len, out);
            else
                kin_strbuf_add_bytes(out, s + i, len);
        } else {
            kin_strbuf_add_bytes(out, got.data ? got.data : "", got.len);
        }
        out->failed |= got.failed;
        kin_strbuf_free(&got);
        i += len;
    }
}
