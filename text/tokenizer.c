#include "text/tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/text.h"
#include "text/spm_shim.h"

enum { PAD = 0, EOS = 1, UNK = 2, MAX_EXTRA = 100000, MESSAGE = 400 };

static const char marker[] = "\xe2\x96\x81"; /* U+2581, what sentencepiece writes for a blank */

struct kin_tokenizer {
    kin_spm *spm;
    kin_tokenizer_options opt;
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

static kin_status tokenizer_load(kin_tokenizer *tok, kin_error *err)
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
    return spm_fail(code, "sentencepiece model", KIN_ERR_FORMAT, message, err);
}

kin_status kin_tokenizer_create(const void *model, size_t bytes, const kin_tokenizer_options *opt,
                                kin_tokenizer **out, kin_error *err)
{
    *out = NULL;
    if (opt && (opt->extra_ids < 0 || opt->extra_ids > MAX_EXTRA))
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
        status = tokenizer_load(tok, err);
    } else {
        status = kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for a model of %zu bytes", bytes);
    }
    if (status != KIN_OK)
        kin_tokenizer_destroy(&tok);
    *out = tok;
    return status;
}

void kin_tokenizer_destroy(kin_tokenizer **tok)
{
    if (!*tok)
        return;
    kin_spm_destroy((*tok)->spm);
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

/* Bytes of the white-space character (Python's str.isspace) at s, 0 for none. */
static size_t blank_at(const char *s, size_t n)
{
    static const char *const wide[] = {
        "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81",
        "\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86",
        "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8",
        "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};
    if (n == 0)
        return 0;
    unsigned char c = (unsigned char)s[0];
    if ((c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20))
        return 1;
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) {
        size_t len = strlen(wide[i]);
        if (n >= len && memcmp(s, wide[i], len) == 0)
            return len;
    }
    return 0;
}

static void strip_left(const char **s, size_t *n)
{
    size_t k;
    while ((k = blank_at(*s, *n)) > 0) {
        *s += k;
        *n -= k;
    }
}

static void strip_right(const char *s, size_t *n)
{
    for (;;) {
        size_t cut = 0;
        for (size_t len = 1; len <= 3 && len <= *n; len++)
            if (blank_at(s + *n - len, len) == len)
                cut = len;
        if (!cut)
            return;
        *n -= cut;
    }
}

/* Id of the special token that starts at s, and its length; -1 for none. Exact spelling. */
static int32_t special_at(const kin_tokenizer *tok, const char *s, size_t n, size_t *len,
                          bool *swallows)
{
    static const char *const fixed[] = {"<pad>", "</s>", "<unk>"};
    static const char extra[] = "<extra_id_";
    *swallows = false;
    if (s[0] != '<')
        return -1;
    for (int32_t id = 0; id < 3; id++) {
        *len = strlen(fixed[id]);
        if (n >= *len && memcmp(s, fixed[id], *len) == 0)
            return id;
    }
    size_t at = sizeof extra - 1, first = at;
    if (n <= at || memcmp(s, extra, at) != 0)
        return -1;
    int64_t i = 0;
    for (; at < n && s[at] >= '0' && s[at] <= '9' && i < MAX_EXTRA; at++)
        i = 10 * i + (s[at] - '0');
    /* note: "01" is no spelling of 1 */
    if (at == first || at == n || s[at] != '>' || (s[first] == '0' && at > first + 1) ||
        i >= tok->opt.extra_ids)
        return -1;
    *len = at + 1;
    *swallows = true;
    return (int32_t)(tok->vocab + tok->opt.extra_ids - 1 - i);
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
        size_t len = 0;
        bool swallows = false;
        int32_t id = p < end ? special_at(tok, p, (size_t)(end - p), &len, &swallows) : -1;
        if (p < end && id < 0) {
            p++;
            continue;
        }
        const char *from = stretch;
        size_t bytes = (size_t)(p - stretch);
        if (after_swallow)
            strip_left(&from, &bytes);
        if (id >= 0 && swallows)
            strip_right(from, &bytes);
        KIN_TRY(encode_stretch(tok, from, bytes, l, err));
        if (id < 0)
            return KIN_OK;
        if (l->n == 1)
            l->second_special = true;
        if (!id_put(l, id))
            return kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for text");
        after_swallow = swallows;
        p += len;
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

/* All ids without the final eos. */
static kin_status encode_all(const kin_tokenizer *tok, const char *text, size_t bytes, id_list *l,
                             kin_error *err)
{
    if (bytes == 0)
        return KIN_OK;
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

kin_status kin_tokenizer_encode(const kin_tokenizer *tok, const char *text, size_t bytes,
                                int32_t **ids, int *n, kin_error *err)
{
    id_list l = {0};
    kin_status status = encode_all(tok, text, bytes, &l, err);
    if (status == KIN_OK && (l.n == 0 || l.id[l.n - 1] != EOS) && !id_put(&l, EOS))
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
    if (status == KIN_OK) {
        /* one place is kept for eos even if the text already ends in one */
        int n = l.n < max_length - 1 ? l.n : max_length - 1;
        if (n > 0)
            memcpy(ids, l.id, (size_t)n * sizeof *ids);
        if (n == 0 || ids[n - 1] != EOS)
            ids[n++] = EOS;
        for (int i = 0; i < max_length; i++) {
            if (i >= n)
                ids[i] = PAD;
            if (mask)
                mask[i] = i < n;
        }
    }
    kin_free(l.id);
    return status;
}

/* --- training --- */

typedef struct model_bytes {
    void *data;
    size_t bytes;
} model_bytes;

static bool model_give(void *user, const void *data, size_t bytes)
{
    model_bytes *m = user;
    m->data = kin_malloc(bytes);
    m->bytes = bytes;
    if (m->data)
        memcpy(m->data, data, bytes);
    return m->data != NULL;
}

kin_status kin_tokenizer_train(const char *const *sentences, int n, int vocab_size,
                               bool byte_fallback, void **model, size_t *bytes, kin_error *err)
{
    return kin_tokenizer_train_type("unigram", sentences, n, vocab_size, byte_fallback, model,
                                    bytes, err);
}

kin_status kin_tokenizer_train_type(const char *type, const char *const *sentences, int n,
                                    int vocab_size, bool byte_fallback, void **model, size_t *bytes,
                                    kin_error *err)
{
    *model = NULL;
    *bytes = 0;
    if (strcmp(type, "unigram") != 0 && strcmp(type, "bpe") != 0)
        return kin_fail(err, KIN_ERR_ARG,
                        "tokenizer training: type \"%.40s\" must be unigram or bpe", type);
    if (n < 1 || vocab_size < 4)
        return kin_fail(err, KIN_ERR_ARG,
                        "tokenizer training: %d sentences must be at least 1, %d pieces at least 4",
                        n, vocab_size);
    char vocab[40];
    snprintf(vocab, sizeof vocab, "vocab_size=%d", vocab_size);
    /* note: one thread, because the sums of several depend on their number; minloglevel 3 keeps
     * stderr empty */
    const char *args[] = {vocab,
                          byte_fallback ? "byte_fallback=true" : "byte_fallback=false",
                          strcmp(type, "bpe") == 0 ? "model_type=bpe" : "model_type=unigram",
                          "normalization_rule_name=nmt_nfkc",
                          "character_coverage=1.0",
                          "pad_id=0",
                          "eos_id=1",
                          "unk_id=2",
                          "bos_id=-1",
                          "num_threads=1",
                          "max_sentence_length=65536",
                          "minloglevel=3",
                          NULL};
    char message[MESSAGE] = "";
    model_bytes m = {0};
    kin_spm_code code = kin_spm_train(sentences, n, args, model_give, &m, message, sizeof message);
    if (code == KIN_SPM_FAILED)
        return kin_fail(err, KIN_ERR_ARG, "tokenizer training: %d pieces from %d sentences: %s",
                        vocab_size, n, message);
    if (code == KIN_SPM_MEM)
        return kin_fail(err, KIN_ERR_MEM, "tokenizer training: out of memory");
    *model = m.data;
    *bytes = m.bytes;
    return KIN_OK;
}
