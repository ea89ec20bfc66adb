/* training/loader.h: batches made ahead of time by a thread. Which clip comes when is a pure
 * function of (seed, global sample index), so a run that resumes at a step reads the same data as
 * one that never stopped. */
#ifndef KIN_TRAINING_LOADER_H
#define KIN_TRAINING_LOADER_H

#include "training/source.h"

/* A micro-batch in host memory. */
typedef struct kin_batch {
    int64_t size; /* B */
    kin_sample_shape shape;
    uint64_t first;  /* global index of sample 0; sample b has first + b */
    uint8_t *frames; /* [B,F,H,W,3] */
    float *moments;  /* [B,2C,f,h,w] */
    float *states;   /* [B,T,state_dim] */
    int32_t *ids;    /* [B,T] */
    uint8_t *mask;   /* [B,T] */
    float *prior;    /* [B,29] */
    float *quant;    /* [B,18] */
    uint8_t *empty;  /* [B] */
    int32_t *label;  /* [B] */
    void *block;     /* owner of the above */
    size_t bytes;
} kin_batch;
/* All arrays in one block. Free: kin_batch_free. */
kin_status kin_batch_alloc(const kin_sample_shape *shape, int64_t size, kin_batch *out,
                           kin_error *err);
void kin_batch_free(kin_batch *b);
/* The arrays of sample b. */
kin_sample kin_batch_sample(const kin_batch *batch, int64_t b);

/* Clip of global sample index g in a set of `count` (0: endless, clip g): the set is gone through
 * in one order per epoch, drawn from (seed, epoch). `order` [count] holds the order of epoch *epoch
 * (-1: none yet) and is redrawn when that changes. */
int64_t kin_data_order(uint64_t seed, int64_t count, uint64_t g, int32_t *order, int64_t *epoch);

enum { KIN_LOADER_DEPTH = 3 };

typedef struct kin_loader kin_loader;

/* Starts the thread. Batches of `size` samples from global sample index `first` on. The source is
 * its alone until kin_loader_stop. Fails: MEM, BACKEND (no thread). */
kin_status kin_loader_start(kin_source *source, uint64_t seed, int64_t size, uint64_t first,
                            kin_loader **out, kin_error *err);
void kin_loader_stop(kin_loader **l);
/* The next batch, valid until the next call. Fails with what reading failed with. */
kin_status kin_loader_next(kin_loader *l, const kin_batch **batch, kin_error *err);
size_t kin_loader_bytes(const kin_sample_shape *shape, int64_t size, int64_t count);

#endif
