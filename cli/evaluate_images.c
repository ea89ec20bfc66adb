/* cli/evaluate_images.c: `kinema evaluate` of image models; suite loss: training/image_loss.h. */
#include <stdio.h>
#include <string.h>

#include "cli/evaluate.h"
#include "cli/signals.h"
#include "training/image_loss.h"

static kin_status on_progress(void *user, const char *what, int64_t done, int64_t total,
                              kin_error *err)
{
    kin_progress *p = user;
    if (!p->what || strcmp(p->what, what) != 0)
        kin_progress_begin(p, what, "images", total);
    kin_progress_update(p, done, NULL, false);
    if (done == total)
        kin_progress_end(p);
    return kin_signals_check("evaluate", err);
}

static bool add_times(cJSON *root, const char *key, const kin_image_loss *loss, const double *at)
{
    cJSON *o = cJSON_AddObjectToObject(root, key);
    for (int k = 0; o && k < KIN_IMAGE_LOSS_TIMES; k++) {
        char name[32];
        snprintf(name, sizeof name, "%g", loss->time[k]);
        if (!cJSON_AddNumberToObject(o, name, at[k]))
            return false;
    }
    return o != NULL;
}

static bool add_errors(cJSON *root, const kin_image_loss *loss, const double *at, double mean)
{
    return add_times(root, loss->ddpm ? "prediction_error" : "velocity_error", loss, at) &&
           cJSON_AddNumberToObject(root, "mean", mean);
}

static bool add_bound(cJSON *root, const kin_image_loss *loss)
{
    return !loss->has_vb || (add_times(root, "bound_bits", loss, loss->vb) &&
                             cJSON_AddNumberToObject(root, "bound_mean", loss->vb_mean) &&
                             cJSON_AddNumberToObject(root, "hybrid", loss->mean + loss->vb_mean));
}

static bool add_linear(cJSON *root, const kin_image_loss *loss)
{
    if (!loss->has_linear)
        return cJSON_AddNullToObject(root, "linear_denoiser") != NULL;
    cJSON *o = cJSON_AddObjectToObject(root, "linear_denoiser");
    return o && cJSON_AddNumberToObject(o, "training_images", (double)loss->training_images) &&
           add_errors(o, loss, loss->linear_at, loss->linear_mean);
}

static kin_status report(const kin_args *args, const kin_pipeline *pipeline,
                         const kin_image_loss *loss, kin_error *err)
{
    cJSON *root;
    KIN_TRY(kin_evaluate_report_open(args, "loss", "model_hash", pipeline->hash, &root, err));
    bool ok = cJSON_AddNumberToObject(root, "images", (double)loss->images) &&
              add_errors(root, loss, loss->at, loss->mean) && add_bound(root, loss) &&
              add_linear(root, loss);
    return kin_evaluate_report_close(root, KIN_OK, ok, err);
}

static bool is_given(const kin_args *args, const char *flag)
{
    return kin_args_source(args, flag) > KIN_SOURCE_DEFAULT;
}

kin_status kin_evaluate_image_loss(const kin_args *args, kin_pipeline *pipeline,
                                   kin_progress *progress, kin_error *err)
{
    kin_image_loss loss;
    const kin_image_loss_options opt = {
        .data = kin_args_text(args, "data"),
        /* note: the defaults of both are meant for clips */
        .count = is_given(args, "count") ? kin_args_int(args, "count") : 0,
        .batch = is_given(args, "batch") ? kin_args_int(args, "batch") : 64,
        .seed = (uint64_t)kin_args_int(args, "seed"),
        .progress = on_progress,
        .user = progress};
    KIN_TRY(kin_image_loss_run(pipeline, &opt, &loss, err));
    return report(args, pipeline, &loss, err);
}
