/* note: positions are byte offsets while scanning; line and column are counted only for a message.
 */
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/path.h"
#include "base/text.h"

enum { NUMBER_MAX_BYTES = 63 }; /* cJSON copies a number into a buffer of 64 */

typedef struct scan {
    const char *text;
    size_t pos, end;
    size_t values, max_values;
    size_t infinities;
    unsigned flags;
    kin_error *err;
} scan;

static kin_status bad(const scan *s, size_t at, const char *rule)
{
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at && i < s->end; i++) {
        column++;
        if (s->text[i] == '\n') {
            line++;
            column = 1;
        }
    }
    return kin_fail(s->err, KIN_ERR_FORMAT, "json: line %zu column %zu: %s", line, column, rule);
}

static int peek(const scan *s)
{
    return s->pos < s->end ? (unsigned char)s->text[s->pos] : -1;
}

static void skip_blanks(scan *s)
{
    int c;
    while ((c = peek(s)) == ' ' || c == '\t' || c == '\n' || c == '\r')
        s->pos++;
}

static bool take_word(scan *s, const char *word)
{
    size_t n = strlen(word);
    if (s->end - s->pos < n || memcmp(s->text + s->pos, word, n) != 0)
        return false;
    s->pos += n;
    return true;
}

/* The four hex digits after "\u"; -1 if they are not there. */
static int scan_hex4(scan *s)
{
    int v = 0;
    if (s->end - s->pos < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        int c = (unsigned char)s->text[s->pos++];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

/* pos is behind the backslash */
static kin_status scan_escape(scan *s)
{
    size_t at = s->pos - 1;
    int c = peek(s);
    s->pos++;
    if (c != 'u')
        return c > 0 && strchr("\"\\/bfnrt", c) ? KIN_OK : bad(s, at, "unknown escape");
    int v = scan_hex4(s);
    if (v < 0)
        return bad(s, at, "\\u must be followed by four hex digits");
    if (v == 0)
        return bad(s, at, "\\u0000 must not occur in a string");
    if (v >= 0xDC00 && v <= 0xDFFF)
        return bad(s, at, "low surrogate without its high one");
    if (v < 0xD800 || v > 0xDBFF)
        return KIN_OK;
    if (!take_word(s, "\\u"))
        return bad(s, at, "high surrogate without its low one");
    v = scan_hex4(s);
    if (v < 0xDC00 || v > 0xDFFF)
        return bad(s, at, "high surrogate without its low one");
    return KIN_OK;
}

static kin_status scan_string(scan *s)
{
    size_t start = s->pos++;
    for (;;) {
        int c = peek(s);
        if (c < 0)
            return bad(s, start, "string does not end");
        if (c < 0x20)
            return bad(s, s->pos, "raw control character in a string");
        s->pos++;
        if (c == '"')
            break;
        if (c == '\\')
            KIN_TRY(scan_escape(s));
    }
    if (!kin_utf8_valid(s->text + start, s->pos - start))
        return bad(s, start, "string is not UTF-8");
    return KIN_OK;
}

static size_t scan_digits(scan *s)
{
    size_t n = 0;
    for (int c; (c = peek(s)) >= '0' && c <= '9'; n++)
        s->pos++;
    return n;
}

static kin_status scan_number(scan *s)
{
    size_t start = s->pos;
    if (peek(s) == '-')
        s->pos++;
    if ((s->flags & KIN_JSON_ALLOW_INFINITY) && take_word(s, "Infinity")) {
        s->infinities++;
        return KIN_OK;
    }
    bool zero = peek(s) == '0';
    size_t digits = scan_digits(s);
    if (digits == 0 || (zero && digits > 1))
        return bad(s, start, "not a JSON value");
    if (peek(s) == '.') {
        s->pos++;
        if (scan_digits(s) == 0)
            return bad(s, start, "number must have a digit after its point");
    }
    if (peek(s) == 'e' || peek(s) == 'E') {
        s->pos++;
        if (peek(s) == '+' || peek(s) == '-')
            s->pos++;
        if (scan_digits(s) == 0)
            return bad(s, start, "number must have a digit in its exponent");
    }
    char copy[NUMBER_MAX_BYTES + 1];
    size_t n = s->pos - start;
    if (n > NUMBER_MAX_BYTES)
        return bad(s, start, "number must have at most 63 characters");
    memcpy(copy, s->text + start, n);
    copy[n] = 0;
    if (!isfinite(strtod(copy, NULL)))
        return bad(s, start, "number is beyond the double range");
    return KIN_OK;
}

static kin_status scan_value(scan *s, int depth);

static kin_status scan_members(scan *s, int depth, bool object)
{
    int close = object ? '}' : ']';
    if (depth > KIN_JSON_MAX_DEPTH)
        return bad(s, s->pos, "nested deeper than 64");
    s->pos++;
    skip_blanks(s);
    if (peek(s) == close) {
        s->pos++;
        return KIN_OK;
    }
    for (;;) {
        skip_blanks(s);
        if (object) {
            if (peek(s) != '"')
                return bad(s, s->pos, "a key in double quotes must stand here");
            KIN_TRY(scan_string(s));
            skip_blanks(s);
            if (peek(s) != ':')
                return bad(s, s->pos, "':' must stand here");
            s->pos++;
        }
        KIN_TRY(scan_value(s, depth));
        skip_blanks(s);
        int c = peek(s);
        if (c == close)
            break;
        if (c != ',')
            return bad(s, s->pos,
                       object ? "',' or '}' must stand here" : "',' or ']' must stand here");
        s->pos++;
    }
    s->pos++;
    return KIN_OK;
}

static kin_status scan_value(scan *s, int depth)
{
    skip_blanks(s);
    if (++s->values > s->max_values)
        return bad(s, s->pos, "too many values");
    int c = peek(s);
    switch (c) {
    case -1: return bad(s, s->pos, "text ends where a value must stand");
    case '{': return scan_members(s, depth + 1, true);
    case '[': return scan_members(s, depth + 1, false);
    case '"': return scan_string(s);
    case 't':
        if (take_word(s, "true"))
            return KIN_OK;
        break;
    case 'f':
        if (take_word(s, "false"))
            return KIN_OK;
        break;
    case 'n':
        if (take_word(s, "null"))
            return KIN_OK;
        break;
    case 'I':
        if (s->flags & KIN_JSON_ALLOW_INFINITY)
            return scan_number(s);
        break;
    default:
        if (c == '-' || (c >= '0' && c <= '9'))
            return scan_number(s);
    }
    return bad(s, s->pos, "not a JSON value");
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Duplicate keys of one object, compared after the escapes are resolved. */
static kin_status check_object_keys(const cJSON *object, kin_error *err)
{
    size_t n = 0;
    for (const cJSON *c = object->child; c; c = c->next)
        n++;
    if (n < 2)
        return KIN_OK;
    const char **keys = kin_malloc(n * sizeof *keys);
    if (!keys)
        return kin_fail(err, KIN_ERR_MEM, "json: no memory for %zu keys", n);
    n = 0;
    for (const cJSON *c = object->child; c; c = c->next)
        keys[n++] = c->string;
    qsort(keys, n, sizeof *keys, compare_keys);
    kin_status status = KIN_OK;
    for (size_t i = 1; i < n && status == KIN_OK; i++)
        if (strcmp(keys[i - 1], keys[i]) == 0)
            status = kin_fail(err, KIN_ERR_FORMAT, "json: key \"%.200s\" occurs twice", keys[i]);
    kin_free(keys);
    return status;
}

/* note: recursion is bounded by KIN_JSON_MAX_DEPTH, which the scan has checked */
static kin_status check_keys(const cJSON *value, kin_error *err)
{
    if (cJSON_IsObject(value))
        KIN_TRY(check_object_keys(value, err));
    for (const cJSON *c = value->child; c; c = c->next)
        if (c->child)
            KIN_TRY(check_keys(c, err));
    return KIN_OK;
}

/* Moves the entries of array `more` to the end of array `into` and deletes `more`. */
static void append_array(cJSON *into, cJSON *more)
{
    if (more->child) {
        cJSON *last = more->child->prev;
        if (into->child) {
            into->child->prev->next = more->child;
            more->child->prev = into->child->prev;
            into->child->prev = last;
        } else {
            into->child = more->child;
        }
        more->child = NULL;
    }
    cJSON_Delete(more);
}

static kin_status build(const char *text, size_t bytes, cJSON **out, kin_error *err)
{
    *out = cJSON_ParseWithLengthOpts(text, bytes, NULL, 0);
    if (!*out)
        return kin_fail(err, KIN_ERR_MEM, "json: no memory for the tree of %zu bytes", bytes);
    kin_status status = check_keys(*out, err);
    if (status != KIN_OK) {
        cJSON_Delete(*out);
        *out = NULL;
    }
    return status;
}

/* cJSON knows no Infinity: a copy with "1e999   " in its place, which strtod makes infinite. */
static kin_status build_with_infinity(const char *text, size_t bytes, cJSON **out, kin_error *err)
{
    static const char from[] = "Infinity", to[] = "1e999   ";
    char *copy = kin_malloc(bytes);
    if (!copy)
        return kin_fail(err, KIN_ERR_MEM, "json: no memory for %zu bytes", bytes);
    memcpy(copy, text, bytes);
    bool quoted = false;
    for (size_t i = 0; i < bytes; i++) {
        if (quoted && copy[i] == '\\')
            i++;
        else if (copy[i] == '"')
            quoted = !quoted;
        else if (!quoted && copy[i] == 'I' && bytes - i >= 8 && memcmp(copy + i, from, 8) == 0)
            memcpy(copy + i, to, 8);
    }
    kin_status status = build(copy, bytes, out, err);
    kin_free(copy);
    return status;
}

static kin_status parse_one(scan *s, cJSON **out)
{
    size_t start = s->pos;
    s->infinities = 0;
    KIN_TRY(scan_value(s, 0));
    if (s->infinities > 0)
        return build_with_infinity(s->text + start, s->pos - start, out, s->err);
    return build(s->text + start, s->pos - start, out, s->err);
}

kin_status kin_json_parse_max(const char *text, size_t bytes, unsigned flags, size_t max_values,
                              cJSON **out, kin_error *err)
{
    scan s = {.text = text, .end = bytes, .max_values = max_values, .flags = flags, .err = err};
    *out = NULL;
    if (flags & KIN_JSON_ALLOW_BOM)
        take_word(&s, "\xEF\xBB\xBF");
    skip_blanks(&s);
    cJSON *first = NULL;
    KIN_TRY(parse_one(&s, &first));
    for (skip_blanks(&s); s.pos < s.end; skip_blanks(&s)) {
        kin_status status;
        cJSON *more = NULL;
        if ((flags & KIN_JSON_CONCATENATED) && cJSON_IsArray(first) && peek(&s) == '[')
            status = parse_one(&s, &more);
        else
            status = bad(&s, s.pos, "text after the value");
        if (status != KIN_OK) {
            cJSON_Delete(first);
            return status;
        }
        append_array(first, more);
    }
    *out = first;
    return KIN_OK;
}

kin_status kin_json_parse(const char *text, size_t bytes, unsigned flags, cJSON **out,
                          kin_error *err)
{
    return kin_json_parse_max(text, bytes, flags, KIN_JSON_MAX_VALUES, out, err);
}

kin_status kin_json_read(const char *path, size_t max_bytes, unsigned flags, cJSON **out,
                         kin_error *err)
{
    char *text;
    size_t bytes;
    *out = NULL;
    KIN_TRY(kin_file_read(path, max_bytes, &text, &bytes, err));
    kin_status status = kin_json_parse(text, bytes, flags, out, err);
    kin_free(text);
    if (status != KIN_OK)
        kin_fail_prefix(err, "%s", path);
    return status;
}

bool kin_json_put(cJSON *obj, const char *key, cJSON *value)
{
    if (!obj || !value) {
        cJSON_Delete(value);
        return false;
    }
    if (cJSON_GetObjectItemCaseSensitive(obj, key))
        return cJSON_ReplaceItemInObjectCaseSensitive(obj, key, value) && value->string;
    if (cJSON_AddItemToObject(obj, key, value))
        return true;
    cJSON_Delete(value);
    return false;
}

bool kin_json_append(cJSON *list, cJSON *value)
{
    if (list && cJSON_AddItemToArray(list, value))
        return true;
    cJSON_Delete(value);
    return false;
}

/* The member, or NULL when it is missing or null. */
static const cJSON *member(const cJSON *obj, const char *key)
{
    const cJSON *m = cJSON_GetObjectItemCaseSensitive(obj, key);
    return m && !cJSON_IsNull(m) ? m : NULL;
}

kin_status kin_json_get_i64(const cJSON *obj, const char *key, int64_t lo, int64_t hi,
                            int64_t *inout, kin_error *err)
{
    const cJSON *m = member(obj, key);
    if (!m)
        return KIN_OK;
    /* note: beyond 2^53 a double does not name one integer */
    if (!cJSON_IsNumber(m) || !(fabs(m->valuedouble) <= 9007199254740992.0) ||
        m->valuedouble != floor(m->valuedouble))
        return kin_fail(err, KIN_ERR_FORMAT, "json: \"%s\" must be an integer", key);
    int64_t v = (int64_t)m->valuedouble;
    if (v < lo || v > hi)
        return kin_fail(err, KIN_ERR_FORMAT, "json: \"%s\" is %lld, must be in [%lld, %lld]", key,
                        (long long)v, (long long)lo, (long long)hi);
    *inout = v;
    return KIN_OK;
}

kin_status kin_json_get_f64(const cJSON *obj, const char *key, double *inout, kin_error *err)
{
    const cJSON *m = member(obj, key);
    if (!m)
        return KIN_OK;
    if (!cJSON_IsNumber(m))
        return kin_fail(err, KIN_ERR_FORMAT, "json: \"%s\" must be a number", key);
    *inout = m->valuedouble;
    return KIN_OK;
}

kin_status kin_json_get_bool(const cJSON *obj, const char *key, bool *inout, kin_error *err)
{
    const cJSON *m = member(obj, key);
    if (!m)
        return KIN_OK;
    if (!cJSON_IsBool(m))
        return kin_fail(err, KIN_ERR_FORMAT, "json: \"%s\" must be true or false", key);
    *inout = cJSON_IsTrue(m);
    return KIN_OK;
}

kin_status kin_json_get_str(const cJSON *obj, const char *key, const char **out, kin_error *err)
{
    const cJSON *m = member(obj, key);
    if (!m)
        return KIN_OK;
    if (!cJSON_IsString(m))
        return kin_fail(err, KIN_ERR_FORMAT, "json: \"%s\" must be a string", key);
    *out = m->valuestring;
    return KIN_OK;
}

kin_status kin_json_known_keys(const cJSON *obj, const char *const *known, const char *where,
                               kin_error *err)
{
    for (const cJSON *c = obj->child; c; c = c->next) {
        size_t i = 0;
        while (known[i] && strcmp(known[i], c->string) != 0)
            i++;
        if (known[i])
            continue;
        const char *near = kin_nearest_name(c->string, known);
        return kin_fail(err, KIN_ERR_FORMAT, "%s: unknown key \"%.100s\"%s%s%s", where, c->string,
                        near ? ", did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    }
    return KIN_OK;
}
