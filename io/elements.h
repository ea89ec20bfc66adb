/* io/elements.h: numbers on their way between files: conversion of element types at any alignment,
 * and tensors that a writer reads piece by piece, so that no file is ever held in memory. */
#ifndef KIN_IO_ELEMENTS_H
#define KIN_IO_ELEMENTS_H

#include "tensor/tensor.h"

enum { KIN_ITEM_MAX_DIMS = 8 };

/* n elements at `from` (no alignment needed) as type `as` into out. Float types convert into each
 * other, round to nearest even; integers into f32 and f64; equal types are copied. */
void kin_elements_convert(const void *from, kin_dtype type, int64_t n, kin_dtype as, void *out);
/* True if kin_elements_convert can do it without losing what an integer says. */
bool kin_elements_can(kin_dtype type, kin_dtype as);

/* One tensor for a writer. */
typedef struct kin_item {
    const char *name;
    int ndim;
    int64_t size[KIN_ITEM_MAX_DIMS];
    kin_dtype type;  /* of the source */
    kin_dtype store; /* in the file */
    /* Elements [at, at+n) in row-major order as type `as` into out. */
    void (*read)(const void *user, int64_t at, int64_t n, kin_dtype as, void *out);
    const void *user;
} kin_item;

int64_t kin_item_numel(const kin_item *item);
/* An item that reads the contiguous tensor *t, which stays the caller's. */
kin_item kin_item_of(const char *name, const kin_tensor *t, kin_dtype store);
/* The same for a value in a read-only file mapping: pages are given back once they were read. */
kin_item kin_item_of_mapped(const char *name, const kin_tensor *t, kin_dtype store);

/* --- 8-bit blocks --- */

/* A matrix [n,k] on its way into 8-bit blocks: NAME (I8) and NAME.scale (F16 [n, blocks of a row]).
 * A factor is the largest magnitude of its block over 127, rounded to f16. While the integers are
 * written the error is summed up. */
typedef struct kin_blocks {
    kin_item source;              /* 2-D, of a float type */
    const kin_tensor *mapped;     /* whose pages are given back once they were read, or NULL */
    char *name;                   /* of the factors, NAME.scale */
    double error2, value2, worst; /* sums of squares; the largest error of a value */
} kin_blocks;

/* Fills *b for a source and the two items that write it; b lives until they are written, then
 * kin_blocks_free. Fails: MEM. */
kin_status kin_blocks_init(kin_blocks *b, const kin_item *source, kin_item *values,
                           kin_item *factors, kin_error *err);
void kin_blocks_free(kin_blocks *b);

#endif
