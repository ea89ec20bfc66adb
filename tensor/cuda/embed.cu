/* tensor/cuda/embed.cu: rotary rotation, table rows, patches, sinusoids. */
#include "tensor/cuda/kernel.cuh"

__global__ static void rope_kernel(kin_tensor x, kin_tensor cos, kin_tensor sin, kin_tensor y,
                                   bool inverse, bool acc)
{
    const int64_t pairs = x.size[3] / 2, heads = x.size[2], tokens = x.size[1];
    KIN_EACH(i, x.size[0] * tokens * heads * pairs)
    {
        const int64_t k = i % pairs, h = i / pairs % heads, n = i / pairs / heads % tokens;
        const int64_t b = i / pairs / heads / tokens;
        const float *from = (const float *)x.data + b * x.stride[0] + n * x.stride[1] +
                            h * x.stride[2] + 2 * k * x.stride[3];
        float *to = (float *)y.data + b * y.stride[0] + n * y.stride[1] + h * y.stride[2] +
                    2 * k * y.stride[3];
        const float c = kin_get2(cos, n, k),
                    s = inverse ? -kin_get2(sin, n, k) : kin_get2(sin, n, k);
        const float x0 = from[0], x1 = from[x.stride[3]];
        kin_put(to, x0 * c - x1 * s, acc);
        kin_put(to + y.stride[3], x0 * s + x1 * c, acc);
    }
}

extern "C" kin_status kin_cuda_rope(kin_ctx *ctx, const kin_rope_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "rope");
    const kin_tensor x = kin_cuda_in(&c, a->x), cos = kin_cuda_in(&c, a->cos);
    const kin_tensor sin = kin_cuda_in(&c, a->sin), y = kin_cuda_out(&c, a->y, a->acc);
    KIN_LAUNCH(&c, rope_kernel, kin_blocks(kin_tensor_numel(a->x) / 2), KIN_THREADS, x, cos, sin, y,
               a->inverse, a->acc);
    return kin_cuda_end(&c);
}

__global__ static void embedding_kernel(kin_tensor table, kin_tensor ids, kin_tensor y)
{
    const int64_t d = y.size[1];
    KIN_EACH(i, y.size[0] * d)
    {
        const int64_t id = ((const int32_t *)ids.data)[i / d * ids.stride[0]];
        *kin_ptr2(y, i / d, i % d) = kin_at(table, id * table.stride[0] + i % d);
    }
}

extern "C" kin_status kin_cuda_embedding(kin_ctx *ctx, const kin_embedding_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "embedding");
    const kin_tensor table = kin_cuda_value(&c, a->table), ids = kin_cuda_in(&c, a->ids);
    const kin_tensor y = kin_cuda_out(&c, a->y, false);
    KIN_LAUNCH(&c, embedding_kernel, kin_blocks(kin_tensor_numel(a->y)), KIN_THREADS, table, ids,
               y);
    return kin_cuda_end(&c);
}

/* One thread per table entry walks through the ids, so that each sum is taken in their order
 * without atomics; rows that no id names are left alone. */
__global__ static void embedding_bwd_kernel(kin_tensor grad, kin_tensor ids, kin_tensor dy)
{
    const int64_t d = grad.size[1], n = ids.size[0];
    KIN_EACH(i, grad.size[0] * d)
    {
        float *at = (float *)grad.data + i, sum = *at;
        for (int64_t k = 0; k < n; k++)
            if (((const int32_t *)ids.data)[k * ids.stride[0]] == i / d)
                sum += kin_get2(dy, k, i % d);
        *at = sum;
    }
}

extern "C" kin_status kin_cuda_embedding_bwd(kin_ctx *ctx, const kin_embedding_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "embedding backward");
    const kin_tensor grad = kin_cuda_grad(&c, a->table), ids = kin_cuda_in(&c, a->ids);
    const kin_tensor dy = kin_cuda_in(&c, a->dy);
    if (grad.data)
        KIN_LAUNCH(&c, embedding_bwd_kernel, kin_blocks(kin_tensor_numel(&grad)), KIN_THREADS, grad,
                   ids, dy);
    return kin_cuda_end(&c);
}

typedef struct patch_call {
    kin_tensor video, tokens;
    int64_t pt, ph, pw;
    bool channel_last, to_tokens, acc;
} patch_call;

__global__ static void patch_kernel(patch_call p)
{
    const int64_t C = p.video.size[1], F = p.video.size[2], H = p.video.size[3],
                  W = p.video.size[4];
    const int64_t nh = H / p.ph, nw = W / p.pw, piece = p.pt * p.ph * p.pw;
    KIN_EACH(i, p.video.size[0] * C * F * H * W)
    {
        const int64_t w = i % W, h = i / W % H, f = i / W / H % F, c = i / W / H / F % C;
        const int64_t b = i / W / H / F / C;
        const int64_t n = (f / p.pt * nh + h / p.ph) * nw + w / p.pw;
        const int64_t in = (f % p.pt * p.ph + h % p.ph) * p.pw + w % p.pw;
        const int64_t v = p.channel_last ? in * C + c : c * piece + in;
        float *pixel = (float *)p.video.data + b * p.video.stride[0] + c * p.video.stride[1] +
                       f * p.video.stride[2] + h * p.video.stride[3] + w * p.video.stride[4];
        float *token = (float *)p.tokens.data + b * p.tokens.stride[0] + n * p.tokens.stride[1] +
                       v * p.tokens.stride[2];
        if (p.to_tokens)
            kin_put(token, *pixel, p.acc);
        else
            kin_put(pixel, *token, p.acc);
    }
}

extern "C" kin_status kin_cuda_patch(kin_ctx *ctx, const kin_patch_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "patch");
    const kin_tensor src = kin_cuda_in(&c, a->src), dst = kin_cuda_out(&c, a->dst, a->acc);
    patch_call p = {};
    p.video = a->to_tokens ? src : dst;
    p.tokens = a->to_tokens ? dst : src;
    p.pt = a->pt;
    p.ph = a->ph;
    p.pw = a->pw;
    p.channel_last = a->channel_last;
    p.to_tokens = a->to_tokens;
    p.acc = a->acc;
    KIN_LAUNCH(&c, patch_kernel, kin_blocks(kin_tensor_numel(a->src)), KIN_THREADS, p);
    return kin_cuda_end(&c);
}

__global__ static void sinusoid_kernel(kin_tensor v, const float *freq, int64_t half, kin_tensor y)
{
    const int64_t n = y.size[1];
    KIN_EACH(i, y.size[0] * n * half)
    {
        const int64_t j = i % half, k = i / half % n, b = i / half / n;
        /* note: the argument is rounded to f32 as the references do it, the functions are not */
        const float arg = kin_get2(v, b, k) * freq[j];
        float *row = (float *)y.data + b * y.stride[0] + k * y.stride[1];
        row[j * y.stride[2]] = (float)cos((double)arg);
        row[(half + j) * y.stride[2]] = (float)sin((double)arg);
    }
}

extern "C" kin_status kin_cuda_sinusoid(kin_ctx *ctx, const kin_sinusoid_args *a)
{
    kin_cuda_call c = kin_cuda_begin(ctx, "sinusoid");
    /* the frequencies come from the host's expf, so that they have the reference's bits */
    float *freq = (float *)kin_ws_bytes(ctx, (size_t)a->half * sizeof(float));
    if (!freq)
        return ctx->error.status;
    for (int64_t j = 0; j < a->half; j++)
        freq[j] = expf(-logf(10000.0f) * (float)j / (float)a->half);
    const float *on_device =
        (const float *)kin_cuda_bytes(&c, freq, (size_t)a->half * sizeof(float));
    const kin_tensor v = kin_cuda_in(&c, a->v), y = kin_cuda_out(&c, a->y, true);
    KIN_LAUNCH(&c, sinusoid_kernel, kin_blocks(kin_tensor_numel(a->y) / 2), KIN_THREADS, v,
               on_device, a->half, y);
    return kin_cuda_end(&c);
}
