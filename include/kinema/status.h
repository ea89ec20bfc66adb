/* kinema/status.h: what every call of libkinema gives back, and the text that goes with a failure.
 *
 * The library never prints, exits or aborts on what it is given, and keeps no state of its own
 * between calls but what the caller's handles hold. A handle belongs to one thread at a time;
 * different handles may work in different threads at once. */
#ifndef KINEMA_STATUS_H
#define KINEMA_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* 0, or the kind of the failure. Values keep their meaning for as long as the library's major
 * version does; more may be added. */
typedef enum kin_status {
    KIN_OK = 0,
    KIN_ERR_ARG = -1,         /* a value outside its rule */
    KIN_ERR_SHAPE = -2,       /* tensors that do not fit together */
    KIN_ERR_MEM = -3,         /* out of memory, or over the limit */
    KIN_ERR_IO = -4,          /* the system refused a read or a write */
    KIN_ERR_FORMAT = -5,      /* a file that is not what it claims to be */
    KIN_ERR_BACKEND = -6,     /* a library call failed */
    KIN_ERR_UNSUPPORTED = -7, /* valid, but not available here */
    KIN_ERR_NUMERIC = -8,     /* NaN, infinity, flat frames */
    KIN_ERR_INTERRUPTED = -9, /* a signal or a callback asked to stop; see kin_error.signal */
    KIN_ERR_THRESHOLD = -10   /* a bar the caller asked for was missed */
} kin_status;

/* A failure in words: operation, value, rule ("generate: width 250 must be a multiple of 8").
 * Caller's; start it zeroed, {0} in C and {} in C++. Calls that succeed leave it alone. */
typedef struct kin_error {
    kin_status status;
    int signal; /* for INTERRUPTED: SIGINT or SIGTERM, or 0 where a callback asked */
    char text[1024];
} kin_error;

/* The name of a status, e.g. "shape"; "unknown" for a number that is none. Never NULL; not to be
 * freed. */
const char *kin_status_name(kin_status status);

#ifdef __cplusplus
}
#endif

#endif
