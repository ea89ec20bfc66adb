/* Measures of all kinds of clip, from the options alone: chosen so that every path fits into the
 * frame. */
#include <math.h>

#include "physics/sim_scene.h"

kin_sim_design kin_sim_design_of(const kin_sim_options *o)
{
    kin_sim_design d = {0};
    int side = o->width < o->height ? o->width : o->height;
    d.s = side / 32.0;
    d.margin = 0.75 * d.s;
    d.time = (o->frames - 1) / (o->fps * (1 - o->fps_jitter));
    d.radius_max = o->radius_max * d.s;
    d.room_x = o->width - 2 * (d.radius_max + d.margin);
    d.room_y = o->height - 2 * (d.radius_max + d.margin);
    d.pair_scale = 0.75;
    d.room_pair = o->width - 4 * d.radius_max * d.pair_scale - 2 * d.margin;
    d.gravity = 6 * d.room_y / (d.time * d.time);
    d.px_per_m = d.gravity / 9.81;
    d.floor = 3 * d.s;
    return d;
}

double kin_uniform_speed(const kin_sim_design *d, int speed, bool horizontal)
{
    static const double share[3] = {0.42, 0.68, 0.96};
    return share[speed] * (horizontal ? d->room_x : d->room_y) / d->time;
}

double kin_throw_speed(const kin_sim_design *d, int speed)
{
    static const double share[3] = {0.42, 0.68, 0.94};
    return share[speed] * d->room_x / d->time;
}

double kin_collision_speed(const kin_sim_design *d, int speed)
{
    static const double share[3] = {0.55, 0.74, 0.94};
    return share[speed] * d->room_pair / d->time;
}

double kin_spring_period(const kin_sim_design *d, int speed)
{
    static const double cycles[3] = {1.1, 1.5, 2.1};
    return d->time / cycles[speed];
}

/* Share of g that acts along the slope: 1 for sliding, 1/(1 + 2/5) for a rolling solid ball. */
static double slope_factor(kin_sim_shape shape)
{
    return shape == KIN_SIM_BOX ? 1 : 5.0 / 7;
}

double kin_incline_angle(const kin_sim_design *d, kin_sim_shape shape, bool steep)
{
    /* path along x = factor g sin(t) cos(t) T^2 / 2 = share * room_x */
    double share = steep ? 0.9 : 0.5;
    double s2 = share * d->room_x / (1.5 * slope_factor(shape) * d->room_y);
    return 0.5 * asin(fmin(s2, steep ? 0.9 : 0.5));
}

double kin_incline_acceleration(const kin_sim_design *d, kin_sim_shape shape, double angle)
{
    return slope_factor(shape) * d->gravity * sin(angle);
}
