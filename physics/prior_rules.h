/* physics/prior_rules.h: a physical prior from the words of a prompt alone, by rules (no language
 * model). Words that match nothing leave their categories at zero. */
#ifndef KIN_PHYSICS_PRIOR_RULES_H
#define KIN_PHYSICS_PRIOR_RULES_H

#include "physics/annotation.h"

/* prompt: any UTF-8 text; seconds: time span of the clip, > 0 (0 to `seconds` goes into the
 * quantities). out: prior, quantities (densities from material words in order of their objects,
 * temperature 20 to 25 unless the words say hot, cold, ...), caption = prompt followed by the law
 * text that our simulated records of this kind carry (nothing where no kind is recognised). A
 * caption of kin_simulate_clip gives exactly the prior, the quantities and the prompt text of its
 * record. An empty prompt gives zeros throughout. Fails: KIN_ERR_ARG (seconds), KIN_ERR_MEM. Free
 * *out. */
kin_status kin_prior_from_text(const char *prompt, double seconds, kin_physics_prior *out,
                               kin_error *err);

/* "collision, rigid body motion" for the line "physics: ..."; "none" if no phenomenon is set.
 * Returns buf. */
char *kin_prior_describe(const kin_physics_prior *prior, char *buf, size_t bytes);

/* Density in g/cm3 of a material word ("steel", "wooden", "ice"), or 0 if it is none. */
double kin_material_density(const char *word);

#endif
