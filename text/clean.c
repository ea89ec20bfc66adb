#include "text/clean.h"

#include <string.h>

#include "text/entities.h"
#include "text/unicode.h"

/* --- single characters --- */

/* Ligatures of Latin letters as letters; false: c is none. */
static bool put_ligature(int32_t c, kin_strbuf *out)
{
    static const struct {
        int32_t c;
        const char *letters;
    } rows[] = {
        {0x132, "IJ"},         {0x133, "ij"},        {0x149, "\xCA\xBCn"}, {0x1C4, "D\xC5\xBD"},
        {0x1C5, "D\xC5\xBE"},  {0x1C6, "d\xC5\xBE"}, {0x1C7, "LJ"},        {0x1C8, "Lj"},
        {0x1C9, "lj"},         {0x1CA, "NJ"},        {0x1CB, "Nj"},        {0x1CC, "nj"},
        {0x1F1, "DZ"},         {0x1F2, "Dz"},        {0x1F3, "dz"},        {0xFB00, "ff"},
        {0xFB01, "fi"},        {0xFB02, "fl"},       {0xFB03, "ffi"},      {0xFB04, "ffl"},
        {0xFB05, "\xC5\xBFt"}, {0xFB06, "st"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].c == c) {
            kin_strbuf_add(out, rows[i].letters);
            return true;
        }
    return false;
}

static bool is_dropped(int32_t c)
{
    return (c >= 0 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F ||
           (c >= 0x206A && c <= 0x206F) || (c >= 0xFFF9 && c <= 0xFFFB) || c == 0xFEFF;
}

/* One character: code page, ligature, width. */
static kin_status put_plain(int32_t c, kin_strbuf *out, kin_error *err)
{
    c = kin_entities_cp1252(c);
    if (put_ligature(c, out))
        return KIN_OK;
    if (c == 0x3000)
        c = ' ';
    if (c > 0xFF00 && c < 0xFFF0) {
        kin_strbuf one = {0};
        kin_unicode_put(&one, c);
        const kin_status status =
            kin_unicode_normalize(one.data, one.len, KIN_UNICODE_NFKC, out, err);
        kin_strbuf_free(&one);
        return status;
    }
    kin_unicode_put(out, c);
    return KIN_OK;
}

/* --- passes over the text, in ftfy's order --- */

static kin_status make_plain(const char *s, size_t n, kin_strbuf *out, kin_error *err)
{
    for (size_t i = 0; i < n;) {
        int32_t c;
        i += kin_unicode_next(s + i, n - i, &c);
        KIN_TRY(put_plain(c, out, err));
    }
    return KIN_OK;
}

/* Straight quotes, and one kind of line break. */
static void straighten(const char *s, size_t n, kin_strbuf *out)
{
    for (size_t i = 0; i < n;) {
        int32_t c;
        i += kin_unicode_next(s + i, n - i, &c);
        if (c == 0x2BC || (c >= 0x2018 && c <= 0x201B)) {
            c = '\'';
        } else if (c >= 0x201C && c <= 0x201F) {
            c = '"';
        } else if (c == '\r' || c == 0x2028 || c == 0x2029 || c == 0x85) {
            i += c == '\r' && i < n && s[i] == '\n';
            c = '\n';
        }
        kin_unicode_put(out, c);
    }
}

/* Bytes of a terminal's escape "ESC [ digits ; ... letter" at s, or 0. */
static size_t escape_at(const char *s, size_t n)
{
    size_t i = 2;
    if (n < 3 || s[0] != 0x1B || s[1] != '[')
        return 0;
    while (i < n && ((s[i] >= '0' && s[i] <= '9') || s[i] == ';'))
        i++;
    return i < n && ((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z')) ? i + 1 : 0;
}

static void drop_escapes(const char *s, size_t n, kin_strbuf *out)
{
    for (size_t i = 0; i < n;) {
        const size_t len = escape_at(s + i, n - i);
        if (!len)
            kin_strbuf_add_bytes(out, s + i, 1);
        i += len ? len : 1;
    }
}

static void drop_controls(const char *s, size_t n, kin_strbuf *out)
{
    for (size_t i = 0; i < n;) {
        int32_t c;
        const size_t len = kin_unicode_next(s + i, n - i, &c);
        if (!is_dropped(c))
            kin_strbuf_add_bytes(out, s + i, len);
        i += len;
    }
}

/* What a pass made takes the text's place. */
static void take(kin_strbuf *text, kin_strbuf *made)
{
    made->failed |= text->failed;
    kin_strbuf_free(text);
    *text = *made;
    *made = (kin_strbuf){0};
}

static kin_status fix_once(kin_strbuf *text, bool references, kin_error *err)
{
    static void (*const passes[])(const char *, size_t, kin_strbuf *) = {straighten, drop_escapes,
                                                                         drop_controls};
    kin_strbuf made = {0};
    kin_status status;
    if (references) {
        kin_entities_unescape_whole(text->data, text->len, &made);
        take(text, &made);
    }
    status = make_plain(text->data, text->len, &made, err);
    take(text, &made);
    for (size_t i = 0; i < sizeof passes / sizeof *passes && status == KIN_OK; i++) {
        if (text->data)
            passes[i](text->data, text->len, &made);
        take(text, &made);
    }
    if (status == KIN_OK)
        status = kin_unicode_normalize(text->data, text->len, KIN_UNICODE_NFC, &made, err);
    take(text, &made);
    return status == KIN_OK && text->failed ? kin_fail(err, KIN_ERR_MEM, "text: out of memory")
                                            : status;
}

/* Until nothing changes any more; every pass that changes something shortens the text or takes its
 * characters out of a finite set, so this ends. */
static kin_status fix(const char *s, size_t n, bool references, kin_strbuf *out, kin_error *err)
{
    kin_strbuf text = {0}, before = {0};
    kin_status status = KIN_OK;
    kin_strbuf_add_bytes(&text, s, n);
    do {
        kin_strbuf_free(&before);
        kin_strbuf_add_bytes(&before, text.data ? text.data : "", text.len);
        status = fix_once(&text, references, err);
    } while (status == KIN_OK && (text.len != before.len ||
                                  (text.len && memcmp(text.data, before.data, text.len) != 0)));
    if (text.data)
        kin_strbuf_add_bytes(out, text.data, text.len);
    kin_strbuf_free(&text);
    kin_strbuf_free(&before);
    return status;
}

/* ftfy resolves references up to the first line that has a '<'. */
static kin_status fix_text(const char *s, size_t n, kin_strbuf *out, kin_error *err)
{
    const char *tag = n ? memchr(s, '<', n) : NULL;
    size_t line = tag ? (size_t)(tag - s) : n;
    while (tag && line > 0 && s[line - 1] != '\n')
        line--;
    KIN_TRY(fix(s, line, true, out, err));
    return fix(s + line, n - line, false, out, err);
}

static void single_blanks(const char *s, size_t n, kin_strbuf *out)
{
    size_t i = kin_unicode_leading(s, n, kin_unicode_is_blank);
    const size_t end = kin_unicode_trimmed(s, n, kin_unicode_is_blank);
    while (i < end) {
        int32_t c;
        const size_t blanks = kin_unicode_leading(s + i, end - i, kin_unicode_is_blank);
        if (blanks)
            kin_strbuf_add(out, " ");
        i += blanks;
        const size_t len = kin_unicode_next(s + i, end - i, &c);
        kin_strbuf_add_bytes(out, s + i, len);
        i += len;
    }
}

kin_status kin_prompt_clean(const char *s, size_t n, kin_strbuf *out, kin_error *err)
{
    kin_strbuf text = {0}, made = {0};
    kin_status status = fix_text(s, n, &text, err);
    for (int i = 0; i < 2 && status == KIN_OK && text.data; i++) {
        kin_entities_unescape(text.data, text.len, &made);
        take(&text, &made);
    }
    if (status == KIN_OK && text.data)
        single_blanks(text.data, text.len, out);
    if (status == KIN_OK && (text.failed || out->failed))
        status = kin_fail(err, KIN_ERR_MEM, "text: out of memory");
    kin_strbuf_free(&text);
    return status;
}
