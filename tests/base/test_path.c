#include "base/path.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "tests/support/folder.h"
#include "tests/support/support.h"

static char dir[KIN_TEST_FOLDER_MAX];

static int make_folder(void **state)
{
    (void)state;
    return kin_test_folder_new(dir);
}

static int remove_folder(void **state)
{
    (void)state;
    return kin_path_remove_tree(dir, NULL) == KIN_OK && !kin_path_exists(dir) ? 0 : -1;
}

static const char *in(const char *name)
{
    static char path[KIN_PATH_MAX];
    kin_path_join(path, dir, name, NULL);
    return path;
}

static void parts(void **state)
{
    (void)state;
    kin_error err = {0};
    char out[KIN_PATH_MAX];
    assert_ok(kin_path_join(out, "a", "b", &err), &err);
    assert_string_equal(out, "a/b");
    assert_ok(kin_path_join(out, "a/", "b", &err), &err);
    assert_string_equal(out, "a/b");
    assert_ok(kin_path_join(out, NULL, "b", &err), &err);
    assert_string_equal(out, "b");
    assert_ok(kin_path_join(out, "a", "/b", &err), &err);
    assert_string_equal(out, "/b");
    char longer[KIN_PATH_MAX + 10];
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = 0;
    assert_int_equal(kin_path_join(out, "a", longer, &err), KIN_ERR_ARG);
    assert_ok(kin_path_dir(out, "x/y/z", &err), &err);
    assert_string_equal(out, "x/y");
    assert_ok(kin_path_dir(out, "z", &err), &err);
    assert_string_equal(out, ".");
    assert_ok(kin_path_dir(out, "/z", &err), &err);
    assert_string_equal(out, "/");
    assert_string_equal(kin_path_base("a/b.c"), "b.c");
    assert_string_equal(kin_path_ext("a.d/b.tar"), "tar");
    assert_string_equal(kin_path_ext("a.d/b"), "");
    assert_string_equal(kin_path_ext(".hidden"), "");
}

static void inside(void **state)
{
    (void)state;
    static const char *const yes[] = {"a", "a/b.mp4", "./a", "..a/b", "a/..b"};
    static const char *const no[] = {"", "/a", "..", "../a", "a/../b", "a/..", "a//b", "a/", "/"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        assert_true(kin_path_is_inside(yes[i]));
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        assert_false(kin_path_is_inside(no[i]));
}

static void reads_and_limits(void **state)
{
    (void)state;
    kin_error err = {0};
    char *data;
    size_t bytes;
    assert_ok(kin_file_write(in("f"), "hello", 5, &err), &err);
    assert_ok(kin_file_read(in("f"), 5, &data, &bytes, &err), &err);
    assert_int_equal(bytes, 5);
    assert_string_equal(data, "hello");
    kin_free(data);
    assert_int_equal(kin_file_read(in("f"), 4, &data, &bytes, &err), KIN_ERR_FORMAT);
    assert_int_equal(kin_file_read(in("none"), 4, &data, &bytes, &err), KIN_ERR_IO);
    assert_int_equal(kin_file_read(dir, 4, &data, &bytes, &err), KIN_ERR_IO);
    assert_int_equal(mkfifo(in("pipe"), 0600), 0);
    assert_int_equal(kin_file_read(in("pipe"), 4, &data, &bytes, &err), KIN_ERR_IO);
    kin_alloc_fail_at(1);
    assert_int_equal(kin_file_read(in("f"), 5, &data, &bytes, &err), KIN_ERR_MEM);
    kin_alloc_fail_at(0);
}

static void appears_only_when_complete(void **state)
{
    (void)state;
    kin_error err = {0};
    kin_file_out f;
    char *data, temp[KIN_PATH_MAX];
    size_t bytes;
    assert_ok(kin_file_write(in("g"), "old", 3, &err), &err);
    assert_ok(kin_file_out_open(&f, in("g"), &err), &err);
    strcpy(temp, f.temp);
    fputs("new text", f.fp);
    fflush(f.fp);
    assert_ok(kin_file_read(in("g"), 99, &data, &bytes, &err), &err);
    assert_string_equal(data, "old");
    kin_free(data);
    kin_file_out_abort(&f);
    kin_file_out_abort(&f);
    assert_false(kin_path_exists(temp));
    assert_ok(kin_file_out_open(&f, in("g"), &err), &err);
    fputs("new text", f.fp);
    assert_ok(kin_file_out_commit(&f, &err), &err);
    assert_false(kin_path_exists(temp));
    assert_ok(kin_file_read(in("g"), 99, &data, &bytes, &err), &err);
    assert_string_equal(data, "new text");
    kin_free(data);
    assert_int_equal(kin_file_write(in("no/folder/x"), "a", 1, &err), KIN_ERR_IO);
    assert_non_null(strstr(err.text, "no/folder/x"));
    assert_int_equal(kin_file_write(dir, "a", 1, &err), KIN_ERR_IO);
}

static void a_full_disk_is_an_error(void **state)
{
    (void)state;
    kin_error err = {0};
    kin_file_out f;
    assert_ok(kin_file_out_open(&f, in("full"), &err), &err);
    FILE *full = fopen("/dev/full", "wb");
    if (!full) {
        kin_file_out_abort(&f);
        skip();
    }
    fclose(f.fp);
    f.fp = full;
    fputs("text", f.fp);
    assert_int_equal(kin_file_out_commit(&f, &err), KIN_ERR_IO);
    assert_false(kin_path_exists(f.path));
    assert_false(kin_path_exists(f.temp));
}

static void folders(void **state)
{
    (void)state;
    kin_error err = {0};
    assert_ok(kin_path_make_dirs(in("t/u/v"), &err), &err);
    assert_ok(kin_path_make_dirs(in("t/u/v"), &err), &err);
    assert_true(kin_path_is_dir(in("t/u/v")));
    assert_ok(kin_file_write(in("t/u/file"), "", 0, &err), &err);
    assert_int_equal(kin_path_make_dirs(in("t/u/file/w"), &err), KIN_ERR_IO);
    /* a link to a folder goes, its target stays */
    assert_ok(kin_path_make_dirs(in("target"), &err), &err);
    char target[KIN_PATH_MAX];
    strcpy(target, in("target"));
    assert_int_equal(symlink(target, in("t/link")), 0);
    assert_ok(kin_path_remove_tree(in("t"), &err), &err);
    assert_false(kin_path_exists(in("t")));
    assert_true(kin_path_is_dir(target));
    assert_true(kin_path_has_space(in("not/there"), 1));
    assert_false(kin_path_has_space(dir, UINT64_MAX));
}

static void the_cache_of_the_user(void **state)
{
    char path[KIN_PATH_MAX];
    (void)state;
    unsetenv("KIN_TEST_CACHE");
    setenv("HOME", "/home/a", 1);
    setenv("XDG_CACHE_HOME", "", 1);
    assert_true(kin_path_cache(path, "KIN_TEST_CACHE", "x"));
    assert_string_equal(path, "/home/a/.cache/kinema/x");
    setenv("XDG_CACHE_HOME", "/cache", 1);
    assert_true(kin_path_cache(path, "KIN_TEST_CACHE", "x"));
    assert_string_equal(path, "/cache/kinema/x");
    setenv("KIN_TEST_CACHE", "own", 1);
    assert_true(kin_path_cache(path, "KIN_TEST_CACHE", "x"));
    assert_string_equal(path, "own");
    setenv("KIN_TEST_CACHE", "none", 1);
    assert_false(kin_path_cache(path, "KIN_TEST_CACHE", "x"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts),
        cmocka_unit_test(inside),
        cmocka_unit_test(reads_and_limits),
        cmocka_unit_test(appears_only_when_complete),
        cmocka_unit_test(a_full_disk_is_an_error),
        cmocka_unit_test(folders),
        cmocka_unit_test(the_cache_of_the_user),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
