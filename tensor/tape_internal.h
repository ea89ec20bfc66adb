/* tensor/tape_internal.h: what op_*.c need of the tape beyond tape.h. */
#ifndef KIN_TENSOR_TAPE_INTERNAL_H
#define KIN_TENSOR_TAPE_INTERNAL_H

#include "tensor/kernels.h"
#include "tensor/params.h"
#include "tensor/tape.h"

bool kin_tape_recording(const kin_ctx *ctx);
/* True while recording and p wants a gradient. */
bool kin_tape_needs_param(const kin_ctx *ctx, const kin_param *p);
/* Makes y (a view of all of p's value) a node whose gradient is p's. */
kin_status kin_tape_add_param(kin_ctx *ctx, kin_tensor *y, kin_param *p);
/* As kin_tape_grad_slot, but the slot is always to be added to (zeroed on first use). */
kin_status kin_tape_grad_slot_add(kin_ctx *ctx, const kin_tensor *t, kin_tensor *grad);
/* The activation that gave a tensor, and what it read. */
typedef struct kin_tape_past {
    kin_act act;
    kin_tensor pre;
} kin_tape_past;
/* Says of an op's output y, which one product alone reads, that it is act(pre): its gradient may
 * come as that of pre. pre lives in the workspace. */
kin_status kin_tape_note_past(kin_ctx *ctx, const kin_tensor *y, kin_act act,
                              const kin_tensor *pre);
/* As kin_tape_grad_slot, for the gradient of such a t by its product: where *past is not NULL, grad
 * is that of its pre, of type `kept`, so times act'(pre). */
kin_status kin_tape_grad_slot_past(kin_ctx *ctx, const kin_tensor *t, kin_dtype kept,
                                   kin_tensor *grad, bool *acc, const kin_tape_past **past);
/* True if the gradient that arrived at y is that of its pre. */
bool kin_tape_is_past(kin_ctx *ctx, const kin_tensor *y);
/* Hands the gradient buffer of `from` (an op's output whose backward is done with it) over to `to`,
 * which has none yet and gets the same values. False where that is not possible: then copy. */
bool kin_tape_grad_give(kin_ctx *ctx, const kin_tensor *from, const kin_tensor *to);

#endif
