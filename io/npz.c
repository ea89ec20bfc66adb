#include "io/npz.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <zlib.h>

#include "base/alloc.h"
#include "base/path.h"

enum {
    NAME = 9,                 /* "arr_0.npy" */
    LOCAL = 30 + NAME + 20,   /* local header with a zip64 field of two sizes */
    CENTRAL = 46 + NAME + 28, /* central header with two sizes and the place */
    ENDING = 56 + 20 + 22,    /* zip64 end record, its locator, end record */
    NPY = 128,                /* header of an array, padded */
    LABEL_CHUNK = 4096        /* labels written at once */
};

struct kin_npz {
    char path[KIN_PATH_MAX], part[KIN_PATH_MAX], sums[KIN_PATH_MAX];
    int fd, sums_fd;
    int64_t size[4], have;
    uint64_t picture; /* bytes of one */
    uint32_t crc;     /* of arr_0.npy so far */
};

/* One member of the archive. */
typedef struct member {
    const char *name;
    uint64_t at, bytes; /* place of its local header, bytes of its contents */
    uint32_t crc;
} member;

/* ---- little-endian records ---- */

static uint8_t *le(uint8_t *p, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        *p++ = (uint8_t)(v >> (8 * i));
    return p;
}

/* version needed, flags, method (stored), time, date (1980-01-01), crc, and sizes that the zip64
 * field holds */
static uint8_t *put_common(uint8_t *p, const member *m)
{
    p = le(p, 45, 2);
    p = le(p, 0, 2);
    p = le(p, 0, 2);
    p = le(p, 0, 2);
    p = le(p, 33, 2);
    p = le(p, m->crc, 4);
    p = le(p, UINT32_MAX, 4);
    p = le(p, UINT32_MAX, 4);
    return le(p, NAME, 2);
}

static void make_local(uint8_t out[LOCAL], const member *m)
{
    uint8_t *p = le(out, 0x04034b50, 4);
    p = put_common(p, m);
    p = le(p, 20, 2);
    memcpy(p, m->name, NAME);
    p = le(p + NAME, 1, 2);
    p = le(p, 16, 2);
    p = le(p, m->bytes, 8);
    le(p, m->bytes, 8);
}

static void make_central(uint8_t out[CENTRAL], const member *m)
{
    uint8_t *p = le(out, 0x02014b50, 4);
    p = le(p, 45 | 3 << 8, 2); /* made by: unix */
    p = put_common(p, m);
    p = le(p, 28, 2);
    p = le(p, 0, 2); /* comment */
    p = le(p, 0, 2); /* disk */
    p = le(p, 0, 2); /* internal attributes */
    p = le(p, UINT64_C(0100644) << 16, 4);
    p = le(p, UINT32_MAX, 4);
    memcpy(p, m->name, NAME);
    p = le(p + NAME, 1, 2);
    p = le(p, 24, 2);
    p = le(p, m->bytes, 8);
    p = le(p, m->bytes, 8);
    le(p, m->at, 8);
}

/* count members, whose central headers begin at `at` */
static void make_ending(uint8_t out[ENDING], uint64_t count, uint64_t at)
{
    const uint64_t bytes = count * CENTRAL;
    uint8_t *p = le(out, 0x06064b50, 4);
    p = le(p, 44, 8);
    p = le(p, 45 | 3 << 8, 2);
    p = le(p, 45, 2);
    p = le(p, 0, 4);
    p = le(p, 0, 4);
    p = le(p, count, 8);
    p = le(p, count, 8);
    p = le(p, bytes, 8);
    p = le(p, at, 8);
    p = le(p, 0x07064b50, 4);
    p = le(p, 0, 4);
    p = le(p, at + bytes, 8);
    p = le(p, 1, 4);
    p = le(p, 0x06054b50, 4);
    p = le(p, UINT16_MAX, 2);
    p = le(p, UINT16_MAX, 2);
    p = le(p, UINT16_MAX, 2);
    p = le(p, UINT16_MAX, 2);
    p = le(p, UINT32_MAX, 4);
    p = le(p, UINT32_MAX, 4);
    le(p, 0, 2);
}

/* Header of a .npy of format 1.0; its length is NPY. */
static void make_npy(uint8_t out[NPY], const char *type, const int64_t *size, int ndim)
{
    char shape[96] = "";
    size_t n = 0;
    for (int i = 0; i < ndim; i++)
        n += (size_t)snprintf(shape + n, sizeof shape - n, "%s%lld", i ? ", " : "",
                              (long long)size[i]);
    memcpy(out, "\x93NUMPY\x01\x00", 8);
    le(out + 8, NPY - 10, 2);
    memset(out + 10, ' ', NPY - 10);
    n = (size_t)snprintf((char *)out + 10, NPY - 10,
                         "{'descr': '%s', 'fortran_order': False, 'shape': (%s%s), }", type, shape,
                         ndim == 1 ? "," : "");
    out[10 + n] = ' ';
    out[NPY - 1] = '\n';
}

/* ---- files ---- */

static kin_status io_fail(const char *path, kin_error *err)
{
    return kin_fail(err, KIN_ERR_IO, "npz: %s: %s", path, strerror(errno));
}

static kin_status write_at(int fd, const char *path, const void *data, uint64_t bytes, uint64_t at,
                           kin_error *err)
{
    const char *p = data;
    while (bytes) {
        ssize_t n = pwrite(fd, p, bytes < (1u << 30) ? bytes : 1u << 30, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return io_fail(path, err);
        p += n;
        at += (uint64_t)n;
        bytes -= (uint64_t)n;
    }
    return KIN_OK;
}

/* false for an error or an early end */
static bool read_at(int fd, void *data, uint64_t bytes, uint64_t at)
{
    char *p = data;
    while (bytes) {
        ssize_t n = pread(fd, p, bytes < (1u << 30) ? bytes : 1u << 30, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        p += n;
        at += (uint64_t)n;
        bytes -= (uint64_t)n;
    }
    return true;
}

static uint32_t sum(uint32_t crc, const uint8_t *data, uint64_t bytes)
{
    while (bytes) {
        uInt n = bytes < (1u << 30) ? (uInt)bytes : 1u << 30;
        crc = (uint32_t)crc32(crc, data, n);
        data += n;
        bytes -= n;
    }
    return crc;
}

static uint64_t place(const kin_npz *z, int64_t picture)
{
    return LOCAL + NPY + (uint64_t)picture * z->picture;
}

/* One more checksum: of everything before picture `at`. */
static kin_status put_sum(kin_npz *z, int64_t at, kin_error *err)
{
    uint8_t text[4];
    le(text, z->crc, 4);
    return write_at(z->sums_fd, z->sums, text, sizeof text, 4 * (uint64_t)at, err);
}

static bool good_sum(const kin_npz *z, int64_t at)
{
    uint8_t have[4], want[4];
    le(want, z->crc, 4);
    return read_at(z->sums_fd, have, 4, 4 * (uint64_t)at) && memcmp(have, want, 4) == 0;
}

/* How many pictures the part holds: as many as agree with their checksums. */
static kin_status count_good(kin_npz *z, kin_error *err)
{
    uint8_t have[NPY], want[NPY];
    make_npy(want, "|u1", z->size, 4);
    z->crc = sum(0, want, NPY);
    if (!read_at(z->fd, have, NPY, LOCAL) || memcmp(have, want, NPY) != 0 || !good_sum(z, 0))
        return KIN_OK;
    uint8_t *picture = kin_malloc(z->picture);
    if (!picture)
        return kin_fail(err, KIN_ERR_MEM, "npz: no memory for a picture");
    for (z->have = 0; z->have < z->size[0]; z->have++) {
        uint32_t before = z->crc;
        if (!read_at(z->fd, picture, z->picture, place(z, z->have)))
            break;
        z->crc = sum(before, picture, z->picture);
        if (!good_sum(z, z->have + 1)) {
            z->crc = before;
            break;
        }
    }
    kin_free(picture);
    return KIN_OK;
}

/* An empty archive: a place for the local header, the array's header. */
static kin_status start(kin_npz *z, kin_error *err)
{
    uint8_t head[LOCAL + NPY] = {0};
    if (ftruncate(z->fd, 0) || ftruncate(z->sums_fd, 0))
        return io_fail(z->part, err);
    make_npy(head + LOCAL, "|u1", z->size, 4);
    z->crc = sum(0, head + LOCAL, NPY);
    KIN_TRY(write_at(z->fd, z->part, head, sizeof head, 0, err));
    return put_sum(z, 0, err);
}

static kin_status open_files(kin_npz *z, bool resume, kin_error *err)
{
    const int flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW;
    z->have = -1;
    z->fd = open(z->part, flags, 0666);
    if (z->fd < 0)
        return io_fail(z->part, err);
    z->sums_fd = open(z->sums, flags, 0666);
    if (z->sums_fd < 0)
        return io_fail(z->sums, err);
    if (resume)
        KIN_TRY(count_good(z, err));
    if (z->have < 0) {
        z->have = 0;
        return start(z, err);
    }
    /* what lies behind was cut off, or is the tail of an archive that lacked only its name */
    if (ftruncate(z->fd, (off_t)place(z, z->have)) || ftruncate(z->sums_fd, 4 * (z->have + 1)))
        return io_fail(z->part, err);
    return KIN_OK;
}

static kin_status set_names(kin_npz *z, const char *path, kin_error *err)
{
    int n = snprintf(z->sums, sizeof z->sums, "%s.part.crc", path);
    if (n < 0 || n >= KIN_PATH_MAX)
        return kin_fail(err, KIN_ERR_ARG, "npz: name \"%.80s...\" is too long", path);
    snprintf(z->path, sizeof z->path, "%s", path);
    snprintf(z->part, sizeof z->part, "%.*s", n - 4, z->sums);
    return KIN_OK;
}

/* bytes of one picture and of all; false if they exceed what a file can hold */
static bool count_bytes(const int64_t size[4], uint64_t *picture)
{
    size_t n = 1, all;
    for (int i = 1; i < 4; i++)
        if (size[i] < 1 || !kin_mul_size(n, (size_t)size[i], &n))
            return false;
    *picture = n;
    return size[0] >= 1 && kin_mul_size(n, (size_t)size[0], &all) && all < (UINT64_C(1) << 60);
}

kin_status kin_npz_open(const char *path, const int64_t size[4], bool resume, kin_npz **out,
                        int64_t *have, kin_error *err)
{
    uint64_t picture;
    *out = NULL;
    if (!count_bytes(size, &picture))
        return kin_fail(err, KIN_ERR_ARG, "npz: %s: %lld pictures of %lldx%lldx%lld do not fit",
                        path, (long long)size[0], (long long)size[1], (long long)size[2],
                        (long long)size[3]);
    kin_npz *z = kin_calloc(1, sizeof *z);
    if (!z)
        return kin_fail(err, KIN_ERR_MEM, "npz: out of memory");
    z->fd = z->sums_fd = -1;
    memcpy(z->size, size, sizeof z->size);
    z->picture = picture;
    kin_status status = set_names(z, path, err);
    if (status == KIN_OK)
        status = open_files(z, resume, err);
    if (status != KIN_OK) {
        kin_npz_close(&z);
        return status;
    }
    *have = z->have;
    *out = z;
    return KIN_OK;
}

kin_status kin_npz_put(kin_npz *z, const uint8_t *picture, kin_error *err)
{
    if (z->have >= z->size[0])
        return kin_fail(err, KIN_ERR_ARG, "npz: %s: holds %lld pictures, no more fit", z->path,
                        (long long)z->size[0]);
    KIN_TRY(write_at(z->fd, z->part, picture, z->picture, place(z, z->have), err));
    z->crc = sum(z->crc, picture, z->picture);
    KIN_TRY(put_sum(z, z->have + 1, err));
    z->have++;
    return KIN_OK;
}

/* Writes the labels' array behind its local header at m->at; fills its crc. */
static kin_status put_labels(kin_npz *z, member *m, int64_t (*label)(void *, int64_t), void *user,
                             kin_error *err)
{
    uint8_t head[NPY], local[LOCAL], *chunk = kin_malloc(LABEL_CHUNK * 8);
    uint64_t at = m->at + LOCAL + NPY;
    kin_status status = KIN_OK;
    if (!chunk)
        return kin_fail(err, KIN_ERR_MEM, "npz: out of memory");
    make_npy(head, "<i8", z->size, 1);
    m->crc = sum(0, head, NPY);
    for (int64_t i = 0; i < z->size[0];) {
        uint8_t *p = chunk;
        for (int k = 0; k < LABEL_CHUNK && i < z->size[0]; k++)
            p = le(p, (uint64_t)label(user, i++), 8);
        m->crc = sum(m->crc, chunk, (uint64_t)(p - chunk));
        KIN_GOTO(write_at(z->fd, z->part, chunk, (uint64_t)(p - chunk), at, err));
        at += (uint64_t)(p - chunk);
    }
    KIN_GOTO(write_at(z->fd, z->part, head, NPY, m->at + LOCAL, err));
    make_local(local, m);
    status = write_at(z->fd, z->part, local, LOCAL, m->at, err);
done:
    kin_free(chunk);
    return status;
}

static kin_status complete(kin_npz *z, int64_t (*label)(void *, int64_t), void *user,
                           kin_error *err)
{
    const uint64_t images = NPY + (uint64_t)z->size[0] * z->picture;
    member m[2] = {{"arr_0.npy", 0, images, z->crc},
                   {"arr_1.npy", LOCAL + images, NPY + 8 * (uint64_t)z->size[0], 0}};
    uint8_t tail[2 * CENTRAL + ENDING], local[LOCAL];
    const int count = label ? 2 : 1;
    uint64_t at = m[1].at;
    if (label) {
        KIN_TRY(put_labels(z, &m[1], label, user, err));
        at += LOCAL + m[1].bytes;
    }
    for (int i = 0; i < count; i++)
        make_central(tail + i * CENTRAL, &m[i]);
    make_ending(tail + count * CENTRAL, (uint64_t)count, at);
    KIN_TRY(write_at(z->fd, z->part, tail, (uint64_t)count * CENTRAL + ENDING, at, err));
    make_local(local, &m[0]);
    KIN_TRY(write_at(z->fd, z->part, local, LOCAL, 0, err));
    if (fsync(z->fd) || rename(z->part, z->path))
        return io_fail(z->path, err);
    unlink(z->sums);
    char dir[KIN_PATH_MAX];
    KIN_TRY(kin_path_dir(dir, z->path, err));
    return kin_path_sync_dir(dir, err);
}

kin_status kin_npz_finish(kin_npz **pz, int64_t (*label)(void *user, int64_t i), void *user,
                          kin_error *err)
{
    kin_npz *z = *pz;
    kin_status status =
        z->have == z->size[0]
            ? complete(z, label, user, err)
            : kin_fail(err, KIN_ERR_ARG, "npz: %s: only %lld of %lld pictures are in it", z->path,
                       (long long)z->have, (long long)z->size[0]);
    kin_npz_close(pz);
    return status;
}

void kin_npz_close(kin_npz **pz)
{
    kin_npz *z = *pz;
    if (!z)
        return;
    if (z->fd >= 0)
        close(z->fd);
    if (z->sums_fd >= 0)
        close(z->sums_fd);
    kin_free(z);
    *pz = NULL;
}

bool kin_npz_has_part(const char *path)
{
    char part[KIN_PATH_MAX];
    int n = snprintf(part, sizeof part, "%s.part", path);
    return n > 0 && n < KIN_PATH_MAX && kin_path_exists(part);
}

bool kin_npz_is_complete(const char *path, const int64_t size[4], bool labels)
{
    uint64_t picture;
    struct stat st;
    if (!count_bytes(size, &picture) || stat(path, &st) || !S_ISREG(st.st_mode))
        return false;
    uint64_t bytes = LOCAL + NPY + (uint64_t)size[0] * picture + CENTRAL + ENDING;
    if (labels)
        bytes += LOCAL + NPY + 8 * (uint64_t)size[0] + CENTRAL;
    if ((uint64_t)st.st_size != bytes || kin_npz_has_part(path))
        return false;
    char sums[KIN_PATH_MAX];
    if (snprintf(sums, sizeof sums, "%s.part.crc", path) < KIN_PATH_MAX)
        unlink(sums);
    return true;
}
