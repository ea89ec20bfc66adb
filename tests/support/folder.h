/* tests/support/folder.h: one temporary folder per test program, as cmocka group setup and
 * teardown. */
#ifndef KIN_TESTS_FOLDER_H
#define KIN_TESTS_FOLDER_H

/* Makes a new folder below /tmp, and removes it with all that is in it. 0 or -1. */
int kin_test_folder_make(void **state);
int kin_test_folder_remove(void **state);
/* The folder itself. */
const char *kin_test_folder(void);
/* Path of `name` in it; valid until the fourth call after this one. */
const char *kin_test_path(const char *name);

#endif
