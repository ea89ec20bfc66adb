/* Chipmunk2D behind a few calls, in pixels and seconds. Its integrator moves positions first and
 * velocities after, so with velocities started half a step ahead it is the leapfrog: free flight is
 * exact, springs are of second order. Velocities are brought back to whole steps when they are
 * noted. */
#include <chipmunk/chipmunk.h>

#include "base/alloc.h"
#include "physics/sim_scene.h"

enum { STEPS_PER_CLIP = 4096 };

/* Debian builds Chipmunk with its debug messages: a banner on stdout with the first space, warnings
 * on stderr about resting contacts. A library has no business there, so in our copy of
 * libchipmunk.a (CMakeLists.txt) the C library's output calls have these names. */
#define MUTE(name)  \
    int name(void); \
    int name(void)  \
    {               \
        return 0;   \
    }

MUTE(kin_mute_puts)
MUTE(kin_mute_fputc)
MUTE(kin_mute_printf)
MUTE(kin_mute_fprintf)
MUTE(kin_mute_vfprintf)
MUTE(kin_mute___printf_chk)
MUTE(kin_mute___fprintf_chk)
MUTE(kin_mute___vfprintf_chk)

extern void *kin_mute_stderr;
void *kin_mute_stderr;

kin_status kin_sim_world_open(kin_sim_scene *s, double gravity, kin_error *err)
{
    int frames = s->o->frames;
    s->substeps = (STEPS_PER_CLIP + frames - 1) / frames;
    s->dt = 1 / (s->fps * s->substeps);
    s->space = cpSpaceNew();
    if (!s->space)
        return kin_fail(err, KIN_ERR_MEM, "simulate: a world");
    cpSpaceSetGravity(s->space, cpv(0, gravity));
    cpSpaceSetIterations(s->space, 20);
    cpSpaceSetCollisionSlop(s->space, 1e-4 * s->d.s);
    return KIN_OK;
}

static void drop_shape(cpSpace *space, void *shape, void *data)
{
    (void)data;
    cpSpaceRemoveShape(space, shape);
    cpShapeFree(shape);
}

static void drop_constraint(cpSpace *space, void *constraint, void *data)
{
    (void)data;
    cpSpaceRemoveConstraint(space, constraint);
    cpConstraintFree(constraint);
}

static void note_shape(cpShape *shape, void *data)
{
    cpSpaceAddPostStepCallback(data, drop_shape, shape, NULL);
}

static void note_constraint(cpConstraint *constraint, void *data)
{
    cpSpaceAddPostStepCallback(data, drop_constraint, constraint, NULL);
}

void kin_sim_world_close(kin_sim_scene *s)
{
    if (!s->space)
        return;
    cpSpaceEachConstraint(s->space, note_constraint, s->space);
    cpSpaceEachShape(s->space, note_shape, s->space);
    for (int i = 0; i < KIN_SIM_MAX_OBJECTS; i++)
        if (s->body[i]) {
            cpSpaceRemoveBody(s->space, s->body[i]);
            cpBodyFree(s->body[i]);
            s->body[i] = NULL;
        }
    cpSpaceFree(s->space);
    s->space = NULL;
}

kin_status kin_sim_world_body(kin_sim_scene *s, int i, const double p[2], const double v[2],
                              const double a[2], double angle, bool spin, double elasticity,
                              double friction, kin_error *err)
{
    const kin_sim_object *ob = &s->clip->truth.object[i];
    double r = ob->radius;
    /* Solid ball, 2/5 m r^2. No box turns or tips in these scenes: its faces touch where its
     * inscribed circle does, and a circle spares Chipmunk's search for the nearest faces, which
     * warns on stderr when they are parallel. */
    cpBody *body = cpBodyNew(ob->mass, spin ? 0.4 * ob->mass * r * r : INFINITY);
    cpShape *shape = body ? cpCircleShapeNew(body, r, cpvzero) : NULL;
    if (!shape) {
        if (body)
            cpBodyFree(body);
        return kin_fail(err, KIN_ERR_MEM, "simulate: a body");
    }
    s->body[i] = cpSpaceAddBody(s->space, body);
    cpSpaceAddShape(s->space, shape);
    cpShapeSetElasticity(shape, elasticity);
    cpShapeSetFriction(shape, friction);
    cpBodySetPosition(body, cpv(p[0], p[1]));
    cpBodySetAngle(body, angle);
    cpBodySetVelocity(body, cpv(v[0] + a[0] * s->dt / 2, v[1] + a[1] * s->dt / 2));
    return KIN_OK;
}

kin_status kin_sim_world_ground(kin_sim_scene *s, const double a[2], const double b[2],
                                double elasticity, double friction, kin_error *err)
{
    cpShape *shape =
        cpSegmentShapeNew(cpSpaceGetStaticBody(s->space), cpv(a[0], a[1]), cpv(b[0], b[1]), 0);
    if (!shape)
        return kin_fail(err, KIN_ERR_MEM, "simulate: a floor");
    cpSpaceAddShape(s->space, shape);
    cpShapeSetElasticity(shape, elasticity);
    cpShapeSetFriction(shape, friction);
    return KIN_OK;
}

kin_status kin_sim_world_spring(kin_sim_scene *s, const double anchor[2], double rest, double k,
                                kin_error *err)
{
    cpConstraint *c = cpDampedSpringNew(cpSpaceGetStaticBody(s->space), s->body[0],
                                        cpv(anchor[0], anchor[1]), cpvzero, rest, k, 0);
    if (!c)
        return kin_fail(err, KIN_ERR_MEM, "simulate: a spring");
    cpSpaceAddConstraint(s->space, c);
    return KIN_OK;
}

void kin_sim_no_accel(const kin_sim_scene *s, int object, const double p[2], const double v[2],
                      double out[2])
{
    (void)s, (void)object, (void)p, (void)v;
    out[0] = out[1] = 0;
}

static void note_state(const kin_sim_scene *s, int i, kin_sim_accel *accel, kin_sim_state *st)
{
    cpVect p = cpBodyGetPosition(s->body[i]), v = cpBodyGetVelocity(s->body[i]);
    double a[2];
    accel(s, i, (double[2]){p.x, p.y}, (double[2]){v.x, v.y}, a);
    *st = (kin_sim_state){
        .x = p.x,
        .y = p.y,
        .vx = v.x - a[0] * s->dt / 2,
        .vy = v.y - a[1] * s->dt / 2,
        .ax = a[0],
        .ay = a[1],
        .angle = cpBodyGetAngle(s->body[i]),
    };
}

kin_status kin_sim_world_run(kin_sim_scene *s, kin_sim_accel *accel, kin_error *err)
{
    kin_sim_truth *t = &s->clip->truth;
    for (int i = 0; i < t->objects; i++) {
        t->object[i].states = kin_calloc((size_t)t->frames, sizeof(kin_sim_state));
        if (!t->object[i].states)
            return kin_fail(err, KIN_ERR_MEM, "simulate: %d states", t->frames);
    }
    for (int f = 0; f < t->frames; f++) {
        for (int i = 0; i < t->objects; i++)
            note_state(s, i, accel, &t->object[i].states[f]);
        for (int k = 0; k < s->substeps && f + 1 < t->frames; k++)
            cpSpaceStep(s->space, s->dt);
    }
    return KIN_OK;
}
