/* vision/crop.h: pictures to the square that image models are trained on. */
#ifndef KIN_VISION_CROP_H
#define KIN_VISION_CROP_H

#include "base/status.h"
#include "tensor/tensor.h"

/* Resamples as Pillow's Image.resize does: the filter is stretched where the picture shrinks, taps
 * are 22-bit fixed point, rows first, rounded to bytes in between. src u8 [H,W,3] and dst u8
 * [h,w,3], contiguous; dst the caller's. Fails: KIN_ERR_SHAPE; KIN_ERR_MEM. */
typedef enum kin_pillow_filter {
    KIN_PILLOW_BOX,
    KIN_PILLOW_BICUBIC /* a = -0.5 */
} kin_pillow_filter;
kin_status kin_pillow_resize(const kin_tensor *src, kin_tensor *dst, kin_pillow_filter filter,
                             kin_error *err);

/* The centre crop of ADM (guided-diffusion's center_crop_arr), byte for byte: halved with a box
 * filter while the shorter side is at least twice the target, then bicubic until it is the target,
 * then the middle. src u8 [H,W,3]; dst u8 [s,s,3], the caller's; both contiguous. Fails:
 * KIN_ERR_SHAPE; KIN_ERR_MEM. */
kin_status kin_adm_crop(const kin_tensor *src, kin_tensor *dst, kin_error *err);

#endif
