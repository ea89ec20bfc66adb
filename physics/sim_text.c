/* Draws and words of a scene: objects, captions, annotation texts. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "physics/sim_scene.h"

double kin_sim_uniform(kin_sim_scene *s, double lo, double hi)
{
    return lo + (hi - lo) * (double)kin_rng_uniform_at(&s->rng, s->next++);
}

int kin_sim_index(kin_sim_scene *s, int n)
{
    return (int)kin_rng_index_at(&s->rng, s->next++, (uint64_t)n);
}

bool kin_sim_chance(kin_sim_scene *s, double p)
{
    return kin_sim_uniform(s, 0, 1) < p;
}

kin_sim_object *kin_sim_add_object(kin_sim_scene *s, const kin_material *m, double radius_scale)
{
    kin_sim_truth *t = &s->clip->truth;
    kin_sim_object *ob = &t->object[t->objects];
    double scale = radius_scale * s->d.s;
    int colour = kin_sim_index(s, KIN_OBJECT_COLOURS - t->objects);
    if (t->objects > 0 && colour >= kin_object_colour_find(t->object[0].colour))
        colour++;
    const kin_colour *c = &kin_object_colour[colour];
    snprintf(ob->colour, sizeof ob->colour, "%s", c->name);
    memcpy(ob->rgb, c->rgb, 3);
    ob->shape = kin_sim_chance(s, s->o->box_share) ? KIN_SIM_BOX : KIN_SIM_BALL;
    ob->radius = kin_sim_uniform(s, s->o->radius_min, s->o->radius_max) * scale;
    if (ob->shape == KIN_SIM_BOX)
        ob->radius *= KIN_BOX_HALF_SIDE;
    snprintf(ob->material, sizeof ob->material, "%s", m->name);
    ob->density = m->density;
    double metres = ob->radius / s->d.px_per_m;
    double volume = ob->shape == KIN_SIM_BOX ? 8.0 : 4.0 / 3.0 * M_PI;
    ob->mass = 1000 * m->density * volume * metres * metres * metres;
    s->material[t->objects++] = m;
    return ob;
}

/* Copies in to out with every {a|b|c} replaced by one of its parts. */
static void expand(kin_sim_scene *s, const char *in, char *out, size_t bytes)
{
    size_t n = 0;
    while (*in) {
        const char *end = *in == '{' ? strchr(in, '}') : NULL;
        if (!end) {
            if (n + 1 < bytes)
                out[n++] = *in;
            in++;
            continue;
        }
        int parts = 1;
        for (const char *p = in; p < end; p++)
            parts += *p == '|';
        int pick = kin_sim_index(s, parts);
        const char *p = in + 1;
        for (; pick > 0; p++)
            pick -= *p == '|';
        for (; p < end && *p != '|'; p++)
            if (n + 1 < bytes)
                out[n++] = *p;
        in = end + 1;
    }
    out[n] = 0;
}

void kin_sim_say(kin_sim_scene *s, const char *fmt, ...)
{
    char raw[KIN_SIM_CAPTION_MAX];
    char *caption = s->clip->caption;
    size_t n = strlen(caption);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(raw, sizeof raw, fmt, ap);
    va_end(ap);
    expand(s, raw, caption + n, KIN_SIM_CAPTION_MAX - n);
}

/* "small ", "large " or "" by the thirds of the radius range. */
static const char *size_word(const kin_sim_scene *s, int object)
{
    const kin_sim_object *ob = &s->clip->truth.object[object];
    double scale = s->d.s * (s->clip->truth.objects > 1 ? s->d.pair_scale : 1) *
                   (ob->shape == KIN_SIM_BOX ? KIN_BOX_HALF_SIDE : 1);
    double span = s->o->radius_max - s->o->radius_min;
    if (span <= 0)
        return "";
    double u = (ob->radius / scale - s->o->radius_min) / span;
    return u < 1.0 / 3 ? "small " : u > 2.0 / 3 ? "large " : "";
}

const char *kin_sim_name(kin_sim_scene *s, int object, const char *adjective, char buf[96])
{
    const kin_sim_object *ob = &s->clip->truth.object[object];
    const kin_material *m = s->material[object];
    bool plain = m == kin_material_plain();
    char rest[80];
    const char *size = size_word(s, object);
    snprintf(rest, sizeof rest, "%s%s%s%s %s%s%s", adjective, *adjective ? " " : "", size,
             ob->colour, plain ? "" : m->adjective, plain ? "" : " ",
             ob->shape == KIN_SIM_BALL ? "ball" : "box");
    snprintf(buf, 96, "%s %s", strchr("aeiou", rest[0]) ? "an" : "a", rest);
    return buf;
}

const char *kin_sim_ground_name(kin_sim_scene *s, char buf[48])
{
    snprintf(buf, 48, "%s%s%s", s->ground ? s->ground->adjective : "", s->ground ? " " : "",
             s->ground_noun);
    return buf;
}

const char *kin_sim_sideways(int sign)
{
    return sign > 0 ? "{to the right|rightward}" : "{to the left|leftward}";
}

const char *kin_sim_adverb(kin_sim_scene *s, int speed)
{
    static const char *const word[3][3] = {
        {"slowly", "slowly", "gently"},
        {"steadily", "steadily", "evenly"},
        {"quickly", "quickly", "rapidly"},
    };
    return word[speed][kin_sim_index(s, 3)];
}

void kin_sim_say_objects(kin_sim_scene *s)
{
    char name[96];
    s->clip->caption[0] = 0;
    for (int i = 0; i < s->clip->truth.objects; i++)
        kin_sim_say(s, "%s%s", i ? " and " : "", kin_sim_name(s, i, "", name));
}

void kin_sim_say_background(kin_sim_scene *s)
{
    const kin_sim_truth *t = &s->clip->truth;
    char sentence[KIN_SIM_CAPTION_MAX];
    const char *shaded = t->gradient ? "shaded " : "", *bg = t->background;
    memcpy(sentence, s->clip->caption, sizeof sentence);
    s->clip->caption[0] = 0;
    switch (kin_sim_index(s, 4)) {
    case 0: kin_sim_say(s, "%.200s, on a %s%s background.", sentence, shaded, bg); break;
    case 1: kin_sim_say(s, "%.200s against a %s%s background.", sentence, shaded, bg); break;
    case 2: kin_sim_say(s, "on a %s%s background, %.200s.", shaded, bg, sentence); break;
    default: kin_sim_say(s, "%.200s. the background is %s%s.", sentence, shaded, bg); break;
    }
}

static void add_density(kin_sim_clip *c, const char *noun, double density)
{
    size_t n = strlen(c->n0);
    snprintf(c->n0 + n, sizeof c->n0 - n, "%s%s: %g g/cm\xC2\xB3", n ? ", " : "", noun, density);
    c->density[c->densities][0] = c->density[c->densities][1] = density;
    c->densities++;
}

void kin_sim_annotate(kin_sim_scene *s)
{
    kin_sim_clip *c = s->clip;
    float prior[KIN_PHYS_CATEGORIES] = {0};
    for (int i = 0; s->row->dynamics[i] != KIN_PHYS_NO_DYNAMICS; i++)
        prior[s->row->dynamics[i]] = 1;
    kin_phys_list(prior, 0, c->q0, sizeof c->q0);
    snprintf(c->q1, sizeof c->q1, "%s", kin_phys_phrase(KIN_PHYS_NO_THERMODYNAMICS));
    snprintf(c->q2, sizeof c->q2, "%s", kin_phys_phrase(KIN_PHYS_NO_OPTICS));
    snprintf(c->q3, sizeof c->q3, "%s", kin_phys_phrase(KIN_PHYS_CAMERA_NO));
    snprintf(c->q4, sizeof c->q4, "1. %s\n2. %s", kin_phys_phrase(KIN_PHYS_SOLIDS_APPEAR),
             kin_phys_phrase(KIN_PHYS_NO_CHANGE));
    for (int i = 0; i < c->truth.objects; i++)
        add_density(c, c->truth.object[i].shape == KIN_SIM_BALL ? "ball" : "box",
                    s->material[i]->density);
    if (s->ground)
        add_density(c, s->ground_noun, s->ground->density);
    snprintf(c->n1, sizeof c->n1, "0 to %.12g seconds", c->truth.frames / c->truth.fps);
    snprintf(c->n2, sizeof c->n2, "20 to 25 degrees celsius");
    snprintf(c->law, sizeof c->law, "%s", s->row->law);
}
