#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "text/tokenizer.h"

enum { SENTENCES = 400, VOCAB = 60 };

static char sentences[SENTENCES][96];
static const char *list[SENTENCES];
static void *model, *byte_model;
static size_t model_size, byte_size;

static void make_sentences(void)
{
    static const char *const who[] = {"A red ball", "A blue box", "The small disc",
                                      "One heavy cube"};
    static const char *const what[] = {"falls and bounces on", "slides down", "hits", "rolls along",
                                       "moves over"};
    static const char *const where[] = {"a wooden floor", "a steel slope", "the dark wall",
                                        "a grey table"};
    for (int i = 0; i < SENTENCES; i++) {
        snprintf(sentences[i], sizeof sentences[i], "%s %s %s, %d times.", who[i % 4],
                 what[i / 4 % 5], where[i / 20 % 4], i % 10);
        list[i] = sentences[i];
    }
}

static int train_models(void **state)
{
    (void)state;
    kin_error err = {0};
    make_sentences();
    if (kin_tokenizer_train(list, SENTENCES, VOCAB, false, &model, &model_size, &err) != KIN_OK ||
        kin_tokenizer_train(list, SENTENCES, 310, true, &byte_model, &byte_size, &err) != KIN_OK) {
        fprintf(stderr, "%s\n", err.text);
        return -1;
    }
    return 0;
}

static int free_models(void **state)
{
    (void)state;
    kin_free(model);
    kin_free(byte_model);
    return 0;
}

static kin_tokenizer *made(bool bytes, kin_tokenizer_options opt)
{
    kin_tokenizer *tok = NULL;
    kin_error err = {0};
    assert_ok(kin_tokenizer_create(bytes ? byte_model : model, bytes ? byte_size : model_size, &opt,
                                   &tok, &err),
              &err);
    return tok;
}

/* Ids of a text, compared with a list of n. */
static void expect_ids(const kin_tokenizer *tok, const char *text, const int32_t *want, int n)
{
    int32_t *ids;
    int got;
    kin_error err = {0};
    assert_ok(kin_tokenizer_encode(tok, text, strlen(text), &ids, &got, &err), &err);
    bool same = got == n && memcmp(ids, want, (size_t)n * sizeof *ids) == 0;
    for (int i = 0; !same && i < got; i++)
        print_message("%d ", ids[i]);
    kin_free(ids);
    if (!same)
        fail_msg("\"%s\" gives other ids", text);
}

/* Length and copy of the ids. */
static int ids_of(const kin_tokenizer *tok, const char *text, size_t bytes, int32_t *out, int cap)
{
    int32_t *ids;
    int n;
    kin_error err = {0};
    assert_ok(kin_tokenizer_encode(tok, text, bytes, &ids, &n, &err), &err);
    assert_true(n <= cap);
    memcpy(out, ids, (size_t)n * sizeof *ids);
    kin_free(ids);
    return n;
}

static void training_is_repeatable_and_silent(void **state)
{
    (void)state;
    void *again;
    size_t bytes;
    kin_error err = {0};
    char path[] = "/tmp/kinema-spm-XXXXXX";
    int fd = mkstemp(path), out = dup(1), errfd = dup(2);
    assert_true(fd >= 0 && out >= 0 && errfd >= 0);
    fflush(NULL);
    dup2(fd, 1);
    dup2(fd, 2);
    kin_status status = kin_tokenizer_train(list, SENTENCES, VOCAB, false, &again, &bytes, &err);
    fflush(NULL);
    dup2(out, 1);
    dup2(errfd, 2);
    off_t written = lseek(fd, 0, SEEK_END);
    close(fd);
    close(out);
    close(errfd);
    unlink(path);
    assert_ok(status, &err);
    assert_true(written == 0);
    assert_true(bytes == model_size);
    assert_memory_equal(again, model, bytes);
    kin_free(again);
}

static void training_keeps_the_t5_ids(void **state)
{
    (void)state;
    kin_tokenizer *tok = made(false, (kin_tokenizer_options){.extra_ids = 10, .legacy = true});
    assert_int_equal(kin_tokenizer_vocab(tok), VOCAB);
    size_t bytes;
    assert_memory_equal(kin_tokenizer_model(tok, &bytes), model, model_size);
    expect_ids(tok, "", (int32_t[]){1}, 1);
    expect_ids(tok, "<pad>", (int32_t[]){0, 1}, 2);
    expect_ids(tok, "</s>", (int32_t[]){1}, 1);
    expect_ids(tok, "<unk>", (int32_t[]){2, 1}, 2);
    expect_ids(tok, "<extra_id_0>", (int32_t[]){VOCAB + 9, 1}, 2);
    expect_ids(tok, "<extra_id_9>\t <extra_id_3>", (int32_t[]){VOCAB, VOCAB + 6, 1}, 3);
    int32_t ids[64], first[64];
    /* not special: beyond the count, another spelling */
    int n = ids_of(tok, "<extra_id_10>", 13, ids, 64);
    assert_true(n > 2);
    n = ids_of(tok, "<extra_id_01>", 13, ids, 64);
    assert_true(n > 2);
    /* every id of a training sentence is a piece, none unknown, and other texts differ */
    n = ids_of(tok, sentences[3], strlen(sentences[3]), ids, 64);
    int m = ids_of(tok, sentences[2], strlen(sentences[2]), first, 64);
    for (int i = 0; i + 1 < n; i++)
        assert_true(ids[i] > 2 && ids[i] < VOCAB);
    assert_int_equal(ids[n - 1], 1);
    assert_false(n == m && memcmp(ids, first, (size_t)n * sizeof *ids) == 0);
    kin_tokenizer_destroy(&tok);
    assert_null(tok);
}

static void stretches_get_a_marker_only_in_legacy(void **state)
{
    (void)state;
    kin_tokenizer *old = made(false, (kin_tokenizer_options){.extra_ids = 10, .legacy = true});
    kin_tokenizer *now = made(false, (kin_tokenizer_options){.extra_ids = 10, .legacy = false});
    int32_t a[64], b[64];
    int n = ids_of(old, "<extra_id_1>ball", 16, a, 64);
    int m = ids_of(now, "<extra_id_1>ball", 16, b, 64);
    assert_false(n == m && memcmp(a, b, (size_t)n * sizeof *a) == 0);
    assert_int_equal(a[0], VOCAB + 8);
    assert_int_equal(b[0], VOCAB + 8);
    /* plain text: the same */
    n = ids_of(old, sentences[7], strlen(sentences[7]), a, 64);
    m = ids_of(now, sentences[7], strlen(sentences[7]), b, 64);
    assert_int_equal(n, m);
    assert_memory_equal(a, b, (size_t)n * sizeof *a);
    kin_tokenizer_destroy(&old);
    kin_tokenizer_destroy(&now);
}

static void padding_and_cutting_keep_eos(void **state)
{
    (void)state;
    kin_tokenizer *tok = made(false, (kin_tokenizer_options){.legacy = true});
    int32_t whole[64], ids[64];
    uint8_t mask[64];
    kin_error err = {0};
    const char *text = sentences[11];
    int n = ids_of(tok, text, strlen(text), whole, 64);
    for (int len = 1; len < 64; len++) {
        memset(ids, 0xff, sizeof ids);
        memset(mask, 0xff, sizeof mask);
        assert_ok(kin_tokenizer_encode_padded(tok, text, strlen(text), len, ids, mask, &err), &err);
        int real = n < len ? n : len;
        for (int i = 0; i < len; i++) {
            int32_t want = i + 1 == real ? 1 : i < real ? whole[i] : 0;
            assert_int_equal(ids[i], want);
            assert_int_equal(mask[i], i < real);
        }
        if (len < 63)
            assert_int_equal(ids[len], -1);
    }
    assert_int_equal(kin_tokenizer_encode_padded(tok, text, 5, 0, ids, NULL, &err), KIN_ERR_ARG);
    kin_tokenizer_destroy(&tok);
}

static void unknown_characters(void **state)
{
    (void)state;
    kin_tokenizer *plain = made(false, (kin_tokenizer_options){.legacy = true});
    kin_tokenizer *bytes = made(true, (kin_tokenizer_options){.legacy = true});
    kin_tokenizer *fused =
        made(true, (kin_tokenizer_options){.legacy = true, .no_byte_fallback = true});
    const char text[] = "ball \xf0\x9f\x98\x80\xe6\xb0\xb4";
    int32_t a[64], b[64], c[64];
    int n = ids_of(plain, text, sizeof text - 1, a, 64);
    int m = ids_of(bytes, text, sizeof text - 1, b, 64);
    int k = ids_of(fused, text, sizeof text - 1, c, 64);
    assert_int_equal(a[n - 2], 2);
    assert_int_equal(c[k - 2], 2);
    /* four and three bytes, the pieces 3..258 */
    assert_int_equal(m, k + 6);
    assert_int_equal(b[m - 8], 3 + 0xf0);
    assert_int_equal(b[m - 2], 3 + 0xb4);
    for (int i = 0; i < m; i++)
        assert_int_not_equal(b[i], 2);
    kin_tokenizer_destroy(&plain);
    kin_tokenizer_destroy(&bytes);
    kin_tokenizer_destroy(&fused);
}

/* Bytes that are no text and texts that are long neither crash nor fail. */
static void odd_input_is_taken(void **state)
{
    (void)state;
    kin_tokenizer *tok = made(false, (kin_tokenizer_options){.extra_ids = 5, .legacy = false});
    int32_t *ids, n32[64];
    int n;
    kin_error err = {0};
    char bad[] = "\xff\xfe\x80 ball \xe2\x96 <extra_id_\xc3";
    assert_ok(kin_tokenizer_encode(tok, bad, sizeof bad, &ids, &n, &err), &err);
    for (int i = 0; i < n; i++)
        assert_true(ids[i] >= 0 && ids[i] < VOCAB + 5);
    kin_free(ids);
    size_t big = 1 << 20;
    char *text = kin_malloc(big);
    assert_non_null(text);
    for (size_t i = 0; i < big; i++)
        text[i] = "a red ball <"[i % 12];
    assert_ok(kin_tokenizer_encode(tok, text, big, &ids, &n, &err), &err);
    assert_true(n > 1000 && ids[n - 1] == 1);
    kin_free(ids);
    kin_free(text);
    n = ids_of(tok, "<extra_id_99999999999999999999>", 31, n32, 64);
    assert_true(n > 2);
    kin_tokenizer_destroy(&tok);
}

static void bad_models_and_requests_fail(void **state)
{
    (void)state;
    kin_tokenizer *tok = NULL;
    kin_error err = {0};
    void *out = NULL;
    size_t bytes;
    assert_int_equal(kin_tokenizer_create("no model at all", 15, NULL, &tok, &err), KIN_ERR_FORMAT);
    assert_null(tok);
    assert_int_equal(kin_tokenizer_create("", 0, NULL, &tok, &err), KIN_ERR_FORMAT);
    for (size_t cut = 1; cut < model_size; cut += model_size / 37 + 1)
        if (kin_tokenizer_create(model, cut, NULL, &tok, &err) == KIN_OK)
            kin_tokenizer_destroy(&tok);
    assert_int_equal(kin_tokenizer_create(model, model_size,
                                          &(kin_tokenizer_options){.extra_ids = -1}, &tok, &err),
                     KIN_ERR_ARG);
    assert_int_equal(kin_tokenizer_train(list, SENTENCES, 30000, false, &out, &bytes, &err),
                     KIN_ERR_ARG);
    assert_null(out);
    assert_non_null(strstr(err.text, "30000"));
    assert_int_equal(kin_tokenizer_train(list, 0, 100, false, &out, &bytes, &err), KIN_ERR_ARG);
    assert_int_equal(kin_tokenizer_train(list, SENTENCES, 5, false, &out, &bytes, &err),
                     KIN_ERR_ARG);
}

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    int failures = 0;
    for (uint64_t k = 1; k < 100; k++) {
        kin_tokenizer *tok = NULL;
        int32_t *ids = NULL;
        int n;
        kin_error err = {0};
        kin_alloc_fail_at(k);
        kin_status status = kin_tokenizer_create(
            model, model_size, &(kin_tokenizer_options){.extra_ids = 3}, &tok, &err);
        if (status == KIN_OK)
            status = kin_tokenizer_encode(tok, sentences[1], strlen(sentences[1]), &ids, &n, &err);
        kin_alloc_fail_at(0);
        kin_free(ids);
        kin_tokenizer_destroy(&tok);
        if (status == KIN_OK)
            break;
        assert_int_equal(status, KIN_ERR_MEM);
        failures++;
    }
    assert_true(failures >= 4 && failures < 99);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_is_repeatable_and_silent),
        cmocka_unit_test(training_keeps_the_t5_ids),
        cmocka_unit_test(stretches_get_a_marker_only_in_legacy),
        cmocka_unit_test(padding_and_cutting_keep_eos),
        cmocka_unit_test(unknown_characters),
        cmocka_unit_test(odd_input_is_taken),
        cmocka_unit_test(bad_models_and_requests_fail),
        cmocka_unit_test(every_failed_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, train_models, free_models);
}
