/* Laws of motion fitted to a tracked path, and the verdict on a clip. Pixels and seconds, y down.
 */
#include <math.h>
#include <string.h>

#include "physics/tracker.h"

enum { MAX_TERMS = 6 };

/* Least squares: sum of w terms. Solves the normal equations of up to MAX_TERMS terms by Cholesky.
 */
typedef struct lsq {
    int terms, points;
    double a[MAX_TERMS][MAX_TERMS], b[MAX_TERMS], yy;
    double x[MAX_TERMS]; /* solution */
} lsq;

static void lsq_add(lsq *q, const double *row, double y)
{
    for (int i = 0; i < q->terms; i++) {
        for (int k = 0; k < q->terms; k++)
            q->a[i][k] += row[i] * row[k];
        q->b[i] += row[i] * y;
    }
    q->yy += y * y;
    q->points++;
}

/* False when the points do not determine the terms. */
static bool lsq_solve(lsq *q)
{
    double l[MAX_TERMS][MAX_TERMS] = {{0}};
    int n = q->terms;
    if (q->points < n)
        return false;
    for (int i = 0; i < n; i++)
        for (int k = 0; k <= i; k++) {
            double sum = q->a[i][k];
            for (int m = 0; m < k; m++)
                sum -= l[i][m] * l[k][m];
            if (i == k) {
                if (!(sum > 1e-10 * q->a[i][i]))
                    return false;
                l[i][i] = sqrt(sum);
            } else {
                l[i][k] = sum / l[k][k];
            }
        }
    for (int i = 0; i < n; i++) {
        q->x[i] = q->b[i];
        for (int k = 0; k < i; k++)
            q->x[i] -= l[i][k] * q->x[k];
        q->x[i] /= l[i][i];
    }
    for (int i = n - 1; i >= 0; i--) {
        for (int k = i + 1; k < n; k++)
            q->x[i] -= l[k][i] * q->x[k];
        q->x[i] /= l[i][i];
    }
    return true;
}

static double lsq_error(const lsq *q)
{
    double e = q->yy;
    for (int i = 0; i < q->terms; i++)
        e -= q->b[i] * q->x[i];
    return fmax(e, 0);
}

/* Polynomial of `degree` through v[from..to) at times k/fps; c[0] + c[1] t + c[2] t^2. */
static bool poly(const double *v, int from, int to, double fps, int degree, double c[3],
                 double *error)
{
    lsq q = {.terms = degree + 1};
    for (int k = from; k < to; k++) {
        double t = k / fps;
        if (!isnan(v[k]))
            lsq_add(&q, (double[3]){1, t, t * t}, v[k]);
    }
    if (!lsq_solve(&q))
        return false;
    for (int i = 0; i < 3; i++)
        c[i] = i <= degree ? q.x[i] : 0;
    if (error)
        *error = lsq_error(&q);
    return true;
}

static int found(const kin_track *t)
{
    int n = 0;
    for (int k = 0; k < t->frames; k++)
        n += !isnan(t->x[k]);
    return n;
}

static void fit_line(const kin_track *t, double fps, kin_motion *m)
{
    double cx[3], cy[3];
    if (found(t) >= 3 && poly(t->x, 0, t->frames, fps, 1, cx, NULL) &&
        poly(t->y, 0, t->frames, fps, 1, cy, NULL)) {
        m->vx = cx[1];
        m->vy = cy[1];
    }
}

/* Constant acceleration; velocity at time `at`. */
static void fit_parabola(const kin_track *t, double fps, double at, kin_motion *m)
{
    double cx[3], cy[3];
    if (found(t) >= 5 && poly(t->x, 0, t->frames, fps, 2, cx, NULL) &&
        poly(t->y, 0, t->frames, fps, 2, cy, NULL)) {
        m->ax = 2 * cx[2];
        m->ay = 2 * cy[2];
        m->vx = cx[1] + m->ax * at;
        m->vy = cy[1] + m->ay * at;
    }
}

/* First lowest point on the screen (largest y) after which the path rises by `step`, or the last
 * frame; -1: no path. */
static int lowest(const double *y, int n, double step)
{
    int best = -1;
    for (int k = 0; k < n; k++) {
        if (isnan(y[k]))
            continue;
        if (best < 0 || y[k] > y[best])
            best = k;
        else if (y[best] - y[k] > step)
            break;
    }
    return best;
}

/* Two parabolas of one acceleration: frames [0,k1) and [k1,k2). x: c0, v0, c1, v1, a/2. */
static bool two_parabolas(const double *y, int k1, int k2, double fps, lsq *q)
{
    *q = (lsq){.terms = 5};
    int left = 0, right = 0;
    for (int k = 0; k < k2; k++) {
        double t = k / fps;
        if (isnan(y[k]))
            continue;
        left += k < k1;
        right += k >= k1;
        lsq_add(q, k < k1 ? (double[5]){1, t, 0, 0, t * t} : (double[5]){0, 0, 1, t, t * t}, y[k]);
    }
    return left >= 3 && right >= 2 && lsq_solve(q);
}

/* Where the rise after `low` ends: the frame after the next low point begins, or n. */
static int second_low(const double *y, int low, int n)
{
    int top = low;
    for (int k = low; k < n; k++)
        if (!isnan(y[k]) && y[k] < y[top])
            top = k;
        else if (!isnan(y[k]) && y[k] > y[top] + 0.6 * (y[low] - y[top]))
            break;
    double peak = y[top];
    for (int k = top + 1; k < n; k++)
        if (!isnan(y[k]) && k + 1 < n && y[k + 1] < y[k] && y[k] - peak > 0.3 * (y[low] - peak))
            return k;
    return n;
}

static void fit_bounce(const kin_track *t, double fps, double s, kin_motion *m)
{
    int low = lowest(t->y, t->frames, s), n = t->frames;
    lsq q, best = {0};
    double best_error = INFINITY;
    if (low < 2 || low + 1 >= n)
        return;
    int end = second_low(t->y, low, n);
    for (int k1 = low; k1 <= low + 1; k1++)
        for (int k2 = end; k2 >= end - 1 && k2 > k1 + 1; k2--)
            if (two_parabolas(t->y, k1, k2, fps, &q)) {
                double error = lsq_error(&q) / fmax(q.points - 5, 0.5);
                if (error < best_error) {
                    best_error = error;
                    best = q;
                }
            }
    double dv = best.x[3] - best.x[1];
    if (!isfinite(best_error) || fabs(dv) < 1e-9)
        return;
    double at = (best.x[0] - best.x[2]) / dv, a = 2 * best.x[4];
    double before = best.x[1] + a * at, after = best.x[3] + a * at;
    m->ax = 0;
    m->ay = a;
    m->vx = 0;
    m->vy = before;
    m->event = at;
    if (before > 0)
        m->restitution = -after / before;
}

/* Fall onto a floor that keeps the object: parabola up to the landing, a level after it. */
static void fit_drop(const kin_track *t, double fps, double s, kin_motion *m)
{
    int n = t->frames, low = lowest(t->y, n, s);
    if (low < 3)
        return;
    double rest = t->y[low], c[3];
    int falling = 0;
    while (falling < n && (isnan(t->y[falling]) || t->y[falling] < rest - 0.15 * s))
        falling++;
    if (falling < 4 || !poly(t->y, 0, falling, fps, 2, c, NULL))
        return;
    double a = 2 * c[2], inside = c[1] * c[1] - 2 * a * (c[0] - rest), top = rest;
    m->ax = 0;
    m->ay = a;
    if (inside <= 0)
        return;
    m->vx = 0;
    m->vy = sqrt(inside);
    m->event = a != 0 ? (m->vy - c[1]) / a : NAN;
    for (int k = low; k < n; k++)
        if (!isnan(t->y[k]))
            top = fmin(top, t->y[k]);
    double fall = rest - c[0], rise = rest - top;
    m->restitution = fall > 0 && rise > 0.3 * s ? sqrt(rise / fall) : 0;
}

/* Residual of a harmonic of angular frequency w along one axis; amplitude in *size. */
static double harmonic(const double *v, int n, double fps, double w, double *size)
{
    lsq q = {.terms = 3};
    for (int k = 0; k < n; k++)
        if (!isnan(v[k]))
            lsq_add(&q, (double[3]){1, cos(w * k / fps), sin(w * k / fps)}, v[k]);
    if (q.points < 5 || !lsq_solve(&q))
        return INFINITY;
    *size = hypot(q.x[1], q.x[2]);
    return lsq_error(&q);
}

static void fit_spring(const kin_asked *asked, const kin_track *t, double fps, double s,
                       kin_motion *m)
{
    int axis = fabs(asked->direction[1]) > fabs(asked->direction[0]), n = t->frames;
    const double *v = axis ? t->y : t->x;
    double span = n / fps, lo = M_PI / span, hi = 0.9 * M_PI * fps, best = 0, error = INFINITY;
    double step = (hi - lo) / 400, size = 0, e;
    for (int k = 0; k <= 400; k++)
        if ((e = harmonic(v, n, fps, lo + k * step, &size)) < error) {
            error = e;
            best = lo + k * step;
        }
    if (best == 0)
        return;
    for (double width = step; width > 1e-7 * best; width *= 0.7)
        for (int side = -1; side <= 1; side += 2)
            if ((e = harmonic(v, n, fps, best + side * width, &size)) < error) {
                error = e;
                best += side * width;
            }
    harmonic(v, n, fps, best, &size);
    if (size < 0.5 * s || size > 100 * s)
        return;
    m->period = 2 * M_PI / best;
    m->vx = axis ? 0 : size * best;
    m->vy = axis ? size * best : 0;
}

static void fit_collision(const kin_track *a, const kin_track *b, double fps, kin_motion *m)
{
    double best = INFINITY, pre[3] = {0}, post[3] = {0}, second[3] = {0};
    int n = a->frames, at = 0;
    for (int k = 3; k + 3 <= n; k++) {
        double c0[3], c1[3], c2[3], c3[3], e[4];
        if (!poly(a->x, 0, k, fps, 1, c0, &e[0]) || !poly(a->x, k, n, fps, 1, c1, &e[1]) ||
            !poly(b->x, 0, k, fps, 0, c2, &e[2]) || !poly(b->x, k, n, fps, 1, c3, &e[3]))
            continue;
        double error = e[0] + e[1] + e[2] + e[3];
        if (error < best) {
            best = error;
            at = k;
            memcpy(pre, c0, sizeof pre);
            memcpy(post, c1, sizeof post);
            memcpy(second, c3, sizeof second);
        }
    }
    double cy[3];
    if (!isfinite(best) || !poly(a->y, 0, at, fps, 1, cy, NULL))
        return;
    m->vx = pre[1];
    m->vy = cy[1];
    m->v2x = second[1];
    m->v2y = 0;
    if (pre[1] != 0)
        m->restitution = (second[1] - post[1]) / pre[1];
    if (fabs(pre[1] - post[1]) > 1e-9)
        m->event = (post[0] - pre[0]) / (pre[1] - post[1]);
}

/* Comes up again by a tenth of the way down. */
static bool rebounds(const kin_track *t, double s)
{
    int low = lowest(t->y, t->frames, s), first = -1;
    double rise = 0;
    for (int k = 0; k < t->frames; k++) {
        if (isnan(t->y[k]))
            continue;
        first = first < 0 ? k : first;
        if (k > low)
            rise = fmax(rise, t->y[low] - t->y[k]);
    }
    return low > first && first >= 0 && t->y[low] - t->y[first] >= 2 * s &&
           rise >= fmax(0.1 * (t->y[low] - t->y[first]), 0.5 * s);
}

static bool is_kind(const kin_asked *asked, const char *name)
{
    const char *kind = kin_sim_kind_name(asked->kind);
    return kind && strcmp(kind, name) == 0;
}

/* A length that counts as motion when nothing else is known: the size of the object against the
 * frame is 1/6. */
static double unit_of(const kin_asked *asked)
{
    double r = asked->objects > 0 ? asked->object[0].radius_max : 6;
    return fmax(r / 7, 0.2);
}

void kin_track_fit(const kin_asked *asked, const kin_track *track, const kin_track *second,
                   kin_motion *out)
{
    double fps = asked->fps, s = unit_of(asked);
    *out = (kin_motion){NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN};
    if (is_kind(asked, "throw"))
        fit_parabola(track, fps, 0, out);
    else if (is_kind(asked, "incline"))
        fit_parabola(track, fps, (track->frames - 1) / fps, out);
    else if (is_kind(asked, "bounce") && rebounds(track, s))
        fit_bounce(track, fps, s, out);
    else if (is_kind(asked, "drop") || is_kind(asked, "bounce"))
        fit_drop(track, fps, s, out);
    else if (is_kind(asked, "spring"))
        fit_spring(asked, track, fps, s, out);
    else if (is_kind(asked, "collision") && second)
        fit_collision(track, second, fps, out);
    else
        fit_line(track, fps, out);
}

/* ---- verdict ---- */

static double relative(double fit, double asked)
{
    if (isnan(asked) || asked == 0)
        return NAN;
    return isnan(fit) ? 1 : fabs(fit - asked) / fabs(asked);
}

static double relative2(double fx, double fy, double ax, double ay)
{
    if (isnan(ax) || isnan(ay) || hypot(ax, ay) == 0)
        return NAN;
    return isnan(fx) || isnan(fy) ? 1 : hypot(fx - ax, fy - ay) / hypot(ax, ay);
}

/* Largest displacement from the first found place, up to the frame where the way along d is
 * longest. */
static void farthest(const kin_track *t, const double d[2], double *dx, double *dy)
{
    int first = -1;
    double best = -INFINITY;
    *dx = *dy = 0;
    for (int k = 0; k < t->frames; k++) {
        if (isnan(t->x[k]))
            continue;
        first = first < 0 ? k : first;
        double x = t->x[k] - t->x[first], y = t->y[k] - t->y[first];
        if (x * d[0] + y * d[1] > best) {
            best = x * d[0] + y * d[1];
            *dx = x;
            *dy = y;
        }
    }
}

/* How far the asked motion goes along its direction, NAN if unknown. */
static double asked_path(const kin_asked *a, int frames)
{
    double time = (frames - 1) / a->fps, v = hypot(a->motion.vx, a->motion.vy);
    if (is_kind(a, "throw"))
        return fabs(a->motion.vx) * time;
    if (is_kind(a, "incline"))
        return hypot(a->motion.ax, a->motion.ay) * time * time / 2;
    if (is_kind(a, "drop") || is_kind(a, "bounce"))
        return v * v / (2 * a->motion.ay);
    if (is_kind(a, "collision"))
        return v * (isnan(a->motion.event) ? 0.4 * time : a->motion.event);
    return v * time;
}

static bool swings(const kin_asked *a, const kin_track *t, const kin_motion *fit)
{
    double lo[2] = {INFINITY, INFINITY}, hi[2] = {-INFINITY, -INFINITY};
    int axis = fabs(a->direction[1]) > fabs(a->direction[0]);
    for (int k = 0; k < t->frames; k++)
        if (!isnan(t->x[k])) {
            lo[0] = fmin(lo[0], t->x[k]), hi[0] = fmax(hi[0], t->x[k]);
            lo[1] = fmin(lo[1], t->y[k]), hi[1] = fmax(hi[1], t->y[k]);
        }
    double along = hi[axis] - lo[axis], aside = hi[1 - axis] - lo[1 - axis];
    double want = hypot(a->motion.vx, a->motion.vy) * a->motion.period / M_PI;
    return !isnan(fit->period) && along > aside &&
           along >= (isnan(want) ? 2 * unit_of(a) : 0.25 * want);
}

static bool goes(const kin_asked *a, const kin_track *t, const kin_motion *fit)
{
    double dx, dy, d[2] = {a->direction[0], a->direction[1]}, norm = hypot(d[0], d[1]);
    if (is_kind(a, "spring"))
        return swings(a, t, fit);
    if (!(norm > 0))
        return false;
    farthest(t, d, &dx, &dy);
    if (is_kind(a, "throw"))
        dy = 0; /* only the way sideways is asked */
    double along = (dx * d[0] + dy * d[1]) / norm, path = asked_path(a, t->frames);
    return along >= (isnan(path) ? 2 * unit_of(a) : 0.25 * path) &&
           along >= M_SQRT1_2 * hypot(dx, dy);
}

static void judge(const kin_asked *a, const kin_track *t, const kin_track *second, kin_verdict *v)
{
    kin_track_fit(a, t, second, &v->fit);
    const kin_motion *m = &a->motion, *f = &v->fit;
    v->direction = goes(a, t, f);
    v->bounced = is_kind(a, "bounce") && rebounds(t, unit_of(a));
    v->velocity_error = relative2(f->vx, f->vy, m->vx, m->vy);
    v->acceleration_error = relative2(f->ax, f->ay, m->ax, m->ay);
    v->period_error = relative(f->period, m->period);
    v->restitution_error = isnan(m->restitution)   ? NAN
                           : isnan(f->restitution) ? 1
                                                   : fabs(f->restitution - m->restitution);
}

kin_status kin_judge_clip(const uint8_t *frames, int F, int H, int W, const kin_asked *asked,
                          kin_verdict *out, kin_error *err)
{
    kin_track t[KIN_SIM_MAX_OBJECTS] = {{0}};
    kin_status status = KIN_OK;
    memset(out, 0, sizeof *out);
    if (asked->objects < 1 || asked->objects > KIN_SIM_MAX_OBJECTS || !(asked->fps > 0))
        return kin_fail(err, KIN_ERR_ARG, "judge: %d objects at %g frames/s cannot be judged",
                        asked->objects, asked->fps);
    out->colour = out->intact = true;
    for (int i = 0; i < asked->objects && status == KIN_OK; i++) {
        status = kin_track_object(frames, F, H, W, asked, i, &t[i], err);
        out->colour &= t[i].colour;
        out->intact &= t[i].intact;
    }
    if (status == KIN_OK)
        judge(asked, &t[0], asked->objects > 1 ? &t[1] : NULL, out);
    for (int i = 0; i < asked->objects; i++)
        kin_track_free(&t[i]);
    return status;
}
