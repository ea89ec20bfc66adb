#include "io/pth_write.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zip.h>

#include "base/alloc.h"
#include "base/path.h"
#include "base/text.h"

enum { ALIGN = 64, FB = 0x4246, PIECE = 1 << 16, MAX_OPEN = 16 };

struct kin_pth_out {
    kin_strbuf pickle;
    kin_item *items; /* by storage */
    int64_t count, cap;
    char closing[MAX_OPEN]; /* opcodes that end what is open */
    int open;
    bool failed, bad_type;
};

/* --- the pickle --- */

static void op(kin_pth_out *o, const char *bytes, size_t n)
{
    kin_strbuf_add_bytes(&o->pickle, bytes, n);
}

static void put_le(kin_pth_out *o, uint64_t v, int bytes)
{
    char b[8];
    for (int i = 0; i < bytes; i++)
        b[i] = (char)(v >> (8 * i));
    op(o, b, (size_t)bytes);
}

static void put_text(kin_pth_out *o, const char *s)
{
    op(o, "X", 1);
    put_le(o, strlen(s), 4);
    op(o, s, strlen(s));
}

static void begin(kin_pth_out *o, const char *start, char end)
{
    if (o->open == MAX_OPEN) {
        o->failed = true;
        return;
    }
    op(o, start, 2);
    o->closing[o->open++] = end;
}

void kin_pth_out_dict(kin_pth_out *o)
{
    begin(o, "}(", 'u');
}

void kin_pth_out_list(kin_pth_out *o)
{
    begin(o, "](", 'e');
}

void kin_pth_out_end(kin_pth_out *o)
{
    if (o->open == 0)
        o->failed = true;
    else
        op(o, &o->closing[--o->open], 1);
}

void kin_pth_out_key(kin_pth_out *o, const char *name)
{
    put_text(o, name);
}

void kin_pth_out_int(kin_pth_out *o, int64_t v)
{
    if (v >= INT32_MIN && v <= INT32_MAX) {
        op(o, "J", 1);
        put_le(o, (uint64_t)v, 4);
    } else {
        op(o, "\x8A\x08", 2);
        put_le(o, (uint64_t)v, 8);
    }
}

void kin_pth_out_key_int(kin_pth_out *o, int64_t i)
{
    kin_pth_out_int(o, i);
}

void kin_pth_out_float(kin_pth_out *o, double v)
{
    uint64_t bits;
    char b[8];
    memcpy(&bits, &v, sizeof bits);
    for (int i = 0; i < 8; i++) /* note: big-endian */
        b[i] = (char)(bits >> (56 - 8 * i));
    op(o, "G", 1);
    op(o, b, 8);
}

void kin_pth_out_bool(kin_pth_out *o, bool v)
{
    op(o, v ? "\x88" : "\x89", 1);
}

void kin_pth_out_none(kin_pth_out *o)
{
    op(o, "N", 1);
}

static const char *storage_type(kin_dtype d)
{
    switch (d) {
    case KIN_DTYPE_F32: return "FloatStorage";
    case KIN_DTYPE_F64: return "DoubleStorage";
    case KIN_DTYPE_BF16: return "BFloat16Storage";
    case KIN_DTYPE_F16: return "HalfStorage";
    case KIN_DTYPE_I64: return "LongStorage";
    case KIN_DTYPE_I32: return "IntStorage";
    case KIN_DTYPE_I8: return "CharStorage";
    case KIN_DTYPE_U8: return "ByteStorage";
    case KIN_DTYPE_F8: break;
    }
    return NULL;
}

/* _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()) */
void kin_pth_out_again(kin_pth_out *o, int64_t storage)
{
    static const char rebuild[] = "ctorch._utils\n_rebuild_tensor_v2\n((";
    static const char ordered[] = "\x89"
                                  "ccollections\nOrderedDict\n)RtR";
    char text[64];
    if (o->failed || storage < 0 || storage >= o->count) {
        o->failed = true;
        return;
    }
    const kin_item *t = &o->items[storage];
    op(o, rebuild, sizeof rebuild - 1);
    put_text(o, "storage");
    const int n = snprintf(text, sizeof text, "ctorch\n%s\n", storage_type(t->store));
    op(o, text, (size_t)n);
    snprintf(text, sizeof text, "%" PRId64, storage);
    put_text(o, text);
    put_text(o, "cpu");
    kin_pth_out_int(o, kin_item_numel(t));
    op(o, "tQ", 2);
    kin_pth_out_int(o, 0);
    op(o, "(", 1);
    for (int d = 0; d < t->ndim; d++)
        kin_pth_out_int(o, t->size[d]);
    op(o, "t(", 2);
    for (int d = 0; d < t->ndim; d++) {
        int64_t stride = 1;
        for (int k = d + 1; k < t->ndim; k++)
            stride *= t->size[k] ? t->size[k] : 1;
        kin_pth_out_int(o, stride);
    }
    op(o, "t", 1);
    op(o, ordered, sizeof ordered - 1);
}

int64_t kin_pth_out_tensor(kin_pth_out *o, const kin_item *item)
{
    if (o->count == o->cap) {
        const int64_t cap = o->cap ? 2 * o->cap : 64;
        kin_item *more = kin_malloc((size_t)cap * sizeof *more);
        if (!more) {
            o->failed = true;
            return -1;
        }
        if (o->count)
            memcpy(more, o->items, (size_t)o->count * sizeof *more);
        kin_free(o->items);
        o->items = more;
        o->cap = cap;
    }
    o->bad_type = o->bad_type || !kin_elements_can(item->type, item->store);
    o->items[o->count] = *item;
    kin_pth_out_again(o, o->count++);
    return o->count - 1;
}

kin_status kin_pth_out_create(kin_pth_out **out, kin_error *err)
{
    *out = kin_calloc(1, sizeof **out);
    if (!*out)
        return kin_fail(err, KIN_ERR_MEM, "pth: out of memory");
    op(*out, "\x80\x02", 2);
    return KIN_OK;
}

void kin_pth_out_close(kin_pth_out **out)
{
    if (!*out)
        return;
    kin_strbuf_free(&(*out)->pickle);
    kin_free((*out)->items);
    kin_free(*out);
    *out = NULL;
}

/* --- the archive --- */

/* An item as a source of libzip, read piece by piece. */
typedef struct item_source {
    const kin_item *item;
    int64_t at, numel; /* elements handed out */
    size_t have, used; /* bytes of the piece */
    char *piece;
    zip_error_t error;
} item_source;

static zip_int64_t source_read(item_source *s, char *to, zip_uint64_t want)
{
    zip_uint64_t done = 0;
    while (done < want) {
        if (s->used == s->have) {
            const int64_t left = s->numel - s->at, n = left < PIECE ? left : PIECE;
            if (n == 0)
                break;
            s->item->read(s->item->user, s->at, n, s->item->store, s->piece);
            s->at += n;
            s->have = (size_t)n * kin_dtype_size(s->item->store);
            s->used = 0;
        }
        const zip_uint64_t n = want - done < s->have - s->used ? want - done : s->have - s->used;
        memcpy(to + done, s->piece + s->used, (size_t)n);
        s->used += (size_t)n;
        done += n;
    }
    return (zip_int64_t)done;
}

static zip_int64_t source_call(void *user, void *data, zip_uint64_t n, zip_source_cmd_t cmd)
{
    item_source *s = user;
    zip_stat_t *st = data;
    switch (cmd) {
    case ZIP_SOURCE_OPEN:
        s->at = 0;
        s->have = s->used = 0;
        s->piece = kin_malloc(PIECE * sizeof(double));
        if (!s->piece)
            zip_error_set(&s->error, ZIP_ER_MEMORY, 0);
        return s->piece ? 0 : -1;
    case ZIP_SOURCE_READ: return source_read(s, data, n);
    case ZIP_SOURCE_CLOSE:
        kin_free(s->piece);
        s->piece = NULL;
        return 0;
    case ZIP_SOURCE_STAT:
        zip_stat_init(st);
        st->size = (zip_uint64_t)s->numel * kin_dtype_size(s->item->store);
        st->valid |= ZIP_STAT_SIZE;
        return sizeof *st;
    case ZIP_SOURCE_ERROR: return zip_error_to_data(&s->error, data, n);
    case ZIP_SOURCE_FREE: return 0; /* the sources are one array */
    case ZIP_SOURCE_SUPPORTS:
        return zip_source_make_command_bitmap(ZIP_SOURCE_OPEN, ZIP_SOURCE_READ, ZIP_SOURCE_CLOSE,
                                              ZIP_SOURCE_STAT, ZIP_SOURCE_ERROR, ZIP_SOURCE_FREE,
                                              -1);
    default: zip_error_set(&s->error, ZIP_ER_OPNOTSUPP, 0); return -1;
    }
}

typedef struct archive {
    zip_t *zip;
    uint64_t at; /* where the next local header will lie */
    kin_error *err;
    const char *path;
} archive;

static kin_status fail_zip(const archive *a, zip_error_t *e)
{
    const bool memory = zip_error_code_zip(e) == ZIP_ER_MEMORY;
    return kin_fail(a->err, memory ? KIN_ERR_MEM : KIN_ERR_IO, "write: %s: %s", a->path,
                    zip_error_strerror(e));
}

/* Adds an entry, stored, with an extra field that puts its data on a multiple of 64 bytes as
 * torch's writer does, so that readers can map it. */
static kin_status add_entry(archive *a, const char *name, zip_source_t *source, uint64_t bytes)
{
    /* note: libzip adds a field of its own for entries beyond 4 GiB */
    const uint64_t header = 30 + strlen(name) + 4 + (bytes > UINT32_MAX ? 20 : 0);
    const uint64_t pad = (ALIGN - (a->at + header) % ALIGN) % ALIGN;
    uint8_t zeros[ALIGN] = {0};
    const zip_int64_t i = source ? zip_file_add(a->zip, name, source, ZIP_FL_ENC_UTF_8) : -1;
    if (i < 0) {
        zip_source_free(source);
        return fail_zip(a, zip_get_error(a->zip));
    }
    if (zip_set_file_compression(a->zip, (zip_uint64_t)i, ZIP_CM_STORE, 0) != 0 ||
        zip_file_set_mtime(a->zip, (zip_uint64_t)i, 315532800, 0) != 0 || /* 1980: same bytes */
        zip_file_extra_field_set(a->zip, (zip_uint64_t)i, FB, 0, zeros, (zip_uint16_t)pad,
                                 ZIP_FL_LOCAL) != 0)
        return fail_zip(a, zip_get_error(a->zip));
    a->at += header + pad + bytes;
    return KIN_OK;
}

static kin_status add_bytes(archive *a, const char *name, const void *data, size_t n)
{
    return add_entry(a, name, zip_source_buffer(a->zip, data, n, 0), n);
}

static kin_status add_items(archive *a, const kin_pth_out *o, item_source *sources,
                            const char *prefix)
{
    char name[512];
    for (int64_t i = 0; i < o->count; i++) {
        item_source *s = &sources[i];
        s->item = &o->items[i];
        s->numel = kin_item_numel(s->item);
        zip_error_init(&s->error);
        snprintf(name, sizeof name, "%s/data/%" PRId64, prefix, i);
        KIN_TRY(add_entry(a, name, zip_source_function(a->zip, source_call, s),
                          (uint64_t)s->numel * kin_dtype_size(s->item->store)));
    }
    return KIN_OK;
}

static kin_status fill(archive *a, const kin_pth_out *o, item_source *sources)
{
    char prefix[256], name[512];
    const char *base = kin_path_base(a->path), *dot = strrchr(base, '.');
    const int stem = dot && dot != base ? (int)(dot - base) : (int)strlen(base);
    snprintf(prefix, sizeof prefix, "%.*s", stem < 200 ? stem : 200, base);
    snprintf(name, sizeof name, "%s/data.pkl", prefix);
    KIN_TRY(add_bytes(a, name, o->pickle.data, o->pickle.len));
    snprintf(name, sizeof name, "%s/byteorder", prefix);
    KIN_TRY(add_bytes(a, name, "little", 6));
    KIN_TRY(add_items(a, o, sources, prefix));
    snprintf(name, sizeof name, "%s/version", prefix);
    return add_bytes(a, name, "3\n", 2);
}

static kin_status write_archive(archive *a, const char *temp, const kin_pth_out *o)
{
    int code = 0;
    item_source *sources = kin_calloc((size_t)o->count + 1, sizeof *sources);
    if (!sources)
        return kin_fail(a->err, KIN_ERR_MEM, "write: %s: out of memory", a->path);
    a->zip = zip_open(temp, ZIP_CREATE | ZIP_TRUNCATE, &code);
    kin_status status = KIN_OK;
    if (!a->zip) {
        zip_error_t e;
        zip_error_init_with_code(&e, code);
        status = fail_zip(a, &e);
        zip_error_fini(&e);
    } else {
        status = fill(a, o, sources);
        /* note: everything is written here; disk full is found here */
        if (status == KIN_OK && zip_close(a->zip) != 0)
            status = fail_zip(a, zip_get_error(a->zip));
        else if (status == KIN_OK)
            a->zip = NULL;
        if (a->zip)
            zip_discard(a->zip);
    }
    kin_free(sources);
    return status;
}

/* temp -> path, both synced */
static kin_status publish(const char *temp, const char *path, kin_error *err)
{
    char dir[KIN_PATH_MAX];
    const int fd = open(temp, O_RDONLY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    const int code = errno;
    if (fd >= 0)
        close(fd);
    if (!ok)
        return kin_fail(err, KIN_ERR_IO, "write: %s: %s", path, strerror(code));
    if (rename(temp, path) != 0)
        return kin_fail(err, KIN_ERR_IO, "write: %s: %s", path, strerror(errno));
    KIN_TRY(kin_path_dir(dir, path, err));
    return kin_path_sync_dir(dir, err);
}

kin_status kin_pth_out_commit(kin_pth_out *o, const char *path, kin_error *err)
{
    char temp[KIN_PATH_MAX];
    archive a = {.err = err, .path = path};
    if (o->bad_type)
        return kin_fail(err, KIN_ERR_ARG, "pth: a tensor cannot have the type asked for");
    op(o, ".", 1);
    if (o->failed || o->pickle.failed)
        return kin_fail(err, KIN_ERR_MEM, "pth: no memory to write %s", path);
    if (snprintf(temp, sizeof temp, "%s.tmp.%ld", path, (long)getpid()) >= KIN_PATH_MAX)
        return kin_fail(err, KIN_ERR_ARG, "pth: path too long: %.80s...", path);
    kin_status status = write_archive(&a, temp, o);
    if (status == KIN_OK)
        status = publish(temp, path, err);
    if (status != KIN_OK)
        unlink(temp);
    return status;
}
