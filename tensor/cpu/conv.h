/* tensor/cpu/conv.h: inside the convolutions of the CPU backend. Two ways of doing one: direct
 * (conv_direct.c: the products of every tap on packed rows, any kernel, any mode), and Winograd's
 * F(2x2,3x3) (conv_wino.c: f32, 3x3, stride 1: 16 products per four pixels in place of 36). Which
 * is taken depends on kernel, channels and type alone, and a pixel's chain of sums on its own taps,
 * so its bits depend neither on its neighbours nor on threads. The gradient of x is a convolution
 * of dy with the turned weight. */
#ifndef KIN_CPU_CONV_H
#define KIN_CPU_CONV_H

#include "tensor/cpu/cpu.h"

typedef struct kin_conv_job {
    kin_conv_shape s; /* of what is run: for dx, of the convolution of dy */
    int gap;       /* 2: X has zeros between the rows and columns of x (dx of stride 2); else 1 */
    bool turned;   /* w is [in,out,taps], taps reversed */
    const void *x; /* floats, or bf16 where half is set */
    bool half;
    kin_param *w;
    const float *bias, *residual; /* or NULL */
    float *y;
    bool acc; /* y += */
    kin_product mode;
} kin_conv_job;

/* A pixel of X: coordinate i of X over `size` of x -> of x, -1 where X is zero. */
static inline int64_t kin_conv_place(const kin_conv_job *j, int64_t i, int64_t size)
{
    const int64_t step = (int64_t)j->s.up * j->gap;
    if (i < 0 || i >= size * step || (j->gap > 1 && i % j->gap))
        return -1;
    return i / step;
}
static inline int64_t kin_conv_taps(const kin_conv_job *j)
{
    return (int64_t)j->s.kt * j->s.kh * j->s.kw;
}
static inline int64_t kin_conv_out_rows(const kin_conv_job *j)
{
    return j->s.batch * j->s.out_frames * j->s.out_height * j->s.out_width;
}

bool kin_conv_takes_wino(const kin_conv_job *j);
kin_status kin_conv_direct(kin_ctx *ctx, const kin_conv_job *j);
kin_status kin_conv_wino(kin_ctx *ctx, const kin_conv_job *j);
static inline kin_status kin_conv_run(kin_ctx *ctx, const kin_conv_job *j)
{
    return kin_conv_takes_wino(j) ? kin_conv_wino(ctx, j) : kin_conv_direct(ctx, j);
}

/* Output is cut into rectangles of `high` x `wide` units, counted over samples and frames. */
typedef struct kin_conv_cut {
    int64_t rows, cols;  /* units of one picture */
    int64_t high, wide;  /* of a rectangle */
    int64_t down, along; /* rectangles of a picture */
    int64_t count;       /* of all pictures */
} kin_conv_cut;
/* About `most` units each, fewer where the threads would not all have work. */
kin_conv_cut kin_conv_cut_of(const kin_ctx *ctx, const kin_conv_job *j, int64_t rows, int64_t cols,
                             int64_t most, int64_t least);
typedef struct kin_conv_part {
    int64_t picture;        /* sample * out_frames + frame */
    int64_t row, col, h, w; /* the rectangle */
} kin_conv_part;
kin_conv_part kin_conv_part_of(const kin_conv_cut *c, int64_t i);

/* n pixels of X, from column `col` of row `row` (counted from x's first pixel, beyond it zeros) of
 * frame f of sample b on, to dst in j's type, or in bf16 where `half` is set. */
void kin_conv_pixels(const kin_simd *s, const kin_conv_job *j, bool half, int64_t b, int64_t f,
                     int64_t row, int64_t col, int64_t n, char *dst);

/* Columns [c0, c0+cn) of the weight as planes [taps][cn][in] in f32; run holds one piece of the
 * weight: max(in, cn) * taps floats. */
void kin_conv_planes(const kin_simd *s, const kin_conv_job *j, int64_t c0, int64_t cn, float *run,
                     float *planes);

#endif
