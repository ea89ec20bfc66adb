/* cli/evaluate_fd.c: `kinema evaluate --suite fd`: how far made pictures are from real ones, by
 * feature vectors of both (training/frechet.h). */
#include <stdio.h>

#include "base/alloc.h"
#include "cli/evaluate.h"
#include "cli/signals.h"
#include "training/feature_file.h"

typedef struct comparison {
    kin_features made, real;
    double distance, precision, recall;
} comparison;

static kin_status read_features(const char *path, kin_features *out, kin_error *err)
{
    KIN_TRY(kin_cli_need_input("features", path, err));
    if (!kin_feature_file_is(path))
        return kin_fail(err, KIN_ERR_ARG,
                        "evaluate: %s must be a file of features [N,D] (.npz, .npy, .safetensors)",
                        path);
    return kin_feature_file_read(path, out, err);
}

static kin_status report(const kin_args *args, const comparison *c, kin_error *err)
{
    cJSON *root = cJSON_CreateObject(), *settings = NULL;
    kin_status status = kin_args_settings(args, &settings, err);
    bool ok = status == KIN_OK && root && cJSON_AddStringToObject(root, "suite", "fd") &&
              cJSON_AddItemToObject(root, "settings", settings);
    settings = ok ? NULL : settings;
    ok = ok && cJSON_AddNumberToObject(root, "made", (double)c->made.count) &&
         cJSON_AddNumberToObject(root, "real", (double)c->real.count) &&
         cJSON_AddNumberToObject(root, "dimensions", (double)c->real.dim) &&
         cJSON_AddNumberToObject(root, "frechet_distance", c->distance) &&
         cJSON_AddNumberToObject(root, "precision", c->precision) &&
         cJSON_AddNumberToObject(root, "recall", c->recall);
    if (status == KIN_OK)
        status = ok ? kin_cli_print_json(root, err)
                    : kin_fail(err, KIN_ERR_MEM, "evaluate: out of memory");
    cJSON_Delete(settings);
    cJSON_Delete(root);
    return status;
}

static kin_status compare(const kin_args *args, comparison *c, kin_error *err)
{
    KIN_TRY(read_features(kin_args_text(args, "data"), &c->made, err));
    KIN_TRY(read_features(kin_args_text(args, "reference"), &c->real, err));
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
    kin_free(c.made.rows);
    kin_free(c.real.rows);
    return status;
}
