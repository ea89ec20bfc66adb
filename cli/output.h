/* cli/output.h: where generated clips go, by the output's name: x.mp4 (.y4m, .gif, .apng),
 * x-%03d.mp4, x.png (frames side by side; with a grid in rows and columns, or all images of a
 * batch), out/%03d.png (one file per frame, or per clip of one frame; with a grid a sheet per
 * clip), x.npz (clips of one frame in a NumPy archive), "-" (one clip as y4m on standard output).
 */
#ifndef KIN_CLI_OUTPUT_H
#define KIN_CLI_OUTPUT_H

#include "cli/classes.h"
#include "io/npz.h"
#include "io/video.h"
#include "tensor/tensor.h"

typedef enum kin_output_kind { KIN_OUTPUT_CLIP, KIN_OUTPUT_PNG, KIN_OUTPUT_NPZ } kin_output_kind;

/* How pictures are arranged. {0}: as the name alone says. */
typedef struct kin_output_look {
    bool animated;    /* x.png is an APNG */
    const char *grid; /* "4x4": a sheet of so many columns and rows; NULL */
} kin_output_look;

typedef struct kin_output {
    const char *name; /* borrowed */
    kin_output_kind kind;
    bool pattern;          /* the name holds a number */
    bool piped;            /* "-": standard output */
    bool animated;         /* a PNG that holds a clip */
    int64_t columns, rows; /* of a sheet, 0: none */
    uint8_t *images;       /* of a sheet of several clips, owned: those that came so far */
    int64_t count;
    double fps;
    const char *prompt, *settings, *hash; /* metadata; borrowed, may be NULL */
    uint64_t seed;
    const kin_classes *classes; /* of the clips, for metadata and labels; borrowed, may be NULL */
    kin_npz *npz;               /* open archive, owned */
} kin_output;

/* Checks name and look (NULL: {0}) against the number of clips. KIN_ERR_ARG names the rule. Fill
 * the metadata afterwards. Close: kin_output_close. */
kin_status kin_output_init(kin_output *o, const char *name, int64_t count,
                           const kin_output_look *look, kin_error *err);
/* Frees what it collected and closes the archive. Safe on {0}. */
void kin_output_close(kin_output *o);
/* Once the frames per clip are known: a PNG sequence holds one clip, or clips of one frame. */
kin_status kin_output_check_frames(const kin_output *o, int64_t frames, kin_error *err);
/* True if the output is a series of clips, each whole by itself, that a later call can complete. */
bool kin_output_is_series(const kin_output *o, int64_t frames);
/* Turns height and width of a frame into those of the pictures that a PNG output holds, for clips
 * of so many frames. */
void kin_output_picture(const kin_output *o, int64_t frames, int64_t *height, int64_t *width);
/* Makes the folder of the output. */
kin_status kin_output_prepare(const kin_output *o, kin_error *err);
/* Name of the file of clip number `clip`; the output's own name where there is one alone. */
kin_status kin_output_path(const kin_output *o, int64_t clip, char path[KIN_PATH_MAX],
                           kin_error *err);
/* Writes clip number `clip`, frames u8 [F,H,W,3]. Calls for one output must not overlap. Images for
 * one sheet are kept until the last of them is there. */
kin_status kin_output_put(kin_output *o, int64_t clip, const kin_tensor *frames, kin_error *err);
/* Memory that writing takes, beyond the frames of a clip: an estimate, for MP4 fitted to what
 * libx264 was seen to take. */
uint64_t kin_output_bytes(const kin_output *o, int64_t frames, int64_t height, int64_t width);
/* Where the settings are saved: x.mp4.json; for a pattern generate.json in its folder, behind what
 * the pattern begins with (a-%03d.mp4: a-generate.json). */
kin_status kin_output_settings_path(const kin_output *o, char path[KIN_PATH_MAX], kin_error *err);

#endif
