/* note: both kinds are separable: a list of weighted source positions per target position, applied
 * along rows, then columns. */
#include "vision/resize.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"

/* The sources of one target position: count[i] weights from source first[i] on. */
typedef struct taps {
    int64_t n, width; /* targets, most sources of one target */
    int64_t *first, *count;
    float *weight; /* [n,width] */
} taps;

static void taps_free(taps *t)
{
    kin_free(t->first);
    kin_free(t->count);
    kin_free(t->weight);
}

/* Cubic convolution kernel with a = -0.75. */
static double cubic(double x)
{
    const double a = -0.75;
    x = fabs(x);
    if (x <= 1)
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2)
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
    return 0;
}

/* Sources beyond an edge fall on the edge: their weights are added there. */
static void fill_cubic(taps *t, int64_t i, int64_t from, double scale)
{
    double at = ((double)i + 0.5) * scale - 0.5;
    int64_t base = (int64_t)floor(at);
    double frac = at - (double)base;
    int64_t lo = base - 1 < 0 ? 0 : base - 1, hi = base + 2 >= from ? from - 1 : base + 2;
    t->first[i] = lo;
    t->count[i] = hi - lo + 1;
    for (int64_t k = -1; k <= 2; k++) {
        int64_t s = base + k < 0 ? 0 : base + k >= from ? from - 1 : base + k;
        t->weight[i * t->width + s - lo] += (float)cubic((double)k - frac);
    }
}

static void fill_area(taps *t, int64_t i, int64_t from, double scale)
{
    double lo = (double)i * scale, hi = (double)(i + 1) * scale;
    int64_t a = (int64_t)floor(lo), b = (int64_t)ceil(hi);
    b = b > from ? from : b;
    a = a >= b ? b - 1 : a;
    t->first[i] = a;
    t->count[i] = b - a;
    for (int64_t s = a; s < b; s++) {
        double part = fmin(hi, (double)(s + 1)) - fmax(lo, (double)s);
        t->weight[i * t->width + s - a] = (float)(fmax(part, 0) / (hi - lo));
    }
}

static kin_status taps_make(taps *t, int64_t from, int64_t to, kin_resize_kind kind, kin_error *err)
{
    double scale = (double)from / (double)to;
    *t = (taps){.n = to, .width = kind == KIN_RESIZE_BICUBIC ? 4 : (int64_t)ceil(scale) + 2};
    t->first = kin_calloc((size_t)to, sizeof *t->first);
    t->count = kin_calloc((size_t)to, sizeof *t->count);
    t->weight = kin_calloc((size_t)to, (size_t)t->width * sizeof *t->weight);
    if (!t->first || !t->count || !t->weight)
        return kin_fail(err, KIN_ERR_MEM, "resize: no memory for %lld weights", (long long)to);
    for (int64_t i = 0; i < to; i++)
        if (kind == KIN_RESIZE_BICUBIC)
            fill_cubic(t, i, from, scale);
        else
            fill_area(t, i, from, scale);
    return KIN_OK;
}

/* Rows of `pitch` bytes: wide f32 [height, x->n, 3] = the rows resized. */
static void resize_rows(const uint8_t *src, int64_t height, int64_t pitch, const taps *x,
                        float *wide)
{
    for (int64_t h = 0; h < height; h++)
        for (int64_t i = 0; i < x->n; i++) {
            const uint8_t *p = src + h * pitch + x->first[i] * 3;
            float sum[3] = {0};
            for (int64_t k = 0; k < x->count[i]; k++)
                for (int c = 0; c < 3; c++)
                    sum[c] += x->weight[i * x->width + k] * (float)p[3 * k + c];
            memcpy(wide + (h * x->n + i) * 3, sum, sizeof sum);
        }
}

/* Value i of row j of the target; n values in a row of wide. */
static float resized(const taps *y, const float *wide, int64_t n, int64_t j, int64_t i)
{
    float sum = 0;
    for (int64_t k = 0; k < y->count[j]; k++)
        sum += y->weight[j * y->width + k] * wide[(y->first[j] + k) * n + i];
    return sum;
}

/* dst [y->n, x->n, 3]. */
static void resize_frame(const uint8_t *src, int64_t height, int64_t pitch, const taps *x,
                         const taps *y, float *wide, uint8_t *dst)
{
    resize_rows(src, height, pitch, x, wide);
    for (int64_t j = 0; j < y->n; j++)
        for (int64_t i = 0; i < x->n * 3; i++) {
            const float v = floorf(resized(y, wide, x->n * 3, j, i) + 0.5f);
            dst[j * x->n * 3 + i] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
        }
}

/* A clip as [F,H,W,3]; one picture is a clip of one frame. */
typedef struct clip {
    uint8_t *data;
    int64_t frames, height, width;
} clip;

static kin_status as_clips(const kin_tensor *src, const kin_tensor *dst, clip *from, clip *to,
                           kin_error *err)
{
    const kin_tensor *t[2] = {src, dst};
    clip *c[2] = {from, to};
    bool ok = src->ndim == dst->ndim;
    for (int i = 0; i < 2; i++) {
        int n = t[i]->ndim;
        ok = ok && (n == 3 || n == 4) && t[i]->dtype == KIN_DTYPE_U8 && t[i]->size[n - 1] == 3 &&
             kin_tensor_is_contiguous(t[i]) && kin_tensor_numel(t[i]) > 0;
        if (ok)
            *c[i] = (clip){t[i]->data, n == 4 ? t[i]->size[0] : 1, t[i]->size[n - 3],
                           t[i]->size[n - 2]};
    }
    if (ok && from->frames == to->frames)
        return KIN_OK;
    char a[128], b[128];
    return kin_fail(err, KIN_ERR_SHAPE, "resize: %s to %s, must be [H,W,3] or [F,H,W,3] u8",
                    kin_tensor_describe(src, a, sizeof a), kin_tensor_describe(dst, b, sizeof b));
}

/* Resizes the part (top, left, height, width) of each frame. */
static kin_status resize_part(const clip *from, const clip *to, int64_t top, int64_t left,
                              int64_t height, int64_t width, kin_resize_kind kind, kin_error *err)
{
    kin_status status;
    taps x = {0}, y = {0};
    float *wide = kin_malloc((size_t)(height * to->width) * 3 * sizeof *wide);
    if (!wide) {
        status = kin_fail(err, KIN_ERR_MEM, "resize: no memory for %lld x %lld pixels",
                          (long long)to->width, (long long)height);
        goto done;
    }
    KIN_GOTO(taps_make(&x, width, to->width, kind, err));
    KIN_GOTO(taps_make(&y, height, to->height, kind, err));
    for (int64_t f = 0; f < from->frames; f++)
        resize_frame(from->data + ((f * from->height + top) * from->width + left) * 3, height,
                     from->width * 3, &x, &y, wide, to->data + f * to->height * to->width * 3);
done:
    taps_free(&x);
    taps_free(&y);
    kin_free(wide);
    return status;
}

kin_status kin_resize(const kin_tensor *src, kin_tensor *dst, kin_resize_kind kind, kin_error *err)
{
    clip from, to;
    KIN_TRY(as_clips(src, dst, &from, &to, err));
    return resize_part(&from, &to, 0, 0, from.height, from.width, kind, err);
}

/* Frame f of dst [3,F,h,w]. */
static void put_float(const taps *x, const taps *y, const float *wide, int64_t f, kin_tensor *dst)
{
    const int64_t plane = y->n * x->n, channel = dst->size[1] * plane;
    float *to = (float *)dst->data + f * plane;
    for (int64_t j = 0; j < y->n; j++)
        for (int64_t i = 0; i < x->n; i++)
            for (int c = 0; c < 3; c++)
                to[c * channel + j * x->n + i] =
                    resized(y, wide, x->n * 3, j, 3 * i + c) / 127.5f - 1.0f;
}

kin_status kin_resize_float(const kin_tensor *src, kin_tensor *dst, kin_error *err)
{
    kin_status status = KIN_OK;
    taps x = {0}, y = {0};
    float *wide = NULL;
    if (src->ndim != 4 || src->dtype != KIN_DTYPE_U8 || src->size[3] != 3 || dst->ndim != 4 ||
        dst->dtype != KIN_DTYPE_F32 || dst->size[0] != 3 || dst->size[1] != src->size[0] ||
        !kin_tensor_is_contiguous(src) || !kin_tensor_is_contiguous(dst) ||
        kin_tensor_numel(src) == 0 || kin_tensor_numel(dst) == 0)
        return kin_fail(err, KIN_ERR_SHAPE, "resize: must be u8 [F,H,W,3] to f32 [3,F,h,w]");
    const int64_t height = src->size[1], width = src->size[2];
    wide = kin_malloc((size_t)(height * dst->size[3]) * 3 * sizeof *wide);
    if (!wide) {
        status = kin_fail(err, KIN_ERR_MEM, "resize: no memory for %lld x %lld pixels",
                          (long long)dst->size[3], (long long)height);
        goto done;
    }
    KIN_GOTO(taps_make(&x, width, dst->size[3], KIN_RESIZE_BICUBIC, err));
    KIN_GOTO(taps_make(&y, height, dst->size[2], KIN_RESIZE_BICUBIC, err));
    for (int64_t f = 0; f < src->size[0]; f++) {
        resize_rows((const uint8_t *)src->data + f * height * width * 3, height, width * 3, &x,
                    wide);
        put_float(&x, &y, wide, f, dst);
    }
done:
    taps_free(&x);
    taps_free(&y);
    kin_free(wide);
    return status;
}

kin_status kin_center_crop(const kin_tensor *src, kin_tensor *dst, kin_error *err)
{
    clip from, to;
    KIN_TRY(as_clips(src, dst, &from, &to, err));
    if (to.height > from.height || to.width > from.width)
        return kin_fail(err, KIN_ERR_SHAPE, "crop: %lld x %lld must not be larger than %lld x %lld",
                        (long long)to.width, (long long)to.height, (long long)from.width,
                        (long long)from.height);
    int64_t top = (from.height - to.height) / 2, left = (from.width - to.width) / 2;
    for (int64_t f = 0; f < to.frames; f++)
        for (int64_t h = 0; h < to.height; h++)
            memcpy(to.data + (f * to.height + h) * to.width * 3,
                   from.data + ((f * from.height + top + h) * from.width + left) * 3,
                   (size_t)to.width * 3);
    return KIN_OK;
}

kin_status kin_resize_cover(const kin_tensor *src, kin_tensor *dst, kin_resize_kind kind,
                            kin_error *err)
{
    clip from, to;
    KIN_TRY(as_clips(src, dst, &from, &to, err));
    /* the part has the target's ratio, rounded to whole pixels */
    int64_t height = from.height, width = from.width;
    if (from.width * to.height > from.height * to.width)
        width = (from.height * to.width + to.height / 2) / to.height;
    else
        height = (from.width * to.height + to.width / 2) / to.width;
    width = width < 1 ? 1 : width > from.width ? from.width : width;
    height = height < 1 ? 1 : height > from.height ? from.height : height;
    return resize_part(&from, &to, (from.height - height) / 2, (from.width - width) / 2, height,
                       width, kind, err);
}
