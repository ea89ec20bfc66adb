/* cli/evaluate.h: the suites of `kinema evaluate` that have a file of their own. */
#ifndef KIN_CLI_EVALUATE_H
#define KIN_CLI_EVALUATE_H

#include "cli/common.h"
#include "diffusion/pipeline.h"

/* A suite's report: its name, the model (hash NULL: none) and the settings. Fails: MEM. */
kin_status kin_evaluate_report_open(const kin_args *args, const char *suite, const char *hash_key,
                                    const char *hash, cJSON **root, kin_error *err);
/* Prints the report if status is KIN_OK and everything was added to it (ok), and frees it. */
kin_status kin_evaluate_report_close(cJSON *root, kin_status status, bool ok, kin_error *err);

/* Validation loss over --count clips of --data with noise fixed by --seed, at six noise levels;
 * with --shuffle-captions (-priors, -quantities) every clip gets that of another, with
 * --drop-conditions none. A model with a physical classifier is also judged by it: the share of
 * clips whose labels are all right (logit > 0), beside the share of the most frequent labels.
 * Prints a JSON report. */
kin_status kin_evaluate_loss(const kin_args *args, kin_pipeline *pipeline, kin_progress *progress,
                             kin_error *err);

/* The same of an image model, over the held-out images of class folders (--count of them, else all
 * of the part test, at most 2048), at ten fixed times, beside the error of the best affine denoiser
 * of the set's training images at each of them (null for images of more than KIN_EIGEN_MAX values).
 */
kin_status kin_evaluate_image_loss(const kin_args *args, kin_pipeline *pipeline,
                                   kin_progress *progress, kin_error *err);

/* Frechet distance, precision and recall of the features of --data (what was made) against those of
 * --reference (what is real). Needs no generating model. Prints a JSON report. */
kin_status kin_evaluate_fd(const kin_args *args, kin_error *err);

/* What the routers of a model do with the tokens of --count samples at five noise levels: of
 * --data, of simulated clips, or along the own sampling of a class-conditional model. Prints a
 * table, or with --json an object; -o draws the choices of the first sample (routing_picture.h). */
kin_status kin_evaluate_routing(const kin_args *args, kin_pipeline *pipeline,
                                kin_progress *progress, kin_error *err);

#endif
