/* Reading of clips. Writing is in video_write.c. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/pixdesc.h>

#include "base/alloc.h"
#include "io/av.h"
#include "io/blob.h"
#include "io/video.h"

enum {
    IO_BUFFER = 1 << 16,
    MAX_PIXELS = 40 * 1000 * 1000,
    MAX_FRAMES = 100000,
    MAX_CLIP_BYTES = 200 * 1000 * 1000
};

/* containers and codecs that datasets use; everything else stays out of reach of a hostile file */
static const char demuxers[] = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi";
static const char decoders[] =
    "h264,hevc,mpeg4,vp8,vp9,libdav1d,av1,mjpeg,png,rawvideo,ffv1,prores";

struct kin_video_reader {
    const uint8_t *data;
    size_t bytes, at;
    char where[256];
    AVIOContext *io;
    AVFormatContext *format;
    AVCodecContext *codec;
    AVPacket *packet;
    AVFrame *frame;
    kin_av_scaler scaler;
    int stream;
    int64_t packets; /* of the video stream, so far */
    int64_t entries; /* of its index, 0 without one */
    bool flushing;
    uint8_t *coded;  /* RGB as stored */
    uint8_t *turned; /* RGB as displayed, when that differs */
    int64_t room;    /* pixels in each of them */
    kin_video_info info;
};

static int read_bytes(void *opaque, uint8_t *out, int n)
{
    kin_video_reader *r = opaque;
    size_t left = r->bytes - r->at;
    if (left == 0)
        return AVERROR_EOF;
    size_t m = (size_t)n < left ? (size_t)n : left;
    memcpy(out, r->data + r->at, m);
    r->at += m;
    return (int)m;
}

static int64_t seek_bytes(void *opaque, int64_t offset, int whence)
{
    kin_video_reader *r = opaque;
    int64_t base = 0, to;
    switch (whence & ~AVSEEK_FORCE) {
    case AVSEEK_SIZE: return (int64_t)r->bytes;
    case SEEK_SET: break;
    case SEEK_CUR: base = (int64_t)r->at; break;
    case SEEK_END: base = (int64_t)r->bytes; break;
    default: return AVERROR(EINVAL);
    }
    if (__builtin_add_overflow(base, offset, &to) || to < 0)
        return AVERROR(EINVAL);
    /* behind the end: reads give end of file */
    r->at = (uint64_t)to > r->bytes ? r->bytes : (size_t)to;
    return to;
}

static kin_status open_format(kin_video_reader *r, kin_error *err)
{
    unsigned char *buffer = av_malloc(IO_BUFFER);
    if (buffer)
        r->io = avio_alloc_context(buffer, IO_BUFFER, 0, r, read_bytes, NULL, seek_bytes);
    if (!r->io) {
        av_free(buffer);
        return kin_fail(err, KIN_ERR_MEM, "video: %s: no memory", r->where);
    }
    r->format = avformat_alloc_context();
    if (!r->format)
        return kin_fail(err, KIN_ERR_MEM, "video: %s: no memory", r->where);
    r->format->pb = r->io;
    r->format->flags |= AVFMT_FLAG_CUSTOM_IO;
    r->format->format_whitelist = av_strdup(demuxers);
    r->format->codec_whitelist = av_strdup(decoders);
    r->format->protocol_whitelist = av_strdup("none");
    r->format->max_streams = 64;
    int rc = avformat_open_input(&r->format, NULL, NULL, NULL);
    if (rc < 0)
        return kin_av_fail(err, KIN_ERR_FORMAT, "video", r->where, rc);
    for (unsigned i = 0; i < r->format->nb_streams; i++) {
        AVStream *s = r->format->streams[i];
        bool video = s->codecpar->codec_type == AVMEDIA_TYPE_VIDEO &&
                     !(s->disposition & AV_DISPOSITION_ATTACHED_PIC);
        if (video && r->stream < 0)
            r->stream = (int)i;
        else
            s->discard = AVDISCARD_ALL;
    }
    if (r->stream < 0)
        return kin_fail(err, KIN_ERR_FORMAT, "video: %s: has no video stream", r->where);
    return KIN_OK;
}

static bool is_mov(const kin_video_reader *r)
{
    return strncmp(r->format->iformat->name, "mov", 3) == 0;
}

static int read_rotation(const AVStream *s)
{
    const uint8_t *side = av_stream_get_side_data(s, AV_PKT_DATA_DISPLAYMATRIX, NULL);
    double degrees = side ? av_display_rotation_get((const int32_t *)side) : 0;
    return isfinite(degrees) ? (int)lround(degrees) : 0;
}

static void describe_stream(kin_video_reader *r)
{
    AVStream *s = r->format->streams[r->stream];
    AVRational rate = s->avg_frame_rate.num ? s->avg_frame_rate : s->r_frame_rate;
    r->info.rotation = read_rotation(s);
    /* note: samples that an edit list hides are in the index and come as packets, but give no frame
     */
    r->entries = is_mov(r) ? avformat_index_get_entries_count(s) : 0;
    for (int64_t i = 0; i < r->entries; i++)
        r->info.samples += !(avformat_index_get_entry(s, (int)i)->flags & AVINDEX_DISCARD_FRAME);
    if (rate.num > 0 && rate.den > 0)
        r->info.fps = av_q2d(rate);
    else if (s->duration > 0 && r->info.samples > 0)
        r->info.fps = (double)r->info.samples / ((double)s->duration * av_q2d(s->time_base));
}

static kin_status open_codec(kin_video_reader *r, kin_error *err)
{
    AVStream *s = r->format->streams[r->stream];
    if (s->codecpar->width > 0 && (int64_t)s->codecpar->width * s->codecpar->height > MAX_PIXELS)
        return kin_fail(err, KIN_ERR_FORMAT, "video: %s: %d x %d pixels, must be at most %d",
                        r->where, s->codecpar->width, s->codecpar->height, MAX_PIXELS);
    const AVCodec *codec = avcodec_find_decoder(s->codecpar->codec_id);
    if (!codec)
        return kin_fail(err, KIN_ERR_FORMAT, "video: %s: unknown codec", r->where);
    AVCodecContext *c = r->codec = avcodec_alloc_context3(codec);
    if (!c)
        return kin_fail(err, KIN_ERR_MEM, "video: %s: no memory", r->where);
    int rc = avcodec_parameters_to_context(c, s->codecpar);
    if (rc >= 0) {
        c->pkt_timebase = s->time_base;
        c->thread_count = 1;
        c->max_pixels = MAX_PIXELS;
        c->err_recognition = AV_EF_EXPLODE | AV_EF_CRCCHECK;
        c->codec_whitelist = av_strdup(decoders);
        rc = avcodec_open2(c, codec, NULL);
    }
    return rc < 0 ? kin_av_fail(err, KIN_ERR_FORMAT, "video", r->where, rc) : KIN_OK;
}

kin_status kin_video_reader_open(const void *data, size_t bytes, const char *where,
                                 kin_video_reader **out, kin_error *err)
{
    kin_status status;
    *out = NULL;
    kin_av_init();
    kin_video_reader *r = kin_calloc(1, sizeof *r);
    if (!r)
        return kin_fail(err, KIN_ERR_MEM, "video: %s: no memory", where);
    r->data = data;
    r->bytes = bytes;
    r->stream = -1;
    snprintf(r->where, sizeof r->where, "%s", where);
    KIN_GOTO(open_format(r, err));
    describe_stream(r);
    KIN_GOTO(open_codec(r, err));
    r->packet = av_packet_alloc();
    r->frame = av_frame_alloc();
    if (!r->packet || !r->frame)
        status = kin_fail(err, KIN_ERR_MEM, "video: %s: no memory", where);
done:
    if (status != KIN_OK)
        kin_video_reader_close(&r);
    *out = r;
    return status;
}

void kin_video_reader_close(kin_video_reader **reader)
{
    kin_video_reader *r = *reader;
    if (!r)
        return;
    kin_av_scaler_free(&r->scaler);
    av_frame_free(&r->frame);
    av_packet_free(&r->packet);
    avcodec_free_context(&r->codec);
    avformat_close_input(&r->format);
    if (r->io)
        av_freep(&r->io->buffer);
    avio_context_free(&r->io);
    kin_free(r->coded);
    kin_free(r->turned);
    kin_free(r);
    *reader = NULL;
}

const kin_video_info *kin_video_reader_info(const kin_video_reader *r)
{
    return &r->info;
}

/* Gives the decoder the next packet of our stream, or the end. */
static kin_status feed(kin_video_reader *r, kin_error *err)
{
    int rc;
    do {
        av_packet_unref(r->packet);
        rc = av_read_frame(r->format, r->packet);
    } while (rc >= 0 && r->packet->stream_index != r->stream);
    if (rc < 0 && rc != AVERROR_EOF)
        return kin_av_fail(err, KIN_ERR_FORMAT, "video", r->where, rc);
    if (rc < 0) {
        if (r->packets < r->info.samples)
            return kin_fail(err, KIN_ERR_FORMAT,
                            "video: %s: holds %lld frames, its index says %lld", r->where,
                            (long long)r->packets, (long long)r->info.samples);
        r->flushing = true;
        rc = avcodec_send_packet(r->codec, NULL);
    } else {
        if (++r->packets > 10 * (int64_t)MAX_FRAMES)
            return kin_fail(err, KIN_ERR_FORMAT, "video: %s: too many frames", r->where);
        if (r->packet->flags & AV_PKT_FLAG_CORRUPT)
            return kin_fail(err, KIN_ERR_FORMAT, "video: %s: frame data is cut", r->where);
        rc = avcodec_send_packet(r->codec, r->packet);
    }
    if (rc < 0 && rc != AVERROR_EOF)
        return kin_av_fail(err, KIN_ERR_FORMAT, "video", r->where, rc);
    return KIN_OK;
}

/* rotation to the nearest quarter turn: number of counter-clockwise quarters, 0..3 */
static int quarter_turns(int rotation)
{
    int q = (int)lround(rotation / 90.0);
    return abs(rotation - q * 90) <= 1 ? (q % 4 + 4) % 4 : 0;
}

/* dst = src turned counter-clockwise by `quarters` */
static void turn(const uint8_t *src, int64_t h, int64_t w, int quarters, uint8_t *dst)
{
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            int64_t to = quarters == 1   ? (w - 1 - x) * h + y
                         : quarters == 2 ? (h - 1 - y) * w + (w - 1 - x)
                                         : x * h + (h - 1 - y);
            memcpy(dst + to * 3, src + (y * w + x) * 3, 3);
        }
}

static kin_status take_room(kin_video_reader *r, int64_t pixels, bool turning, kin_error *err)
{
    if (pixels > r->room) {
        kin_free(r->coded);
        kin_free(r->turned);
        r->turned = NULL;
        r->room = 0;
        r->coded = kin_malloc((size_t)pixels * 3);
        if (r->coded)
            r->room = pixels;
    }
    if (r->coded && turning && !r->turned)
        r->turned = kin_malloc((size_t)r->room * 3);
    if (!r->coded || (turning && !r->turned))
        return kin_fail(err, KIN_ERR_MEM, "video: %s: no memory for %lld pixels", r->where,
                        (long long)pixels);
    return KIN_OK;
}

static kin_status convert(kin_video_reader *r, const uint8_t **rgb, kin_error *err)
{
    int64_t w = r->frame->width, h = r->frame->height;
    int quarters = quarter_turns(r->info.rotation);
    KIN_TRY(take_room(r, w * h, quarters != 0, err));
    KIN_TRY(kin_av_to_rgb(&r->scaler, r->frame, r->coded, r->where, err));
    *rgb = r->coded;
    if (quarters != 0) {
        turn(r->coded, h, w, quarters, r->turned);
        *rgb = r->turned;
    }
    return KIN_OK;
}

static void describe_frame(kin_video_reader *r)
{
    const char *name = av_get_pix_fmt_name(r->frame->format);
    bool swap = quarter_turns(r->info.rotation) % 2 != 0;
    r->info.coded_width = r->frame->width;
    r->info.coded_height = r->frame->height;
    r->info.width = swap ? r->frame->height : r->frame->width;
    r->info.height = swap ? r->frame->width : r->frame->height;
    snprintf(r->info.pixel_format, sizeof r->info.pixel_format, "%s", name ? name : "unknown");
}

kin_status kin_video_reader_next(kin_video_reader *r, bool want_rgb, const uint8_t **rgb,
                                 double *pts, kin_error *err)
{
    static const uint8_t nothing;
    *rgb = NULL;
    for (;;) {
        int rc = avcodec_receive_frame(r->codec, r->frame);
        if (rc == AVERROR_EOF)
            return KIN_OK;
        if (rc == AVERROR(EAGAIN)) {
            if (r->flushing)
                return KIN_OK;
            KIN_TRY(feed(r, err));
            continue;
        }
        if (rc < 0)
            return kin_av_fail(err, KIN_ERR_FORMAT, "video", r->where, rc);
        break;
    }
    if (r->frame->decode_error_flags || (r->frame->flags & AV_FRAME_FLAG_CORRUPT))
        return kin_fail(err, KIN_ERR_FORMAT, "video: %s: a frame is damaged", r->where);
    int64_t t = r->frame->best_effort_timestamp;
    *pts = t == AV_NOPTS_VALUE ? NAN : (double)t * av_q2d(r->format->streams[r->stream]->time_base);
    describe_frame(r);
    *rgb = &nothing;
    return want_rgb ? convert(r, rgb, err) : KIN_OK;
}

/* ---- whole clips ---- */

void kin_clip_free(kin_clip *clip)
{
    kin_free(clip->rgb);
    kin_free(clip->pts);
    *clip = (kin_clip){0};
}

kin_tensor kin_clip_tensor(const kin_clip *clip)
{
    return KIN_TENSOR(clip->rgb, KIN_DTYPE_U8, clip->frames, clip->height, clip->width, 3);
}

/* Room for `frames` frames of the size in *c. */
static kin_status take_clip(kin_clip *c, int64_t frames, size_t max_bytes, const char *where,
                            kin_error *err)
{
    size_t bytes = (size_t)(c->width * c->height) * 3;
    if ((size_t)frames > max_bytes / bytes)
        return kin_fail(err, KIN_ERR_MEM,
                        "video: %s: %lld frames of %lld x %lld must fit %zu bytes", where,
                        (long long)frames, (long long)c->width, (long long)c->height, max_bytes);
    c->rgb = kin_malloc(bytes * (size_t)frames);
    c->pts = kin_malloc(sizeof *c->pts * (size_t)frames);
    if (!c->rgb || !c->pts)
        return kin_fail(err, KIN_ERR_MEM, "video: %s: no memory for %lld frames", where,
                        (long long)frames);
    return KIN_OK;
}

/* Number of frames that a pass without conversion gives. */
static kin_status count_frames(const void *data, size_t bytes, const char *where, int64_t limit,
                               int64_t *total, kin_error *err)
{
    kin_video_reader *r;
    const uint8_t *rgb;
    double pts;
    kin_status status;
    *total = 0;
    KIN_TRY(kin_video_reader_open(data, bytes, where, &r, err));
    /* an mp4's index says it without decoding; the decoding pass then checks it */
    if (kin_video_reader_info(r)->samples > 0) {
        *total = kin_video_reader_info(r)->samples;
        status = KIN_OK;
    } else {
        while ((status = kin_video_reader_next(r, false, &rgb, &pts, err)) == KIN_OK && rgb &&
               *total <= limit)
            ++*total;
    }
    kin_video_reader_close(&r);
    if (status == KIN_OK && (*total < 1 || *total > limit))
        status = kin_fail(err, KIN_ERR_FORMAT, "video: %s: %lld frames, must be 1 to %lld", where,
                          (long long)*total, (long long)limit);
    return status;
}

/* Source frame of output i out of n, from `total` frames: evenly, first and last included. */
static int64_t pick(int64_t i, int64_t n, int64_t total)
{
    if (n < 2)
        return 0;
    /* round half up of i*(total-1)/(n-1) */
    return (2 * i * (total - 1) + (n - 1)) / (2 * (n - 1));
}

/* Appends the frame; the first one says the size and takes the room for all n. */
static kin_status keep_frame(kin_clip *c, const kin_video_info *info, const uint8_t *rgb,
                             double pts, int64_t n, size_t max_bytes, const char *where,
                             kin_error *err)
{
    if (c->frames == 0) {
        c->width = info->width;
        c->height = info->height;
        KIN_TRY(take_clip(c, n, max_bytes, where, err));
    } else if (c->width != info->width || c->height != info->height) {
        return kin_fail(err, KIN_ERR_FORMAT, "video: %s: frame %lld changes its size", where,
                        (long long)c->frames);
    }
    size_t bytes = (size_t)(c->width * c->height) * 3;
    memcpy(c->rgb + bytes * (size_t)c->frames, rgb, bytes);
    c->pts[c->frames++] = pts;
    return KIN_OK;
}

/* Keeps the n frames that pick() names out of `total`; all are decoded, so that damage anywhere is
 * seen. */
static kin_status decode_pass(kin_video_reader *r, const char *where, int64_t n, int64_t total,
                              size_t max_bytes, kin_clip *c, kin_error *err)
{
    for (;; c->total++) {
        const uint8_t *rgb;
        double pts;
        bool wanted = c->frames < n && pick(c->frames, n, total) == c->total;
        KIN_TRY(kin_video_reader_next(r, wanted, &rgb, &pts, err));
        if (!rgb)
            break;
        while (c->frames < n && pick(c->frames, n, total) == c->total)
            KIN_TRY(keep_frame(c, kin_video_reader_info(r), rgb, pts, n, max_bytes, where, err));
    }
    c->info = *kin_video_reader_info(r);
    if (c->total != total)
        return kin_fail(err, KIN_ERR_FORMAT, "video: %s: holds %lld frames, its index says %lld",
                        where, (long long)c->total, (long long)total);
    return KIN_OK;
}

kin_status kin_video_decode(const void *data, size_t bytes, const char *where,
                            const kin_video_select *select, kin_clip *out, kin_error *err)
{
    kin_video_select s = select ? *select : (kin_video_select){0};
    int64_t total = 0, limit = s.max_frames > 0 ? s.max_frames : MAX_FRAMES;
    size_t max_bytes = s.max_bytes > 0 ? s.max_bytes : MAX_CLIP_BYTES;
    kin_video_reader *r;
    *out = (kin_clip){0};
    if (s.num_frames < 0 || s.num_frames > MAX_FRAMES)
        return kin_fail(err, KIN_ERR_ARG, "video: %lld frames must be 0 to %d",
                        (long long)s.num_frames, MAX_FRAMES);
    KIN_TRY(count_frames(data, bytes, where, limit, &total, err));
    KIN_TRY(kin_video_reader_open(data, bytes, where, &r, err));
    int64_t n = s.num_frames > 0 ? s.num_frames : total;
    kin_status status = decode_pass(r, where, n, total, max_bytes, out, err);
    kin_video_reader_close(&r);
    if (status != KIN_OK)
        kin_clip_free(out);
    return status;
}

kin_status kin_video_read(const char *path, const kin_video_select *select, kin_clip *out,
                          kin_error *err)
{
    kin_blob blob;
    *out = (kin_clip){0};
    KIN_TRY(kin_blob_open(path, &blob, err));
    kin_status status = kin_video_decode(blob.data, blob.bytes, path, select, out, err);
    kin_blob_close(&blob);
    return status;
}
