/* kinema/kinema.h: all of libkinema's headers.
 *
 * A program is built with `cc program.c $(pkg-config --cflags --libs kinema)`; examples/ holds two.
 * The library starts threads with OpenMP. Where other programs use the same cores, the environment
 * variable OMP_WAIT_POLICY=passive keeps waiting threads from spinning; the library sets none.
 *
 * What reaches beyond the caller's handles: FFmpeg's log is silenced for the whole process with the
 * first video that is read or written. KINEMA_ISA and KINEMA_CALIBRATION choose kernels, as in the
 * program. */
#ifndef KINEMA_KINEMA_H
#define KINEMA_KINEMA_H

#include <kinema/generator.h>
#include <kinema/status.h>
#include <kinema/training.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of the library in use, e.g. "0.1.0". Never NULL; not to be freed. */
const char *kin_version(void);

#ifdef __cplusplus
}
#endif

#endif
