/* tensor/cuda/library.cu: dense products through cublasLt. What it does not take (experts, odd
 * strides, empty sums) is left to product.cu. KINEMA_CUDA_PRODUCTS=own turns it and cuDNN off: for
 * comparisons, and for results of a row that do not depend on how many rows there are. */
#include "tensor/cuda/product.cuh"

#include "tensor/cuda/cudnn.h"

#include <cstdlib>
#include <cublasLt.h>
#include <new>

namespace
{

constexpr size_t workspace_bytes = (size_t)32 << 20;
constexpr int cached = 512;

/* everything that decides on an algorithm; zeroed before it is filled, compared as bytes */
struct shape {
    int64_t m, n, k, ld[3];
    int type, out, turn[2], align[3], epilogue, acc;
};

struct entry {
    shape s;
    cublasLtMatmulAlgo_t algo;
    int state; /* 0: free, 1: algo holds, -1: the library takes no such product */
};

struct library {
    cublasLtHandle_t handle;
    void *workspace;
    entry cache[cached];
};

/* An operand as the library sees it: column-major, ld apart, transposed or not. */
struct operand {
    const void *data;
    int64_t ld;
    bool along_sum; /* the sum's index is the contiguous one */
};

struct setup { /* descriptors of one product; released in the destructor */
    cublasLtMatmulDesc_t desc = nullptr;
    cublasLtMatrixLayout_t layout[3] = {};
    cublasLtMatmulPreference_t preference = nullptr;
    ~setup()
    {
        if (preference)
            cublasLtMatmulPreferenceDestroy(preference);
        for (cublasLtMatrixLayout_t l : layout)
            if (l)
                cublasLtMatrixLayoutDestroy(l);
        if (desc)
            cublasLtMatmulDescDestroy(desc);
    }
};

int alignment(const void *p, int64_t ld, int size)
{
    const uintptr_t bits = (uintptr_t)p | (uintptr_t)(ld * size) | 256;
    return (int)(bits & (~bits + 1));
}

bool see(const kin_matrix &m, int64_t rows, int64_t k, operand *out)
{
    out->data = m.data;
    out->along_sum = m.col == 1;
    out->ld = out->along_sum ? m.row : m.col;
    /* note: a matrix of one row or column may have any stride */
    const int64_t least = out->along_sum ? k : rows;
    if (out->along_sum ? rows == 1 : k == 1)
        out->ld = out->ld < least ? least : out->ld;
    return (m.col == 1 || m.row == 1) && out->ld >= least;
}

cudaDataType_t type_of(int dtype)
{
    return dtype == KIN_DTYPE_BF16 ? CUDA_R_16BF
           : dtype == KIN_DTYPE_F8 ? CUDA_R_8F_E4M3
                                   : CUDA_R_32F;
}

/* Beside the shape: pointers, which no choice depends on. NULL: none. */
struct extras {
    const void *bias;
    const float *step[2]; /* factors of the operands in e4m3, on the device */
};

bool make(setup *u, const shape &s, const extras &e)
{
    const cudaDataType_t types[3] = {type_of(s.type), type_of(s.type), type_of(s.out)};
    /* column-major: y^T [n,m] = b [n,k] a^T [k,m] */
    const cublasOperation_t ta = s.turn[0] ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t tb = s.turn[1] ? CUBLAS_OP_T : CUBLAS_OP_N;
    const uint64_t rows[3] = {(uint64_t)(s.turn[0] ? s.k : s.n), (uint64_t)(s.turn[1] ? s.m : s.k),
                              (uint64_t)s.n};
    const uint64_t cols[3] = {(uint64_t)(s.turn[0] ? s.n : s.k), (uint64_t)(s.turn[1] ? s.k : s.m),
                              (uint64_t)s.m};
    bool ok =
        cublasLtMatmulDescCreate(&u->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS;
    for (int i = 0; i < 3 && ok; i++)
        ok = cublasLtMatrixLayoutCreate(&u->layout[i], types[i], rows[i], cols[i], s.ld[i]) ==
             CUBLAS_STATUS_SUCCESS;
    ok = ok &&
         cublasLtMatmulDescSetAttribute(u->desc, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta) ==
             CUBLAS_STATUS_SUCCESS &&
         cublasLtMatmulDescSetAttribute(u->desc, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb) ==
             CUBLAS_STATUS_SUCCESS;
    if (ok && s.epilogue) {
        const cublasLtEpilogue_t what = CUBLASLT_EPILOGUE_BIAS;
        ok = cublasLtMatmulDescSetAttribute(u->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &what,
                                            sizeof what) == CUBLAS_STATUS_SUCCESS &&
             cublasLtMatmulDescSetAttribute(u->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &e.bias,
                                            sizeof e.bias) == CUBLAS_STATUS_SUCCESS;
    }
    const cublasLtMatmulDescAttributes_t steps[2] = {CUBLASLT_MATMUL_DESC_A_SCALE_POINTER,
                                                     CUBLASLT_MATMUL_DESC_B_SCALE_POINTER};
    for (int i = 0; i < 2 && ok && s.type == KIN_DTYPE_F8; i++)
        ok = cublasLtMatmulDescSetAttribute(u->desc, steps[i], &e.step[i], sizeof e.step[i]) ==
             CUBLAS_STATUS_SUCCESS;
    return ok;
}

bool prefer(setup *u, const shape &s)
{
    const uint32_t align[3] = {(uint32_t)s.align[0], (uint32_t)s.align[1], (uint32_t)s.align[2]};
    const cublasLtMatmulPreferenceAttributes_t which[4] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    bool ok = cublasLtMatmulPreferenceCreate(&u->preference) == CUBLAS_STATUS_SUCCESS &&
              cublasLtMatmulPreferenceSetAttribute(
                  u->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                  sizeof workspace_bytes) == CUBLAS_STATUS_SUCCESS;
    for (int i = 0; i < 4 && ok; i++)
        ok = cublasLtMatmulPreferenceSetAttribute(u->preference, which[i], &align[i < 3 ? i : 2],
                                                  sizeof align[0]) == CUBLAS_STATUS_SUCCESS;
    return ok;
}

/* The library's best algorithm for this shape, asked for once. NULL: it takes no such product. */
const cublasLtMatmulAlgo_t *choose(library *l, setup *u, const shape &s)
{
    size_t h = 1469598103934665603u;
    for (size_t i = 0; i < sizeof s; i++)
        h = (h ^ ((const unsigned char *)&s)[i]) * 1099511628211u;
    entry *e = &l->cache[h % cached];
    for (int i = 0; i < cached && e->state != 0; i++) {
        if (memcmp(&e->s, &s, sizeof s) == 0)
            return e->state > 0 ? &e->algo : nullptr;
        e = &l->cache[(h + (size_t)i + 1) % cached];
    }
    /* note: where the table is full its last place is used over and over */
    cublasLtMatmulHeuristicResult_t found;
    int n = 0;
    const bool ok = prefer(u, s) &&
                    cublasLtMatmulAlgoGetHeuristic(l->handle, u->desc, u->layout[0], u->layout[1],
                                                   u->layout[2], u->layout[2], u->preference, 1,
                                                   &found, &n) == CUBLAS_STATUS_SUCCESS &&
                    n > 0 && found.state == CUBLAS_STATUS_SUCCESS;
    e->s = s;
    e->state = ok ? 1 : -1;
    if (ok)
        e->algo = found.algo;
    return ok ? &e->algo : nullptr;
}

/* y (+)= sum by an algorithm that was chosen for s. */
void run_chosen(kin_cuda_call *c, library *l, const setup &u, const shape &s, const void *a,
                const void *b, float *y, const cublasLtMatmulAlgo_t *algo)
{
    const float alpha = 1.0f, beta = s.acc ? 1.0f : 0.0f;
    if (c->status == KIN_OK &&
        cublasLtMatmul(l->handle, u.desc, &alpha, b, u.layout[0], a, u.layout[1], &beta, y,
                       u.layout[2], y, u.layout[2], algo, l->workspace, workspace_bytes,
                       c->gpu->stream) != CUBLAS_STATUS_SUCCESS)
        kin_cuda_fail(c, KIN_ERR_BACKEND, "cublasLtMatmul failed");
}

/* The same, with the bias where s.epilogue says so; false: not taken. */
bool run(kin_cuda_call *c, library *l, const shape &s, const operand *a, const operand *b, float *y,
         const void *bias)
{
    setup u;
    if (!make(&u, s, {bias, {}}))
        return false;
    const cublasLtMatmulAlgo_t *algo = choose(l, &u, s);
    if (!algo)
        return false;
    run_chosen(c, l, u, s, a->data, b->data, y, algo);
    return true;
}

} // namespace

extern "C" kin_status kin_cuda_products_open(kin_gpu *gpu, kin_error *err)
{
    const char *own = getenv("KINEMA_CUDA_PRODUCTS");
    if (own && strcmp(own, "own") == 0)
        return KIN_OK;
    library *l = new (std::nothrow) library();
    if (!l)
        return kin_fail(err, KIN_ERR_MEM, "cuda: out of memory");
    gpu->products = l;
    l->workspace = kin_gpu_alloc(gpu, workspace_bytes);
    if (l->workspace && cublasLtCreate(&l->handle) == CUBLAS_STATUS_SUCCESS) {
        gpu->cudnn = kin_cudnn_load(gpu->stream);
        return KIN_OK;
    }
    kin_cuda_products_close(gpu);
    return kin_fail(err, KIN_ERR_BACKEND, "cuda: cublasLt cannot be opened");
}

extern "C" void kin_cuda_products_close(kin_gpu *gpu)
{
    library *l = (library *)gpu->products;
    if (gpu->cudnn) /* its kernels go with it */
        cudaStreamSynchronize(gpu->stream);
    kin_cudnn_free(&gpu->cudnn);
    if (!l)
        return;
    if (l->handle)
        cublasLtDestroy(l->handle);
    kin_gpu_free(l->workspace);
    delete l;
    gpu->products = nullptr;
}

extern "C" bool kin_cuda_products_library(const kin_gpu *gpu)
{
    return gpu->products != nullptr;
}

extern "C" kin_cudnn *kin_cuda_cudnn(const kin_gpu *gpu)
{
    return gpu->cudnn;
}

namespace
{

constexpr int tried = 16, timed = 10; /* algorithms; runs of each */

/* bf16 within [-1, 1): what the bits of a counter make */
__global__ void noise_kernel(uint16_t *to, int64_t n)
{
    KIN_EACH(i, n)
    {
        uint32_t h = (uint32_t)i * 2654435761u;
        h ^= h >> 15;
        to[i] = kin_float_bf16((float)(int32_t)h * 4.6566129e-10f);
    }
}

/* Seconds of one run of the algorithm, 0: it does not run. */
double time_algorithm(library *l, const setup &u, const cublasLtMatmulAlgo_t *algo,
                      uint16_t *const *x, kin_gpu *gpu, cudaEvent_t *event)
{
    const float alpha = 1.0f, beta = 0.0f;
    float ms = 0;
    bool ok = true;
    for (int i = 0; i <= timed && ok; i++) {
        ok = cublasLtMatmul(l->handle, u.desc, &alpha, x[0], u.layout[0], x[1], u.layout[1], &beta,
                            x[2], u.layout[2], x[2], u.layout[2], algo, l->workspace,
                            workspace_bytes, gpu->stream) == CUBLAS_STATUS_SUCCESS;
        if (i == 0) /* the first run loads the kernel */
            ok = ok && cudaEventRecord(event[0], gpu->stream) == cudaSuccess;
    }
    ok = ok && cudaEventRecord(event[1], gpu->stream) == cudaSuccess &&
         cudaEventSynchronize(event[1]) == cudaSuccess &&
         cudaEventElapsedTime(&ms, event[0], event[1]) == cudaSuccess;
    return ok ? 1e-3 * (double)ms / timed : 0;
}

/* Best seconds over the algorithms that the library names; 0: none ran. */
double best_time(library *l, int64_t n, uint16_t *const *x, kin_gpu *gpu)
{
    cublasLtMatmulHeuristicResult_t found[tried];
    cudaEvent_t event[2] = {};
    shape s;
    setup u;
    int count = 0;
    double best = 0;
    memset(&s, 0, sizeof s);
    s.m = s.n = s.k = s.ld[0] = s.ld[1] = s.ld[2] = n;
    s.type = s.out = KIN_DTYPE_BF16;
    s.turn[0] = 1;
    s.align[0] = s.align[1] = s.align[2] = 256;
    if (make(&u, s, {}) && prefer(&u, s) && cudaEventCreate(&event[0]) == cudaSuccess &&
        cudaEventCreate(&event[1]) == cudaSuccess &&
        cublasLtMatmulAlgoGetHeuristic(l->handle, u.desc, u.layout[0], u.layout[1], u.layout[2],
                                       u.layout[2], u.preference, tried, found,
                                       &count) != CUBLAS_STATUS_SUCCESS)
        count = 0;
    for (int i = 0; i < count; i++) {
        if (found[i].state != CUBLAS_STATUS_SUCCESS)
            continue;
        const double t = time_algorithm(l, u, &found[i].algo, x, gpu, event);
        if (t > 0 && (best == 0 || t < best))
            best = t;
    }
    for (cudaEvent_t e : event)
        if (e)
            cudaEventDestroy(e);
    return best;
}

} // namespace

extern "C" kin_status kin_cuda_products_rate(kin_gpu *gpu, int64_t n, double *rate, kin_error *err)
{
    library *l = (library *)gpu->products;
    uint16_t *x[3] = {};
    *rate = 0;
    if (!l)
        return KIN_OK;
    bool room = true;
    for (uint16_t *&p : x) {
        p = (uint16_t *)kin_gpu_alloc(gpu, (size_t)(n * n) * 2);
        room = room && p;
    }
    double best = 0;
    if (room) {
        for (int i = 0; i < 2; i++)
            noise_kernel<<<kin_blocks(n * n), KIN_THREADS, 0, gpu->stream>>>(x[i], n * n);
        best = best_time(l, n, x, gpu);
    }
    for (uint16_t *p : x)
        kin_gpu_free(p);
    if (!room)
        return kin_fail(err, KIN_ERR_MEM, "cuda: no memory to measure a product of %lld",
                        (long long)n);
    *rate = best > 0 ? 2.0 * (double)n * (double)n * (double)n / best : 0;
    return kin_gpu_wait(gpu, err);
}

bool kin_library_product(kin_cuda_call *c, const kin_product *p, bool bf16)
{
    library *l = (library *)c->gpu->products;
    const bool plain = kin_product_is_plain(p);
    kin_matrix a = p->a, b = p->b;
    operand oa, ob;
    if (!l || p->offset || p->m < 1 || p->n < 1 || p->k < 1 || (p->acc && (!plain || p->bias)) ||
        !see(a, p->m, p->k, &oa) || !see(b, p->n, p->k, &ob) ||
        (!bf16 && (a.dtype != KIN_DTYPE_F32 || b.dtype != KIN_DTYPE_F32)) || p->y.stride[0] < p->n)
        return false;
    if (bf16) {
        kin_product_round(c, &a, oa.along_sum, p->m, p->k);
        kin_product_round(c, &b, ob.along_sum, p->n, p->k);
        if (c->status != KIN_OK || !see(a, p->m, p->k, &oa) || !see(b, p->n, p->k, &ob))
            return false;
    }
    const kin_sum_place to = kin_place_of_sum(c, p);
    float *sum = to.data;
    const int64_t ld = to.row;
    if (c->status != KIN_OK)
        return true;
    const int size = bf16 ? 2 : 4;
    shape s;
    memset(&s, 0, sizeof s);
    s.m = p->m;
    s.n = p->n;
    s.k = p->k;
    s.ld[0] = ob.ld;
    s.ld[1] = oa.ld;
    s.ld[2] = ld;
    s.type = bf16 ? KIN_DTYPE_BF16 : KIN_DTYPE_F32;
    s.out = KIN_DTYPE_F32;
    s.turn[0] = ob.along_sum;
    s.turn[1] = !oa.along_sum;
    s.align[0] = alignment(ob.data, ob.ld, size);
    s.align[1] = alignment(oa.data, oa.ld, size);
    s.align[2] = alignment(sum, ld, 4);
    s.acc = p->acc;
    s.epilogue = plain && p->bias && p->bias_dtype == KIN_DTYPE_F32;
    if (s.epilogue && run(c, l, s, &oa, &ob, sum, p->bias))
        return true;
    s.epilogue = 0;
    if (!run(c, l, s, &oa, &ob, sum, nullptr))
        return false;
    if (!plain || p->bias)
        kin_product_epilogue(c, p, sum, ld);
    return true;
}

bool kin_library_fp8(kin_cuda_call *c, const kin_product *p, kin_param *weight)
{
    library *l = (library *)c->gpu->products;
    if (!l || p->acc || p->a.col != 1 || p->y.stride[0] < p->n)
        return false;
    const int64_t sizes[2] = {p->m, p->k};
    kin_tensor x = kin_tensor_of((void *)p->a.data, KIN_DTYPE_F32, 2, sizes), x8 = x;
    float *steps = (float *)kin_cuda_scratch(c, 2 * sizeof(float)), *weight_steps = nullptr;
    x.stride[0] = p->a.row;
    x8.data = kin_cuda_scratch(c, (size_t)(p->m * p->k));
    const kin_tensor w8 = kin_cuda_value_fp8(c, weight, &weight_steps);
    const kin_sum_place to = kin_place_of_sum(c, p);
    if (c->status != KIN_OK)
        return true;
    /* y^T [n,m] = w [n,k] x^T [k,m]: the only order that FP8 kernels of sm_89 and sm_90 take */
    shape s;
    setup u;
    memset(&s, 0, sizeof s);
    s.m = p->m;
    s.n = p->n;
    s.k = s.ld[0] = s.ld[1] = p->k;
    s.ld[2] = to.row;
    s.type = KIN_DTYPE_F8;
    s.out = KIN_DTYPE_F32;
    s.turn[0] = 1;
    s.align[0] = alignment(w8.data, p->k, 1);
    s.align[1] = alignment(x8.data, p->k, 1);
    s.align[2] = alignment(to.data, to.row, 4);
    const cublasLtMatmulAlgo_t *algo =
        make(&u, s, {nullptr, {weight_steps, steps}}) ? choose(l, &u, s) : nullptr;
    if (!algo)
        return false;
    kin_cuda_to_fp8(c, &x, &x8, steps);
    run_chosen(c, l, u, s, x8.data, w8.data, to.data, algo);
    if (!kin_product_is_plain(p) || p->bias)
        kin_product_epilogue(c, p, to.data, to.row);
    return true;
}
