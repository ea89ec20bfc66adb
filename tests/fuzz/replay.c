/* tests/fuzz/replay.c: runs a target over the files of a folder, without libFuzzer:
 * fuzz_replay NAME FOLDER. Each file is also run cut short in a few places. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/path.h"
#include "tests/fuzz/targets.h"

typedef int (*target)(const uint8_t *data, size_t bytes);

static target find(const char *name)
{
#define KIN_FUZZ_FIND(n)       \
    if (strcmp(name, #n) == 0) \
        return kin_fuzz_##n;
    KIN_FUZZ_TARGETS(KIN_FUZZ_FIND)
    return NULL;
}

/* note: a copy of its own each, so that ASan sees a read behind the end */
static int run(target t, const char *data, size_t bytes)
{
    uint8_t *copy = kin_malloc(bytes);
    if (!copy)
        return 1;
    memcpy(copy, data, bytes);
    t(copy, bytes);
    kin_free(copy);
    return 0;
}

static int run_file(target t, const char *path)
{
    kin_error err = {0};
    char *data;
    size_t bytes;
    int failed = 0;
    if (kin_file_read(path, 1 << 24, &data, &bytes, &err) != KIN_OK) {
        fprintf(stderr, "fuzz_replay: %s\n", err.text);
        return 1;
    }
    failed |= run(t, data, bytes);
    for (size_t k = 1; k < 8; k++)
        failed |= run(t, data, bytes * k / 8);
    kin_free(data);
    return failed;
}

int main(int argc, char **argv)
{
    const target t = argc == 3 ? find(argv[1]) : NULL;
    DIR *folder = t ? opendir(argv[2]) : NULL;
    const struct dirent *e;
    int files = 0, failed = 0;
    if (!folder) {
        fprintf(stderr, "usage: fuzz_replay TARGET FOLDER\n");
        return 2;
    }
    while ((e = readdir(folder))) {
        char path[KIN_PATH_MAX];
        if (e->d_name[0] == '.' || kin_path_join(path, argv[2], e->d_name, NULL) != KIN_OK)
            continue;
        failed |= run_file(t, path);
        files++;
    }
    closedir(folder);
    printf("%s: %d files\n", argv[1], files);
    return files == 0 || failed;
}
