#include "training/picture_features.h"

#include <string.h>

#include "base/alloc.h"
#include "base/path.h"
#include "io/class_folder.h"
#include "io/npy.h"
#include "training/feature_file.h"
#include "vision/crop.h"
#include "vision/frames.h"

/* Where pictures come from, one after the other. */
typedef struct pictures {
    kin_class_folder *folder;
    kin_npy *npy;
    uint8_t *row; /* one picture of an archive */
    int64_t count, height, width, next;
} pictures;

bool kin_picture_features_applies(const char *path)
{
    kin_npy *f;
    if (!kin_feature_file_is(path))
        return true;
    if (strcmp(kin_path_ext(path), "safetensors") == 0 ||
        kin_npy_open(path, NULL, &f, NULL) != KIN_OK)
        return false;
    const bool yes = kin_npy_get_info(f)->ndim == 4;
    kin_npy_close(&f);
    return yes;
}

static kin_status open_archive(pictures *p, const char *path, kin_error *err)
{
    KIN_TRY(kin_npy_open(path, NULL, &p->npy, err));
    const kin_npy_info *info = kin_npy_get_info(p->npy);
    p->count = info->size[0];
    p->height = info->size[1];
    p->width = info->size[2];
    if (info->ndim != 4 || info->dtype != KIN_DTYPE_U8 || info->size[3] != 3 || p->count < 1 ||
        p->height < 1 || p->width < 1 || p->height > KIN_IMAGE_MAX_SIDE ||
        p->width > KIN_IMAGE_MAX_SIDE)
        return kin_fail(err, KIN_ERR_FORMAT, "%s: pictures must be u8 [N,H,W,3]", path);
    p->row = kin_malloc((size_t)(p->height * p->width) * 3);
    return p->row ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "%s: no memory for a picture", path);
}

static kin_status pictures_open(pictures *p, const kin_picture_features_options *opt,
                                kin_error *err)
{
    const char *const parts[] = {opt->part ? opt->part : "", NULL};
    if (kin_feature_file_is(opt->path))
        return open_archive(p, opt->path, err);
    KIN_TRY(kin_class_folder_open(opt->path, parts, &p->folder, err));
    p->count = kin_class_folder_count(p->folder);
    return KIN_OK;
}

static void pictures_close(pictures *p)
{
    kin_class_folder_close(&p->folder);
    kin_npy_close(&p->npy);
    kin_free(p->row);
}

/* The next picture, cropped, as x [3,1,s,s]. scratch u8 [s,s,3]. */
static kin_status pictures_next(pictures *p, uint8_t *scratch, kin_tensor *x, kin_error *err)
{
    const int64_t side = x->size[2];
    kin_image image = {0};
    kin_tensor src = KIN_TENSOR(p->row, KIN_DTYPE_U8, p->height, p->width, 3),
               dst = KIN_TENSOR(scratch, KIN_DTYPE_U8, side, side, 3),
               frame = KIN_TENSOR(scratch, KIN_DTYPE_U8, 1, side, side, 3);
    if (p->npy) {
        KIN_TRY(kin_npy_read(p->npy, p->height * p->width * 3, KIN_DTYPE_U8, p->row, err));
    } else {
        KIN_TRY(kin_class_folder_image(p->folder, p->next, &image, err));
        src = kin_image_tensor(&image);
    }
    kin_status status = kin_adm_crop(&src, &dst, err);
    kin_image_free(&image);
    p->next++;
    return status == KIN_OK ? kin_frames_to_tensor(&frame, x, err) : status;
}

/* Features of the next n pictures. */
static kin_status run_batch(kin_pipeline *c, pictures *p, int64_t n, uint8_t *scratch,
                            float *features, kin_error *err)
{
    kin_ctx *ctx = c->ctx;
    const kin_model_info *info = kin_model_get_info(c->model);
    const int64_t side = info->input_size;
    const size_t mark = kin_ws_mark(ctx);
    kin_tensor x;
    kin_model_output out;
    kin_status status = KIN_OK;
    if (KIN_WS_HOST(ctx, &x, KIN_DTYPE_F32, n, 3, side, side) != KIN_OK) {
        *err = ctx->error;
        return err->status;
    }
    for (int64_t b = 0; b < n; b++) {
        kin_tensor one =
            KIN_TENSOR((float *)x.data + b * 3 * side * side, KIN_DTYPE_F32, 3, 1, side, side);
        KIN_GOTO(pictures_next(p, scratch, &one, err));
    }
    const kin_model_input in = {.x = &x};
    status = kin_model_forward(ctx, c->model, &in, &out);
    if (status == KIN_OK)
        status = kin_host(ctx, &out.y, &out.y);
    if (status == KIN_OK)
        memcpy(features, out.y.data, (size_t)(n * info->inner) * sizeof *features);
    else
        *err = ctx->error;
done:
    kin_ws_release(ctx, mark);
    return status;
}

static kin_status run_all(kin_pipeline *c, pictures *p, const kin_picture_features_options *opt,
                          kin_features *out, kin_error *err)
{
    const kin_model_info *info = kin_model_get_info(c->model);
    kin_status status = KIN_OK;
    uint8_t *scratch = kin_malloc((size_t)(info->input_size * info->input_size) * 3);
    *out = (kin_features){.count = p->count, .dim = info->inner};
    out->rows = kin_malloc((size_t)(out->count * out->dim) * sizeof *out->rows);
    if (!scratch || !out->rows)
        KIN_GOTO(kin_fail(err, KIN_ERR_MEM, "features: out of memory"));
    for (int64_t at = 0; at < p->count; at += opt->batch) {
        const int64_t n = p->count - at < opt->batch ? p->count - at : opt->batch;
        KIN_GOTO(run_batch(c, p, n, scratch, out->rows + at * out->dim, err));
        if (opt->progress)
            KIN_GOTO(opt->progress(opt->user, at + n, p->count, err));
    }
done:
    kin_free(scratch);
    return status;
}

kin_status kin_picture_features_run(kin_pipeline *classifier,
                                    const kin_picture_features_options *opt, kin_features *out,
                                    kin_error *err)
{
    pictures p = {0};
    *out = (kin_features){0};
    const kin_model_info *info = kin_model_get_info(classifier->model);
    if (info->family != KIN_FAMILY_CLASSIFIER || info->in_channels != 3)
        return kin_fail(err, KIN_ERR_ARG,
                        "features: the model must be an image classifier (train --objective "
                        "classify), it is a %s",
                        kin_family_name(info->family));
    kin_status status = pictures_open(&p, opt, err);
    if (status == KIN_OK)
        status = run_all(classifier, &p, opt, out, err);
    pictures_close(&p);
    if (status != KIN_OK) {
        kin_free(out->rows);
        *out = (kin_features){0};
    }
    return status;
}
