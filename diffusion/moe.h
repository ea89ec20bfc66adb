/* diffusion/moe.h: a mixture of experts in the place of a block's feed-forward network. router.c
 * decides which expert takes which token; moe.c runs the experts of every router through one
 * dispatch: pairs sorted by expert, one grouped product per layer, weighted sum back to tokens.
 *
 * ProMoE (arXiv 2510.24711), token or expert choice: cosine to prototypes, unconditional expert for
 * null samples, contrastive loss. TC (DiT-MoE), EC (arXiv 2410.02098) and DiffMoE (arXiv
 * 2503.14487): a linear gate with softmax over the experts. */
#ifndef KIN_DIFFUSION_MOE_H
#define KIN_DIFFUSION_MOE_H

#include "diffusion/config.h"
#include "diffusion/ffn.h"

typedef struct kin_moe {
    kin_moe_config cfg;
    int64_t width;   /* D */
    int64_t groups;  /* experts incl. the unconditional one (its index is cfg.experts) */
    kin_param *gate; /* [E,D]: prototypes (cluster_centers) or gate.weight, gate_weight */
    /* experts: [groups] each, one block owned by w1; b1, b2 NULL without biases, gate_w NULL but
     * for SwiGLU */
    kin_param **w1, **b1, **w2, **b2, **gate_w;
    kin_ffn shared; /* w1 NULL without */
    /* DiffMoE: capacity predictor D -> D -> E; buffers: thresholds [E] and the decay of their
     * moving average [1] */
    kin_param *cp_w1, *cp_b1, *cp_w2, *cp_b2, *threshold, *decay;
} kin_moe;

/* Registers, below PREFIX, prototypes or gate, experts, shared expert and capacity predictor by the
 * official names of cfg->router. Fails: MEM; ARG for experts without hidden width. Undone by
 * kin_moe_free. */
kin_status kin_moe_register(kin_params *params, const char *prefix, int64_t width,
                            const kin_moe_config *cfg, kin_moe *m, kin_error *err);
void kin_moe_free(kin_moe *m);
/* Whether a forward on ctx gives an auxiliary loss: routers that have one, while recording; also in
 * inference under a tap, where the loss can be computed there. */
bool kin_moe_has_aux(const kin_ctx *ctx, const kin_moe_config *cfg);

/* One pass through a layer. */
typedef struct kin_moe_call {
    int layer;              /* for the names of taps */
    const kin_tensor *null; /* u8 [B] or NULL; read by routers with an unconditional expert */
    bool want_aux;
    bool infer_batch; /* DiffMoE in inference, see kin_model_set_diffmoe_infer */
    bool *counted;    /* recorded DiffMoE: set once the thresholds have followed this batch, so that
                         recomputation of a block leaves them alone; may be NULL */
} kin_moe_call;

/* What the router decided for T = B*N tokens. */
typedef struct kin_routing {
    kin_tensor idx;   /* i32 [T,K] expert of each slot, or -1. Token choice: descending score, null
                         samples experts.E in all slots. Expert choice: K = E, slot e is e or -1 */
    kin_tensor score; /* [T,K] weight of each slot; null samples: 1,0,.. */
    int64_t rows;     /* the most slots in use, for kin_dispatch_build */
    kin_tensor aux;   /* scalar; data NULL where there is none */
} kin_routing;

/* x [B,N,D]. Taps layers.LAYER.{route,weight} [B,N,K] (idx and score as above) and the reference's
 * own: assign, score, rcl, load_balance, aux, cap_logits, cap_loss, threshold, count. */
kin_status kin_router_assign(kin_ctx *ctx, const kin_moe *m, const kin_moe_call *call,
                             const kin_tensor *x, kin_routing *r);

/* y [B,N,D] = residual + gate * (routed(x) + shared(x)); residual [B,N,D], gate [B,D]. aux as in
 * kin_routing. Taps layers.LAYER.{in,moe}. */
kin_status kin_moe_forward(kin_ctx *ctx, const kin_moe *m, const kin_moe_call *call,
                           const kin_tensor *x, const kin_tensor *residual, const kin_tensor *gate,
                           kin_tensor *y, kin_tensor *aux);

#endif
