#include "tensor/cuda/cudnn_plan.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

enum {
    PLANS = 512,
    ASKED = KIN_CUDNN_OFFERS / 2,
    /* version 9.16. note: 9.14 has all that is set here, but up to 9.15 convolutions in 3-D under
     * TF32 can be wrong, and attention backward reads beyond keys that are no multiple of 128 */
    OLDEST = 91600,
    MOST_WORKSPACE = 1024 << 20 /* bytes; plans that want more are left out */
};

/* the library's calls that are needed, by name */
#define EACH_CALL(X)            \
    X(Create)                   \
    X(Destroy)                  \
    X(SetStream)                \
    X(GetVersion)               \
    X(GetLastErrorString)       \
    X(BackendCreateDescriptor)  \
    X(BackendDestroyDescriptor) \
    X(BackendSetAttribute)      \
    X(BackendGetAttribute)      \
    X(BackendFinalize)          \
    X(BackendExecute)

struct kin_cudnn {
#define MEMBER(name) __typeof__(&cudnn##name) name;
    EACH_CALL(MEMBER)
#undef MEMBER
    void *file;
    cudnnHandle_t handle;            /* NULL: a described device */
    cudnnBackendDescriptor_t device; /* of a described device, else NULL */
    kin_cudnn_plan *plan[PLANS];
    int plans;
};

static bool load_calls(kin_cudnn *l)
{
    l->file = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
    if (!l->file)
        return false;
    void *address;
    bool all = true;
#define LOAD(name)                               \
    address = dlsym(l->file, "cudnn" #name);     \
    memcpy(&l->name, &address, sizeof(address)); \
    all = all && address;
    EACH_CALL(LOAD)
#undef LOAD
    return all && l->GetVersion() >= OLDEST;
}

kin_cudnn *kin_cudnn_load(void *stream)
{
    kin_cudnn *l = kin_calloc(1, sizeof *l);
    if (l && load_calls(l) && l->Create(&l->handle) == CUDNN_STATUS_SUCCESS &&
        l->SetStream(l->handle, (cudaStream_t)stream) == CUDNN_STATUS_SUCCESS)
        return l;
    kin_cudnn_free(&l);
    return NULL;
}

kin_cudnn *kin_cudnn_load_described(const char *json)
{
    kin_cudnn *l = kin_calloc(1, sizeof *l);
    if (l && load_calls(l) &&
        l->BackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &l->device) ==
            CUDNN_STATUS_SUCCESS &&
        l->BackendSetAttribute(l->device, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION,
                               CUDNN_TYPE_CHAR, (int64_t)strlen(json),
                               json) == CUDNN_STATUS_SUCCESS &&
        l->BackendFinalize(l->device) == CUDNN_STATUS_SUCCESS)
        return l;
    kin_cudnn_free(&l);
    return NULL;
}

static void plan_free(kin_cudnn_plan *p)
{
    while (p->parts > 0)
        (void)p->lib->BackendDestroyDescriptor(p->part[--p->parts]);
    kin_free(p);
}

void kin_cudnn_free(kin_cudnn **pl)
{
    kin_cudnn *l = *pl;
    if (!l)
        return;
    while (l->plans > 0)
        plan_free(l->plan[--l->plans]);
    if (l->device)
        (void)l->BackendDestroyDescriptor(l->device);
    if (l->handle)
        (void)l->Destroy(l->handle);
    /* note: the library stays loaded; it has no way of being closed and opened again in peace */
    kin_free(l);
    *pl = NULL;
}

/* --- building --- */

static void check(kin_cudnn_plan *p, cudnnStatus_t status)
{
    if (status == CUDNN_STATUS_SUCCESS || p->failed)
        return;
    p->failed = true;
    p->lib->GetLastErrorString(p->why, sizeof p->why);
}

cudnnBackendDescriptor_t kin_cudnn_part(kin_cudnn_plan *p, cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t part = NULL;
    if (p->parts == KIN_CUDNN_PARTS)
        p->failed = true;
    if (!p->failed)
        check(p, p->lib->BackendCreateDescriptor(type, &part));
    if (part)
        p->part[p->parts++] = part;
    return part;
}

void kin_cudnn_set(kin_cudnn_plan *p, cudnnBackendDescriptor_t part,
                   cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                   int64_t count, const void *values)
{
    if (!p->failed)
        check(p, p->lib->BackendSetAttribute(part, name, type, count, values));
}

void kin_cudnn_set_part(kin_cudnn_plan *p, cudnnBackendDescriptor_t part,
                        cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t value)
{
    kin_cudnn_set(p, part, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

void kin_cudnn_finish(kin_cudnn_plan *p, cudnnBackendDescriptor_t part)
{
    if (!p->failed)
        check(p, p->lib->BackendFinalize(part));
}

void kin_cudnn_finish_op(kin_cudnn_plan *p, cudnnBackendDescriptor_t op)
{
    kin_cudnn_finish(p, op);
    if (p->ops == KIN_CUDNN_OPS)
        p->failed = true;
    if (!p->failed)
        p->op[p->ops++] = op;
}

cudnnBackendDescriptor_t kin_cudnn_add(kin_cudnn_plan *p, const kin_cudnn_tensor *t)
{
    const int64_t alignment = KIN_CUDNN_ALIGNMENT;
    cudnnBackendDescriptor_t d = kin_cudnn_part(p, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    kin_cudnn_set(p, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &t->type);
    kin_cudnn_set(p, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, t->ndim, t->size);
    kin_cudnn_set(p, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, t->ndim, t->stride);
    kin_cudnn_set(p, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &t->id);
    kin_cudnn_set(p, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    kin_cudnn_set(p, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &t->inner);
    kin_cudnn_set(p, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &t->scalar);
    kin_cudnn_finish(p, d);
    return d;
}

/* --- plans --- */

static cudnnBackendDescriptor_t close_graph(kin_cudnn_plan *p)
{
    cudnnBackendDescriptor_t g = kin_cudnn_part(p, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    kin_cudnn_set(p, g, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, p->ops,
                  p->op);
    if (p->lib->handle)
        kin_cudnn_set(p, g, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1,
                      &p->lib->handle);
    kin_cudnn_finish(p, g);
    return g;
}

/* True if the engine compiles its kernel at run time. */
static bool compiles(kin_cudnn *l, cudnnBackendDescriptor_t engine)
{
    cudnnBackendBehaviorNote_t note[CUDNN_BEHAVIOR_NOTE_TYPE_COUNT];
    int64_t n = 0;
    bool found =
        l->BackendGetAttribute(engine, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE,
                               CUDNN_BEHAVIOR_NOTE_TYPE_COUNT, &n, note) != CUDNN_STATUS_SUCCESS;
    for (int64_t i = 0; i < n && !found; i++)
        found = note[i] == CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION;
    return found;
}

/* True if the engine of a configuration is none of those left out. */
static bool suits(kin_cudnn_plan *p, cudnnBackendDescriptor_t offer)
{
    kin_cudnn *l = p->lib;
    cudnnBackendDescriptor_t engine = NULL;
    cudnnBackendNumericalNote_t note[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    int64_t n = 0;
    if (l->BackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) !=
        CUDNN_STATUS_SUCCESS)
        return false;
    bool ok =
        l->BackendGetAttribute(offer, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                               &n, &engine) == CUDNN_STATUS_SUCCESS &&
        l->BackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                               CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &n, note) == CUDNN_STATUS_SUCCESS;
    for (int64_t i = 0; i < n && ok; i++)
        ok = (p->refused >> note[i] & 1u) == 0;
    ok = ok && !(p->compiled && compiles(l, engine));
    (void)l->BackendDestroyDescriptor(engine);
    return ok;
}

/* Adds what the heuristics of a mode offer for the graph, the most promising first. */
static void ask(kin_cudnn_plan *p, cudnnBackendDescriptor_t graph, cudnnBackendHeurMode_t mode)
{
    cudnnBackendDescriptor_t offer[ASKED], h;
    int64_t count = 0;
    h = kin_cudnn_part(p, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    kin_cudnn_set_part(p, h, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    kin_cudnn_set(p, h, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (p->lib->device)
        kin_cudnn_set_part(p, h, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, p->lib->device);
    kin_cudnn_finish(p, h);
    for (int i = 0; i < ASKED; i++)
        offer[i] = kin_cudnn_part(p, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (!p->failed)
        check(p, p->lib->BackendGetAttribute(h, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                             CUDNN_TYPE_BACKEND_DESCRIPTOR, ASKED, &count, offer));
    for (int64_t i = 0; i < count && i < ASKED && !p->failed; i++)
        if (suits(p, offer[i]))
            p->offer[p->offers++] = offer[i];
}

/* Makes p's plan of a configuration, if the library can. */
static bool finish_plan(kin_cudnn_plan *p, cudnnBackendDescriptor_t offer)
{
    kin_cudnn *l = p->lib;
    int64_t bytes = 0, n = 0;
    cudnnBackendDescriptor_t plan = kin_cudnn_part(p, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    if (l->handle)
        kin_cudnn_set(p, plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &l->handle);
    if (l->device)
        kin_cudnn_set_part(p, plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, l->device);
    kin_cudnn_set_part(p, plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, offer);
    kin_cudnn_finish(p, plan);
    if (!p->failed)
        check(p, l->BackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                        CUDNN_TYPE_INT64, 1, &n, &bytes));
    if (p->failed || bytes > MOST_WORKSPACE)
        return false;
    p->plan = plan;
    p->workspace = (size_t)bytes;
    return true;
}

kin_cudnn_plan *kin_cudnn_graph(kin_cudnn *l, const int64_t *spec, int count,
                                void (*build)(kin_cudnn_plan *p))
{
    int64_t whole[KIN_CUDNN_SPEC] = {0};
    memcpy(whole, spec, (size_t)count * sizeof *spec);
    for (int i = 0; i < l->plans; i++)
        if (memcmp(l->plan[i]->spec, whole, sizeof whole) == 0)
            return l->plan[i];
    kin_cudnn_plan *p = l->plans < PLANS ? kin_calloc(1, sizeof *p) : NULL;
    if (!p)
        return NULL;
    p->lib = l;
    memcpy(p->spec, whole, sizeof whole);
    l->plan[l->plans++] = p;
    build(p);
    cudnnBackendDescriptor_t graph = close_graph(p);
    if (p->failed)
        return p;
    ask(p, graph, CUDNN_HEUR_MODE_A);
    p->failed = false;
    ask(p, graph, CUDNN_HEUR_MODE_FALLBACK);
    return p;
}

kin_cudnn_plan *kin_cudnn_find(kin_cudnn *l, const int64_t *spec, int count,
                               void (*build)(kin_cudnn_plan *p))
{
    kin_cudnn_plan *p = kin_cudnn_graph(l, spec, count, build);
    /* each offer is tried once; a failure says nothing about the next */
    for (int i = 0; p && !p->plan && i < p->offers; i++) {
        p->failed = false;
        (void)finish_plan(p, p->offer[i]);
    }
    if (p && !p->plan)
        p->offers = 0;
    return p && p->plan ? p : NULL;
}

bool kin_cudnn_run(kin_cudnn_plan *p, int count, const int64_t *id, void *const *data,
                   void *workspace)
{
    kin_cudnn *l = p->lib;
    cudnnBackendDescriptor_t pack = NULL;
    const bool ok =
        l->BackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack) ==
            CUDNN_STATUS_SUCCESS &&
        l->BackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count,
                               id) == CUDNN_STATUS_SUCCESS &&
        l->BackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR,
                               count, data) == CUDNN_STATUS_SUCCESS &&
        l->BackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1,
                               &workspace) == CUDNN_STATUS_SUCCESS &&
        l->BackendFinalize(pack) == CUDNN_STATUS_SUCCESS &&
        l->BackendExecute(l->handle, p->plan, pack) == CUDNN_STATUS_SUCCESS;
    if (!ok)
        l->GetLastErrorString(p->why, sizeof p->why);
    if (!ok && !p->ran) { /* note: one that has run fails where all launches do */
        p->plan = NULL;
        p->offers = 0;
    }
    p->ran = p->ran || ok;
    if (pack)
        (void)l->BackendDestroyDescriptor(pack);
    return ok;
}
