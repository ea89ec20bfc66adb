#include "base/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

/* Number of bytes of the well-formed sequence at s[0..n), 0 if there is none. Table 3-7 of the
 * Unicode standard. */
static size_t utf8_sequence(const unsigned char *s, size_t n)
{
    unsigned char c = s[0], lo = 0x80, hi = 0xBF;
    size_t len;
    if (c < 0x80)
        return 1;
    if (c >= 0xC2 && c <= 0xDF)
        len = 2;
    else if (c >= 0xE0 && c <= 0xEF)
        len = 3;
    else if (c >= 0xF0 && c <= 0xF4)
        len = 4;
    else
        return 0;
    if (n < len)
        return 0;
    if (c == 0xE0)
        lo = 0xA0;
    else if (c == 0xED)
        hi = 0x9F;
    else if (c == 0xF0)
        lo = 0x90;
    else if (c == 0xF4)
        hi = 0x8F;
    if (s[1] < lo || s[1] > hi)
        return 0;
    for (size_t i = 2; i < len; i++)
        if (s[i] < 0x80 || s[i] > 0xBF)
            return 0;
    return len;
}

bool kin_utf8_valid(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t len = utf8_sequence((const unsigned char *)s + i, n - i);
        if (len == 0)
            return false;
        i += len;
    }
    return true;
}

/* Makes room for `more` bytes and the final zero. */
static bool reserve(kin_strbuf *b, size_t more)
{
    size_t need;
    if (b->failed)
        return false;
    if (!kin_add_size(b->len, more, &need) || !kin_add_size(need, 1, &need))
        goto fail;
    if (need <= b->cap)
        return true;
    size_t cap = b->cap < 64 ? 64 : b->cap;
    while (cap < need)
        if (!kin_mul_size(cap, 2, &cap))
            goto fail;
    char *data = kin_realloc(b->data, cap);
    if (!data)
        goto fail;
    b->data = data;
    b->cap = cap;
    return true;
fail:
    b->failed = true;
    return false;
}

void kin_strbuf_add_bytes(kin_strbuf *b, const char *s, size_t n)
{
    if (!reserve(b, n))
        return;
    if (n > 0)
        memcpy(b->data + b->len, s, n);
    b->len += n;
    b->data[b->len] = 0;
}

void kin_strbuf_add(kin_strbuf *b, const char *s)
{
    kin_strbuf_add_bytes(b, s, strlen(s));
}

void kin_strbuf_addf(kin_strbuf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        b->failed = true;
    else if (reserve(b, (size_t)n)) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
}

void kin_strbuf_add_json(kin_strbuf *b, const char *s)
{
    kin_strbuf_add_bytes(b, "\"", 1);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        switch (c) {
        case '"': kin_strbuf_add(b, "\\\""); break;
        case '\\': kin_strbuf_add(b, "\\\\"); break;
        case '\b': kin_strbuf_add(b, "\\b"); break;
        case '\f': kin_strbuf_add(b, "\\f"); break;
        case '\n': kin_strbuf_add(b, "\\n"); break;
        case '\r': kin_strbuf_add(b, "\\r"); break;
        case '\t': kin_strbuf_add(b, "\\t"); break;
        default:
            if (c < 0x20)
                kin_strbuf_addf(b, "\\u%04x", c);
            else
                kin_strbuf_add_bytes(b, s, 1);
        }
    }
    kin_strbuf_add_bytes(b, "\"", 1);
}

void kin_strbuf_free(kin_strbuf *b)
{
    kin_free(b->data);
    *b = (kin_strbuf){0};
}

enum { NAME_MAX_CHARS = 80 };

/* Levenshtein distance of two names of at most NAME_MAX_CHARS bytes. */
static size_t edit_distance(const char *a, size_t na, const char *b, size_t nb)
{
    size_t row[NAME_MAX_CHARS + 1];
    for (size_t j = 0; j <= nb; j++)
        row[j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[nb];
}

const char *kin_nearest_name(const char *name, const char *const *names)
{
    size_t n = strlen(name);
    if (n > NAME_MAX_CHARS)
        return NULL;
    size_t limit = n / 3 > 2 ? n / 3 : 2, best = limit + 1;
    const char *found = NULL;
    for (size_t i = 0; names[i]; i++) {
        size_t m = strlen(names[i]);
        if (m > NAME_MAX_CHARS)
            continue;
        size_t d = edit_distance(name, n, names[i], m);
        if (d < best) {
            best = d;
            found = names[i];
        }
    }
    return found;
}
