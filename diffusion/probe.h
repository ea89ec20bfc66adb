/* diffusion/probe.h: what a model answers to fixed inputs, so that two copies of its weights, or
 * two ways of computing, can be compared from one end to the other. */
#ifndef KIN_DIFFUSION_PROBE_H
#define KIN_DIFFUSION_PROBE_H

#include "diffusion/pipeline.h"

enum { KIN_PROBE_TIMES = 3 };

typedef struct kin_probe {
    float *text; /* states of a fixed prompt [texts]; NULL: a model without text */
    int64_t texts;
    float *y[KIN_PROBE_TIMES]; /* output of the transformer [n] at the times below */
    int64_t n;
} kin_probe;

/* Of 0..1000. */
extern const float kin_probe_times[KIN_PROBE_TIMES];

/* Text encoder and transformer on a prompt (or class 0), fixed noise of a small size where the
 * model takes any, and three times. Packed weights are given back. Fails: UNSUPPORTED (an
 * autoencoder or classifier), MEM, as the model. */
kin_status kin_probe_run(kin_pipeline *p, kin_probe *out);
void kin_probe_free(kin_probe *probe);

/* |a - b| / |a| over n values, in the Euclidean norm. */
double kin_probe_difference(const float *a, const float *b, int64_t n);

#endif
