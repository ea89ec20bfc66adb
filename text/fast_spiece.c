/* text/fast_spiece.c: T5TokenizerFast from a sentencepiece model alone, as transformers converts
 * one. Format: sentencepiece_model.proto (ModelProto: pieces 1, normalizer_spec 3), protocol buffer
 * wire format. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "text/fast.h"

enum { EXTRA_TEXT = 24, EOS = 1, UNK = 2 };

typedef struct span {
    const unsigned char *p;
    size_t n;
} span;

/* One field of a message: its number, and its bytes or number. */
typedef struct field {
    uint64_t number;
    int wire;
    span bytes;
    uint64_t value;
} field;

static bool read_varint(span *s, uint64_t *v)
{
    *v = 0;
    for (int shift = 0; shift < 64 && s->n > 0; shift += 7) {
        unsigned char c = *s->p++;
        s->n--;
        *v |= (uint64_t)(c & 0x7F) << shift;
        if (c < 0x80)
            return true;
    }
    return false;
}

static bool read_field(span *s, field *f)
{
    uint64_t key, len = 0;
    if (!read_varint(s, &key))
        return false;
    *f = (field){.number = key >> 3, .wire = (int)(key & 7)};
    if (f->wire == 0)
        return read_varint(s, &f->value);
    if (f->wire == 2 && !read_varint(s, &len))
        return false;
    len = f->wire == 1 ? 8 : f->wire == 5 ? 4 : f->wire == 2 ? len : UINT64_MAX;
    if (len > s->n)
        return false;
    f->bytes = (span){s->p, (size_t)len};
    s->p += len;
    s->n -= (size_t)len;
    return true;
}

static kin_status damaged(kin_error *err)
{
    return kin_fail(err, KIN_ERR_FORMAT, "tokenizer: the sentencepiece model is damaged");
}

/* note: the library names the first three pieces itself, with score 0 */
static kin_status add_piece(kin_fast *f, span s, kin_error *err)
{
    static const char *const first[] = {"<pad>", "</s>", "<unk>"};
    span text = {(const unsigned char *)"", 0};
    float score = 0;
    field x;
    while (s.n > 0) {
        if (!read_field(&s, &x))
            return damaged(err);
        if (x.number == 1 && x.wire == 2)
            text = x.bytes;
        if (x.number == 2 && x.wire == 5)
            memcpy(&score, x.bytes.p, sizeof score);
    }
    if (f->unigram.count < 3) {
        text =
            (span){(const unsigned char *)first[f->unigram.count], strlen(first[f->unigram.count])};
        score = 0;
    }
    return kin_unigram_add(&f->unigram, (const char *)text.p, text.n, (double)score, err);
}

static kin_status read_normalizer(kin_fast *f, span s, kin_error *err)
{
    field x;
    while (s.n > 0) {
        if (!read_field(&s, &x))
            return damaged(err);
        if (x.number != 2 || x.wire != 2 || x.bytes.n == 0)
            continue;
        if (f->steps > 0)
            return damaged(err);
        f->step[0].kind = KIN_FAST_CHARSMAP;
        KIN_TRY(kin_charsmap_create(x.bytes.p, x.bytes.n, &f->step[0].map, err));
        f->steps = 1;
    }
    return KIN_OK;
}

static kin_status read_model(kin_fast *f, size_t bytes, kin_error *err)
{
    span s = {(const unsigned char *)f->text, bytes};
    field x;
    while (s.n > 0) {
        if (!read_field(&s, &x))
            return damaged(err);
        if (x.number == 1 && x.wire == 2)
            KIN_TRY(add_piece(f, x.bytes, err));
        if (x.number == 3 && x.wire == 2)
            KIN_TRY(read_normalizer(f, x.bytes, err));
    }
    if (f->unigram.count < 3)
        return kin_fail(err, KIN_ERR_FORMAT, "tokenizer: %d pieces must be at least 3",
                        f->unigram.count);
    f->step[f->steps++] = (kin_fast_step){.kind = KIN_FAST_STRIP, .right = true};
    f->step[f->steps++] = (kin_fast_step){.kind = KIN_FAST_RUNS, .to = "\xe2\x96\x81"};
    return kin_unigram_finish(&f->unigram, UNK, err);
}

static kin_status add_tokens(kin_fast *f, int extra_ids, char *names, kin_error *err)
{
    const int32_t pieces = f->unigram.count;
    static const char *const first[] = {"<pad>", "</s>", "<unk>"};
    for (int32_t i = 0; i < 3; i++)
        KIN_TRY(kin_fast_add(f, &(kin_fast_added){.text = first[i], .id = i}, err));
    for (int i = 0; i < extra_ids; i++) {
        char *name = names + (size_t)i * EXTRA_TEXT;
        snprintf(name, EXTRA_TEXT, "<extra_id_%d>", i);
        kin_fast_added a = {
            .text = name, .id = pieces + extra_ids - 1 - i, .left = true, .right = true};
        KIN_TRY(kin_fast_add(f, &a, err));
    }
    return kin_fast_finish(f, err);
}

kin_status kin_fast_from_spiece(const void *model, size_t bytes, int extra_ids,
                                kin_fast_prepend prepend, kin_fast **out, kin_error *err)
{
    size_t all, names;
    *out = NULL;
    kin_fast *f = kin_calloc(1, sizeof *f);
    if (!f || !kin_mul_size((size_t)extra_ids, EXTRA_TEXT, &names) ||
        !kin_add_size(bytes, names, &all) || !(f->text = kin_malloc(all + 1))) {
        kin_free(f);
        return kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for a model of %zu bytes", bytes);
    }
    memcpy(f->text, model, bytes);
    f->replacement = "\xe2\x96\x81";
    f->prepend = prepend;
    f->split = true;
    f->after[f->after_count++] = EOS;
    kin_status status = read_model(f, bytes, err);
    if (status == KIN_OK)
        status = add_tokens(f, extra_ids, f->text + bytes, err);
    if (status != KIN_OK) {
        kin_fast_destroy(&f);
        return status;
    }
    *out = f;
    return KIN_OK;
}
