/* base/json.h: strict JSON. A scan of our own rejects what cJSON lets pass (duplicate keys, numbers
 * beyond the double range, bad UTF-8, lone surrogates, raw control characters, garbage after the
 * value, depth beyond 64); cJSON then builds the tree. The tree is a cJSON; walk it with cJSON's
 * own calls. */
#ifndef KIN_BASE_JSON_H
#define KIN_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "base/status.h"

enum { KIN_JSON_MAX_DEPTH = 64, KIN_JSON_MAX_VALUES = 32000000 };

typedef enum kin_json_flags {
    KIN_JSON_STRICT = 0,
    KIN_JSON_ALLOW_INFINITY =
        1, /* bare Infinity and -Infinity as diffusers' scheduler configs hold them */
    KIN_JSON_ALLOW_BOM = 2,   /* a UTF-8 byte order mark before the value */
    KIN_JSON_CONCATENATED = 4 /* several top-level arrays one after the other become one array */
} kin_json_flags;

/* Parses text[0..bytes) (not zero-terminated). The result is the caller's: cJSON_Delete.
 * Fails: KIN_ERR_FORMAT with line and column; KIN_ERR_MEM. */
kin_status kin_json_parse(const char *text, size_t bytes, unsigned flags, cJSON **out,
                          kin_error *err);

/* The same with a limit on the number of values in the text, each of which costs about 80 bytes of
 * memory. */
kin_status kin_json_parse_max(const char *text, size_t bytes, unsigned flags, size_t max_values,
                              cJSON **out, kin_error *err);

/* Reads and parses a whole file (at most max_bytes). The error names the file. */
kin_status kin_json_read(const char *path, size_t max_bytes, unsigned flags, cJSON **out,
                         kin_error *err);

/* Member access with type check. A missing key or a null leaves *inout (*out) as it was.
 * Fails: KIN_ERR_FORMAT, naming the key. */
kin_status kin_json_get_i64(const cJSON *obj, const char *key, int64_t lo, int64_t hi,
                            int64_t *inout, kin_error *err);
kin_status kin_json_get_f64(const cJSON *obj, const char *key, double *inout, kin_error *err);
kin_status kin_json_get_bool(const cJSON *obj, const char *key, bool *inout, kin_error *err);
/* *out points into the tree. */
kin_status kin_json_get_str(const cJSON *obj, const char *key, const char **out, kin_error *err);

/* Puts value into obj under key, in the place of what is there, or at the end of the array list.
 * Takes value, also when it fails; false when out of memory, and for NULL arguments, so that a tree
 * can be built in one expression. cJSON itself leaves out what it has no memory for, loses the key
 * of what it replaces, and keeps hold of nothing then. */
bool kin_json_put(cJSON *obj, const char *key, cJSON *value);
bool kin_json_append(cJSON *list, cJSON *value);

/* Fails (KIN_ERR_FORMAT, naming the nearest known key) if obj has a key that is not in `known`
 * (NULL-terminated list). `where` names the object in the message. */
kin_status kin_json_known_keys(const cJSON *obj, const char *const *known, const char *where,
                               kin_error *err);

#endif
