/* tensor/cuda/conv.cu: convolution as a product with the rows of x that each pixel of y meets laid
 * out side by side (columns in the order of the weight: channel, then tap), a piece of y's rows at
 * a time. 1 x 1 kernels need no layout. The others go through cuDNN where it takes them (cudnn.h).
 */
#include "tensor/cuda/product.cuh"

#include "tensor/cuda/cudnn.h"

enum { PIECE_BYTES = 256 << 20 };

typedef struct conv_call {
    kin_conv_shape s;
    int64_t taps, width; /* kt*kh*kw; in * taps */
    int64_t first, rows; /* rows of y of the present piece */
    void *columns;       /* [rows, width] f32 or bf16 */
    bool bf16;
} conv_call;

/* Row of x that row r of y meets at tap, -1: outside. */
__device__ static int64_t row_of(const kin_conv_shape &s, int64_t r, int64_t tap)
{
    const int64_t j = r % s.out_width, i = r / s.out_width % s.out_height;
    const int64_t f = r / s.out_width / s.out_height % s.out_frames;
    const int64_t b = r / s.out_width / s.out_height / s.out_frames;
    const int64_t ff = f + tap / (s.kh * s.kw) - s.front;
    const int64_t ii = i * s.stride + tap / s.kw % s.kh - s.top;
    const int64_t jj = j * s.stride + tap % s.kw - s.left;
    if (ff < 0 || ff >= s.frames || ii < 0 || ii >= s.height * s.up || jj < 0 ||
        jj >= s.width * s.up)
        return -1;
    return ((b * s.frames + ff) * s.height + ii / s.up) * s.width + jj / s.up;
}

__global__ static void columns_kernel(conv_call p, const float *x)
{
    KIN_EACH(e, p.rows * p.width)
    {
        /* neighbouring threads read neighbouring channels */
        const int64_t c = e % p.s.in, tap = e / p.s.in % p.taps, r = e / p.width;
        const int64_t from = row_of(p.s, p.first + r, tap), to = r * p.width + c * p.taps + tap;
        const float v = from < 0 ? 0.0f : x[from * p.s.in + c];
        if (p.bf16)
            ((uint16_t *)p.columns)[to] = kin_float_bf16(v);
        else
            ((float *)p.columns)[to] = v;
    }
}

/* dx (+)= what the rows [first, first + rows) of y give back; a thread per value of x. */
__global__ static void gather_kernel(conv_call p, float *dx, bool acc)
{
    const kin_conv_shape &s = p.s;
    const float *columns = (const float *)p.columns;
    KIN_EACH(e, s.batch * s.frames * s.height * s.width * s.in)
    {
        const int64_t c = e % s.in, at = e / s.in, j = at % s.width, i = at / s.width % s.height;
        const int64_t f = at / s.width / s.height % s.frames,
                      b = at / s.width / s.height / s.frames;
        float sum = 0;
        for (int64_t tap = 0; tap < p.taps; tap++) {
            const int64_t fo = f - tap / (s.kh * s.kw) + s.front;
            for (int64_t part = 0; part < s.up * s.up; part++) {
                const int64_t io = i * s.up + part / s.up - tap / s.kw % s.kh + s.top;
                const int64_t jo = j * s.up + part % s.up - tap % s.kw + s.left;
                if (fo < 0 || fo >= s.out_frames || io < 0 || io % s.stride != 0 ||
                    io / s.stride >= s.out_height || jo < 0 || jo % s.stride != 0 ||
                    jo / s.stride >= s.out_width)
                    continue;
                const int64_t r =
                    ((b * s.out_frames + fo) * s.out_height + io / s.stride) * s.out_width +
                    jo / s.stride - p.first;
                if (r >= 0 && r < p.rows)
                    sum += columns[r * p.width + c * p.taps + tap];
            }
        }
        kin_put(dx + e, sum, acc);
    }
}

static bool is_product(const kin_conv_shape *s)
{
    return s->kt == 1 && s->kh == 1 && s->kw == 1 && s->stride == 1 && s->up == 1;
}

static int64_t rows_of_y(const kin_conv_shape *s)
{
    return s->batch * s->out_frames * s->out_height * s->out_width;
}

/* Prepares pieces; wide: columns are f32 whatever the compute type. */
static conv_call conv_open(kin_cuda_call *c, const kin_conv_args *a, bool wide)
{
    conv_call p = {};
    p.s = a->s;
    p.taps = (int64_t)a->s.kt * a->s.kh * a->s.kw;
    p.width = a->s.in * p.taps;
    p.bf16 = kin_cuda_in_bf16(c->ctx) && !wide;
    const int64_t all = rows_of_y(&a->s), row = p.width * (p.bf16 ? 2 : 4);
    const int64_t fit = PIECE_BYTES / row > 64 ? PIECE_BYTES / row : 64;
    p.rows = all < fit ? all : fit;
    if (!is_product(&a->s))
        p.columns = kin_cuda_scratch(c, (size_t)(p.rows * row));
    return p;
}

/* The layout of the present piece (or x itself), as an operand. */
static kin_matrix lay_out(kin_cuda_call *c, const conv_call &p, const kin_tensor &x)
{
    kin_matrix m = {};
    const float *from = (const float *)x.data;
    m.row = p.width;
    m.col = 1;
    m.dtype = KIN_DTYPE_F32;
    if (is_product(&p.s)) {
        m.data = from + p.first * p.width;
        return m;
    }
    KIN_LAUNCH(c, columns_kernel, kin_blocks(p.rows * p.width), KIN_THREADS, p, from);
    m.data = p.columns;
    m.dtype = p.bf16 ? KIN_DTYPE_BF16 : KIN_DTYPE_F32;
    return m;
}

/* Rows [first, first + rows) of a contiguous view. */
static kin_tensor piece_of(const kin_tensor &t, int64_t first, int64_t rows)
{
    kin_tensor v = t;
    if (t.data)
        v.data = (float *)t.data + first * t.stride[0];
    v.size[0] = rows;
    return v;
}

/* Calls fn for every piece of y's rows, with p.first and p.rows set. */
template <typename F> static void each_piece(kin_cuda_call *c, conv_call p, F fn)
{
    const int64_t all = rows_of_y(&p.s), step = p.rows;
    for (p.first = 0; p.first < all && c->status == KIN_OK; p.first += step) {
        p.rows = all - p.first < step ? all - p.first : step;
        fn(p);
    }
}

static kin_matrix weight_of(kin_cuda_call *c, kin_param *w, int64_t width)
{
    const kin_tensor t =
        kin_cuda_in_bf16(c->ctx) ? kin_cuda_value_bf16(c, w) : kin_cuda_value(c, w);
    kin_matrix m = {t.data, t.dtype, width, 1};
    return m;
}

extern "C" kin_status kin_cuda_conv(kin_ctx *ctx, const kin_conv_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "convolution");
    if (kin_cudnn_conv(&c, a))
        return kin_cuda_end(&c);
    const conv_call p = conv_open(&c, a, false);
    const kin_tensor x = kin_cuda_in(&c, a->x), b = kin_cuda_value(&c, a->b);
    const kin_tensor residual = kin_cuda_in(&c, a->residual), y = kin_cuda_out(&c, a->y, false);
    const kin_matrix w = weight_of(&c, a->w, p.width);
    each_piece(&c, p, [&](const conv_call &piece) {
        kin_product q = {};
        q.m = piece.rows;
        q.n = a->s.out;
        q.k = piece.width;
        q.a = lay_out(&c, piece, x);
        q.b = w;
        q.bias = b.data;
        q.bias_dtype = b.dtype;
        q.residual = piece_of(residual, piece.first, piece.rows);
        q.y = piece_of(y, piece.first, piece.rows);
        kin_product_run(&c, &q, kin_cuda_in_bf16(ctx));
    });
    return kin_cuda_end(&c);
}

extern "C" kin_status kin_cuda_conv_dx(kin_ctx *ctx, const kin_conv_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "convolution dx");
    if (kin_cudnn_conv_dx(&c, a))
        return kin_cuda_end(&c);
    const conv_call p = conv_open(&c, a, true);
    const kin_tensor dy = kin_cuda_in(&c, a->dy), dx = kin_cuda_out(&c, a->dx, a->acc);
    const kin_matrix w = kin_turned(weight_of(&c, a->w, p.width));
    const bool direct = is_product(&a->s);
    const int64_t count = kin_tensor_numel(a->dx);
    each_piece(&c, p, [&](const conv_call &piece) {
        const int64_t sizes[2] = {piece.rows, piece.width};
        const bool acc = a->acc || piece.first > 0;
        float *to = (float *)dx.data;
        kin_product q = {};
        q.m = piece.rows;
        q.n = piece.width;
        q.k = a->s.out;
        q.a = kin_rows_of(piece_of(dy, piece.first, piece.rows));
        q.b = w;
        q.y = direct ? piece_of(dx, piece.first, piece.rows)
                     : kin_tensor_of(piece.columns, KIN_DTYPE_F32, 2, sizes);
        q.acc = direct && a->acc;
        kin_product_run(&c, &q, kin_cuda_in_bf16(ctx));
        if (!direct)
            KIN_LAUNCH(&c, gather_kernel, kin_blocks(count), KIN_THREADS, piece, to, acc);
    });
    return kin_cuda_end(&c);
}

extern "C" kin_status kin_cuda_conv_dw(kin_ctx *ctx, const kin_conv_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "convolution dw");
    const bool own = a->w->grad.data && !kin_cudnn_conv_dw(&c, a);
    const kin_tensor dy = kin_cuda_in(&c, a->dy), db = kin_cuda_grad(&c, a->b);
    if (own) {
        const conv_call p = conv_open(&c, a, false);
        const kin_tensor grad = kin_cuda_grad(&c, a->w), x = kin_cuda_in(&c, a->x);
        const int64_t sizes[2] = {a->s.out, p.width};
        each_piece(&c, p, [&](const conv_call &piece) {
            kin_product q = {};
            q.m = a->s.out;
            q.n = piece.width;
            q.k = piece.rows;
            q.a = kin_turned(kin_rows_of(piece_of(dy, piece.first, piece.rows)));
            q.b = kin_turned(lay_out(&c, piece, x));
            q.y = kin_tensor_of(grad.data, KIN_DTYPE_F32, 2, sizes);
            q.acc = true;
            kin_product_run(&c, &q, kin_cuda_in_bf16(ctx));
        });
    }
    if (db.data) {
        float *one = (float *)db.data;
        float *const *dst = (float *const *)kin_cuda_bytes(&c, &one, sizeof one);
        kin_column_sums(&c, dy, rows_of_y(&a->s), NULL, 1, dst);
    }
    return kin_cuda_end(&c);
}
