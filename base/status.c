#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

kin_status kin_fail(kin_error *err, kin_status status, const char *fmt, ...)
{
    if (!err)
        return status;
    va_list ap;
    va_start(ap, fmt);
    err->status = status;
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    return status;
}

kin_status kin_fail_prefix(kin_error *err, const char *fmt, ...)
{
    if (!err)
        return KIN_ERR_ARG;
    char old[sizeof err->text];
    memcpy(old, err->text, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof err->text)
        snprintf(err->text + n, sizeof err->text - (size_t)n, ": %s", old);
    return err->status;
}

const char *kin_status_name(kin_status status)
{
    switch (status) {
    case KIN_OK: return "ok";
    case KIN_ERR_ARG: return "argument";
    case KIN_ERR_SHAPE: return "shape";
    case KIN_ERR_MEM: return "memory";
    case KIN_ERR_IO: return "input/output";
    case KIN_ERR_FORMAT: return "format";
    case KIN_ERR_BACKEND: return "backend";
    case KIN_ERR_UNSUPPORTED: return "unsupported";
    case KIN_ERR_NUMERIC: return "numeric";
    case KIN_ERR_INTERRUPTED: return "interrupted";
    case KIN_ERR_THRESHOLD: return "threshold";
    }
    return "unknown";
}
