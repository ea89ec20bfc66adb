/* io/av.h: what video and JPEG share of FFmpeg. Only files of io/ include it. */
#ifndef KIN_IO_AV_H
#define KIN_IO_AV_H

#include <stdint.h>

#include <libavutil/frame.h>
#include <libswscale/swscale.h>

#include "base/status.h"

/* Silences FFmpeg's messages and bounds its single allocations. Any number of times, from any
 * thread. */
void kin_av_init(void);

/* KIN_ERR_MEM for AVERROR(ENOMEM), else `otherwise`; the text is FFmpeg's, behind "what: where: ".
 */
kin_status kin_av_fail(kin_error *err, kin_status otherwise, const char *what, const char *where,
                       int code);

/* A conversion to RGB8 kept between frames; {0} is an empty one. */
typedef struct kin_av_scaler {
    struct SwsContext *sws;
    int width, height, format, range, space, left;
} kin_av_scaler;
void kin_av_scaler_free(kin_av_scaler *scaler);

/* Converts a decoded frame to RGB8 [height,width,3] by its own colour tags (untagged: BT.601, as
 * FFmpeg takes it). Subsampled colour is interpolated from where the tags say its samples lie
 * (untagged: on the left pixel). */
kin_status kin_av_to_rgb(kin_av_scaler *scaler, const AVFrame *frame, uint8_t *rgb,
                         const char *where, kin_error *err);

#endif
