/* tensor/cuda/cudnn_none.c: no cuDNN: the own kernels do everything. */
#include "tensor/cuda/cudnn.h"

kin_cudnn *kin_cudnn_load(void *stream)
{
    (void)stream;
    return NULL;
}

void kin_cudnn_free(kin_cudnn **lib)
{
    (void)lib;
}

bool kin_cudnn_attention(kin_cuda_call *c, const kin_attention_args *a)
{
    (void)c;
    (void)a;
    return false;
}

bool kin_cudnn_attention_bwd(kin_cuda_call *c, const kin_attention_args *a)
{
    (void)c;
    (void)a;
    return false;
}

bool kin_cudnn_conv(kin_cuda_call *c, const kin_conv_args *a)
{
    (void)c;
    (void)a;
    return false;
}

bool kin_cudnn_conv_dx(kin_cuda_call *c, const kin_conv_args *a)
{
    (void)c;
    (void)a;
    return false;
}

bool kin_cudnn_conv_dw(kin_cuda_call *c, const kin_conv_args *a)
{
    (void)c;
    (void)a;
    return false;
}
