/* io/npy.h: one array of a NumPy file (.npy, or .npz: a zip of such files, stored or deflated),
 * read from its beginning piece by piece, so that it may be larger than memory. Format:
 * https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html */
#ifndef KIN_IO_NPY_H
#define KIN_IO_NPY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "tensor/tensor.h"

enum { KIN_NPY_MAX_DIMS = 8 };

typedef struct kin_npy kin_npy;

typedef struct kin_npy_info {
    kin_dtype dtype;
    int ndim;
    int64_t size[KIN_NPY_MAX_DIMS];
} kin_npy_info;

/* name: array of an archive (without .npy); NULL: the only one, else arr_0, else features. Little
 * endian f2, f4, f8, u1, i4, i8 in C order. Fails: KIN_ERR_IO; KIN_ERR_FORMAT (also when the
 * header and the number of bytes disagree); KIN_ERR_UNSUPPORTED (other types, Fortran order);
 * KIN_ERR_MEM; the text names the file. */
kin_status kin_npy_open(const char *path, const char *name, kin_npy **out, kin_error *err);
void kin_npy_close(kin_npy **f);
const kin_npy_info *kin_npy_get_info(const kin_npy *f);
/* The next n elements as type `as` (see kin_elements_convert) into out. Fails: KIN_ERR_FORMAT (cut
 * or damaged), KIN_ERR_ARG (beyond the end), KIN_ERR_MEM. */
kin_status kin_npy_read(kin_npy *f, int64_t n, kin_dtype as, void *out, kin_error *err);

/* True if the first bytes are those of a .npy or a zip file. */
bool kin_npy_detect(const void *data, size_t bytes);

#endif
