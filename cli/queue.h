/* cli/queue.h: `kinema generate --prompts FILE`: one job a line, with a model that is loaded once.
 * A line is a prompt, or, where it begins with '{', a JSON object with names of flags as keys;
 * empty lines and those that begin with '#' are no jobs. Each job's clip has its settings beside
 * it, so that the same command goes on with what is missing. */
#ifndef KIN_CLI_QUEUE_H
#define KIN_CLI_QUEUE_H

#include "cli/common.h"

/* Runs all jobs in order. A job without usable frames (KIN_ERR_NUMERIC) is told of and the others
 * go on; any other failure ends the queue. Every line is read before the first job starts. Fails:
 * KIN_ERR_ARG and KIN_ERR_FORMAT name the line; what a job failed with; KIN_ERR_INTERRUPTED. */
kin_status kin_generate_queue(const kin_args *args, kin_error *err);

#endif
