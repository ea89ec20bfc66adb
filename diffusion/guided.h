/* diffusion/guided.h: the guided velocity of a model: its branches (condition, text alone, none)
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
    /* video families */
    const kin_tensor *text, *uncond_text; /* [B,T,text_dim] */
    const kin_tensor *null, *uncond_null; /* u8 [B] or NULL */
    const kin_tensor *prior, *quant;      /* [B,29], [B,18] or NULL; 0 in m and u */
    /* gate draws u [phys_blocks,B,phys_heads] for one branch of one step; NULL: no flips */
    kin_status (*draws)(kin_ctx *ctx, void *user, int step, kin_branch branch, kin_tensor *u);
    void *user;
    /* dit */
    const kin_tensor *label, *null_label; /* i32 [B] */
} kin_guided;

/* v [B,in_channels,...] (allocated by the caller, contiguous) = guided velocity of x at sigma,
 * model time t. The workspace is left as found. Taps model_cond, model_text, model_uncond, guided.
 * Recording must be off. */
kin_status kin_guided_velocity(kin_ctx *ctx, const kin_guided *g, const kin_tensor *x, float sigma,
                               float t, int step, kin_tensor *v);

#endif
