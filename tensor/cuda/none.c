/* tensor/cuda/none.c: the CUDA backend of a program built without it. */
#include <stdio.h>

#include "tensor/device.h"

#define WITHOUT "this program was built without CUDA"

kin_status kin_cuda_open(kin_ctx *ctx, int index, size_t offload, kin_kernels *k, kin_error *err)
{
    (void)ctx;
    (void)index;
    (void)offload;
    (void)k;
    return kin_fail(err, KIN_ERR_UNSUPPORTED, "cuda: no device can be used here: " WITHOUT);
}

int kin_cuda_count(char *why, size_t bytes)
{
    snprintf(why, bytes, WITHOUT);
    return 0;
}

bool kin_cuda_describe(int index, char *text, size_t bytes)
{
    (void)index;
    snprintf(text, bytes, WITHOUT);
    return false;
}
