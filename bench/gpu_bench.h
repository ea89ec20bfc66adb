/* bench/gpu_bench.h: what the parts of gpu_bench share: the stand, timed works, bars. */
#ifndef KIN_BENCH_GPU_BENCH_H
#define KIN_BENCH_GPU_BENCH_H

#include "tensor/kernels.h"

typedef struct sizes {
    int64_t dense;                  /* M = N = K of the large product */
    int64_t tokens, width, hidden;  /* of the experts' layer */
    int64_t batch, heads, sequence; /* of attention */
    int64_t frames, side, channels; /* of a video convolution, side x side pixels */
} sizes;

enum { EXPERTS = 12, MOST_BARS = 16 };

/* A demand on a figure of docs/gpu.md. */
typedef struct bar {
    const char *work, *unit;
    double value, limit;
    bool at_most; /* else at least */
} bar;

typedef struct bench {
    kin_ctx *ctx;
    kin_params *params;
    sizes s;
    bool small, twice;
    const char *suffix; /* of the rows' names */
    int rows, differ;
    double seconds; /* of the last timed work */
    bar bars[MOST_BARS];
    int bar_count;
} bench;

/* One thing to time. */
typedef struct work {
    const char *name;
    kin_status (*run)(bench *b, const struct work *w);
    const void *args;
    const kin_tensor *result; /* NULL: not compared */
    double flops, bytes;
} work;

/* Times w, or with b->twice compares its results; one line of JSON. */
kin_status do_work(bench *b, const work *w);
/* Keeps a bar, of the bf16 rows that were timed. */
void add_bar(bench *b, const char *name, const char *unit, double value, double limit,
             bool at_most);
/* A device tensor of normal numbers. */
kin_status noise(bench *b, int ndim, const int64_t *sizes_of, kin_tensor *t);
/* A weight [n,k] of small numbers, or a vector [k] (n 0), and its gradient, both on the device. */
kin_status weight(bench *b, const char *name, int64_t n, int64_t k, kin_param **out);

/* gpu_layer.c: a layer of experts trained beside a dense one of equal work. */
kin_status layer(bench *b);

#endif
