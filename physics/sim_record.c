/* What a simulated clip leaves on paper: its WISA training record and its truth.json. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "physics/sim_scene.h"

static cJSON *pair(double a, double b)
{
    return cJSON_CreateDoubleArray((double[2]){a, b}, 2);
}

static cJSON *rgb_json(const uint8_t c[3])
{
    return cJSON_CreateIntArray((int[3]){c[0], c[1], c[2]}, 3);
}

/* NAN becomes null. */
static bool add_number(cJSON *o, const char *key, double v)
{
    return isfinite(v) ? cJSON_AddNumberToObject(o, key, v) != NULL
                       : cJSON_AddNullToObject(o, key) != NULL;
}

/* o if it was filled whole, else nothing. */
static cJSON *whole(cJSON *o, bool ok)
{
    if (ok)
        return o;
    cJSON_Delete(o);
    return NULL;
}

static cJSON *annotation_json(const kin_sim_clip *c)
{
    cJSON *a = cJSON_CreateObject(), *n0 = NULL;
    bool ok = cJSON_AddStringToObject(a, "phys_law", c->law) &&
              cJSON_AddStringToObject(a, "n0", c->n0) && cJSON_AddStringToObject(a, "n1", c->n1) &&
              cJSON_AddStringToObject(a, "n2", c->n2) && cJSON_AddStringToObject(a, "q0", c->q0) &&
              cJSON_AddStringToObject(a, "q1", c->q1) && cJSON_AddStringToObject(a, "q2", c->q2) &&
              cJSON_AddStringToObject(a, "q3", c->q3) && cJSON_AddStringToObject(a, "q4", c->q4) &&
              (n0 = cJSON_AddArrayToObject(a, "quantify_n0"));
    for (int i = 0; ok && i < c->densities; i++)
        ok = kin_json_append(n0, pair(c->density[i][0], c->density[i][1]));
    return whole(a, ok && kin_json_put(a, "quantify_n1", pair(0, c->truth.frames / c->truth.fps)) &&
                        kin_json_put(a, "quantify_n2", pair(20, 25)));
}

/* Mean path of the main object per second in frame widths: the one score that is measured, not
 * judged. */
static double motion_score(const kin_sim_truth *t)
{
    const kin_sim_state *st = t->object[0].states;
    double path = 0;
    for (int f = 1; f < t->frames; f++)
        path += hypot(st[f].x - st[f - 1].x, st[f].y - st[f - 1].y);
    return path / t->width * t->fps / (t->frames - 1);
}

kin_status kin_sim_record_json(const kin_sim_clip *c, const char *video_id, const char *file,
                               cJSON **out, kin_error *err)
{
    const kin_sim_truth *t = &c->truth;
    cJSON *r = cJSON_CreateObject();
    r = whole(
        r, cJSON_AddStringToObject(r, "video_id", video_id) &&
               cJSON_AddStringToObject(r, "file", file) &&
               cJSON_AddStringToObject(r, "captions", c->caption) &&
               cJSON_AddNumberToObject(r, "width", t->width) &&
               cJSON_AddNumberToObject(r, "height", t->height) &&
               cJSON_AddNumberToObject(r, "fps", t->fps) &&
               cJSON_AddNumberToObject(r, "duration", t->frames / t->fps) &&
               cJSON_AddNumberToObject(r, "motion_score", motion_score(t)) &&
               cJSON_AddNumberToObject(r, "motion_score_v2", motion_score(t)) &&
               cJSON_AddNumberToObject(r, "visual_quality_score", 1) &&
               cJSON_AddNumberToObject(r, "text_bbox_num", 0) &&
               cJSON_AddNumberToObject(r, "text_bbox_ratio", 0) &&
               cJSON_AddStringToObject(r, "label", kin_phys_title(kin_sim_kind_label(t->kind))) &&
               kin_json_put(r, "physical_annotation", annotation_json(c)));
    if (!r)
        return kin_fail(err, KIN_ERR_MEM, "simulate: a record");
    *out = r;
    return KIN_OK;
}

kin_status kin_sim_prior(const kin_sim_clip *c, kin_physics_prior *out, kin_error *err)
{
    cJSON *r = NULL;
    memset(out, 0, sizeof *out);
    KIN_TRY(kin_sim_record_json(c, "clip", "clip.mp4", &r, err));
    kin_status status = kin_annotation_official_training(r, out, err);
    cJSON_Delete(r);
    return status;
}

/* ---- truth.json ---- */

static const char *const motion_key[] = {"vx",     "vy",  "ax",  "ay",   "restitution",
                                         "period", "v2x", "v2y", "event"};

static cJSON *motion_json(const kin_motion *m)
{
    const double v[] = {m->vx,     m->vy,  m->ax,  m->ay,   m->restitution,
                        m->period, m->v2x, m->v2y, m->event};
    cJSON *o = cJSON_CreateObject();
    bool ok = o != NULL;
    for (size_t k = 0; ok && k < sizeof v / sizeof *v; k++)
        ok = add_number(o, motion_key[k], v[k]);
    return whole(o, ok);
}

/* The seven lists of an object's states. */
static bool add_states(cJSON *o, const kin_sim_object *ob, int frames, double px_per_m)
{
    static const char *const keys[] = {"position_px",      "velocity_px_s", "acceleration_px_s2",
                                       "angle_rad",        "position_m",    "velocity_m_s",
                                       "acceleration_m_s2"};
    cJSON *list[7];
    bool ok = true;
    for (int k = 0; k < 7; k++)
        list[k] = cJSON_AddArrayToObject(o, keys[k]);
    for (int f = 0; ok && f < frames; f++) {
        const kin_sim_state *s = &ob->states[f];
        ok = kin_json_append(list[0], pair(s->x, s->y)) &&
             kin_json_append(list[1], pair(s->vx, s->vy)) &&
             kin_json_append(list[2], pair(s->ax, s->ay)) &&
             kin_json_append(list[3], cJSON_CreateNumber(s->angle)) &&
             kin_json_append(list[4], pair(s->x / px_per_m, s->y / px_per_m)) &&
             kin_json_append(list[5], pair(s->vx / px_per_m, s->vy / px_per_m)) &&
             kin_json_append(list[6], pair(s->ax / px_per_m, s->ay / px_per_m));
    }
    return ok;
}

static cJSON *object_json(const kin_sim_object *ob, int frames, double px_per_m)
{
    cJSON *o = cJSON_CreateObject();
    return whole(o,
                 cJSON_AddStringToObject(o, "shape", ob->shape == KIN_SIM_BALL ? "ball" : "box") &&
                     cJSON_AddStringToObject(o, "colour", ob->colour) &&
                     kin_json_put(o, "rgb", rgb_json(ob->rgb)) &&
                     cJSON_AddStringToObject(o, "material", ob->material) &&
                     cJSON_AddNumberToObject(o, "density_g_cm3", ob->density) &&
                     cJSON_AddNumberToObject(o, "radius_px", ob->radius) &&
                     cJSON_AddNumberToObject(o, "radius_m", ob->radius / px_per_m) &&
                     cJSON_AddNumberToObject(o, "mass_kg", ob->mass) &&
                     add_states(o, ob, frames, px_per_m));
}

static cJSON *background_json(const kin_sim_truth *t)
{
    cJSON *bg = cJSON_CreateObject();
    return whole(bg, cJSON_AddStringToObject(bg, "colour", t->background) &&
                         cJSON_AddBoolToObject(bg, "gradient", t->gradient) &&
                         kin_json_put(bg, "top_rgb", rgb_json(t->background_rgb[0])) &&
                         kin_json_put(bg, "bottom_rgb", rgb_json(t->background_rgb[1])));
}

kin_status kin_sim_truth_json(const kin_sim_clip *c, cJSON **out, kin_error *err)
{
    const kin_sim_truth *t = &c->truth;
    cJSON *o = cJSON_CreateObject(), *list = NULL;
    bool ok = cJSON_AddStringToObject(o, "kind", kin_sim_kind_name(t->kind)) &&
              cJSON_AddStringToObject(o, "label", kin_phys_title(kin_sim_kind_label(t->kind))) &&
              cJSON_AddStringToObject(o, "caption", c->caption) &&
              cJSON_AddNumberToObject(o, "width", t->width) &&
              cJSON_AddNumberToObject(o, "height", t->height) &&
              cJSON_AddNumberToObject(o, "frames", t->frames) &&
              cJSON_AddNumberToObject(o, "fps", t->fps) &&
              cJSON_AddNumberToObject(o, "px_per_m", t->px_per_m) &&
              cJSON_AddNumberToObject(o, "gravity_m_s2", t->gravity) &&
              cJSON_AddNumberToObject(o, "incline_rad", t->incline) &&
              cJSON_AddNumberToObject(o, "spring_n_m", t->spring_k) &&
              cJSON_AddNumberToObject(o, "floor_y_px", t->floor_y) &&
              kin_json_put(o, "direction", pair(t->direction[0], t->direction[1])) &&
              kin_json_put(o, "background", background_json(t)) &&
              kin_json_put(o, "motion_px_s", motion_json(&t->motion)) &&
              (list = cJSON_AddArrayToObject(o, "objects"));
    for (int i = 0; ok && i < t->objects; i++)
        ok = kin_json_append(list, object_json(&t->object[i], t->frames, t->px_per_m));
    *out = whole(o, ok);
    return *out ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "simulate: the truth of a clip");
}

/* ---- truth.json back ---- */

static const cJSON *member(const cJSON *o, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(o, key);
}

static kin_status bad(const char *key, const char *rule, kin_error *err)
{
    return kin_fail(err, KIN_ERR_FORMAT, "truth: %s must be %s", key, rule);
}

static kin_status get_number(const cJSON *o, const char *key, double lo, double hi, double *out,
                             kin_error *err)
{
    const cJSON *v = member(o, key);
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= lo && v->valuedouble <= hi))
        return bad(key, "a number in its range", err);
    *out = v->valuedouble;
    return KIN_OK;
}

static kin_status get_int(const cJSON *o, const char *key, int lo, int hi, int *out, kin_error *err)
{
    double v = 0;
    KIN_TRY(get_number(o, key, lo, hi, &v, err));
    if (v != floor(v))
        return bad(key, "a whole number", err);
    *out = (int)v;
    return KIN_OK;
}

static kin_status get_word(const cJSON *o, const char *key, char *out, size_t bytes, kin_error *err)
{
    const cJSON *v = member(o, key);
    if (!cJSON_IsString(v) || strlen(v->valuestring) >= bytes)
        return bad(key, "a short text", err);
    memcpy(out, v->valuestring, strlen(v->valuestring) + 1);
    return KIN_OK;
}

static kin_status get_list(const cJSON *v, const char *key, int n, double *out, kin_error *err)
{
    const cJSON *e;
    int i = 0;
    if (!cJSON_IsArray(v) || cJSON_GetArraySize(v) != n)
        return bad(key, "a list of its length", err);
    cJSON_ArrayForEach(e, v)
    {
        if (!cJSON_IsNumber(e) || !(fabs(e->valuedouble) < 1e12))
            return bad(key, "a list of numbers", err);
        out[i++] = e->valuedouble;
    }
    return KIN_OK;
}

static kin_status get_rgb(const cJSON *o, const char *key, uint8_t out[3], kin_error *err)
{
    double v[3];
    KIN_TRY(get_list(member(o, key), key, 3, v, err));
    for (int k = 0; k < 3; k++) {
        if (!(v[k] >= 0 && v[k] <= 255))
            return bad(key, "three values of 0..255", err);
        out[k] = (uint8_t)v[k];
    }
    return KIN_OK;
}

static kin_status get_motion(const cJSON *o, kin_motion *m, kin_error *err)
{
    double *const v[] = {&m->vx,     &m->vy,  &m->ax,  &m->ay,   &m->restitution,
                         &m->period, &m->v2x, &m->v2y, &m->event};
    for (size_t k = 0; k < sizeof v / sizeof *v; k++) {
        const cJSON *e = member(o, motion_key[k]);
        if (!cJSON_IsNumber(e) && !cJSON_IsNull(e))
            return bad(motion_key[k], "a number or null", err);
        *v[k] = cJSON_IsNumber(e) ? e->valuedouble : NAN;
    }
    return KIN_OK;
}

static kin_status get_states(const cJSON *o, int frames, kin_sim_state *st, kin_error *err)
{
    static const char *const key[4] = {"position_px", "velocity_px_s", "acceleration_px_s2",
                                       "angle_rad"};
    const cJSON *e[4];
    for (int k = 0; k < 4; k++) {
        const cJSON *list = member(o, key[k]);
        if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != frames)
            return bad(key[k], "a list with an entry per frame", err);
        e[k] = list->child;
    }
    for (int f = 0; f < frames; f++) {
        double v[3][2];
        for (int k = 0; k < 3; k++) {
            KIN_TRY(get_list(e[k], key[k], 2, v[k], err));
            e[k] = e[k]->next;
        }
        if (!cJSON_IsNumber(e[3]))
            return bad(key[3], "a list of numbers", err);
        st[f] = (kin_sim_state){v[0][0], v[0][1], v[1][0],          v[1][1],
                                v[2][0], v[2][1], e[3]->valuedouble};
        e[3] = e[3]->next;
    }
    return KIN_OK;
}

static kin_status get_object(const cJSON *o, int frames, kin_sim_object *ob, kin_error *err)
{
    char shape[8];
    KIN_TRY(get_word(o, "shape", shape, sizeof shape, err));
    if (strcmp(shape, "ball") != 0 && strcmp(shape, "box") != 0)
        return bad("shape", "ball or box", err);
    ob->shape = strcmp(shape, "box") == 0 ? KIN_SIM_BOX : KIN_SIM_BALL;
    KIN_TRY(get_word(o, "colour", ob->colour, sizeof ob->colour, err));
    KIN_TRY(get_rgb(o, "rgb", ob->rgb, err));
    KIN_TRY(get_word(o, "material", ob->material, sizeof ob->material, err));
    KIN_TRY(get_number(o, "density_g_cm3", 0, 1e3, &ob->density, err));
    KIN_TRY(get_number(o, "radius_px", 1e-3, KIN_SIM_MAX_SIDE, &ob->radius, err));
    KIN_TRY(get_number(o, "mass_kg", 0, 1e12, &ob->mass, err));
    ob->states = kin_calloc((size_t)frames, sizeof *ob->states);
    if (!ob->states)
        return kin_fail(err, KIN_ERR_MEM, "truth: %d states", frames);
    return get_states(o, frames, ob->states, err);
}

static kin_status get_all(const cJSON *o, kin_sim_truth *t, kin_error *err)
{
    char kind[32];
    KIN_TRY(get_word(o, "kind", kind, sizeof kind, err));
    t->kind = kin_sim_kind_find(kind);
    if (t->kind < 0)
        return bad("kind", "a known kind of clip", err);
    KIN_TRY(get_int(o, "width", 1, KIN_SIM_MAX_SIDE, &t->width, err));
    KIN_TRY(get_int(o, "height", 1, KIN_SIM_MAX_SIDE, &t->height, err));
    KIN_TRY(get_int(o, "frames", 1, KIN_SIM_MAX_FRAMES, &t->frames, err));
    KIN_TRY(get_number(o, "fps", 1e-3, 1e6, &t->fps, err));
    KIN_TRY(get_number(o, "px_per_m", 1e-6, 1e9, &t->px_per_m, err));
    KIN_TRY(get_number(o, "gravity_m_s2", 0, 1e6, &t->gravity, err));
    KIN_TRY(get_number(o, "incline_rad", 0, 1.6, &t->incline, err));
    KIN_TRY(get_number(o, "spring_n_m", 0, 1e15, &t->spring_k, err));
    KIN_TRY(get_number(o, "floor_y_px", 0, KIN_SIM_MAX_SIDE, &t->floor_y, err));
    KIN_TRY(get_list(member(o, "direction"), "direction", 2, t->direction, err));
    const cJSON *bg = member(o, "background"), *list = member(o, "objects"), *e;
    KIN_TRY(get_word(bg, "colour", t->background, sizeof t->background, err));
    t->gradient = cJSON_IsTrue(member(bg, "gradient"));
    KIN_TRY(get_rgb(bg, "top_rgb", t->background_rgb[0], err));
    KIN_TRY(get_rgb(bg, "bottom_rgb", t->background_rgb[1], err));
    KIN_TRY(get_motion(member(o, "motion_px_s"), &t->motion, err));
    int n = cJSON_GetArraySize(list);
    if (!cJSON_IsArray(list) || n < 1 || n > KIN_SIM_MAX_OBJECTS)
        return bad("objects", "a list of one or two objects", err);
    cJSON_ArrayForEach(e, list) KIN_TRY(get_object(e, t->frames, &t->object[t->objects++], err));
    return KIN_OK;
}

kin_status kin_sim_truth_read(const cJSON *json, kin_sim_truth *out, char *caption, kin_error *err)
{
    memset(out, 0, sizeof *out);
    kin_status status = get_all(json, out, err);
    if (status == KIN_OK && caption)
        status = get_word(json, "caption", caption, KIN_SIM_CAPTION_MAX, err);
    if (status != KIN_OK)
        kin_sim_truth_free(out);
    return status;
}
