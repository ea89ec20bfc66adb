/* base/status.h: status codes and error text.
 * Every fallible call of the library returns kin_status; the text (operation, value, rule) goes
 * into the caller's kin_error. The library never prints, exits or aborts on input. */
#ifndef KIN_BASE_STATUS_H
#define KIN_BASE_STATUS_H

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

typedef struct kin_error {
    kin_status status;
    int signal; /* for INTERRUPTED: SIGINT or SIGTERM */
    char text[1024];
} kin_error;

/* Writes the formatted text into err (NULL: dropped) and returns `status`. Shape of the text:
 * operation, value, rule ("generate: width 250 must be a multiple of 8"). */
kin_status kin_fail(kin_error *err, kin_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the text already in err; returns err's status. For callers that know the
 * file. */
kin_status kin_fail_prefix(kin_error *err, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* The name of a status, e.g. "shape"; never NULL. */
const char *kin_status_name(kin_status status);

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
