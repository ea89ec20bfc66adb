/* tensor/ref/conv.c: convolution over frames, rows and columns, channels last. */
#include "tensor/ref/ref.h"

/* Coordinate of X over coordinate `out` of y, tap k; -1 outside [0, size). */
static int64_t place(int64_t out, int stride, int k, int before, int64_t size)
{
    int64_t i = out * stride + k - before;
    return i >= 0 && i < size ? i : -1;
}

static int64_t row_of(const kin_conv_shape *s, int64_t b, int64_t f, int64_t i, int64_t j, int t,
                      int u, int v)
{
    int64_t ff = place(f, 1, t, s->front, s->frames);
    int64_t ii = place(i, s->stride, u, s->top, s->height * s->up);
    int64_t jj = place(j, s->stride, v, s->left, s->width * s->up);
    if (ff < 0 || ii < 0 || jj < 0)
        return -1;
    return ((b * s->frames + ff) * s->height + ii / s->up) * s->width + jj / s->up;
}

/* Calls fn for every pixel of y and tap that meet a row of x. */
typedef struct walk {
    kin_ctx *ctx;
    const kin_conv_args *a;
    int64_t y, x, taps, tap; /* rows of y and x; taps of the kernel, the present one */
} walk;

static void each(walk *w, void (*fn)(const walk *))
{
    const kin_conv_shape *s = &w->a->s;
    w->taps = (int64_t)s->kt * s->kh * s->kw;
    w->y = 0;
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t f = 0; f < s->out_frames; f++)
            for (int64_t i = 0; i < s->out_height; i++)
                for (int64_t j = 0; j < s->out_width; j++, w->y++)
                    for (w->tap = 0; w->tap < w->taps; w->tap++) {
                        int v = (int)(w->tap % s->kw), u = (int)(w->tap / s->kw % s->kh);
                        int t = (int)(w->tap / (s->kw * s->kh));
                        w->x = row_of(s, b, f, i, j, t, u, v);
                        if (w->x >= 0)
                            fn(w);
                    }
}

/* Element of the weight (or its gradient). */
static int64_t weight_at(const walk *w, int64_t o, int64_t c)
{
    return (o * w->a->s.in + c) * w->taps + w->tap;
}

static void add_products(const walk *w)
{
    const kin_conv_args *a = w->a;
    for (int64_t o = 0; o < a->s.out; o++) {
        double sum = 0;
        for (int64_t c = 0; c < a->s.in; c++)
            sum += kin_ref_operand(w->ctx, kin_ref_get2(a->x, w->x, c)) *
                   kin_ref_operand(w->ctx, kin_ref_load(&a->w->value, weight_at(w, o, c)));
        kin_ref_put2(a->y, w->y, o, sum, true);
    }
}

kin_status kin_ref_conv(kin_ctx *ctx, const kin_conv_args *a)
{
    size_t mark = kin_ws_mark(ctx);
    kin_tensor sum;
    /* sums in double whatever the type of y */
    KIN_TRY(KIN_WS(ctx, &sum, KIN_DTYPE_F64, a->y->size[0], a->s.out));
    for (int64_t r = 0; r < sum.size[0]; r++)
        for (int64_t o = 0; o < a->s.out; o++)
            kin_ref_put2(&sum, r, o, a->b ? kin_ref_load(&a->b->value, o) : 0.0, false);
    kin_conv_args wide = *a;
    wide.y = &sum;
    walk w = {.ctx = ctx, .a = &wide};
    each(&w, add_products);
    for (int64_t r = 0; r < sum.size[0]; r++)
        for (int64_t o = 0; o < a->s.out; o++) {
            double rest = kin_ref_has(a->residual) ? kin_ref_get2(a->residual, r, o) : 0.0;
            kin_ref_put2(a->y, r, o, kin_ref_get2(&sum, r, o) + rest, false);
        }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

static void add_to_dx(const walk *w)
{
    const kin_conv_args *a = w->a;
    for (int64_t c = 0; c < a->s.in; c++) {
        double sum = 0;
        for (int64_t o = 0; o < a->s.out; o++)
            sum += kin_ref_operand(w->ctx, kin_ref_get2(a->dy, w->y, o)) *
                   kin_ref_operand(w->ctx, kin_ref_load(&a->w->value, weight_at(w, o, c)));
        kin_ref_put2(a->dx, w->x, c, sum, true);
    }
}

kin_status kin_ref_conv_dx(kin_ctx *ctx, const kin_conv_args *a)
{
    size_t mark = kin_ws_mark(ctx);
    kin_tensor sum;
    KIN_TRY(KIN_WS(ctx, &sum, KIN_DTYPE_F64, a->dx->size[0], a->s.in));
    KIN_TRY(kin_ref_fill(ctx, &sum, 0.0));
    kin_conv_args wide = *a;
    wide.dx = &sum;
    walk w = {.ctx = ctx, .a = &wide};
    each(&w, add_to_dx);
    KIN_TRY(kin_ref_copy(ctx, &sum, a->dx, a->acc));
    kin_ws_release(ctx, mark);
    return KIN_OK;
}

static void add_to_dw(const walk *w)
{
    const kin_conv_args *a = w->a;
    double *sum = a->y->data; /* [out,in,taps] */
    for (int64_t o = 0; o < a->s.out; o++) {
        double dy = kin_ref_operand(w->ctx, kin_ref_get2(a->dy, w->y, o));
        for (int64_t c = 0; c < a->s.in; c++)
            sum[weight_at(w, o, c)] += dy * kin_ref_operand(w->ctx, kin_ref_get2(a->x, w->x, c));
    }
}

kin_status kin_ref_conv_dw(kin_ctx *ctx, const kin_conv_args *a)
{
    size_t mark = kin_ws_mark(ctx);
    if (kin_ref_wants_grad(a->w)) {
        int64_t n = kin_tensor_numel(&a->w->value);
        kin_tensor sum;
        KIN_TRY(KIN_WS(ctx, &sum, KIN_DTYPE_F64, n));
        KIN_TRY(kin_ref_fill(ctx, &sum, 0.0));
        kin_conv_args wide = *a;
        wide.y = &sum;
        walk w = {.ctx = ctx, .a = &wide};
        each(&w, add_to_dw);
        for (int64_t i = 0; i < n; i++)
            kin_ref_put(&a->w->grad, i, kin_ref_load(&sum, i), true);
    }
    for (int64_t o = 0; o < a->s.out && kin_ref_wants_grad(a->b); o++) {
        double sum = 0;
        for (int64_t r = 0; r < a->dy->size[0]; r++)
            sum += kin_ref_get2(a->dy, r, o);
        kin_ref_put(&a->b->grad, o, sum, true);
    }
    kin_ws_release(ctx, mark);
    return KIN_OK;
}
