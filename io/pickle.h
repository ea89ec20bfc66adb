/* io/pickle.h: a Python pickle read as data. Only what torch.save writes for dictionaries of
 * tensors and numbers is known: an allow-list of opcodes and of global names. Nothing is ever
 * called: an allowed call becomes a value that says what would have been called with what. */
#ifndef KIN_IO_PICKLE_H
#define KIN_IO_PICKLE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    KIN_PICKLE_MAX_VALUES = 4000000,
    KIN_PICKLE_MAX_MEMO = 4000000,
    KIN_PICKLE_MAX_MEMBERS = 16000000, /* of all containers together */
    KIN_PICKLE_MAX_BYTES = 64 << 20
};

typedef enum kin_pickle_kind {
    KIN_PICKLE_NONE = 0,
    KIN_PICKLE_BOOL,       /* i */
    KIN_PICKLE_INT,        /* i */
    KIN_PICKLE_FLOAT,      /* f */
    KIN_PICKLE_STRING,     /* text[count], UTF-8 */
    KIN_PICKLE_BYTES,      /* text[count] */
    KIN_PICKLE_TUPLE,      /* item[count] */
    KIN_PICKLE_LIST,       /* item[count] */
    KIN_PICKLE_SET,        /* item[count] */
    KIN_PICKLE_DICT,       /* item[count]: key, value, key, value, ... */
    KIN_PICKLE_GLOBAL,     /* i: a kin_pickle_global */
    KIN_PICKLE_CALL,       /* item[2]: the global, its arguments (a tuple) */
    KIN_PICKLE_PERSISTENT, /* item[1]: the id */
} kin_pickle_kind;

/* The allowed globals. Storage types come first, in the order of kin_pickle_storage_types. */
typedef enum kin_pickle_global {
    KIN_PICKLE_STORAGES = 0,
    KIN_PICKLE_REBUILD_V2 = 100,  /* torch._utils._rebuild_tensor_v2 */
    KIN_PICKLE_REBUILD_PARAMETER, /* torch._utils._rebuild_parameter */
    KIN_PICKLE_ORDERED_DICT,
    KIN_PICKLE_SET_TYPE,
    KIN_PICKLE_SIZE,    /* torch.Size */
    KIN_PICKLE_CONSTANT /* torch.float32 and its like, as a value without meaning here */
} kin_pickle_global;

typedef struct kin_pickle_value {
    uint8_t kind; /* kin_pickle_kind */
    uint32_t count, cap;
    union {
        int64_t i;
        double f;
        const char *text; /* into the pickle, not zero-terminated */
        uint32_t *item;   /* numbers of values */
    };
} kin_pickle_value;

/* Containers hold the numbers of their members, so that a value may stand in many places, or within
 * itself: walk it with limits of your own. */
typedef struct kin_pickle {
    kin_pickle_value *value;
    uint32_t count, cap;
    uint32_t root;
    size_t used; /* bytes up to and with STOP */
} kin_pickle;

/* Reads one pickle at the start of data[0..bytes), which must outlive *out. Fails: FORMAT (damaged,
 * or something that is not allowed, by name); MEM. Free with kin_pickle_free in any case. */
kin_status kin_pickle_parse(const uint8_t *data, size_t bytes, kin_pickle *out, kin_error *err);
void kin_pickle_free(kin_pickle *p); /* safe on {0} */

/* "FloatStorage", ... by number, NULL past the end. */
const char *kin_pickle_storage_type(int64_t i);

#endif
