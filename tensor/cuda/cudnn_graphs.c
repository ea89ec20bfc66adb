#include "tensor/cuda/cudnn_graphs.h"

#include <string.h>

typedef cudnnBackendDescriptor_t desc;

static const cudnnDataType_t f32 = CUDNN_DATA_FLOAT, bf16 = CUDNN_DATA_BFLOAT16;

/* --- operations --- */

static desc product(kin_cudnn_plan *p, desc a, desc b, desc out)
{
    desc how = kin_cudnn_part(p, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    kin_cudnn_set(p, how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &f32);
    kin_cudnn_finish(p, how);
    desc op = kin_cudnn_part(p, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    kin_cudnn_set_part(p, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    kin_cudnn_set_part(p, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    kin_cudnn_set_part(p, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    kin_cudnn_set_part(p, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, out);
    kin_cudnn_finish_op(p, op);
    return out;
}

/* out = mode(a, b), or mode(a) with b NULL */
static desc pointwise(kin_cudnn_plan *p, cudnnPointwiseMode_t mode, desc a, desc b, desc out)
{
    desc how = kin_cudnn_part(p, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    kin_cudnn_set(p, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    kin_cudnn_set(p, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &f32);
    kin_cudnn_finish(p, how);
    desc op = kin_cudnn_part(p, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    kin_cudnn_set_part(p, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    kin_cudnn_set_part(p, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, a);
    if (b)
        kin_cudnn_set_part(p, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    kin_cudnn_set_part(p, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, out);
    kin_cudnn_finish_op(p, op);
    return out;
}

/* Sum over the dimensions in which out has size 1. */
static desc sum(kin_cudnn_plan *p, desc x, desc out)
{
    const cudnnReduceTensorOp_t add = CUDNN_REDUCE_TENSOR_ADD;
    desc how = kin_cudnn_part(p, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    kin_cudnn_set(p, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1,
                  &add);
    kin_cudnn_set(p, how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &f32);
    kin_cudnn_finish(p, how);
    desc op = kin_cudnn_part(p, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    kin_cudnn_set_part(p, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    kin_cudnn_set_part(p, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    kin_cudnn_set_part(p, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, out);
    kin_cudnn_finish_op(p, op);
    return out;
}

/* x seen with out's sizes and strides. */
static desc reshape(kin_cudnn_plan *p, desc x, desc out)
{
    desc op = kin_cudnn_part(p, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    kin_cudnn_set_part(p, op, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    kin_cudnn_set_part(p, op, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, out);
    kin_cudnn_finish_op(p, op);
    return out;
}

/* --- attention --- */

typedef kin_cudnn_attention_spec attention_spec;

enum { INNER = 1000 }; /* ids of tensors inside a graph start here */

static kin_cudnn_tensor matrices(const attention_spec *s, int64_t id, cudnnDataType_t type,
                                 int64_t rows, int64_t cols)
{
    return (kin_cudnn_tensor){.id = id,
                              .type = type,
                              .ndim = 4,
                              .size = {s->batch, s->heads, rows, cols},
                              .stride = {s->heads * rows * cols, rows * cols, cols, 1}};
}

/* A contiguous f32 result inside the graph. */
static desc inner(kin_cudnn_plan *p, const attention_spec *s, int64_t rows, int64_t cols)
{
    kin_cudnn_tensor t = matrices(s, INNER + p->parts, f32, rows, cols);
    t.inner = true;
    return kin_cudnn_add(p, &t);
}

/* The transpose of a [Nq,Nk] result, in bf16, inside the graph. */
static desc turned(kin_cudnn_plan *p, const attention_spec *s, desc x)
{
    kin_cudnn_tensor t = matrices(s, INNER + p->parts, bf16, s->nk, s->nq);
    t.stride[2] = 1;
    t.stride[3] = s->nk;
    t.inner = true;
    return reshape(p, x, kin_cudnn_add(p, &t));
}

static desc host_value(kin_cudnn_plan *p, int64_t id)
{
    const kin_cudnn_tensor t = {.id = id,
                                .type = f32,
                                .ndim = 4,
                                .size = {1, 1, 1, 1},
                                .stride = {1, 1, 1, 1},
                                .scalar = true};
    return kin_cudnn_add(p, &t);
}

static kin_cudnn_tensor operand_of(const attention_spec *s, int id)
{
    const bool keys = id == KIN_CUDNN_K || id == KIN_CUDNN_V;
    kin_cudnn_tensor t = matrices(s, id, bf16, keys ? s->nk : s->nq, s->d);
    t.stride[0] = s->stride[id][0];
    t.stride[1] = s->stride[id][2];
    t.stride[2] = s->stride[id][1];
    return t;
}

/* q, k, v, o or dout as [B,A,N,d]. */
static desc operand(kin_cudnn_plan *p, const attention_spec *s, int id)
{
    const kin_cudnn_tensor t = operand_of(s, id);
    return kin_cudnn_add(p, &t);
}

/* k or v as [B,A,d,N]. */
static desc operand_turned(kin_cudnn_plan *p, const attention_spec *s, int id)
{
    const kin_cudnn_tensor t = operand_of(s, id);
    kin_cudnn_tensor v = t;
    v.size[2] = t.size[3];
    v.size[3] = t.size[2];
    v.stride[2] = t.stride[3];
    v.stride[3] = t.stride[2];
    return kin_cudnn_add(p, &v);
}

/* A gradient: contiguous [B,N,A,d]. */
static desc gradient(kin_cudnn_plan *p, const attention_spec *s, int id, int64_t rows)
{
    kin_cudnn_tensor t = matrices(s, id, bf16, rows, s->d);
    t.stride[1] = s->d;
    t.stride[2] = s->heads * s->d;
    return kin_cudnn_add(p, &t);
}

/* One f32 value per query. */
static desc row_values(kin_cudnn_plan *p, const attention_spec *s, int id)
{
    const kin_cudnn_tensor t = matrices(s, id, f32, s->nq, 1);
    return kin_cudnn_add(p, &t);
}

void kin_cudnn_build_attention(kin_cudnn_plan *p)
{
    attention_spec s;
    memcpy(&s, p->spec, sizeof s);
    p->refused = 1u << CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
    desc op = kin_cudnn_part(p, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
    kin_cudnn_set_part(p, op, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, operand(p, &s, KIN_CUDNN_Q));
    kin_cudnn_set_part(p, op, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, operand(p, &s, KIN_CUDNN_K));
    kin_cudnn_set_part(p, op, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, operand(p, &s, KIN_CUDNN_V));
    kin_cudnn_set_part(p, op, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, operand(p, &s, KIN_CUDNN_O));
    if (s.stats)
        kin_cudnn_set_part(p, op, CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC,
                           row_values(p, &s, KIN_CUDNN_STATS));
    kin_cudnn_set_part(p, op, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC,
                       host_value(p, KIN_CUDNN_SCALE));
    kin_cudnn_finish_op(p, op);
}

/* sum over columns of dout o, kept per query */
static desc delta(kin_cudnn_plan *p, const attention_spec *s, desc dout)
{
    desc each = pointwise(p, CUDNN_POINTWISE_MUL, dout, operand(p, s, KIN_CUDNN_O),
                          inner(p, s, s->nq, s->d));
    desc all = sum(p, each, inner(p, s, s->nq, 1));
    return pointwise(p, CUDNN_POINTWISE_MUL, all, host_value(p, KIN_CUDNN_ONE),
                     row_values(p, s, KIN_CUDNN_DELTA));
}

static desc probabilities(kin_cudnn_plan *p, const attention_spec *s, desc q, desc kt, desc scale)
{
    desc x = product(p, q, kt, inner(p, s, s->nq, s->nk));
    x = pointwise(p, CUDNN_POINTWISE_MUL, x, scale, inner(p, s, s->nq, s->nk));
    x = pointwise(p, CUDNN_POINTWISE_SUB, x, row_values(p, s, KIN_CUDNN_STATS),
                  inner(p, s, s->nq, s->nk));
    return pointwise(p, CUDNN_POINTWISE_EXP, x, NULL, inner(p, s, s->nq, s->nk));
}

void kin_cudnn_build_attention_bwd(kin_cudnn_plan *p)
{
    attention_spec s;
    memcpy(&s, p->spec, sizeof s);
    desc q = operand(p, &s, KIN_CUDNN_Q), dout = operand(p, &s, KIN_CUDNN_DO);
    desc kt = operand_turned(p, &s, KIN_CUDNN_K), vt = operand_turned(p, &s, KIN_CUDNN_V);
    desc scale = host_value(p, KIN_CUDNN_SCALE);
    desc rows = delta(p, &s, dout);
    desc weight = probabilities(p, &s, q, kt, scale);
    product(p, turned(p, &s, weight), dout, gradient(p, &s, KIN_CUDNN_DV, s.nk));
    desc slope = product(p, dout, vt, inner(p, &s, s.nq, s.nk));
    slope = pointwise(p, CUDNN_POINTWISE_SUB, slope, rows, inner(p, &s, s.nq, s.nk));
    slope = pointwise(p, CUDNN_POINTWISE_MUL, slope, weight, inner(p, &s, s.nq, s.nk));
    slope = pointwise(p, CUDNN_POINTWISE_MUL, slope, scale, inner(p, &s, s.nq, s.nk));
    product(p, turned(p, &s, slope), q, gradient(p, &s, KIN_CUDNN_DK, s.nk));
    /* k again as [B,A,N,d]; dq is summed in f32 outside of the graph */
    kin_cudnn_tensor k = operand_of(&s, KIN_CUDNN_K);
    k.id = INNER + p->parts;
    k.inner = true;
    const kin_cudnn_tensor whole = matrices(&s, KIN_CUDNN_DQ_SUM, f32, s.nq, s.d);
    desc dq = product(p, slope, reshape(p, kt, kin_cudnn_add(p, &k)), kin_cudnn_add(p, &whole));
    pointwise(p, CUDNN_POINTWISE_IDENTITY, dq, NULL, gradient(p, &s, KIN_CUDNN_DQ, s.nq));
}

/* --- convolution --- */

typedef kin_cudnn_conv_spec conv_spec;

/* attributes of an operation: convolution, x, y, w, factors of the result and of what was there */
typedef struct conv_names {
    cudnnBackendDescriptorType_t type;
    cudnnBackendAttributeName_t conv, x, y, w, alpha, beta;
} conv_names;

static const conv_names names[3] = {
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA}};

/* A tensor [n,f,h,w,c] in memory as the library sees it: [n,c,f,h,w], or [n,c,h,w] where frames
 * are not convolved. */
static desc pixels(kin_cudnn_plan *p, const conv_spec *s, int id, const int64_t size[5])
{
    const int64_t n = size[0], f = size[1], h = size[2], w = size[3], c = size[4];
    kin_cudnn_tensor t = {.id = id,
                          .type = s->bf16 ? bf16 : f32,
                          .ndim = 5,
                          .size = {n, c, f, h, w},
                          .stride = {f * h * w * c, 1, h * w * c, w * c, c}};
    if (s->kt == 1)
        t = (kin_cudnn_tensor){.id = id,
                               .type = s->bf16 ? bf16 : f32,
                               .ndim = 4,
                               .size = {n * f, c, h, w},
                               .stride = {h * w * c, 1, w * c, c}};
    return kin_cudnn_add(p, &t);
}

/* Zeros after the last of `in` pixels that the last of `out` results needs. */
static int64_t zeros_after(int64_t in, int64_t out, int64_t stride, int64_t k, int64_t before)
{
    const int64_t need = (out - 1) * stride + k - before - in;
    return need > 0 ? need : 0;
}

static desc convolution(kin_cudnn_plan *p, const conv_spec *s)
{
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const int64_t dims = s->kt == 1 ? 2 : 3, from = 3 - dims;
    const int64_t dilation[3] = {1, 1, 1}, stride[3] = {1, s->stride, s->stride};
    const int64_t before[3] = {s->front, s->top, s->left};
    const int64_t after[3] = {
        zeros_after(s->frames, s->out_frames, 1, s->kt, s->front),
        zeros_after(s->height, s->out_height, s->stride, s->kh, s->top),
        zeros_after(s->width, s->out_width, s->stride, s->kw, s->left),
    };
    desc c = kin_cudnn_part(p, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    kin_cudnn_set(p, c, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &f32);
    kin_cudnn_set(p, c, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    kin_cudnn_set(p, c, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &dims);
    kin_cudnn_set(p, c, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, dims, dilation);
    kin_cudnn_set(p, c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, dims,
                  stride + from);
    kin_cudnn_set(p, c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, dims, before + from);
    kin_cudnn_set(p, c, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, dims, after + from);
    kin_cudnn_finish(p, c);
    return c;
}

/* Engines that keep the contract of the slots: fixed order, no rounding but to bf16, or to TF32
 * where that is asked for. note: those of TF32 bear the tensor cores' note alone */
static void refuse(kin_cudnn_plan *p, const conv_spec *s)
{
    p->refused = 1u << CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC |
                 1u << CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION |
                 1u << CUDNN_NUMERICAL_NOTE_FFT | 1u << CUDNN_NUMERICAL_NOTE_WINOGRAD |
                 1u << CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4 |
                 1u << CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6 |
                 1u << CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13;
    if (!s->bf16)
        p->refused |= 1u << CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS;
    if (!s->bf16 && !s->tf32)
        p->refused |= 1u << CUDNN_NUMERICAL_NOTE_TENSOR_CORE;
    p->compiled = true;
}

void kin_cudnn_build_conv(kin_cudnn_plan *p)
{
    conv_spec s;
    memcpy(&s, p->spec, sizeof s);
    const int64_t x[5] = {s.batch, s.frames, s.height, s.width, s.in};
    const int64_t y[5] = {s.batch, s.out_frames, s.out_height, s.out_width, s.out};
    const int64_t w[5] = {s.out, s.kt, s.kh, s.kw, s.in};
    const conv_names *name = &names[s.kind - KIN_CUDNN_CONV];
    const float one = 1, zero = 0;
    refuse(p, &s);
    desc conv = convolution(p, &s), op = kin_cudnn_part(p, name->type);
    kin_cudnn_set_part(p, op, name->conv, conv);
    kin_cudnn_set_part(p, op, name->x, pixels(p, &s, KIN_CUDNN_X, x));
    kin_cudnn_set_part(p, op, name->y, pixels(p, &s, KIN_CUDNN_Y, y));
    kin_cudnn_set_part(p, op, name->w, pixels(p, &s, KIN_CUDNN_W, w));
    kin_cudnn_set(p, op, name->alpha, CUDNN_TYPE_FLOAT, 1, &one);
    kin_cudnn_set(p, op, name->beta, CUDNN_TYPE_FLOAT, 1, &zero);
    kin_cudnn_finish_op(p, op);
}
