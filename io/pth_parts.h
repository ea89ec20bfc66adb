/* io/pth_parts.h: what pth.c and pth_tree.c share. Internal to io/. */
#ifndef KIN_IO_PTH_PARTS_H
#define KIN_IO_PTH_PARTS_H

#include "io/blob.h"
#include "io/pth.h"
#include "io/pth_zip.h"

/* One storage that the pickle names. */
typedef struct kin_pth_storage {
    const char *key;
    uint32_t key_length;
    int64_t type; /* of kin_pickle_storage_type */
    uint64_t count;
    const uint8_t *data;
} kin_pth_storage;

typedef struct kin_pth_scalar {
    const char *name;
    double value;
} kin_pth_scalar;

struct kin_pth {
    kin_blob blob;
    kin_pth_zip *zip;      /* NULL: the stream */
    uint8_t *pickle_bytes; /* of the zip form */
    kin_pickle pickle;     /* gone once the lists below are made */
    kin_pth_storage *storages;
    size_t storage_count;
    kin_pth_entry *list;
    const kin_pth_entry **by_name;
    int64_t count, cap;
    kin_pth_scalar *scalars;
    int64_t scalar_count, scalar_cap;
    void **copies; /* [count], of kin_pth_tensor */
};

kin_dtype kin_pth_storage_dtype(const kin_pth_storage *s);
/* The storage of a persistent id that list_storages has checked. */
const kin_pth_storage *kin_pth_storage_of(const kin_pth *p, const kin_pickle_value *persistent);
/* Fills list and scalars from the pickle (pth_tree.c). Fails: FORMAT, MEM. */
kin_status kin_pth_walk(kin_pth *p, kin_error *err);

#endif
