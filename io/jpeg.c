#include "io/jpeg.h"

#include <string.h>

#include <libavcodec/avcodec.h>

#include "base/alloc.h"
#include "io/av.h"
#include "io/blob.h"

/* decoder and RGB copy of 34 Mpixel need about 200 MB */
enum { MAX_PIXELS = 34 * 1000 * 1000 };

typedef struct markers {
    int64_t width, height;
    bool frame, scan, end;
} markers;

/* Walks the marker segments: size, and whether a scan and the end marker are there. */
static bool walk(const uint8_t *p, size_t n, markers *m)
{
    size_t at = 2;
    *m = (markers){0};
    while (at + 1 < n) {
        if (p[at] != 0xFF)
            return false;
        uint8_t code = p[at + 1];
        if (code == 0xFF) { /* fill byte */
            at++;
            continue;
        }
        at += 2;
        if (code == 0xD9) {
            m->end = true;
            return true;
        }
        if (code == 0x01 || (code >= 0xD0 && code <= 0xD8))
            continue;
        if (n - at < 2)
            return false;
        size_t length = (size_t)p[at] << 8 | p[at + 1];
        if (length < 2 || length > n - at)
            return false;
        if (code >= 0xC0 && code <= 0xCF && code != 0xC4 && code != 0xC8 && code != 0xCC) {
            if (length < 8 || m->frame)
                return false;
            m->frame = true;
            m->height = p[at + 3] << 8 | p[at + 4];
            m->width = p[at + 5] << 8 | p[at + 6];
        }
        at += length;
        if (code == 0xDA) {
            m->scan = true;
            /* entropy-coded data: up to a marker that is neither stuffing nor restart */
            while (at + 1 < n &&
                   !(p[at] == 0xFF && p[at + 1] != 0 && !(p[at + 1] >= 0xD0 && p[at + 1] <= 0xD7)))
                at++;
        }
    }
    return true;
}

static kin_status check(const uint8_t *data, size_t bytes, const char *where, kin_error *err)
{
    markers m;
    if (bytes < 4 || data[0] != 0xFF || data[1] != 0xD8)
        return kin_fail(err, KIN_ERR_FORMAT, "jpeg: %s: must begin with the start marker", where);
    if (!walk(data, bytes, &m))
        return kin_fail(err, KIN_ERR_FORMAT, "jpeg: %s: damaged marker segments", where);
    if (!m.frame || !m.scan || !m.end)
        return kin_fail(err, KIN_ERR_FORMAT, "jpeg: %s: has no %s", where,
                        !m.frame  ? "frame header"
                        : !m.scan ? "scan"
                                  : "end marker");
    /* note: every block of 8x8 costs at least one bit, so a small file cannot hold a large picture
     */
    if (m.width < 1 || m.height < 1 || m.width > KIN_IMAGE_MAX_SIDE ||
        m.height > KIN_IMAGE_MAX_SIDE || m.width * m.height > MAX_PIXELS ||
        (size_t)(m.width / 8 * (m.height / 8)) > bytes * 8)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "jpeg: %s: size %lld x %lld must be 1 to %d and fit its %zu bytes", where,
                        (long long)m.width, (long long)m.height, KIN_IMAGE_MAX_SIDE, bytes);
    return KIN_OK;
}

/* One packet in, one frame out. */
static int decode_frame(AVCodecContext *c, AVPacket *packet, AVFrame *frame)
{
    int rc = avcodec_send_packet(c, packet);
    if (rc >= 0)
        rc = avcodec_send_packet(c, NULL);
    if (rc >= 0)
        rc = avcodec_receive_frame(c, frame);
    return rc;
}

static kin_status convert(const AVFrame *frame, const char *where, kin_image *out, kin_error *err)
{
    kin_av_scaler scaler = {0};
    out->width = frame->width;
    out->height = frame->height;
    out->rgb = kin_malloc((size_t)frame->width * (size_t)frame->height * 3);
    if (!out->rgb)
        return kin_fail(err, KIN_ERR_MEM, "jpeg: %s: no memory for %d x %d pixels", where,
                        frame->width, frame->height);
    kin_status status = kin_av_to_rgb(&scaler, frame, out->rgb, where, err);
    kin_av_scaler_free(&scaler);
    if (status != KIN_OK)
        kin_image_free(out);
    return status;
}

kin_status kin_jpeg_decode(const void *data, size_t bytes, const char *where, kin_image *out,
                           kin_error *err)
{
    kin_status status;
    *out = (kin_image){0};
    KIN_TRY(check(data, bytes, where, err));
    kin_av_init();
    const AVCodec *codec = avcodec_find_decoder(AV_CODEC_ID_MJPEG);
    AVCodecContext *c = codec ? avcodec_alloc_context3(codec) : NULL;
    AVPacket *packet = av_packet_alloc();
    AVFrame *frame = av_frame_alloc();
    /* note: decoders read a little behind the end, so the packet is a padded copy */
    if (!c || !packet || !frame || bytes > INT32_MAX || av_new_packet(packet, (int)bytes) < 0) {
        status = kin_fail(err, KIN_ERR_MEM, "jpeg: %s: no memory for the decoder", where);
        goto done;
    }
    memcpy(packet->data, data, bytes);
    c->thread_count = 1;
    c->err_recognition = AV_EF_EXPLODE | AV_EF_BITSTREAM | AV_EF_BUFFER | AV_EF_CRCCHECK;
    int rc = avcodec_open2(c, codec, NULL);
    if (rc >= 0)
        rc = decode_frame(c, packet, frame);
    if (rc < 0 || frame->decode_error_flags || (frame->flags & AV_FRAME_FLAG_CORRUPT)) {
        status = kin_av_fail(err, KIN_ERR_FORMAT, "jpeg", where, rc < 0 ? rc : AVERROR_INVALIDDATA);
        goto done;
    }
    if (frame->format == AV_PIX_FMT_GRAY8)
        frame->color_range = AVCOL_RANGE_JPEG;
    status = convert(frame, where, out, err);
done:
    av_frame_free(&frame);
    av_packet_free(&packet);
    avcodec_free_context(&c);
    return status;
}

kin_status kin_jpeg_read(const char *path, kin_image *out, kin_error *err)
{
    kin_blob blob;
    *out = (kin_image){0};
    KIN_TRY(kin_blob_open(path, &blob, err));
    kin_status status = kin_jpeg_decode(blob.data, blob.bytes, path, out, err);
    kin_blob_close(&blob);
    return status;
}
