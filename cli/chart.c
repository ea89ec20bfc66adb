#include "cli/chart.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <cairo/cairo-svg.h>
#include <cairo/cairo.h>

#include "base/alloc.h"
#include "base/path.h"
#include "io/png.h"

enum { COLUMNS = 2, HEIGHT = 250, HEAD = 34, LEFT = 62, RIGHT = 16, TOP = 46, BOTTOM = 30 };

/* ---- the data ---- */

static kin_panel *find_panel(kin_chart *c, const char *title)
{
    for (int i = 0; i < c->n; i++)
        if (strcmp(c->panel[i].title, title) == 0)
            return &c->panel[i];
    kin_panel *more = kin_realloc(c->panel, (size_t)(c->n + 1) * sizeof *more);
    if (!more)
        return NULL;
    c->panel = more;
    memset(&more[c->n], 0, sizeof *more);
    snprintf(more[c->n].title, sizeof more->title, "%s", title);
    return &more[c->n++];
}

kin_series *kin_chart_series(kin_chart *c, const char *title, const char *name)
{
    kin_panel *p = find_panel(c, title);
    for (int i = 0; p && i < p->n; i++)
        if (strcmp(p->series[i].name, name) == 0)
            return &p->series[i];
    kin_series *more = p ? kin_realloc(p->series, (size_t)(p->n + 1) * sizeof *more) : NULL;
    if (!more)
        return NULL;
    p->series = more;
    memset(&more[p->n], 0, sizeof *more);
    snprintf(more[p->n].name, sizeof more->name, "%s", name);
    return &more[p->n++];
}

bool kin_series_add(kin_series *s, double x, double y)
{
    if (!isfinite(x) || !isfinite(y))
        return true;
    if (s->n == s->room) {
        const int64_t room = s->room ? 2 * s->room : 64;
        double *xs = kin_realloc(s->x, (size_t)room * sizeof *xs);
        s->x = xs ? xs : s->x;
        double *ys = xs ? kin_realloc(s->y, (size_t)room * sizeof *ys) : NULL;
        s->y = ys ? ys : s->y;
        if (!ys)
            return false;
        s->room = room;
    }
    s->x[s->n] = x;
    s->y[s->n++] = y;
    return true;
}

void kin_chart_free(kin_chart *c)
{
    for (int i = 0; i < c->n; i++) {
        for (int k = 0; k < c->panel[i].n; k++) {
            kin_free(c->panel[i].series[k].x);
            kin_free(c->panel[i].series[k].y);
        }
        kin_free(c->panel[i].series);
    }
    kin_free(c->panel);
    memset(c, 0, sizeof *c);
}

/* ---- scales ---- */

#define DECADES 1e-6 /* what is smaller than the largest by this lies below a logarithmic scale */

typedef struct axis {
    double lo, hi; /* of the values, or of their decimal logarithms */
    bool log;
    double from, to; /* pixels */
} axis;

static double place(const axis *a, double v)
{
    const double t = a->log ? log10(v) : v;
    return a->from + (t - a->lo) / (a->hi - a->lo) * (a->to - a->from);
}

/* 1, 2 or 5 times a power of ten: about `parts` of them fill the span. */
static double nice_step(double span, int parts)
{
    const double raw = span / parts, power = pow(10, floor(log10(raw))), m = raw / power;
    return power * (m < 1.5 ? 1 : m < 3.5 ? 2 : m < 7.5 ? 5 : 10);
}

static void fit(axis *a, double lo, double hi, bool may_be_log)
{
    a->log = may_be_log && lo > 0 && hi / lo > 20;
    a->lo = a->log ? log10(fmax(lo, hi * DECADES)) : lo;
    a->hi = a->log ? log10(hi) : hi;
    const double pad = a->hi > a->lo ? 0.05 * (a->hi - a->lo) : fabs(a->hi) * 0.1 + 1e-12;
    a->lo -= pad;
    a->hi += pad;
}

static void span_of(const kin_panel *p, double x[2], double y[2])
{
    x[0] = y[0] = INFINITY;
    x[1] = y[1] = -INFINITY;
    for (int i = 0; i < p->n; i++)
        for (int64_t k = 0; k < p->series[i].n; k++) {
            x[0] = fmin(x[0], p->series[i].x[k]);
            x[1] = fmax(x[1], p->series[i].x[k]);
            y[0] = fmin(y[0], p->series[i].y[k]);
            y[1] = fmax(y[1], p->series[i].y[k]);
        }
}

/* ---- drawing ---- */

static void set_colour(cairo_t *cr, int i)
{
    static const double c[][3] = {{.12, .47, .71}, {.84, .15, .16}, {.17, .63, .17}, {1, .5, .05},
                                  {.58, .40, .74}, {.55, .34, .29}, {.89, .47, .76}, {.3, .3, .3},
                                  {.74, .74, .13}, {.09, .75, .81}};
    const double *v = c[i % 10], lighter = i / 10 % 2 ? 0.5 : 0;
    cairo_set_source_rgb(cr, v[0] + (1 - v[0]) * lighter, v[1] + (1 - v[1]) * lighter,
                         v[2] + (1 - v[2]) * lighter);
}

static void text(cairo_t *cr, double x, double y, double anchor, double size, const char *s)
{
    cairo_text_extents_t e;
    cairo_set_font_size(cr, size);
    cairo_text_extents(cr, s, &e);
    cairo_move_to(cr, x - anchor * e.x_advance, y);
    cairo_show_text(cr, s);
}

/* step: between labels; what is far below it is a zero with the error of its sum. */
static void label(double v, double step, char out[32])
{
    if (fabs(v) >= 1e5)
        snprintf(out, 32, "%gk", v / 1000);
    else
        snprintf(out, 32, "%.6g", fabs(v) < 1e-6 * step ? 0 : v);
}

static void grid_line(cairo_t *cr, double x0, double y0, double x1, double y1)
{
    cairo_set_source_rgb(cr, .88, .88, .88);
    cairo_set_line_width(cr, 1);
    cairo_move_to(cr, x0, y0);
    cairo_line_to(cr, x1, y1);
    cairo_stroke(cr);
    cairo_set_source_rgb(cr, .25, .25, .25);
}

/* Steps along the bottom, values on the left, with their lines. */
static void draw_axes(cairo_t *cr, const axis *x, const axis *y)
{
    char s[32];
    double step = nice_step(x->hi - x->lo, 6);
    for (double v = ceil(x->lo / step) * step; v <= x->hi; v += step) {
        grid_line(cr, place(x, v), y->from, place(x, v), y->to);
        label(v, step, s);
        text(cr, place(x, v), y->from + 16, 0.5, 10, s);
    }
    step = y->log ? 1 : nice_step(y->hi - y->lo, 5);
    const bool halves = y->log && y->hi - y->lo < 2.5;
    for (double v = ceil(y->lo / step - 1) * step; v <= y->hi; v += step)
        for (int m = 1; m <= (halves ? 5 : 1); m += m == 1 ? 1 : 3) {
            const double value = y->log ? m * pow(10, v) : v, t = y->log ? log10(value) : v;
            if (t < y->lo || t > y->hi)
                continue;
            grid_line(cr, x->from, place(y, value), x->to, place(y, value));
            label(value, y->log ? 0 : step, s);
            text(cr, x->from - 6, place(y, value) + 3.5, 1, 10, s);
        }
    cairo_set_source_rgb(cr, .6, .6, .6);
    cairo_rectangle(cr, x->from, y->to, x->to - x->from, y->from - y->to);
    cairo_stroke(cr);
}

/* note: of many points that share a pixel's column the lowest and the highest are drawn, so that
 * peaks stay and an SVG does not grow with the run */
static void draw_line(cairo_t *cr, const kin_series *s, const axis *x, const axis *y)
{
    const int64_t columns = (int64_t)(x->to - x->from), per = s->n / columns + 1;
    static const double dashes[] = {5, 3};
    cairo_set_line_width(cr, s->dashed ? 1.2 : 1.5);
    cairo_set_dash(cr, dashes, s->dashed ? 2 : 0, 0);
    for (int64_t i = 0; i < s->n; i += per) {
        int64_t lo = i, hi = i;
        for (int64_t k = i; k < i + per && k < s->n; k++) {
            lo = s->y[k] < s->y[lo] ? k : lo;
            hi = s->y[k] > s->y[hi] ? k : hi;
        }
        const int64_t a = lo < hi ? lo : hi, b = lo < hi ? hi : lo;
        cairo_line_to(cr, place(x, s->x[a]), place(y, s->y[a]));
        if (b != a)
            cairo_line_to(cr, place(x, s->x[b]), place(y, s->y[b]));
    }
    cairo_stroke(cr);
    cairo_set_dash(cr, NULL, 0, 0);
    for (int64_t i = 0; i < s->n && s->n <= 40; i++) {
        cairo_arc(cr, place(x, s->x[i]), place(y, s->y[i]), 2, 0, 2 * M_PI);
        cairo_fill(cr);
    }
}

/* Areas on each other. All series but the dashed ones have the same steps. */
static kin_status draw_areas(cairo_t *cr, const kin_panel *p, const axis *x, const axis *y,
                             kin_error *err)
{
    int64_t n = INT64_MAX;
    for (int i = 0; i < p->n; i++)
        n = p->series[i].dashed || p->series[i].n > n ? n : p->series[i].n;
    if (n == INT64_MAX || n == 0)
        return KIN_OK;
    double *base = kin_calloc((size_t)n, sizeof *base);
    if (!base)
        return kin_fail(err, KIN_ERR_MEM, "plot: out of memory");
    const int64_t columns = (int64_t)(x->to - x->from), per = n / columns + 1;
    for (int i = 0; i < p->n; i++) {
        const kin_series *s = &p->series[i];
        if (s->dashed)
            continue;
        for (int64_t k = 0; k < n; k += per)
            cairo_line_to(cr, place(x, s->x[k]), place(y, base[k]));
        for (int64_t k = (n - 1) / per * per; k >= 0; k -= per)
            cairo_line_to(cr, place(x, s->x[k]), place(y, base[k] + s->y[k]));
        cairo_close_path(cr);
        set_colour(cr, i);
        cairo_fill(cr);
        for (int64_t k = 0; k < n; k++)
            base[k] += s->y[k];
    }
    kin_free(base);
    return KIN_OK;
}

static void draw_legend(cairo_t *cr, const kin_panel *p, double left, double top, double right)
{
    double x = left;
    for (int i = 0; i < p->n; i++) {
        cairo_text_extents_t e;
        cairo_set_font_size(cr, 10);
        cairo_text_extents(cr, p->series[i].name, &e);
        if (x + e.x_advance + 14 > right && i > 0) {
            text(cr, x, top, 0, 10, "...");
            return;
        }
        if (p->stacked && p->series[i].dashed)
            cairo_set_source_rgb(cr, 0, 0, 0);
        else
            set_colour(cr, i);
        cairo_rectangle(cr, x, top - 7, 8, p->series[i].dashed ? 2 : 7);
        cairo_fill(cr);
        cairo_set_source_rgb(cr, .25, .25, .25);
        text(cr, x + 11, top, 0, 10, p->series[i].name);
        x += e.x_advance + 20;
    }
}

static kin_status draw_panel(cairo_t *cr, const kin_panel *p, double left, double top, double width,
                             kin_error *err)
{
    double xs[2], ys[2];
    axis x = {.from = left + LEFT, .to = left + width - RIGHT};
    axis y = {.from = top + HEIGHT - BOTTOM, .to = top + TOP};
    span_of(p, xs, ys);
    cairo_set_source_rgb(cr, 0, 0, 0);
    text(cr, x.from, top + 16, 0, 12, p->title);
    draw_legend(cr, p, x.from, top + 34, x.to);
    if (xs[0] > xs[1])
        return KIN_OK;
    fit(&x, xs[0], xs[1], false);
    if (p->stacked)
        y = (axis){.lo = 0, .hi = 1, .from = y.from, .to = y.to};
    else
        fit(&y, ys[0], ys[1], true);
    draw_axes(cr, &x, &y);
    cairo_save(cr);
    cairo_rectangle(cr, x.from, y.to, x.to - x.from, y.from - y.to);
    cairo_clip(cr);
    kin_status status = p->stacked ? draw_areas(cr, p, &x, &y, err) : KIN_OK;
    for (int i = 0; i < p->n; i++) {
        if (p->stacked && !p->series[i].dashed)
            continue;
        if (p->stacked)
            cairo_set_source_rgb(cr, 0, 0, 0);
        else
            set_colour(cr, i);
        draw_line(cr, &p->series[i], &x, &y);
    }
    cairo_restore(cr);
    return status;
}

static kin_status draw(cairo_t *cr, const kin_chart *c, int width, int height, kin_error *err)
{
    cairo_set_source_rgb(cr, 1, 1, 1);
    cairo_rectangle(cr, 0, 0, width, height);
    cairo_fill(cr);
    cairo_select_font_face(cr, "sans-serif", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_source_rgb(cr, 0, 0, 0);
    text(cr, 14, 23, 0, 14, c->title);
    const double w = (double)width / COLUMNS;
    for (int i = 0; i < c->n; i++)
        KIN_TRY(draw_panel(cr, &c->panel[i], i % COLUMNS * w, HEAD + i / COLUMNS * HEIGHT, w, err));
    if (cairo_status(cr) != CAIRO_STATUS_SUCCESS)
        return kin_fail(err, KIN_ERR_BACKEND, "plot: %s", cairo_status_to_string(cairo_status(cr)));
    return KIN_OK;
}

/* ---- files ---- */

static kin_status write_png(cairo_surface_t *surface, int width, int height, const char *path,
                            kin_error *err)
{
    uint8_t *rgb = kin_malloc((size_t)width * (size_t)height * 3);
    if (!rgb)
        return kin_fail(err, KIN_ERR_MEM, "plot: out of memory");
    cairo_surface_flush(surface);
    const unsigned char *data = cairo_image_surface_get_data(surface);
    const int stride = cairo_image_surface_get_stride(surface);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            uint32_t pixel;
            memcpy(&pixel, data + (ptrdiff_t)y * stride + 4 * x, 4);
            uint8_t *to = rgb + ((size_t)y * (size_t)width + (size_t)x) * 3;
            to[0] = (uint8_t)(pixel >> 16);
            to[1] = (uint8_t)(pixel >> 8);
            to[2] = (uint8_t)pixel;
        }
    const kin_tensor picture = KIN_TENSOR(rgb, KIN_DTYPE_U8, height, width, 3);
    const kin_status status = kin_png_write(path, &picture, NULL, err);
    kin_free(rgb);
    return status;
}

static cairo_status_t on_bytes(void *user, const unsigned char *data, unsigned n)
{
    return fwrite(data, 1, n, user) == n ? CAIRO_STATUS_SUCCESS : CAIRO_STATUS_WRITE_ERROR;
}

static kin_status check_surface(cairo_surface_t *s, kin_error *err)
{
    const cairo_status_t rc = cairo_surface_status(s);
    if (rc == CAIRO_STATUS_SUCCESS)
        return KIN_OK;
    return kin_fail(err, rc == CAIRO_STATUS_NO_MEMORY ? KIN_ERR_MEM : KIN_ERR_BACKEND, "plot: %s",
                    cairo_status_to_string(rc));
}

kin_status kin_chart_write(const kin_chart *c, const char *path, int width, kin_error *err)
{
    const int height = HEAD + (c->n + COLUMNS - 1) / COLUMNS * HEIGHT;
    const bool svg = strcasecmp(kin_path_ext(path), "svg") == 0;
    kin_file_out file = {0};
    kin_status status;
    if (!svg && strcasecmp(kin_path_ext(path), "png") != 0)
        return kin_fail(err, KIN_ERR_ARG, "plot: '%s' must end in .png or .svg", path);
    if (svg)
        KIN_TRY(kin_file_out_open(&file, path, err));
    cairo_surface_t *s = svg ? cairo_svg_surface_create_for_stream(on_bytes, file.fp, width, height)
                             : cairo_image_surface_create(CAIRO_FORMAT_RGB24, width, height);
    cairo_t *cr = cairo_create(s);
    KIN_GOTO(check_surface(s, err));
    KIN_GOTO(draw(cr, c, width, height, err));
    if (!svg)
        KIN_GOTO(write_png(s, width, height, path, err));
    cairo_surface_finish(s);
    KIN_GOTO(check_surface(s, err));
    if (svg)
        status = kin_file_out_commit(&file, err);
done:
    cairo_destroy(cr);
    cairo_surface_destroy(s);
    if (status != KIN_OK && svg)
        kin_file_out_abort(&file);
    return status;
}
