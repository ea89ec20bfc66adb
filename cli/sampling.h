/* cli/sampling.h: the flags of solver and guidance that generate and evaluate share. */
#ifndef KIN_CLI_SAMPLING_H
#define KIN_CLI_SAMPLING_H

#include "cli/args.h"
#include "diffusion/pipeline.h"

/* What the flags alone can tell to be wrong. Fails: ARG. */
kin_status kin_cli_sampling_check(const kin_args *args, kin_error *err);
/* Steps, solver, spacing, shift, guidance and seed into *p; texts stay those of args. The flags
 * have been checked. */
void kin_cli_sampling(const kin_args *args, const kin_pipeline *model, kin_generate_params *p);

#endif
