#include "api/sized.h"

#include <string.h>

kin_status kin_sized_error(const kin_error *from, kin_error *to)
{
    if (to)
        *to = *from;
    return from->status;
}

void kin_sized_put(void *out, size_t size, const void *in, size_t known)
{
    if (size < sizeof size)
        return;
    memset(out, 0, size);
    memcpy(out, in, size < known ? size : known);
    memcpy(out, &size, sizeof size);
}

kin_status kin_sized_get(void *out, size_t known, const void *in, const char *what, kin_error *err)
{
    size_t size;
    memcpy(&size, in, sizeof size);
    if (size < sizeof size)
        return kin_fail(err, KIN_ERR_ARG, "%s: size %zu must be set, by its _init function", what,
                        size);
    if (size > known)
        return kin_fail(err, KIN_ERR_ARG,
                        "%s: size %zu is that of a later version; this library knows %zu bytes",
                        what, size, known);
    memcpy(out, in, size);
    return KIN_OK;
}
