/* cli/routing_map.h: pictures of which expert took which token, per MoE layer and solver step. */
#ifndef KIN_CLI_ROUTING_MAP_H
#define KIN_CLI_ROUTING_MAP_H

#include "diffusion/pipeline.h"
#include "physics/annotation.h"

typedef struct kin_routing_map_params {
    const kin_physics_prior *condition; /* borrowed */
    int steps;
    uint64_t seed;
    const char *path; /* PNG to write */
} kin_routing_map_params;

/* Generates one clip (without guidance) and draws the first choice of every video token: a row per
 * MoE layer, a column per solver step, in each cell the token grids of the patches' times side by
 * side, one colour per expert. Prints the share of each expert per layer on stdout. Fails:
 * KIN_ERR_UNSUPPORTED if the forward reports no routing. */
kin_status kin_routing_map_draw(kin_pipeline *p, const kin_routing_map_params *params,
                                kin_error *err);

#endif
