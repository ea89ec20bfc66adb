/* io/npz.h: many pictures of one size in one NumPy archive (.npz: a stored zip with arr_0.npy u8
 * [N,H,W,C] and, where there are labels, arr_1.npy i64 [N]), as the usual FID evaluators take it.
 * Pictures are written as they come. Until the last one the file is PATH.part; beside it
 * PATH.part.crc holds a checksum after every picture, by which a file that was cut off anywhere is
 * known to be good up to a picture and goes on from there. Zip64 throughout: no size limit. */
#ifndef KIN_IO_NPZ_H
#define KIN_IO_NPZ_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct kin_npz kin_npz;

/* Opens PATH.part for pictures of size {N,H,W,C} (all >= 1): empty, or with resume as far as it is
 * good; *have: pictures in it. Fails: KIN_ERR_ARG (sizes), KIN_ERR_IO, KIN_ERR_MEM. */
kin_status kin_npz_open(const char *path, const int64_t size[4], bool resume, kin_npz **out,
                        int64_t *have, kin_error *err);
/* Appends one picture u8 [H,W,C]. Fails: KIN_ERR_IO; KIN_ERR_ARG beyond N. */
kin_status kin_npz_put(kin_npz *z, const uint8_t *picture, kin_error *err);
/* Completes the archive once all N pictures are in it, syncs it and gives it its name. label (NULL:
 * no arr_1) gives the label of picture i. *z is NULL afterwards; after a failure the part stays. */
kin_status kin_npz_finish(kin_npz **z, int64_t (*label)(void *user, int64_t i), void *user,
                          kin_error *err);
/* Closes; what was written stays as PATH.part. A NULL *z does nothing. */
void kin_npz_close(kin_npz **z);

/* True if PATH is there with as many bytes as a finished archive of this size has, and no part of
 * an unfinished one beside it; checksums that a kill at the last moment left there are removed. */
bool kin_npz_is_complete(const char *path, const int64_t size[4], bool labels);
/* True if a part is there. */
bool kin_npz_has_part(const char *path);

#endif
