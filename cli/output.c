#include "cli/output.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "cli/sheet.h"

enum { STRIP_FRAMES = 16 }; /* frames side by side in one row of a picture */

/* The kind that the name and the look ask for. */
static kin_status set_kind(kin_output *o, const kin_output_look *look, kin_error *err)
{
    const bool png = strcasecmp(kin_path_ext(o->name), "png") == 0;
    if (look->animated && !png)
        return kin_fail(err, KIN_ERR_ARG, "output: --animated is for a .png, not '%s'", o->name);
    if (look->animated && look->grid)
        return kin_fail(err, KIN_ERR_ARG, "output: --animated and --grid exclude each other");
    if (look->grid && !png)
        return kin_fail(err, KIN_ERR_ARG, "output: a --grid is drawn into a .png, not '%s'",
                        o->name);
    if (look->grid)
        KIN_TRY(kin_sheet_parse(look->grid, &o->columns, &o->rows, err));
    o->piped = strcmp(o->name, "-") == 0;
    o->animated = look->animated;
    if (kin_container_of(o->name, o->animated))
        o->kind = KIN_OUTPUT_CLIP;
    else if (png)
        o->kind = KIN_OUTPUT_PNG;
    else if (strcasecmp(kin_path_ext(o->name), "npz") == 0)
        o->kind = KIN_OUTPUT_NPZ;
    else
        return kin_fail(err, KIN_ERR_ARG,
                        "output: '%s' must end in .mp4, .y4m, .gif, .apng, .png or .npz, or be -",
                        o->name);
    return KIN_OK;
}

static kin_status check_count(const kin_output *o, kin_error *err)
{
    if (o->count > 1 && o->columns && o->count > o->columns * o->rows)
        return kin_fail(err, KIN_ERR_ARG,
                        "output: a sheet of %lldx%lld holds %lld images, not %lld",
                        (long long)o->columns, (long long)o->rows,
                        (long long)(o->columns * o->rows), (long long)o->count);
    if (o->count > 1 && o->piped)
        return kin_fail(err, KIN_ERR_ARG, "output: - takes one clip, not %lld",
                        (long long)o->count);
    if (o->count > 1 && !o->columns)
        return kin_fail(err, KIN_ERR_ARG,
                        "output: '%s' takes one clip; %lld clips need a number, e.g. clip-%%03d.%s",
                        o->name, (long long)o->count,
                        o->kind == KIN_OUTPUT_PNG ? "mp4" : kin_path_ext(o->name));
    return KIN_OK;
}

kin_status kin_output_init(kin_output *o, const char *name, int64_t count,
                           const kin_output_look *look, kin_error *err)
{
    static const kin_output_look plain = {0};
    char sample[KIN_PATH_MAX];
    memset(o, 0, sizeof *o);
    o->name = name;
    o->count = count;
    KIN_TRY(set_kind(o, look ? look : &plain, err));
    o->pattern = kin_output_has_index(name);
    if (o->kind == KIN_OUTPUT_NPZ)
        return o->pattern ? kin_fail(err, KIN_ERR_ARG,
                                     "output: '%s' holds all images, it needs no number", name)
                          : KIN_OK;
    if (o->pattern && !kin_output_has_index(kin_path_base(name)))
        return kin_fail(err, KIN_ERR_ARG, "output: '%s' must have the number in the file's name",
                        name);
    return o->pattern ? kin_output_name(sample, name, 0, err) : check_count(o, err);
}

void kin_output_close(kin_output *o)
{
    kin_free(o->images);
    o->images = NULL;
    kin_npz_close(&o->npz);
}

kin_status kin_output_check_frames(const kin_output *o, int64_t frames, kin_error *err)
{
    if (o->kind == KIN_OUTPUT_NPZ && frames > 1)
        return kin_fail(err, KIN_ERR_ARG, "output: '%s' holds images, not clips of %lld frames",
                        o->name, (long long)frames);
    if (o->columns && (frames > 1 ? o->count > 1 && !o->pattern : o->pattern))
        return kin_fail(err, KIN_ERR_ARG,
                        frames > 1 ? "output: '%s': a sheet per clip needs a number in the name"
                                   : "output: '%s': images share one sheet, which needs no number",
                        o->name);
    if (o->kind == KIN_OUTPUT_PNG && !o->columns && o->pattern && frames > 1 && o->count > 1)
        return kin_fail(
            err, KIN_ERR_ARG,
            "output: '%s' holds the frames of one clip, not of %lld; use clip-%%03d.mp4", o->name,
            (long long)o->count);
    return KIN_OK;
}

bool kin_output_is_series(const kin_output *o, int64_t frames)
{
    return o->kind == KIN_OUTPUT_NPZ ||
           (o->pattern && (o->kind == KIN_OUTPUT_CLIP || o->columns || frames == 1));
}

/* Columns and rows of the pictures, 1 x 1 where frames have files of their own. */
static void arrangement(const kin_output *o, int64_t frames, int64_t *columns, int64_t *rows)
{
    *columns = *rows = 1;
    if (o->columns) {
        *columns = o->columns;
        *rows = o->rows;
    } else if (!o->pattern) {
        *columns = frames < STRIP_FRAMES ? frames : STRIP_FRAMES;
        *rows = (frames + *columns - 1) / *columns;
    }
}

void kin_output_picture(const kin_output *o, int64_t frames, int64_t *height, int64_t *width)
{
    int64_t columns, rows;
    arrangement(o, frames, &columns, &rows);
    *height *= rows;
    *width *= columns;
}

kin_status kin_output_prepare(const kin_output *o, kin_error *err)
{
    char dir[KIN_PATH_MAX];
    if (o->piped)
        return KIN_OK;
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
    const double pixels = (double)height * (double)width, all = (double)frames * pixels;
    const bool is_mp4 = strcasecmp(kin_path_ext(o->name), "mp4") == 0;
    if (o->kind == KIN_OUTPUT_CLIP && !is_mp4) /* a GIF is kept whole, and again for its palette */
        return (uint64_t)(2e6 + 24 * pixels +
                          (strcasecmp(kin_path_ext(o->name), "gif") == 0 ? 9 * all : 0));
    if (o->columns)
        return (uint64_t)(2e6 + 3 * pixels * (double)(o->columns * o->rows + o->count));
    if (o->kind != KIN_OUTPUT_CLIP)
        return (uint64_t)(2e6 + (o->pattern ? 4 * pixels : 3 * all));
    /* measured at 32x32 to 1024x1024, 16 to 64 frames: the encoder holds up to about 52 frames */
    double held = frames < 52 ? (double)frames : 52, share = (height | width) & 1 ? 1 : 0.6;
    return (uint64_t)(8e6 + share * pixels * (88 + 4.3 * held));
}

/* Keeps an image of a batch; writes the sheet once all are there. */
static kin_status put_image(kin_output *o, int64_t clip, const kin_tensor *frames,
                            const char *const *metadata, kin_error *err)
{
    const int64_t H = frames->size[1], W = frames->size[2];
    const size_t bytes = (size_t)(H * W) * 3;
    if (!o->images && !(o->images = kin_calloc((size_t)o->count, bytes)))
        return kin_fail(err, KIN_ERR_MEM, "output: no memory for %lld images", (long long)o->count);
    memcpy(o->images + (size_t)clip * bytes, frames->data, bytes);
    if (clip + 1 < o->count)
        return KIN_OK;
    const kin_tensor all = KIN_TENSOR(o->images, KIN_DTYPE_U8, o->count, H, W, 3);
    return kin_sheet_write(o->name, &all, o->columns, o->rows, metadata, err);
}

/* Pictures: a sheet, the frames side by side, or one file for each. */
static kin_status put_png(kin_output *o, int64_t clip, const kin_tensor *frames,
                          const kin_video_params *params, const char *path, kin_error *err)
{
    int64_t columns, rows;
    arrangement(o, frames->size[0], &columns, &rows);
    if (o->columns && frames->size[0] == 1)
        return put_image(o, clip, frames, params->metadata, err);
    if (o->columns || !o->pattern)
        return kin_sheet_write(path, frames, columns, rows, params->metadata, err);
    return kin_video_write(o->name, params, frames, err);
}

kin_status kin_output_put(kin_output *o, int64_t clip, const kin_tensor *frames, kin_error *err)
{
    char seed[32], class[32], path[KIN_PATH_MAX];
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)o->seed);
    if (o->classes)
        snprintf(class, sizeof class, "%d", (int)kin_classes_at(o->classes, o->seed, clip));
    const bool classed = o->classes && !o->columns; /* a sheet shows several */
    const char *prompt = o->prompt ? o->prompt : "", *settings = o->settings ? o->settings : "";
    const char *png[] = {classed ? "class" : "prompt",
                         classed ? class : prompt,
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
    params.animated = o->animated;
    params.metadata = o->kind == KIN_OUTPUT_CLIP ? mp4 : png;
    params.first_index = frames->size[0] == 1 ? clip : 0;
    KIN_TRY(kin_video_fps(o->fps, &params.fps_num, &params.fps_den, err));
    KIN_TRY(kin_output_path(o, clip, path, err));
    return o->kind == KIN_OUTPUT_CLIP ? kin_video_write(path, &params, frames, err)
                                      : put_png(o, clip, frames, &params, path, err);
}
