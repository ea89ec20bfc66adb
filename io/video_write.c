/* Writing of clips: names, PNG sequences, H.264 MP4. Reading is in video_read.c. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>

#include "base/alloc.h"
#include "io/av.h"
#include "io/image.h"
#include "io/png.h"
#include "io/video.h"

struct kin_video {
    char path[KIN_PATH_MAX];
    char temp[KIN_PATH_MAX]; /* MP4 only */
    kin_video_params params;
    int64_t frames;
    /* MP4 only */
    AVFormatContext *format;
    AVCodecContext *codec;
    AVStream *stream;
    AVFrame *frame;
    AVPacket *packet;
    struct SwsContext *sws;
};

/* ---- names ---- */

/* Copies `pattern`, each number pattern as `index` printed; *patterns counts them. False: another
 * use of '%', or too long. */
static bool expand(char out[KIN_PATH_MAX], const char *pattern, int64_t index, int *patterns)
{
    size_t n = 0;
    *patterns = 0;
    for (const char *p = pattern; *p; p++) {
        char text[80] = {*p};
        if (*p == '%' && p[1] == '%') {
            p++;
        } else if (*p == '%') {
            const char *q = p + 1;
            bool zeros = *q == '0';
            int width = 0;
            while (*q >= '0' && *q <= '9' && width < 10)
                width = width * 10 + (*q++ - '0');
            if (*q != 'd' || width > 60)
                return false;
            snprintf(text, sizeof text, zeros ? "%0*lld" : "%*lld", width, (long long)index);
            ++*patterns;
            p = q;
        }
        size_t m = strlen(text);
        if (n + m >= KIN_PATH_MAX)
            return false;
        memcpy(out + n, text, m + 1);
        n += m;
    }
    out[n] = 0;
    return true;
}

bool kin_output_has_index(const char *name)
{
    char out[KIN_PATH_MAX];
    int patterns;
    return expand(out, name, 0, &patterns) && patterns > 0;
}

kin_status kin_output_name(char out[KIN_PATH_MAX], const char *pattern, int64_t index,
                           kin_error *err)
{
    int patterns;
    if (!expand(out, pattern, index, &patterns) || patterns != 1)
        return kin_fail(err, KIN_ERR_ARG,
                        "output: \"%.200s\" must hold exactly one number pattern such as %%04d",
                        pattern);
    return KIN_OK;
}

/* ---- parameters ---- */

kin_video_params kin_video_params_default(void)
{
    return (kin_video_params){.fps_num = 16, .fps_den = 1, .crf = 17};
}

kin_status kin_video_fps(double fps, int64_t *num, int64_t *den, kin_error *err)
{
    if (!(fps > 0 && fps <= 1000))
        return kin_fail(err, KIN_ERR_ARG, "video: %g frames per second must be in (0, 1000]", fps);
    /* the broadcast rates N*1000/1001 as they are usually rounded */
    double ntsc = round(fps * 1.001);
    if (fabs(fps - round(fps)) > 1e-9 && fabs(fps - ntsc / 1.001) < 0.005) {
        *num = (int64_t)ntsc * 1000;
        *den = 1001;
        return KIN_OK;
    }
    AVRational q = av_d2q(fps, 1000000);
    *num = q.num;
    *den = q.den;
    return KIN_OK;
}

static kin_status check_params(const kin_video_params *p, kin_error *err)
{
    if (p->width < 1 || p->height < 1 || p->width > KIN_IMAGE_MAX_SIDE ||
        p->height > KIN_IMAGE_MAX_SIDE)
        return kin_fail(err, KIN_ERR_ARG, "video: size %lld x %lld must be 1 to %d",
                        (long long)p->width, (long long)p->height, KIN_IMAGE_MAX_SIDE);
    if (p->fps_num < 1 || p->fps_den < 1 || p->fps_num > INT32_MAX || p->fps_den > INT32_MAX ||
        p->fps_num > 1000 * p->fps_den)
        return kin_fail(err, KIN_ERR_ARG,
                        "video: rate %lld/%lld must be positive and at most 1000 frames per second",
                        (long long)p->fps_num, (long long)p->fps_den);
    if (p->crf < 0 || p->crf > 51)
        return kin_fail(err, KIN_ERR_ARG, "video: crf %d must be 0 to 51", p->crf);
    return KIN_OK;
}

static bool is_mp4(const kin_video *v)
{
    return v->temp[0] != 0;
}

/* ---- MP4 ---- */

/* note: the file must be the same on every run: one encoder thread, bit-exact encoder, muxer and
 * conversion, no dates */
static kin_status open_encoder(kin_video *v, kin_error *err)
{
    const kin_video_params *p = &v->params;
    const AVCodec *x264 = avcodec_find_encoder_by_name("libx264");
    if (!x264)
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "video: FFmpeg has no libx264");
    AVCodecContext *c = v->codec = avcodec_alloc_context3(x264);
    if (!c)
        return kin_fail(err, KIN_ERR_MEM, "video: no memory for the encoder");
    bool odd = p->width % 2 != 0 || p->height % 2 != 0;
    c->width = (int)p->width;
    c->height = (int)p->height;
    c->pix_fmt = p->chroma_444 || odd ? AV_PIX_FMT_YUV444P : AV_PIX_FMT_YUV420P;
    c->time_base = (AVRational){(int)p->fps_den, (int)p->fps_num};
    c->framerate = (AVRational){(int)p->fps_num, (int)p->fps_den};
    c->sample_aspect_ratio = (AVRational){1, 1};
    c->color_range = AVCOL_RANGE_MPEG;
    c->colorspace = AVCOL_SPC_BT709;
    c->color_primaries = AVCOL_PRI_BT709;
    c->color_trc = AVCOL_TRC_BT709;
    c->chroma_sample_location = AVCHROMA_LOC_LEFT;
    c->thread_count = 1;
    c->flags |= AV_CODEC_FLAG_GLOBAL_HEADER | AV_CODEC_FLAG_BITEXACT;
    c->max_b_frames = 0; /* presentation starts at 0 without an edit list */
    av_opt_set(c->priv_data, "preset", "medium", 0);
    av_opt_set_double(c->priv_data, "crf", p->crf, 0);
    /* note: libx264 0.164 reads memory that it has not set there: now and then a clip encoded by
     * one of several threads came out with other bytes (MALLOC_ARENA_MAX=1: 50 of 60 sets, without:
     * none) */
    av_opt_set_int(c->priv_data, "mbtree", 0, 0);
    int rc = avcodec_open2(c, x264, NULL);
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
    snprintf(url, sizeof url, "file:%s", v->temp);
    int rc = avformat_alloc_output_context2(&v->format, NULL, "mp4", url);
    if (rc < 0)
        return kin_av_fail(err, KIN_ERR_BACKEND, "video", v->path, rc);
    v->format->flags |= AVFMT_FLAG_BITEXACT;
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
    av_dict_set(&options, "movflags", "+faststart", 0);
    rc = avformat_write_header(v->format, &options);
    av_dict_free(&options);
    return rc < 0 ? kin_av_fail(err, KIN_ERR_IO, "video", v->path, rc) : KIN_OK;
}

static kin_status open_frame(kin_video *v, kin_error *err)
{
    int w = v->codec->width, h = v->codec->height;
    int flags =
        SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP | SWS_BITEXACT;
    v->packet = av_packet_alloc();
    v->frame = av_frame_alloc();
    if (!v->packet || !v->frame)
        return kin_fail(err, KIN_ERR_MEM, "video: %s: no memory", v->path);
    v->frame->format = v->codec->pix_fmt;
    v->frame->width = w;
    v->frame->height = h;
    v->frame->color_range = v->codec->color_range;
    v->frame->colorspace = v->codec->colorspace;
    v->frame->color_primaries = v->codec->color_primaries;
    v->frame->color_trc = v->codec->color_trc;
    v->frame->chroma_location = v->codec->chroma_sample_location;
    int rc = av_frame_get_buffer(v->frame, 0);
    if (rc < 0)
        return kin_av_fail(err, KIN_ERR_BACKEND, "video", v->path, rc);
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
                             sws_getCoefficients(SWS_CS_ITU709), 0, 0, 1 << 16, 1 << 16);
    if (v->codec->pix_fmt == AV_PIX_FMT_YUV420P) {
        /* chroma samples lie on the left pixel of two, between two rows */
        av_opt_set_int(v->sws, "dst_h_chr_pos", 0, 0);
        av_opt_set_int(v->sws, "dst_v_chr_pos", 128, 0);
    }
    rc = sws_init_context(v->sws, NULL, NULL);
    return rc < 0 ? kin_av_fail(err, KIN_ERR_BACKEND, "video", v->path, rc) : KIN_OK;
}

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

static kin_status put_mp4(kin_video *v, const uint8_t *rgb, kin_error *err)
{
    const uint8_t *planes[4] = {rgb};
    int strides[4] = {(int)v->params.width * 3};
    int rc = av_frame_make_writable(v->frame);
    if (rc >= 0)
        rc = sws_scale(v->sws, planes, strides, 0, v->codec->height, v->frame->data,
                       v->frame->linesize);
    if (rc >= 0) {
        v->frame->pts = v->frames;
        rc = avcodec_send_frame(v->codec, v->frame);
    }
    if (rc < 0)
        return kin_av_fail(err, KIN_ERR_BACKEND, "video", v->path, rc);
    return drain(v, err);
}

static kin_status finish_mp4(kin_video *v, kin_error *err)
{
    int rc = avcodec_send_frame(v->codec, NULL);
    if (rc < 0)
        return kin_av_fail(err, KIN_ERR_BACKEND, "video", v->path, rc);
    KIN_TRY(drain(v, err));
    rc = av_write_trailer(v->format);
    int closed = avio_closep(&v->format->pb);
    if (rc < 0 || closed < 0)
        return kin_av_fail(err, KIN_ERR_IO, "video", v->path, rc < 0 ? rc : closed);
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

/* ---- the public calls ---- */

static void destroy(kin_video **video)
{
    kin_video *v = *video;
    if (!v)
        return;
    if (v->format)
        avio_closep(&v->format->pb);
    avformat_free_context(v->format);
    avcodec_free_context(&v->codec);
    av_frame_free(&v->frame);
    av_packet_free(&v->packet);
    sws_freeContext(v->sws);
    if (is_mp4(v))
        unlink(v->temp);
    kin_free(v);
    *video = NULL;
}

kin_status kin_video_open(const char *path, const kin_video_params *params, kin_video **out,
                          kin_error *err)
{
    kin_status status;
    *out = NULL;
    KIN_TRY(check_params(params, err));
    bool mp4 = strcmp(kin_path_ext(path), "mp4") == 0;
    if ((!mp4 && strcmp(kin_path_ext(path), "png") != 0) || strlen(path) >= KIN_PATH_MAX)
        return kin_fail(err, KIN_ERR_ARG, "video: name \"%.200s\" must end in .mp4 or .png", path);
    kin_video *v = kin_calloc(1, sizeof *v);
    if (!v)
        return kin_fail(err, KIN_ERR_MEM, "video: no memory");
    strcpy(v->path, path);
    v->params = *params;
    if (!mp4) {
        *out = v;
        return KIN_OK;
    }
    kin_av_init();
    if (kin_path_is_dir(path)) {
        status = kin_fail(err, KIN_ERR_IO, "video: %s: is a folder", path);
        goto done;
    }
    if (snprintf(v->temp, sizeof v->temp, "%s.tmp.%ld", path, (long)getpid()) >= KIN_PATH_MAX) {
        v->temp[0] = 0;
        status = kin_fail(err, KIN_ERR_ARG, "video: name \"%.80s...\" is too long", path);
        goto done;
    }
    KIN_GOTO(open_encoder(v, err));
    KIN_GOTO(open_muxer(v, err));
    KIN_GOTO(open_frame(v, err));
    v->params.metadata = NULL;
    *out = v;
done:
    if (status != KIN_OK)
        destroy(&v);
    return status;
}

static kin_status put_png(kin_video *v, const uint8_t *rgb, kin_error *err)
{
    char name[KIN_PATH_MAX];
    const kin_tensor t =
        KIN_TENSOR((void *)(uintptr_t)rgb, KIN_DTYPE_U8, v->params.height, v->params.width, 3);
    if (kin_output_has_index(v->path)) {
        KIN_TRY(kin_output_name(name, v->path, v->params.first_index + v->frames, err));
        return kin_png_write(name, &t, v->params.metadata, err);
    }
    if (v->frames > 0)
        return kin_fail(err, KIN_ERR_ARG,
                        "video: %s takes one frame; more need a number pattern such as %%04d",
                        v->path);
    return kin_png_write(v->path, &t, v->params.metadata, err);
}

kin_status kin_video_put(kin_video *v, const kin_tensor *rgb, kin_error *err)
{
    char text[128];
    int n = rgb->ndim;
    if ((n != 3 && n != 4) || rgb->dtype != KIN_DTYPE_U8 || rgb->size[n - 1] != 3 ||
        rgb->size[n - 2] != v->params.width || rgb->size[n - 3] != v->params.height ||
        !kin_tensor_is_contiguous(rgb))
        return kin_fail(err, KIN_ERR_SHAPE, "video: frames %s must be u8 [F,%lld,%lld,3]",
                        kin_tensor_describe(rgb, text, sizeof text), (long long)v->params.height,
                        (long long)v->params.width);
    int64_t frames = n == 4 ? rgb->size[0] : 1;
    for (int64_t f = 0; f < frames; f++) {
        const uint8_t *p = (const uint8_t *)rgb->data + f * v->params.height * v->params.width * 3;
        KIN_TRY(is_mp4(v) ? put_mp4(v, p, err) : put_png(v, p, err));
        v->frames++;
    }
    return KIN_OK;
}

kin_status kin_video_close(kin_video **v, kin_error *err)
{
    kin_status status = KIN_OK;
    if (!*v)
        return KIN_OK;
    if ((*v)->frames == 0)
        status = kin_fail(err, KIN_ERR_ARG, "video: %s: must have at least one frame", (*v)->path);
    else if (is_mp4(*v))
        status = finish_mp4(*v, err);
    destroy(v);
    return status;
}

void kin_video_abort(kin_video **v)
{
    destroy(v);
}

kin_status kin_video_write(const char *path, const kin_video_params *params, const kin_tensor *rgb,
                           kin_error *err)
{
    kin_video *v;
    KIN_TRY(kin_video_open(path, params, &v, err));
    kin_status status = kin_video_put(v, rgb, err);
    if (status == KIN_OK)
        return kin_video_close(&v, err);
    kin_video_abort(&v);
    return status;
}
