/* diffusion/guided.h: the guided output of a model: its branches (condition, text alone, none)
 * and their mixture. One place for generation, sample grids and the reference cases. */
#ifndef KIN_DIFFUSION_GUIDED_H
#define KIN_DIFFUSION_GUIDED_H

#include "diffusion/model.h"

/* PLAIN: u + g (c - u). MULTI: u + g (m - u) + gp (c - m). c: text, prior, quantities; m: text
 * alone; u: negative text, or the null label. */
typedef enum kin_cfg_mode { KIN_CFG_PLAIN, KIN_CFG_MULTI } kin_cfg_mode;

typedef enum kin_branch { KIN_BRANCH_COND = 0, KIN_BRANCH_TEXT, KIN_BRANCH_UNCOND } kin_branch;

typedef struct kin_guided {
    const kin_model *model;
    kin_cfg_mode mode;
    float scale, phys_scale; /* g, gp. PLAIN with g = 1 runs c alone (class-conditional models: g <=
                                1, as ProMoE) */
    float interval[2]; /* model times at which to guide, c alone outside; {0, 0}: all. Kynkaanniemi
                          et al. 2024 (arXiv 2404.07724) */
    float rescale;     /* kin_guidance_rescale of the prediction, 0: off */
    int dynamic_steps; /* > 0: g and gp follow the time, kin_guidance_dynamic of so many steps */
    int64_t channels;  /* channels that are guided, the others stay c's; 0: all that predict */
    bool raw; /* the network's own output, not its velocity; with learned variances where y has
                 room for them */
    /* video families */
    const kin_tensor *text, *uncond_text; /* [B,T,text_dim] */
    const kin_tensor *null, *uncond_null; /* u8 [B] or NULL */
    const kin_tensor *prior, *quant;      /* [B,29], [B,18] or NULL; 0 in m and u */
    /* gate draws u [phys_blocks,B,phys_heads] for one branch of one step; NULL: no flips */
    kin_status (*draws)(kin_ctx *ctx, void *user, int step, kin_branch branch, kin_tensor *u);
    void *user;
    kin_text_cache cache; /* kin_guided_cache; all zero: none */
    kin_replay *replay;   /* recordings of the model's forward, or NULL; of one sampling, during
                             which parameters stay as they are */
    /* dit */
    const kin_tensor *label, *null_label; /* i32 [B] */
} kin_guided;

/* Makes what the text gives to every step of a sampling of x, in the workspace: g->cache. The bytes
 * of the output stay the same. Recording must be off. */
kin_status kin_guided_cache(kin_ctx *ctx, kin_guided *g, const kin_tensor *x);

/* y [B,C,...] (allocated by the caller, contiguous) = guided output for x at sigma, model time t: C
 * = in_channels, or with `raw` all output channels. Variance channels are those of c. The workspace
 * is left as found. Taps model_cond, model_text, model_uncond, guided. Recording must be off. */
kin_status kin_guided_output(kin_ctx *ctx, const kin_guided *g, const kin_tensor *x, float sigma,
                             float t, int step, kin_tensor *y);

#endif
