/* vision/vae_parts.h: what every class of autoencoders is built from: named layers, lists of the
 * configuration, turning between channels first and last, taps, the clamp of pictures. Internal to
 * vision/. */
#ifndef KIN_VISION_VAE_PARTS_H
#define KIN_VISION_VAE_PARTS_H

#include "vision/vae_class.h"

enum { KIN_VAE_WIDTH_MAX = 1 << 14 };

typedef struct kin_vae_layer { /* a weight (or gamma) and a bias (or beta); w NULL: none */
    kin_param *w, *b;
} kin_vae_layer;

/* --- parameters --- */

typedef struct kin_vae_maker { /* a prefix to which names are added */
    kin_params *params;
    char name[128]; /* "": none */
} kin_vae_maker;

/* The maker of the part "prefix.name". */
kin_vae_maker kin_vae_under(const kin_vae_maker *m, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Start values have the variance of PyTorch's layers. */
kin_init kin_vae_spread(int64_t fan_in);
/* Registers prefix.name.weight [out,in,time,high,wide] and prefix.name.bias [out]; time 0: a
 * kernel of two dimensions. */
typedef struct kin_vae_kernel {
    int time, high, wide;
} kin_vae_kernel;
#define KIN_VAE_KERNEL(...) ((kin_vae_kernel){__VA_ARGS__})
void kin_vae_add_conv(const kin_vae_maker *m, const char *name, int64_t in, int64_t out,
                      kin_vae_kernel k, kin_vae_layer *l);
/* prefix.name.weight and .bias [width], ones and zeros. */
void kin_vae_add_norm(const kin_vae_maker *m, const char *name, int64_t width, kin_vae_layer *l);

/* --- configuration --- */

/* `block_out_channels`: 1 to `most` widths, each a multiple of `groups`; where the key is absent
 * width[0..*levels) stays. Fails: FORMAT, ARG. */
kin_status kin_vae_read_widths(const cJSON *config, int64_t groups, int most, int64_t *width,
                               int *levels, kin_error *err);
/* A list of `levels` names that are all `want`, or absent where that is `optional`. Fails: FORMAT,
 * UNSUPPORTED. */
kin_status kin_vae_check_blocks(const cJSON *config, const char *key, const char *want, int levels,
                                bool optional, kin_error *err);
/* Fails UNSUPPORTED unless each key of the list, ended by NULL, is absent or null. */
kin_status kin_vae_check_null(const cJSON *config, const char *const *keys, kin_error *err);

/* --- running --- */

/* [B,C,H,W] -> [B,H,W,C], [B,C,F,H,W] -> [B,F,H,W,C]; and back. */
kin_status kin_vae_channels_last(kin_ctx *ctx, const kin_tensor *x, kin_tensor *y);
kin_status kin_vae_channels_first(kin_ctx *ctx, const kin_tensor *x, kin_tensor *y);
/* Hands an activation (channels last) to the tap, channels first. */
kin_status kin_vae_tap(kin_ctx *ctx, const kin_tensor *t, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* x = min(max(x, -1), 1), in place without a tape. */
kin_status kin_vae_clamp(kin_ctx *ctx, kin_tensor *x);

#endif
