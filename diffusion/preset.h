/* diffusion/preset.h: the published image networks by name: a router and a size. */
#ifndef KIN_DIFFUSION_PRESET_H
#define KIN_DIFFUSION_PRESET_H

#include <cjson/cJSON.h>
#include <stdbool.h>

#include "base/status.h"

/* Names are ROUTER-SIZE: dit, promoe, promoe-ec, tc, ec, diffmoe; s, b, l, xl ("promoe-b"). */
bool kin_preset_is_name(const char *name);
/* The transformer config of that name, cJSON_Delete. Fails: ARG naming the nearest, MEM. */
kin_status kin_preset_config(const char *name, cJSON **out, kin_error *err);
/* {"preset": NAME, ...} becomes the config of that name with the other keys in the place of its
 * own, also those inside MoE_config; a config without the key stays as it is. Fails: FORMAT, ARG,
 * MEM. */
kin_status kin_preset_expand(cJSON *config, kin_error *err);

#endif
