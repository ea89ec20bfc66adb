/* training/recording.h: what a micro-batch needs so that its forward and backward can be played
 * from a recording (tensor/replay.h): everything that changes from one to the next lies on the
 * device, at the same place. */
#ifndef KIN_TRAINING_RECORDING_H
#define KIN_TRAINING_RECORDING_H

#include "training/objective.h"

/* True where forward and backward read nothing but the device: flows and DDPM of image models and
 * native video models, unless the host looks at values (learned variance, DiffMoE) or the velocity
 * is made of the sample. */
bool kin_train_recordable(const kin_ctx *ctx, const kin_train_task *task);
/* Brings the inputs of such a micro-batch to the device, with what the host makes of them: null of
 * the label, keep, gates, weight; reads: all of them, data NULL for those that are not there.
 * Fails: ARG (a label or id outside its table), MEM. */
enum { KIN_TRAIN_READS = 14 };
kin_status kin_train_settle(kin_ctx *ctx, const kin_train_task *task, kin_train_inputs *in,
                            const kin_tensor *reads[KIN_TRAIN_READS]);

#endif
