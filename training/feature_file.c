#include "training/feature_file.h"

#include <string.h>

#include "base/alloc.h"
#include "base/path.h"
#include "io/elements.h"
#include "io/npy.h"
#include "io/safetensors.h"

bool kin_feature_file_is(const char *path)
{
    const char *ext = kin_path_ext(path);
    return strcmp(ext, "npz") == 0 || strcmp(ext, "npy") == 0 || strcmp(ext, "safetensors") == 0;
}

static kin_status reserve(const char *path, int ndim, const int64_t *size, kin_features *out,
                          kin_error *err)
{
    if (ndim != 2 || size[0] < 1 || size[1] < 1)
        return kin_fail(err, KIN_ERR_FORMAT, "%s: features must be rows of numbers [N,D]", path);
    *out = (kin_features){.count = size[0], .dim = size[1]};
    /* note: the sizes agree with the bytes of the file, so that this cannot overflow */
    out->rows = kin_malloc((size_t)(size[0] * size[1]) * sizeof *out->rows);
    return out->rows ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "%s: no memory for the features", path);
}

static kin_status read_npy(const char *path, kin_features *out, kin_error *err)
{
    kin_npy *f;
    KIN_TRY(kin_npy_open(path, NULL, &f, err));
    const kin_npy_info *info = kin_npy_get_info(f);
    kin_status status = reserve(path, info->ndim, info->size, out, err);
    if (status == KIN_OK)
        status = kin_npy_read(f, out->count * out->dim, KIN_DTYPE_F32, out->rows, err);
    kin_npy_close(&f);
    return status;
}

static kin_status read_safetensors(const char *path, kin_features *out, kin_error *err)
{
    kin_safetensors *st;
    kin_tensor t;
    kin_status status = KIN_OK;
    KIN_TRY(kin_safetensors_open(path, &st, err));
    int64_t at = kin_safetensors_find(st, "features");
    if (at < 0 && kin_safetensors_count(st) == 1)
        at = 0;
    if (at < 0)
        KIN_GOTO(kin_fail(err, KIN_ERR_FORMAT, "%s: holds no tensor named features", path));
    KIN_GOTO(kin_safetensors_tensor(st, at, &t, err));
    if (!kin_elements_can(t.dtype, KIN_DTYPE_F32))
        KIN_GOTO(kin_fail(err, KIN_ERR_UNSUPPORTED, "%s: features of type %s", path,
                          kin_dtype_name(t.dtype)));
    KIN_GOTO(reserve(path, t.ndim, t.size, out, err));
    kin_elements_convert(t.data, t.dtype, out->count * out->dim, KIN_DTYPE_F32, out->rows);
done:
    kin_safetensors_close(&st);
    return status;
}

kin_status kin_feature_file_read(const char *path, kin_features *out, kin_error *err)
{
    *out = (kin_features){0};
    kin_status status = strcmp(kin_path_ext(path), "safetensors") == 0
                            ? read_safetensors(path, out, err)
                            : read_npy(path, out, err);
    if (status != KIN_OK) {
        kin_free(out->rows);
        *out = (kin_features){0};
    }
    return status;
}
