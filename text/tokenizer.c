#include "text/tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/text.h"
#include "text/fast.h"
#include "text/spm_shim.h"
#include "text/unicode.h"

enum { PAD = 0, EOS = 1, UNK = 2, MAX_EXTRA = 100000, MESSAGE = 400, NAME_BYTES = 24 };

static const char marker[] = "\xe2\x96\x81"; /* U+2581, what sentencepiece writes for a blank */

struct kin_tokenizer {
    kin_fast *fast; /* T5TokenizerFast; NULL: the slow one, and all that follows is set */
    kin_spm *spm;
    kin_tokenizer_options opt;
    kin_added_token *added; /* what is cut out of a text; the set's ids are indices into it */
    size_t added_count;
    char *names;
    kin_piece_set specials;
    void *model;
    size_t model_bytes;
    int vocab;
    int marker_id;
    int unk_pieces; /* pieces of the text "<unk>"; they are cut off again, see encode_stretch */
};

/* Growing list of ids. */
typedef struct id_list {
    int32_t *id;
    int n, cap;
    bool second_special; /* the second id is a special token that was cut out of the text */
} id_list;

static bool id_put(void *user, int32_t id)
{
    id_list *l = user;
    if (l->n == l->cap) {
        int cap = l->cap ? 2 * l->cap : 32;
        int32_t *p = kin_realloc(l->id, (size_t)cap * sizeof *p);
        if (!p)
            return false;
        l->id = p;
        l->cap = cap;
    }
    l->id[l->n++] = id;
    return true;
}

static kin_status spm_fail(kin_spm_code code, const char *what, kin_status status,
                           const char *message, kin_error *err)
{
    if (code == KIN_SPM_OK)
        return KIN_OK;
    if (code == KIN_SPM_MEM)
        return kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for %s", what);
    return kin_fail(err, status, "tokenizer: %s: %s", what, message);
}

/* --- creation --- */

/* pad, eos, unk, the extra ids, then the caller's, which replace those of the same text. */
static kin_status list_specials(kin_tokenizer *tok, kin_error *err)
{
    static const char *const fixed[] = {"<pad>", "</s>", "<unk>"};
    const int extra = tok->opt.extra_ids, own = tok->opt.added_count;
    size_t own_bytes = 0, n = 0;
    for (int i = 0; i < own; i++)
        own_bytes += strlen(tok->opt.added[i].text) + 1;
    tok->added = kin_calloc((size_t)extra + (size_t)own + 3, sizeof *tok->added);
    tok->names = kin_malloc((size_t)extra * NAME_BYTES + own_bytes + 1);
    if (!tok->added || !tok->names)
        return kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for %d added tokens", extra + own);
    char *at = tok->names;
    for (int32_t i = 0; i < 3; i++)
        tok->added[n++] = (kin_added_token){.text = fixed[i], .id = i};
    for (int i = 0; i < extra; i++) {
        int bytes = snprintf(at, NAME_BYTES, "<extra_id_%d>", i);
        tok->added[n++] = (kin_added_token){
            .text = at, .id = tok->vocab + extra - 1 - i, .left = true, .right = true};
        at += bytes + 1;
    }
    for (int i = 0; i < own; i++) {
        size_t bytes = strlen(tok->opt.added[i].text) + 1;
        memcpy(at, tok->opt.added[i].text, bytes);
        tok->added[n] = tok->opt.added[i];
        tok->added[n++].text = at;
        at += bytes;
    }
    for (size_t i = 0; i < n; i++)
        KIN_TRY(kin_piece_set_add(&tok->specials, tok->added[i].text, strlen(tok->added[i].text),
                                  (int32_t)i, err));
    kin_piece_set_sort(&tok->specials);
    tok->opt.added = NULL; /* the caller's */
    return KIN_OK;
}

static kin_status load_slow(kin_tokenizer *tok, kin_error *err)
{
    char message[MESSAGE] = "";
    kin_spm_code code =
        kin_spm_create(tok->model, tok->model_bytes, tok->opt.legacy, !tok->opt.no_byte_fallback,
                       &tok->spm, message, sizeof message);
    KIN_TRY(spm_fail(code, "sentencepiece model", KIN_ERR_FORMAT, message, err));
    tok->vocab = kin_spm_size(tok->spm);
    tok->marker_id = kin_spm_marker_id(tok->spm);
    if (tok->vocab <= UNK)
        return kin_fail(err, KIN_ERR_FORMAT, "tokenizer: %d pieces must be at least 3", tok->vocab);
    id_list l = {0};
    code = kin_spm_encode(tok->spm, "<unk>", 5, true, 0, id_put, &l, message, sizeof message);
    tok->unk_pieces = l.n;
    kin_free(l.id);
    KIN_TRY(spm_fail(code, "sentencepiece model", KIN_ERR_FORMAT, message, err));
    return list_specials(tok, err);
}

static kin_status load_fast(kin_tokenizer *tok, kin_error *err)
{
    KIN_TRY(kin_fast_from_spiece(tok->model, tok->model_bytes, tok->opt.extra_ids,
                                 tok->opt.legacy ? KIN_FAST_ALWAYS : KIN_FAST_FIRST, &tok->fast,
                                 err));
    tok->vocab = tok->fast->unigram.count;
    tok->opt.added = NULL;
    return KIN_OK;
}

kin_status kin_tokenizer_create(const void *model, size_t bytes, const kin_tokenizer_options *opt,
                                kin_tokenizer **out, kin_error *err)
{
    *out = NULL;
    if (opt && (opt->extra_ids < 0 || opt->extra_ids > MAX_EXTRA || opt->added_count < 0 ||
                opt->added_count > MAX_EXTRA))
        return kin_fail(err, KIN_ERR_ARG, "tokenizer: %d extra ids must be 0 to %d", opt->extra_ids,
                        (int)MAX_EXTRA);
    if (bytes == 0)
        return kin_fail(err, KIN_ERR_FORMAT, "tokenizer: the sentencepiece model is empty");
    kin_tokenizer *tok = kin_calloc(1, sizeof *tok);
    if (!tok)
        return kin_fail(err, KIN_ERR_MEM, "tokenizer: out of memory");
    tok->opt = opt ? *opt : (kin_tokenizer_options){.legacy = true};
    tok->model = kin_malloc(bytes);
    tok->model_bytes = bytes;
    kin_status status = KIN_OK;
    if (tok->model) {
        memcpy(tok->model, model, bytes);
        status = tok->opt.fast ? load_fast(tok, err) : load_slow(tok, err);
    } else {
        status = kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for a model of %zu bytes", bytes);
    }
    if (status != KIN_OK)
        kin_tokenizer_destroy(&tok);
    *out = tok;
    return status;
}

kin_status kin_tokenizer_create_json(const char *json, size_t bytes, kin_tokenizer **out,
                                     kin_error *err)
{
    kin_tokenizer *tok = kin_calloc(1, sizeof *tok);
    *out = NULL;
    if (!tok)
        return kin_fail(err, KIN_ERR_MEM, "tokenizer: out of memory");
    kin_status status = kin_fast_from_json(json, bytes, &tok->fast, err);
    if (status != KIN_OK) {
        kin_tokenizer_destroy(&tok);
        return status;
    }
    tok->vocab = tok->fast->unigram.count;
    *out = tok;
    return KIN_OK;
}

void kin_tokenizer_destroy(kin_tokenizer **tok)
{
    if (!*tok)
        return;
    kin_fast_destroy(&(*tok)->fast);
    kin_spm_destroy((*tok)->spm);
    kin_piece_set_free(&(*tok)->specials);
    kin_free((*tok)->added);
    kin_free((*tok)->names);
    kin_free((*tok)->model);
    kin_free(*tok);
    *tok = NULL;
}

int kin_tokenizer_vocab(const kin_tokenizer *tok)
{
    return tok->vocab;
}

const void *kin_tokenizer_model(const kin_tokenizer *tok, size_t *bytes)
{
    *bytes = tok->model_bytes;
    return tok->model;
}

kin_status kin_tokenizer_pieces(const kin_tokenizer *tok, const char *text, size_t bytes,
                                int32_t **ids, int *n, kin_error *err)
{
    char message[MESSAGE] = "";
    id_list l = {0};
    if (tok->fast)
        return kin_fail(err, KIN_ERR_UNSUPPORTED,
                        "tokenizer: plain pieces need a spiece.model "
                        "and the slow tokenizer");
    kin_spm_code code =
        kin_spm_encode(tok->spm, text, bytes, false, 0, id_put, &l, message, sizeof message);
    /* an empty list is a valid pointer too */
    if (code == KIN_SPM_OK && !l.id && !(l.id = kin_malloc(sizeof *l.id)))
        code = KIN_SPM_MEM;
    if (code != KIN_SPM_OK)
        kin_free(l.id);
    *ids = code == KIN_SPM_OK ? l.id : NULL;
    *n = code == KIN_SPM_OK ? l.n : 0;
    return spm_fail(code, "text", KIN_ERR_BACKEND, message, err);
}

/* --- special tokens, as PreTrainedTokenizer.tokenize and T5Tokenizer of transformers 4.57 --- */

static void strip_left(const char **s, size_t *n)
{
    size_t k = kin_unicode_leading(*s, *n, kin_unicode_is_blank);
    *s += k;
    *n -= k;
}

/* The longest special token that starts at s, or NULL. Exact spelling. */
static const kin_added_token *special_at(const kin_tokenizer *tok, const char *s, size_t n)
{
    const kin_added_token *best = NULL;
    kin_piece_walk w = kin_piece_walk_start(&tok->specials, s, n);
    for (const kin_piece *p; (p = kin_piece_walk_next(&w)) != NULL;)
        best = &tok->added[p->id];
    return best;
}

static bool starts_blank(const char *s, size_t n)
{
    return (n >= 1 && s[0] == ' ') || (n >= 3 && memcmp(s, marker, 3) == 0);
}

/* Ids of one stretch between special tokens. Not legacy: sentencepiece would drop a leading blank,
 * so "<unk>" goes before it and its pieces are cut off again. */
static kin_status encode_stretch(const kin_tokenizer *tok, const char *s, size_t n, id_list *l,
                                 kin_error *err)
{
    char message[MESSAGE] = "";
    kin_spm_code code;
    if (n == 0)
        return KIN_OK;
    if (tok->opt.legacy || !starts_blank(s, n)) {
        code = kin_spm_encode(tok->spm, s, n, true, 0, id_put, l, message, sizeof message);
    } else {
        kin_strbuf b = {0};
        kin_strbuf_add(&b, "<unk>");
        kin_strbuf_add_bytes(&b, s, n);
        code = b.failed ? KIN_SPM_MEM
                        : kin_spm_encode(tok->spm, b.data, b.len, true, tok->unk_pieces, id_put, l,
                                         message, sizeof message);
        kin_strbuf_free(&b);
    }
    return spm_fail(code, "text", KIN_ERR_BACKEND, message, err);
}

/* Cuts special tokens out of s and encodes what lies between. */
static kin_status encode_text(const kin_tokenizer *tok, const char *s, size_t n, id_list *l,
                              kin_error *err)
{
    const char *stretch = s, *end = s + n;
    bool after_swallow = false;
    for (const char *p = s;;) {
        const kin_added_token *a = p < end ? special_at(tok, p, (size_t)(end - p)) : NULL;
        if (p < end && !a) {
            p++;
            continue;
        }
        const char *from = stretch;
        size_t bytes = (size_t)(p - stretch);
        if (after_swallow)
            strip_left(&from, &bytes);
        if (a && a->left)
            bytes = kin_unicode_trimmed(from, bytes, kin_unicode_is_blank);
        KIN_TRY(encode_stretch(tok, from, bytes, l, err));
        if (!a)
            return KIN_OK;
        if (l->n == 1)
            l->second_special = true;
        if (!id_put(l, a->id))
            return kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for text");
        after_swallow = a->right;
        p += strlen(a->text);
        stretch = p;
    }
}

/* The text with a marker in front and its own markers turned into blanks. */
static void marked_text(const char *text, size_t bytes, kin_strbuf *b)
{
    kin_strbuf_add(b, marker);
    for (size_t i = 0; i < bytes;) {
        if (bytes - i >= 3 && memcmp(text + i, marker, 3) == 0) {
            kin_strbuf_add(b, " ");
            i += 3;
        } else {
            kin_strbuf_add_bytes(b, text + i++, 1);
        }
    }
}

/* All ids without those round the text (eos). */
static kin_status encode_all(const kin_tokenizer *tok, const char *text, size_t bytes, id_list *l,
                             kin_error *err)
{
    if (bytes == 0)
        return KIN_OK;
    if (tok->fast)
        return kin_fast_encode(tok->fast, text, bytes, id_put, l, err);
    if (tok->opt.legacy)
        return encode_text(tok, text, bytes, l, err);
    kin_strbuf b = {0};
    marked_text(text, bytes, &b);
    kin_status status = b.failed ? kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for text")
                                 : encode_text(tok, b.data, b.len, l, err);
    kin_strbuf_free(&b);
    /* a marker alone before a special token goes */
    if (status == KIN_OK && l->second_special && l->id[0] == tok->marker_id &&
        tok->marker_id != UNK) {
        l->n--;
        memmove(l->id, l->id + 1, (size_t)l->n * sizeof *l->id);
    }
    return status;
}

/* The ids of the text's own in l, cut to max (0: all), with those round it. note: one place is kept
 * for eos even if the text already ends in one */
static kin_status complete(const kin_tokenizer *tok, id_list *l, int max, kin_error *err)
{
    const kin_fast *f = tok->fast;
    static const int32_t eos[] = {EOS};
    const int32_t *after = f ? f->after : eos;
    int before = f ? f->before_count : 0, count = f ? f->after_count : 1;
    bool ok = true;
    if (max > 0 && l->n > max - before - count)
        l->n = max > before + count ? max - before - count : 0;
    if (!f && l->n > 0 && l->id[l->n - 1] == EOS)
        return KIN_OK;
    for (int i = 0; i < before; i++)
        ok = ok && id_put(l, 0);
    if (ok && before > 0) {
        memmove(l->id + before, l->id, (size_t)(l->n - before) * sizeof *l->id);
        memcpy(l->id, f->before, (size_t)before * sizeof *l->id);
    }
    for (int i = 0; i < count && (max <= 0 || l->n < max); i++)
        ok = ok && id_put(l, after[i]);
    return ok ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for text");
}

kin_status kin_tokenizer_encode(const kin_tokenizer *tok, const char *text, size_t bytes,
                                int32_t **ids, int *n, kin_error *err)
{
    id_list l = {0};
    kin_status status = encode_all(tok, text, bytes, &l, err);
    if (status == KIN_OK)
        status = complete(tok, &l, 0, err);
    /* an empty list is a valid pointer too */
    if (status == KIN_OK && !l.id && !(l.id = kin_malloc(sizeof *l.id)))
        status = kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for text");
    if (status != KIN_OK)
        kin_free(l.id);
    *ids = status == KIN_OK ? l.id : NULL;
    *n = status == KIN_OK ? l.n : 0;
    return status;
}

kin_status kin_tokenizer_encode_padded(const kin_tokenizer *tok, const char *text, size_t bytes,
                                       int max_length, int32_t *ids, uint8_t *mask, kin_error *err)
{
    if (max_length < 1)
        return kin_fail(err, KIN_ERR_ARG, "tokenizer: length %d must be at least 1", max_length);
    id_list l = {0};
    kin_status status = encode_all(tok, text, bytes, &l, err);
    if (status == KIN_OK)
        status = complete(tok, &l, max_length, err);
    for (int i = 0; i < max_length && status == KIN_OK; i++) {
        ids[i] = i < l.n ? l.id[i] : PAD;
        if (mask)
            mask[i] = i < l.n;
    }
    kin_free(l.id);
    return status;
}
