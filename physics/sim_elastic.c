/* Elastic motion: bouncing on a floor, swinging on a spring. */
#include <math.h>

#include "physics/sim_scene.h"

kin_status kin_sim_make_bounce(kin_sim_scene *s, kin_error *err)
{
    /* plastic, steel, rubber, wood; rubber most often */
    static const int kind[6] = {0, 1, 2, 2, 2, 3};
    const kin_material *m = kin_material_at(kind[kin_sim_index(s, 6)]);
    kin_sim_fall_words w;
    char name[96], ground[48];
    kin_sim_add_object(s, m, 1);
    KIN_TRY(kin_sim_fall(s, m->restitution, &w, err));
    kin_sim_name(s, 0, "", name);
    kin_sim_ground_name(s, ground);
    if (kin_sim_chance(s, 0.5))
        kin_sim_say(s, "%s {falls|drops} from %s%s and bounces on the %s", name, w.from, w.where,
                    ground);
    else
        kin_sim_say(s, "%s {falls|drops}%s from %s and bounces {back up from|off} the %s", name,
                    w.where, w.from, ground);
    return KIN_OK;
}

static void accel_spring(const kin_sim_scene *s, int object, const double p[2], const double v[2],
                         double out[2])
{
    (void)object, (void)v;
    int axis = s->spring == 2 ? 1 : 0;
    out[axis] = -s->omega * s->omega * (p[axis] - s->balance);
    out[1 - axis] = 0;
}

/* Where the swing lies: axis limits [lo, hi] between the shortest spring and the free edge. */
static void spring_room(kin_sim_scene *s, double radius, double *lo, double *hi)
{
    const kin_sim_truth *t = &s->clip->truth;
    double wall = 1.5 * s->d.s, shortest = 3 * s->d.s;
    double side = s->spring == 2 ? t->height : t->width;
    s->anchor[0] = s->spring == 1 ? wall : s->spring == 3 ? side - wall : 0;
    s->anchor[1] = s->spring == 2 ? wall : 0;
    *lo = wall + shortest + radius;
    *hi = side - s->d.margin - radius;
    if (s->spring == 3) {
        double low = side - *hi;
        *hi = side - *lo;
        *lo = low;
    }
}

kin_status kin_sim_make_spring(kin_sim_scene *s, kin_error *err)
{
    kin_sim_truth *t = &s->clip->truth;
    const kin_material *m =
        kin_sim_chance(s, 0.5) ? kin_material_plain() : kin_material_at(1 + kin_sim_index(s, 5));
    kin_sim_object *ob = kin_sim_add_object(s, m, 1);
    int speed = kin_sim_index(s, 3), axis;
    bool wide = kin_sim_chance(s, 0.6);
    double lo, hi, p[2], a[2] = {0, 0};
    const double v[2] = {0, 0};
    char name[96];
    s->spring = 1 + kin_sim_index(s, 3);
    axis = s->spring == 2 ? 1 : 0;
    spring_room(s, ob->radius, &lo, &hi);
    double side = axis ? t->width : t->height, gravity = axis ? s->d.gravity : 0;
    double swing = (hi - lo) / 2 * (wide ? 0.95 : 0.6);
    s->balance = (lo + hi) / 2;
    s->omega = 2 * M_PI / kin_spring_period(&s->d, speed);
    p[1 - axis] = side / 2 + kin_sim_uniform(s, -0.08, 0.08) * side;
    p[axis] = s->balance + (s->spring == 3 ? -swing : swing);
    s->anchor[1 - axis] = p[1 - axis];
    a[axis] = -s->omega * s->omega * (p[axis] - s->balance);
    t->spring_k = ob->mass * s->omega * s->omega;
    t->direction[axis] = 1;
    t->motion.period = 2 * M_PI / s->omega;
    t->motion.vx = axis ? 0 : swing * s->omega;
    t->motion.vy = axis ? swing * s->omega : 0;
    double rest = fabs(s->balance - s->anchor[axis]) - gravity / (s->omega * s->omega);
    KIN_TRY(kin_sim_world_open(s, gravity, err));
    KIN_TRY(kin_sim_world_body(s, 0, p, v, a, 0, false, 0, 0, err));
    KIN_TRY(kin_sim_world_spring(s, s->anchor, rest, t->spring_k, err));
    KIN_TRY(kin_sim_world_run(s, accel_spring, err));
    const char *adverb = kin_sim_adverb(s, speed), *width = wide ? "wide" : "short";
    kin_sim_say(s, "%s {swings|oscillates} %s ", kin_sim_name(s, 0, "", name), adverb);
    if (axis)
        kin_sim_say(s, "up and down on a spring in %s swings", width);
    else
        kin_sim_say(s, "back and forth on a spring at the %s in %s swings",
                    s->spring == 1 ? "left" : "right", width);
    return KIN_OK;
}
