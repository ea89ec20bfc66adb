#include "io/av.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include <libavutil/error.h>
#include <libavutil/imgutils.h>
#include <libavutil/log.h>
#include <libavutil/mem.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>

#include "base/alloc.h"

enum { MAX_ALLOC = 256 * 1024 * 1024 };

static void silent(void *object, int level, const char *format, va_list args)
{
    (void)object;
    (void)level;
    (void)format;
    (void)args;
}

static void init(void)
{
    av_log_set_level(AV_LOG_QUIET);
    av_log_set_callback(silent);
    av_max_alloc(MAX_ALLOC);
}

void kin_av_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init);
}

kin_status kin_av_fail(kin_error *err, kin_status otherwise, const char *what, const char *where,
                       int code)
{
    char text[AV_ERROR_MAX_STRING_SIZE] = "";
    av_strerror(code, text, sizeof text);
    return kin_fail(err, code == AVERROR(ENOMEM) ? KIN_ERR_MEM : otherwise, "%s: %s: %s", what,
                    where, text);
}

/* The yuvjXXX formats are yuvXXX with full range. */
static enum AVPixelFormat plain_format(enum AVPixelFormat f, int *full_range)
{
    static const enum AVPixelFormat j[][2] = {
        {AV_PIX_FMT_YUVJ420P, AV_PIX_FMT_YUV420P}, {AV_PIX_FMT_YUVJ422P, AV_PIX_FMT_YUV422P},
        {AV_PIX_FMT_YUVJ444P, AV_PIX_FMT_YUV444P}, {AV_PIX_FMT_YUVJ440P, AV_PIX_FMT_YUV440P},
        {AV_PIX_FMT_YUVJ411P, AV_PIX_FMT_YUV411P},
    };
    for (size_t i = 0; i < sizeof j / sizeof *j; i++)
        if (f == j[i][0]) {
            *full_range = 1;
            return j[i][1];
        }
    return f;
}

static int sws_colourspace(enum AVColorSpace c)
{
    switch (c) {
    case AVCOL_SPC_BT709: return SWS_CS_ITU709;
    case AVCOL_SPC_FCC: return SWS_CS_FCC;
    case AVCOL_SPC_SMPTE240M: return SWS_CS_SMPTE240M;
    case AVCOL_SPC_BT2020_NCL:
    case AVCOL_SPC_BT2020_CL: return SWS_CS_BT2020;
    default: return SWS_CS_ITU601;
    }
}

void kin_av_scaler_free(kin_av_scaler *scaler)
{
    sws_freeContext(scaler->sws);
    *scaler = (kin_av_scaler){0};
}

/* Makes scaler->sws for the parameters already in *scaler. */
static bool scaler_open(kin_av_scaler *s)
{
    /* note: not SWS_BILINEAR, which shifts the colour planes by a fraction of a pixel */
    int flags =
        SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP | SWS_BITEXACT;
    s->sws = sws_alloc_context();
    if (!s->sws || !sws_isSupportedInput(s->format))
        return false;
    av_opt_set_int(s->sws, "srcw", s->width, 0);
    av_opt_set_int(s->sws, "srch", s->height, 0);
    av_opt_set_int(s->sws, "src_format", s->format, 0);
    av_opt_set_int(s->sws, "dstw", s->width, 0);
    av_opt_set_int(s->sws, "dsth", s->height, 0);
    av_opt_set_int(s->sws, "dst_format", AV_PIX_FMT_RGB24, 0);
    av_opt_set_int(s->sws, "sws_flags", flags, 0);
    const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(s->format);
    if (s->left && d && d->log2_chroma_w == 1)
        av_opt_set_int(s->sws, "src_h_chr_pos", 0, 0);
    sws_setColorspaceDetails(s->sws, sws_getCoefficients(s->space), s->range,
                             sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16, 1 << 16);
    return sws_init_context(s->sws, NULL, NULL) >= 0;
}

/* Opens the conversion of `frame` unless *scaler holds it already. */
static kin_status scaler_prepare(kin_av_scaler *scaler, const AVFrame *frame, const char *where,
                                 kin_error *err)
{
    kin_av_scaler want = {.width = frame->width,
                          .height = frame->height,
                          .range = frame->color_range == AVCOL_RANGE_JPEG,
                          .space = sws_colourspace(frame->colorspace),
                          .left = frame->chroma_location == AVCHROMA_LOC_UNSPECIFIED ||
                                  frame->chroma_location == AVCHROMA_LOC_LEFT};
    want.format = plain_format(frame->format, &want.range);
    if (scaler->sws && scaler->width == want.width && scaler->height == want.height &&
        scaler->format == want.format && scaler->range == want.range &&
        scaler->space == want.space && scaler->left == want.left)
        return KIN_OK;
    const char *name = av_get_pix_fmt_name(frame->format);
    kin_av_scaler_free(scaler);
    *scaler = want;
    if (scaler_open(scaler))
        return KIN_OK;
    kin_av_scaler_free(scaler);
    return kin_fail(err, KIN_ERR_FORMAT, "%s: cannot convert %dx%d pixels of format %s", where,
                    frame->width, frame->height, name ? name : "unknown");
}

static kin_status to_rgb(kin_av_scaler *scaler, const AVFrame *frame, uint8_t *rgb, int stride,
                         const char *where, kin_error *err)
{
    KIN_TRY(scaler_prepare(scaler, frame, where, err));
    uint8_t *planes[4] = {rgb};
    int strides[4] = {stride};
    int rows = sws_scale(scaler->sws, (const uint8_t *const *)frame->data, frame->linesize, 0,
                         frame->height, planes, strides);
    if (rows != frame->height)
        return kin_fail(err, KIN_ERR_BACKEND, "%s: colour conversion gave %d rows of %d", where,
                        rows, frame->height);
    return KIN_OK;
}

/* Copies plane p of `from` into the larger `to`, repeating the last column and row where it is
 * smaller. */
static void copy_plane(AVFrame *to, const AVFrame *from, const AVPixFmtDescriptor *d, int p)
{
    bool chroma = p == 1 || p == 2;
    int rows = chroma ? AV_CEIL_RSHIFT(from->height, d->log2_chroma_h) : from->height;
    int all_rows = chroma ? AV_CEIL_RSHIFT(to->height, d->log2_chroma_h) : to->height;
    int step = chroma ? d->comp[1].step : d->comp[0].step;
    int bytes = av_image_get_linesize(from->format, from->width, p);
    int all_bytes = av_image_get_linesize(to->format, to->width, p);
    for (int y = 0; y < all_rows; y++) {
        const uint8_t *src =
            from->data[p] + (ptrdiff_t)(y < rows ? y : rows - 1) * from->linesize[p];
        uint8_t *dst = to->data[p] + (ptrdiff_t)y * to->linesize[p];
        memcpy(dst, src, (size_t)bytes);
        for (int x = bytes; x + step <= all_bytes; x += step)
            memcpy(dst + x, dst + x - step, (size_t)step);
    }
}

/* note: swscale stretches the colour planes over the picture. When a size is no multiple of the
 * subsampling the last colour sample reaches over the edge and all would be shifted, so such a
 * picture is first made larger, and its RGB cut. */
static kin_status to_rgb_odd(kin_av_scaler *scaler, const AVFrame *frame,
                             const AVPixFmtDescriptor *d, uint8_t *rgb, const char *where,
                             kin_error *err)
{
    kin_status status;
    int mask_w = (1 << d->log2_chroma_w) - 1, mask_h = (1 << d->log2_chroma_h) - 1;
    uint8_t *large = NULL;
    AVFrame *even = av_frame_alloc();
    if (even) {
        av_frame_copy_props(even, frame);
        even->format = frame->format;
        even->width = (frame->width + mask_w) & ~mask_w;
        even->height = (frame->height + mask_h) & ~mask_h;
        large = kin_malloc((size_t)even->width * (size_t)even->height * 3);
    }
    if (!large || av_frame_get_buffer(even, 0) < 0) {
        status = kin_fail(err, KIN_ERR_MEM, "%s: no memory for the colour conversion", where);
        goto done;
    }
    for (int p = 0; p < av_pix_fmt_count_planes(frame->format); p++)
        copy_plane(even, frame, d, p);
    KIN_GOTO(to_rgb(scaler, even, large, even->width * 3, where, err));
    for (int y = 0; y < frame->height; y++)
        memcpy(rgb + (size_t)y * (size_t)frame->width * 3,
               large + (size_t)y * (size_t)even->width * 3, (size_t)frame->width * 3);
done:
    kin_free(large);
    av_frame_free(&even);
    return status;
}

kin_status kin_av_to_rgb(kin_av_scaler *scaler, const AVFrame *frame, uint8_t *rgb,
                         const char *where, kin_error *err)
{
    const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(frame->format);
    bool planar = d && (d->flags & AV_PIX_FMT_FLAG_PLANAR) && !(d->flags & AV_PIX_FMT_FLAG_HWACCEL);
    if (planar && (frame->width & ((1 << d->log2_chroma_w) - 1) ||
                   frame->height & ((1 << d->log2_chroma_h) - 1)))
        return to_rgb_odd(scaler, frame, d, rgb, where, err);
    return to_rgb(scaler, frame, rgb, frame->width * 3, where, err);
}
