#include "io/tar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/path.h"
#include "io/blob.h"

enum { BLOCK = 512 };

struct kin_tar {
    kin_blob blob;
    kin_tar_entry *list;
    int64_t count, cap;
    char *long_name; /* from a GNU or pax record before the member */
    uint64_t long_size;
    bool has_long_size;
};

/* Octal digits, blanks around them, or GNU's base 256 (first bit set). False when it is neither or
 * beyond 63 bits. */
static bool parse_number(const uint8_t *p, size_t n, uint64_t *out)
{
    uint64_t v = 0;
    size_t i = 0;
    if (p[0] & 0x80) {
        v = p[0] & 0x7F;
        for (i = 1; i < n; i++) {
            if (v >> 55)
                return false;
            v = v << 8 | p[i];
        }
        *out = v;
        return true;
    }
    while (i < n && p[i] == ' ')
        i++;
    for (; i < n && p[i] >= '0' && p[i] <= '7'; i++) {
        if (v >> 60)
            return false;
        v = v * 8 + (p[i] - '0');
    }
    for (; i < n; i++)
        if (p[i] != ' ' && p[i] != 0)
            return false;
    *out = v;
    return true;
}

static bool checksum_fits(const uint8_t *h)
{
    uint64_t want;
    int64_t sum = 0, sum_signed = 0;
    if (!parse_number(h + 148, 8, &want))
        return false;
    for (int i = 0; i < BLOCK; i++) {
        bool field = i >= 148 && i < 156;
        sum += field ? ' ' : h[i];
        sum_signed += field ? ' ' : (int8_t)h[i];
    }
    return (uint64_t)sum == want || (uint64_t)sum_signed == want;
}

bool kin_tar_detect(const void *data, size_t bytes)
{
    const uint8_t *h = data;
    return bytes >= BLOCK && h[0] != 0 && checksum_fits(h);
}

static bool is_zero(const uint8_t *h)
{
    for (int i = 0; i < BLOCK; i++)
        if (h[i] != 0)
            return false;
    return true;
}

/* name, or prefix/name in ustar headers, as a new string. */
static char *header_name(const uint8_t *h)
{
    char text[100 + 155 + 2];
    const char *prefix = memcmp(h + 257, "ustar\0", 6) == 0 ? (const char *)h + 345 : "";
    snprintf(text, sizeof text, "%.155s%s%.100s", prefix, *prefix ? "/" : "", (const char *)h);
    return kin_strdup(text);
}

/* pax records: "LENGTH key=value\n"; path and size matter. */
static bool parse_pax(kin_tar *t, const uint8_t *p, size_t n)
{
    while (n > 0) {
        size_t length = 0, at = 0;
        for (; at < n && at < 10 && p[at] >= '0' && p[at] <= '9'; at++)
            length = length * 10 + (p[at] - '0');
        if (at == 0 || at >= n || p[at] != ' ' || length <= at + 1 || length > n ||
            p[length - 1] != '\n')
            return false;
        const char *key = (const char *)p + at + 1;
        size_t left = length - at - 2;
        if (left > 5 && memcmp(key, "path=", 5) == 0) {
            kin_free(t->long_name);
            t->long_name = kin_calloc(left - 5 + 1, 1);
            if (!t->long_name)
                return false;
            memcpy(t->long_name, key + 5, left - 5);
        } else if (left > 5 && left < 5 + 19 && memcmp(key, "size=", 5) == 0) {
            t->long_size = 0;
            for (size_t i = 5; i < left; i++) {
                if (key[i] < '0' || key[i] > '9')
                    return false;
                t->long_size = t->long_size * 10 + (uint64_t)(key[i] - '0');
            }
            t->has_long_size = true;
        }
        p += length;
        n -= length;
    }
    return true;
}

static kin_status add_entry(kin_tar *t, char *name, const uint8_t *data, size_t bytes,
                            kin_error *err)
{
    const char *clean = name;
    while (clean[0] == '.' && clean[1] == '/')
        clean += 2;
    if (!kin_path_is_inside(clean)) {
        kin_fail(err, KIN_ERR_FORMAT, "member \"%.100s\" must stay inside the folder", name);
        kin_free(name);
        return KIN_ERR_FORMAT;
    }
    memmove(name, clean, strlen(clean) + 1);
    if (t->count == t->cap) {
        int64_t cap = t->cap ? t->cap * 2 : 64;
        kin_tar_entry *list = kin_realloc(t->list, (size_t)cap * sizeof *list);
        if (!list) {
            kin_free(name);
            return kin_fail(err, KIN_ERR_MEM, "no memory for %lld members", (long long)cap);
        }
        t->list = list;
        t->cap = cap;
    }
    t->list[t->count++] = (kin_tar_entry){name, data, bytes};
    return KIN_OK;
}

/* One header and its data; *at moves behind them. */
static kin_status read_member(kin_tar *t, size_t *at, kin_error *err)
{
    const uint8_t *h = t->blob.data + *at;
    uint64_t size;
    if (!checksum_fits(h))
        return kin_fail(err, KIN_ERR_FORMAT, "header at %zu has a wrong checksum", *at);
    if (!parse_number(h + 124, 12, &size))
        return kin_fail(err, KIN_ERR_FORMAT, "header at %zu has a damaged size", *at);
    char type = (char)h[156];
    bool regular = type == '0' || type == 0 || type == '7';
    bool extension = type == 'L' || type == 'x' || type == 'K' || type == 'g';
    if (!extension && t->has_long_size)
        size = t->long_size;
    /* links, folders and devices have no data whatever their size field says */
    if (type >= '1' && type <= '6')
        size = 0;
    size_t start = *at + BLOCK, left = t->blob.bytes - start;
    if (size > left)
        return kin_fail(err, KIN_ERR_FORMAT, "member at %zu of %llu bytes ends behind the file",
                        *at, (unsigned long long)size);
    const uint8_t *data = t->blob.data + start;
    size_t padded = ((size_t)size + BLOCK - 1) / BLOCK * BLOCK;
    *at = padded > left ? t->blob.bytes : start + padded;
    if (type == 'L') {
        kin_free(t->long_name);
        t->long_name = size < KIN_PATH_MAX ? kin_calloc((size_t)size + 1, 1) : NULL;
        if (!t->long_name)
            return kin_fail(err, KIN_ERR_FORMAT, "name of %llu bytes is too long",
                            (unsigned long long)size);
        memcpy(t->long_name, data, (size_t)size);
        return KIN_OK;
    }
    if (type == 'x')
        return parse_pax(t, data, (size_t)size)
                   ? KIN_OK
                   : kin_fail(err, KIN_ERR_FORMAT, "pax record at %zu is damaged", start);
    if (extension)
        return KIN_OK;
    char *name = t->long_name ? t->long_name : header_name(h);
    t->long_name = NULL;
    t->has_long_size = false;
    if (!name)
        return kin_fail(err, KIN_ERR_MEM, "no memory for a name");
    if (regular && !(*name && name[strlen(name) - 1] == '/'))
        return add_entry(t, name, data, (size_t)size, err);
    kin_free(name);
    return KIN_OK;
}

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const kin_tar_entry *)a)->name, ((const kin_tar_entry *)b)->name);
}

static kin_status read_index(kin_tar *t, kin_error *err)
{
    size_t at = 0;
    bool ended = false;
    if (!kin_tar_detect(t->blob.data, t->blob.bytes))
        return kin_fail(err, KIN_ERR_FORMAT, "does not begin with a tar header");
    while (!ended && t->blob.bytes - at >= BLOCK) {
        if (is_zero(t->blob.data + at))
            ended = true;
        else
            KIN_TRY(read_member(t, &at, err));
    }
    if (!ended && at < t->blob.bytes)
        return kin_fail(err, KIN_ERR_FORMAT, "ends inside a header");
    if (t->count > 0)
        qsort(t->list, (size_t)t->count, sizeof *t->list, compare_entries);
    for (int64_t i = 1; i < t->count; i++)
        if (strcmp(t->list[i - 1].name, t->list[i].name) == 0)
            return kin_fail(err, KIN_ERR_FORMAT, "member \"%.100s\" occurs twice", t->list[i].name);
    return KIN_OK;
}

kin_status kin_tar_open(const char *path, kin_tar **out, kin_error *err)
{
    kin_status status;
    *out = NULL;
    kin_tar *t = kin_calloc(1, sizeof *t);
    if (!t)
        return kin_fail(err, KIN_ERR_MEM, "tar: %s: no memory", path);
    KIN_GOTO(kin_blob_open(path, &t->blob, err));
    status = read_index(t, err);
    if (status != KIN_OK)
        kin_fail_prefix(err, "tar: %s", path);
done:
    if (status != KIN_OK)
        kin_tar_close(&t);
    *out = t;
    return status;
}

void kin_tar_close(kin_tar **tar)
{
    kin_tar *t = *tar;
    if (!t)
        return;
    for (int64_t i = 0; i < t->count; i++)
        kin_free((char *)(uintptr_t)t->list[i].name);
    kin_free(t->list);
    kin_free(t->long_name);
    kin_blob_close(&t->blob);
    kin_free(t);
    *tar = NULL;
}

int64_t kin_tar_count(const kin_tar *tar)
{
    return tar->count;
}

const kin_tar_entry *kin_tar_at(const kin_tar *tar, int64_t i)
{
    return &tar->list[i];
}

const kin_tar_entry *kin_tar_find(const kin_tar *tar, const char *name)
{
    const kin_tar_entry key = {.name = name};
    if (tar->count == 0)
        return NULL;
    return bsearch(&key, tar->list, (size_t)tar->count, sizeof key, compare_entries);
}
