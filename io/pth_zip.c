#include "io/pth_zip.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <zip.h>

#include "base/alloc.h"
#include "base/path.h"
#include "io/pickle.h"

/* The mapped file as a source of libzip. `last` is where the latest read began: libzip does not
 * tell where a stored entry lies, but reads it there. */
typedef struct span {
    const uint8_t *data;
    uint64_t bytes, at, last;
    zip_error_t error;
} span;

struct kin_pth_zip {
    span file;
    zip_t *zip;
    char prefix[KIN_PATH_MAX]; /* folder of data.pkl in the archive, with its slash */
    zip_uint64_t pickle;       /* entry */
};

static zip_int64_t span_read(span *s, void *to, zip_uint64_t n)
{
    const uint64_t left = s->bytes - s->at;
    n = n < left ? n : left;
    s->last = s->at;
    memcpy(to, s->data + s->at, (size_t)n);
    s->at += n;
    return (zip_int64_t)n;
}

static zip_int64_t span_call(void *user, void *data, zip_uint64_t n, zip_source_cmd_t cmd)
{
    span *s = user;
    zip_stat_t *st = data;
    zip_int64_t at;
    switch (cmd) {
    case ZIP_SOURCE_OPEN: s->at = 0; return 0;
    case ZIP_SOURCE_READ: return span_read(s, data, n);
    case ZIP_SOURCE_CLOSE:
    case ZIP_SOURCE_FREE: return 0;
    case ZIP_SOURCE_STAT:
        zip_stat_init(st);
        st->size = s->bytes;
        st->valid |= ZIP_STAT_SIZE;
        return sizeof *st;
    case ZIP_SOURCE_ERROR: return zip_error_to_data(&s->error, data, n);
    case ZIP_SOURCE_SEEK:
        at = zip_source_seek_compute_offset(s->at, s->bytes, data, n, &s->error);
        if (at < 0)
            return -1;
        s->at = (uint64_t)at;
        return 0;
    case ZIP_SOURCE_TELL: return (zip_int64_t)s->at;
    case ZIP_SOURCE_SUPPORTS:
        return zip_source_make_command_bitmap(
            ZIP_SOURCE_OPEN, ZIP_SOURCE_READ, ZIP_SOURCE_CLOSE, ZIP_SOURCE_STAT, ZIP_SOURCE_ERROR,
            ZIP_SOURCE_FREE, ZIP_SOURCE_SEEK, ZIP_SOURCE_TELL, ZIP_SOURCE_SUPPORTS, -1);
    default: zip_error_set(&s->error, ZIP_ER_OPNOTSUPP, 0); return -1;
    }
}

static kin_status fail_zip(zip_error_t *e, const char *what, kin_error *err)
{
    const bool memory = zip_error_code_zip(e) == ZIP_ER_MEMORY;
    return kin_fail(err, memory ? KIN_ERR_MEM : KIN_ERR_FORMAT, "zip: %s: %s", what,
                    zip_error_strerror(e));
}

static kin_status open_archive(kin_pth_zip *z, kin_error *err)
{
    zip_error_t e;
    zip_error_init(&e);
    zip_source_t *source = zip_source_function_create(span_call, &z->file, &e);
    z->zip = source ? zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, &e) : NULL;
    kin_status status = z->zip ? KIN_OK : fail_zip(&e, "archive", err);
    if (source && !z->zip)
        zip_source_free(source);
    zip_error_fini(&e);
    return status;
}

/* Entry `index` stored as it is, within the file. */
static kin_status stat_stored(kin_pth_zip *z, zip_uint64_t index, zip_stat_t *st, kin_error *err)
{
    const zip_uint64_t need =
        ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD;
    zip_stat_init(st);
    if (zip_stat_index(z->zip, index, 0, st) != 0 || (st->valid & need) != need)
        return fail_zip(zip_get_error(z->zip), "entry", err);
    if (st->comp_method != ZIP_CM_STORE ||
        (st->valid & ZIP_STAT_ENCRYPTION_METHOD && st->encryption_method != ZIP_EM_NONE))
        return kin_fail(err, KIN_ERR_FORMAT,
                        "zip: \"%.100s\" is compressed; torch.save stores its entries as they are",
                        st->name);
    if (st->comp_size != st->size || st->size > z->file.bytes)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "zip: \"%.100s\" has %" PRIu64 " bytes, must fit the file", st->name,
                        (uint64_t)st->size);
    return KIN_OK;
}

/* The one entry FOLDER/data.pkl. */
static kin_status find_pickle(kin_pth_zip *z, kin_error *err)
{
    const zip_int64_t n = zip_get_num_entries(z->zip, 0);
    int found = 0;
    for (zip_int64_t i = 0; i < n; i++) {
        const char *name = zip_get_name(z->zip, (zip_uint64_t)i, ZIP_FL_ENC_RAW);
        const char *slash = name ? strchr(name, '/') : NULL;
        if (!slash || strcmp(slash, "/data.pkl") != 0)
            continue;
        found++;
        z->pickle = (zip_uint64_t)i;
        if (snprintf(z->prefix, sizeof z->prefix, "%.*s", (int)(slash - name + 1), name) >=
            (int)sizeof z->prefix)
            return kin_fail(err, KIN_ERR_FORMAT, "zip: the name of an entry is too long");
    }
    return found == 1 ? KIN_OK
                      : kin_fail(err, KIN_ERR_FORMAT,
                                 "zip: %d entries FOLDER/data.pkl, torch.save writes one", found);
}

static kin_status find(kin_pth_zip *z, const char *name, zip_uint64_t *index, kin_error *err)
{
    const zip_int64_t i = zip_name_locate(z->zip, name, ZIP_FL_ENC_RAW);
    if (i < 0)
        return kin_fail(err, KIN_ERR_FORMAT, "zip: no entry \"%.200s\"", name);
    *index = (zip_uint64_t)i;
    return KIN_OK;
}

static kin_status place(kin_pth_zip *z, zip_uint64_t index, const uint8_t **data, size_t *bytes,
                        kin_error *err)
{
    zip_stat_t st;
    char one;
    KIN_TRY(stat_stored(z, index, &st, err));
    *bytes = (size_t)st.size;
    *data = z->file.data;
    if (st.size == 0)
        return KIN_OK;
    zip_file_t *f = zip_fopen_index(z->zip, index, ZIP_FL_COMPRESSED);
    if (!f)
        return fail_zip(zip_get_error(z->zip), st.name, err);
    z->file.last = UINT64_MAX;
    const bool ok = zip_fread(f, &one, 1) == 1;
    zip_fclose(f);
    if (!ok || z->file.last > z->file.bytes || st.size > z->file.bytes - z->file.last)
        return kin_fail(err, KIN_ERR_FORMAT, "zip: \"%.100s\" must lie inside the file", st.name);
    *data = z->file.data + z->file.last;
    return KIN_OK;
}

static kin_status check_order(kin_pth_zip *z, kin_error *err)
{
    char name[KIN_PATH_MAX + 16];
    const uint8_t *data;
    size_t n;
    snprintf(name, sizeof name, "%sbyteorder", z->prefix);
    const zip_int64_t i = zip_name_locate(z->zip, name, ZIP_FL_ENC_RAW);
    if (i < 0)
        return KIN_OK; /* files of torch 1 have none and are little-endian */
    KIN_TRY(place(z, (zip_uint64_t)i, &data, &n, err));
    if (n == 6 && memcmp(data, "little", 6) == 0)
        return KIN_OK;
    return n == 3 && memcmp(data, "big", 3) == 0
               ? kin_fail(err, KIN_ERR_UNSUPPORTED, "zip: numbers are big-endian")
               : kin_fail(err, KIN_ERR_FORMAT, "zip: byteorder must be little or big");
}

kin_status kin_pth_zip_open(const kin_blob *blob, kin_pth_zip **out, kin_error *err)
{
    kin_pth_zip *z = *out = kin_calloc(1, sizeof *z);
    if (!z)
        return kin_fail(err, KIN_ERR_MEM, "zip: out of memory");
    z->file.data = blob->data;
    z->file.bytes = blob->bytes;
    zip_error_init(&z->file.error);
    kin_status status = open_archive(z, err);
    if (status == KIN_OK)
        status = find_pickle(z, err);
    if (status == KIN_OK)
        status = check_order(z, err);
    if (status != KIN_OK)
        kin_pth_zip_close(out);
    return status;
}

void kin_pth_zip_close(kin_pth_zip **zip)
{
    kin_pth_zip *z = *zip;
    if (!z)
        return;
    if (z->zip)
        zip_discard(z->zip);
    zip_error_fini(&z->file.error);
    kin_free(z);
    *zip = NULL;
}

/* Reads entry `index` to its end, where libzip compares the checksum; into `to` or nowhere. */
static kin_status read_entry(kin_pth_zip *z, zip_uint64_t index, uint8_t *to, size_t bytes,
                             kin_error *err)
{
    static const size_t piece = 1 << 16;
    uint8_t *spare = to ? NULL : kin_malloc(piece);
    zip_file_t *f = to || spare ? zip_fopen_index(z->zip, index, 0) : NULL;
    const char *name = zip_get_name(z->zip, index, ZIP_FL_ENC_RAW);
    zip_int64_t n = 0;
    size_t at = 0;
    if (!to && !spare)
        return kin_fail(err, KIN_ERR_MEM, "zip: out of memory");
    kin_status status = f ? KIN_OK : fail_zip(zip_get_error(z->zip), name, err);
    do {
        const size_t left = bytes - at;
        if (f)
            n = zip_fread(f, to ? to + at : spare, to ? left + (left == 0) : piece);
        at += n > 0 ? (size_t)n : 0;
    } while (f && n > 0 && at <= bytes);
    if (f && n < 0)
        status = fail_zip(zip_file_get_error(f), name, err);
    else if (f && at != bytes)
        status = kin_fail(err, KIN_ERR_FORMAT, "zip: \"%.100s\" is not as long as it says", name);
    if (f)
        zip_fclose(f);
    kin_free(spare);
    return status;
}

kin_status kin_pth_zip_pickle(kin_pth_zip *z, uint8_t **data, size_t *bytes, kin_error *err)
{
    zip_stat_t st;
    KIN_TRY(stat_stored(z, z->pickle, &st, err));
    if (st.size > KIN_PICKLE_MAX_BYTES)
        return kin_fail(err, KIN_ERR_FORMAT, "zip: data.pkl of %" PRIu64 " bytes, at most %d",
                        (uint64_t)st.size, KIN_PICKLE_MAX_BYTES);
    *bytes = (size_t)st.size;
    *data = kin_malloc(*bytes + 1); /* note: one more, for the read that finds the end */
    if (!*data)
        return kin_fail(err, KIN_ERR_MEM, "zip: no memory for data.pkl");
    kin_status status = read_entry(z, z->pickle, *data, *bytes, err);
    if (status != KIN_OK) {
        kin_free(*data);
        *data = NULL;
    }
    return status;
}

kin_status kin_pth_zip_storage(kin_pth_zip *z, const char *key, size_t n, const uint8_t **data,
                               size_t *bytes, kin_error *err)
{
    char name[KIN_PATH_MAX + 128];
    zip_uint64_t index = 0;
    if (n == 0 || n > 64 || memchr(key, '/', n) || memchr(key, '\0', n))
        return kin_fail(err, KIN_ERR_FORMAT, "storage key \"%.*s\" must be a bare name",
                        (int)(n < 64 ? n : 64), key);
    snprintf(name, sizeof name, "%sdata/%.*s", z->prefix, (int)n, key);
    KIN_TRY(find(z, name, &index, err));
    return place(z, index, data, bytes, err);
}

kin_status kin_pth_zip_verify(kin_pth_zip *z, kin_error *err)
{
    const zip_int64_t n = zip_get_num_entries(z->zip, 0);
    for (zip_int64_t i = 0; i < n; i++) {
        zip_stat_t st;
        KIN_TRY(stat_stored(z, (zip_uint64_t)i, &st, err));
        KIN_TRY(read_entry(z, (zip_uint64_t)i, NULL, (size_t)st.size, err));
    }
    return KIN_OK;
}
