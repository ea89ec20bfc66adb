#include "tests/fuzz/targets.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

const char *kin_fuzz_file(const uint8_t *data, size_t bytes)
{
    static int fd = -1;
    static char path[64];
    if (fd >= 0)
        close(fd);
    fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0)
        return NULL;
    for (size_t at = 0; at < bytes;) {
        const ssize_t n = write(fd, data + at, bytes - at);
        if (n <= 0)
            return NULL;
        at += (size_t)n;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return path;
}
