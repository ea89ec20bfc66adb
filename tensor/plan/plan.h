/* tensor/plan/plan.h: inside tensor/: the second half of the table of a dry run. */
#ifndef KIN_PLAN_PLAN_H
#define KIN_PLAN_PLAN_H

#include "tensor/kernels.h"

/* After kin_kernels_init_plan, for a context whose ISA level is known: the slots whose CPU kernels
 * take scratch or packed weights count these as well. */
void kin_plan_add_scratch(kin_kernels *k);

#endif
