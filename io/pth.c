#include "io/pth.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/text.h"
#include "io/pth_parts.h"

/* of the storage types, in their order */
static const kin_dtype storage_dtype[] = {KIN_DTYPE_F32, KIN_DTYPE_F16, KIN_DTYPE_BF16,
                                          KIN_DTYPE_F64, KIN_DTYPE_I64, KIN_DTYPE_I32,
                                          KIN_DTYPE_I8,  KIN_DTYPE_U8,  KIN_DTYPE_U8};

kin_dtype kin_pth_storage_dtype(const kin_pth_storage *s)
{
    return storage_dtype[s->type];
}

/* --- storages --- */

static int compare_storages(const void *pa, const void *pb)
{
    const kin_pth_storage *a = pa, *b = pb;
    if (a->key_length != b->key_length)
        return a->key_length < b->key_length ? -1 : 1;
    return memcmp(a->key, b->key, a->key_length);
}

static kin_pth_storage *find_storage(const kin_pth *p, const kin_pickle_value *key)
{
    const kin_pth_storage want = {.key = key->text, .key_length = key->count};
    return p->storage_count
               ? bsearch(&want, p->storages, p->storage_count, sizeof want, compare_storages)
               : NULL;
}

const kin_pth_storage *kin_pth_storage_of(const kin_pth *p, const kin_pickle_value *persistent)
{
    const kin_pickle_value *id = &p->pickle.value[persistent->item[0]];
    return find_storage(p, &p->pickle.value[id->item[2]]);
}

/* ('storage', type, key, place, count[, None]) */
static kin_status parse_storage(const kin_pickle *k, const kin_pickle_value *persistent,
                                kin_pth_storage *out, kin_error *err)
{
    static const uint8_t kinds[] = {KIN_PICKLE_STRING, KIN_PICKLE_GLOBAL, KIN_PICKLE_STRING,
                                    KIN_PICKLE_STRING, KIN_PICKLE_INT,    KIN_PICKLE_NONE};
    const kin_pickle_value *id = &k->value[persistent->item[0]];
    bool ok = id->kind == KIN_PICKLE_TUPLE && (id->count == 5 || id->count == 6);
    for (uint32_t i = 0; ok && i < id->count; i++)
        ok = k->value[id->item[i]].kind == kinds[i];
    if (!ok || k->value[id->item[0]].count != 7 ||
        memcmp(k->value[id->item[0]].text, "storage", 7) != 0)
        return kin_fail(err, KIN_ERR_FORMAT, "a storage is not described as torch.save does");
    const kin_pickle_value *key = &k->value[id->item[2]];
    *out = (kin_pth_storage){.key = key->text,
                             .key_length = key->count,
                             .type = k->value[id->item[1]].i,
                             .count = (uint64_t)k->value[id->item[4]].i};
    if (!kin_pickle_storage_type(out->type))
        return kin_fail(err, KIN_ERR_FORMAT, "a storage of an unknown type");
    if (k->value[id->item[4]].i < 0 || out->count > UINT64_C(1) << 60)
        return kin_fail(err, KIN_ERR_FORMAT, "a storage of %" PRId64 " elements",
                        k->value[id->item[4]].i);
    return KIN_OK;
}

/* All storages that the pickle names, each once. */
static kin_status list_storages(kin_pth *p, kin_error *err)
{
    const kin_pickle *k = &p->pickle;
    size_t n = 0, kept = 0;
    for (uint32_t i = 0; i < k->count; i++)
        n += k->value[i].kind == KIN_PICKLE_PERSISTENT;
    p->storages = kin_calloc(n + 1, sizeof *p->storages);
    if (!p->storages)
        return kin_fail(err, KIN_ERR_MEM, "no memory for %zu storages", n);
    n = 0;
    for (uint32_t i = 0; i < k->count; i++)
        if (k->value[i].kind == KIN_PICKLE_PERSISTENT)
            KIN_TRY(parse_storage(k, &k->value[i], &p->storages[n++], err));
    qsort(p->storages, n, sizeof *p->storages, compare_storages);
    for (size_t i = 0; i < n; i++) {
        const kin_pth_storage *s = &p->storages[i], *before = &p->storages[kept ? kept - 1 : 0];
        if (kept == 0 || compare_storages(before, s) != 0)
            p->storages[kept++] = *s;
        else if (before->type != s->type || before->count != s->count)
            return kin_fail(err, KIN_ERR_FORMAT, "storage \"%.*s\" is described in two ways",
                            (int)(s->key_length < 64 ? s->key_length : 64), s->key);
    }
    p->storage_count = kept;
    return KIN_OK;
}

static size_t storage_bytes(const kin_pth_storage *s)
{
    return (size_t)s->count * kin_dtype_size(storage_dtype[s->type]);
}

static kin_status place_zip_storages(kin_pth *p, kin_error *err)
{
    for (size_t i = 0; i < p->storage_count; i++) {
        kin_pth_storage *s = &p->storages[i];
        size_t bytes;
        KIN_TRY(kin_pth_zip_storage(p->zip, s->key, s->key_length, &s->data, &bytes, err));
        if (bytes != storage_bytes(s))
            return kin_fail(err, KIN_ERR_FORMAT,
                            "storage \"%.*s\" has %zu bytes, its description says %zu",
                            (int)s->key_length, s->key, bytes, storage_bytes(s));
    }
    return KIN_OK;
}

/* --- the stream: five pickles, then for each storage its count and data --- */

static const uint8_t magic[] = {0x8A, 0x0A, 0x6C, 0xFC, 0x9C, 0x46, 0xF9,
                                0x20, 0x6A, 0xA8, 0x50, 0x19, '.'};

bool kin_pth_detect(const uint8_t *d, size_t n)
{
    return (n >= 4 && memcmp(d, "PK\3\4", 4) == 0) ||
           (n >= 2 + sizeof magic && d[0] == 0x80 && memcmp(d + 2, magic, sizeof magic) == 0);
}

/* A pickle at *at, which moves behind it. */
static kin_status next_pickle(const kin_pth *p, size_t *at, kin_pickle *out, kin_error *err)
{
    KIN_TRY(kin_pickle_parse(p->blob.data + *at, p->blob.bytes - *at, out, err));
    *at += out->used;
    return KIN_OK;
}

static const kin_pickle_value *member(const kin_pickle *k, uint32_t dict, const char *key)
{
    const kin_pickle_value *d = &k->value[dict];
    for (uint32_t i = 0; d->kind == KIN_PICKLE_DICT && i + 1 < d->count; i += 2) {
        const kin_pickle_value *name = &k->value[d->item[i]];
        if (name->kind == KIN_PICKLE_STRING && name->count == strlen(key) &&
            memcmp(name->text, key, name->count) == 0)
            return &k->value[d->item[i + 1]];
    }
    return NULL;
}

static kin_status check_stream(const kin_pth *p, size_t *at, kin_error *err)
{
    kin_pickle k;
    kin_status status = next_pickle(p, at, &k, err);
    if (status == KIN_OK && (k.value[k.root].kind != KIN_PICKLE_INT || k.value[k.root].i != 1001))
        status = kin_fail(err, KIN_ERR_FORMAT, "stream: protocol version must be 1001");
    kin_pickle_free(&k);
    KIN_TRY(status);
    status = next_pickle(p, at, &k, err);
    if (status == KIN_OK) {
        const kin_pickle_value *little = member(&k, k.root, "little_endian");
        if (!little || little->kind != KIN_PICKLE_BOOL || !little->i)
            status = kin_fail(err, KIN_ERR_UNSUPPORTED, "stream: numbers are big-endian");
    }
    kin_pickle_free(&k);
    return status;
}

/* One storage of the list of keys, at *at of the file. */
static kin_status place_next(kin_pth *p, const kin_pickle_value *key, size_t *at, kin_error *err)
{
    kin_pth_storage *s = key->kind == KIN_PICKLE_STRING ? find_storage(p, key) : NULL;
    uint64_t count = 0;
    if (!s || s->data)
        return kin_fail(err, KIN_ERR_FORMAT, "stream: a storage that no tensor names, or twice");
    if (p->blob.bytes - *at < 8)
        return kin_fail(err, KIN_ERR_FORMAT, "stream: the file ends before storage \"%.*s\"",
                        (int)s->key_length, s->key);
    for (int i = 7; i >= 0; i--)
        count = count << 8 | p->blob.data[*at + (size_t)i];
    *at += 8;
    if (count != s->count || storage_bytes(s) > p->blob.bytes - *at)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "stream: storage \"%.*s\" of %" PRIu64 " elements must be of %" PRIu64
                        " and lie inside the file",
                        (int)s->key_length, s->key, count, s->count);
    s->data = p->blob.data + *at;
    *at += storage_bytes(s);
    return KIN_OK;
}

static kin_status place_stream(kin_pth *p, size_t at, kin_error *err)
{
    kin_pickle keys;
    size_t placed = 0;
    kin_status status = next_pickle(p, &at, &keys, err);
    const kin_pickle_value *list = status == KIN_OK ? &keys.value[keys.root] : NULL;
    if (list && list->kind != KIN_PICKLE_LIST)
        status = kin_fail(err, KIN_ERR_FORMAT, "stream: the storage keys must be a list");
    for (uint32_t i = 0; status == KIN_OK && i < list->count; i++, placed++)
        status = place_next(p, &keys.value[list->item[i]], &at, err);
    kin_pickle_free(&keys);
    KIN_TRY(status);
    if (placed != p->storage_count || at != p->blob.bytes)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "stream: %zu of %zu storages, %zu bytes after the last", placed,
                        p->storage_count, p->blob.bytes - at);
    return KIN_OK;
}

static kin_status read_stream(kin_pth *p, kin_error *err)
{
    size_t at = 2 + sizeof magic;
    KIN_TRY(check_stream(p, &at, err));
    KIN_TRY(next_pickle(p, &at, &p->pickle, err));
    KIN_TRY(list_storages(p, err));
    return place_stream(p, at, err);
}

static kin_status read_zip(kin_pth *p, kin_error *err)
{
    size_t n;
    KIN_TRY(kin_pth_zip_open(&p->blob, &p->zip, err));
    KIN_TRY(kin_pth_zip_pickle(p->zip, &p->pickle_bytes, &n, err));
    KIN_TRY(kin_pickle_parse(p->pickle_bytes, n, &p->pickle, err));
    if (p->pickle.used != n)
        return kin_fail(err, KIN_ERR_FORMAT, "data.pkl: %zu bytes after its end",
                        n - p->pickle.used);
    KIN_TRY(list_storages(p, err));
    return place_zip_storages(p, err);
}

/* --- open --- */

static int compare_names(const void *pa, const void *pb)
{
    const kin_pth_entry *a = *(const kin_pth_entry *const *)pa;
    const kin_pth_entry *b = *(const kin_pth_entry *const *)pb;
    return strcmp(a->name, b->name);
}

static int compare_scalars(const void *a, const void *b)
{
    return strcmp(((const kin_pth_scalar *)a)->name, ((const kin_pth_scalar *)b)->name);
}

static kin_status sort_names(kin_pth *p, kin_error *err)
{
    const size_t n = (size_t)p->count;
    p->by_name = kin_calloc(n + 1, sizeof *p->by_name);
    p->copies = kin_calloc(n + 1, sizeof *p->copies);
    if (!p->by_name || !p->copies)
        return kin_fail(err, KIN_ERR_MEM, "no memory for %zu tensors", n);
    for (size_t i = 0; i < n; i++)
        p->by_name[i] = &p->list[i];
    qsort(p->by_name, n, sizeof *p->by_name, compare_names);
    for (size_t i = 1; i < n; i++)
        if (strcmp(p->by_name[i - 1]->name, p->by_name[i]->name) == 0)
            return kin_fail(err, KIN_ERR_FORMAT, "tensor \"%.100s\" is there twice",
                            p->by_name[i]->name);
    if (p->scalar_count)
        qsort(p->scalars, (size_t)p->scalar_count, sizeof *p->scalars, compare_scalars);
    return KIN_OK;
}

static kin_status read_all(kin_pth *p, kin_error *err)
{
    if (!kin_pth_detect(p->blob.data, p->blob.bytes))
        return kin_fail(err, KIN_ERR_FORMAT, "is not a file of torch.save");
    KIN_TRY(p->blob.data[0] == 'P' ? read_zip(p, err) : read_stream(p, err));
    KIN_TRY(kin_pth_walk(p, err));
    KIN_TRY(sort_names(p, err));
    kin_pickle_free(&p->pickle);
    kin_free(p->pickle_bytes);
    p->pickle_bytes = NULL;
    p->storage_count = 0; /* their keys stood in the pickle */
    return KIN_OK;
}

kin_status kin_pth_open(const char *path, kin_pth **out, kin_error *err)
{
    kin_pth *p = *out = kin_calloc(1, sizeof *p);
    if (!p)
        return kin_fail(err, KIN_ERR_MEM, "pth: out of memory");
    kin_status status = kin_blob_open(path, &p->blob, err);
    if (status == KIN_OK) {
        status = read_all(p, err);
        if (status != KIN_OK)
            kin_fail_prefix(err, "pth: %s", path);
    }
    if (status != KIN_OK)
        kin_pth_close(out);
    return status;
}

void kin_pth_close(kin_pth **pth)
{
    kin_pth *p = *pth;
    if (!p)
        return;
    for (int64_t i = 0; i < p->count; i++) {
        kin_free((void *)(uintptr_t)p->list[i].name);
        if (p->copies)
            kin_free(p->copies[i]);
    }
    for (int64_t i = 0; i < p->scalar_count; i++)
        kin_free((void *)(uintptr_t)p->scalars[i].name);
    kin_free(p->scalars);
    kin_free(p->copies);
    kin_free(p->by_name);
    kin_free(p->list);
    kin_free(p->storages);
    kin_pickle_free(&p->pickle);
    kin_free(p->pickle_bytes);
    kin_pth_zip_close(&p->zip);
    kin_blob_close(&p->blob);
    kin_free(p);
    *pth = NULL;
}

/* --- access --- */

bool kin_pth_is_legacy(const kin_pth *pth)
{
    return !pth->zip;
}

int64_t kin_pth_count(const kin_pth *pth)
{
    return pth->count;
}

const kin_pth_entry *kin_pth_at(const kin_pth *pth, int64_t i)
{
    return &pth->list[i];
}

int64_t kin_pth_number_count(const kin_pth *pth)
{
    return pth->scalar_count;
}

int64_t kin_pth_find(const kin_pth *pth, const char *name)
{
    int64_t lo = 0, hi = pth->count;
    while (lo < hi) {
        const int64_t mid = lo + (hi - lo) / 2;
        const int c = strcmp(pth->by_name[mid]->name, name);
        if (c == 0)
            return pth->by_name[mid] - pth->list;
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return -1;
}

bool kin_pth_number(const kin_pth *pth, const char *name, double *out)
{
    const kin_pth_scalar want = {.name = name};
    const kin_pth_scalar *s =
        pth->scalar_count
            ? bsearch(&want, pth->scalars, (size_t)pth->scalar_count, sizeof want, compare_scalars)
            : NULL;
    const int64_t i = s ? -1 : kin_pth_find(pth, name);
    if (s)
        *out = s->value;
    if (i < 0)
        return s != NULL;
    for (int d = 0; d < pth->list[i].ndim; d++)
        if (pth->list[i].size[d] != 1)
            return false;
    kin_pth_read(&pth->list[i], 0, 1, KIN_DTYPE_F64, out);
    return true;
}

static void read_strided(const kin_pth_entry *e, int64_t at, int64_t n, kin_dtype as, char *out)
{
    int64_t index[KIN_ITEM_MAX_DIMS] = {0}, offset = 0;
    const size_t in = kin_dtype_size(e->dtype), step = kin_dtype_size(as);
    for (int d = e->ndim - 1; d >= 0; d--) {
        index[d] = at % e->size[d];
        at /= e->size[d];
        offset += index[d] * e->stride[d];
    }
    for (int64_t i = 0; i < n; i++) {
        kin_elements_convert(e->data + (size_t)offset * in, e->dtype, 1, as,
                             out + (size_t)i * step);
        for (int d = e->ndim - 1; d >= 0; d--) {
            offset += e->stride[d];
            if (++index[d] < e->size[d])
                break;
            offset -= index[d] * e->stride[d];
            index[d] = 0;
        }
    }
}

void kin_pth_read(const kin_pth_entry *e, int64_t at, int64_t n, kin_dtype as, void *out)
{
    if (n <= 0)
        return;
    if (e->contiguous)
        kin_elements_convert(e->data + (size_t)at * kin_dtype_size(e->dtype), e->dtype, n, as, out);
    else
        read_strided(e, at, n, as, out);
}

static void read_item(const void *user, int64_t at, int64_t n, kin_dtype as, void *out)
{
    const kin_pth_entry *e = user;
    const size_t size = kin_dtype_size(e->dtype);
    kin_pth_read(e, at, n, as, out);
    if (e->contiguous)
        kin_mapped_drop(e->data + (size_t)at * size, (size_t)n * size);
}

kin_item kin_pth_item(const kin_pth *pth, int64_t i, const char *name, kin_dtype store)
{
    const kin_pth_entry *e = &pth->list[i];
    kin_item item = {.name = name,
                     .ndim = e->ndim,
                     .type = e->dtype,
                     .store = store,
                     .read = read_item,
                     .user = e};
    memcpy(item.size, e->size, sizeof item.size);
    return item;
}

kin_status kin_pth_tensor(kin_pth *pth, int64_t i, kin_tensor *out, kin_error *err)
{
    const kin_pth_entry *e = &pth->list[i];
    const void *data = e->data;
    const size_t size = kin_dtype_size(e->dtype);
    if (e->ndim > KIN_MAX_DIMS)
        return kin_fail(err, KIN_ERR_SHAPE, "pth: tensor \"%.100s\" has %d dimensions, at most %d",
                        e->name, e->ndim, KIN_MAX_DIMS);
    *out = kin_tensor_of(NULL, e->dtype, e->ndim, e->size);
    if (!e->contiguous || (uintptr_t)e->data % size != 0) {
        const int64_t n = kin_tensor_numel(out);
        if (!pth->copies[i]) {
            pth->copies[i] = kin_malloc((size_t)n * size);
            if (!pth->copies[i])
                return kin_fail(err, KIN_ERR_MEM, "pth: no memory for tensor \"%.100s\"", e->name);
            kin_pth_read(e, 0, n, e->dtype, pth->copies[i]);
        }
        data = pth->copies[i];
    }
    out->data = (void *)(uintptr_t)data;
    return KIN_OK;
}

kin_status kin_pth_verify(const kin_pth *pth, kin_error *err)
{
    return pth->zip ? kin_pth_zip_verify(pth->zip, err) : KIN_OK;
}
