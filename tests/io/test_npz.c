#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/path.h"
#include "io/npz.h"
#include "tests/support/folder.h"
#include "tests/support/support.h"

enum { N = 5, H = 3, W = 4, PICTURE = H * W * 3, HEAD = 59 + 128 };

static const int64_t size[4] = {N, H, W, 3};

static void picture(int64_t i, uint8_t out[PICTURE])
{
    for (int k = 0; k < PICTURE; k++)
        out[k] = (uint8_t)(i * 41 + k * k + 7);
}

static int64_t label(void *user, int64_t i)
{
    (void)user;
    return i * 1000 - 1;
}

static void put_from(kin_npz *z, int64_t first, int64_t last)
{
    kin_error err = {0};
    uint8_t rgb[PICTURE];
    for (int64_t i = first; i < last; i++) {
        picture(i, rgb);
        assert_ok(kin_npz_put(z, rgb, &err), &err);
    }
}

static void read_file(const char *name, char **data, size_t *bytes)
{
    kin_error err = {0};
    assert_ok(kin_file_read(kin_test_path(name), 1 << 20, data, bytes, &err), &err);
}

static void make_whole(const char *name, bool labels)
{
    kin_error err = {0};
    kin_npz *z;
    int64_t have;
    assert_ok(kin_npz_open(kin_test_path(name), size, false, &z, &have, &err), &err);
    assert_int_equal(have, 0);
    put_from(z, 0, N);
    assert_ok(kin_npz_finish(&z, labels ? label : NULL, NULL, &err), &err);
    assert_null(z);
}

static uint64_t number(const char *data, size_t at, int bytes)
{
    uint64_t v = 0;
    for (int i = bytes; i-- > 0;)
        v = v << 8 | (uint8_t)data[at + (size_t)i];
    return v;
}

/* the archive as the format's description has it: end record, its 64-bit form, members */
static void layout(void **state)
{
    (void)state;
    uint8_t rgb[PICTURE];
    char *data;
    size_t bytes;
    make_whole("a.npz", true);
    read_file("a.npz", &data, &bytes);
    assert_int_equal(number(data, bytes - 22, 4), 0x06054b50);
    assert_int_equal(number(data, bytes - 42, 4), 0x07064b50);
    size_t end = number(data, bytes - 42 + 8, 8);
    assert_int_equal(end, bytes - 42 - 56);
    assert_int_equal(number(data, end, 4), 0x06064b50);
    assert_int_equal(number(data, end + 32, 8), 2);
    size_t at = number(data, end + 48, 8), second = at + 46 + 9 + 28;
    assert_int_equal(number(data, end + 40, 8), end - at);
    assert_int_equal(number(data, at, 4), 0x02014b50);
    assert_memory_equal(data + at + 46, "arr_0.npy", 9);
    assert_memory_equal(data + second + 46, "arr_1.npy", 9);
    assert_int_equal(number(data, at + 46 + 9 + 4, 8), 128 + N * PICTURE);
    /* the local headers lie where the central ones say, with the same checksum */
    size_t local = number(data, second + 46 + 9 + 4 + 16, 8);
    assert_int_equal(local, HEAD + N * PICTURE);
    assert_int_equal(number(data, local, 4), 0x04034b50);
    assert_int_equal(number(data, local + 14, 4), number(data, second + 16, 4));
    assert_int_equal(number(data, 14, 4), number(data, at + 16, 4));
    assert_memory_equal(data + 59, "\x93NUMPY\x01\x00\x76\x00{'descr': '|u1',", 26);
    for (int64_t i = 0; i < N; i++) {
        picture(i, rgb);
        assert_memory_equal(data + HEAD + i * PICTURE, rgb, PICTURE);
        assert_int_equal((int64_t)number(data, local + HEAD + 8 * (size_t)i, 8), label(NULL, i));
    }
    kin_free(data);
    assert_true(kin_npz_is_complete(kin_test_path("a.npz"), size, true));
    assert_false(kin_npz_is_complete(kin_test_path("a.npz"), size, false));
    assert_false(kin_path_exists(kin_test_path("a.npz.part.crc")));
}

/* copies of the two files of an unfinished archive, cut to these lengths */
static void plant(const char *part, size_t np, const char *sums, size_t ns)
{
    kin_error err = {0};
    assert_ok(kin_file_write(kin_test_path("b.npz.part"), part, np, &err), &err);
    assert_ok(kin_file_write(kin_test_path("b.npz.part.crc"), sums, ns, &err), &err);
}

/* goes on from what was planted; the result must be that of a run without interruption */
static int64_t go_on(const char *want, size_t bytes)
{
    kin_error err = {0};
    kin_npz *z;
    int64_t have;
    char *data;
    size_t n;
    assert_ok(kin_npz_open(kin_test_path("b.npz"), size, true, &z, &have, &err), &err);
    put_from(z, have, N);
    assert_ok(kin_npz_finish(&z, NULL, NULL, &err), &err);
    read_file("b.npz", &data, &n);
    assert_int_equal(n, bytes);
    assert_memory_equal(data, want, n);
    kin_free(data);
    assert_int_equal(unlink(kin_test_path("b.npz")), 0);
    return have;
}

static void cut_anywhere(void **state)
{
    (void)state;
    kin_error err = {0};
    kin_npz *z;
    int64_t have;
    char *want, *part, *sums;
    size_t bytes, np, ns;
    make_whole("w.npz", false);
    read_file("w.npz", &want, &bytes);
    assert_ok(kin_npz_open(kin_test_path("b.npz"), size, false, &z, &have, &err), &err);
    put_from(z, 0, 3);
    kin_npz_close(&z);
    assert_true(kin_npz_has_part(kin_test_path("b.npz")));
    assert_false(kin_path_exists(kin_test_path("b.npz")));
    read_file("b.npz.part", &part, &np);
    read_file("b.npz.part.crc", &sums, &ns);
    assert_int_equal(np, HEAD + 3 * PICTURE);
    assert_int_equal(ns, 4 * 4);
    for (size_t n = 0; n <= np; n++) {
        plant(part, n, sums, ns);
        have = go_on(want, bytes);
        assert_int_equal(have, n < HEAD ? 0 : (n - HEAD) / PICTURE);
    }
    for (size_t n = 0; n <= ns; n++) {
        plant(part, np, sums, n);
        have = go_on(want, bytes);
        assert_int_equal(have, n < 4 ? 0 : n / 4 - 1);
    }
    /* a byte that changed: good up to there */
    for (size_t at = 59; at < np; at += 11) {
        part[at] ^= 32;
        plant(part, np, sums, ns);
        have = go_on(want, bytes);
        assert_int_equal(have, at < HEAD ? 0 : (at - HEAD) / PICTURE);
        part[at] ^= 32;
    }
    /* an archive that lacked only its name */
    plant(want, bytes, sums, ns);
    assert_int_equal(go_on(want, bytes), 3);
    kin_free(want);
    kin_free(part);
    kin_free(sums);
}

static void refusals(void **state)
{
    (void)state;
    kin_error err = {0};
    kin_npz *z;
    int64_t have;
    uint8_t rgb[PICTURE] = {0};
    const int64_t huge[4] = {INT64_MAX / 2, INT64_MAX / 2, 3, 3}, none[4] = {0, 1, 1, 3};
    assert_int_equal(kin_npz_open(kin_test_path("c.npz"), huge, false, &z, &have, &err),
                     KIN_ERR_ARG);
    assert_int_equal(kin_npz_open(kin_test_path("c.npz"), none, false, &z, &have, &err),
                     KIN_ERR_ARG);
    assert_int_equal(kin_npz_open("/proc/c.npz", size, false, &z, &have, &err), KIN_ERR_IO);
    assert_null(z);
    assert_ok(kin_npz_open(kin_test_path("c.npz"), size, false, &z, &have, &err), &err);
    put_from(z, 0, N);
    assert_int_equal(kin_npz_put(z, rgb, &err), KIN_ERR_ARG);
    kin_npz_close(&z);
    assert_ok(kin_npz_open(kin_test_path("c.npz"), size, true, &z, &have, &err), &err);
    assert_int_equal(have, N);
    kin_npz_close(&z);
    assert_ok(kin_npz_open(kin_test_path("d.npz"), size, true, &z, &have, &err), &err);
    assert_int_equal(kin_npz_finish(&z, NULL, NULL, &err), KIN_ERR_ARG);
    assert_non_null(strstr(err.text, "only 0 of 5"));
    assert_null(z);
    assert_false(kin_path_exists(kin_test_path("d.npz")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layout),
        cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, kin_test_folder_make, kin_test_folder_remove);
}
