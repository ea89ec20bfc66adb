#include "tests/support/folder.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/path.h"

static char folder[KIN_TEST_FOLDER_MAX];

int kin_test_folder_new(char out[KIN_TEST_FOLDER_MAX])
{
    const char *below = getenv("TMPDIR");
    int n =
        snprintf(out, KIN_TEST_FOLDER_MAX, "%s/kin_test_XXXXXX", below && *below ? below : "/tmp");
    return n < KIN_TEST_FOLDER_MAX && mkdtemp(out) ? 0 : -1;
}

int kin_test_folder_make(void **state)
{
    (void)state;
    return kin_test_folder_new(folder);
}

int kin_test_folder_remove(void **state)
{
    (void)state;
    return kin_path_remove_tree(folder, NULL) == KIN_OK ? 0 : -1;
}

const char *kin_test_folder(void)
{
    return folder;
}

const char *kin_test_path(const char *name)
{
    static char path[4][KIN_PATH_MAX];
    static int turn;
    turn = (turn + 1) % 4;
    kin_path_join(path[turn], folder, name, NULL);
    return path[turn];
}
