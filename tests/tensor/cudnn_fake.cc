/* A stand-in for cuDNN on the emulated device: it computes what a plan's specification says with
 * plain loops, so that the calls (operands, strides, types, results, what happens when a plan
 * cannot be launched) run in the kernels' own test. Every third launch is refused. */
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

extern "C" {
#include "tensor/cuda/cudnn_graphs.h"
}

#include "tensor/cuda/emulate/lanes.h"

/* of emulate.h, whose types are CUDA's names */
void kin_emulated_memory(bool open);

struct kin_cudnn {
    std::vector<kin_cudnn_plan *> plans;
};

namespace
{

int launches;

float load(const void *data, bool half, int64_t at)
{
    if (!half)
        return ((const float *)data)[at];
    const uint32_t bits = (uint32_t)((const uint16_t *)data)[at] << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

void store(void *data, bool half, int64_t at, double value)
{
    const float f = (float)value;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (half)
        ((uint16_t *)data)[at] = (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
    else
        ((float *)data)[at] = f;
}

double rounded(double v)
{
    uint16_t half;
    store(&half, true, 0, v);
    return load(&half, true, 0);
}

/* Where tensor `id` of attention has row n of head h of sample b. */
int64_t row_of(const kin_cudnn_attention_spec &s, int id, int64_t b, int64_t h, int64_t n)
{
    return b * s.stride[id][0] + n * s.stride[id][1] + h * s.stride[id][2];
}

struct attention_head { /* of one sample */
    const kin_cudnn_attention_spec &s;
    void *const *data; /* by id */
    int64_t b, h;

    double dot(int x, int64_t i, int y, int64_t j) const
    {
        double sum = 0;
        for (int64_t c = 0; c < s.d; c++)
            sum += (double)load(data[x], true, row_of(s, x, b, h, i) + c) *
                   load(data[y], true, row_of(s, y, b, h, j) + c);
        return sum;
    }
    int64_t stat(int64_t i) const
    {
        return (b * s.heads + h) * s.nq + i;
    }
    float scale() const
    {
        return *(const float *)data[KIN_CUDNN_SCALE];
    }
};

void attention(const attention_head &a)
{
    const kin_cudnn_attention_spec &s = a.s;
    std::vector<double> p((size_t)s.nk);
    for (int64_t i = 0; i < s.nq; i++) {
        double most = -INFINITY, sum = 0;
        for (int64_t j = 0; j < s.nk; j++) {
            p[(size_t)j] = a.scale() * a.dot(KIN_CUDNN_Q, i, KIN_CUDNN_K, j);
            most = fmax(most, p[(size_t)j]);
        }
        for (double &x : p)
            sum += x = exp(x - most);
        for (int64_t c = 0; c < s.d; c++) {
            double o = 0;
            for (int64_t j = 0; j < s.nk; j++)
                o += rounded(p[(size_t)j]) *
                     load(a.data[KIN_CUDNN_V], true, row_of(s, KIN_CUDNN_V, a.b, a.h, j) + c);
            store(a.data[KIN_CUDNN_O], true, row_of(s, KIN_CUDNN_O, a.b, a.h, i) + c, o / sum);
        }
        if (s.stats)
            store(a.data[KIN_CUDNN_STATS], false, a.stat(i), most + log(sum));
    }
}

/* Adds factor times row j of operand x to row i of a gradient. */
void add_row(const attention_head &a, std::vector<double> &to, int64_t i, double factor, int x,
             int64_t j)
{
    for (int64_t c = 0; c < a.s.d; c++)
        to[(size_t)(i * a.s.d + c)] +=
            factor * load(a.data[x], true, row_of(a.s, x, a.b, a.h, j) + c);
}

void put_rows(const attention_head &a, const std::vector<double> &from, int id, int64_t rows)
{
    const kin_cudnn_attention_spec &s = a.s;
    for (int64_t n = 0; n < rows; n++)
        for (int64_t c = 0; c < s.d; c++)
            store(a.data[id], true, ((a.b * rows + n) * s.heads + a.h) * s.d + c,
                  from[(size_t)(n * s.d + c)]);
}

void attention_bwd(const attention_head &a)
{
    const kin_cudnn_attention_spec &s = a.s;
    std::vector<double> dq((size_t)(s.nq * s.d)), dk((size_t)(s.nk * s.d)), dv(dk);
    for (int64_t i = 0; i < s.nq; i++) {
        const double delta = a.dot(KIN_CUDNN_DO, i, KIN_CUDNN_O, i);
        const double lse = load(a.data[KIN_CUDNN_STATS], false, a.stat(i));
        for (int64_t j = 0; j < s.nk; j++) {
            const double p = exp(a.scale() * a.dot(KIN_CUDNN_Q, i, KIN_CUDNN_K, j) - lse);
            const double dp = a.dot(KIN_CUDNN_DO, i, KIN_CUDNN_V, j) - delta;
            const double ds = rounded(p * dp * a.scale());
            add_row(a, dq, i, ds, KIN_CUDNN_K, j);
            add_row(a, dk, j, ds, KIN_CUDNN_Q, i);
            add_row(a, dv, j, rounded(p), KIN_CUDNN_DO, i);
        }
    }
    put_rows(a, dq, KIN_CUDNN_DQ, s.nq);
    put_rows(a, dk, KIN_CUDNN_DK, s.nk);
    put_rows(a, dv, KIN_CUDNN_DV, s.nk);
}

/* One of the three kinds: its result is the sum of products of the other two. */
void convolution(const kin_cudnn_conv_spec &s, void *const *data)
{
    const int64_t rows[3] = {s.batch * s.frames * s.height * s.width,
                             s.batch * s.out_frames * s.out_height * s.out_width,
                             s.out * s.kt * s.kh * s.kw};
    const int64_t cols[3] = {s.in, s.out, s.in};
    const int result = s.kind == KIN_CUDNN_CONV      ? KIN_CUDNN_Y
                       : s.kind == KIN_CUDNN_CONV_DX ? KIN_CUDNN_X
                                                     : KIN_CUDNN_W;
    std::vector<double> sum((size_t)(rows[result] * cols[result]));
    for (int64_t r = 0; r < rows[KIN_CUDNN_Y]; r++) {
        const int64_t j = r % s.out_width, i = r / s.out_width % s.out_height;
        const int64_t f = r / s.out_width / s.out_height % s.out_frames;
        const int64_t b = r / s.out_width / s.out_height / s.out_frames;
        for (int64_t tap = 0; tap < s.kt * s.kh * s.kw; tap++) {
            const int64_t ff = f + tap / (s.kh * s.kw) - s.front;
            const int64_t ii = i * s.stride + tap / s.kw % s.kh - s.top;
            const int64_t jj = j * s.stride + tap % s.kw - s.left;
            if (ff < 0 || ff >= s.frames || ii < 0 || ii >= s.height || jj < 0 || jj >= s.width)
                continue;
            const int64_t from = ((b * s.frames + ff) * s.height + ii) * s.width + jj;
            for (int64_t o = 0; o < s.out; o++)
                for (int64_t c = 0; c < s.in; c++) {
                    const int64_t at[3] = {from * s.in + c, r * s.out + o,
                                           (o * s.kt * s.kh * s.kw + tap) * s.in + c};
                    double term = 1;
                    for (int k = 0; k < 3; k++)
                        term *= k == result ? 1.0 : (double)load(data[k], s.bf16, at[k]);
                    sum[(size_t)at[result]] += term;
                }
        }
    }
    for (size_t k = 0; k < sum.size(); k++)
        store(data[result], s.bf16, (int64_t)k, sum[k]);
}

void compute(const kin_cudnn_plan *p, void *const *data)
{
    if (p->spec[0] >= KIN_CUDNN_CONV) {
        kin_cudnn_conv_spec s;
        memcpy(&s, p->spec, sizeof s);
        convolution(s, data);
        return;
    }
    kin_cudnn_attention_spec s;
    memcpy(&s, p->spec, sizeof s);
    for (int64_t b = 0; b < s.batch; b++)
        for (int64_t h = 0; h < s.heads; h++)
            if (s.kind == KIN_CUDNN_ATTENTION)
                attention({s, data, b, h});
            else
                attention_bwd({s, data, b, h});
}

} // namespace

extern "C" kin_cudnn *kin_cudnn_load(void *)
{
    return new (std::nothrow) kin_cudnn();
}

extern "C" void kin_cudnn_free(kin_cudnn **lib)
{
    if (*lib)
        for (kin_cudnn_plan *p : (*lib)->plans)
            delete p;
    delete *lib;
    *lib = nullptr;
}

extern "C" void kin_cudnn_build_attention(kin_cudnn_plan *)
{
}

extern "C" void kin_cudnn_build_attention_bwd(kin_cudnn_plan *)
{
}

extern "C" void kin_cudnn_build_conv(kin_cudnn_plan *)
{
}

extern "C" kin_cudnn_plan *kin_cudnn_find(kin_cudnn *lib, const int64_t *spec, int count,
                                          void (*)(kin_cudnn_plan *))
{
    kin_cudnn_plan *p = new kin_cudnn_plan();
    memcpy(p->spec, spec, (size_t)count * sizeof *spec);
    p->workspace = 100;
    lib->plans.push_back(p);
    return p;
}

extern "C" bool kin_cudnn_run(kin_cudnn_plan *p, int count, const int64_t *id, void *const *data,
                              void *workspace)
{
    if (++launches % 3 == 0)
        return false;
    void *by_id[16] = {};
    for (int i = 0; i < count; i++)
        by_id[id[i]] = data[i];
    kin_emulated_finish();
    kin_emulated_memory(true);
    memset(workspace, 0xff, p->workspace);
    compute(p, by_id);
    kin_emulated_memory(false);
    return true;
}
