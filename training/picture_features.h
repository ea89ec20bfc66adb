/* training/picture_features.h: feature vectors of pictures by a trained image classifier. */
#ifndef KIN_TRAINING_PICTURE_FEATURES_H
#define KIN_TRAINING_PICTURE_FEATURES_H

#include "diffusion/pipeline.h"
#include "training/frechet.h"

typedef struct kin_picture_features_options {
    const char *path; /* folder or tar of images, or .npz with u8 [N,H,W,3] */
    const char *part; /* of class folders; NULL: every image */
    int64_t batch;    /* pictures per forward; never changes the result */
    /* Polled after each batch; non-OK stops. */
    kin_status (*progress)(void *user, int64_t done, int64_t total, kin_error *err);
    void *user;
} kin_picture_features_options;

/* True unless the file is one of features (kin_feature_file_is): .npz files are looked into. */
bool kin_picture_features_applies(const char *path);

/* What the classifier makes of the pictures before its last layer, in the order of their names;
 * other sizes are cropped as ADM does. out->rows is the caller's: kin_free. Fails: ARG (no
 * classifier), IO, FORMAT, MEM, what progress returned. */
kin_status kin_picture_features_run(kin_pipeline *classifier,
                                    const kin_picture_features_options *opt, kin_features *out,
                                    kin_error *err);

#endif
