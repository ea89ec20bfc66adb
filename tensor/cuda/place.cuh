/* tensor/cuda/place.cuh: what the blocks of the product kernels share: where a block works, and
 * what it does with a sum. */
#ifndef KIN_TENSOR_CUDA_PLACE_CUH
#define KIN_TENSOR_CUDA_PLACE_CUH

#include "tensor/cuda/product.cuh"

/* What a block does: which expert, its first row of y, the end of those rows, the range of the sum.
 */
typedef struct kin_block_place {
    int64_t expert, i0, i_end, j0, l0, l_end;
    bool none;
} kin_block_place;

__device__ static kin_block_place kin_place_of_block(const kin_product &p, int tile_side)
{
    kin_block_place w = {};
    w.j0 = (int64_t)blockIdx.x * tile_side;
    w.i0 = (int64_t)blockIdx.y * tile_side;
    w.i_end = p.m;
    w.l_end = p.k;
    if (!p.offset)
        return w;
    if (p.over_rows) {
        w.expert = blockIdx.z;
        w.l0 = p.offset[w.expert];
        w.l_end = p.offset[w.expert + 1];
        w.none = w.l0 == w.l_end || !p.ys[w.expert];
        return w;
    }
    /* the tiles of all experts in a row, none across two of them */
    int64_t tile = blockIdx.y;
    for (w.expert = 0; w.expert < p.groups; w.expert++) {
        const int64_t first = p.offset[w.expert], rows = p.offset[w.expert + 1] - first;
        const int64_t tiles = (rows + tile_side - 1) / tile_side;
        if (tile < tiles) {
            w.i0 = first + tile * tile_side;
            w.i_end = first + rows;
            return w;
        }
        tile -= tiles;
    }
    w.none = true;
    return w;
}

/* Element (i, j) of the result from its sum: epilogue, and where it goes. */
__device__ static __forceinline__ void kin_product_finish(const kin_product &p, int64_t expert,
                                                          int64_t i, int64_t j, float sum)
{
    if (p.over_rows) {
        float *at = p.ys[expert] + i * p.n + j;
        kin_put(at, sum, p.acc);
        return;
    }
    if (p.past.data) {
        *kin_ptr2(p.y, i, j) = sum * kin_act_slope(p.act, kin_get2(p.past, i, j));
        return;
    }
    const void *bias = p.biases ? p.biases[expert] : p.bias;
    if (bias)
        sum += kin_load(bias, p.bias_dtype, j);
    if (p.pre.data)
        *kin_ptr2(p.pre, i, j) = sum;
    float y = kin_act_of(p.act, sum);
    if (p.gate.data)
        y *= kin_get2(p.gate, (uint32_t)i / (uint32_t)p.gate_rows, j);
    if (p.residual.data)
        y += kin_get2(p.residual, i, j);
    kin_put(kin_ptr2(p.y, i, j), y, p.acc);
}

#endif
