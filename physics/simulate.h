/* physics/simulate.h: labelled physics clips from real simulation, without any download.
 * Dynamics by Chipmunk2D, drawing by Cairo. A clip is a pure function of (options, seed, index):
 * all draws come from Philox keyed by them, so clip i is the same for any thread, order or count.
 * Thread-safe. Pixels: x to the right, y DOWN, pixel centres at k + 0.5. Metres: the same axes
 * divided by px_per_m. Frame k shows time k / fps; the clip's time span is frames / fps. */
#ifndef KIN_PHYSICS_SIMULATE_H
#define KIN_PHYSICS_SIMULATE_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "physics/annotation.h"

enum {
    KIN_SIM_MAX_KINDS = 32,
    KIN_SIM_MAX_OBJECTS = 2,
    KIN_SIM_MAX_FRAMES = 1024,
    KIN_SIM_MAX_SIDE = 2048,
    KIN_SIM_CAPTION_MAX = 320
};

/* The kinds of clip are rows of one table (simulate.c): uniform, throw, drop, incline, bounce,
 * spring, collision. */
int kin_sim_kind_count(void);
const char *kin_sim_kind_name(int kind); /* NULL outside */
int kin_sim_kind_find(const char *name); /* -1: unknown */
int kin_sim_kind_label(
    int kind); /* its category (kin_phys), e.g. KIN_PHYS_ELASTIC_MOTION; -1 outside */

typedef struct kin_sim_options {
    int width, height; /* pixels, 16..2048 */
    int frames;        /* 2..1024 */
    double fps;        /* frames per second */
    double fps_jitter; /* 0 (default) .. 0.3: fps of each clip varies by this share; the motion does
                          not */
    double radius_min, radius_max; /* px of a 32-pixel frame; scaled with min(width,height)/32 */
    double weights[KIN_SIM_MAX_KINDS]; /* relative frequency per kind; 0 = never */
    double gradient_share;             /* share of backgrounds with a vertical gradient */
    double box_share;                  /* share of boxes among the objects */
    double short_captions; /* share (default 0) of captions that name the objects and the background
                              alone: what happens is then said by the physical prior only */
} kin_sim_options;

/* 32x32, 16 frames at 8/s, radius 4.5..6.5, every kind (uniform most often), 30 % gradients, 30 %
 * boxes. */
void kin_sim_options_default(kin_sim_options *o);
/* Keeps only the kinds of a list "drop,bounce:2" (":2" doubles the weight against the others' 1).
 * A category in place of a kind ("elastic motion", "Collision") means all its kinds. KIN_ERR_ARG:
 * unknown name. */
kin_status kin_sim_options_kinds(kin_sim_options *o, const char *list, kin_error *err);
/* KIN_ERR_ARG names the first option outside its rule. */
kin_status kin_sim_options_check(const kin_sim_options *o, kin_error *err);

typedef enum kin_sim_shape { KIN_SIM_BALL = 0, KIN_SIM_BOX } kin_sim_shape;

/* State of one object at one frame. Pixels and seconds; divide by px_per_m for metres. */
typedef struct kin_sim_state {
    double x, y;   /* centre, px */
    double vx, vy; /* px/s */
    double ax, ay; /* px/s^2, the law's acceleration at that time (0 while at rest) */
    double angle;  /* radians, clockwise on the screen */
} kin_sim_state;

typedef struct kin_sim_object {
    kin_sim_shape shape;
    char colour[16]; /* "red" */
    uint8_t rgb[3];
    char material[16];     /* "steel"; "plastic" where the caption names none */
    double density;        /* g/cm3 */
    double radius;         /* px: radius of a ball, half the side of a box */
    double mass;           /* kg, of the ball or cube in metres */
    kin_sim_state *states; /* [frames], owned by the clip */
} kin_sim_object;

/* The figures a law fit of the main object must find (closed form). px, s. NAN = not defined for
 * the kind. */
typedef struct kin_motion {
    double vx,
        vy; /* uniform, throw, collision: velocity at the start; drop, bounce: at first impact;
               incline: at the last frame; spring: peak speed along the axis (>= 0) */
    double ax, ay;      /* throw, drop, bounce, incline: acceleration (of free flight) */
    double restitution; /* drop, bounce, collision */
    double period;      /* spring, s */
    double v2x, v2y;    /* collision: velocity of the second object after the impact */
    double event;       /* time of the first impact, s */
} kin_motion;

typedef struct kin_sim_truth {
    int kind;
    int width, height, frames;
    double fps;
    double px_per_m;
    double gravity;      /* m/s^2 */
    double incline;      /* radians, slope of the ramp (0: none) */
    double spring_k;     /* N/m (0: none) */
    double floor_y;      /* px, top of the floor (height: no floor) */
    double direction[2]; /* unit vector of the asked motion on the screen (spring: its axis) */
    char background[16]; /* "gray" */
    bool gradient;
    uint8_t background_rgb[2][3]; /* top, bottom */
    kin_motion motion;
    int objects;
    kin_sim_object object[KIN_SIM_MAX_OBJECTS]; /* [0] is the moving one */
} kin_sim_truth;

typedef struct kin_sim_clip {
    uint8_t *frames; /* [F,H,W,3] */
    char caption[KIN_SIM_CAPTION_MAX];
    char law[KIN_SIM_CAPTION_MAX]; /* begins with a blank, so that caption + law reads well */
    char n0[256], n1[64], n2[64], q0[96], q1[64], q2[64], q3[8], q4[96];
    double density[KIN_SIM_MAX_OBJECTS + 1][2];
    int densities;
    kin_sim_truth truth;
} kin_sim_clip;

/* Clip `index` of `seed`. Free with kin_sim_clip_free (also after failure: *out is then zeroed).
 * Fails: KIN_ERR_ARG (options), KIN_ERR_MEM, KIN_ERR_BACKEND (Cairo). */
kin_status kin_simulate_clip(const kin_sim_options *o, uint64_t seed, uint64_t index,
                             kin_sim_clip *out, kin_error *err);
void kin_sim_clip_free(kin_sim_clip *c);

/* Prior, quantities and prompt text of the clip as its record gives them through the parser. Free
 * *out. */
kin_status kin_sim_prior(const kin_sim_clip *c, kin_physics_prior *out, kin_error *err);

/* One WISA training record (keys as in wisa.json), file = name of the clip relative to the JSON,
 * video_id its id. The result is the caller's: cJSON_Delete. KIN_ERR_MEM. */
kin_status kin_sim_record_json(const kin_sim_clip *c, const char *video_id, const char *file,
                               cJSON **out, kin_error *err);

/* The content of truth.json: kind, rates, scale, constants, colours, and per object and frame
 * position, velocity and acceleration in px and in metres. */
kin_status kin_sim_truth_json(const kin_sim_clip *c, cJSON **out, kin_error *err);
/* Reads truth.json back (`caption` may be NULL, else KIN_SIM_CAPTION_MAX bytes). Free:
 * kin_sim_truth_free. Fails: KIN_ERR_FORMAT (key and rule), KIN_ERR_MEM. */
kin_status kin_sim_truth_read(const cJSON *json, kin_sim_truth *out, char *caption, kin_error *err);
void kin_sim_truth_free(kin_sim_truth *t);

#endif
