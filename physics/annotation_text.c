#include "physics/annotation_text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define GCM3 "g/cm\xC2\xB3"

/* Length of a whitespace character (str.strip of Python 3) at s[0..n), 0 if it is none. */
static size_t space_at(const char *s, size_t n)
{
    static const char *const wide[] = {
        "\xC2\x85",     "\xC2\xA0",     "\xE1\x9A\x80", "\xE2\x80\x80", "\xE2\x80\x81",
        "\xE2\x80\x82", "\xE2\x80\x83", "\xE2\x80\x84", "\xE2\x80\x85", "\xE2\x80\x86",
        "\xE2\x80\x87", "\xE2\x80\x88", "\xE2\x80\x89", "\xE2\x80\x8A", "\xE2\x80\xA8",
        "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80",
    };
    unsigned char c = n ? (unsigned char)s[0] : 0;
    if ((c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20))
        return 1;
    for (size_t k = 0; c >= 0x80 && k < sizeof wide / sizeof *wide; k++) {
        size_t len = strlen(wide[k]);
        if (len <= n && memcmp(s, wide[k], len) == 0)
            return len;
    }
    return 0;
}

static kin_span strip(kin_span t)
{
    size_t k;
    while ((k = space_at(t.s, t.n)) > 0) {
        t.s += k;
        t.n -= k;
    }
    for (bool again = true; again;) {
        again = false;
        for (size_t len = 1; len <= 3 && len <= t.n; len++)
            if (space_at(t.s + t.n - len, len) == len) {
                t.n -= len;
                again = true;
                break;
            }
    }
    return t;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Digits with single underscores between them, from t[i]; copies the digits; returns how many, -1
 * when an underscore stands wrong. */
static int digits(kin_span t, size_t *i, char *out, size_t *n)
{
    int count = 0;
    while (*i < t.n && (is_digit(t.s[*i]) || t.s[*i] == '_')) {
        if (t.s[*i] == '_') {
            if (count == 0 || *i + 1 >= t.n || !is_digit(t.s[*i + 1]))
                return -1;
        } else {
            out[(*n)++] = t.s[*i];
            count++;
        }
        (*i)++;
    }
    return count;
}

static bool special(kin_span t, size_t i, bool minus, double *out)
{
    size_t left = t.n - i;
    if ((left == 3 && strncasecmp(t.s + i, "inf", 3) == 0) ||
        (left == 8 && strncasecmp(t.s + i, "infinity", 8) == 0))
        *out = minus ? -INFINITY : INFINITY;
    else if (left == 3 && strncasecmp(t.s + i, "nan", 3) == 0)
        *out = NAN;
    else
        return false;
    return true;
}

bool kin_py_float(kin_span t, double *out)
{
    char buf[512];
    size_t i = 0, n = 0;
    t = strip(t);
    if (t.n == 0 || t.n >= sizeof buf - 1)
        return false;
    bool minus = t.s[0] == '-';
    if (minus || t.s[0] == '+')
        buf[n++] = t.s[i++];
    if (special(t, i, minus, out))
        return true;
    int whole = digits(t, &i, buf, &n), part = 0;
    if (i < t.n && t.s[i] == '.') {
        buf[n++] = t.s[i++];
        part = digits(t, &i, buf, &n);
    }
    if (whole < 0 || part < 0 || whole + part == 0)
        return false;
    if (i < t.n && (t.s[i] == 'e' || t.s[i] == 'E')) {
        buf[n++] = t.s[i++];
        if (i < t.n && (t.s[i] == '+' || t.s[i] == '-'))
            buf[n++] = t.s[i++];
        if (digits(t, &i, buf, &n) <= 0)
            return false;
    }
    if (i != t.n)
        return false;
    buf[n] = 0;
    *out = strtod(buf, NULL);
    return true;
}

kin_words kin_words_of(kin_span t)
{
    return (kin_words){.rest = t, .done = false};
}

bool kin_words_next(kin_words *w, kin_span *word)
{
    if (w->done)
        return false;
    const char *blank = w->rest.n ? memchr(w->rest.s, ' ', w->rest.n) : NULL;
    *word = w->rest;
    if (blank) {
        word->n = (size_t)(blank - w->rest.s);
        w->rest.s += word->n + 1;
        w->rest.n -= word->n + 1;
    } else {
        w->done = true;
    }
    return true;
}

static bool is_to(kin_span w)
{
    return w.n == 2 && w.s[0] == 't' && w.s[1] == 'o';
}

static size_t count_words(kin_span t)
{
    size_t n = 1;
    for (size_t i = 0; i < t.n; i++)
        n += t.s[i] == ' ';
    return n;
}

/* [word before, word after] of the word "to" that was just read; `first`: it is the first word, and
 * its left neighbour is the LAST word of the text (index -1). */
static bool around(kin_span text, kin_span before, bool first, kin_words after, double out[2])
{
    kin_span next, last;
    if (first) {
        kin_words w = kin_words_of(text);
        while (kin_words_next(&w, &last))
            before = last;
    }
    return kin_py_float(before, &out[0]) && kin_words_next(&after, &next) &&
           kin_py_float(next, &out[1]);
}

bool kin_span_read_range(kin_span t, double out[2])
{
    kin_words w = kin_words_of(t);
    kin_span word, before = {t.s, 0};
    for (size_t i = 0; kin_words_next(&w, &word); i++) {
        if (is_to(word)) {
            double v[2];
            if (!around(t, before, i == 0, w, v))
                return false;
            out[0] = v[0];
            out[1] = v[1];
            return true;
        }
        before = word;
    }
    return false;
}

kin_density_result kin_span_read_density(kin_span piece, double out[2])
{
    size_t count = count_words(piece);
    kin_words w = kin_words_of(piece);
    kin_span word, before = {piece.s, 0};
    kin_density_result result = KIN_DENSITY_NONE;
    double v[2];
    for (size_t i = 0; kin_words_next(&w, &word); i++) {
        if (is_to(word)) {
            /* a second-to-last word before this one was tried already and may have given a value */
            if (!around(piece, before, i == 0, w, v))
                return result == KIN_DENSITY_VALUE ? result : KIN_DENSITY_BAD;
            out[0] = v[0];
            out[1] = v[1];
            return KIN_DENSITY_VALUE;
        }
        if (i + 2 == count) {
            result = kin_py_float(word, &v[0]) ? KIN_DENSITY_VALUE : KIN_DENSITY_BAD;
            if (result == KIN_DENSITY_VALUE)
                out[0] = out[1] = v[0];
        }
        before = word;
    }
    return result;
}

bool kin_n0_next(kin_span *rest, kin_span *piece)
{
    const char *unit = rest->n ? memmem(rest->s, rest->n, GCM3, strlen(GCM3)) : NULL;
    if (!unit)
        return false;
    piece->s = rest->s;
    piece->n = (size_t)(unit - rest->s);
    size_t used = piece->n + strlen(GCM3);
    rest->s += used;
    rest->n -= used;
    return true;
}
