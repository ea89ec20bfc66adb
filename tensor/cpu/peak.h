/* tensor/cpu/peak.h: what this machine can do at most: register-only loops for each kind of
 * multiply-add, a chain of dependent additions for the clock, and the triad a = b + s c for memory.
 * Measured, never looked up; `kinema bench` puts every kernel beside these. */
#ifndef KIN_CPU_PEAK_H
#define KIN_CPU_PEAK_H

#include <time.h>

#include "tensor/ctx.h"

typedef enum kin_peak_unit {
    KIN_PEAK_F32 = 0,  /* vfmadd, the widest the level has */
    KIN_PEAK_BF16,     /* vdpbf16ps, 512 bits */
    KIN_PEAK_INT8,     /* vpdpbusd, 512 bits */
    KIN_PEAK_AMX_BF16, /* tdpbf16ps */
    KIN_PEAK_AMX_INT8, /* tdpbusd */
    KIN_PEAK_UNITS
} kin_peak_unit;

enum { KIN_PEAK_SLICES = 64 };

typedef struct kin_peak_options {
    kin_isa isa;     /* level whose instructions may be used */
    int threads;     /* all run at the same time */
    int slices;      /* 1 to KIN_PEAK_SLICES stretches of about 0.2 ms (triad: 1 ms or one pass) */
    clockid_t clock; /* CLOCK_MONOTONIC: the best slice counts, for other work can only slow it;
                        CLOCK_THREAD_CPUTIME_ID: the third quartile, for that clock errs both ways
                        by about 10 us where the host takes the core away */
} kin_peak_options;

/* Operations per second (a multiply-add counts 2), the sum over the threads of each one's slice,
 * and the clock in Hz of the slowest core while it did that work. */
typedef struct kin_peak {
    double rate, hz;
} kin_peak;

/* False: this machine, or `isa`, has no such instruction. Then kin_peak_measure gives zeros. */
bool kin_peak_has(kin_peak_unit unit, kin_isa isa);
kin_peak kin_peak_measure(kin_peak_unit unit, const kin_peak_options *opt);

/* Arrays of `bytes` in all for a[i] = b[i] + s c[i], each part first touched by the thread that
 * uses it; opt->threads threads. Fails: MEM. */
typedef struct kin_triad {
    float *p;
    int64_t n; /* elements of one array of one thread */
    int threads;
} kin_triad;
kin_status kin_triad_open(kin_triad *t, size_t bytes, const kin_peak_options *opt, kin_error *err);
void kin_triad_close(kin_triad *t);
/* Bytes per second, 12 an element: what the program asks for; plain stores also read their line.
 * stream: stores that pass the caches by. */
double kin_triad_rate(const kin_triad *t, bool stream, const kin_peak_options *opt);

/* Bytes of the data cache of a level (2: one core's, 3: shared), or a usual size where the system
 * does not say. */
size_t kin_peak_cache(int level);
/* Counts of the time stamp counter per second, over about 2 ms. */
double kin_peak_tsc(void);

#endif
