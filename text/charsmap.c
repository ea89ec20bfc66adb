#include "text/charsmap.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "text/unicode.h"

enum { CLUSTER_MAX = 6 }; /* longer clusters go character by character */

struct kin_charsmap {
    uint32_t *unit; /* double array: Aoe 1989; the bit fields are those of Darts-clone */
    size_t units;
    char *text; /* replacements */
    size_t text_bytes;
};

static uint32_t read_u32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

kin_status kin_charsmap_create(const void *blob, size_t bytes, kin_charsmap **out, kin_error *err)
{
    const unsigned char *p = blob;
    *out = NULL;
    size_t array = bytes >= 4 ? read_u32(p) : 0;
    if (array < 4 || array % 4 != 0 || array > bytes - 4)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "tokenizer: the character table of %zu bytes is damaged", bytes);
    kin_charsmap *map = kin_calloc(1, sizeof *map);
    if (!map)
        return kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for the character table");
    map->units = array / 4;
    map->text_bytes = bytes - 4 - array;
    map->unit = kin_malloc(array);
    map->text = kin_malloc(map->text_bytes + 1);
    if (!map->unit || !map->text) {
        kin_charsmap_destroy(&map);
        return kin_fail(err, KIN_ERR_MEM, "tokenizer: no memory for the character table");
    }
    for (size_t i = 0; i < map->units; i++)
        map->unit[i] = read_u32(p + 4 + 4 * i);
    if (map->text_bytes > 0)
        memcpy(map->text, p + 4 + array, map->text_bytes);
    map->text[map->text_bytes] = 0;
    *out = map;
    return KIN_OK;
}

void kin_charsmap_destroy(kin_charsmap **map)
{
    if (!*map)
        return;
    kin_free((*map)->unit);
    kin_free((*map)->text);
    kin_free(*map);
    *map = NULL;
}

static size_t offset_of(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & (1u << 9)) >> 6);
}

/* Replacement of the shortest key that begins s, or NULL. */
static const char *find(const kin_charsmap *map, const char *s, size_t n)
{
    size_t at = offset_of(map->unit[0]);
    for (size_t i = 0; i < n && s[i] != 0; i++) {
        unsigned char c = (unsigned char)s[i];
        at ^= c;
        if (at >= map->units || (map->unit[at] & (1u << 31 | 0xFFu)) != c)
            return NULL;
        uint32_t unit = map->unit[at];
        at ^= offset_of(unit);
        if (unit >> 8 & 1) {
            uint32_t value = at < map->units ? map->unit[at] & 0x7FFFFFFFu : UINT32_MAX;
            return value < map->text_bytes ? map->text + value : NULL;
        }
    }
    return NULL;
}

void kin_charsmap_apply(const kin_charsmap *map, const char *s, size_t n, kin_strbuf *out)
{
    for (size_t i = 0, len; i < n; i += len) {
        len = kin_unicode_cluster(s + i, n - i);
        const char *to = len < CLUSTER_MAX ? find(map, s + i, len) : NULL;
        if (to) {
            kin_strbuf_add(out, to);
            continue;
        }
        for (size_t k = 0, one; k < len; k += one) {
            int32_t c;
            one = kin_unicode_next(s + i + k, len - k, &c);
            to = find(map, s + i + k, one);
            if (to)
                kin_strbuf_add(out, to);
            else
                kin_strbuf_add_bytes(out, s + i + k, one);
        }
    }
}
