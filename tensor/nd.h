/* tensor/nd.h: walks up to three views of one shape together: neighbouring dimensions that all
 * views pass through evenly are joined, so that rows become long. */
#ifndef KIN_TENSOR_ND_H
#define KIN_TENSOR_ND_H

#include "tensor/tensor.h"

enum { KIN_ND_VIEWS = 3 };

typedef struct kin_nd {
    int ndim; /* >= 1 */
    int64_t size[KIN_MAX_DIMS];
    int64_t stride[KIN_ND_VIEWS][KIN_MAX_DIMS];
    int64_t rows; /* product of all sizes but the last */
} kin_nd;

/* shape gives the sizes; v[i] are views of that shape (strides of a NULL view are 0). */
void kin_nd_init(kin_nd *nd, const kin_tensor *shape, const kin_tensor *const v[KIN_ND_VIEWS]);
/* Element offsets of the first element of row r in each view. */
void kin_nd_row(const kin_nd *nd, int64_t r, int64_t at[KIN_ND_VIEWS]);

#endif
