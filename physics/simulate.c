#include "physics/simulate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/text.h"
#include "physics/sim_scene.h"

#define END KIN_PHYS_NO_DYNAMICS

/* One row per kind of clip. */
static const kin_sim_row row[] = {
    {"uniform",
     KIN_PHYS_RIGID_BODY_MOTION,
     4,
     {KIN_PHYS_RIGID_BODY_MOTION, END},
     " without a net force the velocity stays constant.",
     kin_sim_make_uniform},
    {"throw",
     KIN_PHYS_RIGID_BODY_MOTION,
     2,
     {KIN_PHYS_RIGID_BODY_MOTION, END},
     " gravity pulls the object down while its sideways speed stays constant.",
     kin_sim_make_throw},
    {"drop",
     KIN_PHYS_RIGID_BODY_MOTION,
     2,
     {KIN_PHYS_COLLISION, KIN_PHYS_RIGID_BODY_MOTION, END},
     " gravity makes the object fall faster and faster until the impact stops it.",
     kin_sim_make_drop},
    {"incline",
     KIN_PHYS_RIGID_BODY_MOTION,
     1,
     {KIN_PHYS_RIGID_BODY_MOTION, END},
     " gravity pulls the object down the slope with constant acceleration.",
     kin_sim_make_incline},
    {"bounce",
     KIN_PHYS_ELASTIC_MOTION,
     2,
     {KIN_PHYS_COLLISION, KIN_PHYS_RIGID_BODY_MOTION, KIN_PHYS_ELASTIC_MOTION, END},
     " each bounce gives back a fixed part of the speed of the fall.",
     kin_sim_make_bounce},
    {"spring",
     KIN_PHYS_ELASTIC_MOTION,
     1,
     {KIN_PHYS_ELASTIC_MOTION, END},
     " the spring pulls back in proportion to its stretch, so the motion repeats.",
     kin_sim_make_spring},
    {"collision",
     KIN_PHYS_COLLISION,
     2,
     {KIN_PHYS_COLLISION, KIN_PHYS_RIGID_BODY_MOTION, END},
     " momentum passes from one object to the other and their sum stays the same.",
     kin_sim_make_collision},
};
enum { KINDS = sizeof row / sizeof *row };
_Static_assert((int)KINDS <= (int)KIN_SIM_MAX_KINDS, "raise KIN_SIM_MAX_KINDS");

int kin_sim_kind_count(void)
{
    return KINDS;
}

const kin_sim_row *kin_sim_row_at(int kind)
{
    return kind >= 0 && kind < KINDS ? &row[kind] : NULL;
}

const char *kin_sim_kind_name(int kind)
{
    return kind >= 0 && kind < KINDS ? row[kind].name : NULL;
}

int kin_sim_kind_label(int kind)
{
    return kind >= 0 && kind < KINDS ? (int)row[kind].label : -1;
}

int kin_sim_kind_find(const char *name)
{
    for (int k = 0; k < KINDS; k++)
        if (strcmp(row[k].name, name) == 0)
            return k;
    return -1;
}

void kin_sim_options_default(kin_sim_options *o)
{
    *o = (kin_sim_options){.width = 32,
                           .height = 32,
                           .frames = 16,
                           .fps = 8,
                           .radius_min = 4.5,
                           .radius_max = 6.5,
                           .gradient_share = 0.3,
                           .box_share = 0.3};
    for (int k = 0; k < KINDS; k++)
        o->weights[k] = row[k].weight;
}

/* Sets the weight of the kinds that one entry of a list names. */
static kin_status set_kind(kin_sim_options *o, char *entry, kin_error *err)
{
    double weight = 1;
    char *colon = strchr(entry, ':');
    if (colon) {
        char *end;
        *colon = 0;
        weight = strtod(colon + 1, &end);
        if (end == colon + 1 || *end || !(weight > 0 && weight < 1e6))
            return kin_fail(err, KIN_ERR_ARG,
                            "simulate: weight \"%s\" of %s must be a number in (0, 1e6)", colon + 1,
                            entry);
    }
    int kind = kin_sim_kind_find(entry), label = kin_phys_find(entry, NULL), hits = 0;
    for (int k = 0; k < KINDS; k++)
        if (k == kind || (kind < 0 && label >= 0 && label == (int)row[k].label)) {
            o->weights[k] = weight;
            hits++;
        }
    if (hits > 0)
        return KIN_OK;
    const char *names[KINDS + 1] = {NULL};
    for (int k = 0; k < KINDS; k++)
        names[k] = row[k].name;
    const char *near = kin_nearest_name(entry, names);
    return kin_fail(err, KIN_ERR_ARG, "simulate: kind \"%s\" is unknown%s%s%s", entry,
                    near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

kin_status kin_sim_options_kinds(kin_sim_options *o, const char *list, kin_error *err)
{
    char entry[64];
    memset(o->weights, 0, sizeof o->weights);
    for (const char *p = list;; p++) {
        size_t n = strcspn(p, ",");
        const char *next = p + n;
        while (n > 0 && *p == ' ') {
            p++;
            n--;
        }
        while (n > 0 && p[n - 1] == ' ')
            n--;
        if (n == 0 || n >= sizeof entry)
            return kin_fail(err, KIN_ERR_ARG,
                            "simulate: kinds \"%s\" must be names separated by commas", list);
        memcpy(entry, p, n);
        entry[n] = 0;
        KIN_TRY(set_kind(o, entry, err));
        p = next;
        if (*p == 0)
            return KIN_OK;
    }
}

static kin_status check_weights(const kin_sim_options *o, kin_error *err)
{
    double sum = 0;
    for (int k = 0; k < KIN_SIM_MAX_KINDS; k++) {
        if (!(o->weights[k] >= 0 && o->weights[k] < 1e9) || (k >= KINDS && o->weights[k] != 0))
            return kin_fail(err, KIN_ERR_ARG, "simulate: weight %g of kind %d must be 0 or more",
                            o->weights[k], k);
        sum += o->weights[k];
    }
    if (sum <= 0)
        return kin_fail(err, KIN_ERR_ARG, "simulate: at least one kind must have a weight");
    return KIN_OK;
}

kin_status kin_sim_options_check(const kin_sim_options *o, kin_error *err)
{
    if (o->width < 16 || o->width > KIN_SIM_MAX_SIDE || o->height < 16 ||
        o->height > KIN_SIM_MAX_SIDE)
        return kin_fail(err, KIN_ERR_ARG, "simulate: size %dx%d must lie in 16..%d", o->width,
                        o->height, KIN_SIM_MAX_SIDE);
    if (o->frames < 2 || o->frames > KIN_SIM_MAX_FRAMES)
        return kin_fail(err, KIN_ERR_ARG, "simulate: frames %d must lie in 2..%d", o->frames,
                        KIN_SIM_MAX_FRAMES);
    if (!(o->fps >= 0.1 && o->fps <= 1000))
        return kin_fail(err, KIN_ERR_ARG, "simulate: fps %g must lie in 0.1..1000", o->fps);
    if (!(o->fps_jitter >= 0 && o->fps_jitter <= 0.3))
        return kin_fail(err, KIN_ERR_ARG, "simulate: fps jitter %g must lie in 0..0.3",
                        o->fps_jitter);
    if (!(o->radius_min >= 1.5 && o->radius_min <= o->radius_max && o->radius_max <= 7.5))
        return kin_fail(err, KIN_ERR_ARG,
                        "simulate: radii %g..%g must lie in 1.5..7.5 pixels of a 32-pixel frame",
                        o->radius_min, o->radius_max);
    if (!(o->gradient_share >= 0 && o->gradient_share <= 1) ||
        !(o->box_share >= 0 && o->box_share <= 1) ||
        !(o->short_captions >= 0 && o->short_captions <= 1))
        return kin_fail(err, KIN_ERR_ARG, "simulate: shares %g, %g, %g must lie in 0..1",
                        o->gradient_share, o->box_share, o->short_captions);
    return check_weights(o, err);
}

static int draw_kind(kin_sim_scene *s)
{
    double sum = 0;
    int last = 0;
    for (int k = 0; k < KINDS; k++)
        sum += s->o->weights[k];
    double u = kin_sim_uniform(s, 0, sum);
    for (int k = 0; k < KINDS; k++)
        if (s->o->weights[k] > 0) {
            last = k;
            if (u < s->o->weights[k])
                break;
            u -= s->o->weights[k];
        }
    return last;
}

static void draw_setting(kin_sim_scene *s)
{
    kin_sim_truth *t = &s->clip->truth;
    double jitter = s->o->fps_jitter;
    s->fps = s->o->fps * (jitter > 0 ? kin_sim_uniform(s, 1 - jitter, 1 + jitter) : 1);
    s->time = (s->o->frames - 1) / s->fps;
    const kin_colour *bg = &kin_background_colour[kin_sim_index(s, KIN_BACKGROUNDS)];
    *t = (kin_sim_truth){.width = s->o->width,
                         .height = s->o->height,
                         .frames = s->o->frames,
                         .fps = s->fps,
                         .px_per_m = s->d.px_per_m,
                         .gravity = 9.81,
                         .floor_y = s->o->height,
                         .motion = {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN}};
    snprintf(t->background, sizeof t->background, "%s", bg->name);
    t->gradient = kin_sim_chance(s, s->o->gradient_share);
    memcpy(t->background_rgb[0], bg->rgb, 3);
    memcpy(t->background_rgb[1], t->gradient ? bg->shade : bg->rgb, 3);
}

kin_status kin_simulate_clip(const kin_sim_options *o, uint64_t seed, uint64_t index,
                             kin_sim_clip *out, kin_error *err)
{
    memset(out, 0, sizeof *out);
    KIN_TRY(kin_sim_options_check(o, err));
    kin_sim_scene s = {.o = o,
                       .d = kin_sim_design_of(o),
                       .clip = out,
                       .rng = {.seed = seed, .purpose = KIN_RNG_SIMULATE, .sample = index}};
    draw_setting(&s);
    out->truth.kind = draw_kind(&s);
    s.row = &row[out->truth.kind];
    kin_status status = s.row->make(&s, err);
    kin_sim_world_close(&s);
    if (status == KIN_OK) {
        if (o->short_captions > 0 && kin_sim_chance(&s, o->short_captions))
            kin_sim_say_objects(&s);
        kin_sim_say_background(&s);
        kin_sim_annotate(&s);
        status = kin_sim_draw(&s, err);
    }
    if (status != KIN_OK)
        kin_sim_clip_free(out);
    return status;
}

void kin_sim_truth_free(kin_sim_truth *t)
{
    for (int i = 0; i < KIN_SIM_MAX_OBJECTS; i++)
        kin_free(t->object[i].states);
    memset(t, 0, sizeof *t);
}

void kin_sim_clip_free(kin_sim_clip *c)
{
    if (!c)
        return;
    kin_free(c->frames);
    kin_sim_truth_free(&c->truth);
    memset(c, 0, sizeof *c);
}
