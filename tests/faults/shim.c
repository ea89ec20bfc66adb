/* tests/faults/shim.c: preloaded (LD_PRELOAD): the k-th call within main that opens, reads, writes,
 * syncs, renames, cuts or maps a file fails, k from KIN_FAULT_FILE (0: none), with the error a full
 * or failing disk gives. Calls of libraries count like those of the program; those that libc makes
 * within itself do not, so the calls of stdio are wrapped too. Standard streams never fail. The
 * number of calls goes into the file KIN_FAULT_COUNT. KIN_FAULT_CLOCK=S: the clock of the day jumps
 * back by S seconds at every tenth reading. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static atomic_long calls;
static bool running; /* between the start and the end of main */
static long fail_at;
static long back_s = -1;

static long number(const char *name)
{
    const char *text = getenv(name);
    return text ? strtol(text, NULL, 10) : 0;
}

static bool fails(int code)
{
    if (!running)
        return false;
    if (atomic_fetch_add(&calls, 1) + 1 != fail_at)
        return false;
    errno = code;
    return true;
}

__attribute__((destructor)) static void end(void)
{
    const char *path = getenv("KIN_FAULT_COUNT");
    char text[32];
    if (!path || !getenv("KIN_FAULT_FILE"))
        return;
    const int n = snprintf(text, sizeof text, "%ld\n", (long)calls);
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd >= 0 && write(fd, text, (size_t)n) == n)
        close(fd);
}

/* --- main --- */

static int (*real_main)(int, char **, char **);

static int main_counted(int argc, char **argv, char **env)
{
    fail_at = number("KIN_FAULT_FILE");
    running = true;
    const int code = real_main(argc, argv, env);
    running = false;
    return code;
}

int __libc_start_main(int (*main_)(int, char **, char **), int argc, char **argv,
                      void (*init)(void), void (*fini)(void), void (*rtld_fini)(void),
                      void *stack_end);
int __libc_start_main(int (*main_)(int, char **, char **), int argc, char **argv,
                      void (*init)(void), void (*fini)(void), void (*rtld_fini)(void),
                      void *stack_end)
{
    __typeof__(&__libc_start_main) real;
    *(void **)&real = dlsym(RTLD_NEXT, "__libc_start_main");
    real_main = main_;
    return real(main_counted, argc, argv, init, fini, rtld_fini, stack_end);
}

/* note: the type of the real function is that of the wrapper */
#define REAL(name)                 \
    static __typeof__(&name) real; \
    if (!real)                     \
    *(void **)&real = dlsym(RTLD_NEXT, #name)

#define STREAM_ERROR 0x20 /* _IO_ERR_SEEN of glibc: what ferror looks at */

static bool stream_fails(FILE *fp)
{
    if (fileno(fp) <= 2 || !fails(ENOSPC))
        return false;
    fp->_flags |= STREAM_ERROR;
    return true;
}

/* --- opening --- */

#define OPEN(name)                                                                      \
    int name(const char *path, int flags, ...)                                          \
    {                                                                                   \
        REAL(name);                                                                     \
        va_list ap;                                                                     \
        va_start(ap, flags);                                                            \
        const mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;                   \
        va_end(ap);                                                                     \
        return fails(flags & O_CREAT ? ENOSPC : EMFILE) ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define FOPEN(name)                                     \
    FILE *name(const char *path, const char *mode)      \
    {                                                   \
        REAL(name);                                     \
        return fails(EMFILE) ? NULL : real(path, mode); \
    }
FOPEN(fopen)
FOPEN(fopen64)

FILE *fdopen(int fd, const char *mode)
{
    REAL(fdopen);
    return fails(ENOMEM) ? NULL : real(fd, mode);
}

DIR *opendir(const char *path)
{
    REAL(opendir);
    return fails(EMFILE) ? NULL : real(path);
}

int mkdir(const char *path, mode_t mode)
{
    REAL(mkdir);
    return fails(ENOSPC) ? -1 : real(path, mode);
}

#define MMAP(name, off)                                                                      \
    void *name(void *at, size_t n, int prot, int flags, int fd, off offset)                  \
    {                                                                                        \
        REAL(name);                                                                          \
        return fd >= 0 && fails(ENOMEM) ? MAP_FAILED : real(at, n, prot, flags, fd, offset); \
    }
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

/* --- reading --- */

ssize_t read(int fd, void *data, size_t n)
{
    REAL(read);
    return fd > 2 && fails(EIO) ? -1 : real(fd, data, n);
}

#define PREAD(name, off)                                    \
    ssize_t name(int fd, void *data, size_t n, off offset)  \
    {                                                       \
        REAL(name);                                         \
        return fails(EIO) ? -1 : real(fd, data, n, offset); \
    }
PREAD(pread, off_t)
PREAD(pread64, off64_t)

size_t fread(void *data, size_t size, size_t n, FILE *fp)
{
    REAL(fread);
    return stream_fails(fp) ? 0 : real(data, size, n, fp);
}

/* --- writing --- */

ssize_t write(int fd, const void *data, size_t n)
{
    REAL(write);
    return fd > 2 && fails(ENOSPC) ? -1 : real(fd, data, n);
}

#define PWRITE(name, off)                                        \
    ssize_t name(int fd, const void *data, size_t n, off offset) \
    {                                                            \
        REAL(name);                                              \
        return fails(ENOSPC) ? -1 : real(fd, data, n, offset);   \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

size_t fwrite(const void *data, size_t size, size_t n, FILE *fp)
{
    REAL(fwrite);
    return stream_fails(fp) ? 0 : real(data, size, n, fp);
}

int fputs(const char *text, FILE *fp)
{
    REAL(fputs);
    return stream_fails(fp) ? EOF : real(text, fp);
}

int fputc(int c, FILE *fp)
{
    REAL(fputc);
    return stream_fails(fp) ? EOF : real(c, fp);
}

int vfprintf(FILE *fp, const char *format, va_list ap)
{
    REAL(vfprintf);
    return stream_fails(fp) ? -1 : real(fp, format, ap);
}

int fprintf(FILE *fp, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    const int n = vfprintf(fp, format, ap);
    va_end(ap);
    return n;
}

int fflush(FILE *fp)
{
    REAL(fflush);
    return fp && stream_fails(fp) ? EOF : real(fp);
}

int fclose(FILE *fp)
{
    REAL(fclose);
    const bool bad = stream_fails(fp);
    const int code = errno, rc = real(fp);
    if (bad)
        errno = code;
    return bad ? EOF : rc;
}

/* --- what makes files final --- */

int fsync(int fd)
{
    REAL(fsync);
    return fails(EIO) ? -1 : real(fd);
}

int fdatasync(int fd)
{
    REAL(fdatasync);
    return fails(EIO) ? -1 : real(fd);
}

int rename(const char *from, const char *to)
{
    REAL(rename);
    return fails(EIO) ? -1 : real(from, to);
}

int ftruncate(int fd, off_t n)
{
    REAL(ftruncate);
    return fails(EIO) ? -1 : real(fd, n);
}

int ftruncate64(int fd, off64_t n)
{
    REAL(ftruncate64);
    return fails(EIO) ? -1 : real(fd, n);
}

/* --- time --- */

/* Seconds that the clock of the day is behind. The monotonic one never goes back. */
static long behind(void)
{
    static atomic_long readings;
    if (back_s < 0)
        back_s = number("KIN_FAULT_CLOCK");
    return back_s * (atomic_fetch_add(&readings, 1) / 10);
}

int clock_gettime(clockid_t clock, struct timespec *t)
{
    REAL(clock_gettime);
    const int rc = real(clock, t);
    if (rc == 0 && clock == CLOCK_REALTIME)
        t->tv_sec -= behind();
    return rc;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone)
{
    REAL(gettimeofday);
    const int rc = real(t, zone);
    if (rc == 0)
        t->tv_sec -= behind();
    return rc;
}

time_t time(time_t *t)
{
    REAL(time);
    const time_t now = real(NULL) - behind();
    if (t)
        *t = now;
    return now;
}
