/* physics/evaluate.h: verdicts of many clips, counted per kind and in total. */
#ifndef KIN_PHYSICS_EVALUATE_H
#define KIN_PHYSICS_EVALUATE_H

#include "physics/tracker.h"

typedef struct kin_evaluation kin_evaluation;

kin_status kin_evaluation_create(kin_evaluation **out, kin_error *err);
void kin_evaluation_destroy(kin_evaluation *e);

/* Judges frames [F,H,W,3] against what was asked and adds the verdict (also copied to *verdict
 * unless NULL). Not thread-safe for one kin_evaluation. KIN_ERR_ARG, KIN_ERR_MEM. */
kin_status kin_evaluation_add(kin_evaluation *e, const uint8_t *frames, int F, int H, int W,
                              const kin_asked *asked, kin_verdict *verdict, kin_error *err);
/* Adds a verdict made elsewhere. */
kin_status kin_evaluation_add_verdict(kin_evaluation *e, int kind, const kin_verdict *verdict,
                                      kin_error *err);

/* Share (0..1) over all clips added; 0 when none. */
double kin_evaluation_colour_share(const kin_evaluation *e);
double kin_evaluation_intact_share(const kin_evaluation *e);

/* {"clips": n, "total": {...}, "kinds": {"uniform": {...}, ...}}; each block has clips,
 * colour_share, intact_share, direction_share, velocity_error_median, acceleration_error_median,
 * restitution_error_median, period_error_median, bounce_share (null where nothing was measured).
 * cJSON_Delete. KIN_ERR_MEM. */
kin_status kin_evaluation_report(const kin_evaluation *e, cJSON **out, kin_error *err);

#endif
