/* io/container.h: the kinds of file that hold a whole clip, and the writer they share: frames
 * through one FFmpeg encoder into one FFmpeg muxer. Only files of io/ include it; a new kind is a
 * row in container.c. */
#ifndef KIN_IO_CONTAINER_H
#define KIN_IO_CONTAINER_H

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libswscale/swscale.h>

#include "base/path.h"
#include "io/video.h"

struct kin_container {
    const char *extension;       /* of the names, "mp4" */
    const char *muxer, *encoder; /* FFmpeg's names */
    const char *muxing;          /* the muxer's options, "key=value:...", or NULL */
    const char *magic;           /* every file has these bytes at magic_at */
    int magic_at;
    /* Pixel format, colours and options of v->codec, before it is opened. May refuse (ARG). */
    kin_status (*choose)(kin_video *v, kin_error *err);
    /* One frame rgb [H,W,3]; NULL: kin_container_encode_rgb. */
    kin_status (*put)(kin_video *v, const uint8_t *rgb, kin_error *err);
    /* What is left to encode at the end; NULL: nothing. */
    kin_status (*finish)(kin_video *v, kin_error *err);
};

struct kin_video {
    char path[KIN_PATH_MAX];
    char temp[KIN_PATH_MAX]; /* the file that grows; "" for PNG files and standard output */
    kin_video_params params;
    int64_t frames;
    const kin_container *container; /* NULL: PNG files; what follows is for containers alone */
    AVFormatContext *format;
    AVCodecContext *codec;
    AVStream *stream;
    AVFrame *frame;
    AVPacket *packet;
    struct SwsContext *sws; /* RGB to the encoder's format */
    uint8_t *held;          /* frames that wait for the end, owned; `room` of them fit */
    int64_t room;
};

/* Opens encoder, muxer (on v->temp, or standard output where that is "") and frame. */
kin_status kin_container_open(kin_video *v, kin_error *err);
/* Converts and encodes one frame. */
kin_status kin_container_encode_rgb(kin_video *v, const uint8_t *rgb, kin_error *err);
/* Encodes v->frame, which the caller filled, as frame number `pts`. */
kin_status kin_container_encode_frame(kin_video *v, int64_t pts, kin_error *err);
/* Drains the encoder, ends the file and gives it its name. */
kin_status kin_container_close(kin_video *v, kin_error *err);
/* Frees what kin_container_open made, and the temporary file. Safe after a failed open. */
void kin_container_release(kin_video *v);

/* GIF: frames are kept, as one palette of 256 colours is chosen for all of them. */
kin_status kin_gif_choose(kin_video *v, kin_error *err);
kin_status kin_gif_put(kin_video *v, const uint8_t *rgb, kin_error *err);
kin_status kin_gif_finish(kin_video *v, kin_error *err);

#endif
