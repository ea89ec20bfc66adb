#include "text/unigram.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "text/unicode.h"

static const double unknown_penalty = 10.0;

/* Best way to reach a byte of the word. */
typedef struct node {
    double score;
    size_t from, next; /* from: SIZE_MAX while not reached; next: along the best way */
    int32_t id;
} node;

kin_status kin_unigram_add(kin_unigram *u, const char *text, size_t bytes, double score,
                           kin_error *err)
{
    size_t n = (size_t)u->count;
    if ((n & (n - 1)) == 0) { /* powers of two: room for as many again */
        double *p = kin_realloc(u->score, (n ? 2 * n : 1) * sizeof *p);
        if (!p)
            return kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for %zu scores", 2 * n);
        u->score = p;
    }
    KIN_TRY(kin_piece_set_add(&u->pieces, text, bytes, u->count, err));
    u->min_score = n == 0 || score < u->min_score ? score : u->min_score;
    u->score[u->count++] = score;
    return KIN_OK;
}

kin_status kin_unigram_finish(kin_unigram *u, int32_t unk, kin_error *err)
{
    char name[8];
    if (unk < -1 || unk >= u->count)
        return kin_fail(err, KIN_ERR_FORMAT, "tokenizer: unk_id %d must be one of %d pieces", unk,
                        u->count);
    u->unk = unk;
    kin_piece_set_sort(&u->pieces);
    for (int i = 0; i < 256; i++) {
        snprintf(name, sizeof name, "<0x%02X>", i);
        u->byte_id[i] = kin_piece_set_find(&u->pieces, name, 6);
    }
    return KIN_OK;
}

void kin_unigram_free(kin_unigram *u)
{
    kin_piece_set_free(&u->pieces);
    kin_free(u->score);
    *u = (kin_unigram){0};
}

static void reach(node *best, size_t from, size_t to, double score, int32_t id)
{
    if (best[to].from == SIZE_MAX || score > best[to].score)
        best[to] = (node){.score = score, .from = from, .id = id};
}

static void forward(const kin_unigram *u, const char *word, size_t bytes, node *best)
{
    int32_t c;
    for (size_t at = 0, len; at < bytes; at += len) {
        const double here = best[at].score;
        bool single = false;
        len = kin_unicode_next(word + at, bytes - at, &c);
        kin_piece_walk w = kin_piece_walk_start(&u->pieces, word + at, bytes - at);
        for (const kin_piece *p; (p = kin_piece_walk_next(&w)) != NULL;) {
            reach(best, at, at + p->bytes, here + u->score[p->id], p->id);
            single = single || p->bytes == len;
        }
        if (!single)
            reach(best, at, at + len, here + (u->min_score - unknown_penalty), u->unk);
    }
}

/* The id of one stretch of the split, or of its bytes. */
static kin_status put_stretch(const kin_unigram *u, const char *s, size_t n, kin_id_put put,
                              void *user, kin_error *err)
{
    int32_t id = kin_piece_set_find(&u->pieces, s, n);
    bool bytes = id < 0 && u->byte_fallback, ok = true;
    for (size_t i = 0; bytes && i < n; i++)
        bytes = u->byte_id[(unsigned char)s[i]] >= 0;
    if (id < 0 && !bytes && u->unk < 0)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "tokenizer: a character is unknown and there is no "
                        "unk_id");
    if (bytes)
        for (size_t i = 0; ok && i < n; i++)
            ok = put(user, u->byte_id[(unsigned char)s[i]]);
    else
        ok = put(user, id >= 0 ? id : u->unk);
    return ok ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for text");
}

/* Links along the best way. Runs of unknown characters become one. */
static void link_forward(const kin_unigram *u, node *best, size_t bytes)
{
    size_t to = bytes, end = bytes; /* end: of the run of unknown characters that starts at `to` */
    bool in_run = false;
    while (to > 0) {
        size_t from = best[to].from;
        bool unknown = best[to].id == u->unk && u->unk >= 0;
        end = unknown && in_run ? end : to;
        in_run = unknown;
        best[from].next = end;
        to = from;
    }
}

kin_status kin_unigram_encode(const kin_unigram *u, const char *word, size_t bytes, kin_id_put put,
                              void *user, kin_error *err)
{
    size_t size;
    node *best = bytes < (size_t)1 << 30 && kin_mul_size(bytes + 1, sizeof *best, &size)
                     ? kin_malloc(size)
                     : NULL;
    kin_status status = KIN_OK;
    if (!best)
        return kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for a word of %zu bytes", bytes);
    for (size_t i = 0; i <= bytes; i++)
        best[i] = (node){.from = SIZE_MAX};
    best[0].score = 0;
    forward(u, word, bytes, best);
    link_forward(u, best, bytes);
    for (size_t at = 0; at < bytes && status == KIN_OK;) {
        size_t to = best[at].next;
        status = put_stretch(u, word + at, to - at, put, user, err);
        at = to;
    }
    kin_free(best);
    return status;
}
