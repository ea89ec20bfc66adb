/* What a caption asks for, in the judge's terms. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "physics/prompt_words.h"
#include "physics/sim_scene.h"
#include "physics/tracker.h"

void kin_asked_from_truth(const kin_sim_truth *t, kin_asked *out)
{
    memset(out, 0, sizeof *out);
    out->kind = t->kind;
    out->objects = t->objects;
    for (int i = 0; i < t->objects; i++) {
        const kin_sim_object *ob = &t->object[i];
        memcpy(out->object[i].colour, ob->colour, sizeof ob->colour);
        memcpy(out->object[i].rgb, ob->rgb, 3);
        out->object[i].shape = ob->shape;
        out->object[i].radius_min = 0.75 * ob->radius;
        out->object[i].radius_max = 1.33 * ob->radius;
    }
    memcpy(out->background, t->background, sizeof out->background);
    memcpy(out->direction, t->direction, sizeof out->direction);
    out->fps = t->fps;
    out->floor_y = t->floor_y < t->height ? t->floor_y : NAN;
    out->motion = t->motion;
}

static int speed_of(const kin_prompt_words *w)
{
    if (kin_prompt_find(w, 0, "slow|slowly|gently") >= 0)
        return KIN_SPEED_SLOW;
    if (kin_prompt_find(w, 0, "fast|quick|quickly|rapidly|swiftly") >= 0)
        return KIN_SPEED_FAST;
    return kin_prompt_find(w, 0, "steady|steadily|evenly") >= 0 ? KIN_SPEED_MEDIUM : -1;
}

/* Unit vector of "to the right", "upward", ..., sideways ones first; false: none. */
static bool way_of(const kin_prompt_words *w, double out[2])
{
    static const struct {
        const char *words;
        double x, y;
    } way[] = {{"right|rightward|rightwards", 1, 0},
               {"left|leftward|leftwards", -1, 0},
               {"up|upward|upwards", 0, -1},
               {"down|downward|downwards", 0, 1}};
    for (int pass = 0; pass < 2; pass++)
        for (size_t k = 0; k < sizeof way / sizeof *way; k++)
            for (int i = 0; i < w->count; i++) {
                if (!kin_word_in(w->word[i], way[k].words))
                    continue;
                bool side = strcmp(kin_prompt_at(w, i - 1), "the") == 0;
                bool toward = strcmp(kin_prompt_at(w, i - 2), "to") == 0;
                bool edge = strcmp(kin_prompt_at(w, i + 1), "edge") == 0;
                if (pass == 0 ? !side || (toward && !edge) : toward) {
                    out[0] = way[k].x;
                    out[1] = way[k].y;
                    return true;
                }
            }
    return false;
}

/* Objects: every thing with a colour word in its phrase. */
static void objects_of(const kin_prompt_words *w, const kin_sim_options *o, kin_asked *out)
{
    double s = kin_sim_design_of(o).s;
    for (int i = 0; i < w->count && out->objects < KIN_SIM_MAX_OBJECTS; i++) {
        int shape = kin_noun_shape(w->word[i]), colour = -1;
        if (shape < 0)
            continue;
        for (int k = kin_phrase_start(w, i); k < i; k++)
            if (kin_object_colour_find(w->word[k]) >= 0)
                colour = kin_object_colour_find(w->word[k]);
        if (colour < 0)
            continue;
        int n = out->objects++;
        snprintf(out->object[n].colour, sizeof out->object[n].colour, "%s",
                 kin_object_colour[colour].name);
        memcpy(out->object[n].rgb, kin_object_colour[colour].rgb, 3);
        out->object[n].shape = shape == KIN_SIM_BOX ? KIN_SIM_BOX : KIN_SIM_BALL;
        double factor = s * (shape == KIN_SIM_BOX ? KIN_BOX_HALF_SIDE : 1);
        out->object[n].radius_min = 0.85 * o->radius_min * factor;
        out->object[n].radius_max = 1.15 * o->radius_max * factor;
    }
}

static void background_of(const kin_prompt_words *w, kin_asked *out)
{
    int at = kin_prompt_find(w, 0, "background|backdrop|wall|sky");
    if (at < 0)
        return;
    static const int where[] = {-1, 2, 3};
    for (size_t k = 0; k < sizeof where / sizeof *where; k++) {
        int c = kin_background_colour_find(kin_prompt_at(w, at + where[k]));
        if (c >= 0) {
            snprintf(out->background, sizeof out->background, "%s", kin_background_colour[c].name);
            return;
        }
    }
}

static void ask_incline(const kin_prompt_words *w, const kin_sim_design *d, kin_asked *out)
{
    bool steep = kin_prompt_find(w, 0, "steep") >= 0;
    double sign = out->direction[0] < 0 ? -1 : 1;
    kin_sim_shape shape = out->object[0].shape;
    double angle = kin_incline_angle(d, shape, steep);
    double a = kin_incline_acceleration(d, shape, angle);
    out->direction[0] = sign * cos(angle);
    out->direction[1] = sin(angle);
    out->motion.ax = a * out->direction[0];
    out->motion.ay = a * out->direction[1];
    out->motion.vx = out->motion.ax * d->time;
    out->motion.vy = out->motion.ay * d->time;
}

/* Restitution of the materials that the captions name. */
static double restitution_of(const kin_prompt_words *w)
{
    double e = -1;
    for (int i = 0; i < w->count; i++) {
        if (kin_noun_shape(w->word[i]) < 0)
            continue;
        const kin_material *m = kin_material_plain();
        for (int k = kin_phrase_start(w, i); k < i; k++)
            if (kin_material_find(w->word[k]))
                m = kin_material_find(w->word[k]);
        e = e < 0 || m->restitution < e ? m->restitution : e;
    }
    return e < 0 ? NAN : e;
}

static void ask_motion(const kin_prompt_words *w, const kin_sim_options *o, kin_asked *out)
{
    kin_sim_design d = kin_sim_design_of(o);
    const char *kind = kin_sim_kind_name(out->kind);
    int speed = speed_of(w);
    kin_motion *m = &out->motion;
    bool horizontal = out->direction[0] != 0;
    if (strcmp(kind, "uniform") == 0 && speed >= 0) {
        double v = kin_uniform_speed(&d, speed, horizontal);
        m->vx = out->direction[0] * v;
        m->vy = out->direction[1] * v;
    } else if (strcmp(kind, "throw") == 0) {
        m->ax = 0;
        m->ay = d.gravity;
        if (speed >= 0) {
            m->vx = out->direction[0] * kin_throw_speed(&d, speed);
            m->vy = -d.gravity * d.time / 2;
        }
    } else if (strcmp(kind, "drop") == 0 || strcmp(kind, "bounce") == 0) {
        out->direction[0] = 0;
        out->direction[1] = 1;
        out->floor_y = o->height - d.floor;
        m->ax = 0;
        m->ay = d.gravity;
        m->restitution = strcmp(kind, "drop") == 0 ? 0 : restitution_of(w);
    } else if (strcmp(kind, "incline") == 0) {
        ask_incline(w, &d, out);
    } else if (strcmp(kind, "spring") == 0) {
        bool upright = kin_prompt_find(w, 0, "up") >= 0;
        out->direction[0] = upright ? 0 : 1;
        out->direction[1] = upright ? 1 : 0;
        if (speed >= 0)
            m->period = kin_spring_period(&d, speed);
    } else if (strcmp(kind, "collision") == 0 && speed >= 0) {
        m->vx = out->direction[0] * kin_collision_speed(&d, speed);
        m->vy = 0;
        m->restitution = restitution_of(w);
    }
}

kin_status kin_caption_parse(const char *caption, const kin_sim_options *o, kin_asked *out,
                             kin_error *err)
{
    kin_prompt_words w;
    memset(out, 0, sizeof *out);
    out->kind = -1;
    out->fps = o->fps;
    out->floor_y = NAN;
    out->motion = (kin_motion){NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN};
    KIN_TRY(kin_sim_options_check(o, err));
    KIN_TRY(kin_prompt_split(caption, &w, err));
    out->kind = kin_prompt_kind(&w);
    objects_of(&w, o, out);
    background_of(&w, out);
    way_of(&w, out->direction);
    if (out->kind == kin_sim_kind_find("collision"))
        for (int i = 0; i < out->objects; i++) {
            double scale = kin_sim_design_of(o).pair_scale;
            out->object[i].radius_min *= scale;
            out->object[i].radius_max *= scale;
        }
    else if (out->objects > 1)
        out->objects = 1;
    if (out->kind >= 0)
        ask_motion(&w, o, out);
    kin_prompt_free(&w);
    if (out->objects == 0)
        return kin_fail(err, KIN_ERR_ARG, "caption: \"%.100s\" names no coloured object", caption);
    return KIN_OK;
}
