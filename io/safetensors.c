/* Reading. Writing is in safetensors_write.c. */
#include "io/safetensors.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/path.h"
#include "io/blob.h"

enum { MAX_VALUES = 2000000, MAX_INDEX = 100000000 };

static const struct dtype_row {
    const char *name;
    size_t size;
    int dtype; /* kin_dtype, -1: known to the format, not to us */
} dtype_table[] = {
    {"F32", 4, KIN_DTYPE_F32},
    {"BF16", 2, KIN_DTYPE_BF16},
    {"F16", 2, KIN_DTYPE_F16},
    {"F64", 8, KIN_DTYPE_F64},
    {"I8", 1, KIN_DTYPE_I8},
    {"U8", 1, KIN_DTYPE_U8},
    {"I32", 4, KIN_DTYPE_I32},
    {"I64", 8, KIN_DTYPE_I64},
    {"BOOL", 1, KIN_DTYPE_U8},
    {"I16", 2, -1},
    {"U16", 2, -1},
    {"U32", 4, -1},
    {"U64", 8, -1},
    {"F8_E4M3", 1, -1},
    {"F8_E5M2", 1, -1},
};

typedef struct shard {
    kin_blob blob;
    char *path;
    cJSON *header; /* owns the names and the metadata */
    kin_safetensors_entry *list;
    int64_t count;
} shard;

struct kin_safetensors {
    shard *shards;
    int64_t shard_count;
    kin_safetensors_entry *list; /* all shards */
    int64_t count;
    const kin_safetensors_entry **by_name;
    void **copies; /* data that is not aligned in its file */
    int64_t copy_count;
};

static const struct dtype_row *find_dtype(const char *name)
{
    for (size_t i = 0; i < sizeof dtype_table / sizeof *dtype_table; i++)
        if (strcmp(dtype_table[i].name, name) == 0)
            return &dtype_table[i];
    return NULL;
}

static bool is_index(const cJSON *v)
{
    return cJSON_IsNumber(v) && v->valuedouble >= 0 && v->valuedouble <= 9007199254740992.0 &&
           v->valuedouble == floor(v->valuedouble);
}

static kin_status parse_shape(const cJSON *shape, kin_safetensors_entry *e, size_t *numel,
                              kin_error *err)
{
    if (!cJSON_IsArray(shape))
        return kin_fail(err, KIN_ERR_FORMAT, "tensor \"%.100s\": shape must be a list", e->name);
    for (const cJSON *d = shape->child; d; d = d->next) {
        if (e->ndim == KIN_SAFETENSORS_MAX_DIMS)
            return kin_fail(err, KIN_ERR_FORMAT,
                            "tensor \"%.100s\": must have at most %d dimensions", e->name,
                            KIN_SAFETENSORS_MAX_DIMS);
        if (!is_index(d))
            return kin_fail(err, KIN_ERR_FORMAT,
                            "tensor \"%.100s\": a size must be an integer >= 0", e->name);
        e->size[e->ndim++] = (int64_t)d->valuedouble;
    }
    if (!kin_shape_numel(e->ndim, e->size, numel))
        return kin_fail(err, KIN_ERR_FORMAT, "tensor \"%.100s\": number of elements overflows",
                        e->name);
    return KIN_OK;
}

/* One header member; *begin is its place in the data part of `limit` bytes. */
static kin_status parse_entry(const cJSON *m, const uint8_t *data, size_t limit,
                              kin_safetensors_entry *e, kin_error *err)
{
    *e = (kin_safetensors_entry){.name = m->string};
    const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(m, "dtype");
    const cJSON *range = cJSON_GetObjectItemCaseSensitive(m, "data_offsets");
    if (!cJSON_IsObject(m) || !cJSON_IsString(dtype))
        return kin_fail(err, KIN_ERR_FORMAT, "tensor \"%.100s\": must have a dtype", e->name);
    const struct dtype_row *row = find_dtype(dtype->valuestring);
    if (!row)
        return kin_fail(err, KIN_ERR_FORMAT, "tensor \"%.100s\": unknown dtype \"%.20s\"", e->name,
                        dtype->valuestring);
    e->dtype = row->name;
    size_t numel = 0, bytes;
    KIN_TRY(parse_shape(cJSON_GetObjectItemCaseSensitive(m, "shape"), e, &numel, err));
    const cJSON *begin = cJSON_IsArray(range) ? range->child : NULL;
    const cJSON *end = begin ? begin->next : NULL;
    if (!end || end->next || !is_index(begin) || !is_index(end) ||
        begin->valuedouble > end->valuedouble || end->valuedouble > (double)limit)
        return kin_fail(
            err, KIN_ERR_FORMAT,
            "tensor \"%.100s\": data_offsets must be two increasing integers inside the "
            "%zu data bytes",
            e->name, limit);
    e->data = data + (size_t)begin->valuedouble;
    e->mapped = true;
    e->bytes = (size_t)end->valuedouble - (size_t)begin->valuedouble;
    if (!kin_mul_size(numel, row->size, &bytes) || bytes != e->bytes)
        return kin_fail(err, KIN_ERR_FORMAT, "tensor \"%.100s\": %zu bytes do not fit its shape",
                        e->name, e->bytes);
    return KIN_OK;
}

static kin_status check_metadata(const cJSON *meta, kin_error *err)
{
    if (!cJSON_IsObject(meta))
        return kin_fail(err, KIN_ERR_FORMAT, "__metadata__ must be an object");
    for (const cJSON *m = meta->child; m; m = m->next)
        if (!cJSON_IsString(m))
            return kin_fail(err, KIN_ERR_FORMAT, "__metadata__: \"%.100s\" must be a string",
                            m->string);
    return KIN_OK;
}

static int compare_place(const void *pa, const void *pb)
{
    const kin_safetensors_entry *a = pa, *b = pb;
    uintptr_t x = (uintptr_t)a->data, y = (uintptr_t)b->data;
    if (x != y)
        return x < y ? -1 : 1;
    /* note: an empty tensor shares its place with the next one and comes first */
    if (a->bytes != b->bytes)
        return a->bytes < b->bytes ? -1 : 1;
    return strcmp(a->name, b->name);
}

/* The ranges in order must cover the data without overlap, hole or rest. */
static kin_status check_cover(const shard *s, const uint8_t *data, size_t limit, kin_error *err)
{
    const uint8_t *at = data;
    for (int64_t i = 0; i < s->count; i++) {
        const kin_safetensors_entry *e = &s->list[i];
        if (e->data != at)
            return kin_fail(err, KIN_ERR_FORMAT, "tensor \"%.100s\": %s", e->name,
                            (const uint8_t *)e->data < at ? "overlaps the one before"
                                                          : "bytes before it belong to no tensor");
        at += e->bytes;
    }
    if (at != data + limit)
        return kin_fail(err, KIN_ERR_FORMAT, "%zu bytes after the last tensor",
                        limit - (size_t)(at - data));
    return KIN_OK;
}

static kin_status parse_shard(shard *s, kin_error *err)
{
    const uint8_t *p = s->blob.data;
    uint64_t length = 0;
    if (s->blob.bytes < 8)
        return kin_fail(err, KIN_ERR_FORMAT, "%zu bytes, must be at least 8", s->blob.bytes);
    for (int i = 7; i >= 0; i--)
        length = length << 8 | p[i];
    if (length > KIN_SAFETENSORS_MAX_HEADER || length > s->blob.bytes - 8)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "header length %" PRIu64 " must be at most %d and fit the file", length,
                        KIN_SAFETENSORS_MAX_HEADER);
    if (length == 0 || p[8] != '{')
        return kin_fail(err, KIN_ERR_FORMAT, "header must be a JSON object");
    KIN_TRY(kin_json_parse_max((const char *)p + 8, (size_t)length, KIN_JSON_STRICT, MAX_VALUES,
                               &s->header, err));
    const uint8_t *data = p + 8 + length;
    size_t limit = s->blob.bytes - 8 - (size_t)length, n = 0;
    for (const cJSON *m = s->header->child; m; m = m->next)
        n++;
    if (n > KIN_SAFETENSORS_MAX_TENSORS)
        return kin_fail(err, KIN_ERR_FORMAT, "%zu tensors, must be at most %d", n,
                        KIN_SAFETENSORS_MAX_TENSORS);
    s->list = kin_calloc(n, sizeof *s->list);
    if (!s->list)
        return kin_fail(err, KIN_ERR_MEM, "no memory for %zu tensors", n);
    for (const cJSON *m = s->header->child; m; m = m->next)
        if (strcmp(m->string, "__metadata__") == 0)
            KIN_TRY(check_metadata(m, err));
        else
            KIN_TRY(parse_entry(m, data, limit, &s->list[s->count++], err));
    qsort(s->list, (size_t)s->count, sizeof *s->list, compare_place);
    return check_cover(s, data, limit, err);
}

static kin_status open_shard(const char *path, shard *s, kin_error *err)
{
    s->path = kin_strdup(path);
    if (!s->path)
        return kin_fail(err, KIN_ERR_MEM, "safetensors: no memory");
    KIN_TRY(kin_blob_open(path, &s->blob, err));
    kin_status status = parse_shard(s, err);
    if (status != KIN_OK)
        kin_fail_prefix(err, "safetensors: %s", path);
    return status;
}

/* note: files of other writers may start their data anywhere; typed access needs it aligned, so
 * such tensors are copied */
static kin_status align_entry(kin_safetensors *st, kin_safetensors_entry *e, kin_error *err)
{
    size_t size = find_dtype(e->dtype)->size;
    if ((uintptr_t)e->data % size == 0 || e->bytes == 0)
        return KIN_OK;
    void *copy = kin_malloc(e->bytes);
    if (!copy)
        return kin_fail(err, KIN_ERR_MEM, "safetensors: no memory for tensor \"%.100s\"", e->name);
    memcpy(copy, e->data, e->bytes);
    st->copies[st->copy_count++] = copy;
    e->data = copy;
    e->mapped = false;
    return KIN_OK;
}

static int compare_names(const void *pa, const void *pb)
{
    const kin_safetensors_entry *a = *(const kin_safetensors_entry *const *)pa;
    const kin_safetensors_entry *b = *(const kin_safetensors_entry *const *)pb;
    return strcmp(a->name, b->name);
}

/* Joins the lists of the shards and sorts the names. */
static kin_status finish(kin_safetensors *st, kin_error *err)
{
    size_t n = 0;
    for (int64_t i = 0; i < st->shard_count; i++)
        n += (size_t)st->shards[i].count;
    st->list = kin_calloc(n, sizeof *st->list);
    st->by_name = kin_calloc(n, sizeof *st->by_name);
    st->copies = kin_calloc(n, sizeof *st->copies);
    if (!st->list || !st->by_name || !st->copies)
        return kin_fail(err, KIN_ERR_MEM, "safetensors: no memory for %zu tensors", n);
    for (int64_t i = 0; i < st->shard_count; i++)
        for (int64_t j = 0; j < st->shards[i].count; j++) {
            kin_safetensors_entry *e = &st->list[st->count];
            *e = st->shards[i].list[j];
            e->path = st->shards[i].path;
            st->by_name[st->count++] = e;
            KIN_TRY(align_entry(st, e, err));
        }
    qsort(st->by_name, n, sizeof *st->by_name, compare_names);
    for (size_t i = 1; i < n; i++)
        if (strcmp(st->by_name[i - 1]->name, st->by_name[i]->name) == 0)
            return kin_fail(err, KIN_ERR_FORMAT, "safetensors: tensor \"%.100s\" is in two shards",
                            st->by_name[i]->name);
    return KIN_OK;
}

static kin_status create(int64_t shards, kin_safetensors **out, kin_error *err)
{
    *out = kin_calloc(1, sizeof **out);
    if (*out)
        (*out)->shards = kin_calloc((size_t)shards, sizeof *(*out)->shards);
    if (!*out || !(*out)->shards) {
        kin_safetensors_close(out);
        return kin_fail(err, KIN_ERR_MEM, "safetensors: no memory");
    }
    return KIN_OK;
}

kin_status kin_safetensors_open(const char *path, kin_safetensors **out, kin_error *err)
{
    KIN_TRY(create(1, out, err));
    (*out)->shard_count = 1;
    kin_status status = open_shard(path, &(*out)->shards[0], err);
    if (status == KIN_OK)
        status = finish(*out, err);
    if (status != KIN_OK)
        kin_safetensors_close(out);
    return status;
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct shard names of the weight map, sorted. */
static kin_status list_shards(const cJSON *map, const char **names, size_t *count, kin_error *err)
{
    size_t n = 0;
    for (const cJSON *m = map->child; m; m = m->next) {
        if (!cJSON_IsString(m) || !kin_path_is_inside(m->valuestring) ||
            strchr(m->valuestring, '/') || strcmp(m->valuestring, ".") == 0)
            return kin_fail(err, KIN_ERR_FORMAT, "shard of \"%.100s\" must be a bare file name",
                            m->string);
        names[n++] = m->valuestring;
    }
    qsort(names, n, sizeof *names, compare_strings);
    *count = 0;
    for (size_t i = 0; i < n; i++)
        if (i == 0 || strcmp(names[i], names[*count - 1]) != 0)
            names[(*count)++] = names[i];
    if (*count == 0 || *count > KIN_SAFETENSORS_MAX_SHARDS)
        return kin_fail(err, KIN_ERR_FORMAT, "%zu shards, must be 1 to %d", *count,
                        KIN_SAFETENSORS_MAX_SHARDS);
    return KIN_OK;
}

/* Every tensor of the map is in the files, and no other. */
static kin_status check_map(const kin_safetensors *st, const cJSON *map, kin_error *err)
{
    int64_t n = 0;
    for (const cJSON *m = map->child; m; m = m->next, n++)
        if (kin_safetensors_find(st, m->string) < 0)
            return kin_fail(err, KIN_ERR_FORMAT, "tensor \"%.100s\" is in no shard", m->string);
    if (n != st->count)
        return kin_fail(err, KIN_ERR_FORMAT, "%lld tensors in the map, %lld in the shards",
                        (long long)n, (long long)st->count);
    return KIN_OK;
}

static kin_status open_map(const char *dir, const cJSON *index, kin_safetensors **out,
                           kin_error *err)
{
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(index, "weight_map");
    const char **names = NULL;
    size_t n = 0;
    kin_status status;
    if (!cJSON_IsObject(map))
        return kin_fail(err, KIN_ERR_FORMAT, "weight_map must be an object");
    for (const cJSON *m = map->child; m; m = m->next)
        n++;
    names = kin_malloc(n * sizeof *names);
    if (!names)
        return kin_fail(err, KIN_ERR_MEM, "no memory for %zu names", n);
    KIN_GOTO(list_shards(map, names, &n, err));
    KIN_GOTO(create((int64_t)n, out, err));
    for (size_t i = 0; i < n; i++) {
        char path[KIN_PATH_MAX];
        KIN_GOTO(kin_path_join(path, dir, names[i], err));
        (*out)->shard_count++;
        KIN_GOTO(open_shard(path, &(*out)->shards[i], err));
    }
    KIN_GOTO(finish(*out, err));
    KIN_GOTO(check_map(*out, map, err));
done:
    kin_free(names);
    if (status != KIN_OK)
        kin_safetensors_close(out);
    return status;
}

kin_status kin_safetensors_open_dir(const char *dir, const char *name, kin_safetensors **out,
                                    kin_error *err)
{
    char path[KIN_PATH_MAX], index_path[KIN_PATH_MAX];
    cJSON *index;
    *out = NULL;
    KIN_TRY(kin_path_join(path, dir, name, err));
    if (snprintf(index_path, sizeof index_path, "%s.index.json", path) >= KIN_PATH_MAX)
        return kin_fail(err, KIN_ERR_ARG, "safetensors: path too long: %.80s...", path);
    if (kin_path_exists(path) || !kin_path_exists(index_path))
        return kin_safetensors_open(path, out, err);
    KIN_TRY(kin_json_read(index_path, MAX_INDEX, KIN_JSON_STRICT, &index, err));
    kin_status status = open_map(dir, index, out, err);
    cJSON_Delete(index);
    if (status != KIN_OK)
        kin_fail_prefix(err, "%s", index_path);
    return status;
}

void kin_safetensors_close(kin_safetensors **st)
{
    if (!*st)
        return;
    for (int64_t i = 0; i < (*st)->shard_count; i++) {
        shard *s = &(*st)->shards[i];
        kin_free(s->path);
        kin_free(s->list);
        cJSON_Delete(s->header);
        kin_blob_close(&s->blob);
    }
    for (int64_t i = 0; i < (*st)->copy_count; i++)
        kin_free((*st)->copies[i]);
    kin_free((*st)->copies);
    kin_free((*st)->by_name);
    kin_free((*st)->list);
    kin_free((*st)->shards);
    kin_free(*st);
    *st = NULL;
}

int64_t kin_safetensors_count(const kin_safetensors *st)
{
    return st->count;
}

const kin_safetensors_entry *kin_safetensors_at(const kin_safetensors *st, int64_t i)
{
    return &st->list[i];
}

int64_t kin_safetensors_find(const kin_safetensors *st, const char *name)
{
    int64_t lo = 0, hi = st->count;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        int c = strcmp(st->by_name[mid]->name, name);
        if (c == 0)
            return st->by_name[mid] - st->list;
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return -1;
}

kin_status kin_safetensors_tensor(const kin_safetensors *st, int64_t i, kin_tensor *out,
                                  kin_error *err)
{
    const kin_safetensors_entry *e = &st->list[i];
    int dtype = find_dtype(e->dtype)->dtype;
    if (dtype < 0)
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "safetensors: tensor \"%.100s\": dtype %s",
                        e->name, e->dtype);
    if (e->ndim > KIN_MAX_DIMS)
        return kin_fail(err, KIN_ERR_SHAPE,
                        "safetensors: tensor \"%.100s\": %d dimensions, must be at most %d",
                        e->name, e->ndim, KIN_MAX_DIMS);
    *out = kin_tensor_of((void *)(uintptr_t)e->data, (kin_dtype)dtype, e->ndim, e->size);
    return KIN_OK;
}

kin_status kin_safetensors_get(const kin_safetensors *st, const char *name, kin_tensor *out,
                               kin_error *err)
{
    int64_t i = kin_safetensors_find(st, name);
    if (i < 0)
        return kin_fail(err, KIN_ERR_FORMAT, "safetensors: no tensor \"%.200s\"", name);
    return kin_safetensors_tensor(st, i, out, err);
}

static const cJSON *metadata(const kin_safetensors *st)
{
    return cJSON_GetObjectItemCaseSensitive(st->shards[0].header, "__metadata__");
}

const char *kin_safetensors_metadata(const kin_safetensors *st, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(metadata(st), key));
}

int64_t kin_safetensors_metadata_count(const kin_safetensors *st)
{
    return cJSON_GetArraySize(metadata(st));
}

const char *kin_safetensors_metadata_at(const kin_safetensors *st, int64_t i, const char **value)
{
    const cJSON *m = cJSON_GetArrayItem(metadata(st), (int)i);
    *value = m->valuestring;
    return m->string;
}
