/* cli/output.h: where generated clips go, by the output's name: x.mp4, x-%03d.mp4, x.png (frames
 * side by side), out/%03d.png (one file per frame, or per clip of one frame). */
#ifndef KIN_CLI_OUTPUT_H
#define KIN_CLI_OUTPUT_H

#include "io/video.h"
#include "tensor/tensor.h"

typedef struct kin_output {
    const char *name; /* borrowed */
    bool mp4, pattern;
    int64_t count;
    double fps;
    const char *prompt, *settings, *hash; /* metadata; borrowed, may be NULL */
    uint64_t seed;
} kin_output;

/* Checks name against the number of clips. KIN_ERR_ARG names the rule. Fill the metadata
 * afterwards. */
kin_status kin_output_init(kin_output *o, const char *name, int64_t count, kin_error *err);
/* Once the frames per clip are known: a PNG sequence holds one clip, or clips of one frame. */
kin_status kin_output_check_frames(const kin_output *o, int64_t frames, kin_error *err);
/* Makes the folder of the output. */
kin_status kin_output_prepare(const kin_output *o, kin_error *err);
/* Writes clip number `clip`, frames u8 [F,H,W,3], and its name (as the user sees it) into path. */
kin_status kin_output_put(const kin_output *o, int64_t clip, const kin_tensor *frames,
                          char path[KIN_PATH_MAX], kin_error *err);
/* Memory that writing one clip takes, beyond its frames: an estimate fitted to what libx264 was
 * seen to take. */
uint64_t kin_output_bytes(const kin_output *o, int64_t frames, int64_t height, int64_t width);
/* Where the settings are saved: x.mp4.json, or generate.json in the folder of a pattern. */
kin_status kin_output_settings_path(const kin_output *o, char path[KIN_PATH_MAX], kin_error *err);

#endif
