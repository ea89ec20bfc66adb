/* tensor/cuda/lt.c: cublasLt is column-major: it is asked for y^T [n,m] = b [n,k] a^T [k,m], so its
 * A is our b. */
#include "tensor/cuda/lt.h"

#include <stdlib.h>
#include <string.h>

#include <cublasLt.h>

#include "base/hash.h"

enum { CACHED = 512 };

typedef struct entry {
    kin_lt_product key;
    cublasLtMatmulAlgo_t algo;
    int state; /* 0: free, 1: algo holds, 2: and has run, -1: the library takes no such product */
} entry;

struct kin_lt {
    cublasLtHandle_t handle;
    void *workspace;
    size_t workspace_bytes;
    entry cache[CACHED];
};

enum { A, B, C, D, LAYOUTS };

typedef struct setup { /* descriptors of one product */
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t layout[LAYOUTS];
    cublasLtMatmulPreference_t preference;
} setup;

static void release(setup *u)
{
    if (u->preference)
        cublasLtMatmulPreferenceDestroy(u->preference);
    for (int i = 0; i < LAYOUTS; i++)
        if (u->layout[i])
            cublasLtMatrixLayoutDestroy(u->layout[i]);
    if (u->desc)
        cublasLtMatmulDescDestroy(u->desc);
}

int64_t kin_lt_alignment(const void *p, int64_t ld, int64_t size)
{
    const uint64_t bits = (uint64_t)(uintptr_t)p | (uint64_t)(ld * size) | 256;
    return (int64_t)(bits & (~bits + 1));
}

static cudaDataType_t type_of(int64_t type)
{
    return type == KIN_LT_BF16 ? CUDA_R_16BF : type == KIN_LT_E4M3 ? CUDA_R_8F_E4M3 : CUDA_R_32F;
}

static bool set(const setup *u, cublasLtMatmulDescAttributes_t name, const void *value,
                size_t bytes)
{
    return cublasLtMatmulDescSetAttribute(u->desc, name, value, bytes) == CUBLAS_STATUS_SUCCESS;
}

static bool layouts(setup *u, const kin_lt_product *p)
{
    const cudaDataType_t in = type_of(p->type), out = type_of(p->out);
    const uint64_t m = (uint64_t)p->m, n = (uint64_t)p->n, k = (uint64_t)p->k;
    const struct {
        cudaDataType_t type;
        uint64_t rows, cols;
        int64_t ld;
    } of[LAYOUTS] = {{in, p->along_b ? k : n, p->along_b ? n : k, p->ld_b},
                     {in, p->along_a ? k : m, p->along_a ? m : k, p->ld_a},
                     {out, n, m, p->add ? p->ld_c : p->ld_y},
                     {out, n, m, p->ld_y}};
    for (int i = 0; i < LAYOUTS; i++)
        if (cublasLtMatrixLayoutCreate(&u->layout[i], of[i].type, of[i].rows, of[i].cols,
                                       of[i].ld) != CUBLAS_STATUS_SUCCESS)
            return false;
    return true;
}

static cublasLtEpilogue_t epilogue_of(int64_t what)
{
    if (what & KIN_LT_SUMS) /* its B is our a */
        return CUBLASLT_EPILOGUE_BGRADB;
    if (what & KIN_LT_SLOPE)
        return CUBLASLT_EPILOGUE_DGELU;
    if (what & KIN_LT_AUX)
        return what & KIN_LT_BIAS ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    if (what & KIN_LT_GELU)
        return what & KIN_LT_BIAS ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    return what & KIN_LT_BIAS ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

/* Bias, sums and aux are of the type of y, which is the default. note: the library reads from their
 * addresses how they are aligned, also where it only chooses. */
static bool set_epilogue(const setup *u, const kin_lt_product *p, const kin_lt_data *d)
{
    const cublasLtEpilogue_t what = epilogue_of(p->epilogue);
    bool ok = set(u, CUBLASLT_MATMUL_DESC_EPILOGUE, &what, sizeof what);
    if (ok && p->epilogue & (KIN_LT_BIAS | KIN_LT_SUMS))
        ok = set(u, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &d->bias, sizeof d->bias);
    if (ok && p->epilogue & (KIN_LT_AUX | KIN_LT_SLOPE))
        ok = set(u, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &d->aux, sizeof d->aux) &&
             set(u, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &p->ld_aux, sizeof p->ld_aux);
    return ok;
}

static bool make(setup *u, const kin_lt_product *p, const kin_lt_data *d)
{
    const cublasComputeType_t compute = p->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    const cublasOperation_t ta = p->along_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t tb = p->along_a ? CUBLAS_OP_N : CUBLAS_OP_T;
    bool ok = cublasLtMatmulDescCreate(&u->desc, compute, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
              layouts(u, p) && set(u, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta) &&
              set(u, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb);
    if (ok && p->epilogue)
        ok = set_epilogue(u, p, d);
    if (ok && p->type == KIN_LT_E4M3)
        ok = set(u, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &d->step[1], sizeof d->step[1]) &&
             set(u, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &d->step[0], sizeof d->step[0]);
    return ok;
}

static bool prefer(setup *u, const kin_lt *l, const kin_lt_product *p)
{
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        uint32_t bytes;
    } least[LAYOUTS] = {
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t)p->align_b},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (uint32_t)p->align_a},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (uint32_t)(p->add ? p->align_c : p->align_y)},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (uint32_t)p->align_y},
    };
    bool ok = cublasLtMatmulPreferenceCreate(&u->preference) == CUBLAS_STATUS_SUCCESS &&
              cublasLtMatmulPreferenceSetAttribute(
                  u->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &l->workspace_bytes,
                  sizeof l->workspace_bytes) == CUBLAS_STATUS_SUCCESS;
    for (int i = 0; i < LAYOUTS && ok; i++)
        ok = cublasLtMatmulPreferenceSetAttribute(u->preference, least[i].name, &least[i].bytes,
                                                  sizeof least[i].bytes) == CUBLAS_STATUS_SUCCESS;
    return ok;
}

/* The `cap` best algorithms for p; how many there are. */
static int offers(const kin_lt *l, setup *u, const kin_lt_product *p, int cap,
                  cublasLtMatmulHeuristicResult_t *found)
{
    int n = 0;
    if (!prefer(u, l, p) ||
        cublasLtMatmulAlgoGetHeuristic(l->handle, u->desc, u->layout[A], u->layout[B], u->layout[C],
                                       u->layout[D], u->preference, cap, found,
                                       &n) != CUBLAS_STATUS_SUCCESS)
        return 0;
    return n;
}

/* The place of p in the table, filled at its first call. u: p's descriptors. */
static entry *choose(kin_lt *l, setup *u, const kin_lt_product *p)
{
    const uint64_t h = kin_fnv1a(KIN_FNV1A_START, p, sizeof *p);
    entry *e = &l->cache[h % CACHED];
    for (int i = 0; i < CACHED && e->state != 0; i++) {
        if (memcmp(&e->key, p, sizeof *p) == 0)
            return e;
        e = &l->cache[(h + (uint64_t)i + 1) % CACHED];
    }
    /* note: where the table is full its last place is used over and over */
    cublasLtMatmulHeuristicResult_t found;
    const bool ok = offers(l, u, p, 1, &found) > 0 && found.state == CUBLAS_STATUS_SUCCESS;
    e->key = *p;
    e->state = ok ? 1 : -1;
    if (ok)
        e->algo = found.algo;
    return e;
}

static bool launch(const kin_lt *l, const setup *u, const kin_lt_product *p, const kin_lt_data *d,
                   const cublasLtMatmulAlgo_t *algo, void *stream)
{
    const float alpha = 1.0f, beta = p->add ? 1.0f : 0.0f;
    return cublasLtMatmul(l->handle, u->desc, &alpha, d->b, u->layout[A], d->a, u->layout[B], &beta,
                          p->add ? d->c : d->y, u->layout[C], d->y, u->layout[D], algo,
                          l->workspace, l->workspace_bytes,
                          (cudaStream_t)stream) == CUBLAS_STATUS_SUCCESS;
}

bool kin_lt_takes(kin_lt *l, const kin_lt_product *p, const kin_lt_data *d)
{
    setup u = {0};
    const bool takes = make(&u, p, d) && choose(l, &u, p)->state > 0;
    release(&u);
    return takes;
}

bool kin_lt_run(kin_lt *l, const kin_lt_product *p, const kin_lt_data *d, void *stream)
{
    setup u = {0};
    entry *e = make(&u, p, d) ? choose(l, &u, p) : NULL;
    const bool asked = e && e->state > 0, done = asked && launch(l, &u, p, d, &e->algo, stream);
    if (done)
        e->state = 2;
    else if (asked && e->state == 1) /* note: one that has run fails where all launches do */
        e->state = -1;
    release(&u);
    return done;
}

int kin_lt_offers(kin_lt *l, const kin_lt_product *p, const kin_lt_data *d, kin_lt_algo *out)
{
    _Static_assert(sizeof *out == sizeof(cublasLtMatmulAlgo_t), "an algorithm is plain bytes");
    cublasLtMatmulHeuristicResult_t found[KIN_LT_OFFERS];
    setup u = {0};
    const int count = make(&u, p, d) ? offers(l, &u, p, KIN_LT_OFFERS, found) : 0;
    int n = 0;
    for (int i = 0; i < count; i++)
        if (found[i].state == CUBLAS_STATUS_SUCCESS)
            memcpy(&out[n++], &found[i].algo, sizeof *out);
    release(&u);
    return n;
}

bool kin_lt_run_offer(kin_lt *l, const kin_lt_product *p, const kin_lt_data *d,
                      const kin_lt_algo *offer, void *stream)
{
    cublasLtMatmulAlgo_t algo;
    setup u = {0};
    memcpy(&algo, offer, sizeof algo);
    const bool ok = make(&u, p, d) && launch(l, &u, p, d, &algo, stream);
    release(&u);
    return ok;
}

kin_lt *kin_lt_open(void *workspace, size_t bytes)
{
    kin_lt *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->workspace = workspace;
    l->workspace_bytes = bytes;
    if (cublasLtCreate(&l->handle) == CUBLAS_STATUS_SUCCESS)
        return l;
    free(l);
    return NULL;
}

void kin_lt_close(kin_lt **l)
{
    if (!*l)
        return;
    cublasLtDestroy((*l)->handle);
    free(*l);
    *l = NULL;
}
