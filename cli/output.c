#include "cli/output.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "io/png.h"

enum { STRIP_FRAMES = 16 }; /* frames side by side in one row of a picture */

kin_status kin_output_init(kin_output *o, const char *name, int64_t count, kin_error *err)
{
    char sample[KIN_PATH_MAX];
    const char *ext = kin_path_ext(name);
    memset(o, 0, sizeof *o);
    o->name = name;
    o->count = count;
    o->pattern = kin_output_has_index(name);
    if (strcasecmp(ext, "mp4") == 0)
        o->kind = KIN_OUTPUT_MP4;
    else if (strcasecmp(ext, "png") == 0)
        o->kind = KIN_OUTPUT_PNG;
    else if (strcasecmp(ext, "npz") == 0)
        o->kind = KIN_OUTPUT_NPZ;
    else
        return kin_fail(err, KIN_ERR_ARG, "output: '%s' must end in .mp4, .png or .npz", name);
    if (o->kind == KIN_OUTPUT_NPZ)
        return o->pattern ? kin_fail(err, KIN_ERR_ARG,
                                     "output: '%s' holds all images, it needs no number", name)
                          : KIN_OK;
    if (o->pattern && !kin_output_has_index(kin_path_base(name)))
        return kin_fail(err, KIN_ERR_ARG, "output: '%s' must have the number in the file's name",
                        name);
    if (o->pattern)
        return kin_output_name(sample, name, 0, err);
    if (count > 1)
        return kin_fail(err, KIN_ERR_ARG,
                        "output: '%s' takes one clip; %lld clips need a number, e.g. clip-%%03d.%s",
                        name, (long long)count, ext);
    return KIN_OK;
}

kin_status kin_output_check_frames(const kin_output *o, int64_t frames, kin_error *err)
{
    if (o->kind == KIN_OUTPUT_NPZ && frames > 1)
        return kin_fail(err, KIN_ERR_ARG, "output: '%s' holds images, not clips of %lld frames",
                        o->name, (long long)frames);
    if (o->kind == KIN_OUTPUT_PNG && o->pattern && frames > 1 && o->count > 1)
        return kin_fail(
            err, KIN_ERR_ARG,
            "output: '%s' holds the frames of one clip, not of %lld; use clip-%%03d.mp4", o->name,
            (long long)o->count);
    return KIN_OK;
}

bool kin_output_is_series(const kin_output *o, int64_t frames)
{
    return o->kind == KIN_OUTPUT_NPZ || (o->pattern && (o->kind == KIN_OUTPUT_MP4 || frames == 1));
}

kin_status kin_output_prepare(const kin_output *o, kin_error *err)
{
    char dir[KIN_PATH_MAX];
    KIN_TRY(kin_path_dir(dir, o->name, err));
    return kin_path_make_dirs(dir, err);
}

kin_status kin_output_settings_path(const kin_output *o, char path[KIN_PATH_MAX], kin_error *err)
{
    /* note: kin_output_init saw a number behind the last slash; "%%" is none */
    size_t stem = strlen(o->name);
    if (o->pattern) {
        stem = (size_t)(kin_path_base(o->name) - o->name);
        while (o->name[stem] != '%' || o->name[stem + 1] == '%')
            stem += o->name[stem] == '%' ? 2 : 1;
    }
    int n = snprintf(path, KIN_PATH_MAX, "%.*s%s", (int)stem, o->name,
                     o->pattern ? "generate.json" : ".json");
    return n < KIN_PATH_MAX ? KIN_OK : kin_fail(err, KIN_ERR_ARG, "output: the name is too long");
}

kin_status kin_output_path(const kin_output *o, int64_t clip, char path[KIN_PATH_MAX],
                           kin_error *err)
{
    if (o->pattern)
        return kin_output_name(path, o->name, clip, err);
    return kin_path_join(path, NULL, o->name, err);
}

uint64_t kin_output_bytes(const kin_output *o, int64_t frames, int64_t height, int64_t width)
{
    double pixels = (double)height * (double)width;
    if (o->kind != KIN_OUTPUT_MP4)
        return (uint64_t)(2e6 + (o->pattern ? 4 : 3 * (double)frames) * pixels);
    /* measured at 32x32 to 1024x1024, 16 to 64 frames: the encoder holds up to about 52 frames */
    double held = frames < 52 ? (double)frames : 52, share = (height | width) & 1 ? 1 : 0.6;
    return (uint64_t)(8e6 + share * pixels * (88 + 4.3 * held));
}

/* Frames side by side, rows of STRIP_FRAMES, as one picture. */
static kin_status put_strip(const char *path, const kin_tensor *frames, const char *const *metadata,
                            kin_error *err)
{
    int64_t F = frames->size[0], H = frames->size[1], W = frames->size[2];
    int64_t columns = F < STRIP_FRAMES ? F : STRIP_FRAMES, rows = (F + columns - 1) / columns;
    size_t line = (size_t)(columns * W) * 3, bytes;
    if (!kin_mul_size(line, (size_t)(rows * H), &bytes))
        return kin_fail(err, KIN_ERR_ARG, "output: the picture is too large");
    uint8_t *rgb = kin_calloc(bytes, 1);
    if (!rgb)
        return kin_fail(err, KIN_ERR_MEM, "output: out of memory");
    const uint8_t *in = frames->data;
    for (int64_t f = 0; f < F; f++)
        for (int64_t y = 0; y < H; y++)
            memcpy(rgb + (size_t)((f / columns) * H + y) * line + (size_t)((f % columns) * W) * 3,
                   in + (size_t)((f * H + y) * W) * 3, (size_t)W * 3);
    kin_tensor picture = KIN_TENSOR(rgb, KIN_DTYPE_U8, rows * H, columns * W, 3);
    kin_status status = kin_png_write(path, &picture, metadata, err);
    kin_free(rgb);
    return status;
}

kin_status kin_output_put(const kin_output *o, int64_t clip, const kin_tensor *frames,
                          kin_error *err)
{
    char seed[32], class[32], path[KIN_PATH_MAX];
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)o->seed);
    if (o->classes)
        snprintf(class, sizeof class, "%d", (int)kin_classes_at(o->classes, o->seed, clip));
    const char *prompt = o->prompt ? o->prompt : "", *settings = o->settings ? o->settings : "";
    const char *png[] = {o->classes ? "class" : "prompt",
                         o->classes ? class : prompt,
                         "seed",
                         seed,
                         "model_hash",
                         o->hash ? o->hash : "",
                         "settings",
                         settings,
                         "Software",
                         "kinema " KIN_VERSION,
                         NULL};
    const char *mp4[] = {"title", prompt, "comment", settings, NULL};
    kin_video_params params = kin_video_params_default();
    if (o->kind == KIN_OUTPUT_NPZ)
        return kin_npz_put(o->npz, frames->data, err);
    params.height = frames->size[1];
    params.width = frames->size[2];
    params.crf = 12;
    params.metadata = o->kind == KIN_OUTPUT_MP4 ? mp4 : png;
    KIN_TRY(kin_video_fps(o->fps, &params.fps_num, &params.fps_den, err));
    KIN_TRY(kin_output_path(o, clip, path, err));
    if (o->kind == KIN_OUTPUT_MP4)
        return kin_video_write(path, &params, frames, err);
    if (!o->pattern)
        return put_strip(path, frames, png, err);
    params.first_index = frames->size[0] == 1 ? clip : 0;
    return kin_video_write(o->name, &params, frames, err);
}
