/* tensor/tape.h: reverse-mode differentiation. Ops append entries while ctx->tape is set; backward
 * walks them once in reverse. A node is one contiguous tensor made by an op; views share its id,
 * and the gradient of a view is the same view of the node's gradient. Parameter gradients
 * accumulate in the table. */
#ifndef KIN_TENSOR_TAPE_H
#define KIN_TENSOR_TAPE_H

#include "tensor/ctx.h"

typedef kin_status (*kin_backward_fn)(kin_ctx *ctx, void *saved);

/* Starts recording on ctx (tape memory lives in the workspace). */
kin_status kin_tape_begin(kin_ctx *ctx);
/* Stops recording and forgets the tape; workspace memory is released by the caller's mark. */
void kin_tape_end(kin_ctx *ctx);

/* Makes a contiguous tensor a node of its own, so that its gradient can be asked for (inputs under
 * test). */
kin_status kin_tape_watch(kin_ctx *ctx, kin_tensor *t);
/* Runs backward from `n` outputs with their gradients (dout[i] same shape as out[i]; NULL: ones).
 * Recording is off while it runs. */
kin_status kin_tape_backward(kin_ctx *ctx, const kin_tensor *out, const kin_tensor *dout, int n);
/* The gradient of t (same view), or a tensor with data NULL when nothing reached it. */
kin_tensor kin_tape_grad(kin_ctx *ctx, const kin_tensor *t);

/* For ops. True while recording and t takes part. */
bool kin_tape_needs(const kin_ctx *ctx, const kin_tensor *t);
/* Appends an entry whose output is *y (gets a node id). saved must live in the workspace. */
kin_status kin_tape_add(kin_ctx *ctx, kin_tensor *y, kin_backward_fn fn, void *saved);
/* For backward functions: gradient view of t to write into. *acc says whether to add (true) or to
 * overwrite. data NULL: t needs none. After a call the view counts as written, so call it once per
 * use. */
kin_status kin_tape_grad_slot(kin_ctx *ctx, const kin_tensor *t, kin_tensor *grad, bool *acc);
/* Gradient that arrived at an op's output; data NULL when none did (then the op has nothing to do).
 */
kin_tensor kin_tape_grad_in(kin_ctx *ctx, const kin_tensor *y);

/* Runs fn without recording and again, recorded, in backward (block recomputation). fn reads `in`
 * (n_in tensors), fills `out` (n_out tensors, allocated by fn), and may use parameters and arg,
 * which must stay alive and unchanged until backward is done. Outside recording it is fn alone. */
typedef kin_status (*kin_checkpoint_fn)(kin_ctx *ctx, void *arg, const kin_tensor *in,
                                        kin_tensor *out);
kin_status kin_checkpoint(kin_ctx *ctx, kin_checkpoint_fn fn, void *arg, const kin_tensor *in,
                          int n_in, kin_tensor *out, int n_out);

#endif
