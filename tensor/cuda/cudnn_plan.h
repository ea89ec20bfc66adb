/* tensor/cuda/cudnn_plan.h: operation graphs of cuDNN through its C backend API: descriptors of
 * tensors and operations, the plan that cuDNN's heuristics choose for a graph, and a table of plans
 * by the shapes they were made for. The library is loaded at run time, so that the program starts
 * without it. What graphs there are: cudnn_attention.c, cudnn_conv.c. */
#ifndef KIN_TENSOR_CUDA_CUDNN_PLAN_H
#define KIN_TENSOR_CUDA_CUDNN_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cudnn_graph.h>

#include "tensor/cuda/cudnn.h"

enum {
    KIN_CUDNN_DIMS = 5,
    KIN_CUDNN_OPS = 20,
    KIN_CUDNN_OFFERS = 32,
    KIN_CUDNN_PARTS = 192,
    KIN_CUDNN_SPEC = 32,
    KIN_CUDNN_ALIGNMENT = 16 /* of tensors, in bytes */
};

/* A graph and its plan. Calls that build it do nothing once one has failed; `why` then holds the
 * library's text. */
typedef struct kin_cudnn_plan {
    kin_cudnn *lib;
    int64_t spec[KIN_CUDNN_SPEC];                   /* what it was made for; zeros after its end */
    cudnnBackendDescriptor_t part[KIN_CUDNN_PARTS]; /* every descriptor, in order of creation */
    cudnnBackendDescriptor_t op[KIN_CUDNN_OPS];
    cudnnBackendDescriptor_t offer[KIN_CUDNN_OFFERS]; /* engine configurations, best first */
    int parts, ops, offers;
    uint32_t
        refused;   /* bits 1 << CUDNN_NUMERICAL_NOTE_...: engines with such a note are left out */
    bool compiled; /* engines that are compiled at run time are left out */
    bool failed;
    bool ran;                      /* a launch of the plan has succeeded */
    cudnnBackendDescriptor_t plan; /* NULL: none made yet, or none can be */
    size_t workspace;              /* bytes */
    char why[256];
} kin_cudnn_plan;

/* A tensor: size and stride in elements. */
typedef struct kin_cudnn_tensor {
    int64_t id;
    cudnnDataType_t type;
    int ndim;
    int64_t size[KIN_CUDNN_DIMS], stride[KIN_CUDNN_DIMS];
    bool inner;  /* lives inside the graph alone */
    bool scalar; /* a value in host memory */
} kin_cudnn_tensor;

/* kin_cudnn_load for a device that is not there, described by JSON text as the library writes it:
 * graphs can be asked for, plans not run. */
kin_cudnn *kin_cudnn_load_described(const char *json);

/* The graph for `spec` (count values, the first of which tells one kind of graph from the others)
 * with the library's offers, built by `build` at the first call. NULL: the table is full. */
kin_cudnn_plan *kin_cudnn_graph(kin_cudnn *lib, const int64_t *spec, int count,
                                void (*build)(kin_cudnn_plan *p));
/* The same with its plan, made at the first call, which may take seconds. NULL: there is none. */
kin_cudnn_plan *kin_cudnn_find(kin_cudnn *lib, const int64_t *spec, int count,
                               void (*build)(kin_cudnn_plan *p));
/* Launches the plan: `count` tensors by id, where they lie, scratch of p->workspace bytes. A plan
 * whose first launch fails is given up: false, now and at every later find. */
bool kin_cudnn_run(kin_cudnn_plan *p, int count, const int64_t *id, void *const *data,
                   void *workspace);

/* --- building --- */

/* A descriptor under construction, owned by p; its attributes; its end. */
cudnnBackendDescriptor_t kin_cudnn_part(kin_cudnn_plan *p, cudnnBackendDescriptorType_t type);
void kin_cudnn_set(kin_cudnn_plan *p, cudnnBackendDescriptor_t part,
                   cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                   int64_t count, const void *values);
void kin_cudnn_set_part(kin_cudnn_plan *p, cudnnBackendDescriptor_t part,
                        cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t value);
void kin_cudnn_finish(kin_cudnn_plan *p, cudnnBackendDescriptor_t part);
/* Finished, and an operation of the graph. */
void kin_cudnn_finish_op(kin_cudnn_plan *p, cudnnBackendDescriptor_t op);
cudnnBackendDescriptor_t kin_cudnn_add(kin_cudnn_plan *p, const kin_cudnn_tensor *t);

#endif
