#include "base/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { ATTEMPTS = 100 };

bool kin_lock_file(int fd)
{
    return flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
}

bool kin_lock_is_current(int fd, const char *path)
{
    struct stat a, b;
    return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_ino == b.st_ino &&
           a.st_dev == b.st_dev;
}

long kin_lock_holder(int fd)
{
    char line[256];
    long holder = 0;
    struct stat st;
    FILE *fp = fopen("/proc/locks", "re");
    if (!fp)
        return 0;
    while (holder == 0 && fstat(fd, &st) == 0 && fgets(line, sizeof line, fp)) {
        unsigned major, minor;
        unsigned long long inode;
        long pid;
        /* "1: FLOCK  ADVISORY  WRITE 123 fe:01:456 0 EOF"; who waits has an arrow */
        if (sscanf(line, "%*d: FLOCK %*s %*s %ld %x:%x:%llu", &pid, &major, &minor, &inode) == 4 &&
            pid > 0 && inode == (unsigned long long)st.st_ino && major == major(st.st_dev) &&
            minor == minor(st.st_dev))
            holder = pid;
    }
    fclose(fp);
    return holder;
}

const char *kin_lock_describe(int fd, char *buf, size_t bytes)
{
    const long pid = kin_lock_holder(fd);
    if (pid > 0)
        snprintf(buf, bytes, "process %ld", pid);
    else
        snprintf(buf, bytes, "another process");
    return buf;
}

/* True for NAME.tmp.PID, which kin_file_out writes before it is NAME. */
static bool is_temporary(const char *name)
{
    const char *end = strstr(name, ".tmp.");
    return end && end > name && end[5] && !end[5 + strspn(end + 5, "0123456789")];
}

/* note: a folder below that has a lock of its own is somebody else's */
static int clean_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
    char lock[KIN_PATH_MAX];
    (void)st;
    if (type == FTW_D && at->level > 0 && kin_path_join(lock, path, ".lock", NULL) == KIN_OK &&
        kin_path_exists(lock))
        return FTW_SKIP_SUBTREE;
    if (type == FTW_F && is_temporary(kin_path_base(path)))
        unlink(path);
    return FTW_CONTINUE;
}

kin_status kin_lock_folder(kin_lock *lock, const char *folder, kin_error *err)
{
    char who[64] = "another process";
    lock->fd = -1;
    KIN_TRY(kin_path_join(lock->path, folder, ".lock", err));
    /* note: who holds it may remove the file as it ends; then the name is a new file's */
    for (int i = 0; i < ATTEMPTS; i++) {
        const int fd = open(lock->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (fd < 0)
            return kin_fail(err, KIN_ERR_IO, "write: %s: %s", lock->path, strerror(errno));
        const bool locked = kin_lock_file(fd);
        if (locked && kin_lock_is_current(fd, lock->path)) {
            lock->fd = fd;
            nftw(folder, clean_entry, 16, FTW_PHYS | FTW_ACTIONRETVAL);
            return KIN_OK;
        }
        if (!locked)
            kin_lock_describe(fd, who, sizeof who);
        close(fd);
        if (!locked)
            break;
    }
    return kin_fail(err, KIN_ERR_IO, "%s: %s is working on it", folder, who);
}

void kin_lock_release(kin_lock *lock)
{
    if (lock->fd < 0)
        return;
    /* note: removed while it is still held, so that nobody else's is */
    if (kin_lock_is_current(lock->fd, lock->path))
        unlink(lock->path);
    close(lock->fd);
    lock->fd = -1;
}
