#include "io/npy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zip.h>

#include "base/alloc.h"
#include "base/path.h"
#include "io/elements.h"

enum { MAGIC = 8, MAX_HEADER = 65536, CHUNK = 65536 };

struct kin_npy {
    char *path;
    FILE *fp;         /* .npy */
    zip_t *zip;       /* .npz */
    zip_file_t *file; /* its entry */
    uint64_t bytes;   /* of header and data */
    kin_npy_info info;
    int64_t left; /* elements that were not read */
    uint8_t *chunk;
};

static const uint8_t magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};

bool kin_npy_detect(const void *data, size_t bytes)
{
    return bytes >= 6 && (memcmp(data, magic, 6) == 0 || memcmp(data, "PK\3\4", 4) == 0);
}

/* --- bytes --- */

static bool get(kin_npy *f, void *to, size_t n)
{
    if (f->fp)
        return fread(to, 1, n, f->fp) == n;
    const zip_int64_t got = zip_fread(f->file, to, n);
    return got >= 0 && (size_t)got == n;
}

static kin_status open_plain(kin_npy *f, kin_error *err)
{
    f->fp = fopen(f->path, "rb");
    if (!f->fp || fseeko(f->fp, 0, SEEK_END) != 0)
        return kin_fail(err, KIN_ERR_IO, "npy: %s: %s", f->path, strerror(errno));
    const off_t end = ftello(f->fp);
    rewind(f->fp);
    f->bytes = end > 0 ? (uint64_t)end : 0;
    return KIN_OK;
}

/* Entry of the array, or -1. */
static zip_int64_t find_entry(zip_t *zip, const char *name)
{
    static const char *const usual[] = {"arr_0.npy", "features.npy"};
    char entry[256];
    if (name) {
        snprintf(entry, sizeof entry, "%.240s.npy", name);
        return zip_name_locate(zip, entry, 0);
    }
    if (zip_get_num_entries(zip, 0) == 1)
        return 0;
    for (int i = 0; i < 2; i++)
        if (zip_name_locate(zip, usual[i], 0) >= 0)
            return zip_name_locate(zip, usual[i], 0);
    return -1;
}

static kin_status open_archive(kin_npy *f, const char *name, kin_error *err)
{
    int code = 0;
    zip_stat_t st;
    f->zip = zip_open(f->path, ZIP_RDONLY, &code);
    if (!f->zip)
        return kin_fail(err, code == ZIP_ER_MEMORY ? KIN_ERR_MEM : KIN_ERR_FORMAT,
                        "npz: %s: no archive (libzip %d)", f->path, code);
    const zip_int64_t at = find_entry(f->zip, name);
    if (at < 0)
        return kin_fail(err, KIN_ERR_FORMAT, "npz: %s: holds no array %s", f->path,
                        name ? name : "arr_0 or features");
    if (zip_stat_index(f->zip, (zip_uint64_t)at, 0, &st) != 0 || !(st.valid & ZIP_STAT_SIZE) ||
        !(f->file = zip_fopen_index(f->zip, (zip_uint64_t)at, 0)))
        return kin_fail(err, KIN_ERR_FORMAT, "npz: %s: %s", f->path, zip_strerror(f->zip));
    f->bytes = st.size;
    return KIN_OK;
}

/* --- the header: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), } --- */

/* The text after 'key': in the header, blanks skipped, or NULL. */
static const char *value_of(const char *header, const char *key)
{
    char quoted[32];
    snprintf(quoted, sizeof quoted, "'%s':", key);
    const char *at = strstr(header, quoted);
    if (!at)
        return NULL;
    at += strlen(quoted);
    return at + strspn(at, " ");
}

static bool parse_type(const char *text, kin_dtype *out)
{
    static const struct {
        const char *name;
        kin_dtype dtype;
    } types[] = {{"'<f2'", KIN_DTYPE_F16}, {"'<f4'", KIN_DTYPE_F32}, {"'<f8'", KIN_DTYPE_F64},
                 {"'|u1'", KIN_DTYPE_U8},  {"'<i4'", KIN_DTYPE_I32}, {"'<i8'", KIN_DTYPE_I64}};
    for (size_t i = 0; text && i < sizeof types / sizeof *types; i++)
        if (strncmp(text, types[i].name, 5) == 0) {
            *out = types[i].dtype;
            return true;
        }
    return false;
}

/* "(3, 4)", "(3,)", "()" */
static bool parse_shape(const char *text, kin_npy_info *info)
{
    if (!text || *text++ != '(')
        return false;
    while (*text != ')') {
        char *end;
        if (*text < '0' || *text > '9' || info->ndim == KIN_NPY_MAX_DIMS)
            return false;
        errno = 0;
        const long long n = strtoll(text, &end, 10);
        if (errno || n < 0)
            return false;
        info->size[info->ndim++] = n;
        text = end + strspn(end, ", ");
    }
    return true;
}

static kin_status parse_header(kin_npy *f, const char *header, size_t before, kin_error *err)
{
    const char *order = value_of(header, "fortran_order");
    if (!parse_type(value_of(header, "descr"), &f->info.dtype))
        return kin_fail(err, KIN_ERR_UNSUPPORTED,
                        "npy: %s: element type must be little-endian f2, f4, f8, u1, i4 or i8",
                        f->path);
    if (!order || strncmp(order, "False", 5) != 0)
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "npy: %s: must be in C order", f->path);
    if (!parse_shape(value_of(header, "shape"), &f->info))
        return kin_fail(err, KIN_ERR_FORMAT, "npy: %s: damaged header", f->path);
    uint64_t n = 1, bytes;
    bool fits = true;
    for (int d = 0; d < f->info.ndim; d++)
        fits &= !__builtin_mul_overflow(n, (uint64_t)f->info.size[d], &n);
    fits &= n <= INT64_MAX && !__builtin_mul_overflow(n, kin_dtype_size(f->info.dtype), &bytes);
    if (!fits || bytes != f->bytes - before)
        return kin_fail(err, KIN_ERR_FORMAT, "npy: %s: shape and number of bytes disagree",
                        f->path);
    f->left = (int64_t)n;
    return KIN_OK;
}

static kin_status read_header(kin_npy *f, kin_error *err)
{
    uint8_t start[MAGIC + 4] = {0};
    char *header = NULL;
    size_t length, before = MAGIC + 2;
    if (f->bytes < before || !get(f, start, before) || memcmp(start, magic, 6) != 0 ||
        start[6] < 1 || start[6] > 3)
        return kin_fail(err, KIN_ERR_FORMAT, "npy: %s: not a NumPy array", f->path);
    length = start[MAGIC] | (size_t)start[MAGIC + 1] << 8;
    if (start[6] > 1) {
        if (!get(f, start + before, 2))
            return kin_fail(err, KIN_ERR_FORMAT, "npy: %s: cut header", f->path);
        length |= (size_t)start[MAGIC + 2] << 16 | (size_t)start[MAGIC + 3] << 24;
        before += 2;
    }
    if (length > MAX_HEADER || f->bytes - before < length)
        return kin_fail(err, KIN_ERR_FORMAT, "npy: %s: damaged header", f->path);
    header = kin_calloc(length + 1, 1);
    if (!header)
        return kin_fail(err, KIN_ERR_MEM, "npy: %s: no memory", f->path);
    kin_status status = get(f, header, length)
                            ? parse_header(f, header, before + length, err)
                            : kin_fail(err, KIN_ERR_FORMAT, "npy: %s: cut header", f->path);
    kin_free(header);
    return status;
}

kin_status kin_npy_open(const char *path, const char *name, kin_npy **out, kin_error *err)
{
    kin_status status = KIN_OK;
    *out = NULL;
    kin_npy *f = kin_calloc(1, sizeof *f);
    if (!f)
        return kin_fail(err, KIN_ERR_MEM, "npy: %s: no memory", path);
    f->path = kin_strdup(path);
    f->chunk = kin_malloc(CHUNK);
    if (!f->path || !f->chunk)
        KIN_GOTO(kin_fail(err, KIN_ERR_MEM, "npy: %s: no memory", path));
    if (strcmp(kin_path_ext(path), "npy") == 0)
        KIN_GOTO(open_plain(f, err));
    else
        KIN_GOTO(open_archive(f, name, err));
    status = read_header(f, err);
done:
    if (status != KIN_OK)
        kin_npy_close(&f);
    *out = f;
    return status;
}

void kin_npy_close(kin_npy **pf)
{
    kin_npy *f = *pf;
    if (!f)
        return;
    if (f->fp)
        fclose(f->fp);
    if (f->file)
        zip_fclose(f->file);
    if (f->zip)
        zip_discard(f->zip);
    kin_free(f->path);
    kin_free(f->chunk);
    kin_free(f);
    *pf = NULL;
}

const kin_npy_info *kin_npy_get_info(const kin_npy *f)
{
    return &f->info;
}

kin_status kin_npy_read(kin_npy *f, int64_t n, kin_dtype as, void *out, kin_error *err)
{
    const size_t size = kin_dtype_size(f->info.dtype);
    char *to = out;
    if (n > f->left)
        return kin_fail(err, KIN_ERR_ARG, "npy: %s: %" PRId64 " elements beyond the end", f->path,
                        n - f->left);
    if (!kin_elements_can(f->info.dtype, as))
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "npy: %s: %s cannot be read as %s", f->path,
                        kin_dtype_name(f->info.dtype), kin_dtype_name(as));
    while (n > 0) {
        const int64_t part = n < (int64_t)(CHUNK / size) ? n : (int64_t)(CHUNK / size);
        if (!get(f, f->chunk, (size_t)part * size))
            return kin_fail(err, KIN_ERR_FORMAT, "npy: %s: cut or damaged", f->path);
        kin_elements_convert(f->chunk, f->info.dtype, part, as, to);
        to += (size_t)part * kin_dtype_size(as);
        f->left -= part;
        n -= part;
    }
    return KIN_OK;
}
