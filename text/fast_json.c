/* text/fast_json.c: tokenizer.json of the tokenizers library, as T5 and UMT5 models have it.
 * Format: https://huggingface.co/docs/tokenizers (Normalizers, Pre-tokenizers, Models,
 * Post-processors). */
#include "text/fast.h"

#include <string.h>

#include "base/alloc.h"
#include "base/json.h"

enum { VALUES_MAX = 8000000, NEST_MAX = 8 };

static const cJSON *member(const cJSON *o, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
    return cJSON_IsNull(v) ? NULL : v;
}

static kin_status type_of(const cJSON *o, const char *what, const char **type, kin_error *err)
{
    *type = NULL;
    if (cJSON_IsObject(o))
        KIN_TRY(kin_json_get_str(o, "type", type, err));
    return *type ? KIN_OK
                 : kin_fail(err, KIN_ERR_FORMAT, "tokenizer.json: %s must be an object with a type",
                            what);
}

static kin_status unsupported(const char *what, const char *type, kin_error *err)
{
    return kin_fail(err, KIN_ERR_UNSUPPORTED,
                    "tokenizer.json: %s \"%.60s\" is none that T5 tokenizers use", what, type);
}

static kin_status need_string(const cJSON *o, const char *key, const char **out, kin_error *err)
{
    *out = NULL;
    KIN_TRY(kin_json_get_str(o, key, out, err));
    return *out ? KIN_OK
                : kin_fail(err, KIN_ERR_FORMAT, "tokenizer.json: the key %s is missing", key);
}

/* --- normalizers --- */

static int base64_digit(char c)
{
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+'             ? 62
           : c == '/'             ? 63
                                  : -1;
}

static kin_status read_charsmap(const char *base64, kin_charsmap **map, kin_error *err)
{
    size_t n = strlen(base64), bytes = 0;
    unsigned char *blob = kin_malloc(n / 4 * 3 + 3);
    uint32_t word = 0;
    size_t digits = 0;
    if (!blob)
        return kin_fail(err, KIN_ERR_MEM, "tokenizer.json: no memory for %zu bytes", n);
    while (n > 0 && base64[n - 1] == '=')
        n--;
    for (size_t i = 0; i < n; i++) {
        int d = base64_digit(base64[i]);
        if (d < 0) {
            kin_free(blob);
            return kin_fail(err, KIN_ERR_FORMAT,
                            "tokenizer.json: precompiled_charsmap is no base64");
        }
        word = word << 6 | (uint32_t)d;
        if (++digits % 4 != 0 && i + 1 < n)
            continue;
        size_t have = (digits - 1) % 4 + 1; /* digits in this word */
        word <<= 6 * (4 - have);
        for (size_t k = 0; k + 1 < have; k++)
            blob[bytes++] = (unsigned char)(word >> (16 - 8 * k));
        word = 0;
    }
    kin_status status = kin_charsmap_create(blob, bytes, map, err);
    kin_free(blob);
    return status;
}

static kin_status read_replace(const cJSON *o, kin_fast_step *s, kin_error *err)
{
    const cJSON *pattern = member(o, "pattern");
    const char *regex = cJSON_GetStringValue(member(pattern, "Regex"));
    s->from = cJSON_GetStringValue(member(pattern, "String"));
    s->kind = regex ? KIN_FAST_RUNS : KIN_FAST_REPLACE;
    KIN_TRY(need_string(o, "content", &s->to, err));
    if (regex && strcmp(regex, " {2,}") != 0)
        return unsupported("the pattern", regex, err);
    if (!regex && (!s->from || s->from[0] == 0))
        return kin_fail(err, KIN_ERR_FORMAT, "tokenizer.json: Replace must have a pattern");
    return KIN_OK;
}

static kin_status read_step(const cJSON *o, const char *type, kin_fast_step *s, kin_error *err)
{
    const char *text;
    if (strcmp(type, "Precompiled") == 0) {
        s->kind = KIN_FAST_CHARSMAP;
        KIN_TRY(need_string(o, "precompiled_charsmap", &text, err));
        return read_charsmap(text, &s->map, err);
    }
    if (strcmp(type, "NFC") == 0 || strcmp(type, "NFKC") == 0) {
        s->kind = type[2] == 'C' ? KIN_FAST_NFC : KIN_FAST_NFKC;
        return KIN_OK;
    }
    if (strcmp(type, "Strip") == 0) {
        s->kind = KIN_FAST_STRIP;
        KIN_TRY(kin_json_get_bool(o, "strip_left", &s->left, err));
        return kin_json_get_bool(o, "strip_right", &s->right, err);
    }
    if (strcmp(type, "Prepend") == 0) {
        s->kind = KIN_FAST_PREPEND;
        return need_string(o, "prepend", &s->to, err);
    }
    return strcmp(type, "Replace") == 0 ? read_replace(o, s, err)
                                        : unsupported("the normalizer", type, err);
}

static kin_status read_normalizer(kin_fast *f, const cJSON *o, int depth, kin_error *err)
{
    const char *type;
    const cJSON *part;
    if (!o)
        return KIN_OK;
    KIN_TRY(type_of(o, "a normalizer", &type, err));
    if (strcmp(type, "Sequence") == 0 && depth < NEST_MAX) {
        cJSON_ArrayForEach(part, member(o, "normalizers"))
        {
            KIN_TRY(read_normalizer(f, part, depth + 1, err));
        }
        return KIN_OK;
    }
    if (f->steps == KIN_FAST_STEPS)
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "tokenizer.json: more than %d normalizers",
                        (int)KIN_FAST_STEPS);
    return read_step(o, type, &f->step[f->steps++], err);
}

/* --- pre-tokenizers --- */

static kin_status read_metaspace(kin_fast *f, const cJSON *o, kin_error *err)
{
    const char *scheme = NULL;
    bool prefix = true;
    f->split = true;
    KIN_TRY(need_string(o, "replacement", &f->replacement, err));
    KIN_TRY(kin_json_get_bool(o, "split", &f->split, err));
    KIN_TRY(kin_json_get_bool(o, "add_prefix_space", &prefix, err));
    KIN_TRY(kin_json_get_str(o, "prepend_scheme", &scheme, err));
    f->prepend = prefix ? KIN_FAST_ALWAYS : KIN_FAST_NEVER;
    if (scheme) {
        f->prepend = strcmp(scheme, "always") == 0  ? KIN_FAST_ALWAYS
                     : strcmp(scheme, "first") == 0 ? KIN_FAST_FIRST
                                                    : KIN_FAST_NEVER;
        if (f->prepend == KIN_FAST_NEVER && strcmp(scheme, "never") != 0)
            return unsupported("the prepend_scheme", scheme, err);
    }
    return f->replacement[0] ? KIN_OK
                             : kin_fail(err, KIN_ERR_FORMAT,
                                        "tokenizer.json: the replacement of a blank is empty");
}

static kin_status read_pre_tokenizer(kin_fast *f, const cJSON *o, int depth, kin_error *err)
{
    const char *type;
    const cJSON *part;
    if (!o)
        return KIN_OK;
    KIN_TRY(type_of(o, "a pre_tokenizer", &type, err));
    if (strcmp(type, "Sequence") == 0 && depth < NEST_MAX) {
        cJSON_ArrayForEach(part, member(o, "pretokenizers"))
        {
            KIN_TRY(read_pre_tokenizer(f, part, depth + 1, err));
        }
        return KIN_OK;
    }
    if (strcmp(type, "WhitespaceSplit") == 0 && !f->replacement) {
        f->split_blanks = true;
        return KIN_OK;
    }
    return strcmp(type, "Metaspace") == 0 && !f->replacement
               ? read_metaspace(f, o, err)
               : unsupported("the pre_tokenizer", type, err);
}

/* --- model --- */

static kin_status read_piece(kin_fast *f, const cJSON *pair, kin_error *err)
{
    const cJSON *text = cJSON_GetArrayItem(pair, 0), *score = cJSON_GetArrayItem(pair, 1);
    if (!cJSON_IsArray(pair) || !cJSON_IsString(text) || !cJSON_IsNumber(score))
        return kin_fail(err, KIN_ERR_FORMAT,
                        "tokenizer.json: entry %d of the vocabulary must be [text, number]",
                        f->unigram.count);
    return kin_unigram_add(&f->unigram, text->valuestring, strlen(text->valuestring),
                           score->valuedouble, err);
}

static kin_status read_model(kin_fast *f, const cJSON *o, kin_error *err)
{
    const char *type;
    const cJSON *pair, *vocab = member(o, "vocab");
    int64_t unk = -1;
    KIN_TRY(type_of(o, "the model", &type, err));
    if (strcmp(type, "Unigram") != 0)
        return unsupported("the model", type, err);
    if (!cJSON_IsArray(vocab))
        return kin_fail(err, KIN_ERR_FORMAT, "tokenizer.json: model.vocab must be a list");
    cJSON_ArrayForEach(pair, vocab)
    {
        KIN_TRY(read_piece(f, pair, err));
    }
    KIN_TRY(kin_json_get_i64(o, "unk_id", 0, INT32_MAX, &unk, err));
    KIN_TRY(kin_json_get_bool(o, "byte_fallback", &f->unigram.byte_fallback, err));
    return kin_unigram_finish(&f->unigram, (int32_t)unk, err);
}

/* --- added tokens, template --- */

static kin_status read_added(kin_fast *f, const cJSON *o, kin_error *err)
{
    kin_fast_added a = {0};
    int64_t id = -1;
    bool single = false;
    if (!cJSON_IsObject(o))
        return kin_fail(err, KIN_ERR_FORMAT, "tokenizer.json: an added token must be an object");
    KIN_TRY(need_string(o, "content", &a.text, err));
    KIN_TRY(kin_json_get_i64(o, "id", 0, INT32_MAX, &id, err));
    KIN_TRY(kin_json_get_bool(o, "lstrip", &a.left, err));
    KIN_TRY(kin_json_get_bool(o, "rstrip", &a.right, err));
    KIN_TRY(kin_json_get_bool(o, "normalized", &a.normalized, err));
    KIN_TRY(kin_json_get_bool(o, "single_word", &single, err));
    if (single)
        return unsupported("the added token with single_word", a.text, err);
    a.id = (int32_t)id;
    return kin_fast_add(f, &a, err);
}

static kin_status put_affix(kin_fast *f, bool after, const cJSON *id, kin_error *err)
{
    int *n = after ? &f->after_count : &f->before_count;
    if (!cJSON_IsNumber(id) || id->valuedouble < 0 || id->valuedouble > INT32_MAX ||
        *n == KIN_FAST_AFFIX)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "tokenizer.json: the template must hold at most %d ids on a side",
                        (int)KIN_FAST_AFFIX);
    (after ? f->after : f->before)[(*n)++] = (int32_t)id->valuedouble;
    return KIN_OK;
}

static kin_status read_template(kin_fast *f, const cJSON *o, kin_error *err)
{
    const char *type, *name;
    const cJSON *part, *id, *names = member(o, "special_tokens");
    bool after = false;
    if (!o)
        return KIN_OK;
    KIN_TRY(type_of(o, "the post_processor", &type, err));
    if (strcmp(type, "TemplateProcessing") != 0)
        return unsupported("the post_processor", type, err);
    cJSON_ArrayForEach(part, member(o, "single"))
    {
        if (member(part, "Sequence")) {
            after = true;
            continue;
        }
        KIN_TRY(need_string(member(part, "SpecialToken"), "id", &name, err));
        cJSON_ArrayForEach(id, member(member(names, name), "ids"))
        {
            KIN_TRY(put_affix(f, after, id, err));
        }
    }
    return after ? KIN_OK
                 : kin_fail(err, KIN_ERR_FORMAT,
                            "tokenizer.json: the template \"single\" holds no text");
}

static kin_status read_all(kin_fast *f, const char *json, size_t bytes, kin_error *err)
{
    cJSON *root = NULL;
    const cJSON *o;
    KIN_TRY(kin_json_parse_max(json, bytes, KIN_JSON_STRICT, VALUES_MAX, &root, err));
    f->tree = root;
    if (!cJSON_IsObject(root))
        return kin_fail(err, KIN_ERR_FORMAT, "tokenizer.json: must be an object");
    KIN_TRY(read_normalizer(f, member(root, "normalizer"), 0, err));
    KIN_TRY(read_pre_tokenizer(f, member(root, "pre_tokenizer"), 0, err));
    KIN_TRY(read_model(f, member(root, "model"), err));
    cJSON_ArrayForEach(o, member(root, "added_tokens"))
    {
        KIN_TRY(read_added(f, o, err));
    }
    KIN_TRY(read_template(f, member(root, "post_processor"), err));
    return kin_fast_finish(f, err);
}

kin_status kin_fast_from_json(const char *json, size_t bytes, kin_fast **out, kin_error *err)
{
    kin_fast *f = kin_calloc(1, sizeof *f);
    *out = NULL;
    if (!f)
        return kin_fail(err, KIN_ERR_MEM, "tokenizer: out of memory");
    kin_status status = read_all(f, json, bytes, err);
    if (status != KIN_OK) {
        kin_fast_destroy(&f);
        return status;
    }
    *out = f;
    return KIN_OK;
}
