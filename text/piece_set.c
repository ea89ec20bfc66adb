#include "text/piece_set.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

kin_status kin_piece_set_add(kin_piece_set *set, const char *text, size_t bytes, int32_t id,
                             kin_error *err)
{
    if (set->n == set->cap) {
        size_t cap = set->cap ? 2 * set->cap : 256, size;
        kin_piece *p = kin_mul_size(cap, sizeof *p, &size) ? kin_realloc(set->list, size) : NULL;
        if (!p)
            return kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for %zu pieces", cap);
        set->list = p;
        set->cap = cap;
    }
    set->list[set->n++] = (kin_piece){.text = text, .bytes = bytes, .id = id};
    return KIN_OK;
}

static int compare(const char *a, size_t an, const char *b, size_t bn)
{
    int c = memcmp(a, b, an < bn ? an : bn);
    return c != 0 ? c : an < bn ? -1 : an > bn;
}

static int by_text_then_id(const void *a, const void *b)
{
    const kin_piece *p = a, *q = b;
    int c = compare(p->text, p->bytes, q->text, q->bytes);
    return c != 0 ? c : p->id < q->id ? -1 : p->id > q->id;
}

void kin_piece_set_sort(kin_piece_set *set)
{
    size_t n = 0;
    if (set->n == 0)
        return;
    qsort(set->list, set->n, sizeof *set->list, by_text_then_id);
    for (size_t i = 0; i < set->n; i++) {
        const kin_piece *p = &set->list[i], *next = p + 1;
        if (i + 1 < set->n && compare(p->text, p->bytes, next->text, next->bytes) == 0)
            continue;
        set->list[n++] = *p;
    }
    set->n = n;
}

void kin_piece_set_free(kin_piece_set *set)
{
    kin_free(set->list);
    *set = (kin_piece_set){0};
}

int32_t kin_piece_set_find(const kin_piece_set *set, const char *text, size_t bytes)
{
    size_t lo = 0, hi = set->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const kin_piece *p = &set->list[mid];
        int c = compare(p->text, p->bytes, text, bytes);
        if (c == 0)
            return p->id;
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return -1;
}

kin_piece_walk kin_piece_walk_start(const kin_piece_set *set, const char *text, size_t bytes)
{
    return (kin_piece_walk){.set = set, .text = text, .left = bytes, .lo = 0, .hi = set->n};
}

/* First member in [lo,hi) whose byte at w->depth is at least c; those that end there come first. */
static size_t first_at_least(const kin_piece_walk *w, size_t lo, size_t hi, int c)
{
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const kin_piece *p = &w->set->list[mid];
        int have = p->bytes > w->depth ? (unsigned char)p->text[w->depth] : -1;
        if (have < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

const kin_piece *kin_piece_walk_next(kin_piece_walk *w)
{
    while (w->lo < w->hi && w->depth < w->left) {
        int c = (unsigned char)w->text[w->depth];
        w->lo = first_at_least(w, w->lo, w->hi, c);
        w->hi = first_at_least(w, w->lo, w->hi, c + 1);
        w->depth++;
        if (w->lo < w->hi && w->set->list[w->lo].bytes == w->depth)
            return &w->set->list[w->lo];
    }
    return NULL;
}
