/* tests/fuzz/target_io.c: containers of tensors and archives. */
#include <string.h>

#include "base/alloc.h"
#include "diffusion/import.h"
#include "io/npy.h"
#include "io/pickle.h"
#include "io/pth.h"
#include "io/safetensors.h"
#include "io/tar.h"
#include "tests/fuzz/targets.h"

enum { READ_MAX = 1 << 16 }; /* elements of one tensor, and bytes of one member, that are read */

/* Keeps the compiler from leaving out reads. */
static volatile uint64_t sink;

static void read_bytes(const void *data, size_t bytes)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < bytes; i++)
        sink += p[i];
}

static void walk_safetensors(kin_safetensors *st)
{
    kin_error err;
    kin_tensor t;
    const char *value;
    for (int64_t i = 0; i < kin_safetensors_count(st); i++) {
        const kin_safetensors_entry *e = kin_safetensors_at(st, i);
        read_bytes(e->name, strlen(e->name));
        read_bytes(e->data, e->bytes);
        if (kin_safetensors_find(st, e->name) != i)
            __builtin_trap();
        if (kin_safetensors_tensor(st, i, &t, &err) == KIN_OK && kin_tensor_numel(&t) > 0)
            sink += kin_tensor_get(&t, kin_tensor_numel(&t) - 1) > 0;
    }
    for (int64_t i = 0; i < kin_safetensors_metadata_count(st); i++) {
        const char *key = kin_safetensors_metadata_at(st, i, &value);
        if (strcmp(kin_safetensors_metadata(st, key), value) != 0)
            __builtin_trap();
    }
}

int kin_fuzz_safetensors(const uint8_t *data, size_t bytes)
{
    kin_error err;
    kin_safetensors *st;
    const char *path = kin_fuzz_file(data, bytes);
    if (!path || kin_safetensors_open(path, &st, &err) != KIN_OK)
        return 0;
    walk_safetensors(st);
    kin_safetensors_close(&st);
    return 0;
}

static void walk_pth(kin_pth *pth)
{
    static double out[READ_MAX];
    kin_error err;
    kin_tensor t;
    double number;
    kin_pth_number(pth, "step", &number);
    for (int64_t i = 0; i < kin_pth_count(pth); i++) {
        const kin_pth_entry *e = kin_pth_at(pth, i);
        int64_t n = 1;
        for (int d = 0; d < e->ndim && n <= READ_MAX; d++)
            n *= e->size[d];
        if (n > READ_MAX || kin_pth_find(pth, e->name) < 0)
            continue;
        kin_pth_read(e, 0, n, KIN_DTYPE_F64, out);
        if (n > 0)
            kin_pth_read(e, n - 1, 1, KIN_DTYPE_F32, out);
        if (kin_pth_tensor(pth, i, &t, &err) == KIN_OK && n > 0)
            sink += kin_tensor_get(&t, n - 1) > 0;
    }
    kin_pth_verify(pth, &err);
}

int kin_fuzz_pth(const uint8_t *data, size_t bytes)
{
    kin_error err;
    kin_pth *pth;
    kin_import imp;
    cJSON *config = NULL;
    kin_strbuf notes = {0};
    const char *path = kin_fuzz_file(data, bytes);
    if (!path || kin_pth_open(path, &pth, &err) != KIN_OK)
        return 0;
    walk_pth(pth);
    kin_pth_close(&pth);
    if (kin_import_open(path, &imp, &err) == KIN_OK) {
        if (kin_import_config(&imp, NULL, &config, &notes, &err) == KIN_OK)
            cJSON_Delete(config);
        kin_strbuf_free(&notes);
        kin_import_close(&imp);
    }
    return 0;
}

int kin_fuzz_pickle(const uint8_t *data, size_t bytes)
{
    kin_error err;
    kin_pickle p = {0};
    if (kin_pickle_parse(data, bytes, &p, &err) == KIN_OK && p.used > bytes)
        __builtin_trap();
    for (uint32_t i = 0; i < p.count; i++) {
        const kin_pickle_value *v = &p.value[i];
        if (v->kind == KIN_PICKLE_STRING || v->kind == KIN_PICKLE_BYTES)
            read_bytes(v->text, v->count);
    }
    kin_pickle_free(&p);
    return 0;
}

int kin_fuzz_npz(const uint8_t *data, size_t bytes)
{
    static double out[4096];
    kin_error err;
    kin_npy *f;
    const char *path = kin_fuzz_file(data, bytes);
    if (!path || kin_npy_open(path, NULL, &f, &err) != KIN_OK)
        return 0;
    for (int k = 0; k < 16; k++)
        if (kin_npy_read(f, k % 2 ? 4096 : 1, KIN_DTYPE_F64, out, &err) != KIN_OK)
            break;
    kin_npy_close(&f);
    return 0;
}

static void open_tar(const uint8_t *data, size_t bytes)
{
    kin_error err;
    kin_tar *tar;
    const char *path = kin_fuzz_file(data, bytes);
    if (!path || kin_tar_open(path, &tar, &err) != KIN_OK)
        return;
    for (int64_t i = 0; i < kin_tar_count(tar); i++) {
        const kin_tar_entry *e = kin_tar_at(tar, i);
        read_bytes(e->data, e->bytes);
        if (kin_tar_find(tar, e->name) != e)
            __builtin_trap();
    }
    kin_tar_close(&tar);
}

/* Once as it is and once with the checksum of every block made right, which no mutation hits. */
int kin_fuzz_tar(const uint8_t *data, size_t bytes)
{
    enum { BLOCK = 512, AT = 148, LENGTH = 8 };
    open_tar(data, bytes);
    uint8_t *copy = kin_malloc(bytes);
    if (!copy)
        return 0;
    memcpy(copy, data, bytes);
    for (size_t b = 0; b + BLOCK <= bytes; b += BLOCK) {
        unsigned sum = 8 * ' ';
        if (memcmp(copy + b + 257, "ustar", 5) != 0)
            continue;
        for (size_t i = 0; i < BLOCK; i++)
            sum += i < AT || i >= AT + LENGTH ? copy[b + i] : 0u;
        for (int k = 5; k >= 0; k--, sum >>= 3)
            copy[b + AT + (size_t)k] = (uint8_t)('0' + (sum & 7));
        copy[b + AT + 6] = 0;
        copy[b + AT + 7] = ' ';
    }
    open_tar(copy, bytes);
    kin_free(copy);
    return 0;
}
