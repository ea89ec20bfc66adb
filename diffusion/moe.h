/* diffusion/moe.h: ProMoE's FFN (arXiv 2510.24711): two-step prototypical routing (router.c),
 * routed, shared and unconditional experts (moe.c). Token choice. */
#ifndef KIN_DIFFUSION_MOE_H
#define KIN_DIFFUSION_MOE_H

#include "diffusion/config.h"
#include "tensor/ops.h"

typedef struct kin_moe {
    kin_moe_config cfg;
    int64_t width;      /* D */
    int64_t groups;     /* experts incl. the unconditional one (its index is cfg.experts) */
    kin_param *centers; /* cluster_centers [E,D] */
    kin_param **up_w, **up_b, **down_w, **down_b; /* [groups], one block owned by up_w */
    kin_param *sup_w, *sup_b, *sdown_w, *sdown_b; /* shared expert, NULL without */
} kin_moe;

/* Registers PREFIX + {cluster_centers, experts.e.{up,down}_proj.*, shared_expert.{up,down}_proj.*}.
 * Fails: MEM; ARG for an expert set without hidden width. Undone by kin_moe_free. */
kin_status kin_moe_register(kin_params *params, const char *prefix, int64_t width,
                            const kin_moe_config *cfg, kin_moe *m, kin_error *err);
void kin_moe_free(kin_moe *m);

/* What the router decided for T = B*N tokens. */
typedef struct kin_routing {
    kin_tensor idx;   /* i32 [T,K], descending score; null samples: experts.E in all slots */
    kin_tensor score; /* [T,K] raw scores; null samples: 1,0,.. */
    kin_tensor aux;   /* scalar lam*RCL + load balance; data NULL when not asked for */
} kin_routing;

/* x [B,N,D]; null u8 [B] or NULL; taps layers.LAYER.{assign,score,rcl,load_balance}. */
kin_status kin_router_assign(kin_ctx *ctx, const kin_moe *m, int layer, const kin_tensor *x,
                             const kin_tensor *null, bool want_aux, kin_routing *r);

/* y [B,N,D] = residual + gate * (routed(x) + shared(x)); residual [B,N,D], gate [B,D]. aux as in
 * kin_routing. Taps layers.LAYER.{in,moe}. */
kin_status kin_moe_forward(kin_ctx *ctx, const kin_moe *m, int layer, const kin_tensor *x,
                           const kin_tensor *null, bool want_aux, const kin_tensor *residual,
                           const kin_tensor *gate, kin_tensor *y, kin_tensor *aux);

#endif
