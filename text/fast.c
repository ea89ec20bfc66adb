#include "text/fast.h"

#include <string.h>

#include <cjson/cJSON.h>

#include "base/alloc.h"
#include "text/unicode.h"

enum { ADDED_MAX = 200000 };

void kin_fast_destroy(kin_fast **fast)
{
    kin_fast *f = *fast;
    if (!f)
        return;
    for (int i = 0; i < f->steps; i++)
        kin_charsmap_destroy(&f->step[i].map);
    kin_unigram_free(&f->unigram);
    kin_piece_set_free(&f->added_set[0]);
    kin_piece_set_free(&f->added_set[1]);
    for (size_t i = 0; i < f->made_count; i++)
        kin_free(f->made[i]);
    kin_free(f->made);
    kin_free(f->added);
    kin_free(f->text);
    cJSON_Delete(f->tree);
    kin_free(f);
    *fast = NULL;
}

kin_status kin_fast_add(kin_fast *f, const kin_fast_added *token, kin_error *err)
{
    size_t n = f->added_count;
    if (n >= ADDED_MAX || token->text[0] == 0 || token->id < 0)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "tokenizer: added token \"%.40s\" with id %d: must have a text and an id, "
                        "and be one of at most %d",
                        token->text, token->id, (int)ADDED_MAX);
    if ((n & (n - 1)) == 0) {
        kin_fast_added *p = kin_realloc(f->added, (n ? 2 * n : 1) * sizeof *p);
        if (!p)
            return kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for added tokens");
        f->added = p;
    }
    f->added[f->added_count++] = *token;
    f->largest = token->id > f->largest ? token->id : f->largest;
    return KIN_OK;
}

/* --- normalization --- */

static void replace_all(const char *from, const char *to, const kin_strbuf *in, kin_strbuf *out)
{
    size_t n = strlen(from);
    for (size_t i = 0; i < in->len;) {
        if (in->len - i >= n && memcmp(in->data + i, from, n) == 0) {
            kin_strbuf_add(out, to);
            i += n;
        } else {
            kin_strbuf_add_bytes(out, in->data + i++, 1);
        }
    }
}

static void replace_runs(const char *to, const kin_strbuf *in, kin_strbuf *out)
{
    for (size_t i = 0, n; i < in->len; i += n) {
        for (n = 0; i + n < in->len && in->data[i + n] == ' ';)
            n++;
        if (n >= 2)
            kin_strbuf_add(out, to);
        n = n ? n : 1;
        if (n == 1)
            kin_strbuf_add_bytes(out, in->data + i, 1);
    }
}

static kin_status apply_step(const kin_fast_step *s, const kin_strbuf *in, kin_strbuf *out,
                             kin_error *err)
{
    size_t skip = 0, end = in->len;
    switch (s->kind) {
    case KIN_FAST_CHARSMAP: kin_charsmap_apply(s->map, in->data, in->len, out); break;
    case KIN_FAST_NFC:
    case KIN_FAST_NFKC:
        return kin_unicode_normalize(in->data, in->len,
                                     s->kind == KIN_FAST_NFC ? KIN_UNICODE_NFC : KIN_UNICODE_NFKC,
                                     out, err);
    case KIN_FAST_STRIP:
        end = s->right ? kin_unicode_trimmed(in->data, in->len, kin_unicode_is_space) : in->len;
        skip = s->left ? kin_unicode_leading(in->data, end, kin_unicode_is_space) : 0;
        kin_strbuf_add_bytes(out, in->data + skip, end - skip);
        break;
    case KIN_FAST_REPLACE: replace_all(s->from, s->to, in, out); break;
    case KIN_FAST_RUNS: replace_runs(s->to, in, out); break;
    case KIN_FAST_PREPEND:
        kin_strbuf_add(out, s->to);
        kin_strbuf_add_bytes(out, in->data, in->len);
        break;
    }
    return KIN_OK;
}

/* Text through all steps; ill-formed bytes become U+FFFD on the way in. out is the caller's. */
static kin_status normalize(const kin_fast *f, const char *s, size_t n, kin_strbuf *out,
                            kin_error *err)
{
    kin_status status = KIN_OK;
    int32_t c;
    for (size_t i = 0; i < n;) {
        i += kin_unicode_next(s + i, n - i, &c);
        kin_unicode_put(out, c);
    }
    for (int i = 0; i < f->steps && status == KIN_OK && out->len > 0; i++) {
        kin_strbuf next = {0};
        status = apply_step(&f->step[i], out, &next, err);
        next.failed = next.failed || out->failed;
        kin_strbuf_free(out);
        *out = next;
    }
    if (status == KIN_OK && out->failed)
        return kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for text");
    return status;
}

kin_status kin_fast_finish(kin_fast *f, kin_error *err)
{
    f->made = kin_calloc(f->added_count + 1, sizeof *f->made);
    if (!f->made)
        return kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for added tokens");
    for (size_t i = 0; i < f->added_count; i++) {
        kin_fast_added *a = &f->added[i];
        if (a->normalized) {
            kin_strbuf b = {0};
            kin_status status = normalize(f, a->text, strlen(a->text), &b, err);
            f->made[f->made_count++] = b.data;
            KIN_TRY(status);
            a->text = b.data ? b.data : "";
        }
        if (a->text[0] != 0)
            KIN_TRY(kin_piece_set_add(&f->added_set[a->normalized], a->text, strlen(a->text),
                                      (int32_t)i, err));
    }
    kin_piece_set_sort(&f->added_set[0]);
    kin_piece_set_sort(&f->added_set[1]);
    if (f->unigram.count - 1 > f->largest)
        f->largest = f->unigram.count - 1;
    return KIN_OK;
}

/* --- encoding --- */

typedef struct encoding {
    const kin_fast *fast;
    kin_id_put put;
    void *user;
    kin_error *err;
    bool at_start; /* no byte of the text was used up before this stretch */
} encoding;

static kin_status put_id(const encoding *e, int32_t id)
{
    return e->put(e->user, id) ? KIN_OK
                               : kin_fail(e->err, KIN_ERR_MEM, "tokenizer: no memory for text");
}

/* Words of a marked stretch: each replacement starts one. */
static kin_status encode_marked(const encoding *e, const char *s, size_t n)
{
    const kin_fast *f = e->fast;
    size_t mark = f->replacement ? strlen(f->replacement) : 0, from = 0;
    for (size_t i = 1; f->split && mark && i + mark <= n; i++) {
        if (memcmp(s + i, f->replacement, mark) != 0)
            continue;
        KIN_TRY(kin_unigram_encode(&f->unigram, s + from, i - from, e->put, e->user, e->err));
        from = i;
    }
    return kin_unigram_encode(&f->unigram, s + from, n - from, e->put, e->user, e->err);
}

/* Metaspace on one part of a normalized stretch. */
static kin_status encode_part(encoding *e, const char *s, size_t n)
{
    const kin_fast *f = e->fast;
    if (n == 0)
        return KIN_OK;
    if (!f->replacement)
        return encode_marked(e, s, n);
    kin_strbuf plain = {0}, b = {0};
    size_t mark = strlen(f->replacement);
    kin_strbuf_add_bytes(&plain, s, n);
    if (!plain.failed)
        replace_all(" ", f->replacement, &plain, &b);
    bool marked = b.len >= mark && memcmp(b.data, f->replacement, mark) == 0;
    bool wanted = f->prepend == KIN_FAST_ALWAYS || (f->prepend == KIN_FAST_FIRST && e->at_start);
    kin_strbuf all = {0};
    if (!marked && wanted)
        kin_strbuf_add(&all, f->replacement);
    kin_strbuf_add_bytes(&all, b.data ? b.data : "", b.len);
    e->at_start = false;
    kin_status status = plain.failed || b.failed || all.failed
                            ? kin_fail(e->err, KIN_ERR_MEM, "tokenizer: no memory for text")
                            : encode_marked(e, all.data, all.len);
    kin_strbuf_free(&plain);
    kin_strbuf_free(&b);
    kin_strbuf_free(&all);
    return status;
}

/* A stretch without added tokens: pre-tokenizers. */
static kin_status encode_words(encoding *e, const char *s, size_t n)
{
    size_t from = 0;
    int32_t c;
    if (!e->fast->split_blanks)
        return encode_part(e, s, n);
    for (size_t i = 0, len; i < n; i += len) {
        len = kin_unicode_next(s + i, n - i, &c);
        if (!kin_unicode_is_space(c))
            continue;
        KIN_TRY(encode_part(e, s + from, i - from));
        e->at_start = false;
        from = i + len;
    }
    return encode_part(e, s + from, n - from);
}

/* Longest member of the set at s, or NULL. */
static const kin_piece *longest(const kin_piece_set *set, const char *s, size_t n)
{
    const kin_piece *best = NULL;
    kin_piece_walk w = kin_piece_walk_start(set, s, n);
    for (const kin_piece *p; (p = kin_piece_walk_next(&w)) != NULL;)
        best = p;
    return best;
}

static kin_status encode_level(encoding *e, int level, const char *s, size_t n);

static kin_status encode_between(encoding *e, int level, const char *s, size_t n)
{
    if (n == 0)
        return KIN_OK;
    if (level == 1)
        return encode_words(e, s, n);
    kin_strbuf b = {0};
    kin_status status = normalize(e->fast, s, n, &b, e->err);
    if (status == KIN_OK && b.len > 0)
        status = encode_level(e, 1, b.data, b.len);
    kin_strbuf_free(&b);
    return status;
}

/* Cuts added tokens of one level out of s: 0 from the text itself, 1 from its normal form. */
static kin_status encode_level(encoding *e, int level, const char *s, size_t n)
{
    const kin_piece_set *set = &e->fast->added_set[level];
    size_t from = 0; /* end of the last token, with the blanks it took */
    for (size_t i = 0; i < n;) {
        const kin_piece *p = longest(set, s + i, n - i);
        if (!p) {
            i++;
            continue;
        }
        const kin_fast_added *a = &e->fast->added[p->id];
        size_t start = i, stop = i + p->bytes;
        if (a->left && start > from)
            start = from + kin_unicode_trimmed(s + from, start - from, kin_unicode_is_space);
        if (a->right)
            stop += kin_unicode_leading(s + stop, n - stop, kin_unicode_is_space);
        if (start > from)
            KIN_TRY(encode_between(e, level, s + from, start - from));
        KIN_TRY(put_id(e, a->id));
        e->at_start = false;
        i = from = stop;
    }
    return from < n ? encode_between(e, level, s + from, n - from) : KIN_OK;
}

kin_status kin_fast_encode(const kin_fast *f, const char *text, size_t bytes, kin_id_put put,
                           void *user, kin_error *err)
{
    encoding e = {.fast = f, .put = put, .user = user, .err = err, .at_start = true};
    return encode_level(&e, 0, text, bytes);
}
