/* vision/resize.h: size changes of u8 RGB pictures and clips, contiguous [H,W,3] or [F,H,W,3]. */
#ifndef KIN_VISION_RESIZE_H
#define KIN_VISION_RESIZE_H

#include "base/status.h"
#include "tensor/tensor.h"

typedef enum kin_resize_kind {
    KIN_RESIZE_BICUBIC, /* PyTorch interpolate(mode="bicubic", align_corners=False,
                           antialias=False): a = -0.75, edges repeated */
    KIN_RESIZE_AREA /* mean over the source area of each target pixel, parts of pixels weighted */
} kin_resize_kind;

/* Resizes src to the size of dst (caller's, same number of frames); sums in f32, rounded to
 * nearest. Fails: KIN_ERR_SHAPE; KIN_ERR_MEM. */
kin_status kin_resize(const kin_tensor *src, kin_tensor *dst, kin_resize_kind kind, kin_error *err);

/* A clip u8 [F,H,W,3] as f32 [3,F,h,w] = 2 v / 255 - 1, resized bicubically as
 * torch.nn.functional.interpolate does it on floats: neither rounded nor clamped. Fails:
 * KIN_ERR_SHAPE; KIN_ERR_MEM. */
kin_status kin_resize_float(const kin_tensor *src, kin_tensor *dst, kin_error *err);

/* Copies the middle of src (offset floor((size - target) / 2)); dst must not be larger. Fails:
 * KIN_ERR_SHAPE. */
kin_status kin_center_crop(const kin_tensor *src, kin_tensor *dst, kin_error *err);

/* The largest centred part of src with dst's aspect ratio, resized to dst. Fails: KIN_ERR_SHAPE;
 * KIN_ERR_MEM. */
kin_status kin_resize_cover(const kin_tensor *src, kin_tensor *dst, kin_resize_kind kind,
                            kin_error *err);

#endif
