/* tensor/nd.c: see nd.h. */
#include "tensor/nd.h"

static bool joins(const kin_nd *nd, int outer, int64_t size, const int64_t stride[KIN_ND_VIEWS])
{
    for (int v = 0; v < KIN_ND_VIEWS; v++) {
        if (nd->stride[v][outer] != size * stride[v])
            return false;
    }
    return true;
}

void kin_nd_init(kin_nd *nd, const kin_tensor *shape, const kin_tensor *const v[KIN_ND_VIEWS])
{
    int n = 0;
    for (int i = 0; i < shape->ndim; i++) {
        int64_t stride[KIN_ND_VIEWS];
        if (shape->size[i] == 1)
            continue;
        for (int j = 0; j < KIN_ND_VIEWS; j++)
            stride[j] = v[j] ? v[j]->stride[i] : 0;
        bool join = n > 0 && joins(nd, n - 1, shape->size[i], stride);
        if (!join)
            nd->size[n++] = 1;
        nd->size[n - 1] *= shape->size[i];
        for (int j = 0; j < KIN_ND_VIEWS; j++)
            nd->stride[j][n - 1] = stride[j];
    }
    if (n == 0) {
        nd->size[0] = 1;
        for (int j = 0; j < KIN_ND_VIEWS; j++)
            nd->stride[j][0] = v[j] ? 1 : 0;
        n = 1;
    }
    nd->ndim = n;
    nd->rows = 1;
    for (int i = 0; i < n - 1; i++)
        nd->rows *= nd->size[i];
}

void kin_nd_row(const kin_nd *nd, int64_t r, int64_t at[KIN_ND_VIEWS])
{
    for (int v = 0; v < KIN_ND_VIEWS; v++)
        at[v] = 0;
    for (int i = nd->ndim - 2; i >= 0; i--) {
        int64_t c = r % nd->size[i];
        r /= nd->size[i];
        for (int v = 0; v < KIN_ND_VIEWS; v++)
            at[v] += c * nd->stride[v][i];
    }
}
