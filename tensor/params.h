/* tensor/params.h: the parameter table. Models register their parameters by the official names;
 * checkpoint, optimizer, EMA, packing and gradient tests walk this one table. It owns values,
 * gradients and packed forms, except values bound to memory of others (mapped files). */
#ifndef KIN_TENSOR_PARAMS_H
#define KIN_TENSOR_PARAMS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "tensor/tensor.h"

typedef enum kin_init_kind {
    KIN_INIT_ZERO,
    KIN_INIT_ONE,
    KIN_INIT_NORMAL, /* N(0, scale^2) */
    KIN_INIT_XAVIER, /* uniform, Glorot: fan_in and fan_out of the flat [size0, rest] view */
    KIN_INIT_CONST,  /* all entries = scale */
    KIN_INIT_UNIFORM /* in +-scale */
} kin_init_kind;

typedef struct kin_init {
    kin_init_kind kind;
    float scale;
    /* added after drawing to the rows row_a and row_b of the second-to-last dimension (gate_start);
     * 0: nothing */
    float add;
    int row_a, row_b;
} kin_init;
#define KIN_INIT(k, s) ((kin_init){.kind = (k), .scale = (s)})

/* A packed form of a parameter, made by a backend from version `version`. */
typedef struct kin_pack {
    struct kin_pack *next;
    uint64_t key; /* backend's choice: layout, dtype, ISA */
    uint64_t version;
    size_t bytes;
    void *data;  /* 64-byte aligned, kin_malloc */
    void *extra; /* backend's object, freed by free_extra */
    void (*free_extra)(void *);
} kin_pack;

/* A low-rank adapter of a matrix W [n,k] (LoRA, Hu et al. 2021, arXiv 2106.09685): dense products
 * with W add scale * (x A^T) B^T. */
typedef struct kin_adapter {
    struct kin_adapter *next;
    struct kin_param *a, *b; /* A [r,k], B [n,r]: parameters of the same table */
    float scale;
} kin_adapter;

typedef struct kin_param {
    char *name;
    kin_tensor value; /* data NULL until allocated or bound */
    kin_tensor grad;  /* f32 (f64 for f64 values); data NULL: no gradient wanted */
    bool trainable;
    bool int8;   /* a matrix whose products may be done in 8 bits (kin_params_allow_int8) */
    bool blocks; /* a matrix that may be stored in 8-bit blocks: those, and more */
    bool owned;  /* value memory belongs to the table */
    bool mapped; /* value lies in a read-only mapped file */
    bool once;   /* used about once per load: dense products read the value as it lies, where they
                    can, in place of keeping packed panels, and leave none of its pages resident */
    uint64_t version; /* bumped by each optimizer step or load */
    kin_init init;
    kin_pack *packs;
    kin_adapter *adapters; /* of this matrix; NULL: none */
    int index;
} kin_param;

typedef struct kin_params {
    kin_param **list;
    int count, cap;    /* cap: a power of two, or 0 */
    int *slot;         /* [2 cap] by hash of the name: 1 + its place in the list, 0: free */
    kin_status failed; /* first failure of kin_params_add: MEM, or ARG for a name used twice */
    char *block;       /* values */
    char *grad_block;  /* gradients, one range */
    size_t grad_bytes;
} kin_params;

kin_status kin_params_create(kin_params **out, kin_error *err);
void kin_params_destroy(kin_params **params);

/* Registers a parameter (trainable). Returns NULL and sets params->failed on failure, so that a
 * model may register everything and check once. The pointer stays valid for the table's life. */
kin_param *kin_params_add(kin_params *params, kin_init init, int ndim, const int64_t *sizes,
                          const char *fmt, ...) __attribute__((format(printf, 5, 6)));
#define KIN_DIMS(...)                                                      \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) \
    {                                                                      \
        __VA_ARGS__                                                        \
    }

/* Lets the products of these matrices (NULL entries are passed over) run in 8-bit integers where
 * the context asks for them. Models name the matrices of their blocks; embeddings, modulation and
 * the last projection are left out, since their error reaches the velocity undamped
 * (docs/SPEED.md). */
void kin_params_allow_int8(kin_param *const *list, int64_t n);

/* Registers an adapter of w under w's name with ".weight" replaced: ".lora_A.NAME.weight" [rank,k],
 * started uniformly in +-1/sqrt(k), and ".lora_B.NAME.weight" [n,rank], started at zero. Fails: ARG
 * (w is no matrix NAME.weight, rank, name used twice), MEM. */
kin_status kin_params_adapt(kin_params *params, kin_param *w, int64_t rank, float scale,
                            const char *name, kin_error *err);

/* Forgets all adapters and takes their parameters out of the table. */
void kin_params_drop_adapters(kin_params *params);

kin_param *kin_params_find(const kin_params *params, const char *name); /* NULL: none */
/* Number of elements in all parameters. */
int64_t kin_params_numel(const kin_params *params);
size_t kin_params_bytes(const kin_params *params);

/* Gives every parameter that has no value yet zeroed f32 (or f64) memory in one block.
 * plan true: only shapes (data is an address that must not be touched). */
kin_status kin_params_alloc(kin_params *params, kin_dtype dtype, bool plan, kin_error *err);
/* One block of zeroed gradients for all trainable parameters. plan as above. */
kin_status kin_params_alloc_grads(kin_params *params, bool plan, kin_error *err);
void kin_params_zero_grads(kin_params *params);
/* Binds the value to memory of someone else (same shape; f32, bf16, f16, f64, or a matrix in 8-bit
 * blocks). SHAPE names both shapes. */
kin_status kin_params_bind(kin_param *p, const kin_tensor *value, kin_error *err);
/* After a pass over a mapped value whose result is kept elsewhere (packed, copied): its pages no
 * longer count as resident. Nothing for other values. */
void kin_param_drop_pages(const kin_param *p);
/* Start values from (seed, parameter index); bumps versions. Values must be f32 or f64. */
void kin_params_init(kin_params *params, uint64_t seed);
/* The same for one parameter. */
void kin_param_init(kin_param *p, uint64_t seed);
/* To be called after a value changed. */
void kin_param_touch(kin_param *p);

/* The pack of this key made from the current version, or NULL. */
kin_pack *kin_param_pack_find(const kin_param *p, uint64_t key);
/* A pack for this key with at least `bytes` of data, reusing the stale one of the same key; version
 * is set to the current one. plan true: only its bytes are kept (data NULL). NULL: out of memory.
 */
kin_pack *kin_param_pack_get(kin_param *p, uint64_t key, size_t bytes, bool plan);
size_t kin_param_pack_bytes(const kin_param *p);
size_t kin_params_pack_bytes(const kin_params *params);
/* Gives the memory of all packed forms back; they are made again when needed. Returns its bytes. */
size_t kin_params_drop_packs(kin_params *params);
size_t kin_param_drop_packs(kin_param *p);
/* Gives the memory of p's packed forms to `next`, a parameter of the same shape, which makes its
 * own in it; what `next` has already is freed, its bytes added to *freed. Fails: MEM. */
kin_status kin_param_give_packs(kin_param *p, kin_param *next, size_t *freed, kin_error *err);
/* Bytes the table keeps in memory once every product has run (after a dry run: what a run will
 * keep): packed forms, gradients and values, of mapped values what is read unpacked. */
size_t kin_params_resident_bytes(const kin_params *params);

#endif
