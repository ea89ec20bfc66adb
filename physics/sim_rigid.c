/* Rigid body motion: uniform motion, throw, drop onto a floor, incline. */
#include <math.h>
#include <string.h>

#include "physics/sim_scene.h"

static const char *const place_x[2][3] = {
    {"the left edge", "the middle", "the right edge"},
    {"the right edge", "the middle", "the left edge"},
};
static const char *const place_y[2][3] = {
    {"the top", "the middle", "the bottom"},
    {"the bottom", "the middle", "the top"},
};

double kin_sim_start(kin_sim_scene *s, double lo, double hi, double path, int sign, int speed,
                     int *from, int *to)
{
    double slack = fmax(hi - lo - path, 0), small = fmin(slack, s->d.s);
    double offset = kin_sim_uniform(s, 0, small);
    *from = 0;
    *to = speed == KIN_SPEED_FAST ? 2 : speed == KIN_SPEED_SLOW ? 1 : -1;
    if (speed == KIN_SPEED_SLOW && kin_sim_chance(s, 0.5)) {
        offset = slack - offset;
        *from = 1;
        *to = 2;
    }
    return sign > 0 ? lo + offset : hi - offset;
}

static void say_path(kin_sim_scene *s, const char *const *place, int from, int to)
{
    kin_sim_say(s, " from %s", place[from]);
    if (to >= 0)
        kin_sim_say(s, " to %s", place[to]);
}

/* A place across the motion: low, middle or high end of [lo, hi], with its index in *lane. */
static double across(kin_sim_scene *s, double lo, double hi, int *lane)
{
    *lane = kin_sim_index(s, 3);
    return lo + (hi - lo) * (0.1 + 0.4 * *lane + kin_sim_uniform(s, -0.08, 0.08));
}

static const kin_material *plain_or(kin_sim_scene *s, double plain)
{
    /* steel, rubber, wood, clay, stone */
    return kin_sim_chance(s, plain) ? kin_material_plain()
                                    : kin_material_at(1 + kin_sim_index(s, 5));
}

/* Limits of the centre of object 0. */
static void limits(const kin_sim_scene *s, double extent, double lo[2], double hi[2])
{
    const kin_sim_truth *t = &s->clip->truth;
    lo[0] = lo[1] = extent + s->d.margin;
    hi[0] = t->width - lo[0];
    hi[1] = t->height - lo[1];
}

static kin_status fly(kin_sim_scene *s, const double p[2], const double v[2], double gravity,
                      kin_sim_accel *accel, kin_error *err)
{
    const double a[2] = {0, gravity};
    KIN_TRY(kin_sim_world_open(s, gravity, err));
    KIN_TRY(kin_sim_world_body(s, 0, p, v, a, 0, false, 0, 0, err));
    return kin_sim_world_run(s, accel, err);
}

kin_status kin_sim_make_uniform(kin_sim_scene *s, kin_error *err)
{
    static const char *const lanes[2][3] = {
        {" on the left", " in the center", " on the right"},
        {" near the ceiling", " at mid height", " near the ground"},
    };
    const char *const way[2][2] = {{"upward", "downward"},
                                   {kin_sim_sideways(-1), kin_sim_sideways(1)}};
    kin_sim_truth *t = &s->clip->truth;
    kin_sim_object *ob = kin_sim_add_object(s, plain_or(s, 0.6), 1);
    bool h = kin_sim_chance(s, 0.7);
    int sign = kin_sim_chance(s, 0.5) ? 1 : -1, speed = kin_sim_index(s, 3), from, to, lane;
    double rate = kin_uniform_speed(&s->d, speed, h), lo[2], hi[2], p[2], v[2] = {0, 0};
    int along = h ? 0 : 1;
    char name[96];
    limits(s, ob->radius, lo, hi);
    p[along] = kin_sim_start(s, lo[along], hi[along], rate * s->time, sign, speed, &from, &to);
    p[1 - along] = across(s, lo[1 - along], hi[1 - along], &lane);
    v[along] = sign * rate;
    t->direction[along] = sign;
    t->motion.vx = v[0];
    t->motion.vy = v[1];
    KIN_TRY(fly(s, p, v, 0, kin_sim_no_accel, err));
    const char *adverb = kin_sim_adverb(s, speed), *dir = way[h][sign > 0];
    kin_sim_say(s, "%s ", kin_sim_name(s, 0, "", name));
    if (kin_sim_chance(s, 0.3))
        kin_sim_say(s, "%s {moves|travels|glides|slides} %s", adverb, dir);
    else if (kin_sim_chance(s, 0.4))
        kin_sim_say(s, "{moves|travels|glides|slides} %s %s", dir, adverb);
    else
        kin_sim_say(s, "{moves|travels|glides|slides} %s %s", adverb, dir);
    if (to >= 0 || kin_sim_chance(s, 0.5))
        say_path(s, h ? place_x[sign < 0] : place_y[sign < 0], from, to);
    kin_sim_say(s, "%s", lanes[h][lane]);
    return KIN_OK;
}

static void accel_gravity(const kin_sim_scene *s, int object, const double p[2], const double v[2],
                          double out[2])
{
    (void)object, (void)p, (void)v;
    out[0] = 0;
    out[1] = s->d.gravity;
}

kin_status kin_sim_make_throw(kin_sim_scene *s, kin_error *err)
{
    kin_sim_truth *t = &s->clip->truth;
    kin_sim_object *ob = kin_sim_add_object(s, plain_or(s, 0.6), 1);
    int sign = kin_sim_chance(s, 0.5) ? 1 : -1, speed = kin_sim_index(s, 3), from, to;
    double rate = kin_throw_speed(&s->d, speed), lo[2], hi[2], p[2], v[2];
    char name[96];
    limits(s, ob->radius, lo, hi);
    v[0] = sign * rate;
    v[1] = -s->d.gravity * s->d.time / 2; /* back at the height of the start at the end */
    double rise = v[1] * v[1] / (2 * s->d.gravity);
    p[0] = kin_sim_start(s, lo[0], hi[0], rate * s->time, sign, speed, &from, &to);
    p[1] = hi[1] - kin_sim_uniform(s, 0, fmin(hi[1] - lo[1] - rise, s->d.s));
    t->direction[0] = sign;
    t->motion.vx = v[0];
    t->motion.vy = v[1];
    t->motion.ax = 0;
    t->motion.ay = s->d.gravity;
    KIN_TRY(fly(s, p, v, s->d.gravity, accel_gravity, err));
    const char *adverb = kin_sim_adverb(s, speed);
    kin_sim_say(s, "%s {is thrown|flies} %s %s in {an|a high} arc", kin_sim_name(s, 0, "", name),
                adverb, kin_sim_sideways(sign));
    if (to >= 0 || kin_sim_chance(s, 0.5))
        say_path(s, place_x[sign < 0], from, to);
    return KIN_OK;
}

void kin_sim_choose_ground(kin_sim_scene *s, const char *noun)
{
    static const char *const kind[4] = {NULL, NULL, "wood", "stone"};
    const char *name = kind[kin_sim_index(s, 4)];
    s->ground_noun = noun;
    s->ground = name ? kin_material_find(name) : NULL;
}

static void accel_fall(const kin_sim_scene *s, int object, const double p[2], const double v[2],
                       double out[2])
{
    const kin_sim_truth *t = &s->clip->truth;
    double gap = t->floor_y - t->object[object].radius - p[1];
    bool rests = gap < 0.05 * s->d.s && fabs(v[1]) < 8 * s->d.gravity * s->dt;
    out[0] = 0;
    out[1] = rests ? 0 : s->d.gravity;
}

kin_status kin_sim_fall(kin_sim_scene *s, double e, kin_sim_fall_words *words, kin_error *err)
{
    static const char *const where[3] = {" on the left", " in the center", " on the right"};
    kin_sim_truth *t = &s->clip->truth;
    kin_sim_object *ob = &t->object[0];
    const double v[2] = {0, 0}, a[2] = {0, s->d.gravity};
    double lo[2], hi[2], p[2];
    int lane;
    bool top = kin_sim_chance(s, 0.65);
    kin_sim_choose_ground(s, kin_sim_chance(s, 0.7) ? "floor" : "ground");
    t->floor_y = t->height - s->d.floor;
    limits(s, ob->radius, lo, hi);
    double rest = t->floor_y - ob->radius, high = rest - lo[1];
    p[0] = across(s, lo[0], hi[0], &lane);
    p[1] = rest - high * (top ? kin_sim_uniform(s, 0.95, 1) : kin_sim_uniform(s, 0.55, 0.62));
    words->from = top ? "the top" : "half height";
    words->where = where[lane];
    t->direction[1] = 1;
    t->motion.ax = 0;
    t->motion.ay = s->d.gravity;
    t->motion.vx = 0;
    t->motion.vy = sqrt(2 * s->d.gravity * (rest - p[1]));
    t->motion.event = t->motion.vy / s->d.gravity;
    t->motion.restitution = e;
    KIN_TRY(kin_sim_world_open(s, s->d.gravity, err));
    KIN_TRY(kin_sim_world_body(s, 0, p, v, a, 0, false, e, 0, err));
    KIN_TRY(kin_sim_world_ground(s, (double[2]){-t->width, t->floor_y},
                                 (double[2]){2 * t->width, t->floor_y}, 1, 0, err));
    return kin_sim_world_run(s, accel_fall, err);
}

kin_status kin_sim_make_drop(kin_sim_scene *s, kin_error *err)
{
    kin_sim_fall_words w;
    char name[96], ground[48];
    kin_sim_add_object(s, plain_or(s, 0.4), 1);
    KIN_TRY(kin_sim_fall(s, 0, &w, err));
    kin_sim_name(s, 0, "", name);
    kin_sim_ground_name(s, ground);
    if (kin_sim_chance(s, 0.5))
        kin_sim_say(s, "%s {falls|drops} from %s%s onto the %s and {stays there|lies still}", name,
                    w.from, w.where, ground);
    else
        kin_sim_say(s, "%s {falls|drops}%s from %s and lands on the %s without bouncing", name,
                    w.where, w.from, ground);
    return KIN_OK;
}

static void accel_incline(const kin_sim_scene *s, int object, const double p[2], const double v[2],
                          double out[2])
{
    (void)object, (void)p, (void)v;
    out[0] = s->clip->truth.motion.ax;
    out[1] = s->clip->truth.motion.ay;
}

/* World of the incline: object 0 touching the ramp at p, sign +1: down to the right. */
static kin_status run_incline(kin_sim_scene *s, const double p[2], int sign, kin_error *err)
{
    kin_sim_truth *t = &s->clip->truth;
    const kin_sim_object *ob = &t->object[0];
    const double v[2] = {0, 0}, a[2] = {t->motion.ax, t->motion.ay};
    bool ball = ob->shape == KIN_SIM_BALL;
    double slope = sign * tan(t->incline), w = t->width;
    double foot[2] = {p[0] - sign * sin(t->incline) * ob->radius,
                      p[1] + cos(t->incline) * ob->radius};
    double from[2] = {-w, foot[1] + (-w - foot[0]) * slope};
    double to[2] = {2 * w, foot[1] + (2 * w - foot[0]) * slope};
    s->ramp[0] = 0;
    s->ramp[1] = foot[1] - foot[0] * slope;
    s->ramp[2] = w;
    s->ramp[3] = foot[1] + (w - foot[0]) * slope;
    KIN_TRY(kin_sim_world_open(s, s->d.gravity, err));
    KIN_TRY(kin_sim_world_body(s, 0, p, v, a, sign * t->incline, ball, 0, ball ? 10 : 0, err));
    KIN_TRY(kin_sim_world_ground(s, from, to, 0, ball ? 10 : 0, err));
    return kin_sim_world_run(s, accel_incline, err);
}

kin_status kin_sim_make_incline(kin_sim_scene *s, kin_error *err)
{
    kin_sim_truth *t = &s->clip->truth;
    kin_sim_object *ob = kin_sim_add_object(s, plain_or(s, 0.4), 1);
    bool steep = kin_sim_chance(s, 0.5), box = ob->shape == KIN_SIM_BOX;
    int sign = kin_sim_chance(s, 0.5) ? 1 : -1;
    double angle = kin_incline_angle(&s->d, ob->shape, steep), c = cos(angle), n = sin(angle);
    double a = kin_incline_acceleration(&s->d, ob->shape, angle), path = a * s->time * s->time / 2;
    double lo[2], hi[2], p[2];
    char name[96], ground[48];
    limits(s, box ? ob->radius * (c + n) : ob->radius, lo, hi);
    t->incline = angle;
    t->direction[0] = sign * c;
    t->direction[1] = n;
    t->motion.ax = a * t->direction[0];
    t->motion.ay = a * t->direction[1];
    t->motion.vx = t->motion.ax * s->time;
    t->motion.vy = t->motion.ay * s->time;
    double slack_x = fmax(hi[0] - lo[0] - path * c, 0), slack_y = fmax(hi[1] - lo[1] - path * n, 0);
    double offset = kin_sim_uniform(s, 0, fmin(slack_x, s->d.s));
    p[0] = sign > 0 ? lo[0] + offset : hi[0] - offset;
    p[1] = lo[1] + slack_y * kin_sim_uniform(s, 0.3, 1);
    kin_sim_choose_ground(s, kin_sim_chance(s, 0.6) ? "ramp" : "slope");
    KIN_TRY(run_incline(s, p, sign, err));
    kin_sim_say(s, "%s %s down a %s %s %s", kin_sim_name(s, 0, "", name), box ? "slides" : "rolls",
                steep ? "steep" : "gentle", kin_sim_ground_name(s, ground), kin_sim_sideways(sign));
    return KIN_OK;
}
