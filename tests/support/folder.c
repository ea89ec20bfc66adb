#include "tests/support/folder.h"

#include <stdlib.h>
#include <string.h>

#include "base/path.h"

static char folder[32];

int kin_test_folder_make(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/kin_test_XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
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
