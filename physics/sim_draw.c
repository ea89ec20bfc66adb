/* Draws a simulated scene with Cairo, anti-aliased, into u8 RGB frames. */
#include <cairo/cairo.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "physics/sim_scene.h"

static const uint8_t ground_plain[3] = {74, 66, 60};
static const uint8_t ground_wood[3] = {122, 78, 44};
static const uint8_t ground_stone[3] = {98, 100, 108};

static void set_rgb(cairo_t *cr, const uint8_t c[3])
{
    cairo_set_source_rgb(cr, c[0] / 255.0, c[1] / 255.0, c[2] / 255.0);
}

static void draw_background(const kin_sim_scene *s, cairo_t *cr)
{
    const kin_sim_truth *t = &s->clip->truth;
    const uint8_t(*c)[3] = t->background_rgb;
    if (!t->gradient) {
        set_rgb(cr, c[0]);
        cairo_paint(cr);
        return;
    }
    cairo_pattern_t *p = cairo_pattern_create_linear(0, 0, 0, t->height);
    for (int k = 0; k < 2; k++)
        cairo_pattern_add_color_stop_rgb(p, k, c[k][0] / 255.0, c[k][1] / 255.0, c[k][2] / 255.0);
    cairo_set_source(cr, p);
    cairo_paint(cr);
    cairo_pattern_destroy(p);
}

static void draw_ground(const kin_sim_scene *s, cairo_t *cr)
{
    const kin_sim_truth *t = &s->clip->truth;
    set_rgb(cr, !s->ground                             ? ground_plain
                : strcmp(s->ground->name, "wood") == 0 ? ground_wood
                                                       : ground_stone);
    if (t->floor_y < t->height) {
        cairo_rectangle(cr, 0, t->floor_y, t->width, t->height - t->floor_y);
        cairo_fill(cr);
    }
    if (s->ramp[0] != s->ramp[2]) {
        cairo_move_to(cr, s->ramp[0], s->ramp[1]);
        cairo_line_to(cr, s->ramp[2], s->ramp[3]);
        cairo_line_to(cr, s->ramp[2], t->height);
        cairo_line_to(cr, s->ramp[0], t->height);
        cairo_close_path(cr);
        cairo_fill(cr);
    }
}

/* A zigzag from the anchor to the edge of the object, and the wall or ceiling it hangs on. */
static void draw_spring(const kin_sim_scene *s, cairo_t *cr, const kin_sim_state *st, double radius)
{
    enum { TEETH = 10 };
    const kin_sim_truth *t = &s->clip->truth;
    static const uint8_t light[3] = {165, 165, 165}, dark[3] = {70, 70, 70};
    bool on_dark = t->background_rgb[0][0] < 60;
    bool upright = s->spring == 2;
    double from = upright ? s->anchor[1] : s->anchor[0];
    double to = (upright ? st->y : st->x) + (s->spring == 3 ? radius : -radius);
    double side = upright ? s->anchor[0] : s->anchor[1], w = 1.6 * s->d.s;
    set_rgb(cr, on_dark ? light : dark);
    cairo_set_line_width(cr, 0.9 * s->d.s);
    for (int k = 0; k <= TEETH; k++) {
        double along = from + (to - from) * k / TEETH;
        double off = k == 0 || k == TEETH ? side : side + (k % 2 ? w : -w);
        if (upright)
            cairo_line_to(cr, off, along);
        else
            cairo_line_to(cr, along, off);
    }
    cairo_stroke(cr);
    if (upright)
        cairo_rectangle(cr, 0, 0, t->width, s->anchor[1]);
    else if (s->spring == 1)
        cairo_rectangle(cr, 0, 0, s->anchor[0], t->height);
    else
        cairo_rectangle(cr, s->anchor[0], 0, t->width - s->anchor[0], t->height);
    cairo_fill(cr);
}

static void draw_object(cairo_t *cr, const kin_sim_object *ob, const kin_sim_state *st)
{
    double r = ob->radius;
    set_rgb(cr, ob->rgb);
    if (ob->shape == KIN_SIM_BALL) {
        cairo_new_sub_path(cr);
        cairo_arc(cr, st->x, st->y, r, 0, 2 * M_PI);
    } else {
        double c = r * cos(st->angle), n = r * sin(st->angle);
        cairo_move_to(cr, st->x - c + n, st->y - n - c);
        cairo_line_to(cr, st->x + c + n, st->y + n - c);
        cairo_line_to(cr, st->x + c - n, st->y + n + c);
        cairo_line_to(cr, st->x - c - n, st->y - n + c);
        cairo_close_path(cr);
    }
    cairo_fill(cr);
}

static void copy_frame(cairo_surface_t *surface, int w, int h, uint8_t *out)
{
    cairo_surface_flush(surface);
    const uint8_t *data = cairo_image_surface_get_data(surface);
    int stride = cairo_image_surface_get_stride(surface);
    for (int y = 0; y < h; y++) {
        const uint8_t *row = data + (size_t)y * (size_t)stride;
        for (int x = 0; x < w; x++, out += 3) {
            uint32_t p;
            memcpy(&p, row + 4 * x, 4);
            out[0] = (uint8_t)(p >> 16);
            out[1] = (uint8_t)(p >> 8);
            out[2] = (uint8_t)p;
        }
    }
}

kin_status kin_sim_draw(kin_sim_scene *s, kin_error *err)
{
    kin_sim_truth *t = &s->clip->truth;
    size_t frame = (size_t)t->width * (size_t)t->height * 3;
    s->clip->frames = kin_malloc(frame * (size_t)t->frames);
    if (!s->clip->frames)
        return kin_fail(err, KIN_ERR_MEM, "simulate: %d frames of %dx%d", t->frames, t->width,
                        t->height);
    cairo_surface_t *surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, t->width, t->height);
    cairo_t *cr = cairo_create(surface);
    cairo_set_antialias(cr, CAIRO_ANTIALIAS_BEST);
    for (int f = 0; f < t->frames; f++) {
        draw_background(s, cr);
        if (s->ground_noun)
            draw_ground(s, cr);
        if (s->spring)
            draw_spring(s, cr, &t->object[0].states[f], t->object[0].radius);
        for (int i = 0; i < t->objects; i++)
            draw_object(cr, &t->object[i], &t->object[i].states[f]);
        copy_frame(surface, t->width, t->height, s->clip->frames + frame * (size_t)f);
    }
    cairo_status_t status = cairo_status(cr);
    cairo_destroy(cr);
    cairo_surface_destroy(surface);
    if (status != CAIRO_STATUS_SUCCESS)
        return kin_fail(err, KIN_ERR_BACKEND, "simulate: cairo: %s",
                        cairo_status_to_string(status));
    return KIN_OK;
}
