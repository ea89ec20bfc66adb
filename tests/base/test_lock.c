/* tests/base/test_lock.c: one process at a time on a folder. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/lock.h"
#include "tests/support/folder.h"
#include "tests/support/support.h"

/* A child that holds the lock until it is killed. */
static pid_t holder(void)
{
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        kin_lock lock;
        if (kin_lock_folder(&lock, kin_test_folder(), NULL) != KIN_OK ||
            write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void the_second_is_told_of_the_first(void **state)
{
    char who[64];
    kin_error err = {0};
    kin_lock lock;
    int status;
    (void)state;
    const pid_t pid = holder();
    assert_int_equal(kin_lock_folder(&lock, kin_test_folder(), &err), KIN_ERR_IO);
    assert_int_equal(lock.fd, -1);
    snprintf(who, sizeof who, "process %ld is working on it", (long)pid);
    if (!strstr(err.text, who))
        fail_msg("\"%s\" does not name the holder", err.text);
    assert_non_null(strstr(err.text, kin_test_folder()));
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
}

static void a_killed_holder_leaves_nothing_in_the_way(void **state)
{
    char path[KIN_PATH_MAX];
    kin_error err = {0};
    kin_lock lock;
    int status;
    (void)state;
    kin_path_join(path, kin_test_folder(), ".lock", NULL);
    const pid_t pid = holder();
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(kin_path_exists(path));
    assert_ok(kin_lock_folder(&lock, kin_test_folder(), &err), &err);
    kin_lock_release(&lock);
    kin_lock_release(&lock);
    assert_false(kin_path_exists(path));
    assert_ok(kin_lock_folder(&lock, kin_test_folder(), &err), &err);
    kin_lock_release(&lock);
}

static void touch(const char *name)
{
    FILE *fp = fopen(kin_test_path(name), "w");
    assert_non_null(fp);
    fclose(fp);
}

static void what_killed_processes_were_writing_is_removed(void **state)
{
    static const char *const gone[] = {"a.json.tmp.123", "sub/b.tmp.7"};
    static const char *const kept[] = {"a.json", "a.tmp", "a.tmp.x1", ".tmp.5"};
    kin_error err = {0};
    kin_lock lock, below;
    (void)state;
    assert_ok(kin_path_make_dirs(kin_test_path("sub/other"), &err), &err);
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++)
        touch(gone[i]);
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        touch(kept[i]);
    /* one that works below is left alone */
    assert_ok(kin_lock_folder(&below, kin_test_path("sub/other"), &err), &err);
    touch("sub/other/c.tmp.9");
    assert_ok(kin_lock_folder(&lock, kin_test_folder(), &err), &err);
    kin_lock_release(&lock);
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++)
        assert_false(kin_path_exists(kin_test_path(gone[i])));
    assert_true(kin_path_exists(kin_test_path("sub/other/c.tmp.9")));
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        if (!kin_path_exists(kin_test_path(kept[i])))
            fail_msg("%s was removed", kept[i]);
    kin_lock_release(&below);
}

static void a_folder_that_is_not_there(void **state)
{
    kin_error err = {0};
    kin_lock lock;
    (void)state;
    assert_int_equal(kin_lock_folder(&lock, kin_test_path("none"), &err), KIN_ERR_IO);
    kin_lock_release(&lock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_second_is_told_of_the_first),
        cmocka_unit_test(a_killed_holder_leaves_nothing_in_the_way),
        cmocka_unit_test(what_killed_processes_were_writing_is_removed),
        cmocka_unit_test(a_folder_that_is_not_there),
    };
    return cmocka_run_group_tests(tests, kin_test_folder_make, kin_test_folder_remove);
}
