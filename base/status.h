/* base/status.h: failing with a text. Every fallible call of the library returns kin_status; the
 * text (operation, value, rule) goes into the caller's kin_error; both are defined in the public
 * header. The library never prints, exits or aborts on input. */
#ifndef KIN_BASE_STATUS_H
#define KIN_BASE_STATUS_H

#include <kinema/status.h>

/* Writes the formatted text into err (NULL: dropped) and returns `status`. Shape of the text:
 * operation, value, rule ("generate: width 250 must be a multiple of 8"). */
kin_status kin_fail(kin_error *err, kin_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the text already in err; returns err's status. For callers that know the
 * file. */
kin_status kin_fail_prefix(kin_error *err, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Returns from the calling function with the status of `call` unless it is KIN_OK. */
#define KIN_TRY(call)                        \
    do {                                     \
        kin_status kin_try_status_ = (call); \
        if (kin_try_status_ != KIN_OK)       \
            return kin_try_status_;          \
    } while (0)

/* The same where something is held: jumps to `done` with `status` (a local) set. */
#define KIN_GOTO(call)        \
    do {                      \
        status = (call);      \
        if (status != KIN_OK) \
            goto done;        \
    } while (0)

#endif
