/* The event file read back byte by byte as its format says: frames, checksums, fields; what a
 * resumed run cuts off. A reader of its own, from the format's description. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/path.h"
#include "tests/support/folder.h"
#include "tests/support/support.h"
#include "training/log.h"

typedef struct bytes {
    const unsigned char *at, *end;
} bytes;

typedef struct scalar {
    int64_t step;
    char tag[64];
    double value;
} scalar;

static uint64_t varint(bytes *b)
{
    uint64_t v = 0;
    for (int shift = 0;; shift += 7) {
        assert_true(b->at < b->end && shift < 64);
        v |= (uint64_t)(*b->at & 127) << shift;
        if (*b->at++ < 128)
            return v;
    }
}

static bytes part(bytes *b, uint64_t n)
{
    assert_true((uint64_t)(b->end - b->at) >= n);
    const bytes p = {b->at, b->at + n};
    b->at += n;
    return p;
}

static void value_of(bytes b, scalar *s)
{
    int fields = 0;
    for (; b.at < b.end; fields++) {
        const uint64_t key = varint(&b);
        if (key == (1 << 3 | 2)) {
            const bytes tag = part(&b, varint(&b));
            snprintf(s->tag, sizeof s->tag, "%.*s", (int)(tag.end - tag.at), (const char *)tag.at);
        } else {
            float v;
            assert_int_equal(key, 2 << 3 | 5);
            memcpy(&v, part(&b, 4).at, 4);
            s->value = (double)v;
        }
    }
    assert_int_equal(fields, 2);
}

/* One Event; the scalars go to out. Returns their number; -1 for the version. */
static int event_of(bytes b, scalar *out, int room)
{
    int64_t step = 0;
    double wall = 0;
    int n = 0;
    while (b.at < b.end) {
        const uint64_t key = varint(&b);
        if (key == (1 << 3 | 1)) {
            memcpy(&wall, part(&b, 8).at, 8);
        } else if (key == 2 << 3) {
            step = (int64_t)varint(&b);
        } else if (key == (3 << 3 | 2)) {
            const bytes v = part(&b, varint(&b));
            assert_int_equal(v.end - v.at, 13);
            assert_memory_equal(v.at, "brain.Event:2", 13);
            n = -1;
        } else {
            assert_int_equal(key, 5 << 3 | 2);
            for (bytes s = part(&b, varint(&b)); s.at < s.end; n++) {
                assert_int_equal(varint(&s), 1 << 3 | 2);
                assert_true(n < room);
                out[n].step = step;
                value_of(part(&s, varint(&s)), &out[n]);
            }
        }
    }
    assert_true(wall > 1.6e9);
    return n;
}

static uint64_t little(const unsigned char *p, int n)
{
    uint64_t v = 0;
    while (n--)
        v = v << 8 | p[n];
    return v;
}

/* All scalars of the file. */
static int read_all(const char *run, scalar *out, int room)
{
    kin_error err = {0};
    char path[KIN_PATH_MAX], *data;
    size_t size;
    int n = 0, events = 0;
    assert_ok(kin_path_join(path, run, "events.out.tfevents.kinema", &err), &err);
    assert_ok(kin_file_read(path, 1 << 20, &data, &size, &err), &err);
    for (bytes b = {(unsigned char *)data, (unsigned char *)data + size}; b.at < b.end; events++) {
        const unsigned char *head = part(&b, 12).at;
        assert_int_equal(little(head + 8, 4), kin_events_crc(head, 8));
        const bytes record = part(&b, little(head, 8));
        assert_int_equal(little(part(&b, 4).at, 4),
                         kin_events_crc(record.at, (size_t)(record.end - record.at)));
        const int more = event_of(record, out + n, room - n);
        assert_true((more < 0) == (events == 0));
        n += more > 0 ? more : 0;
    }
    kin_free(data);
    return n;
}

static void log_steps(kin_log *log, int64_t first, int64_t last)
{
    kin_error err = {0};
    for (int64_t i = first; i <= last; i++) {
        const double share[2] = {0.25, 0.75};
        kin_log_begin(log, i);
        kin_log_number(log, "loss", 1.0 / (double)i);
        kin_log_number(log, "bad", NAN);
        kin_log_open_object(log, "experts");
        kin_log_array(log, "3", share, 2);
        kin_log_close_object(log);
        kin_log_number(log, "lr", 1e-4);
        assert_ok(kin_log_end(log, &err), &err);
    }
}

static void check(const scalar *s, int n, int64_t last)
{
    static const char *const tags[] = {"loss", "experts/3/0", "experts/3/1", "lr"};
    assert_int_equal(n, 4 * last);
    for (int i = 0; i < n; i++) {
        const double values[] = {1.0 / (i / 4 + 1), 0.25, 0.75, 1e-4};
        assert_int_equal(s[i].step, i / 4 + 1);
        assert_string_equal(s[i].tag, tags[i % 4]);
        assert_true(fabs(s[i].value - values[i % 4]) <= 1e-7 * values[i % 4]);
    }
}

/* CRC-32C of RFC 3720's examples, masked. */
static void checksums(void **state)
{
    (void)state;
    unsigned char b[32];
    static const uint32_t plain[] = {0x8A9136AA, 0x62A8AB43, 0x46DD794E};
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < 32; i++)
            b[i] = (unsigned char)(k == 0 ? 0 : k == 1 ? 255 : i);
        const uint32_t masked = (plain[k] >> 15 | plain[k] << 17) + 0xA282EAD8u;
        assert_int_equal(kin_events_crc(b, 32), masked);
    }
}

static void numbers_come_back(void **state)
{
    (void)state;
    kin_error err = {0};
    kin_log log;
    scalar s[64];
    char run[KIN_PATH_MAX];
    strcpy(run, kin_test_path("a"));
    assert_ok(kin_path_make_dirs(run, &err), &err);
    assert_ok(kin_log_open(run, 0, &log, &err), &err);
    log_steps(&log, 1, 3);
    const uint64_t before = kin_alloc_count();
    log_steps(&log, 4, 9);
    assert_int_equal(kin_alloc_count(), before);
    kin_log_close(&log);
    check(s, read_all(run, s, 64), 9);
    /* resumed at step 5: steps 6 to 9 are cut off and come again */
    assert_ok(kin_log_open(run, 5, &log, &err), &err);
    check(s, read_all(run, s, 64), 5);
    log_steps(&log, 6, 7);
    kin_log_close(&log);
    check(s, read_all(run, s, 64), 7);
}

/* Killed in the middle of a record, at any byte. */
static void an_unfinished_end_is_cut(void **state)
{
    (void)state;
    kin_error err = {0};
    kin_log log;
    scalar s[64];
    char run[KIN_PATH_MAX], path[KIN_PATH_MAX], *data;
    size_t n, two = 0;
    strcpy(run, kin_test_path("b"));
    assert_ok(kin_path_make_dirs(run, &err), &err);
    assert_ok(kin_log_open(run, 0, &log, &err), &err);
    log_steps(&log, 1, 2);
    assert_ok(kin_path_join(path, run, "events.out.tfevents.kinema", &err), &err);
    assert_ok(kin_file_read(path, 1 << 20, &data, &two, &err), &err);
    kin_free(data);
    log_steps(&log, 3, 3);
    kin_log_close(&log);
    assert_ok(kin_file_read(path, 1 << 20, &data, &n, &err), &err);
    for (size_t cut = two; cut < n; cut++) {
        assert_ok(kin_file_write(path, data, cut, &err), &err);
        assert_ok(kin_log_open(run, 3, &log, &err), &err);
        kin_log_close(&log);
        check(s, read_all(run, s, 64), 2);
    }
    data[two + 20] ^= 1; /* damaged */
    assert_ok(kin_file_write(path, data, n, &err), &err);
    assert_ok(kin_log_open(run, 3, &log, &err), &err);
    kin_log_close(&log);
    check(s, read_all(run, s, 64), 2);
    kin_free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checksums),
        cmocka_unit_test(numbers_come_back),
        cmocka_unit_test(an_unfinished_end_is_cut),
    };
    return cmocka_run_group_tests(tests, kin_test_folder_make, kin_test_folder_remove);
}
