/* vision/frames.h: pictures as bytes (u8 [F,H,W,3]) and as the networks see them (f32 [C,F,H,W],
 * -1..1). */
#ifndef KIN_VISION_FRAMES_H
#define KIN_VISION_FRAMES_H

#include <stdbool.h>

#include "base/status.h"
#include "tensor/tensor.h"

/* x = v / 127.5 - 1. frames u8 [F,H,W,3]; x f32 [3,F,H,W], caller's; both may be views. Fails:
 * KIN_ERR_SHAPE. */
kin_status kin_frames_to_tensor(const kin_tensor *frames, kin_tensor *x, kin_error *err);

/* v = floor(255 * clamp((x+1)/2, 0, 1) + 0.5). x f32 [3,F,H,W]; frames u8 [F,H,W,3], caller's; both
 * may be views. Fails: KIN_ERR_SHAPE; KIN_ERR_NUMERIC if any x is NaN or infinite. */
kin_status kin_frames_from_tensor(const kin_tensor *x, kin_tensor *frames, kin_error *err);

/* KIN_ERR_NUMERIC if frames u8 [F,H,W,3] (contiguous) are flat: standard deviation of every channel
 * below 0.5 over the whole clip, or, with motion true and F > 1, all frames equal. */
kin_status kin_frames_check_flat(const kin_tensor *frames, bool motion, kin_error *err);

#endif
