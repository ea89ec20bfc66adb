/* physics/sim_scene.h: what the files sim_*.c share. A kind of clip is one row (kin_sim_row): its
 * make function draws the parameters, sets up bodies and decor, runs the world and writes the
 * caption. Private to physics/. */
#ifndef KIN_PHYSICS_SIM_SCENE_H
#define KIN_PHYSICS_SIM_SCENE_H

#include "physics/materials.h"
#include "physics/simulate.h"
#include "tensor/rng.h"

struct cpSpace;
struct cpBody;

/* Measures that follow from the options alone; the judge uses them too. Pixels, seconds. */
typedef struct kin_sim_design {
    double s;              /* pixels of this frame per pixel of a 32-pixel frame */
    double margin;         /* kept free at the edges */
    double time;           /* of the last frame, at the slowest fps of the jitter */
    double radius_max;     /* largest radius */
    double room_x, room_y; /* path of the largest object from edge to edge */
    double room_pair;      /* path left by two objects side by side along x (collision) */
    double pair_scale;     /* radii of a collision against the others' */
    double gravity;        /* px/s^2 */
    double px_per_m;
    double floor; /* thickness of the floor */
} kin_sim_design;
kin_sim_design kin_sim_design_of(const kin_sim_options *o);

#define KIN_BOX_HALF_SIDE 0.9 /* half the side of a box against the radius drawn for it */

/* Speed words: slow 0, medium 1, fast 2. */
enum { KIN_SPEED_SLOW = 0, KIN_SPEED_MEDIUM, KIN_SPEED_FAST };
double kin_uniform_speed(const kin_sim_design *d, int speed, bool horizontal); /* px/s */
double kin_throw_speed(const kin_sim_design *d, int speed);                    /* px/s, sideways */
double kin_collision_speed(const kin_sim_design *d, int speed);                /* px/s */
double kin_spring_period(const kin_sim_design *d, int speed);                  /* s */
/* Angle (radians) and acceleration along the ramp (px/s^2); box slides without friction, ball
 * rolls. */
double kin_incline_angle(const kin_sim_design *d, kin_sim_shape shape, bool steep);
double kin_incline_acceleration(const kin_sim_design *d, kin_sim_shape shape, double angle);

typedef struct kin_sim_scene {
    const kin_sim_options *o;
    const struct kin_sim_row *row;
    kin_sim_design d;
    kin_sim_clip *clip;
    kin_rng rng;
    uint64_t next;    /* draws used */
    double fps, time; /* of this clip; time = of its last frame */
    const kin_material *material[KIN_SIM_MAX_OBJECTS],
        *ground;             /* ground: of the floor or ramp, or NULL */
    const char *ground_noun; /* "floor", "ramp", "slope", ... or NULL */
    /* decor */
    double ramp[4];   /* x0, y0, x1, y1 of its surface; all 0: none */
    int spring;       /* 0 none, 1 from the left wall, 2 from the ceiling, 3 from the right wall */
    double anchor[2]; /* of the spring */
    double balance, omega; /* spring: point of rest along its axis (px), angular frequency (1/s) */
    /* world */
    struct cpSpace *space;
    struct cpBody *body[KIN_SIM_MAX_OBJECTS];
    double dt;
    int substeps; /* per frame */
} kin_sim_scene;

typedef struct kin_sim_row {
    const char *name;
    kin_phys label;
    double weight;
    kin_phys dynamics[4]; /* categories of q0, ended by KIN_PHYS_NO_DYNAMICS */
    const char *law;      /* begins with a blank */
    kin_status (*make)(kin_sim_scene *s, kin_error *err);
} kin_sim_row;
const kin_sim_row *kin_sim_row_at(int kind); /* NULL outside */

kin_status kin_sim_make_uniform(kin_sim_scene *s, kin_error *err); /* sim_rigid.c */
kin_status kin_sim_make_throw(kin_sim_scene *s, kin_error *err);
kin_status kin_sim_make_drop(kin_sim_scene *s, kin_error *err);
kin_status kin_sim_make_incline(kin_sim_scene *s, kin_error *err);
kin_status kin_sim_make_bounce(kin_sim_scene *s, kin_error *err); /* sim_elastic.c */
kin_status kin_sim_make_spring(kin_sim_scene *s, kin_error *err);
kin_status kin_sim_make_collision(kin_sim_scene *s, kin_error *err); /* sim_collision.c */

/* ---- draws (sim_text.c) ---- */
double kin_sim_uniform(kin_sim_scene *s, double lo, double hi);
int kin_sim_index(kin_sim_scene *s, int n);
bool kin_sim_chance(kin_sim_scene *s, double p);

/* ---- objects and words (sim_text.c) ---- */
/* Adds an object of random colour (other than those there), shape, radius and the given material.
 */
kin_sim_object *kin_sim_add_object(kin_sim_scene *s, const kin_material *m, double radius_scale);
/* Adds formatted text to the caption. In fmt, {a|b|c} is one of its parts, drawn; parts may be
 * empty. */
void kin_sim_say(kin_sim_scene *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* "a small red wooden box" into buf[96]; adjective "resting" etc. or "" comes after the article. */
const char *kin_sim_name(kin_sim_scene *s, int object, const char *adjective, char buf[96]);
/* "wooden floor" into buf[48] ("floor" without a material). */
const char *kin_sim_ground_name(kin_sim_scene *s, char buf[48]);
/* Format of the words for a motion sideways, drawn by kin_sim_say: "to the left", "leftward".
 * note: with "to the right from the left edge" alone the words of both ways are the same bag, and a
 * text encoder that learns from scratch takes very long to tell them apart. */
const char *kin_sim_sideways(int sign);
/* An adverb of the speed, drawn. */
const char *kin_sim_adverb(kin_sim_scene *s, int speed);
/* Replaces the caption by the names of the objects. */
void kin_sim_say_objects(kin_sim_scene *s);
/* Puts the background before or after the sentence in the caption and ends it. */
void kin_sim_say_background(kin_sim_scene *s);
/* Answers, densities, time and temperature texts of the annotation. */
void kin_sim_annotate(kin_sim_scene *s);

/* ---- world (sim_world.c); pixels, y down ---- */
kin_status kin_sim_world_open(kin_sim_scene *s, double gravity, kin_error *err);
void kin_sim_world_close(kin_sim_scene *s);
/* Body of object i at (x, y) with velocity; `spin`: it may turn (solid ball), else not.
 * (ax, ay): acceleration at the start, for the half-step start of the leapfrog. */
kin_status kin_sim_world_body(kin_sim_scene *s, int i, const double p[2], const double v[2],
                              const double a[2], double angle, bool spin, double elasticity,
                              double friction, kin_error *err);
kin_status kin_sim_world_ground(kin_sim_scene *s, const double a[2], const double b[2],
                                double elasticity, double friction, kin_error *err);
kin_status kin_sim_world_spring(kin_sim_scene *s, const double anchor[2], double rest, double k,
                                kin_error *err);
/* Runs all frames into the objects' states. accel(s, object, position, velocity, out[2]) is the
 * law's acceleration. */
typedef void kin_sim_accel(const kin_sim_scene *s, int object, const double p[2], const double v[2],
                           double out[2]);
kin_status kin_sim_world_run(kin_sim_scene *s, kin_sim_accel *accel, kin_error *err);
void kin_sim_no_accel(const kin_sim_scene *s, int object, const double p[2], const double v[2],
                      double out[2]);

/* ---- a fall onto a floor, shared by drop and bounce (sim_rigid.c) ---- */
typedef struct kin_sim_fall_words {
    const char *from, *where; /* "the top", "on the left" */
} kin_sim_fall_words;
/* Object 0 falls from rest with restitution e; fills floor, states, motion. */
kin_status kin_sim_fall(kin_sim_scene *s, double e, kin_sim_fall_words *words, kin_error *err);
/* A floor or ramp of random material; noun as captions call it. */
void kin_sim_choose_ground(kin_sim_scene *s, const char *noun);

/* Start along an axis of which [lo, hi] is free, for a path of length `path` towards `sign`; speed
 * decides whether it goes from edge to edge, from an edge, or half the way; *from, *to are 0 near
 * edge, 1 middle, 2 far edge, -1 unsaid. */
double kin_sim_start(kin_sim_scene *s, double lo, double hi, double path, int sign, int speed,
                     int *from, int *to);

/* ---- drawing (sim_draw.c) ---- */
kin_status kin_sim_draw(kin_sim_scene *s, kin_error *err);

#endif
