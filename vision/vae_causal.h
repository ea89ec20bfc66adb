/* vision/vae_causal.h: what the causal video autoencoders share: a pass over a video in pieces,
 * whose convolutions remember the frames before the piece. Internal to vision/. */
#ifndef KIN_VISION_VAE_CAUSAL_H
#define KIN_VISION_VAE_CAUSAL_H

#include "vision/vae_parts.h"

enum { KIN_CAUSAL_LAYERS = 256 };

/* One pass over a video. */
typedef struct kin_causal {
    kin_ctx *ctx;
    size_t mark;  /* everything from here on is the present activation and what made it */
    kin_tensor t; /* the activation, [B,F,H,W,C] */
    bool first;   /* the piece begins with frame 0 */
    bool whole;   /* there is one piece: nothing is remembered */
    bool repeat;  /* before frame 0 stand copies of it, not zeros */
    kin_tensor memory[KIN_CAUSAL_LAYERS]; /* last frames before the piece, by order of use */
    int used;
} kin_causal;

/* t becomes the activation; without a tape what made it is forgotten. */
kin_status kin_causal_take(kin_causal *r, const kin_tensor *t);
/* Memory for `frames` frames [B,frames,H,W,C] of the next layer; before the first piece, in the
 * order in which a piece passes the layers, without a tape. */
kin_status kin_causal_remember(kin_causal *r, kin_dtype dtype, int64_t frames, int64_t B, int64_t H,
                               int64_t W, int64_t C);
/* y = the remembered frames, then x; the last `keep` frames of it are remembered for the next
 * piece. *front: how many frames of zeros are due before y (nothing is before the first piece). */
kin_status kin_causal_past(kin_causal *r, const kin_tensor *x, int64_t keep, kin_tensor *y,
                           int *front);

/* y = conv(x) + b + residual, 3x3x3, causal in time, the size kept. */
kin_status kin_causal_conv(kin_causal *r, kin_param *w, kin_param *b, const kin_tensor *x,
                           const kin_tensor *residual, kin_tensor *y);
/* The activation through a convolution of every frame by itself. */
kin_status kin_causal_in_space(kin_causal *r, kin_param *w, kin_param *b,
                               const kin_conv_options *opt);

/* Frames [from, from+count) of x [B,C,F,H,W] as [B,count,H,W,C]. */
kin_status kin_causal_piece(kin_ctx *ctx, const kin_tensor *x, int64_t from, int64_t count,
                            kin_tensor *y);

#endif
