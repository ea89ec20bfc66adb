#include "physics/tracker.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "physics/materials.h"

/* One search under way. */
typedef struct search {
    const uint8_t *frames;
    int F, H, W;
    const kin_asked *asked;
    int which;
    uint8_t *base; /* [H,W,3] background as the object's colour sees it */
    float *alpha;  /* [H,W] coverage by the object in one frame */
    int *label;    /* [H,W] component of each pixel, 0 none */
    int *stack;    /* [H*W] */
    double s;      /* pixels per pixel of a 32-pixel frame */
} search;

static double distance(const uint8_t a[3], const uint8_t b[3])
{
    double d = 0;
    for (int k = 0; k < 3; k++)
        d += (double)(a[k] - b[k]) * (a[k] - b[k]);
    return sqrt(d);
}

static const uint8_t *pixel(const search *q, int f, int y, int x)
{
    return q->frames + 3 * (((size_t)f * (size_t)q->H + (size_t)y) * (size_t)q->W + (size_t)x);
}

/* Share a (0..1) of colour o in pixel p over background b, and how far p lies from that mixture. */
static double mixture(const uint8_t p[3], const uint8_t b[3], const uint8_t o[3], double *off)
{
    double dot = 0, norm = 0, rest = 0;
    for (int k = 0; k < 3; k++) {
        dot += (double)(p[k] - b[k]) * (o[k] - b[k]);
        norm += (double)(o[k] - b[k]) * (o[k] - b[k]);
    }
    double a = norm > 0 ? fmin(fmax(dot / norm, 0), 1) : 0;
    for (int k = 0; k < 3; k++) {
        double d = p[k] - b[k] - a * (o[k] - b[k]);
        rest += d * d;
    }
    *off = sqrt(rest);
    return a;
}

/* Coverage by the asked colour: a mixture of it with the background that fits better than one with
 * any other object colour, within a tolerance that grows with the share. */
static double coverage(const search *q, const uint8_t p[3], const uint8_t b[3])
{
    const uint8_t *o = q->asked->object[q->which].rgb;
    double off, other, reach = distance(o, b), a = mixture(p, b, o, &off);
    if (reach < 40 || a == 0 || off > 0.3 * a * reach + 8)
        return 0;
    for (int c = 0; c < KIN_OBJECT_COLOURS; c++) {
        if (distance(kin_object_colour[c].rgb, o) < 1)
            continue;
        mixture(p, b, kin_object_colour[c].rgb, &other);
        if (other < off - 4)
            return 0;
    }
    return a;
}

/* True if a pixel looks like one of the asked objects and tells nothing of the background. */
static bool object_like(const search *q, const uint8_t p[3])
{
    for (int i = 0; i < q->asked->objects; i++)
        if (distance(p, q->asked->object[i].rgb) < 70)
            return true;
    return false;
}

/* Background of each row: per channel the median over the row in all frames, objects left out. */
static void row_background(search *q)
{
    for (int y = 0; y < q->H; y++) {
        uint32_t count[3][256] = {{0}}, n = 0;
        uint8_t median[3] = {0, 0, 0};
        for (int pass = 0; pass < 2 && n == 0; pass++)
            for (int f = 0; f < q->F; f++)
                for (int x = 0; x < q->W; x++) {
                    const uint8_t *p = pixel(q, f, y, x);
                    if (pass == 0 && object_like(q, p))
                        continue;
                    n++;
                    for (int k = 0; k < 3; k++)
                        count[k][p[k]]++;
                }
        for (int k = 0; k < 3; k++)
            for (uint32_t v = 0, sum = 0; v < 256; v++) {
                sum += count[k][v];
                if (2 * sum >= n) {
                    median[k] = (uint8_t)v;
                    break;
                }
            }
        for (int x = 0; x < q->W; x++)
            memcpy(q->base + 3 * ((size_t)y * (size_t)q->W + (size_t)x), median, 3);
    }
}

/* A ramp divides the rows: there the background of a pixel is its value in the frame where the
 * object covers it least, unless that is the object itself. */
static void pixel_background(search *q)
{
    const uint8_t *o = q->asked->object[q->which].rgb;
    for (int y = 0; y < q->H; y++)
        for (int x = 0; x < q->W; x++) {
            uint8_t *b = q->base + 3 * ((size_t)y * (size_t)q->W + (size_t)x);
            const uint8_t *best = NULL;
            double far = 70;
            for (int f = 0; f < q->F; f++) {
                const uint8_t *p = pixel(q, f, y, x);
                if (distance(p, o) > far) {
                    far = distance(p, o);
                    best = p;
                }
            }
            if (best)
                memcpy(b, best, 3);
        }
}

typedef struct blob {
    int count; /* pixels of the mask */
    int x0, x1, y0, y1;
} blob;

/* Fills the component of pixel `at` with `id` (4-neighbours of coverage > 1/2). */
static blob flood(search *q, int at, int id)
{
    blob b = {0, q->W, -1, q->H, -1};
    int top = 0;
    q->stack[top++] = at;
    q->label[at] = id;
    while (top > 0) {
        int i = q->stack[--top], x = i % q->W, y = i / q->W;
        const int next[4] = {x > 0 ? i - 1 : -1, x + 1 < q->W ? i + 1 : -1, y > 0 ? i - q->W : -1,
                             y + 1 < q->H ? i + q->W : -1};
        b.count++;
        b.x0 = x < b.x0 ? x : b.x0;
        b.x1 = x > b.x1 ? x : b.x1;
        b.y0 = y < b.y0 ? y : b.y0;
        b.y1 = y > b.y1 ? y : b.y1;
        for (int k = 0; k < 4; k++)
            if (next[k] >= 0 && q->label[next[k]] == 0 && q->alpha[next[k]] > 0.5f) {
                q->label[next[k]] = id;
                q->stack[top++] = next[k];
            }
    }
    return b;
}

/* Coverage-weighted centre and area within a border of `edge` pixels around component id. */
static void measure(const search *q, const blob *b, int id, double *x, double *y, double *area)
{
    int edge = (int)ceil(1.5 * q->s);
    double sum = 0, sx = 0, sy = 0;
    for (int v = b->y0 - edge; v <= b->y1 + edge; v++)
        for (int u = b->x0 - edge; u <= b->x1 + edge; u++) {
            if (u < 0 || v < 0 || u >= q->W || v >= q->H)
                continue;
            int i = v * q->W + u;
            if (q->label[i] != 0 && q->label[i] != id)
                continue;
            sum += (double)q->alpha[i];
            sx += (double)q->alpha[i] * (u + 0.5);
            sy += (double)q->alpha[i] * (v + 0.5);
        }
    *x = sx / sum;
    *y = sy / sum;
    *area = sum;
}

/* Share of colour o in p = b + u (o - b) + v (r - b), least squares; false where that is no
 * mixture. */
static bool unmix(const uint8_t p[3], const uint8_t b[3], const uint8_t o[3], const uint8_t r[3],
                  double *share)
{
    double oo = 0, rr = 0, or = 0, po = 0, pr = 0, off = 0;
    for (int k = 0; k < 3; k++) {
        double d = p[k] - b[k], e = o[k] - b[k], f = r[k] - b[k];
        oo += e * e;
        rr += f * f;
        or += e * f;
        po += d * e;
        pr += d * f;
    }
    double det = oo * rr - or * or ;
    if (det < 1e-3 * oo * rr)
        return false;
    double u = (po * rr - pr * or) / det, v = (pr * oo - po * or) / det;
    for (int k = 0; k < 3; k++) {
        double d = p[k] - b[k] - u * (o[k] - b[k]) - v * (r[k] - b[k]);
        off += d * d;
    }
    if (u < -0.05 || v < -0.05 || u + v > 1.05 || off > 15 * 15)
        return false;
    *share = fmin(fmax(u, 0), 1);
    return true;
}

/* Where two objects touch, a pixel mixes both colours: those between a pixel of each are taken
 * apart. */
static void part_neighbours(search *q, int f)
{
    const uint8_t *o = q->asked->object[q->which].rgb, *r = q->asked->object[1 - q->which].rgb;
    for (int y = 0; y < q->H; y++)
        for (int x = 0; x < q->W; x++) {
            bool ours = false, theirs = false;
            double share;
            for (int k = 0; k < 9; k++) {
                int u = x + k % 3 - 1, v = y + k / 3 - 1;
                if (k == 4 || u < 0 || v < 0 || u >= q->W || v >= q->H)
                    continue;
                ours |= distance(pixel(q, f, v, u), o) < 25;
                theirs |= distance(pixel(q, f, v, u), r) < 25;
            }
            size_t i = (size_t)y * (size_t)q->W + (size_t)x;
            if (ours && theirs && unmix(pixel(q, f, y, x), q->base + 3 * i, o, r, &share))
                q->alpha[i] = (float)share;
        }
}

static void plausible_area(const search *q, double *lo, double *hi)
{
    double factor = q->asked->object[q->which].shape == KIN_SIM_BOX ? 4 : M_PI;
    double a = q->asked->object[q->which].radius_min, b = q->asked->object[q->which].radius_max;
    *lo = factor * a * a;
    *hi = factor * b * b;
}

/* Compact enough to be a ball or a box in any position. */
static bool compact(const blob *b)
{
    double w = b->x1 - b->x0 + 1, h = b->y1 - b->y0 + 1;
    return b->count >= 0.45 * w * h && fmax(w, h) <= 1.7 * fmin(w, h);
}

static void track_frame(search *q, int f, kin_track *t)
{
    size_t n = (size_t)q->W * (size_t)q->H;
    blob best = {0};
    int best_id = 0, id = 0, rest = 0;
    double lo, hi;
    for (size_t i = 0; i < n; i++)
        q->alpha[i] = (float)coverage(q, q->frames + 3 * ((size_t)f * n + i), q->base + 3 * i);
    if (q->asked->objects == 2)
        part_neighbours(q, f);
    memset(q->label, 0, n * sizeof *q->label);
    for (size_t i = 0; i < n; i++) {
        if (q->label[i] != 0 || q->alpha[i] <= 0.5f)
            continue;
        blob b = flood(q, (int)i, ++id);
        rest += b.count;
        if (b.count > best.count) {
            best = b;
            best_id = id;
        }
    }
    plausible_area(q, &lo, &hi);
    t->x[f] = t->y[f] = NAN;
    t->area[f] = 0;
    t->intact_at[f] = 0;
    if (best_id == 0 || best.count < 0.3 * lo)
        return;
    rest -= best.count;
    measure(q, &best, best_id, &t->x[f], &t->y[f], &t->area[f]);
    t->intact_at[f] = rest <= fmax(2 * q->s * q->s, 0.06 * best.count) && t->area[f] >= lo &&
                      t->area[f] <= hi && compact(&best);
}

static kin_status alloc_track(int F, kin_track *t, kin_error *err)
{
    *t = (kin_track){.frames = F};
    t->x = kin_calloc((size_t)F, sizeof *t->x);
    t->y = kin_calloc((size_t)F, sizeof *t->y);
    t->area = kin_calloc((size_t)F, sizeof *t->area);
    t->intact_at = kin_calloc((size_t)F, 1);
    if (t->x && t->y && t->area && t->intact_at)
        return KIN_OK;
    kin_track_free(t);
    return kin_fail(err, KIN_ERR_MEM, "track: %d frames", F);
}

void kin_track_free(kin_track *t)
{
    kin_free(t->x);
    kin_free(t->y);
    kin_free(t->area);
    kin_free(t->intact_at);
    *t = (kin_track){0};
}

static void run(search *q, kin_track *t)
{
    int seen = 0, intact = 0;
    row_background(q);
    if (q->asked->kind < 0 || strcmp(kin_sim_kind_name(q->asked->kind), "incline") == 0)
        pixel_background(q);
    for (int f = 0; f < q->F; f++) {
        track_frame(q, f, t);
        seen += !isnan(t->x[f]);
        intact += t->intact_at[f];
    }
    t->colour = 2 * seen >= q->F;
    t->intact = intact == q->F;
}

kin_status kin_track_object(const uint8_t *frames, int F, int H, int W, const kin_asked *asked,
                            int which, kin_track *out, kin_error *err)
{
    *out = (kin_track){0};
    if (F < 1 || H < 1 || W < 1 || H > KIN_SIM_MAX_SIDE || W > KIN_SIM_MAX_SIDE ||
        F > KIN_SIM_MAX_FRAMES * 16)
        return kin_fail(err, KIN_ERR_ARG, "track: %d frames of %dx%d are out of range", F, W, H);
    if (which < 0 || which >= asked->objects)
        return kin_fail(err, KIN_ERR_ARG, "track: object %d of %d", which, asked->objects);
    size_t n = (size_t)W * (size_t)H;
    search q = {.frames = frames,
                .F = F,
                .H = H,
                .W = W,
                .asked = asked,
                .which = which,
                .s = (W < H ? W : H) / 32.0};
    KIN_TRY(alloc_track(F, out, err));
    q.base = kin_malloc(3 * n);
    q.alpha = kin_malloc(n * sizeof *q.alpha);
    q.label = kin_malloc(n * sizeof *q.label);
    q.stack = kin_malloc(n * sizeof *q.stack);
    kin_status status = KIN_OK;
    if (q.base && q.alpha && q.label && q.stack)
        run(&q, out);
    else
        status = kin_fail(err, KIN_ERR_MEM, "track: a frame of %dx%d", W, H);
    kin_free(q.base);
    kin_free(q.alpha);
    kin_free(q.label);
    kin_free(q.stack);
    if (status != KIN_OK)
        kin_track_free(out);
    return status;
}
