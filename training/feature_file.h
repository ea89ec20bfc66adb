/* training/feature_file.h: feature vectors [N,D] from files. */
#ifndef KIN_TRAINING_FEATURE_FILE_H
#define KIN_TRAINING_FEATURE_FILE_H

#include <stdbool.h>

#include "training/frechet.h"

/* True for names that end in .npz, .npy or .safetensors. */
bool kin_feature_file_is(const char *path);
/* The two-dimensional array of a .npy file, of an .npz archive (the only one, arr_0 or features) or
 * of a safetensors file (features, or the only tensor), as f32. out->rows is the caller's:
 * kin_free. Fails: IO, FORMAT (also without rows), UNSUPPORTED, MEM. */
kin_status kin_feature_file_read(const char *path, kin_features *out, kin_error *err);

#endif
