/* cli/evaluate_fd.c: `kinema evaluate --suite fd`: how far made pictures are from real ones, by
 * feature vectors of both (training/frechet.h). */
#include <stdio.h>

#include "base/alloc.h"
#include "cli/evaluate.h"
#include "cli/signals.h"
#include "training/feature_file.h"
#include "training/picture_features.h"

typedef struct comparison {
    kin_features made, real;
    double distance, precision, recall;
    kin_ctx *ctx;
    kin_pipeline *classifier; /* NULL: features alone */
    kin_progress progress;
} comparison;

static kin_status on_progress(void *user, int64_t done, int64_t total, kin_error *err)
{
    comparison *c = user;
    if (c->progress.total != total || !c->progress.what)
        kin_progress_begin(&c->progress, "features", "images", total);
    kin_progress_update(&c->progress, done, NULL, false);
    return kin_signals_check("evaluate", err);
}

static kin_status load_classifier(const kin_args *args, comparison *c, kin_error *err)
{
    char dir[KIN_PATH_MAX];
    if (c->classifier)
        return KIN_OK;
    if (!kin_args_text(args, "model"))
        return kin_fail(err, KIN_ERR_ARG,
                        "evaluate: pictures need a classifier (-m RUN; `kinema train --objective "
                        "classify` makes one)");
    KIN_TRY(kin_cli_model(args, dir, err));
    KIN_TRY(kin_cli_context(args, false, &c->ctx, err));
    return kin_cli_load(args, c->ctx, dir, &c->classifier, err);
}

/* Features of a file, or of pictures; part: of class folders. */
static kin_status read_features(const kin_args *args, comparison *c, const char *path,
                                const char *part, kin_features *out, kin_error *err)
{
    KIN_TRY(kin_cli_need_input("pictures or features", path, err));
    if (!kin_picture_features_applies(path))
        return kin_feature_file_read(path, out, err);
    KIN_TRY(load_classifier(args, c, err));
    const kin_picture_features_options opt = {
        .path = path,
        .part = part,
        .batch =
            kin_args_source(args, "batch") > KIN_SOURCE_DEFAULT ? kin_args_int(args, "batch") : 64,
        .progress = on_progress,
        .user = c};
    kin_status status = kin_picture_features_run(c->classifier, &opt, out, err);
    kin_progress_end(&c->progress);
    c->progress.what = NULL;
    return status;
}

static kin_status report(const kin_args *args, const comparison *c, kin_error *err)
{
    cJSON *root;
    KIN_TRY(kin_evaluate_report_open(args, "fd", "classifier_hash",
                                     c->classifier ? c->classifier->hash : NULL, &root, err));
    bool ok = cJSON_AddNumberToObject(root, "made", (double)c->made.count) &&
              cJSON_AddNumberToObject(root, "real", (double)c->real.count) &&
              cJSON_AddNumberToObject(root, "dimensions", (double)c->real.dim) &&
              cJSON_AddNumberToObject(root, "frechet_distance", c->distance) &&
              cJSON_AddNumberToObject(root, "precision", c->precision) &&
              cJSON_AddNumberToObject(root, "recall", c->recall);
    return kin_evaluate_report_close(root, KIN_OK, ok, err);
}

static kin_status compare(const kin_args *args, comparison *c, kin_error *err)
{
    kin_cli_progress(args, &c->progress);
    KIN_TRY(read_features(args, c, kin_args_text(args, "data"), NULL, &c->made, err));
    KIN_TRY(read_features(args, c, kin_args_text(args, "reference"), kin_args_text(args, "part"),
                          &c->real, err));
    KIN_TRY(kin_frechet_distance(&c->made, &c->real, &c->distance, err));
    KIN_TRY(kin_signals_check("evaluate", err));
    KIN_TRY(kin_precision_recall(&c->real, &c->made, (int)kin_args_int(args, "nearest"),
                                 &c->precision, &c->recall, err));
    return report(args, c, err);
}

kin_status kin_evaluate_fd(const kin_args *args, kin_error *err)
{
    comparison c = {0};
    if (!kin_args_text(args, "data") || !kin_args_text(args, "reference"))
        return kin_fail(err, KIN_ERR_ARG,
                        "evaluate: the suite 'fd' needs what was made (--data) and what is real "
                        "(--reference)");
    kin_status status = compare(args, &c, err);
    kin_pipeline_destroy(&c.classifier);
    if (c.ctx)
        kin_ctx_destroy(&c.ctx);
    kin_free(c.made.rows);
    kin_free(c.real.rows);
    return status;
}
