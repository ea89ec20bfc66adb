/* Writing of safetensors files; reading is in safetensors.c. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "base/alloc.h"
#include "base/path.h"
#include "base/text.h"
#include "io/safetensors.h"

enum { CHUNK = 1 << 16 }; /* elements read at once */

/* The official order of element types (largest alignment first) and their names in files. */
static const struct {
    const char *name;
    int rank;
} dtype_files[] = {
    [KIN_DTYPE_F32] = {"F32", 2}, [KIN_DTYPE_F64] = {"F64", 1}, [KIN_DTYPE_BF16] = {"BF16", 4},
    [KIN_DTYPE_F16] = {"F16", 5}, [KIN_DTYPE_I8] = {"I8", 6},   [KIN_DTYPE_U8] = {"U8", 7},
    [KIN_DTYPE_I32] = {"I32", 3}, [KIN_DTYPE_I64] = {"I64", 0},
};

static int compare_items(const void *pa, const void *pb)
{
    const kin_item *a = pa, *b = pb;
    if (a->store != b->store)
        return dtype_files[a->store].rank - dtype_files[b->store].rank;
    return strcmp(a->name, b->name);
}

static int compare_item_names(const void *pa, const void *pb)
{
    return strcmp(((const kin_item *)pa)->name, ((const kin_item *)pb)->name);
}

static kin_status check_items(kin_item *items, int64_t n, const char *const *metadata,
                              kin_error *err)
{
    if (n > KIN_SAFETENSORS_MAX_TENSORS)
        return kin_fail(err, KIN_ERR_ARG, "safetensors: %lld tensors, must be at most %d",
                        (long long)n, KIN_SAFETENSORS_MAX_TENSORS);
    for (int64_t i = 0; i < n; i++) {
        const kin_item *t = &items[i];
        if (!kin_utf8_valid(t->name, strlen(t->name)) || strcmp(t->name, "__metadata__") == 0)
            return kin_fail(err, KIN_ERR_ARG, "safetensors: tensor %lld must have a UTF-8 name",
                            (long long)i);
        if (!kin_elements_can(t->type, t->store))
            return kin_fail(err, KIN_ERR_ARG, "safetensors: tensor \"%.100s\": %s cannot become %s",
                            t->name, kin_dtype_name(t->type), kin_dtype_name(t->store));
    }
    qsort(items, (size_t)n, sizeof *items, compare_item_names);
    for (int64_t i = 1; i < n; i++)
        if (strcmp(items[i - 1].name, items[i].name) == 0)
            return kin_fail(err, KIN_ERR_ARG, "safetensors: tensor \"%.100s\" is given twice",
                            items[i].name);
    for (size_t i = 0; metadata && metadata[i]; i++)
        if (!kin_utf8_valid(metadata[i], strlen(metadata[i])))
            return kin_fail(err, KIN_ERR_ARG, "safetensors: metadata must be UTF-8");
    return KIN_OK;
}

static uint64_t item_bytes(const kin_item *t)
{
    return (uint64_t)kin_item_numel(t) * kin_dtype_size(t->store);
}

static kin_status make_header(kin_strbuf *b, const kin_item *items, int64_t n,
                              const char *const *metadata, kin_error *err)
{
    uint64_t at = 0;
    kin_strbuf_add(b, "{");
    if (metadata && metadata[0]) {
        kin_strbuf_add(b, "\"__metadata__\":{");
        for (size_t i = 0; metadata[i]; i += 2) {
            kin_strbuf_add(b, i ? "," : "");
            kin_strbuf_add_json(b, metadata[i]);
            kin_strbuf_add(b, ":");
            kin_strbuf_add_json(b, metadata[i + 1]);
        }
        kin_strbuf_add(b, n ? "}," : "}");
    }
    for (int64_t i = 0; i < n; i++) {
        const kin_item *t = &items[i];
        kin_strbuf_add(b, i ? "," : "");
        kin_strbuf_add_json(b, items[i].name);
        kin_strbuf_addf(b, ":{\"dtype\":\"%s\",\"shape\":[", dtype_files[t->store].name);
        for (int d = 0; d < t->ndim; d++)
            kin_strbuf_addf(b, "%s%" PRId64, d ? "," : "", t->size[d]);
        const uint64_t end = at + item_bytes(t);
        kin_strbuf_addf(b, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, end);
        at = end;
    }
    kin_strbuf_add(b, "}");
    while (b->len % 8 != 0 && !b->failed)
        kin_strbuf_add(b, " ");
    if (b->failed)
        return kin_fail(err, KIN_ERR_MEM, "safetensors: no memory for the header");
    if (b->len > KIN_SAFETENSORS_MAX_HEADER)
        return kin_fail(err, KIN_ERR_ARG, "safetensors: header of %zu bytes, must be at most %d",
                        b->len, KIN_SAFETENSORS_MAX_HEADER);
    return KIN_OK;
}

static bool write_item(FILE *fp, const kin_item *t, void *chunk)
{
    const int64_t n = kin_item_numel(t);
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int64_t m = n - at < CHUNK ? n - at : CHUNK;
        t->read(t->user, at, m, t->store, chunk);
        if (fwrite(chunk, kin_dtype_size(t->store), (size_t)m, fp) != (size_t)m)
            return false;
    }
    return true;
}

static bool write_all(FILE *fp, const kin_strbuf *header, const kin_item *items, int64_t n,
                      void *chunk)
{
    uint8_t length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)((uint64_t)header->len >> (8 * i));
    if (fwrite(length, 1, 8, fp) != 8 || fwrite(header->data, 1, header->len, fp) != header->len)
        return false;
    for (int64_t i = 0; i < n; i++)
        if (!write_item(fp, &items[i], chunk))
            return false;
    return true;
}

kin_status kin_safetensors_write_items(const char *path, const kin_item *list, int64_t n,
                                       const char *const *metadata, kin_error *err)
{
    kin_status status;
    kin_strbuf header = {0};
    kin_file_out f = {0};
    kin_item *items = kin_malloc((size_t)n * sizeof *items);
    void *chunk = kin_malloc(CHUNK * sizeof(double));
    if (!items || !chunk) {
        status = kin_fail(err, KIN_ERR_MEM, "safetensors: no memory to write %s", path);
        goto done;
    }
    if (n)
        memcpy(items, list, (size_t)n * sizeof *items);
    KIN_GOTO(check_items(items, n, metadata, err));
    qsort(items, (size_t)n, sizeof *items, compare_items);
    KIN_GOTO(make_header(&header, items, n, metadata, err));
    KIN_GOTO(kin_file_out_open(&f, path, err));
    if (!write_all(f.fp, &header, items, n, chunk)) {
        status =
            kin_fail(err, KIN_ERR_IO, "safetensors: cannot write %s: %s", path, strerror(errno));
        goto done;
    }
    status = kin_file_out_commit(&f, err);
done:
    kin_file_out_abort(&f);
    kin_strbuf_free(&header);
    kin_free(items);
    kin_free(chunk);
    return status;
}

kin_status kin_safetensors_write(const char *path, const char *const *names,
                                 const kin_tensor *tensors, const kin_dtype *stored, int64_t n,
                                 const char *const *metadata, kin_error *err)
{
    kin_item *items = kin_malloc((size_t)n * sizeof *items);
    kin_status status =
        items ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "safetensors: no memory to write %s", path);
    for (int64_t i = 0; i < n && status == KIN_OK; i++) {
        items[i] = kin_item_of(names[i], &tensors[i], stored ? stored[i] : tensors[i].dtype);
        if (!kin_tensor_is_contiguous(&tensors[i]))
            status = kin_fail(err, KIN_ERR_ARG, "safetensors: tensor \"%.100s\" must be contiguous",
                              names[i]);
    }
    if (status == KIN_OK)
        status = kin_safetensors_write_items(path, items, n, metadata, err);
    kin_free(items);
    return status;
}

/* --- shards --- */

/* "model.safetensors" -> "model-00002-of-00003.safetensors" */
static kin_status shard_name(const char *name, int64_t i, int64_t n, char out[KIN_PATH_MAX],
                             kin_error *err)
{
    const char *ext = strrchr(name, '.');
    const int stem = ext ? (int)(ext - name) : (int)strlen(name);
    return snprintf(out, KIN_PATH_MAX, "%.*s-%05lld-of-%05lld%s", stem, name, (long long)i + 1,
                    (long long)n, ext ? ext : "") < KIN_PATH_MAX
               ? KIN_OK
               : kin_fail(err, KIN_ERR_ARG, "safetensors: path too long: %.80s...", name);
}

/* End of the shard that begins at item `first`: as many as fit, at least one. */
static int64_t shard_end(const kin_item *items, int64_t n, int64_t first, uint64_t max_bytes)
{
    uint64_t sum = item_bytes(&items[first]);
    int64_t i = first + 1;
    while (i < n && sum + item_bytes(&items[i]) <= max_bytes)
        sum += item_bytes(&items[i++]);
    return i;
}

static kin_status write_index(const char *dir, const char *name, const cJSON *map, uint64_t total,
                              kin_error *err)
{
    char path[KIN_PATH_MAX];
    kin_strbuf b = {0};
    kin_status status = KIN_OK;
    kin_strbuf_addf(&b, "{\n  \"metadata\": {\n    \"total_size\": %" PRIu64 "\n  },\n", total);
    kin_strbuf_add(&b, "  \"weight_map\": {");
    for (const cJSON *m = map->child; m; m = m->next) {
        kin_strbuf_add(&b, m == map->child ? "\n    " : ",\n    ");
        kin_strbuf_add_json(&b, m->string);
        kin_strbuf_add(&b, ": ");
        kin_strbuf_add_json(&b, m->valuestring);
    }
    kin_strbuf_add(&b, "\n  }\n}\n");
    if (b.failed || snprintf(path, sizeof path, "%s/%s.index.json", dir, name) >= KIN_PATH_MAX)
        status = kin_fail(err, KIN_ERR_MEM, "safetensors: no memory for the index");
    else
        status = kin_file_write(path, b.data, b.len, err);
    kin_strbuf_free(&b);
    return status;
}

kin_status kin_safetensors_write_dir(const char *dir, const char *name, const kin_item *items,
                                     int64_t n, uint64_t max_bytes, const char *const *metadata,
                                     kin_error *err)
{
    char path[KIN_PATH_MAX], bare[KIN_PATH_MAX];
    int64_t shards = 0;
    uint64_t total = 0;
    for (int64_t i = 0; max_bytes && i < n; i = shard_end(items, n, i, max_bytes))
        shards++;
    if (shards <= 1) {
        KIN_TRY(kin_path_join(path, dir, name, err));
        return kin_safetensors_write_items(path, items, n, metadata, err);
    }
    if (shards > KIN_SAFETENSORS_MAX_SHARDS)
        return kin_fail(err, KIN_ERR_ARG, "safetensors: %lld shards, must be at most %d",
                        (long long)shards, KIN_SAFETENSORS_MAX_SHARDS);
    cJSON *map = cJSON_CreateObject();
    kin_status status = map ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "safetensors: out of memory");
    for (int64_t s = 0, first = 0, end; status == KIN_OK && first < n; s++, first = end) {
        end = shard_end(items, n, first, max_bytes);
        KIN_GOTO(shard_name(name, s, shards, bare, err));
        KIN_GOTO(kin_path_join(path, dir, bare, err));
        for (int64_t i = first; i < end; i++) {
            total += item_bytes(&items[i]);
            if (!cJSON_AddStringToObject(map, items[i].name, bare))
                KIN_GOTO(kin_fail(err, KIN_ERR_MEM, "safetensors: out of memory"));
        }
        status = kin_safetensors_write_items(path, items + first, end - first, metadata, err);
    }
    if (status == KIN_OK)
        status = write_index(dir, name, map, total, err);
done:
    cJSON_Delete(map);
    return status;
}
