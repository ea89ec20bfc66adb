/* tests/support/folder.h: temporary folders: one per test program, as cmocka group setup and
 * teardown, or any number. No test writes in the current directory. */
#ifndef KIN_TESTS_FOLDER_H
#define KIN_TESTS_FOLDER_H

enum { KIN_TEST_FOLDER_MAX = 160 };
/* Makes a new folder below TMPDIR, else below /tmp; its path into out. 0 or -1. */
int kin_test_folder_new(char out[KIN_TEST_FOLDER_MAX]);

/* Makes that of the program, and removes it with all that is in it. 0 or -1. */
int kin_test_folder_make(void **state);
int kin_test_folder_remove(void **state);
/* The folder itself. */
const char *kin_test_folder(void);
/* Path of `name` in it; valid until the fourth call after this one. */
const char *kin_test_path(const char *name);

#endif
