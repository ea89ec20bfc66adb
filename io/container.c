#include "io/container.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <libavutil/opt.h>

#include "base/alloc.h"
#include "io/av.h"

/* ---- what each kind asks of its encoder ---- */

/* H.264 with the colours of HD video. Odd sizes have full colour resolution. */
static kin_status choose_mp4(kin_video *v, kin_error *err)
{
    const kin_video_params *p = &v->params;
    AVCodecContext *c = v->codec;
    bool odd = p->width % 2 != 0 || p->height % 2 != 0;
    (void)err;
    c->pix_fmt = p->chroma_444 || odd ? AV_PIX_FMT_YUV444P : AV_PIX_FMT_YUV420P;
    c->color_range = AVCOL_RANGE_MPEG;
    c->colorspace = AVCOL_SPC_BT709;
    c->color_primaries = AVCOL_PRI_BT709;
    c->color_trc = AVCOL_TRC_BT709;
    c->chroma_sample_location = AVCHROMA_LOC_LEFT;
    c->max_b_frames = 0; /* presentation starts at 0 without an edit list */
    av_opt_set(c->priv_data, "preset", "medium", 0);
    av_opt_set_double(c->priv_data, "crf", p->crf, 0);
    /* note: libx264 0.164 reads memory that it has not set there: now and then a clip encoded by
     * one of several threads came out with other bytes (MALLOC_ARENA_MAX=1: 50 of 60 sets, without:
     * none) */
    av_opt_set_int(c->priv_data, "mbtree", 0, 0);
    return KIN_OK;
}

/* Planes as they are. The format names no matrix: readers take BT.601. */
static kin_status choose_y4m(kin_video *v, kin_error *err)
{
    (void)err;
    v->codec->pix_fmt = AV_PIX_FMT_YUV444P;
    v->codec->color_range = AVCOL_RANGE_MPEG;
    v->codec->colorspace = AVCOL_SPC_SMPTE170M;
    return KIN_OK;
}

static kin_status choose_apng(kin_video *v, kin_error *err)
{
    (void)err;
    v->codec->pix_fmt = AV_PIX_FMT_RGB24;
    av_opt_set(v->codec->priv_data, "pred", "mixed", 0);
    return KIN_OK;
}

static const kin_container rows[] = {
    {.extension = "mp4",
     .muxer = "mp4",
     .encoder = "libx264",
     .muxing = "movflags=+faststart",
     .magic = "ftyp",
     .magic_at = 4,
     .choose = choose_mp4},
    {.extension = "y4m",
     .muxer = "yuv4mpegpipe",
     .encoder = "wrapped_avframe",
     .magic = "YUV4MPEG2 ",
     .choose = choose_y4m},
    {.extension = "apng",
     .muxer = "apng",
     .encoder = "apng",
     .muxing = "plays=0",
     .magic = "\x89PNG\r\n\x1a\n",
     .choose = choose_apng},
    {.extension = "gif",
     .muxer = "gif",
     .encoder = "gif",
     .muxing = "loop=0",
     .magic = "GIF89a",
     .choose = kin_gif_choose,
     .put = kin_gif_put,
     .finish = kin_gif_finish},
};

const kin_container *kin_container_of(const char *path, bool animated)
{
    const char *extension = strcmp(path, "-") == 0 ? "y4m" : kin_path_ext(path);
    if (animated && strcasecmp(extension, "png") == 0)
        extension = "apng";
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcasecmp(extension, rows[i].extension) == 0)
            return &rows[i];
    return NULL;
}

bool kin_video_looks_like(const char *path, bool animated, const void *head, size_t bytes)
{
    const kin_container *c = kin_container_of(path, animated);
    return c && bytes >= (size_t)c->magic_at + strlen(c->magic) &&
           memcmp((const char *)head + c->magic_at, c->magic, strlen(c->magic)) == 0;
}

/* ---- opening ---- */

/* note: the file must be the same on every run: one encoder thread, bit-exact encoder, muxer and
 * conversion, no dates */
static kin_status open_encoder(kin_video *v, kin_error *err)
{
    const kin_video_params *p = &v->params;
    const AVCodec *codec = avcodec_find_encoder_by_name(v->container->encoder);
    if (!codec)
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "video: FFmpeg has no %s", v->container->encoder);
    AVCodecContext *c = v->codec = avcodec_alloc_context3(codec);
    if (!c)
        return kin_fail(err, KIN_ERR_MEM, "video: no memory for the encoder");
    c->width = (int)p->width;
    c->height = (int)p->height;
    c->time_base = (AVRational){(int)p->fps_den, (int)p->fps_num};
    c->framerate = (AVRational){(int)p->fps_num, (int)p->fps_den};
    c->sample_aspect_ratio = (AVRational){1, 1};
    c->thread_count = 1;
    c->flags |= AV_CODEC_FLAG_BITEXACT;
    const AVOutputFormat *muxer = av_guess_format(v->container->muxer, NULL, NULL);
    if (!muxer)
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "video: FFmpeg has no %s", v->container->muxer);
    if (muxer->flags & AVFMT_GLOBALHEADER)
        c->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    KIN_TRY(v->container->choose(v, err));
    int rc = avcodec_open2(c, codec, NULL);
    return rc < 0 ? kin_av_fail(err, KIN_ERR_BACKEND, "video", v->path, rc) : KIN_OK;
}

static void set_metadata(kin_video *v)
{
    const char *const *m = v->params.metadata;
    for (size_t i = 0; m && m[i]; i += 2)
        av_dict_set(&v->format->metadata, m[i], m[i + 1], 0);
}

static kin_status open_muxer(kin_video *v, kin_error *err)
{
    char url[KIN_PATH_MAX + 8];
    AVDictionary *options = NULL;
    /* note: "file:" keeps names with a colon from being taken for a protocol */
    snprintf(url, sizeof url, v->temp[0] ? "file:%s" : "pipe:1", v->temp);
    int rc = avformat_alloc_output_context2(&v->format, NULL, v->container->muxer, url);
    if (rc < 0)
        return kin_av_fail(err, KIN_ERR_BACKEND, "video", v->path, rc);
    v->format->flags |= AVFMT_FLAG_BITEXACT | (v->temp[0] ? 0 : AVFMT_FLAG_FLUSH_PACKETS);
    v->stream = avformat_new_stream(v->format, NULL);
    if (!v->stream)
        return kin_fail(err, KIN_ERR_MEM, "video: %s: no memory", v->path);
    rc = avcodec_parameters_from_context(v->stream->codecpar, v->codec);
    if (rc < 0)
        return kin_av_fail(err, KIN_ERR_BACKEND, "video", v->path, rc);
    v->stream->time_base = v->codec->time_base;
    v->stream->avg_frame_rate = v->stream->r_frame_rate = v->codec->framerate;
    set_metadata(v);
    rc = avio_open(&v->format->pb, url, AVIO_FLAG_WRITE);
    if (rc < 0)
        return kin_av_fail(err, KIN_ERR_IO, "video", v->path, rc);
    if (v->container->muxing)
        av_dict_parse_string(&options, v->container->muxing, "=", ":", 0);
    rc = avformat_write_header(v->format, &options);
    av_dict_free(&options);
    return rc < 0 ? kin_av_fail(err, KIN_ERR_IO, "video", v->path, rc) : KIN_OK;
}

/* From RGB to the encoder's pixels. */
static kin_status open_scaler(kin_video *v, kin_error *err)
{
    int w = v->codec->width, h = v->codec->height;
    int flags =
        SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP | SWS_BITEXACT;
    int matrix = v->codec->colorspace == AVCOL_SPC_BT709 ? SWS_CS_ITU709 : SWS_CS_ITU601;
    v->sws = sws_alloc_context();
    if (!v->sws)
        return kin_fail(err, KIN_ERR_MEM, "video: %s: no memory", v->path);
    av_opt_set_int(v->sws, "srcw", w, 0);
    av_opt_set_int(v->sws, "srch", h, 0);
    av_opt_set_int(v->sws, "src_format", AV_PIX_FMT_RGB24, 0);
    av_opt_set_int(v->sws, "dstw", w, 0);
    av_opt_set_int(v->sws, "dsth", h, 0);
    av_opt_set_int(v->sws, "dst_format", v->codec->pix_fmt, 0);
    av_opt_set_int(v->sws, "sws_flags", flags, 0);
    sws_setColorspaceDetails(v->sws, sws_getCoefficients(SWS_CS_DEFAULT), 1,
                             sws_getCoefficients(matrix), 0, 0, 1 << 16, 1 << 16);
    if (v->codec->pix_fmt == AV_PIX_FMT_YUV420P) {
        /* chroma samples lie on the left pixel of two, between two rows */
        av_opt_set_int(v->sws, "dst_h_chr_pos", 0, 0);
        av_opt_set_int(v->sws, "dst_v_chr_pos", 128, 0);
    }
    int rc = sws_init_context(v->sws, NULL, NULL);
    return rc < 0 ? kin_av_fail(err, KIN_ERR_BACKEND, "video", v->path, rc) : KIN_OK;
}

static kin_status open_frame(kin_video *v, kin_error *err)
{
    v->packet = av_packet_alloc();
    v->frame = av_frame_alloc();
    if (!v->packet || !v->frame)
        return kin_fail(err, KIN_ERR_MEM, "video: %s: no memory", v->path);
    v->frame->format = v->codec->pix_fmt;
    v->frame->width = v->codec->width;
    v->frame->height = v->codec->height;
    v->frame->color_range = v->codec->color_range;
    v->frame->colorspace = v->codec->colorspace;
    v->frame->color_primaries = v->codec->color_primaries;
    v->frame->color_trc = v->codec->color_trc;
    v->frame->chroma_location = v->codec->chroma_sample_location;
    int rc = av_frame_get_buffer(v->frame, 0);
    return rc < 0 ? kin_av_fail(err, KIN_ERR_BACKEND, "video", v->path, rc) : KIN_OK;
}

kin_status kin_container_open(kin_video *v, kin_error *err)
{
    kin_av_init();
    KIN_TRY(open_encoder(v, err));
    KIN_TRY(open_muxer(v, err));
    KIN_TRY(open_frame(v, err));
    return v->container->put ? KIN_OK : open_scaler(v, err);
}

/* ---- frames ---- */

/* Takes the packets that are ready and gives them to the muxer. */
static kin_status drain(kin_video *v, kin_error *err)
{
    for (;;) {
        int rc = avcodec_receive_packet(v->codec, v->packet);
        if (rc == AVERROR(EAGAIN) || rc == AVERROR_EOF)
            return KIN_OK;
        if (rc < 0)
            return kin_av_fail(err, KIN_ERR_BACKEND, "video", v->path, rc);
        v->packet->stream_index = 0;
        v->packet->duration = 1;
        av_packet_rescale_ts(v->packet, v->codec->time_base, v->stream->time_base);
        rc = av_interleaved_write_frame(v->format, v->packet);
        if (rc < 0)
            return kin_av_fail(err, KIN_ERR_IO, "video", v->path, rc);
    }
}

kin_status kin_container_encode_frame(kin_video *v, int64_t pts, kin_error *err)
{
    v->frame->pts = pts;
    int rc = avcodec_send_frame(v->codec, v->frame);
    return rc < 0 ? kin_av_fail(err, KIN_ERR_BACKEND, "video", v->path, rc) : drain(v, err);
}

kin_status kin_container_encode_rgb(kin_video *v, const uint8_t *rgb, kin_error *err)
{
    const uint8_t *planes[4] = {rgb};
    int strides[4] = {(int)v->params.width * 3};
    int rc = av_frame_make_writable(v->frame);
    if (rc >= 0)
        rc = sws_scale(v->sws, planes, strides, 0, v->codec->height, v->frame->data,
                       v->frame->linesize);
    if (rc < 0)
        return kin_av_fail(err, KIN_ERR_BACKEND, "video", v->path, rc);
    return kin_container_encode_frame(v, v->frames, err);
}

/* ---- the end ---- */

static kin_status give_name(kin_video *v, kin_error *err)
{
    int fd = open(v->temp, O_RDONLY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    if (!ok || rename(v->temp, v->path) != 0)
        return kin_fail(err, KIN_ERR_IO, "video: %s: %s", v->path, strerror(errno));
    v->temp[0] = 0;
    char dir[KIN_PATH_MAX];
    KIN_TRY(kin_path_dir(dir, v->path, err));
    return kin_path_sync_dir(dir, err);
}

kin_status kin_container_close(kin_video *v, kin_error *err)
{
    if (v->container->finish)
        KIN_TRY(v->container->finish(v, err));
    int rc = avcodec_send_frame(v->codec, NULL);
    if (rc < 0)
        return kin_av_fail(err, KIN_ERR_BACKEND, "video", v->path, rc);
    KIN_TRY(drain(v, err));
    rc = av_write_trailer(v->format);
    int closed = avio_closep(&v->format->pb);
    if (rc < 0 || closed < 0)
        return kin_av_fail(err, KIN_ERR_IO, "video", v->path, rc < 0 ? rc : closed);
    return v->temp[0] ? give_name(v, err) : KIN_OK;
}

void kin_container_release(kin_video *v)
{
    if (v->format)
        avio_closep(&v->format->pb);
    avformat_free_context(v->format);
    avcodec_free_context(&v->codec);
    av_frame_free(&v->frame);
    av_packet_free(&v->packet);
    sws_freeContext(v->sws);
    kin_free(v->held);
    if (v->temp[0])
        unlink(v->temp);
}
