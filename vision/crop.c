#include "vision/crop.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "vision/resize.h"

enum {
    BITS = 32 - 8 - 2,      /* of a tap's fraction: a sum of bytes times taps fits 32 bits */
    MAX_PIXELS = 256 << 20, /* a strip is enlarged before it is cropped */
};

typedef struct taps {
    int64_t width;   /* most sources of one target */
    int64_t *range;  /* [n,2]: first source, number of sources */
    int32_t *weight; /* [n,width] */
    double *exact;   /* [width] scratch */
} taps;

static void taps_free(taps *t)
{
    kin_free(t->range);
    kin_free(t->weight);
    kin_free(t->exact);
}

static double box(double x)
{
    return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
}

static double bicubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0)
        return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static void fill_target(taps *t, int64_t i, int64_t from, double scale, double support,
                        kin_pillow_filter filter)
{
    const double center = ((double)i + 0.5) * scale, inverse = 1.0 / (scale < 1 ? 1 : scale);
    int64_t lo = (int64_t)(center - support + 0.5), hi = (int64_t)(center + support + 0.5);
    double sum = 0;
    lo = lo < 0 ? 0 : lo;
    hi = hi > from ? from : hi;
    for (int64_t k = 0; k < hi - lo; k++) {
        const double x = ((double)(k + lo) - center + 0.5) * inverse;
        t->exact[k] = filter == KIN_PILLOW_BOX ? box(x) : bicubic(x);
        sum += t->exact[k];
    }
    for (int64_t k = 0; k < hi - lo; k++) {
        const double w = (sum != 0 ? t->exact[k] / sum : t->exact[k]) * (1 << BITS);
        t->weight[i * t->width + k] = (int32_t)(w < 0 ? w - 0.5 : w + 0.5);
    }
    t->range[2 * i] = lo;
    t->range[2 * i + 1] = hi - lo;
}

static kin_status taps_make(taps *t, int64_t from, int64_t to, kin_pillow_filter filter,
                            kin_error *err)
{
    const double scale = (double)from / (double)to;
    const double support = (filter == KIN_PILLOW_BOX ? 0.5 : 2.0) * (scale < 1 ? 1 : scale);
    t->width = (int64_t)ceil(support) * 2 + 1;
    t->range = kin_calloc((size_t)to, 2 * sizeof *t->range);
    t->weight = kin_calloc((size_t)to, (size_t)t->width * sizeof *t->weight);
    t->exact = kin_calloc((size_t)t->width, sizeof *t->exact);
    if (!t->range || !t->weight || !t->exact)
        return kin_fail(err, KIN_ERR_MEM, "resize: no memory for %lld weights", (long long)to);
    for (int64_t i = 0; i < to; i++)
        fill_target(t, i, from, scale, support, filter);
    return KIN_OK;
}

/* One target pixel from sources `step` bytes apart. */
static void pixel(const uint8_t *src, int64_t step, const taps *t, int64_t i, uint8_t *dst)
{
    const int32_t *w = t->weight + i * t->width;
    const int64_t first = t->range[2 * i], count = t->range[2 * i + 1];
    for (int c = 0; c < 3; c++) {
        int32_t sum = 1 << (BITS - 1);
        for (int64_t k = 0; k < count; k++)
            sum += src[(first + k) * step + c] * w[k];
        sum >>= BITS;
        dst[c] = (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
    }
}

static bool is_picture(const kin_tensor *t)
{
    return t->ndim == 3 && t->dtype == KIN_DTYPE_U8 && t->size[2] == 3 &&
           kin_tensor_is_contiguous(t) && kin_tensor_numel(t) > 0;
}

static kin_status check_pair(const kin_tensor *src, const kin_tensor *dst, kin_error *err)
{
    char a[128], b[128];
    if (is_picture(src) && is_picture(dst))
        return KIN_OK;
    return kin_fail(err, KIN_ERR_SHAPE, "resize: %s to %s, must be [H,W,3] u8",
                    kin_tensor_describe(src, a, sizeof a), kin_tensor_describe(dst, b, sizeof b));
}

kin_status kin_pillow_resize(const kin_tensor *src, kin_tensor *dst, kin_pillow_filter filter,
                             kin_error *err)
{
    KIN_TRY(check_pair(src, dst, err));
    const int64_t H = src->size[0], W = src->size[1], h = dst->size[0], w = dst->size[1];
    const uint8_t *from = src->data;
    uint8_t *to = dst->data, *wide = NULL;
    taps x = {0}, y = {0};
    kin_status status = KIN_OK;
    /* note: a direction that keeps its size is not filtered at all */
    if (w != W) {
        wide = h == H ? to : kin_malloc((size_t)(H * w) * 3);
        if (!wide)
            KIN_GOTO(kin_fail(err, KIN_ERR_MEM, "resize: no memory for %lld x %lld pixels",
                              (long long)w, (long long)H));
        KIN_GOTO(taps_make(&x, W, w, filter, err));
        for (int64_t j = 0; j < H; j++)
            for (int64_t i = 0; i < w; i++)
                pixel(from + j * W * 3, 3, &x, i, wide + (j * w + i) * 3);
        from = wide;
    }
    if (h != H) {
        KIN_GOTO(taps_make(&y, H, h, filter, err));
        for (int64_t j = 0; j < h; j++)
            for (int64_t i = 0; i < w; i++)
                pixel(from + i * 3, w * 3, &y, j, to + (j * w + i) * 3);
    } else if (from != to) {
        memcpy(to, from, (size_t)(h * w) * 3);
    }
done:
    taps_free(&x);
    taps_free(&y);
    if (wide != to)
        kin_free(wide);
    return status;
}

/* Resizes *at into a new picture of its own, which takes its place; `own` holds the memory. */
static kin_status replace(kin_tensor *at, uint8_t **own, int64_t h, int64_t w,
                          kin_pillow_filter filter, kin_error *err)
{
    uint8_t *data = kin_malloc((size_t)(h * w) * 3);
    if (!data)
        return kin_fail(err, KIN_ERR_MEM, "crop: no memory for %lld x %lld pixels", (long long)w,
                        (long long)h);
    kin_tensor next = KIN_TENSOR(data, KIN_DTYPE_U8, h, w, 3);
    kin_status status = kin_pillow_resize(at, &next, filter, err);
    kin_free(*own);
    *own = data;
    *at = next;
    return status;
}

kin_status kin_adm_crop(const kin_tensor *src, kin_tensor *dst, kin_error *err)
{
    KIN_TRY(check_pair(src, dst, err));
    const int64_t side = dst->size[0];
    kin_tensor at = *src;
    uint8_t *own = NULL;
    kin_status status = KIN_OK;
    if (dst->size[1] != side)
        return kin_fail(err, KIN_ERR_SHAPE, "crop: %lld x %lld must be a square",
                        (long long)dst->size[1], (long long)side);
    while ((at.size[0] < at.size[1] ? at.size[0] : at.size[1]) >= 2 * side)
        KIN_GOTO(replace(&at, &own, at.size[0] / 2, at.size[1] / 2, KIN_PILLOW_BOX, err));
    const double shorter = (double)(at.size[0] < at.size[1] ? at.size[0] : at.size[1]);
    const double scale = (double)side / shorter;
    /* note: rint rounds halves to even, as Python's round */
    const int64_t h = (int64_t)rint((double)at.size[0] * scale),
                  w = (int64_t)rint((double)at.size[1] * scale);
    if (h * w > MAX_PIXELS)
        KIN_GOTO(kin_fail(
            err, KIN_ERR_SHAPE, "crop: %lld x %lld is too narrow to be enlarged to %lld x %lld",
            (long long)src->size[1], (long long)src->size[0], (long long)side, (long long)side));
    if (h != at.size[0] || w != at.size[1])
        KIN_GOTO(replace(&at, &own, h, w, KIN_PILLOW_BICUBIC, err));
    status = kin_center_crop(&at, dst, err);
done:
    kin_free(own);
    return status;
}
