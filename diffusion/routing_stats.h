/* diffusion/routing_stats.h: what the routers of a model do with its tokens, gathered from the taps
 * of forwards (moe.h): loads, strength of the first choice, tokens without expert, losses, and the
 * likeness of prototypes; and the choices of one sample for a picture. */
#ifndef KIN_DIFFUSION_ROUTING_STATS_H
#define KIN_DIFFUSION_ROUTING_STATS_H

#include "diffusion/model.h"

enum { KIN_ROUTING_MAX_LAYERS = 256 };

/* One MoE layer at one level (of noise, or a solver step). */
typedef struct kin_routing_cell {
    int64_t tokens;        /* seen */
    int64_t unconditional; /* of them, served by the unconditional expert */
    int64_t none;          /* served by no routed and no unconditional expert */
    int64_t pairs;         /* of routed expert and token */
    double strength;       /* sum over the tokens with a routed expert of kin_routing_stats_strength
                              at their first choice, the one of largest weight */
    double rcl;            /* sum over rcl_n forwards */
    int64_t rcl_n;
} kin_routing_cell;

typedef struct kin_routing_stats {
    int64_t experts;
    int levels, layers;
    int block[KIN_ROUTING_MAX_LAYERS]; /* block number of each layer, in order of appearance */
    int level;                         /* of the forwards to come; set by the caller */
    bool cosine; /* strength is the cosine to the prototype, else the weight */
    const kin_params *params;
    kin_routing_cell *cell; /* [MAX_LAYERS, levels] */
    int64_t *taken;         /* [MAX_LAYERS, levels, experts]: tokens of each */
    int64_t tokens;         /* of one sample */
    int16_t *choice;        /* [MAX_LAYERS, levels, tokens]: first choice of the first sample that
                               came at that level, experts = unconditional, -1 none */
    bool *drawn;            /* [MAX_LAYERS, levels]: choice is set */
    kin_tensor in;          /* of the layer at hand */
    kin_tensor route;
    bool odd; /* a tap did not fit */
} kin_routing_stats;

/* tokens: of one sample, with a physical token where the model has one. params, for prototypes,
 * must live as long. Fails: ARG (a dense model, sizes), MEM. */
kin_status kin_routing_stats_init(kin_routing_stats *s, const kin_model_info *info,
                                  const kin_params *params, int levels, int64_t tokens,
                                  kin_error *err);
void kin_routing_stats_free(kin_routing_stats *s);
/* For ctx->tap, with s as ctx->tap_user. */
void kin_routing_stats_tap(void *s, const char *name, const kin_tensor *t);

kin_routing_cell *kin_routing_stats_cell(const kin_routing_stats *s, int layer, int level);
int64_t *kin_routing_stats_taken(const kin_routing_stats *s, int layer, int level);
const int16_t *kin_routing_stats_choice(const kin_routing_stats *s, int layer, int level);
/* Largest load over mean load of the routed experts; 0 without pairs. */
double kin_routing_stats_imbalance(const kin_routing_stats *s, int layer, int level);
/* Cosines between the prototypes (rows of the gate) of a layer -> out [experts,experts]. Fails:
 * FORMAT (the block has none). */
kin_status kin_routing_stats_likeness(const kin_routing_stats *s, int layer, double *out,
                                      kin_error *err);

#endif
