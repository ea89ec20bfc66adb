/* Writing of safetensors files; reading is in safetensors.c. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/path.h"
#include "base/text.h"
#include "io/safetensors.h"

enum { CHUNK = 1 << 16 }; /* elements converted at once */

/* One tensor with its name and the dtype in the file. */
typedef struct item {
    const char *name;
    const kin_tensor *tensor;
    kin_dtype store;
} item;

/* The official order of element types (largest alignment first) and their names in files. */
static const struct {
    const char *name;
    int rank;
} dtype_files[] = {
    [KIN_DTYPE_F32] = {"F32", 2}, [KIN_DTYPE_F64] = {"F64", 1}, [KIN_DTYPE_BF16] = {"BF16", 4},
    [KIN_DTYPE_F16] = {"F16", 5}, [KIN_DTYPE_I8] = {"I8", 6},   [KIN_DTYPE_U8] = {"U8", 7},
    [KIN_DTYPE_I32] = {"I32", 3}, [KIN_DTYPE_I64] = {"I64", 0},
};

static bool is_float(kin_dtype d)
{
    return d == KIN_DTYPE_F32 || d == KIN_DTYPE_F64 || d == KIN_DTYPE_BF16 || d == KIN_DTYPE_F16;
}

static int compare_items(const void *pa, const void *pb)
{
    const item *a = pa, *b = pb;
    if (a->store != b->store)
        return dtype_files[a->store].rank - dtype_files[b->store].rank;
    return strcmp(a->name, b->name);
}

static int compare_item_names(const void *pa, const void *pb)
{
    return strcmp(((const item *)pa)->name, ((const item *)pb)->name);
}

static kin_status check_items(item *items, int64_t n, const char *const *metadata, kin_error *err)
{
    if (n > KIN_SAFETENSORS_MAX_TENSORS)
        return kin_fail(err, KIN_ERR_ARG, "safetensors: %lld tensors, must be at most %d",
                        (long long)n, KIN_SAFETENSORS_MAX_TENSORS);
    for (int64_t i = 0; i < n; i++) {
        const item *t = &items[i];
        if (!kin_utf8_valid(t->name, strlen(t->name)) || strcmp(t->name, "__metadata__") == 0)
            return kin_fail(err, KIN_ERR_ARG, "safetensors: tensor %lld must have a UTF-8 name",
                            (long long)i);
        if (!kin_tensor_is_contiguous(t->tensor))
            return kin_fail(err, KIN_ERR_ARG, "safetensors: tensor \"%.100s\" must be contiguous",
                            t->name);
        if (t->store != t->tensor->dtype && !(is_float(t->store) && is_float(t->tensor->dtype)))
            return kin_fail(err, KIN_ERR_ARG, "safetensors: tensor \"%.100s\": %s cannot become %s",
                            t->name, kin_dtype_name(t->tensor->dtype), kin_dtype_name(t->store));
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

static kin_status make_header(kin_strbuf *b, const item *items, int64_t n,
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
        const kin_tensor *t = items[i].tensor;
        kin_strbuf_add(b, i ? "," : "");
        kin_strbuf_add_json(b, items[i].name);
        kin_strbuf_addf(b, ":{\"dtype\":\"%s\",\"shape\":[", dtype_files[items[i].store].name);
        for (int d = 0; d < t->ndim; d++)
            kin_strbuf_addf(b, "%s%" PRId64, d ? "," : "", t->size[d]);
        uint64_t end = at + (uint64_t)kin_tensor_numel(t) * kin_dtype_size(items[i].store);
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

static double load(const void *p, kin_dtype dtype, int64_t i)
{
    switch (dtype) {
    case KIN_DTYPE_F64: return ((const double *)p)[i];
    case KIN_DTYPE_BF16: return kin_bf16_to_f32(((const uint16_t *)p)[i]);
    case KIN_DTYPE_F16: return kin_f16_to_f32(((const uint16_t *)p)[i]);
    default: return ((const float *)p)[i];
    }
}

static void store(void *p, kin_dtype dtype, int64_t i, double v)
{
    switch (dtype) {
    case KIN_DTYPE_F64: ((double *)p)[i] = v; break;
    case KIN_DTYPE_BF16: ((uint16_t *)p)[i] = kin_f32_to_bf16((float)v); break;
    case KIN_DTYPE_F16: ((uint16_t *)p)[i] = kin_f32_to_f16((float)v); break;
    default: ((float *)p)[i] = (float)v;
    }
}

static bool write_converted(FILE *fp, const item *t, void *chunk)
{
    int64_t n = kin_tensor_numel(t->tensor);
    for (int64_t at = 0; at < n; at += CHUNK) {
        int64_t m = n - at < CHUNK ? n - at : CHUNK;
        for (int64_t i = 0; i < m; i++)
            store(chunk, t->store, i, load(t->tensor->data, t->tensor->dtype, at + i));
        if (fwrite(chunk, kin_dtype_size(t->store), (size_t)m, fp) != (size_t)m)
            return false;
    }
    return true;
}

static bool write_all(FILE *fp, const kin_strbuf *header, const item *items, int64_t n, void *chunk)
{
    uint8_t length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)((uint64_t)header->len >> (8 * i));
    if (fwrite(length, 1, 8, fp) != 8 || fwrite(header->data, 1, header->len, fp) != header->len)
        return false;
    for (int64_t i = 0; i < n; i++) {
        const kin_tensor *t = items[i].tensor;
        size_t bytes = (size_t)kin_tensor_numel(t) * kin_dtype_size(t->dtype);
        if (t->dtype != items[i].store) {
            if (!write_converted(fp, &items[i], chunk))
                return false;
        } else if (bytes > 0 && fwrite(t->data, 1, bytes, fp) != bytes) {
            return false;
        }
    }
    return true;
}

kin_status kin_safetensors_write(const char *path, const char *const *names,
                                 const kin_tensor *tensors, const kin_dtype *stored, int64_t n,
                                 const char *const *metadata, kin_error *err)
{
    kin_status status;
    kin_strbuf header = {0};
    kin_file_out f = {0};
    item *items = kin_malloc((size_t)n * sizeof *items);
    void *chunk = kin_malloc(CHUNK * sizeof(double));
    if (!items || !chunk) {
        status = kin_fail(err, KIN_ERR_MEM, "safetensors: no memory to write %s", path);
        goto done;
    }
    for (int64_t i = 0; i < n; i++)
        items[i] = (item){names[i], &tensors[i], stored ? stored[i] : tensors[i].dtype};
    KIN_GOTO(check_items(items, n, metadata, err));
    qsort(items, (size_t)n, sizeof *items, compare_items);
    KIN_GOTO(make_header(&header, items, n, metadata, err));
    KIN_GOTO(kin_file_out_open(&f, path, err));
    if (!write_all(f.fp, &header, items, n, chunk)) {
        status = kin_fail(err, KIN_ERR_IO, "safetensors: cannot write %s", path);
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
