/* cli/compare.h: what `kinema convert --dtype int8` says of its result: the error of every matrix,
 * and of the whole model from one end to the other. */
#ifndef KIN_CLI_COMPARE_H
#define KIN_CLI_COMPARE_H

#include "cli/common.h"

/* report of kin_save_options: one line on stdout. */
void kin_cli_tell_error(void *user, const char *part, const char *name, double relative,
                        double worst);

/* Text states and outputs of p beside those of the model in `dir`, in f32 and with products in 8
 * bits: two lines on stdout. A note instead where there is nothing to compare, or too little
 * memory. */
kin_status kin_cli_compare(const kin_args *args, kin_pipeline *p, const char *dir,
                           kin_progress *notes, kin_error *err);

#endif
