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
    int type, turn[2], align[3], epilogue, acc;
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

__global__ void convert_kernel(const void *from, int dtype, int64_t rows, int64_t cols, int64_t ld,
                               uint16_t *to)
{
    KIN_EACH(i, rows * cols)
    to[i] = kin_float_bf16(kin_load(from, dtype, i / cols * ld + i % cols));
}

/* The operand in bf16: itself, or a contiguous copy. */
void round_operand(kin_cuda_call *c, kin_matrix *m, int64_t rows, int64_t k)
{
    if (m->dtype == KIN_DTYPE_BF16)
        return;
    const bool along = m->col == 1;
    const int64_t outer = along ? rows : k, inner = along ? k : rows, ld = along ? m->row : m->col;
    uint16_t *to = (uint16_t *)kin_cuda_scratch(c, (size_t)(outer * inner) * 2);
    const void *from = m->data;
    const int dtype = m->dtype;
    KIN_LAUNCH(c, convert_kernel, kin_blocks(outer * inner), KIN_THREADS, from, dtype, outer, inner,
               ld, to);
    m->data = to;
    m->dtype = KIN_DTYPE_BF16;
    (along ? m->row : m->col) = inner;
}

bool make(setup *u, const shape &s, const void *bias)
{
    const cudaDataType_t type = s.type == KIN_DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
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
        ok = cublasLtMatrixLayoutCreate(&u->layout[i], i < 2 ? type : CUDA_R_32F, rows[i], cols[i],
                                        s.ld[i]) == CUBLAS_STATUS_SUCCESS;
    ok = ok &&
         cublasLtMatmulDescSetAttribute(u->desc, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta) ==
             CUBLAS_STATUS_SUCCESS &&
         cublasLtMatmulDescSetAttribute(u->desc, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb) ==
             CUBLAS_STATUS_SUCCESS;
    if (ok && s.epilogue) {
        const cublasLtEpilogue_t e = CUBLASLT_EPILOGUE_BIAS;
        ok = cublasLtMatmulDescSetAttribute(u->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &e, sizeof e) ==
                 CUBLAS_STATUS_SUCCESS &&
             cublasLtMatmulDescSetAttribute(u->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                            sizeof bias) == CUBLAS_STATUS_SUCCESS;
    }
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

/* y (+)= sum, with the bias where s.epilogue says so; false: not taken. */
bool run(kin_cuda_call *c, library *l, const shape &s, const operand *a, const operand *b, float *y,
         const void *bias)
{
    setup u;
    const float alpha = 1.0f, beta = s.acc ? 1.0f : 0.0f;
    if (!make(&u, s, bias))
        return false;
    const cublasLtMatmulAlgo_t *algo = choose(l, &u, s);
    if (!algo)
        return false;
    if (cublasLtMatmul(l->handle, u.desc, &alpha, b->data, u.layout[0], a->data, u.layout[1], &beta,
                       y, u.layout[2], y, u.layout[2], algo, l->workspace, workspace_bytes,
                       c->gpu->stream) != CUBLAS_STATUS_SUCCESS)
        kin_cuda_fail(c, KIN_ERR_BACKEND, "cublasLtMatmul failed");
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

bool kin_library_product(kin_cuda_call *c, const kin_product *p, bool bf16)
{
    library *l = (library *)c->gpu->products;
    const bool plain = !p->act && !p->gate.data && !p->residual.data && !p->pre.data;
    kin_matrix a = p->a, b = p->b;
    operand oa, ob;
    if (!l || p->offset || p->m < 1 || p->n < 1 || p->k < 1 || (p->acc && (!plain || p->bias)) ||
        !see(a, p->m, p->k, &oa) || !see(b, p->n, p->k, &ob) ||
        (!bf16 && (a.dtype != KIN_DTYPE_F32 || b.dtype != KIN_DTYPE_F32)) || p->y.stride[0] < p->n)
        return false;
    if (bf16) {
        round_operand(c, &a, p->m, p->k);
        round_operand(c, &b, p->n, p->k);
        if (c->status != KIN_OK || !see(a, p->m, p->k, &oa) || !see(b, p->n, p->k, &ob))
            return false;
    }
    /* where the old contents of y are still needed, the sum goes elsewhere */
    const bool apart = p->residual.data && p->residual.data == p->y.data;
    float *sum = (float *)p->y.data;
    const int64_t ld = apart ? p->n : p->y.stride[0];
    if (apart)
        sum = (float *)kin_cuda_scratch(c, (size_t)(p->m * p->n) * sizeof(float));
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
