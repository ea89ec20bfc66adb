/* tensor/cpu/conv.c: the slots of convolution, and how output is cut into tasks. */
#include <omp.h>
#include <string.h>

#include "tensor/cpu/conv.h"
#include "tensor/ref/ref.h"

kin_conv_cut kin_conv_cut_of(const kin_ctx *ctx, const kin_conv_job *j, int64_t rows, int64_t cols,
                             int64_t most, int64_t least)
{
    const int64_t pictures = j->s.batch * j->s.out_frames;
    kin_conv_cut c = {.rows = rows, .cols = cols};
    int64_t units = pictures * rows * cols / (3 * (int64_t)ctx->threads);
    if (ctx->threads == 1 || units > most)
        units = most;
    if (units < least)
        units = least;
    int64_t along = (cols + units - 1) / units;
    c.wide = (cols + along - 1) / along;
    c.high = units / c.wide;
    c.high = c.high < 1 ? 1 : c.high > rows ? rows : c.high;
    c.down = (rows + c.high - 1) / c.high;
    c.along = (cols + c.wide - 1) / c.wide;
    c.count = pictures * c.down * c.along;
    return c;
}

kin_conv_part kin_conv_part_of(const kin_conv_cut *c, int64_t i)
{
    kin_conv_part p = {.picture = i / (c->down * c->along)};
    p.row = i / c->along % c->down * c->high;
    p.col = i % c->along * c->wide;
    p.h = c->rows - p.row < c->high ? c->rows - p.row : c->high;
    p.w = c->cols - p.col < c->wide ? c->cols - p.col : c->wide;
    return p;
}

void kin_conv_pixels(const kin_simd *s, const kin_conv_job *j, bool half, int64_t b, int64_t f,
                     int64_t row, int64_t col, int64_t n, char *dst)
{
    const kin_conv_shape *x = &j->s;
    const size_t pixel = (size_t)x->in * (half ? sizeof(uint16_t) : sizeof(float));
    const int64_t i = kin_conv_place(j, row, x->height);
    const bool none = f < 0 || f >= x->frames || i < 0;
    for (int64_t v = 0; v < n; v++, dst += pixel) {
        const int64_t k = kin_conv_place(j, col + v, x->width);
        if (none || k < 0) {
            memset(dst, 0, pixel);
            continue;
        }
        const int64_t at = ((b * x->frames + f) * x->height + i) * x->width + k;
        const void *src = kin_engine_at(j->x, j->half, at * x->in);
        if (half && !j->half)
            s->to_bf16(src, x->in, (uint16_t *)(void *)dst);
        else
            memcpy(dst, src, pixel);
    }
}

void kin_conv_planes(const kin_simd *s, const kin_conv_job *j, int64_t c0, int64_t cn, float *run,
                     float *planes)
{
    const int64_t taps = kin_conv_taps(j), in = j->s.in, out = j->s.out;
    const size_t item = kin_dtype_size(j->w->value.dtype);
    const char *src = j->w->value.data;
    if (!j->turned) {
        for (int64_t c = 0; c < cn; c++) {
            s->to_f32(src + (size_t)((c0 + c) * in * taps) * item, j->w->value.dtype, in * taps,
                      run);
            for (int64_t t = 0; t < taps; t++)
                for (int64_t k = 0; k < in; k++)
                    planes[(t * cn + c) * in + k] = run[k * taps + t];
        }
        return;
    }
    for (int64_t k = 0; k < in; k++) {
        s->to_f32(src + (size_t)((k * out + c0) * taps) * item, j->w->value.dtype, cn * taps, run);
        for (int64_t t = 0; t < taps; t++)
            for (int64_t c = 0; c < cn; c++)
                planes[(t * cn + c) * in + k] = run[c * taps + taps - 1 - t];
    }
}

kin_status kin_cpu_conv(kin_ctx *ctx, const kin_conv_args *a)
{
    if (!kin_is_operand(a->x))
        return kin_ref_conv(ctx, a);
    size_t mark = kin_ws_mark(ctx);
    kin_conv_job j = {.s = a->s,
                      .gap = 1,
                      .x = a->x->data,
                      .half = kin_is_half(a->x),
                      .w = a->w,
                      .residual = kin_f32(a->residual),
                      .y = kin_f32(a->y),
                      .mode = kin_cpu_weight_product(ctx, a->w)};
    KIN_TRY(kin_cpu_param_f32(ctx, a->b, a->s.out, &j.bias));
    KIN_TRY(kin_conv_run(ctx, &j));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

/* dx (+)= sums of 2x2 pixels of X's gradient */
static void fold(kin_ctx *ctx, const kin_conv_args *a, const float *wide)
{
    const int64_t C = a->s.in, W = a->s.width, rows = a->s.batch * a->s.frames * a->s.height;
    const kin_simd *s = kin_cpu_simd(ctx);
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, 4 * rows * W * C)) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < W; i++) {
            const float *p = wide + (r * 4 * W + 2 * i) * C;
            float *dx = kin_f32(a->dx) + (r * W + i) * C;
            s->put_rows(1, C, 1.0f, p, C, dx, C, a->acc);
            s->put_rows(1, C, 1.0f, p + C, C, dx, C, true);
            s->put_rows(1, C, 1.0f, p + 2 * W * C, C, dx, C, true);
            s->put_rows(1, C, 1.0f, p + (2 * W + 1) * C, C, dx, C, true);
        }
}

kin_status kin_cpu_conv_dx(kin_ctx *ctx, const kin_conv_args *a)
{
    if (!kin_is_f32(a->dy))
        return kin_ref_conv_dx(ctx, a);
    size_t mark = kin_ws_mark(ctx);
    const kin_conv_shape *s = &a->s;
    kin_conv_job j = {.s = {.batch = s->batch,
                            .frames = s->out_frames,
                            .height = s->out_height,
                            .width = s->out_width,
                            .in = s->out,
                            .out_frames = s->frames,
                            .out_height = s->height * s->up,
                            .out_width = s->width * s->up,
                            .out = s->in,
                            .kt = s->kt,
                            .kh = s->kh,
                            .kw = s->kw,
                            .stride = 1,
                            .up = 1,
                            .front = s->kt - 1 - s->front,
                            .top = s->kh - 1 - s->top,
                            .left = s->kw - 1 - s->left},
                      .gap = s->stride,
                      .turned = true,
                      .x = kin_f32(a->dy),
                      .w = a->w,
                      .y = kin_f32(a->dx),
                      .acc = a->acc,
                      .mode = kin_cpu_weight_product(ctx, a->w)};
    if (s->up > 1) {
        j.y = kin_ws_bytes(ctx, (size_t)(kin_conv_out_rows(&j) * s->in) * sizeof(float));
        j.acc = false;
        if (!j.y)
            return ctx->error.status;
    }
    KIN_TRY(kin_conv_run(ctx, &j));
    if (s->up > 1 && !kin_ctx_is_plan(ctx))
        fold(ctx, a, j.y);
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

/* --- gradient of the weight: for every tap a product over the pixels of y --- */

typedef struct frame { /* X of the forward pass with its zeros, [batch*F][H][W][in] */
    int64_t F, H, W;
    char *p;      /* of x's type */
    int32_t *row; /* of every pixel of y: where tap 0 lies */
} frame;

static void fill_frame(kin_ctx *ctx, const kin_conv_args *a, const frame *f)
{
    const kin_conv_shape *s = &a->s;
    const kin_conv_job j = {.s = *s, .gap = 1, .x = a->x->data, .half = kin_is_half(a->x)};
    const size_t pixel = (size_t)s->in * kin_dtype_size(a->x->dtype);
    const int64_t rows = s->batch * f->F * f->H;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, rows * f->W * s->in)) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        kin_conv_pixels(kin_cpu_simd(ctx), &j, j.half, r / f->H / f->F, r / f->H % f->F - s->front,
                        r % f->H - s->top, -s->left, f->W, f->p + (size_t)(r * f->W) * pixel);
    const int64_t all = s->batch * s->out_frames * s->out_height * s->out_width;
    for (int64_t r = 0; r < all; r++) {
        int64_t k = r % s->out_width, i = r / s->out_width % s->out_height;
        int64_t t = r / s->out_width / s->out_height, b = t / s->out_frames;
        t = b * f->F + t % s->out_frames;
        f->row[r] = (int32_t)((t * f->H + i * s->stride) * f->W + k * s->stride);
    }
}

/* grad [out,in,taps] += sum [taps][out][in] */
static void add_taps(const kin_conv_args *a, int64_t taps, const float *sum)
{
    const int64_t in = a->s.in, n = a->s.out * in;
    float *g = a->w->grad.data;
    for (int64_t i = 0; i < n; i++)
        for (int64_t t = 0; t < taps; t++)
            g[i * taps + t] += sum[t * n + i];
}

static kin_status weight_sums(kin_ctx *ctx, const kin_conv_args *a)
{
    const kin_conv_shape *s = &a->s;
    const int64_t taps = (int64_t)s->kt * s->kh * s->kw, n = s->out * s->in;
    const int64_t rows = s->batch * s->out_frames * s->out_height * s->out_width;
    frame f = {.F = s->out_frames + s->kt - 1,
               .H = (s->out_height - 1) * s->stride + s->kh,
               .W = (s->out_width - 1) * s->stride + s->kw};
    if (s->batch * f.F * f.H * f.W > INT32_MAX)
        return kin_fail(&ctx->error, KIN_ERR_ARG, "convolution: too many pixels for a gradient");
    const size_t pixel = (size_t)s->in * kin_dtype_size(a->x->dtype);
    f.p = kin_ws_bytes(ctx, (size_t)(s->batch * f.F * f.H * f.W) * pixel);
    f.row = kin_ws_bytes(ctx, (size_t)rows * sizeof(int32_t));
    float *sum = kin_ws_bytes(ctx, (size_t)(taps * n) * sizeof(float));
    kin_gemm_tn *g = kin_ws_bytes(ctx, (size_t)taps * sizeof(*g));
    if (!f.p || !f.row || !sum || !g)
        return ctx->error.status;
    if (!kin_ctx_is_plan(ctx)) {
        fill_frame(ctx, a, &f);
        memset(sum, 0, (size_t)(taps * n) * sizeof(float));
    }
    for (int64_t t = 0; t < taps; t++) {
        int64_t v = t % s->kw, u = t / s->kw % s->kh, w = t / s->kw / s->kh;
        g[t] = (kin_gemm_tn){.m = s->out,
                             .n = s->in,
                             .k = rows,
                             .a = kin_f32(a->dy),
                             .lda = s->out,
                             .b = f.p + (size_t)((w * f.H + u) * f.W + v) * pixel,
                             .b_half = kin_is_half(a->x),
                             .ldb = s->in,
                             .b_rows = f.row,
                             .c = sum + t * n,
                             .ldc = s->in};
    }
    KIN_TRY(kin_cpu_gemm_tn(ctx, g, taps, kin_cpu_product(ctx)));
    if (!kin_ctx_is_plan(ctx))
        add_taps(a, taps, sum);
    return KIN_OK;
}

kin_status kin_cpu_conv_dw(kin_ctx *ctx, const kin_conv_args *a)
{
    if (!kin_is_f32(a->dy))
        return kin_ref_conv_dw(ctx, a);
    size_t mark = kin_ws_mark(ctx);
    if (a->w->grad.data)
        KIN_TRY(weight_sums(ctx, a));
    kin_ws_release(ctx, mark);
    if (a->b && a->b->grad.data && !kin_ctx_is_plan(ctx))
        kin_cpu_simd(ctx)->column_sums(kin_f32(a->dy), a->s.out, a->dy->size[0], a->s.out,
                                       a->b->grad.data);
    return KIN_OK;
}
