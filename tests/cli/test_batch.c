/* What a batch of images is made of: classes, the thread that writes, the record of a run. */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/json.h"
#include "cli/classes.h"
#include "cli/output.h"
#include "cli/record.h"
#include "cli/writer.h"
#include "tests/support/folder.h"
#include "tests/support/support.h"

/* ---- classes ---- */

static void classes_lists(void **state)
{
    (void)state;
    kin_classes c;
    kin_error err = {0};
    assert_ok(kin_classes_from_list("3,0-2, 7", 10, NULL, &c, &err), &err);
    const int32_t want[] = {3, 0, 1, 2, 7};
    assert_int_equal(c.n, 5);
    assert_memory_equal(c.list, want, sizeof want);
    assert_false(c.in_turn);
    kin_classes_free(&c);
    static const char *const bad[] = {"",   ",",   "1,",   "a",    "3-",
                                      "-1", "5-2", "1 2",  "0-10", "0-99999999999999999999",
                                      "10", "0x1", "1--2", "1-2-3"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(kin_classes_from_list(bad[i], 10, NULL, &c, &err), KIN_ERR_ARG);
        assert_null(c.list);
        assert_non_null(strstr(err.text, "--class: "));
    }
}

static void classes_lines(void **state)
{
    (void)state;
    kin_classes c;
    kin_error err = {0};
    const char *const names[] = {"cat", "dog, big dog", "7"};
    const char file[] = "\r\n 2\ncat\n\ndog, big dog\n7\nbig dog";
    assert_int_equal(kin_classes_count_lines(file), 5);
    assert_ok(kin_classes_from_lines(file, "f", 3, names, &c, &err), &err);
    const int32_t want[] = {2, 0, 1, 2, 1}; /* note: a name goes before a number */
    assert_int_equal(c.n, 5);
    assert_memory_equal(c.list, want, sizeof want);
    assert_int_equal(kin_classes_at(&c, 5, 7), 1);
    kin_classes_free(&c);
    assert_int_equal(kin_classes_from_lines("0\n1-2\n", "f", 3, names, &c, &err), KIN_ERR_FORMAT);
    assert_non_null(strstr(err.text, "class file f: line 2: class '1-2'"));
    assert_int_equal(kin_classes_from_lines(" \n", "f", 3, names, &c, &err), KIN_ERR_FORMAT);
}

/* every class is drawn about equally often, from the seed and the index alone */
static void classes_drawn(void **state)
{
    (void)state;
    enum { IMAGES = 10000, CLASSES = 10 };
    kin_classes c, turn;
    kin_error err = {0};
    int count[CLASSES] = {0}, differ = 0;
    assert_ok(kin_classes_all(CLASSES, &c, &err), &err);
    assert_ok(kin_classes_all(CLASSES, &turn, &err), &err);
    turn.in_turn = true;
    for (int64_t i = 0; i < IMAGES; i++) {
        count[kin_classes_at(&c, 3, i)]++;
        differ += kin_classes_at(&c, 3, i) != kin_classes_at(&c, 4, i);
        assert_int_equal(kin_classes_at(&turn, 3, i), i % CLASSES);
    }
    /* 1000 each with a deviation of 30; nine in ten differ for another seed */
    for (int k = 0; k < CLASSES; k++)
        assert_in_range(count[k], 850, 1150);
    assert_in_range(differ, 8700, 9300);
    assert_true(kin_classes_hash(&c) != kin_classes_hash(&turn));
    kin_classes_free(&c);
    kin_classes_free(&turn);
}

/* ---- the writer ---- */

enum { CLIPS = 40, BYTES = 48 };

typedef struct sink {
    int64_t order[CLIPS];
    int64_t n, fail_at;
    atomic_int running;
    int wrong; /* asserted by the main thread */
    bool slow;
} sink;

static kin_status take(void *user, int64_t clip, const kin_tensor *frames, kin_error *err)
{
    sink *s = user;
    s->wrong += atomic_fetch_add(&s->running, 1) != 0;
    if (s->slow)
        usleep(1000);
    const uint8_t *data = frames->data;
    for (int i = 0; i < BYTES; i++)
        s->wrong += data[i] != (uint8_t)(clip + i);
    atomic_fetch_sub(&s->running, 1);
    if (clip == s->fail_at)
        return kin_fail(err, KIN_ERR_IO, "sink: clip %d does not fit", (int)clip);
    s->order[s->n++] = clip;
    return KIN_OK;
}

static kin_status put_clip(kin_writer *w, int64_t clip, kin_error *err)
{
    uint8_t data[BYTES];
    for (int i = 0; i < BYTES; i++)
        data[i] = (uint8_t)(clip + i);
    const kin_tensor t = KIN_TENSOR(data, KIN_DTYPE_U8, 1, 4, 4, 3);
    kin_status status = kin_writer_put(w, clip, &t, err);
    memset(data, 0, sizeof data); /* the writer has its own copy */
    return status;
}

static void writer_order(void **state)
{
    (void)state;
    for (int slots = 1; slots <= 5; slots += 2) {
        sink s = {.fail_at = -1, .slow = slots == 3};
        kin_error err = {0};
        kin_writer *w;
        int64_t done;
        assert_ok(kin_writer_start(take, &s, slots, BYTES, &w, &err), &err);
        for (int64_t i = 0; i < CLIPS; i++) {
            assert_ok(put_clip(w, i, &err), &err);
            assert_ok(kin_writer_check(w, &done, &err), &err);
            assert_in_range(done, i + 1 > slots ? i + 1 - slots : 0, i + 1);
        }
        assert_ok(kin_writer_finish(&w, &done, &err), &err);
        assert_null(w);
        assert_int_equal(done, CLIPS);
        assert_int_equal(s.wrong, 0);
        for (int64_t i = 0; i < CLIPS; i++)
            assert_int_equal(s.order[i], i);
    }
}

/* the first failure reaches the caller, nothing is written after it, nothing hangs */
static void writer_failure(void **state)
{
    (void)state;
    sink s = {.fail_at = 7, .slow = true};
    kin_error err = {0};
    kin_writer *w;
    int64_t done = 0, i = 0;
    kin_status status = KIN_OK;
    assert_ok(kin_writer_start(take, &s, 2, BYTES, &w, &err), &err);
    while (status == KIN_OK && i < CLIPS)
        status = put_clip(w, i++, &err);
    assert_int_equal(status, KIN_ERR_IO);
    assert_string_equal(err.text, "sink: clip 7 does not fit");
    assert_in_range(i, 8, 7 + 2 + 2);
    memset(&err, 0, sizeof err);
    assert_int_equal(kin_writer_check(w, &done, &err), KIN_ERR_IO);
    assert_int_equal(kin_writer_finish(&w, &done, &err), KIN_ERR_IO);
    assert_string_equal(err.text, "sink: clip 7 does not fit");
    assert_int_equal(done, 7);
    assert_int_equal(s.n, 7);
    assert_int_equal(s.wrong, 0);
    assert_ok(kin_writer_finish(&w, &done, &err), &err); /* NULL: nothing to do */
}

static void writer_memory(void **state)
{
    (void)state;
    sink s = {.fail_at = -1};
    kin_error err = {0};
    kin_writer *w;
    for (uint64_t k = 1; k <= 3; k++) {
        kin_alloc_fail_at(k);
        kin_status status = kin_writer_start(take, &s, 2, BYTES, &w, &err);
        kin_alloc_fail_at(0);
        assert_int_equal(status, KIN_ERR_MEM);
        assert_null(w);
    }
    assert_int_equal(kin_writer_start(take, &s, INT64_MAX / 2, SIZE_MAX / 2, &w, &err),
                     KIN_ERR_MEM);
    assert_ok(kin_writer_start(take, &s, 2, BYTES, &w, &err), &err);
    uint8_t data[2 * BYTES] = {0};
    const kin_tensor large = KIN_TENSOR(data, KIN_DTYPE_U8, 2, 4, 4, 3);
    assert_int_equal(kin_writer_put(w, 0, &large, &err), KIN_ERR_SHAPE);
    assert_ok(kin_writer_finish(&w, NULL, &err), &err);
    assert_int_equal(s.n, 0);
}

/* ---- the record ---- */

static void record_lock(void **state)
{
    (void)state;
    const char *path = kin_test_path("generate.json");
    kin_record a, b;
    cJSON *old, *settings = cJSON_CreateObject();
    kin_error err = {0};
    cJSON_AddNumberToObject(settings, "steps", 3);
    assert_ok(kin_record_open(&a, path, &old, &err), &err);
    assert_null(old);
    /* a lock is held by one opening, also within a process */
    assert_int_equal(kin_record_open(&b, path, &old, &err), KIN_ERR_IO);
    kin_record_close(&b);
    assert_ok(kin_record_write(&a, settings, &err), &err);
    assert_int_equal(kin_record_open(&b, path, &old, &err), KIN_ERR_IO);
    char who[64];
    snprintf(who, sizeof who, "process %ld is writing this output", (long)getpid());
    assert_non_null(strstr(err.text, who));
    kin_record_close(&b);
    assert_ok(kin_record_write(&a, settings, &err), &err);
    kin_record_close(&a);
    assert_ok(kin_record_open(&b, path, &old, &err), &err);
    assert_true(cJSON_Compare(old, settings, true));
    cJSON_Delete(old);
    cJSON_Delete(settings);
    kin_record_close(&b);
    assert_true(kin_path_exists(path));
    /* nothing written: nothing left */
    path = kin_test_path("empty.json");
    assert_ok(kin_record_open(&a, path, &old, &err), &err);
    kin_record_close(&a);
    assert_false(kin_path_exists(path));
}

static cJSON *json(const char *text)
{
    kin_error err = {0};
    cJSON *j = NULL;
    assert_ok(kin_json_parse(text, strlen(text), KIN_JSON_STRICT, &j, &err), &err);
    return j;
}

static void record_differences(void **state)
{
    (void)state;
    static const char *const ignored[] = {"batch", NULL};
    static const struct {
        const char *old, *now, *text;
    } rows[] = {
        {"{\"a\":1,\"batch\":2}", "{\"batch\":3,\"a\":1}", NULL},
        {"{\"a\":1}", "{\"a\":2}", "a was 1, now 2"},
        {"{\"a\":1}", "{}", "a was 1, now none"},
        {"{}", "{\"a\":\"x\"}", "a was none, now \"x\""},
        {"{\"kinema\":{\"h\":1,\"batch\":1}}", "{\"kinema\":{\"h\":2}}", "h was 1, now 2"},
        {"{}", "{\"kinema\":{\"h\":2}}", "h was none, now 2"},
        {"{\"a\":1,\"b\":1,\"c\":1,\"d\":1}", "{\"a\":2,\"b\":2,\"c\":2,\"d\":2}",
         "a was 1, now 2; b was 1, now 2; c was 1, now 2"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[256];
        cJSON *old = json(rows[i].old), *now = json(rows[i].now);
        assert_int_equal(kin_record_differs(old, now, ignored, text, sizeof text),
                         rows[i].text != NULL);
        assert_string_equal(text, rows[i].text ? rows[i].text : "");
        /* too little room cuts the text, no more */
        char small[8];
        kin_record_differs(old, now, ignored, small, sizeof small);
        assert_true(strlen(small) < sizeof small);
        cJSON_Delete(old);
        cJSON_Delete(now);
    }
}

static void output_names(void **state)
{
    (void)state;
    static const struct {
        const char *name, *settings;
    } good[] = {{"out/%06d.png", "out/generate.json"},
                {"a-%d.mp4", "a-generate.json"},
                {"d/100%%-%d-x.png", "d/100%%-generate.json"},
                {"x.npz", "x.npz.json"}};
    static const char *const bad[] = {"x.png", "x.gif", "%d.npz", "a%d/x.png", "%d-%d.png"};
    kin_output o;
    kin_error err = {0};
    char path[KIN_PATH_MAX];
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_ok(kin_output_init(&o, good[i].name, 5, NULL, &err), &err);
        assert_true(kin_output_is_series(&o, 1));
        assert_ok(kin_output_settings_path(&o, path, &err), &err);
        assert_string_equal(path, good[i].settings);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(kin_output_init(&o, bad[i], 5, NULL, &err), KIN_ERR_ARG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_lists),  cmocka_unit_test(classes_lines),
        cmocka_unit_test(classes_drawn),  cmocka_unit_test(writer_order),
        cmocka_unit_test(writer_failure), cmocka_unit_test(writer_memory),
        cmocka_unit_test(record_lock),    cmocka_unit_test(record_differences),
        cmocka_unit_test(output_names),
    };
    return cmocka_run_group_tests(tests, kin_test_folder_make, kin_test_folder_remove);
}
