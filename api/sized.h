/* api/sized.h: structs that callers may know in an older form: their first member is their size,
 * and members are only ever added at the end. */
#ifndef KIN_API_SIZED_H
#define KIN_API_SIZED_H

#include <stddef.h>

#include "base/status.h"

/* A failure's text to a caller that may not want it. Returns from->status. */
kin_status kin_sized_error(const kin_error *from, kin_error *to);

/* Fills the first `size` bytes of *out, of which the library knows `known`, from *in; what lies
 * behind is zeroed. The first member becomes size. */
void kin_sized_put(void *out, size_t size, const void *in, size_t known);
/* *out (known bytes, holding defaults) takes what the caller's struct has. Fails: ARG if its first
 * member was never set, or names more than is known. `what` opens the message. */
kin_status kin_sized_get(void *out, size_t known, const void *in, const char *what, kin_error *err);

#endif
