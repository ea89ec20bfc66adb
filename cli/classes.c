#include "cli/classes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "base/text.h"
#include "tensor/rng.h"

enum { MAX_LISTED = 1 << 24 };

/* The classes as they are found; out grows. */
typedef struct reading {
    int64_t num;
    const char *const *names;
    kin_classes *out;
    int64_t room;
    kin_error *err;
} reading;

static kin_status add(reading *r, int64_t class)
{
    kin_classes *c = r->out;
    if (c->n == r->room) {
        int64_t room = r->room ? 2 * r->room : 64;
        int32_t *list = kin_realloc(c->list, (size_t)room * sizeof *list);
        if (!list)
            return kin_fail(r->err, KIN_ERR_MEM, "classes: out of memory");
        c->list = list;
        r->room = room;
    }
    c->list[c->n++] = (int32_t) class;
    return KIN_OK;
}

static bool equals(const char *a, const char *s, size_t n)
{
    return strlen(a) == n && memcmp(a, s, n) == 0;
}

/* s[0..n) is one of the names in `all`, which commas part. */
static bool is_among(const char *all, const char *s, size_t n)
{
    for (;;) {
        all += strspn(all, " ");
        size_t m = strcspn(all, ","), used = m;
        while (used && all[used - 1] == ' ')
            used--;
        if (used == n && memcmp(all, s, n) == 0)
            return true;
        if (!all[m])
            return false;
        all += m + 1;
    }
}

static bool find_name(const reading *r, const char *s, size_t n, int64_t *at)
{
    for (*at = 0; r->names && n && *at < r->num; ++*at) {
        const char *name = r->names[*at];
        if (name && (equals(name, s, n) || is_among(name, s, n)))
            return true;
    }
    return false;
}

/* "12" or "3-9" of s[0..n); false for anything else. */
static bool read_range(const char *s, size_t n, long *a, long *b)
{
    char text[64], *end;
    if (n == 0 || n >= sizeof text || s[0] < '0' || s[0] > '9')
        return false;
    memcpy(text, s, n);
    text[n] = 0;
    *a = *b = strtol(text, &end, 10);
    if (*end == '-' && end[1] >= '0' && end[1] <= '9')
        *b = strtol(end + 1, &end, 10);
    return !*end && *b >= *a;
}

static kin_status unknown(const reading *r, const char *s, size_t n)
{
    char given[128];
    const char *near = NULL, **known = NULL;
    int count = 0;
    snprintf(given, sizeof given, "%.*s", (int)(n < 100 ? n : 100), s);
    if (r->names && (known = kin_calloc((size_t)r->num + 1, sizeof *known))) {
        for (int64_t i = 0; i < r->num; i++)
            if (r->names[i])
                known[count++] = r->names[i];
        near = kin_nearest_name(given, known);
    }
    kin_status status =
        near ? kin_fail(r->err, KIN_ERR_ARG, "class '%s' is unknown; did you mean '%s'?", given,
                        near)
             : kin_fail(r->err, KIN_ERR_ARG, "class '%s' must be a number, a range such as 0-4%s",
                        given,
                        count ? ", or a name that the model knows" : " (this model has no names)");
    kin_free(known);
    return status;
}

/* One item: a name, a number, or (many) a range. */
static kin_status add_item(reading *r, const char *s, size_t n, bool many)
{
    int64_t at;
    long a, b;
    if (find_name(r, s, n, &at))
        return add(r, at);
    if (!read_range(s, n, &a, &b) || (!many && a != b))
        return unknown(r, s, n);
    if (b >= r->num)
        return kin_fail(r->err, KIN_ERR_ARG, "class %ld must lie in 0 to %lld", b,
                        (long long)r->num - 1);
    if (r->out->n + (b - a) >= MAX_LISTED)
        return kin_fail(r->err, KIN_ERR_ARG, "more than %d classes are listed", MAX_LISTED);
    for (long k = a; k <= b; k++)
        KIN_TRY(add(r, k));
    return KIN_OK;
}

static kin_status read_list(reading *r, const char *list)
{
    int64_t at;
    if (find_name(r, list, strlen(list), &at))
        return add(r, at);
    for (const char *p = list;; p++) {
        size_t n = strcspn(p, ",");
        const char *s = p + strspn(p, " ");
        size_t m = s < p + n ? n - (size_t)(s - p) : 0;
        while (m && s[m - 1] == ' ')
            m--;
        KIN_TRY(add_item(r, s, m, true));
        p += n;
        if (!*p)
            return KIN_OK;
    }
}

kin_status kin_classes_from_list(const char *list, int64_t num, const char *const *names,
                                 kin_classes *out, kin_error *err)
{
    reading r = {.num = num, .names = names, .out = out, .err = err};
    memset(out, 0, sizeof *out);
    kin_status status = read_list(&r, list);
    if (status == KIN_OK)
        return KIN_OK;
    kin_classes_free(out);
    return kin_fail_prefix(err, "--class");
}

/* The next line that holds something, without blanks at its ends; false at the end. */
static bool next_line(const char **p, int64_t *number, const char **line, size_t *n)
{
    while (**p) {
        size_t all = strcspn(*p, "\n");
        *line = *p;
        *n = all;
        *p += all + ((*p)[all] == '\n');
        ++*number;
        while (*n && strchr(" \t\r", (*line)[*n - 1]))
            --*n;
        while (*n && strchr(" \t", **line)) {
            ++*line;
            --*n;
        }
        if (*n)
            return true;
    }
    return false;
}

int64_t kin_classes_count_lines(const char *text)
{
    int64_t count = 0, number = 0;
    const char *line;
    size_t n;
    while (next_line(&text, &number, &line, &n))
        count++;
    return count;
}

kin_status kin_classes_from_lines(const char *text, const char *where, int64_t num,
                                  const char *const *names, kin_classes *out, kin_error *err)
{
    reading r = {.num = num, .names = names, .out = out, .err = err};
    int64_t number = 0;
    const char *line;
    size_t n;
    memset(out, 0, sizeof *out);
    while (next_line(&text, &number, &line, &n)) {
        kin_status status = add_item(&r, line, n, false);
        if (status == KIN_OK)
            continue;
        kin_classes_free(out);
        kin_fail_prefix(err, "class file %s: line %lld", where, (long long)number);
        err->status = status == KIN_ERR_ARG ? KIN_ERR_FORMAT : status;
        return err->status;
    }
    out->in_turn = true;
    return out->n ? KIN_OK
                  : kin_fail(err, KIN_ERR_FORMAT, "class file %s: must hold a class a line", where);
}

kin_status kin_classes_all(int64_t num, kin_classes *out, kin_error *err)
{
    memset(out, 0, sizeof *out);
    out->list = kin_malloc((size_t)num * sizeof *out->list);
    if (!out->list)
        return kin_fail(err, KIN_ERR_MEM, "classes: out of memory");
    for (int64_t i = 0; i < num; i++)
        out->list[i] = (int32_t)i;
    out->n = num;
    return KIN_OK;
}

void kin_classes_free(kin_classes *c)
{
    kin_free(c->list);
    memset(c, 0, sizeof *c);
}

int32_t kin_classes_at(const kin_classes *c, uint64_t seed, int64_t index)
{
    const kin_rng rng = {.seed = seed, .purpose = KIN_RNG_CLASS, .sample = (uint64_t)index};
    if (c->n < 1)
        return 0;
    return c
        ->list[c->in_turn ? (uint64_t)(index % c->n) : kin_rng_index_at(&rng, 0, (uint64_t)c->n)];
}

uint64_t kin_classes_hash(const kin_classes *c)
{
    uint64_t h = KIN_FNV1A_START;
    for (int64_t i = -1; i < c->n; i++) {
        uint32_t v = i < 0 ? c->in_turn : (uint32_t)c->list[i];
        h = kin_fnv1a(h, &v, sizeof v);
    }
    return h;
}
