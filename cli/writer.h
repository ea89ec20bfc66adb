/* cli/writer.h: a thread that encodes and writes finished clips while the next ones are sampled.
 * Clips are written in the order in which they came; the queue is bounded; the first failure stops
 * it and reaches the caller at the next call. */
#ifndef KIN_CLI_WRITER_H
#define KIN_CLI_WRITER_H

#include <stddef.h>
#include <stdint.h>

#include "tensor/tensor.h"

typedef struct kin_writer kin_writer;

/* Writes one clip; called in the thread. frames as given to kin_writer_put. */
typedef kin_status (*kin_writer_fn)(void *user, int64_t clip, const kin_tensor *frames,
                                    kin_error *err);

/* Starts the thread with room for `slots` clips of at most `bytes` bytes. user must stay until
 * kin_writer_finish. Fails: KIN_ERR_MEM, KIN_ERR_BACKEND (no thread). */
kin_status kin_writer_start(kin_writer_fn write, void *user, int64_t slots, size_t bytes,
                            kin_writer **out, kin_error *err);
/* Takes a copy of frames (contiguous), waiting while every slot is in use. Fails with what writing
 * failed with. */
kin_status kin_writer_put(kin_writer *w, int64_t clip, const kin_tensor *frames, kin_error *err);
/* How many clips have been written so far, in *done; fails as kin_writer_put. */
kin_status kin_writer_check(kin_writer *w, int64_t *done, kin_error *err);
/* Writes what is still queued, ends the thread and frees all; its status counts. *done (may be
 * NULL): clips written in all. *w is NULL afterwards; a NULL *w does nothing. */
kin_status kin_writer_finish(kin_writer **w, int64_t *done, kin_error *err);
/* Memory it holds. */
uint64_t kin_writer_bytes(int64_t slots, size_t bytes);

#endif
