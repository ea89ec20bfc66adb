/* physics/tracker.h: the judge. Finds the asked object in u8 frames by its colour, tells whether it
 * is one intact object in every frame, and fits the laws of motion to its path. It knows nothing of
 * the model. */
#ifndef KIN_PHYSICS_TRACKER_H
#define KIN_PHYSICS_TRACKER_H

#include "physics/simulate.h"

/* What was asked of a clip, from its truth or from its caption. Unknown figures are NAN, an unknown
 * kind is -1. */
typedef struct kin_asked {
    int kind;
    int objects;
    struct {
        char colour[16];
        uint8_t rgb[3];
        kin_sim_shape shape;
        double radius_min, radius_max; /* px, plausible range */
    } object[KIN_SIM_MAX_OBJECTS];
    char background[16]; /* "" unknown */
    double direction[2]; /* unit vector, (0,0) unknown */
    double fps;
    double floor_y; /* px; NAN unknown */
    kin_motion motion;
} kin_asked;

void kin_asked_from_truth(const kin_sim_truth *truth, kin_asked *out);

/* Reads a prompt of our grammar (or near it): colours, shapes, kind, direction, speed word,
 * background. Figures in px come from the speed words and the options' size and rate, as the
 * simulator has them. KIN_ERR_ARG: no known object colour and shape in the text (out is then filled
 * as far as understood). */
kin_status kin_caption_parse(const char *caption, const kin_sim_options *o, kin_asked *out,
                             kin_error *err);

/* The path of one object. */
typedef struct kin_track {
    int frames;
    double *x, *y;      /* [frames] px, NAN where not found */
    double *area;       /* [frames] px of the asked colour (fractional) */
    uint8_t *intact_at; /* [frames] 1: exactly one object of plausible size and form */
    bool colour;        /* the asked colour is there as an object in at least half of the frames */
    bool intact;        /* intact_at in every frame */
} kin_track;

/* Tracks object `which` of `asked` in frames [F,H,W,3]. Free: kin_track_free. KIN_ERR_ARG,
 * KIN_ERR_MEM. */
kin_status kin_track_object(const uint8_t *frames, int F, int H, int W, const kin_asked *asked,
                            int which, kin_track *out, kin_error *err);
void kin_track_free(kin_track *t);

/* Fits the law of `asked->kind` to a path (second: the other object of a collision, or NULL) and
 * fills *out in the terms of kin_motion (NAN where nothing could be fitted). Frames not found are
 * left out of the fits. */
void kin_track_fit(const kin_asked *asked, const kin_track *track, const kin_track *second,
                   kin_motion *out);

/* The verdict on one clip. Relative errors are |fit - asked| / |asked| (vectors by norm); NAN = not
 * asked; a fit that is impossible although it was asked for counts as 1. The restitution's error is
 * |fit - asked|. */
typedef struct kin_verdict {
    bool colour;    /* every asked colour is present */
    bool intact;    /* every asked object is one intact object in every frame */
    bool direction; /* the main object moves as asked (within 45 degrees, at least a quarter as far;
                       spring: swings along its axis; bounce, drop: goes down) */
    bool bounced;   /* bounce: it comes up again after going down */
    double velocity_error, acceleration_error, restitution_error, period_error;
    kin_motion fit;
} kin_verdict;
kin_status kin_judge_clip(const uint8_t *frames, int F, int H, int W, const kin_asked *asked,
                          kin_verdict *out, kin_error *err);

#endif
