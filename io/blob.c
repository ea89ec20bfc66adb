#include "io/blob.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

kin_status kin_blob_open(const char *path, kin_blob *out, kin_error *err)
{
    struct stat st;
    *out = (kin_blob){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return kin_fail(err, KIN_ERR_IO, "open: %s: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return kin_fail(err, KIN_ERR_IO, "open: %s: must be a regular file", path);
    }
    if (st.st_size == 0) {
        close(fd);
        out->data = (const uint8_t *)"";
        return KIN_OK;
    }
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    int code = errno;
    close(fd);
    if (p == MAP_FAILED)
        return kin_fail(err, KIN_ERR_IO, "open: %s: %s", path, strerror(code));
    out->data = p;
    out->bytes = (size_t)st.st_size;
    return KIN_OK;
}

void kin_blob_close(kin_blob *blob)
{
    if (blob->bytes > 0)
        munmap((void *)(uintptr_t)blob->data, blob->bytes);
    *blob = (kin_blob){0};
}
