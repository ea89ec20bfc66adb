/* Writing of clips: names, PNG files; the other kinds are in container.c. Reading is in
 * video_read.c. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <libavutil/rational.h>

#include "base/alloc.h"
#include "io/container.h"
#include "io/image.h"
#include "io/png.h"

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

/* ---- the public calls ---- */

static void destroy(kin_video **video)
{
    kin_video *v = *video;
    if (!v)
        return;
    if (v->container)
        kin_container_release(v);
    kin_free(v);
    *video = NULL;
}

/* Where a container grows. */
static kin_status set_temp(kin_video *v, const char *path, kin_error *err)
{
    if (strcmp(path, "-") == 0) {
        strcpy(v->path, "standard output");
        return KIN_OK;
    }
    if (kin_path_is_dir(path))
        return kin_fail(err, KIN_ERR_IO, "video: %s: is a folder", path);
    if (snprintf(v->temp, sizeof v->temp, "%s.tmp.%ld", path, (long)getpid()) < KIN_PATH_MAX)
        return KIN_OK;
    v->temp[0] = 0;
    return kin_fail(err, KIN_ERR_ARG, "video: name \"%.80s...\" is too long", path);
}

kin_status kin_video_open(const char *path, const kin_video_params *params, kin_video **out,
                          kin_error *err)
{
    kin_status status = KIN_OK;
    *out = NULL;
    KIN_TRY(check_params(params, err));
    const kin_container *container = kin_container_of(path, params->animated);
    if ((!container && strcmp(kin_path_ext(path), "png") != 0) || strlen(path) >= KIN_PATH_MAX)
        return kin_fail(err, KIN_ERR_ARG,
                        "video: name \"%.200s\" must end in .mp4, .y4m, .apng, .gif or .png", path);
    kin_video *v = kin_calloc(1, sizeof *v);
    if (!v)
        return kin_fail(err, KIN_ERR_MEM, "video: no memory");
    strcpy(v->path, path);
    v->params = *params;
    v->container = container;
    if (container) {
        KIN_GOTO(set_temp(v, path, err));
        KIN_GOTO(kin_container_open(v, err));
        v->params.metadata = NULL;
    }
    *out = v;
done:
    if (status != KIN_OK)
        destroy(&v);
    return status;
}

static kin_status put_frame(kin_video *v, const uint8_t *rgb, kin_error *err)
{
    return v->container->put ? v->container->put(v, rgb, err)
                             : kin_container_encode_rgb(v, rgb, err);
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
        KIN_TRY(v->container ? put_frame(v, p, err) : put_png(v, p, err));
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
    else if ((*v)->container)
        status = kin_container_close(*v, err);
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
