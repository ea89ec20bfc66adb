#include "io/tar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/path.h"
#include "io/check.h"
#include "io/class_folder.h"
#include "io/png.h"
#include "tests/support/folder.h"
#include "tests/support/support.h"

static size_t length;
static uint8_t archive[64 * 1024];

static void sign(uint8_t *h)
{
    unsigned sum = 0;
    memset(h + 148, ' ', 8);
    for (int i = 0; i < 512; i++)
        sum += h[i];
    snprintf((char *)h + 148, 8, "%06o", sum);
}

static uint8_t *put(const char *name, char type, const char *data)
{
    uint8_t *h = archive + length;
    size_t n = strlen(data);
    memset(h, 0, 512 + (n + 511) / 512 * 512);
    snprintf((char *)h, 100, "%s", name);
    snprintf((char *)h + 124, 12, "%011o", (unsigned)n);
    h[156] = (uint8_t)type;
    memcpy(h + 257,
           "ustar\0"
           "00",
           8);
    memcpy(h + 512, data, n);
    sign(h);
    length += 512 + (n + 511) / 512 * 512;
    return h;
}

static kin_status open_archive(kin_tar **tar, kin_error *err)
{
    assert_int_equal(kin_file_write(kin_test_path("t.tar"), archive, length, NULL), KIN_OK);
    return kin_tar_open(kin_test_path("t.tar"), tar, err);
}

static void finish(void)
{
    memset(archive + length, 0, 1024);
    length += 1024;
}

static void members(void **state)
{
    (void)state;
    kin_error err = {0};
    kin_tar *tar;
    char longer[200];
    memset(longer, 'n', sizeof longer);
    longer[sizeof longer - 1] = 0;
    length = 0;
    put("set/", '5', "");
    put("set/b.txt", '0', "text of b");
    put("./set/a.txt", 0, "");
    put("link", '2', "");
    memcpy(put("tail.txt", '0', "prefixed") + 345, "some/folder", 11);
    sign(archive + length - 1024);
    put("././@LongLink", 'L', longer);
    put("short", '0', "long name");
    put("pax", 'x', "27 path=from/pax/\xC3\xA9/header\n12 other=xy\n");
    put("short", '0', "pax");
    put("global", 'g', "12 other=xy\n");
    finish();
    assert_ok(open_archive(&tar, &err), &err);
    assert_int_equal(kin_tar_count(tar), 5);
    assert_string_equal(kin_tar_at(tar, 0)->name, "from/pax/\xC3\xA9/header");
    const kin_tar_entry *e = kin_tar_find(tar, "set/b.txt");
    assert_non_null(e);
    assert_int_equal(e->bytes, 9);
    assert_memory_equal(e->data, "text of b", 9);
    assert_non_null(kin_tar_find(tar, "set/a.txt"));
    assert_non_null(kin_tar_find(tar, "some/folder/tail.txt"));
    assert_non_null(kin_tar_find(tar, longer));
    assert_null(kin_tar_find(tar, "short"));
    assert_null(kin_tar_find(tar, "set"));
    kin_tar_close(&tar);
    kin_tar_close(&tar);
}

static void refuse(const char *what)
{
    kin_error err = {0};
    kin_tar *tar;
    if (open_archive(&tar, &err) != KIN_ERR_FORMAT)
        fail_msg("%s: accepted", what);
    assert_null(tar);
    assert_non_null(strstr(err.text, "t.tar"));
}

static void hostile(void **state)
{
    (void)state;
    static const char *const names[] = {"../evil", "/etc/passwd", "a/../../b", "a//b", ".."};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        length = 0;
        put(names[i], '0', "x");
        finish();
        refuse(names[i]);
    }
    length = 0;
    refuse("empty file");
    put("a", '0', "x")[5] = 'z';
    refuse("checksum");
    length = 0;
    memcpy(put("a", '0', "x") + 124, "77777777777", 11);
    sign(archive);
    refuse("size behind the file");
    length = 0;
    uint8_t *h = put("a", '0', "x");
    memset(h + 124, 0xFF, 12);
    sign(h);
    refuse("size of 95 bits");
    length = 0;
    memcpy(put("a", '0', "x") + 124, "12z", 3);
    sign(archive);
    refuse("size not octal");
    length = 0;
    put("a", '0', "x");
    put("a", '0', "y");
    finish();
    refuse("one name twice");
    length = 0;
    put("a", '0', "x");
    length += 100;
    refuse("ends inside a header");
    static const char *const pax[] = {"99 path=x\n", "path=x\n", "0 path=x\n",
                                      "9 path=x",    "4 \n",     "99999999999999999999 path=x\n",
                                      "11 size=-1\n"};
    for (size_t i = 0; i < sizeof pax / sizeof *pax; i++) {
        length = 0;
        put("p", 'x', pax[i]);
        put("a", '0', "x");
        finish();
        refuse(pax[i]);
    }
    /* any byte changed, any length: no crash */
    length = 0;
    put("l", 'L', "name");
    put("a", '0', "some text");
    put("pax", 'x', "12 path=a/b\n");
    put("b", '0', "");
    finish();
    size_t whole = length;
    unsigned seed = 3;
    for (int k = 0; k < 2000; k++) {
        kin_error err = {0};
        kin_tar *tar;
        seed = seed * 1664525u + 1013904223u;
        size_t at = (seed >> 8) % whole, head = at / 512 * 512;
        uint8_t old[512];
        memcpy(old, archive + head, 512);
        archive[at] = (uint8_t)(seed >> 24);
        if (k % 2)
            sign(archive + head);
        length = k % 3 ? whole : at;
        open_archive(&tar, &err);
        kin_tar_close(&tar);
        memcpy(archive + head, old, 512);
    }
}

#define PARTS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void class_folders(void **state)
{
    (void)state;
    static const char *const files[] = {"set/train/dog/2.png", "set/train/cat/9.png",
                                        "set/train/dog/1.png", "set/test/cat/1.png",
                                        "set/train/notes.txt", "set/train/dog/x.txt"};
    kin_error err = {0};
    uint8_t rgb[12];
    kin_tensor t = KIN_TENSOR(rgb, KIN_DTYPE_U8, 2, 2, 3);
    length = 0;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char folder[KIN_PATH_MAX];
        kin_path_dir(folder, kin_test_path(files[i]), NULL);
        assert_ok(kin_path_make_dirs(folder, &err), &err);
        memset(rgb, (int)i * 10, sizeof rgb);
        if (strstr(files[i], "png"))
            assert_ok(kin_png_write(kin_test_path(files[i]), &t, NULL, &err), &err);
        else
            assert_ok(kin_file_write(kin_test_path(files[i]), "x", 1, &err), &err);
    }
    /* the same as a tar, made by the system's tar */
    char command[300];
    snprintf(command, sizeof command, "tar -C %s -cf %s/set.tar set", kin_test_folder(),
             kin_test_folder());
    assert_int_equal(system(command), 0);
    static const char *const paths[] = {"set", "set.tar"};
    for (int k = 0; k < 2; k++) {
        kin_class_folder *set;
        kin_image image;
        assert_ok(kin_class_folder_open(kin_test_path(paths[k]), PARTS("train"), &set, &err), &err);
        assert_int_equal(kin_class_folder_classes(set), 2);
        assert_string_equal(kin_class_folder_class_name(set, 0), "cat");
        assert_string_equal(kin_class_folder_class_name(set, 1), "dog");
        assert_int_equal(kin_class_folder_count(set), 3);
        static const int want[] = {10, 20, 0}, ids[] = {0, 1, 1};
        for (int i = 0; i < 3; i++) {
            assert_int_equal(kin_class_folder_at(set, i)->class_id, ids[i]);
            assert_ok(kin_class_folder_image(set, i, &image, &err), &err);
            assert_int_equal(image.rgb[0], want[i]);
            kin_image_free(&image);
        }
        kin_class_folder_close(&set);
        assert_int_equal(kin_class_folder_open(kin_test_path(paths[k]), PARTS("val"), &set, &err),
                         KIN_ERR_FORMAT);
        assert_null(set);
    }
    kin_class_folder *set;
    assert_ok(kin_class_folder_open(kin_test_path("set/train"), NULL, &set, &err), &err);
    assert_int_equal(kin_class_folder_count(set), 3);
    kin_class_folder_close(&set);
    assert_ok(kin_class_folder_open(kin_test_path("set"), PARTS("train", "test"), &set, &err),
              &err);
    assert_int_equal(kin_class_folder_count(set), 4);
    assert_true(kin_class_folder_in(set, 0, "test") && !kin_class_folder_in(set, 0, "train"));
    assert_false(kin_class_folder_in(set, 1, "test"));
    kin_class_folder_close(&set);
    for (uint64_t k = 1; k < 60; k++) {
        kin_alloc_fail_at(k);
        kin_status s = kin_class_folder_open(kin_test_path("set.tar"), PARTS("train"), &set, &err);
        kin_alloc_fail_at(0);
        if (s == KIN_OK) {
            kin_class_folder_close(&set);
            assert_true(k > 10);
            return;
        }
        assert_int_equal(s, KIN_ERR_MEM);
        assert_null(set);
    }
    fail();
}

static void cifar(void **state)
{
    (void)state;
    const char *data = kin_test_data_dir();
    kin_error err = {0};
    char path[KIN_PATH_MAX];
    if (!data)
        skip();
    kin_path_join(path, data, "cifar10.tar", NULL);
    static const struct {
        const char *split;
        int64_t count;
    } parts[] = {{"train", 10000}, {"test", 2000}, {NULL, 12000}};
    for (int k = 0; k < 3; k++) {
        kin_class_folder *set;
        assert_ok(
            kin_class_folder_open(path, parts[k].split ? PARTS(parts[k].split) : NULL, &set, &err),
            &err);
        assert_int_equal(kin_class_folder_count(set), parts[k].count);
        assert_int_equal(kin_class_folder_classes(set), 10);
        assert_string_equal(kin_class_folder_class_name(set, 1), "automobile");
        int64_t per_class[10] = {0};
        for (int64_t i = 0; i < parts[k].count; i++)
            per_class[kin_class_folder_at(set, i)->class_id]++;
        for (int c = 0; c < 10; c++)
            assert_int_equal(per_class[c], parts[k].count / 10);
        kin_image image;
        for (int64_t i = 0; i < parts[k].count; i += 199) {
            assert_ok(kin_class_folder_image(set, i, &image, &err), &err);
            assert_int_equal(image.width, 32);
            kin_image_free(&image);
        }
        kin_class_folder_close(&set);
    }
    kin_strbuf report = {0};
    assert_ok(kin_check_file(path, &report, &err), &err);
    assert_non_null(strstr(report.data, "12000 pictures"));
    kin_strbuf_free(&report);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members),
        cmocka_unit_test(hostile),
        cmocka_unit_test(class_folders),
        cmocka_unit_test(cifar),
    };
    return cmocka_run_group_tests(tests, kin_test_folder_make, kin_test_folder_remove);
}
