/* tensor/replay.h: work that is done again and again with other values in the same memory: on a
 * device its launches are recorded once (a CUDA graph) and played afterwards, without the host code
 * that made them. On other backends it simply runs. */
#ifndef KIN_TENSOR_REPLAY_H
#define KIN_TENSOR_REPLAY_H

#include "tensor/ctx.h"
#include "tensor/params.h"

typedef struct kin_replay kin_replay;

/* One piece of work. It reads the tensors reads[count] (NULL entries: not there) and parameters,
 * and leaves its results above the workspace's mark, described by result[bytes], which fn fills. */
typedef struct kin_replay_work {
    kin_status (*fn)(kin_ctx *ctx, void *user);
    void *user;
    const kin_tensor *const *reads;
    int count;
    void *result;
    size_t bytes;
    const kin_params *const *params; /* [tables]: parameters that may change from one call to the
                                        next; NULL entries: none */
    int tables;
} kin_replay_work;

/* Recordings for work on ctx; they name parameters, which must not change while they are kept,
 * unless the work lists their tables. The caller's: kin_replay_destroy, before ctx. Fails: MEM. */
kin_status kin_replay_create(kin_ctx *ctx, kin_replay **out);
void kin_replay_destroy(kin_replay **replay);

/* Does the work; r NULL: by calling fn. Work is the same where its reads have the same shapes,
 * those on the device the same addresses, those on the host the same values, and the workspace the
 * same mark. The first time it is called, the second time recorded, then played. What cannot be
 * recorded (a host that must wait, memory that must grow), is tapped, profiled or taped, or comes
 * when all places are taken is called. Fails: as fn. */
kin_status kin_replay_run(kin_replay *r, kin_ctx *ctx, const kin_replay_work *work);

/* How often work was called, recorded and played (r NULL: never); for tests and reports. */
typedef struct kin_replay_counts {
    long called, recorded, played;
} kin_replay_counts;
kin_replay_counts kin_replay_count(const kin_replay *r);

#endif
