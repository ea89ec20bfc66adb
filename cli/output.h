/* cli/output.h: where generated clips go, by the output's name: x.mp4, x-%03d.mp4, x.png (frames
 * side by side), out/%03d.png (one file per frame, or per clip of one frame), x.npz (clips of one
 * frame in a NumPy archive). */
#ifndef KIN_CLI_OUTPUT_H
#define KIN_CLI_OUTPUT_H

#include "cli/classes.h"
#include "io/npz.h"
#include "io/video.h"
#include "tensor/tensor.h"

typedef enum kin_output_kind { KIN_OUTPUT_MP4, KIN_OUTPUT_PNG, KIN_OUTPUT_NPZ } kin_output_kind;

typedef struct kin_output {
    const char *name; /* borrowed */
    kin_output_kind kind;
    bool pattern; /* the name holds a number */
    int64_t count;
    double fps;
    const char *prompt, *settings, *hash; /* metadata; borrowed, may be NULL */
    uint64_t seed;
    const kin_classes *classes; /* of the clips, for metadata and labels; borrowed, may be NULL */
    kin_npz *npz;               /* open archive; borrowed by kin_output_put */
} kin_output;

/* Checks name against the number of clips. KIN_ERR_ARG names the rule. Fill the metadata
 * afterwards. */
kin_status kin_output_init(kin_output *o, const char *name, int64_t count, kin_error *err);
/* Once the frames per clip are known: a PNG sequence holds one clip, or clips of one frame. */
kin_status kin_output_check_frames(const kin_output *o, int64_t frames, kin_error *err);
/* True if the output is a series of clips, each whole by itself, that a later call can complete. */
bool kin_output_is_series(const kin_output *o, int64_t frames);
/* Makes the folder of the output. */
kin_status kin_output_prepare(const kin_output *o, kin_error *err);
/* Name of the file of clip number `clip`; the output's own name where there is one alone. */
kin_status kin_output_path(const kin_output *o, int64_t clip, char path[KIN_PATH_MAX],
                           kin_error *err);
/* Writes clip number `clip`, frames u8 [F,H,W,3]. Calls for one output must not overlap. */
kin_status kin_output_put(const kin_output *o, int64_t clip, const kin_tensor *frames,
                          kin_error *err);
/* Memory that writing one clip takes, beyond its frames: an estimate fitted to what libx264 was
 * seen to take. */
uint64_t kin_output_bytes(const kin_output *o, int64_t frames, int64_t height, int64_t width);
/* Where the settings are saved: x.mp4.json; for a pattern generate.json in its folder, behind what
 * the pattern begins with (a-%03d.mp4: a-generate.json). */
kin_status kin_output_settings_path(const kin_output *o, char path[KIN_PATH_MAX], kin_error *err);

#endif
