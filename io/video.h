/* io/video.h: clips. Writing: H.264 MP4, y4m, APNG, GIF or PNG files, by the output's name.
 * Reading: through FFmpeg's demuxers and decoders, from memory, one frame at a time. Frames are u8
 * [H,W,3] or [F,H,W,3] RGB. */
#ifndef KIN_IO_VIDEO_H
#define KIN_IO_VIDEO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/path.h"
#include "base/status.h"
#include "tensor/tensor.h"

/* ---- names of outputs: "out/%04d.png" stands for one file per number ---- */

/* True if name holds a number pattern (%d, %3d, %03d; "%%" is a percent sign). */
bool kin_output_has_index(const char *name);
/* Puts `index` into the pattern. Fails: KIN_ERR_ARG for no or a second pattern, or any other use of
 * '%'. */
kin_status kin_output_name(char out[KIN_PATH_MAX], const char *pattern, int64_t index,
                           kin_error *err);

/* ---- writing ---- */

typedef struct kin_video_params {
    int64_t width, height;    /* pixels, 1..16384; odd sizes come back as they went in */
    int64_t fps_num, fps_den; /* frames per second, exact */
    int crf;                  /* H.264 quality, 0 (lossless but for the colour conversion) .. 51 */
    bool chroma_444;          /* full colour resolution (4:4:4); odd sizes always have it */
    bool animated;            /* NAME.png is one animated file (APNG), not a picture */
    int64_t first_index;      /* number of the first file of a PNG sequence */
    const char *const
        *metadata; /* {key, value, ..., NULL} or NULL; PNG text as given, MP4: "title", "comment" */
} kin_video_params;
kin_video_params
kin_video_params_default(void); /* 16 fps, crf 17, 4:2:0 for even sizes; sizes must be set */

/* The exact rate for a decimal one: 16 -> 16/1, 29.97 -> 30000/1001, 23.976 -> 24000/1001.
 * KIN_ERR_ARG outside (0, 1000]. */
kin_status kin_video_fps(double fps, int64_t *num, int64_t *den, kin_error *err);

typedef struct kin_video kin_video;
/* A kind of file that holds a whole clip (io/container.c). */
typedef struct kin_container kin_container;

/* The kind that path's extension (or "-", standard output: y4m) names, NULL for .png without
 * `animated` and for names of no kind. */
const kin_container *kin_container_of(const char *path, bool animated);
/* True if a file of that kind may begin with these bytes. */
bool kin_video_looks_like(const char *path, bool animated, const void *head, size_t bytes);

/* Starts an output: NAME.mp4, .y4m, .apng or .gif, "-" (y4m on standard output), a PNG pattern, or
 * NAME.png (then exactly one frame). A clip's file grows in NAME.tmp.PID; the bytes depend on the
 * frames, the parameters and the library version alone. A GIF has 256 colours, and its times are
 * rounded to hundredths of a second (their sum stays right); metadata goes into MP4 and PNG alone.
 * Fails: KIN_ERR_ARG (name, size, rate; GIF: above 50 frames per second), KIN_ERR_IO,
 * KIN_ERR_BACKEND, KIN_ERR_MEM. */
kin_status kin_video_open(const char *path, const kin_video_params *params, kin_video **out,
                          kin_error *err);
/* Appends rgb u8 [H,W,3] or [F,H,W,3] (contiguous, the size given at open). */
kin_status kin_video_put(kin_video *v, const kin_tensor *rgb, kin_error *err);
/* Completes the file and gives it its name; its status counts. *v is NULL afterwards, also on
 * failure (then nothing is left). */
kin_status kin_video_close(kin_video **v, kin_error *err);
/* Gives up: no clip appears; PNG files already written stay. */
void kin_video_abort(kin_video **v);
/* All of the above for one clip. */
kin_status kin_video_write(const char *path, const kin_video_params *params, const kin_tensor *rgb,
                           kin_error *err);

/* ---- reading ---- */

typedef struct kin_video_info {
    int64_t coded_width, coded_height; /* as stored */
    int64_t width, height;             /* as displayed: rotation by +-90 swaps them */
    int rotation;          /* degrees as FFmpeg reports them: -180..180, 0 when there is none */
    char pixel_format[32]; /* "yuv420p" */
    double fps;            /* average; 0 when unknown */
    int64_t samples;       /* frames the index promises; 0 when there is no index */
} kin_video_info;

/* A decoder over bytes that must stay until close. Audio and other streams are ignored. */
typedef struct kin_video_reader kin_video_reader;
kin_status kin_video_reader_open(const void *data, size_t bytes, const char *where,
                                 kin_video_reader **out, kin_error *err);
const kin_video_info *
kin_video_reader_info(const kin_video_reader *r); /* of the frame last decoded, once there is one */
/* Decodes the next frame. *rgb: u8 [height,width,3] as displayed, valid until the next call; NULL
 * at the end. want_rgb false skips the conversion (*rgb is then non-NULL but holds nothing new).
 * *pts: seconds. Fails: KIN_ERR_FORMAT for damaged data and for fewer frames than the index
 * promises; KIN_ERR_MEM. */
kin_status kin_video_reader_next(kin_video_reader *r, bool want_rgb, const uint8_t **rgb,
                                 double *pts, kin_error *err);
void kin_video_reader_close(kin_video_reader **r);

/* A decoded clip. */
typedef struct kin_clip {
    int64_t frames, height, width;
    uint8_t *rgb;  /* [F,H,W,3], kin_malloc */
    double *pts;   /* [F] seconds, kin_malloc */
    int64_t total; /* frames the file holds */
    kin_video_info info;
} kin_clip;
void kin_clip_free(kin_clip *clip);               /* sets {0}; safe on {0} */
kin_tensor kin_clip_tensor(const kin_clip *clip); /* view u8 [F,H,W,3] */

typedef struct kin_video_select {
    int64_t num_frames; /* 0: all; else so many, evenly: index round(i*(total-1)/(num_frames-1)); a
                           shorter clip repeats frames */
    int64_t max_frames; /* of the file; 0: 100000 */
    size_t max_bytes;   /* of the frames kept; 0: 200 MB */
} kin_video_select;

/* Reads a clip. select NULL: all frames. Fails: KIN_ERR_IO, KIN_ERR_FORMAT, KIN_ERR_MEM (over a
 * limit), naming the file. */
kin_status kin_video_read(const char *path, const kin_video_select *select, kin_clip *out,
                          kin_error *err);
kin_status kin_video_decode(const void *data, size_t bytes, const char *where,
                            const kin_video_select *select, kin_clip *out, kin_error *err);

#endif
