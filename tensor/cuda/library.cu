/* tensor/cuda/library.cu: dense products through cublasLt (lt.h). What it does not take (experts,
 * odd strides, empty sums) is left to product.cu. Bias, GELU and a residual are done with the
 * product, what is left by one more pass. KINEMA_CUDA_PRODUCTS=own turns the library and cuDNN off:
 * for comparisons, and for results of a row that do not depend on how many rows there are.
 * KINEMA_CUDA_EPILOGUES=0 leaves all but the bias to the pass. */
#include "tensor/cuda/library.cuh"

#include "tensor/cuda/cudnn.h"

#include <cstdlib>
#include <new>

namespace
{

constexpr size_t workspace_bytes = (size_t)32 << 20;

bool see(const kin_matrix &m, int64_t rows, int64_t k, int64_t *along, int64_t *ld)
{
    *along = m.col == 1;
    *ld = *along ? m.row : m.col;
    /* note: a matrix of one row or column may have any stride */
    const int64_t least = *along ? k : rows;
    if (*along ? rows == 1 : k == 1)
        *ld = *ld < least ? least : *ld;
    return (m.col == 1 || m.row == 1) && *ld >= least;
}

int64_t bytes_of(int64_t type)
{
    return type == KIN_LT_F32 ? 4 : type == KIN_LT_BF16 ? 2 : 1;
}

void *stream_of(const kin_cuda_call *c)
{
    return (void *)(uintptr_t)c->gpu->stream;
}

/* Operands and sizes of p, rounded to bf16 where asked; false: not taken. */
bool describe(kin_cuda_call *c, const kin_product *p, bool bf16, kin_lt_product *q, kin_lt_data *d)
{
    kin_matrix a = p->a, b = p->b;
    if (p->offset || p->m < 1 || p->n < 1 || p->k < 1 || p->y.stride[0] < p->n ||
        !see(a, p->m, p->k, &q->along_a, &q->ld_a) || !see(b, p->n, p->k, &q->along_b, &q->ld_b) ||
        (!bf16 && (a.dtype != KIN_DTYPE_F32 || b.dtype != KIN_DTYPE_F32)))
        return false;
    if (bf16) {
        kin_product_round(c, &a, q->along_a, p->m, p->k);
        kin_product_round(c, &b, q->along_b, p->n, p->k);
        if (c->status != KIN_OK || !see(a, p->m, p->k, &q->along_a, &q->ld_a) ||
            !see(b, p->n, p->k, &q->along_b, &q->ld_b))
            return false;
    }
    q->type = bf16 ? KIN_LT_BF16 : KIN_LT_F32;
    q->out = KIN_LT_F32;
    q->tf32 = !bf16 && c->ctx->precision == KIN_PRECISION_HIGH;
    q->m = p->m;
    q->n = p->n;
    q->k = p->k;
    q->align_a = kin_lt_alignment(a.data, q->ld_a, bytes_of(q->type));
    q->align_b = kin_lt_alignment(b.data, q->ld_b, bytes_of(q->type));
    d->a = a.data;
    d->b = b.data;
    return true;
}

/* Where the result goes, and what is added to it. */
void put(kin_lt_product *q, kin_lt_data *d, float *y, int64_t ld)
{
    q->ld_y = ld;
    q->align_y = kin_lt_alignment(y, ld, 4);
    d->y = y;
}

void add(kin_lt_product *q, kin_lt_data *d, const void *c, int64_t ld)
{
    q->add = 1;
    q->ld_c = ld;
    q->align_c = kin_lt_alignment(c, ld, 4);
    d->c = c;
}

/* --- epilogues --- */

constexpr int side = 64; /* of the product that GELU is tried on */

/* a [side,side] and b, such that (a b^T)[i,j] = (i - side/2) / 4 + j / 256, exact in any type; bias
 * 1/512; aux, which SLOPE reads, that sum too */
__global__ void trial_kernel(void *a, void *b, float *bias, float *aux, bool bf16)
{
    KIN_EACH(e, side * side)
    {
        const int i = (int)e / side, l = (int)e % side;
        const float x = l == 0 ? 0.25f * (float)(i - side / 2) : l == 1 ? 1.0f : 0.0f;
        const float w = l == 0 ? 1.0f : l == 1 ? (float)i / 256.0f : 0.0f;
        if (bf16) {
            ((uint16_t *)a)[e] = kin_float_bf16(x);
            ((uint16_t *)b)[e] = kin_float_bf16(w);
        } else {
            ((float *)a)[e] = x;
            ((float *)b)[e] = w;
        }
        aux[e] = 0.25f * (float)(i - side / 2) + (float)l / 256.0f;
        if (e < side)
            bias[e] = 1.0f / 512.0f;
    }
}

/* GELU at x, or x times its derivative there; tanh or erf. */
double trial_value(double x, bool slope, bool with_erf)
{
    if (with_erf) {
        const double cdf = 0.5 * (1 + erf(x * 0.70710678118654752440));
        return slope ? x * (cdf + x * 0.39894228040143267794 * exp(-0.5 * x * x)) : x * cdf;
    }
    const double t = tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x));
    const double du = 0.79788456080286535588 * (1 + 3 * 0.044715 * x * x);
    return slope ? x * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du) : 0.5 * x * (1 + t);
}

/* True if y is what the tanh form of GELU makes of the trial's sums, no place off by more than
 * `bound` (of 1 + the sum's magnitude). The form with erf is off by 4.1e-4 at most (its slope's
 * product by 2e-3), which the bound alone may not tell. */
bool is_tanh_form(const float *y, bool slope, double bias, double bound)
{
    double tanh_off = 0, erf_off = 0;
    bool close = true;
    for (int e = 0; e < side * side; e++) {
        const double x = 0.25 * (e / side - side / 2) + e % side / 256.0 + bias;
        const double off = (double)y[e] - trial_value(x, slope, false);
        const double other = (double)y[e] - trial_value(x, slope, true);
        close = close && fabs(off) <= bound * (1 + fabs(x));
        tanh_off += off * off;
        erf_off += other * other;
    }
    return close && tanh_off < erf_off;
}

/* Runs q's epilogue on the trial. */
bool try_gelu(kin_cuda_call *c, library *l, const kin_lt_product &like)
{
    kin_lt_product q = {};
    kin_lt_data d = {};
    float y[side * side];
    const size_t bytes = side * side * sizeof(float);
    void *a = kin_cuda_scratch(c, bytes), *b = kin_cuda_scratch(c, bytes);
    float *bias = (float *)kin_cuda_scratch(c, side * sizeof(float));
    d.a = a;
    d.b = b;
    d.bias = bias;
    float *aux = (float *)kin_cuda_scratch(c, bytes);
    d.aux = aux;
    q.type = like.type;
    q.out = like.out;
    q.tf32 = like.tf32;
    q.epilogue = like.epilogue;
    q.m = q.n = q.k = q.ld_a = q.ld_b = q.ld_aux = side;
    q.along_a = q.along_b = 1;
    q.align_a = q.align_b = q.align_bias = q.align_aux = KIN_GPU_ALIGN;
    put(&q, &d, (float *)kin_cuda_scratch(c, bytes), side);
    KIN_LAUNCH(c, trial_kernel, kin_blocks(side * side), KIN_THREADS, a, b, bias, aux,
               q.type == KIN_LT_BF16);
    if (c->status != KIN_OK || !kin_lt_run(l->lt, &q, &d, stream_of(c)))
        return false;
    kin_cuda_read(c, y, d.y, bytes);
    const double bound = q.type == KIN_LT_BF16 || q.tf32 ? 0x1p-11 : 0x1p-20;
    return c->status == KIN_OK && is_tanh_form(y, q.epilogue & KIN_LT_SLOPE,
                                               q.epilogue & KIN_LT_BIAS ? 1.0 / 512 : 0, bound);
}

/* True where the library's GELU is ours; found out at the first use of each epilogue (the host
 * waits then), not while recording. */
bool gelu_holds(kin_cuda_call *c, library *l, const kin_lt_product &q)
{
    const int type = q.type == KIN_LT_BF16 ? 0 : q.tf32 ? 1 : 2;
    const int which = q.epilogue & KIN_LT_SLOPE
                          ? 4
                          : (q.epilogue & KIN_LT_BIAS ? 1 : 0) + (q.epilogue & KIN_LT_AUX ? 2 : 0);
    signed char *known = &l->gelu[type][which];
    if (*known == 0 && !kin_gpu_is_recording(c->gpu))
        *known = try_gelu(c, l, q) ? 1 : -1;
    return *known > 0;
}

/* note: aux rows must be multiples of 8 values */
bool aux_fits(const kin_tensor &t, int64_t n)
{
    return t.dtype == KIN_DTYPE_F32 && t.stride[0] % 8 == 0 && t.stride[0] >= n;
}

/* p's epilogue as the library's; -1: it has none such. */
int64_t epilogue_of(const library *l, const kin_product *p)
{
    const bool gelu = p->act == KIN_ACT_GELU_TANH, residual = p->residual.data;
    if (p->past.data)
        return gelu && l->epilogues && !p->acc && aux_fits(p->past, p->n) ? KIN_LT_SLOPE : -1;
    if (p->gate.data || (p->act && !gelu) || (gelu && residual) || (p->pre.data && !gelu) ||
        ((gelu || residual) && !l->epilogues))
        return -1;
    if (p->pre.data && !aux_fits(p->pre, p->n))
        return -1;
    if (residual && (p->residual.stride[0] < p->n || p->residual.stride[1] != 1 ||
                     (p->residual.data == p->y.data && p->residual.stride[0] != p->y.stride[0])))
        return -1;
    return (p->bias ? KIN_LT_BIAS : 0) | (gelu ? KIN_LT_GELU : 0) | (p->pre.data ? KIN_LT_AUX : 0);
}

__global__ void bias_kernel(const void *bias, int dtype, int64_t n, float *to)
{
    KIN_EACH(j, n) to[j] = kin_load(bias, dtype, j);
}

/* The bias in f32: biases of a model in bf16 become a copy. */
void *bias_of(kin_cuda_call *c, const kin_product *p)
{
    if (!p->bias || p->bias_dtype == KIN_DTYPE_F32)
        return const_cast<void *>(p->bias);
    float *to = (float *)kin_cuda_scratch(c, (size_t)p->n * sizeof(float));
    KIN_LAUNCH(c, bias_kernel, kin_blocks(p->n), KIN_THREADS, p->bias, p->bias_dtype, p->n, to);
    return to;
}

/* The product with its whole epilogue at once; false: not taken. q, d: its operands. */
bool run_fused(kin_cuda_call *c, library *l, const kin_product *p, kin_lt_product q, kin_lt_data d)
{
    q.epilogue = epilogue_of(l, p);
    if (q.epilogue < 0 || (q.epilogue & (KIN_LT_GELU | KIN_LT_SLOPE) && !gelu_holds(c, l, q)))
        return false;
    put(&q, &d, (float *)p->y.data, p->y.stride[0]);
    if (p->acc)
        add(&q, &d, p->y.data, p->y.stride[0]);
    if (p->residual.data)
        add(&q, &d, p->residual.data, p->residual.stride[0]);
    if (p->bias) {
        d.bias = bias_of(c, p);
        q.align_bias = kin_lt_alignment(d.bias, 0, 4);
    }
    const kin_tensor &aux = p->past.data ? p->past : p->pre;
    if (aux.data) {
        d.aux = aux.data;
        q.ld_aux = aux.stride[0];
        q.align_aux = kin_lt_alignment(d.aux, q.ld_aux, 4);
    }
    return c->status == KIN_OK && kin_lt_run(l->lt, &q, &d, stream_of(c));
}

} // namespace

bool kin_library_product(kin_cuda_call *c, const kin_product *p, bool bf16)
{
    library *l = (library *)c->gpu->products;
    const bool plain = kin_product_is_plain(p);
    kin_lt_product q = {};
    kin_lt_data d = {};
    if (!l || (p->acc && (!plain || p->bias)) || !describe(c, p, bf16, &q, &d))
        return false;
    if (run_fused(c, l, p, q, d))
        return true;
    const kin_sum_place to = kin_place_of_sum(c, p);
    if (c->status != KIN_OK)
        return true;
    put(&q, &d, to.data, to.row);
    if (p->acc)
        add(&q, &d, to.data, to.row);
    if (!kin_lt_run(l->lt, &q, &d, stream_of(c)))
        return false;
    if (!plain || p->bias)
        kin_product_epilogue(c, p, to.data, to.row);
    return true;
}

__global__ static void add_kernel(const float *from, int64_t n, float *to)
{
    KIN_EACH(i, n) to[i] += from[i];
}

bool kin_library_sums(kin_cuda_call *c, const kin_product *p, float *sums)
{
    library *l = (library *)c->gpu->products;
    kin_lt_product q = {};
    kin_lt_data d = {};
    if (!l || !l->epilogues || !kin_product_is_plain(p) || p->bias ||
        !describe(c, p, false, &q, &d) || q.tf32)
        return false;
    float *made = (float *)kin_cuda_scratch(c, (size_t)p->m * sizeof(float));
    q.epilogue = KIN_LT_SUMS;
    d.bias = made;
    q.align_bias = kin_lt_alignment(made, 0, 4);
    put(&q, &d, (float *)p->y.data, p->y.stride[0]);
    if (p->acc)
        add(&q, &d, p->y.data, p->y.stride[0]);
    if (c->status != KIN_OK || !kin_lt_run(l->lt, &q, &d, stream_of(c)))
        return false;
    KIN_LAUNCH(c, add_kernel, kin_blocks(p->m), KIN_THREADS, (const float *)made, p->m, sums);
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
    kin_lt_product q = {};
    kin_lt_data d = {};
    q.type = KIN_LT_E4M3;
    q.out = KIN_LT_F32;
    q.m = p->m;
    q.n = p->n;
    q.k = q.ld_a = q.ld_b = p->k;
    q.along_a = q.along_b = 1; /* the only order that FP8 kernels of sm_89 and sm_90 take */
    q.align_a = kin_lt_alignment(x8.data, p->k, 1);
    q.align_b = kin_lt_alignment(w8.data, p->k, 1);
    d.a = x8.data;
    d.b = w8.data;
    d.step[0] = steps;
    d.step[1] = weight_steps;
    put(&q, &d, to.data, to.row);
    if (!kin_lt_takes(l->lt, &q, &d))
        return false;
    kin_cuda_to_fp8(c, &x, &x8, steps);
    if (c->status == KIN_OK && !kin_lt_run(l->lt, &q, &d, stream_of(c)))
        return false;
    if (!kin_product_is_plain(p) || p->bias)
        kin_product_epilogue(c, p, to.data, to.row);
    return true;
}

/* --- the library of a device --- */

extern "C" kin_status kin_cuda_products_open(kin_gpu *gpu, kin_error *err)
{
    const char *own = getenv("KINEMA_CUDA_PRODUCTS"), *epilogues = getenv("KINEMA_CUDA_EPILOGUES");
    if (own && strcmp(own, "own") == 0)
        return KIN_OK;
    library *l = new (std::nothrow) library();
    if (!l)
        return kin_fail(err, KIN_ERR_MEM, "cuda: out of memory");
    gpu->products = l;
    l->epilogues = !epilogues || strcmp(epilogues, "0") != 0;
    l->workspace = kin_gpu_alloc(gpu, workspace_bytes);
    l->lt = l->workspace ? kin_lt_open(l->workspace, workspace_bytes) : nullptr;
    if (l->lt) {
        gpu->cudnn = kin_cudnn_load((void *)(uintptr_t)gpu->stream);
        return KIN_OK;
    }
    const bool room = l->workspace;
    kin_cuda_products_close(gpu);
    return room ? kin_fail(err, KIN_ERR_BACKEND, "cuda: cublasLt cannot be opened")
                : kin_fail(err, KIN_ERR_MEM, "cuda: the device has no %zu bytes free",
                           workspace_bytes);
}

extern "C" void kin_cuda_products_close(kin_gpu *gpu)
{
    library *l = (library *)gpu->products;
    kin_error ignored = {};
    if (gpu->cudnn) /* its kernels go with it */
        (void)kin_gpu_wait(gpu, &ignored);
    kin_cudnn_free(&gpu->cudnn);
    if (!l)
        return;
    kin_lt_close(&l->lt);
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
