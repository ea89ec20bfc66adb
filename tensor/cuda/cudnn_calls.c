/* tensor/cuda/cudnn_calls.c: attention and convolution through cuDNN. A call takes its operands
 * only when there is a plan for its shape; if that cannot be launched, what it would have brought
 * back is forgotten and the own kernels do the call. */
#include "tensor/cuda/cudnn_graphs.h"

#include <stdlib.h>
#include <string.h>

#include "tensor/cuda/cuda.h"
#include "tensor/cuda/pack.h"

enum { ALIGNMENT = 256 }; /* of the library's scratch */

static int64_t round_up(int64_t n, int64_t step)
{
    return (n + step - 1) / step * step;
}

/* Runs the plan on `count` tensors, the last `values` of them in host memory. False: it cannot be
 * launched (a call that has failed counts as launched). */
static bool launch(kin_cuda_call *c, kin_cudnn_plan *p, int count, int values, const int64_t *id,
                   void *const *data)
{
    char *work = kin_cuda_scratch(c, p->workspace + ALIGNMENT);
    if (c->status != KIN_OK)
        return true;
    for (int i = 0; i < count - values; i++)
        if ((uintptr_t)data[i] % KIN_CUDNN_ALIGNMENT != 0)
            return false;
    work = (char *)(uintptr_t)round_up((int64_t)(uintptr_t)work, ALIGNMENT);
    if (!kin_cudnn_run(p, count, id, data, work))
        return false;
    c->ctx->device->cudnn_launches++;
    return true;
}

/* --- attention --- */

typedef kin_cudnn_attention_spec attention_spec;

/* A view that the library takes where it lies. */
static bool in_place(const kin_tensor *t)
{
    return t->dtype == KIN_DTYPE_BF16 && (uintptr_t)t->data % KIN_CUDNN_ALIGNMENT == 0 &&
           t->stride[0] % 8 == 0 && t->stride[1] % 8 == 0 && t->stride[2] % 8 == 0;
}

static bool has(const kin_tensor *t)
{
    return t && t->data;
}

/* True for calls that cuDNN's graphs cover. */
static bool covers(kin_cuda_call *c, const kin_attention_args *a)
{
    const kin_tensor *q = a->q, *k = a->k;
    const int64_t rows = q->size[1] > k->size[1] ? q->size[1] : k->size[1];
    return kin_cuda_cudnn(c->gpu) && kin_attention_dtype(c->ctx) == KIN_DTYPE_BF16 &&
           !has(a->bias) && !has(a->mask) && !has(a->gate) && q->size[3] % KIN_PACK_STEP == 0 &&
           q->size[1] > 0 && k->size[1] > 0 && q->size[0] * q->size[2] > 0 &&
           rows < INT32_MAX / (q->size[0] * q->size[2] * q->size[3]) &&
           (!has(a->lse) || (a->lse->dtype == KIN_DTYPE_F32 && kin_tensor_is_contiguous(a->lse)));
}

static attention_spec spec_of(int64_t kind, const kin_attention_args *a)
{
    const kin_tensor *t[5] = {a->q, a->k, a->v, a->o, a->dout};
    attention_spec s = {.kind = kind,
                        .batch = a->q->size[0],
                        .heads = a->q->size[2],
                        .nq = a->q->size[1],
                        .nk = a->k->size[1],
                        .d = a->q->size[3],
                        .stats = has(a->lse)};
    for (int i = 0; i < (kind == KIN_CUDNN_ATTENTION ? 4 : 5); i++) {
        const bool there = in_place(t[i]);
        s.stride[i][0] = there ? t[i]->stride[0] : t[i]->size[1] * s.heads * s.d;
        s.stride[i][1] = there ? t[i]->stride[1] : s.heads * s.d;
        s.stride[i][2] = there ? t[i]->stride[2] : s.d;
    }
    return s;
}

static void *halves(kin_cuda_call *c, const kin_tensor *t)
{
    return kin_cuda_scratch(c, (size_t)kin_tensor_numel(t) * 2);
}

/* Addresses of `count` operands in bf16: where they lie, or packed by one launch. */
static void take(kin_cuda_call *c, const kin_tensor *const *t, int count, void **data)
{
    kin_pack_item item[KIN_PACK_MOST];
    int items = 0;
    for (int i = 0; i < count; i++) {
        const kin_tensor view = kin_cuda_in(c, t[i]);
        data[i] = view.data;
        if (in_place(t[i]))
            continue;
        data[i] = halves(c, t[i]);
        item[items++] = (kin_pack_item){.t = view, .packed = data[i]};
    }
    kin_cuda_pack(c, item, items);
}

bool kin_cudnn_attention(kin_cuda_call *c, const kin_attention_args *a)
{
    if (!covers(c, a))
        return false;
    const attention_spec s = spec_of(KIN_CUDNN_ATTENTION, a);
    kin_cudnn_plan *p = kin_cudnn_find(kin_cuda_cudnn(c->gpu), (const int64_t *)&s,
                                       sizeof s / sizeof(int64_t), kin_cudnn_build_attention);
    if (!p)
        return false;
    kin_cuda_result *before = c->results;
    const kin_tensor *from[3] = {a->q, a->k, a->v};
    const kin_tensor o = kin_cuda_out(c, a->o, false), lse = kin_cuda_out(c, a->lse, false);
    const bool direct = in_place(a->o);
    float scale = a->scale;
    int64_t id[6] = {KIN_CUDNN_Q, KIN_CUDNN_K, KIN_CUDNN_V, KIN_CUDNN_O};
    void *data[6];
    int count = 4;
    take(c, from, 3, data);
    data[3] = direct ? o.data : halves(c, a->o);
    if (s.stats) {
        id[count] = KIN_CUDNN_STATS;
        data[count++] = lse.data;
    }
    id[count] = KIN_CUDNN_SCALE;
    data[count++] = &scale;
    if (!launch(c, p, count, 1, id, data)) {
        c->results = before;
        return false;
    }
    const kin_pack_item result = {.t = o, .packed = data[3]};
    kin_cuda_unpack(c, &result, direct ? 0 : 1);
    return true;
}

/* Gradients from where the library wrote them to where they are wanted. */
static void give(kin_cuda_call *c, const kin_attention_args *a, void *const *data)
{
    const kin_tensor *to[3] = {a->dq, a->dk, a->dv};
    const bool acc[3] = {a->acc_dq, a->acc_dk, a->acc_dv};
    kin_pack_item item[3];
    int items = 0;
    for (int i = 0; i < 3; i++) {
        const kin_tensor view = kin_cuda_out(c, to[i], acc[i]);
        if (view.data)
            item[items++] = (kin_pack_item){.t = view, .packed = data[i], .acc = acc[i]};
    }
    kin_cuda_unpack(c, item, items);
}

/* True where two runs need not give the same bits: the graph sums dq in no fixed order. */
static bool any_order(void)
{
    const char *e = getenv("KINEMA_CUDA_DETERMINISTIC");
    return e && strcmp(e, "0") == 0;
}

bool kin_cudnn_attention_bwd(kin_cuda_call *c, const kin_attention_args *a)
{
    /* note: of a single query or key the library gives NaN in some versions, nothing in others */
    const bool single = a->q->size[1] == 1 || a->k->size[1] == 1;
    if (!any_order() || single || !covers(c, a) || !has(a->lse) || has(a->dbias))
        return false;
    const attention_spec s = spec_of(KIN_CUDNN_ATTENTION_BWD, a);
    kin_cudnn_plan *p = kin_cudnn_find(kin_cuda_cudnn(c->gpu), (const int64_t *)&s,
                                       sizeof s / sizeof(int64_t), kin_cudnn_build_attention_bwd);
    if (!p)
        return false;
    const kin_tensor *from[5] = {a->q, a->k, a->v, a->o, a->dout};
    const size_t rows = (size_t)(s.batch * s.heads * s.nq) * sizeof(float);
    float scale = a->scale, one = 1;
    static const int64_t id[13] = {
        KIN_CUDNN_Q,      KIN_CUDNN_K,     KIN_CUDNN_V,  KIN_CUDNN_O,     KIN_CUDNN_DO,
        KIN_CUDNN_DQ,     KIN_CUDNN_DK,    KIN_CUDNN_DV, KIN_CUDNN_STATS, KIN_CUDNN_DELTA,
        KIN_CUDNN_DQ_SUM, KIN_CUDNN_SCALE, KIN_CUDNN_ONE};
    void *data[13] = {[11] = &scale, [12] = &one};
    take(c, from, 5, data);
    data[5] = halves(c, a->q);
    data[6] = halves(c, a->k);
    data[7] = halves(c, a->v);
    data[8] = kin_cuda_in(c, a->lse).data;
    data[9] = kin_cuda_scratch(c, rows);
    data[10] = kin_cuda_scratch(c, rows * (size_t)s.d);
    if (!launch(c, p, 13, 2, id, data))
        return false;
    give(c, a, data + 5);
    return true;
}

/* --- convolution --- */

typedef kin_cudnn_conv_spec conv_spec;

static bool matches(int64_t in, int64_t out, int64_t stride, int64_t k, int64_t before)
{
    /* the library finds the number of results itself */
    const int64_t need = (out - 1) * stride + k - before - in, after = need > 0 ? need : 0;
    return out > 0 && (in + before + after - k) / stride + 1 == out;
}

/* The plan of a kind for the call's shape, or NULL. */
static kin_cudnn_plan *conv_plan(kin_cuda_call *c, int64_t kind, const kin_conv_shape *a)
{
    const int64_t height = a->height * a->up, width = a->width * a->up;
    const conv_spec s = {.kind = kind,
                         .bf16 = kin_cuda_in_bf16(c->ctx),
                         .batch = a->batch,
                         .frames = a->frames,
                         .height = height,
                         .width = width,
                         .in = a->in,
                         .out_frames = a->out_frames,
                         .out_height = a->out_height,
                         .out_width = a->out_width,
                         .out = a->out,
                         .kt = a->kt,
                         .kh = a->kh,
                         .kw = a->kw,
                         .stride = a->stride,
                         .front = a->front,
                         .top = a->top,
                         .left = a->left,
                         .tf32 = c->ctx->compute == KIN_DTYPE_F32 &&
                                 c->ctx->precision == KIN_PRECISION_HIGH};
    const bool alone = a->kt == 1 && a->front == 0 && a->frames == a->out_frames;
    const int64_t x = a->batch * a->frames * height * width * a->in;
    const int64_t y = a->batch * a->out_frames * a->out_height * a->out_width * a->out;
    if (!kin_cuda_cudnn(c->gpu) || (a->kt == 1 && !alone) || a->kt * a->kh * a->kw == 1 || x < 1 ||
        x > INT32_MAX || y > INT32_MAX || !matches(a->frames, a->out_frames, 1, a->kt, a->front) ||
        !matches(height, a->out_height, a->stride, a->kh, a->top) ||
        !matches(width, a->out_width, a->stride, a->kw, a->left))
        return NULL;
    return kin_cudnn_find(kin_cuda_cudnn(c->gpu), (const int64_t *)&s, sizeof s / sizeof(int64_t),
                          kin_cudnn_build_conv);
}

static bool launch_conv(kin_cuda_call *c, kin_cudnn_plan *p, void *x, void *y, void *w)
{
    static const int64_t id[3] = {KIN_CUDNN_X, KIN_CUDNN_Y, KIN_CUDNN_W};
    void *const data[3] = {x, y, w};
    return launch(c, p, 3, 0, id, data);
}

static int64_t taps_of(const kin_conv_shape *s)
{
    return (int64_t)s->kt * s->kh * s->kw;
}

/* A contiguous f32 matrix of the slot in the type of the products. */
static kin_tensor as_operand(kin_cuda_call *c, const kin_tensor *t)
{
    if (!kin_cuda_in_bf16(c->ctx) || t->dtype == KIN_DTYPE_BF16)
        return *t;
    kin_tensor to = *t;
    to.dtype = KIN_DTYPE_BF16;
    to.data = halves(c, t);
    kin_cuda_to_bf16(c, t, &to);
    return to;
}

/* Where the library writes what becomes t: t itself, or scratch. */
static kin_tensor result_of(kin_cuda_call *c, const kin_tensor *t, bool direct)
{
    kin_tensor r = *t;
    r.dtype = kin_cuda_in_bf16(c->ctx) ? KIN_DTYPE_BF16 : KIN_DTYPE_F32;
    if (!direct || r.dtype != t->dtype)
        r.data = kin_cuda_scratch(c, (size_t)kin_tensor_numel(t) * kin_dtype_size(r.dtype));
    return r;
}

bool kin_cudnn_conv(kin_cuda_call *c, const kin_conv_args *a)
{
    const bool apart = !has(a->residual) || a->residual->data != a->y->data;
    kin_cudnn_plan *p = apart ? conv_plan(c, KIN_CUDNN_CONV, &a->s) : NULL;
    if (!p)
        return false;
    kin_cuda_result *before = c->results;
    const kin_tensor from = kin_cuda_in(c, a->x), bias = kin_cuda_value(c, a->b);
    const kin_tensor residual = kin_cuda_in(c, a->residual);
    const kin_tensor y = kin_cuda_out(c, a->y, false), sum = result_of(c, &y, true);
    const kin_tensor w = kin_cuda_value_taps(c, a->w, taps_of(&a->s), sum.dtype);
    const kin_tensor x = kin_cuda_pack_pixels(c, &a->s, &from, sum.dtype);
    if (!launch_conv(c, p, x.data, sum.data, w.data)) {
        c->results = before;
        return false;
    }
    if (sum.data != y.data || bias.data || residual.data)
        kin_cuda_unpack_rows(c, &sum, &bias, &residual, &y, false);
    return true;
}

bool kin_cudnn_conv_dx(kin_cuda_call *c, const kin_conv_args *a)
{
    kin_cudnn_plan *p = a->s.up == 1 ? conv_plan(c, KIN_CUDNN_CONV_DX, &a->s) : NULL;
    if (!p)
        return false;
    kin_cuda_result *before = c->results;
    const kin_tensor none = {0}, from = kin_cuda_in(c, a->dy);
    const kin_tensor dx = kin_cuda_out(c, a->dx, a->acc), sum = result_of(c, &dx, !a->acc);
    const kin_tensor w = kin_cuda_value_taps(c, a->w, taps_of(&a->s), sum.dtype);
    const kin_tensor dy = as_operand(c, &from);
    if (!launch_conv(c, p, sum.data, dy.data, w.data)) {
        c->results = before;
        return false;
    }
    if (sum.data != dx.data)
        kin_cuda_unpack_rows(c, &sum, &none, &none, &dx, a->acc);
    return true;
}

bool kin_cudnn_conv_dw(kin_cuda_call *c, const kin_conv_args *a)
{
    kin_cudnn_plan *p = a->w->grad.data ? conv_plan(c, KIN_CUDNN_CONV_DW, &a->s) : NULL;
    if (!p)
        return false;
    kin_cuda_result *before = c->results;
    const kin_tensor grad = kin_cuda_grad(c, a->w), sum = result_of(c, &grad, false);
    const kin_tensor rows = kin_cuda_in(c, a->dy), from = kin_cuda_in(c, a->x);
    const kin_tensor dy = as_operand(c, &rows);
    const kin_tensor x = kin_cuda_pack_pixels(c, &a->s, &from, sum.dtype);
    if (!launch_conv(c, p, x.data, dy.data, sum.data)) {
        c->results = before;
        return false;
    }
    kin_cuda_unpack_taps(c, &sum, &grad, taps_of(&a->s));
    return true;
}
