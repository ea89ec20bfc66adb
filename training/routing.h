/* training/routing.h: what the routers of a model do with its tokens at fixed noise levels: over
 * the samples of a data set, over simulated clips (text models), or along the own sampling of a
 * class-conditional model. */
#ifndef KIN_TRAINING_ROUTING_H
#define KIN_TRAINING_ROUTING_H

#include "diffusion/pipeline.h"
#include "diffusion/routing_stats.h"

/* Noise levels: sigma of a flow, share of the steps of a DDPM. */
enum { KIN_ROUTING_LEVELS = 5 };
extern const float kin_routing_sigma[KIN_ROUTING_LEVELS];

typedef struct kin_routing_options {
    const char *data; /* set, or NULL */
    int64_t count;    /* samples at most */
    int64_t batch;    /* per forward; changes the result of DiffMoE's batch rule alone */
    uint64_t seed;    /* of noise and simulated clips */
    int steps;        /* own sampling: solver steps, each counted at the nearest level */
    double shift;
    /* Polled during the work; non-OK stops. */
    kin_status (*progress)(void *user, int64_t done, int64_t total, kin_error *err);
    void *user;
} kin_routing_options;

typedef struct kin_routing_report {
    kin_routing_stats stats; /* levels = kin_routing_sigma */
    int64_t samples;
    const char *from; /* what the samples are: opt->data or a constant */
    int64_t grid[3];  /* frames, rows and columns of the tokens of a sample */
} kin_routing_report;

/* *out is to be freed, also after a failure. Fails: ARG (no experts; more classes than the model
 * has), FORMAT, IO, MEM, UNSUPPORTED, what progress returned. */
kin_status kin_routing_measure(kin_pipeline *pipeline, const kin_routing_options *opt,
                               kin_routing_report *out, kin_error *err);
void kin_routing_report_free(kin_routing_report *r);

#endif
