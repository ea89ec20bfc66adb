/* A stand-in for cublasLt on the emulated device: it computes what the descriptors ask for with
 * plain loops, and stops the program where they break the library's rules. Its answers can be
 * refusals. */
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include <cublasLt.h>

#include "tests/tensor/cublaslt_fake.h"

extern "C" {
#include "tensor/cuda/emulate/lanes.h"
#include "tensor/cuda/gpu.h"

kin_status kin_cuda_products_rate(kin_gpu *gpu, int64_t n, double *rate, kin_error *err);
}

void kin_emulated_memory(bool open);

kin_fake_lt kin_fake;

namespace
{

struct layout {
    cudaDataType_t type;
    uint64_t rows, cols;
    int64_t ld;
};

struct desc {
    cublasComputeType_t compute;
    std::map<int, std::vector<char>> set;

    template <typename T> T get(int name, T otherwise) const
    {
        const auto at = set.find(name);
        if (at != set.end())
            memcpy(&otherwise, at->second.data(), sizeof otherwise);
        return otherwise;
    }
    int epilogue() const
    {
        return get<int32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT);
    }
};

void rule(bool kept, const char *what)
{
    if (kept)
        return;
    fprintf(stderr, "stand-in for cublasLt: %s\n", what);
    abort();
}

desc *of(cublasLtMatmulDesc_t d)
{
    return (desc *)(void *)d;
}

const layout &of(cublasLtMatrixLayout_t l)
{
    return *(const layout *)(const void *)l;
}

float rounded(float v, int bits) /* to so many bits of the fraction, ties to even */
{
    uint32_t u, drop = 23 - (uint32_t)bits;
    memcpy(&u, &v, sizeof u);
    u += (1u << (drop - 1)) - 1 + (u >> drop & 1u);
    u &= ~((1u << drop) - 1);
    memcpy(&v, &u, sizeof v);
    return v;
}

double load(const void *data, cudaDataType_t type, int64_t at, bool tf32)
{
    float f;
    if (type == CUDA_R_16BF) {
        const uint32_t bits = (uint32_t)((const uint16_t *)data)[at] << 16;
        memcpy(&f, &bits, sizeof f);
        return f;
    }
    rule(type == CUDA_R_32F, "type");
    f = ((const float *)data)[at];
    return tf32 ? rounded(f, 10) : f;
}

double gelu(double x)
{
    if (kin_fake.erf)
        return 0.5 * x * (1 + erf(x / sqrt(2.0)));
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

double gelu_slope(double x)
{
    const double c = sqrt(2 / acos(-1.0)), t = tanh(c * (x + 0.044715 * x * x * x));
    if (kin_fake.erf)
        return 0.5 * (1 + erf(x / sqrt(2.0))) + x * exp(-0.5 * x * x) / sqrt(2 * acos(-1.0));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x);
}

struct product { /* column-major: d [m,n] = a [m,k] b [k,n] */
    const desc *how;
    const layout &la, &lb, &lc, &ld;
    const void *a, *b;
    const float *c;
    float *d;
    float beta;

    bool turned(int name) const
    {
        return how->get<int32_t>(name, CUBLAS_OP_N) == CUBLAS_OP_T;
    }
    int64_t inner() const
    {
        return (int64_t)(turned(CUBLASLT_MATMUL_DESC_TRANSA) ? la.rows : la.cols);
    }
    bool tf32() const
    {
        return how->compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    }
    double at_a(int64_t i, int64_t l) const
    {
        const bool t = turned(CUBLASLT_MATMUL_DESC_TRANSA);
        return load(a, la.type, t ? l + i * la.ld : i + l * la.ld, tf32());
    }
    double at_b(int64_t l, int64_t j) const
    {
        const bool t = turned(CUBLASLT_MATMUL_DESC_TRANSB);
        return load(b, lb.type, t ? j + l * lb.ld : l + j * lb.ld, tf32());
    }
};

void check(const product &p)
{
    const uint64_t k = (uint64_t)p.inner();
    const bool ta = p.turned(CUBLASLT_MATMUL_DESC_TRANSA);
    const bool tb = p.turned(CUBLASLT_MATMUL_DESC_TRANSB);
    rule((ta ? p.la.cols : p.la.rows) == p.ld.rows, "rows of A");
    rule((tb ? p.lb.cols : p.lb.rows) == k && (tb ? p.lb.rows : p.lb.cols) == p.ld.cols, "B");
    rule(p.lc.rows == p.ld.rows && p.lc.cols == p.ld.cols, "C has D's shape");
    rule(p.c != p.d || p.lc.ld == p.ld.ld, "C in place has D's rows");
    rule(p.ld.type == CUDA_R_32F && p.lc.type == CUDA_R_32F, "type of C and D");
    for (const layout *l : {&p.la, &p.lb, &p.lc, &p.ld})
        rule(l->ld >= (int64_t)l->rows, "leading dimension");
    const int what = p.how->epilogue();
    rule(what == CUBLASLT_EPILOGUE_DEFAULT || what == CUBLASLT_EPILOGUE_BIAS ||
             what == CUBLASLT_EPILOGUE_GELU || what == CUBLASLT_EPILOGUE_GELU_BIAS ||
             what == CUBLASLT_EPILOGUE_GELU_AUX || what == CUBLASLT_EPILOGUE_GELU_AUX_BIAS ||
             what == CUBLASLT_EPILOGUE_BGRADB || what == CUBLASLT_EPILOGUE_DGELU,
         "epilogue");
    rule(what != CUBLASLT_EPILOGUE_DGELU || p.beta == 0, "DGELU adds nothing");
    if (what & 128) {
        const int64_t ld = p.how->get<int64_t>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, 0);
        rule(ld % 8 == 0 && ld >= (int64_t)p.ld.rows, "leading dimension of aux");
    }
}

void compute(const product &p)
{
    const int what = p.how->epilogue();
    const int64_t m = (int64_t)p.ld.rows, n = (int64_t)p.ld.cols, k = p.inner();
    float *vector = p.how->get<float *>(CUBLASLT_MATMUL_DESC_BIAS_POINTER, nullptr);
    float *aux = p.how->get<float *>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, nullptr);
    const int64_t aux_ld = p.how->get<int64_t>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, 0);
    for (int64_t j = 0; j < n; j++) {
        double of_b = 0;
        for (int64_t l = 0; l < k; l++)
            of_b += p.at_b(l, j);
        if (what == CUBLASLT_EPILOGUE_BGRADB)
            vector[j] = (float)of_b;
        for (int64_t i = 0; i < m; i++) {
            double sum = p.beta != 0 ? p.beta * (double)p.c[i + j * p.lc.ld] : 0;
            for (int64_t l = 0; l < k; l++)
                sum += p.at_a(i, l) * p.at_b(l, j);
            if (what != CUBLASLT_EPILOGUE_DEFAULT && what & CUBLASLT_EPILOGUE_BIAS)
                sum += vector[i];
            if (what == CUBLASLT_EPILOGUE_DGELU)
                sum *= gelu_slope((double)aux[i + j * aux_ld]);
            else if (what & 128)
                aux[i + j * aux_ld] = (float)sum;
            p.d[i + j * p.ld.ld] = (float)(what & CUBLASLT_EPILOGUE_GELU ? gelu(sum) : sum);
        }
    }
}

} // namespace

extern "C" {

kin_status kin_cuda_products_rate(kin_gpu *, int64_t, double *rate, kin_error *)
{
    *rate = 0;
    return KIN_OK;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    const char *refuse = getenv("KIN_FAKE_REFUSE"), *fail = getenv("KIN_FAKE_FAIL");
    if (refuse)
        kin_fake.refuse_every = atoi(refuse);
    if (fail)
        kin_fake.fail_every = atoi(fail);
    *handle = (cublasLtHandle_t)&kin_fake;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    rule(scale == CUDA_R_32F, "scale type");
    *d = (cublasLtMatmulDesc_t)(void *)new desc{compute, {}};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d)
{
    delete of(d);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d,
                                              cublasLtMatmulDescAttributes_t name,
                                              const void *value, size_t bytes)
{
    of(d)->set[name].assign((const char *)value, (const char *)value + bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld)
{
    *l = (cublasLtMatrixLayout_t)(void *)new layout{type, rows, cols, ld};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l)
{
    delete &of(l);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p)
{
    *p = (cublasLtMatmulPreference_t)calloc(1, sizeof **p);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    free(p);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                    cublasLtMatmulPreferenceAttributes_t,
                                                    const void *, size_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t d,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int asked,
                                              cublasLtMatmulHeuristicResult_t *found, int *n)
{
    const bool more = of(d)->epilogue() != CUBLASLT_EPILOGUE_DEFAULT;
    *n = 0;
    rule(asked > 0, "how many algorithms");
    if (more && kin_fake.refuse_every && ++kin_fake.asked % kin_fake.refuse_every == 0)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    memset(found, 0, sizeof *found);
    found->state = CUBLAS_STATUS_SUCCESS;
    *n = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t how, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t la, const void *b,
                              cublasLtMatrixLayout_t lb, const void *beta, const void *c,
                              cublasLtMatrixLayout_t lc, void *d, cublasLtMatrixLayout_t ld,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t,
                              cudaStream_t)
{
    rule(*(const float *)alpha == 1 && algo && workspace, "alpha, algorithm, workspace");
    kin_fake.launched++;
    if (kin_fake.fail_every && kin_fake.launched % kin_fake.fail_every == 0)
        return CUBLAS_STATUS_EXECUTION_FAILED;
    const product p = {of(how), of(la), of(lb),           of(lc),     of(ld),
                       a,       b,      (const float *)c, (float *)d, *(const float *)beta};
    check(p);
    kin_fake.runs[p.how->epilogue()]++;
    kin_fake.tf32 += p.tf32();
    kin_emulated_finish();
    kin_emulated_memory(true);
    compute(p);
    kin_emulated_memory(false);
    return CUBLAS_STATUS_SUCCESS;
}

} /* extern "C" */
