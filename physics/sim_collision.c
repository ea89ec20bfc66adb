/* Collision: a moving object hits a resting one, head-on, without gravity. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "physics/sim_scene.h"

/* What an impact of restitution e makes of speed v. */
static void impact(double m1, double m2, double e, double v, double out[2])
{
    out[0] = (m1 - e * m2) / (m1 + m2) * v;
    out[1] = m1 * (1 + e) / (m1 + m2) * v;
}

/* Earliest time of the impact at which both stay inside `room` (the free path of both together) up
 * to `time`. */
static double earliest_impact(double v, const double after[2], double room, double time)
{
    double at = 0.4 * time;
    if (after[1] > v)
        at = fmax(at, (after[1] * time - room) / (after[1] - v));
    if (after[0] < 0)
        at = fmax(at, -after[0] * time / (v - after[0]));
    return at;
}

/* Makes object 1 a copy of object 0 in all but colour and shape. */
static void equalise(kin_sim_scene *s)
{
    kin_sim_object *ob = s->clip->truth.object;
    ob[1].shape = ob[0].shape;
    ob[1].radius = ob[0].radius;
    ob[1].density = ob[0].density;
    ob[1].mass = ob[0].mass;
    memcpy(ob[1].material, ob[0].material, sizeof ob[1].material);
    s->material[1] = s->material[0];
}

static double pair_restitution(const kin_sim_scene *s)
{
    return fmin(s->material[0]->restitution, s->material[1]->restitution);
}

static void choose_pair(kin_sim_scene *s)
{
    const kin_material *m[2];
    m[0] = kin_material_at(kin_sim_index(s, 6));
    m[1] = kin_sim_chance(s, 0.75) ? m[0] : kin_material_at(kin_sim_index(s, 6));
    kin_sim_add_object(s, m[0], s->d.pair_scale);
    kin_sim_add_object(s, m[1], s->d.pair_scale);
    if (m[0] == m[1] && kin_sim_chance(s, 0.6))
        equalise(s);
}

static kin_status run(kin_sim_scene *s, double x0, double x1, double y, double v, double e,
                      kin_error *err)
{
    const double none[2] = {0, 0}, root = sqrt(e);
    KIN_TRY(kin_sim_world_open(s, 0, err));
    KIN_TRY(kin_sim_world_body(s, 0, (double[2]){x0, y}, (double[2]){v, 0}, none, 0, false, root, 0,
                               err));
    KIN_TRY(kin_sim_world_body(s, 1, (double[2]){x1, y}, none, none, 0, false, root, 0, err));
    return kin_sim_world_run(s, kin_sim_no_accel, err);
}

kin_status kin_sim_make_collision(kin_sim_scene *s, kin_error *err)
{
    kin_sim_truth *t = &s->clip->truth;
    kin_sim_object *ob = t->object;
    int sign = kin_sim_chance(s, 0.5) ? 1 : -1, speed = kin_sim_index(s, 3);
    double v = kin_collision_speed(&s->d, speed), after[2], at, e, room;
    char name[2][96];
    choose_pair(s);
    for (int attempt = 0;; attempt++) {
        e = pair_restitution(s);
        room = t->width - 2 * s->d.margin - 2 * (ob[0].radius + ob[1].radius);
        impact(ob[0].mass, ob[1].mass, e, v, after);
        at = earliest_impact(v, after, room, s->time);
        if (at <= 0.65 * s->time || attempt > 0)
            break;
        equalise(s);
    }
    double used = v * at + after[1] * (s->time - at);
    double start =
        s->d.margin + ob[0].radius + kin_sim_uniform(s, 0, fmin(fmax(room - used, 0), s->d.s));
    double second = start + v * at + ob[0].radius + ob[1].radius;
    double y = t->height * (0.5 + kin_sim_uniform(s, -0.1, 0.1)), w = t->width;
    t->direction[0] = sign;
    t->motion.vx = sign * v;
    t->motion.vy = 0;
    t->motion.v2x = sign * after[1];
    t->motion.v2y = 0;
    t->motion.restitution = e;
    t->motion.event = at;
    KIN_TRY(
        run(s, sign > 0 ? start : w - start, sign > 0 ? second : w - second, y, sign * v, e, err));
    kin_sim_say(s, "%s moves %s %s", kin_sim_name(s, 0, "", name[0]), kin_sim_adverb(s, speed),
                kin_sim_sideways(sign));
    if (kin_sim_chance(s, 0.5))
        kin_sim_say(s, " from the %s edge", sign > 0 ? "left" : "right");
    kin_sim_say(s, " and {hits|strikes|bumps into} %s", kin_sim_name(s, 1, "resting", name[1]));
    return KIN_OK;
}
