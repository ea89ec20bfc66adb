#include "vision/frames.h"

#include <math.h>
#include <string.h>

/* frames u8 [F,H,W,3] and x f32 [3,F,H,W] of one size */
static kin_status check_pair(const kin_tensor *frames, const kin_tensor *x, kin_error *err)
{
    bool ok = frames->ndim == 4 && frames->dtype == KIN_DTYPE_U8 && frames->size[3] == 3 &&
              x->ndim == 4 && x->dtype == KIN_DTYPE_F32 && x->size[0] == 3;
    for (int d = 0; ok && d < 3; d++)
        ok = frames->size[d] == x->size[d + 1];
    if (ok)
        return KIN_OK;
    char a[128], b[128];
    return kin_fail(err, KIN_ERR_SHAPE, "frames: %s and %s must be [F,H,W,3] u8 and [3,F,H,W] f32",
                    kin_tensor_describe(frames, a, sizeof a), kin_tensor_describe(x, b, sizeof b));
}

static uint8_t *pixel_row(const kin_tensor *frames, int64_t f, int64_t h)
{
    return (uint8_t *)frames->data + f * frames->stride[0] + h * frames->stride[1];
}

static float *value_row(const kin_tensor *x, int64_t c, int64_t f, int64_t h)
{
    return (float *)x->data + c * x->stride[0] + f * x->stride[1] + h * x->stride[2];
}

kin_status kin_frames_to_tensor(const kin_tensor *frames, kin_tensor *x, kin_error *err)
{
    KIN_TRY(check_pair(frames, x, err));
    for (int64_t c = 0; c < 3; c++)
        for (int64_t f = 0; f < frames->size[0]; f++)
            for (int64_t h = 0; h < frames->size[1]; h++) {
                const uint8_t *from = pixel_row(frames, f, h) + c * frames->stride[3];
                float *to = value_row(x, c, f, h);
                for (int64_t w = 0; w < frames->size[2]; w++)
                    to[w * x->stride[3]] = (float)from[w * frames->stride[2]] / 127.5f - 1.0f;
            }
    return KIN_OK;
}

kin_status kin_frames_from_tensor(const kin_tensor *x, kin_tensor *frames, kin_error *err)
{
    KIN_TRY(check_pair(frames, x, err));
    for (int64_t c = 0; c < 3; c++)
        for (int64_t f = 0; f < frames->size[0]; f++)
            for (int64_t h = 0; h < frames->size[1]; h++) {
                const float *from = value_row(x, c, f, h);
                uint8_t *to = pixel_row(frames, f, h) + c * frames->stride[3];
                for (int64_t w = 0; w < frames->size[2]; w++) {
                    float v = from[w * x->stride[3]];
                    if (!isfinite(v))
                        return kin_fail(err, KIN_ERR_NUMERIC,
                                        "frames: value %g in frame %lld must be finite", (double)v,
                                        (long long)f);
                    v = (v + 1.0f) * 0.5f;
                    v = v < 0.0f ? 0.0f : v > 1.0f ? 1.0f : v;
                    to[w * frames->stride[2]] = (uint8_t)floorf(v * 255.0f + 0.5f);
                }
            }
    return KIN_OK;
}

kin_status kin_frames_check_flat(const kin_tensor *frames, bool motion, kin_error *err)
{
    char text[128];
    if (frames->ndim != 4 || frames->dtype != KIN_DTYPE_U8 || frames->size[3] != 3 ||
        !kin_tensor_is_contiguous(frames) || kin_tensor_numel(frames) == 0)
        return kin_fail(err, KIN_ERR_SHAPE, "frames: %s must be [F,H,W,3] u8",
                        kin_tensor_describe(frames, text, sizeof text));
    const uint8_t *p = frames->data;
    int64_t pixels = kin_tensor_numel(frames) / 3;
    bool flat = true;
    double worst = 0;
    for (int c = 0; c < 3; c++) {
        /* integer sums are exact: at most 2^16 * 2^47 */
        uint64_t sum = 0, squares = 0;
        for (int64_t i = 0; i < pixels; i++) {
            sum += p[3 * i + c];
            squares += (uint64_t)p[3 * i + c] * p[3 * i + c];
        }
        double mean = (double)sum / (double)pixels;
        double std = sqrt(fmax((double)squares / (double)pixels - mean * mean, 0));
        worst = fmax(worst, std);
        flat = flat && std < 0.5;
    }
    if (flat)
        return kin_fail(err, KIN_ERR_NUMERIC,
                        "frames: flat, the standard deviation %.3f/255 of every channel must be at "
                        "least 0.5/255",
                        worst);
    if (!motion || frames->size[0] < 2)
        return KIN_OK;
    size_t bytes = (size_t)(kin_tensor_numel(frames) / frames->size[0]);
    for (int64_t f = 1; f < frames->size[0]; f++)
        if (memcmp(p, p + (size_t)f * bytes, bytes) != 0)
            return KIN_OK;
    return kin_fail(err, KIN_ERR_NUMERIC, "frames: all %lld frames are equal, must show motion",
                    (long long)frames->size[0]);
}
