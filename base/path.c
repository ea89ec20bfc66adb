#include "base/path.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/alloc.h"

static kin_status too_long(const char *path, kin_error *err)
{
    return kin_fail(err, KIN_ERR_ARG, "path: \"%.80s...\" must be shorter than %d bytes", path,
                    KIN_PATH_MAX);
}

kin_status kin_path_join(char out[KIN_PATH_MAX], const char *dir, const char *name, kin_error *err)
{
    int n;
    if (!dir || !*dir || name[0] == '/')
        n = snprintf(out, KIN_PATH_MAX, "%s", name);
    else
        n = snprintf(out, KIN_PATH_MAX, "%s%s%s", dir, dir[strlen(dir) - 1] == '/' ? "" : "/",
                     name);
    if (n < 0 || n >= KIN_PATH_MAX)
        return too_long(name, err);
    return KIN_OK;
}

kin_status kin_path_dir(char out[KIN_PATH_MAX], const char *path, kin_error *err)
{
    const char *slash = strrchr(path, '/');
    if (!slash) {
        strcpy(out, ".");
        return KIN_OK;
    }
    size_t n = slash == path ? 1 : (size_t)(slash - path);
    if (n >= KIN_PATH_MAX)
        return too_long(path, err);
    memcpy(out, path, n);
    out[n] = 0;
    return KIN_OK;
}

const char *kin_path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

const char *kin_path_ext(const char *path)
{
    const char *base = kin_path_base(path);
    const char *dot = strrchr(base, '.');
    return dot && dot != base ? dot + 1 : "";
}

bool kin_path_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool kin_path_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool kin_path_is_inside(const char *path)
{
    if (!*path || strlen(path) >= KIN_PATH_MAX)
        return false;
    /* every part between slashes must be a name; a leading slash makes the first part empty */
    for (const char *p = path;;) {
        size_t n = strcspn(p, "/");
        if (n == 0 || (n == 2 && p[0] == '.' && p[1] == '.'))
            return false;
        if (!p[n])
            return true;
        p += n + 1;
    }
}

kin_status kin_path_make_dirs(const char *path, kin_error *err)
{
    char part[KIN_PATH_MAX];
    size_t n = strlen(path);
    if (n >= KIN_PATH_MAX)
        return too_long(path, err);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != 0)
            continue;
        memcpy(part, path, i);
        part[i] = 0;
        if (mkdir(part, 0777) != 0 && !(errno == EEXIST && kin_path_is_dir(part)))
            return kin_fail(err, KIN_ERR_IO, "make folder: %s: %s", part, strerror(errno));
    }
    return KIN_OK;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

kin_status kin_path_remove_tree(const char *path, kin_error *err)
{
    if (nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS) != 0)
        return kin_fail(err, KIN_ERR_IO, "remove folder: %s: %s", path, strerror(errno));
    return KIN_OK;
}

/* Reads exactly up to `want` bytes from fd; returns the number read or -1. */
static ssize_t read_all(int fd, char *data, size_t want)
{
    size_t have = 0;
    while (have < want) {
        ssize_t n = read(fd, data + have, want - have);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        have += (size_t)n;
    }
    return (ssize_t)have;
}

kin_status kin_file_read(const char *path, size_t max_bytes, char **data, size_t *bytes,
                         kin_error *err)
{
    kin_status status = KIN_OK;
    char *block = NULL;
    struct stat st;
    /* note: O_NONBLOCK so that opening a pipe does not hang before it is refused */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return kin_fail(err, KIN_ERR_IO, "read: %s: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        status = kin_fail(err, KIN_ERR_IO, "read: %s: must be a regular file", path);
        goto done;
    }
    if ((uint64_t)st.st_size > max_bytes) {
        status = kin_fail(err, KIN_ERR_FORMAT, "read: %s: %lld bytes, must be at most %zu", path,
                          (long long)st.st_size, max_bytes);
        goto done;
    }
    block = kin_malloc((size_t)st.st_size + 1);
    if (!block) {
        status = kin_fail(err, KIN_ERR_MEM, "read: %s: no memory for %lld bytes", path,
                          (long long)st.st_size);
        goto done;
    }
    ssize_t n = read_all(fd, block, (size_t)st.st_size);
    if (n < 0) {
        status = kin_fail(err, KIN_ERR_IO, "read: %s: %s", path, strerror(errno));
        goto done;
    }
    block[n] = 0;
    *data = block;
    *bytes = (size_t)n;
    block = NULL;
done:
    kin_free(block);
    close(fd);
    return status;
}

kin_status kin_file_out_open(kin_file_out *f, const char *path, kin_error *err)
{
    f->fp = NULL;
    int n = snprintf(f->path, sizeof f->path, "%s", path);
    int m = snprintf(f->temp, sizeof f->temp, "%s.tmp.%ld", path, (long)getpid());
    if (n < 0 || m < 0 || n >= KIN_PATH_MAX || m >= KIN_PATH_MAX)
        return too_long(path, err);
    if (kin_path_is_dir(path))
        return kin_fail(err, KIN_ERR_IO, "write: %s: is a folder", path);
    int fd = open(f->temp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0)
        return kin_fail(err, KIN_ERR_IO, "write: %s: %s", path, strerror(errno));
    f->fp = fdopen(fd, "wb+");
    if (!f->fp) {
        close(fd);
        unlink(f->temp);
        return kin_fail(err, KIN_ERR_IO, "write: %s: %s", path, strerror(errno));
    }
    return KIN_OK;
}

kin_status kin_file_out_commit(kin_file_out *f, kin_error *err)
{
    if (!f->fp)
        return kin_fail(err, KIN_ERR_ARG, "write: %s: is not open", f->path);
    bool ok = !ferror(f->fp);
    ok = fflush(f->fp) == 0 && ok;
    ok = ok && fsync(fileno(f->fp)) == 0;
    int code = errno;
    if (fclose(f->fp) != 0 && ok) {
        code = errno;
        ok = false;
    }
    f->fp = NULL;
    if (ok && rename(f->temp, f->path) != 0) {
        code = errno;
        ok = false;
    }
    if (!ok) {
        unlink(f->temp);
        return kin_fail(err, KIN_ERR_IO, "write: %s: %s", f->path, strerror(code));
    }
    char dir[KIN_PATH_MAX];
    KIN_TRY(kin_path_dir(dir, f->path, err));
    return kin_path_sync_dir(dir, err);
}

void kin_file_out_abort(kin_file_out *f)
{
    if (!f->fp)
        return;
    fclose(f->fp);
    f->fp = NULL;
    unlink(f->temp);
}

kin_status kin_file_write(const char *path, const void *data, size_t bytes, kin_error *err)
{
    kin_file_out f;
    KIN_TRY(kin_file_out_open(&f, path, err));
    if (bytes > 0 && fwrite(data, 1, bytes, f.fp) != bytes) {
        int code = errno;
        kin_file_out_abort(&f);
        return kin_fail(err, KIN_ERR_IO, "write: %s: %s", path, strerror(code));
    }
    return kin_file_out_commit(&f, err);
}

kin_status kin_path_sync_dir(const char *dir, kin_error *err)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return kin_fail(err, KIN_ERR_IO, "sync: %s: %s", dir, strerror(errno));
    /* note: some file systems cannot sync a folder and say EINVAL; there is nothing more to do then
     */
    int rc = fsync(fd);
    int code = errno;
    close(fd);
    if (rc != 0 && code != EINVAL)
        return kin_fail(err, KIN_ERR_IO, "sync: %s: %s", dir, strerror(code));
    return KIN_OK;
}

bool kin_path_has_space(const char *path, uint64_t bytes)
{
    char at[KIN_PATH_MAX];
    struct statvfs fs;
    if (snprintf(at, sizeof at, "%s", path) >= KIN_PATH_MAX)
        return false;
    /* the path itself may not exist yet: its nearest existing folder counts */
    while (statvfs(at, &fs) != 0) {
        char up[KIN_PATH_MAX];
        if (strcmp(at, ".") == 0 || strcmp(at, "/") == 0 || kin_path_dir(up, at, NULL) != KIN_OK)
            return false;
        memcpy(at, up, sizeof at);
    }
    return (uint64_t)fs.f_bavail >= bytes / (fs.f_frsize ? fs.f_frsize : 1) + 1;
}

bool kin_path_cache(char out[KIN_PATH_MAX], const char *own, const char *name)
{
    const char *given = getenv(own), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = 0;
    if (given && *given)
        n = strcmp(given, "none") == 0 ? 0 : snprintf(out, KIN_PATH_MAX, "%s", given);
    else if (cache && *cache)
        n = snprintf(out, KIN_PATH_MAX, "%s/kinema/%s", cache, name);
    else if (home && *home)
        n = snprintf(out, KIN_PATH_MAX, "%s/.cache/kinema/%s", home, name);
    return n > 0 && n < KIN_PATH_MAX;
}
