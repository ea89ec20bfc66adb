/* cli/routing_picture.h: which expert took which token, as a PNG: a row per MoE layer, a column per
 * level (solver step, noise level), in each cell the token grids of the patches' times side by
 * side, one colour per expert, white for the unconditional one, black for none. */
#ifndef KIN_CLI_ROUTING_PICTURE_H
#define KIN_CLI_ROUTING_PICTURE_H

#include "diffusion/routing_stats.h"

/* Frames, rows and columns of the tokens that a model cuts a sample into. */
void kin_routing_grid(const kin_model_info *info, int64_t frames, int64_t height, int64_t width,
                      int64_t grid[3]);
/* The first sample of the statistics; tokens before those of the grid (a physical token) are left
 * out. Fails: KIN_ERR_ARG (too large), KIN_ERR_MEM, KIN_ERR_IO. */
kin_status kin_routing_picture_write(const kin_routing_stats *s, const int64_t grid[3],
                                     const char *path, kin_error *err);

#endif
