#include "physics/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

struct kin_evaluation {
    struct row {
        int kind;
        kin_verdict verdict;
    } * rows;
    size_t count, cap;
};

kin_status kin_evaluation_create(kin_evaluation **out, kin_error *err)
{
    *out = kin_calloc(1, sizeof **out);
    return *out ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "evaluate: a table");
}

void kin_evaluation_destroy(kin_evaluation *e)
{
    if (!e)
        return;
    kin_free(e->rows);
    kin_free(e);
}

kin_status kin_evaluation_add_verdict(kin_evaluation *e, int kind, const kin_verdict *verdict,
                                      kin_error *err)
{
    if (e->count == e->cap) {
        size_t cap, bytes;
        if (!kin_mul_size(e->cap ? e->cap : 32, 2, &cap) ||
            !kin_mul_size(cap, sizeof *e->rows, &bytes))
            return kin_fail(err, KIN_ERR_MEM, "evaluate: %zu verdicts", e->count);
        struct row *rows = kin_realloc(e->rows, bytes);
        if (!rows)
            return kin_fail(err, KIN_ERR_MEM, "evaluate: %zu verdicts", cap);
        e->rows = rows;
        e->cap = cap;
    }
    e->rows[e->count++] = (struct row){kind, *verdict};
    return KIN_OK;
}

kin_status kin_evaluation_add(kin_evaluation *e, const uint8_t *frames, int F, int H, int W,
                              const kin_asked *asked, kin_verdict *verdict, kin_error *err)
{
    kin_verdict v = {0};
    KIN_TRY(kin_judge_clip(frames, F, H, W, asked, &v, err));
    if (verdict)
        *verdict = v;
    return kin_evaluation_add_verdict(e, asked->kind, &v, err);
}

typedef double measure(const kin_verdict *v);

static double m_colour(const kin_verdict *v)
{
    return v->colour;
}

static double m_intact(const kin_verdict *v)
{
    return v->intact;
}

static double m_direction(const kin_verdict *v)
{
    return v->direction;
}

static double m_bounced(const kin_verdict *v)
{
    return v->bounced;
}

static double m_velocity(const kin_verdict *v)
{
    return v->velocity_error;
}

static double m_acceleration(const kin_verdict *v)
{
    return v->acceleration_error;
}

static double m_restitution(const kin_verdict *v)
{
    return v->restitution_error;
}

static double m_period(const kin_verdict *v)
{
    return v->period_error;
}

/* Share of a yes-no measure over the clips of a kind (-1: all); NAN when there is none. */
static double share(const kin_evaluation *e, int kind, measure *m)
{
    double sum = 0, n = 0;
    for (size_t i = 0; i < e->count; i++)
        if (kind < 0 || e->rows[i].kind == kind) {
            sum += m(&e->rows[i].verdict);
            n++;
        }
    return n > 0 ? sum / n : NAN;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median over the clips of a kind (-1: all) that have the measure; NAN when there is none. */
static kin_status median(const kin_evaluation *e, int kind, measure *m, double *out, kin_error *err)
{
    size_t n = 0;
    double *v = kin_calloc(e->count + 1, sizeof *v);
    if (!v)
        return kin_fail(err, KIN_ERR_MEM, "evaluate: %zu values", e->count);
    for (size_t i = 0; i < e->count; i++)
        if ((kind < 0 || e->rows[i].kind == kind) && !isnan(m(&e->rows[i].verdict)))
            v[n++] = m(&e->rows[i].verdict);
    qsort(v, n, sizeof *v, ascending);
    *out = n == 0 ? NAN : n % 2 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
    kin_free(v);
    return KIN_OK;
}

double kin_evaluation_colour_share(const kin_evaluation *e)
{
    return e->count ? share(e, -1, m_colour) : 0;
}

double kin_evaluation_intact_share(const kin_evaluation *e)
{
    return e->count ? share(e, -1, m_intact) : 0;
}

static bool put(cJSON *o, const char *key, double v)
{
    return isnan(v) ? cJSON_AddNullToObject(o, key) != NULL
                    : cJSON_AddNumberToObject(o, key, v) != NULL;
}

static kin_status block(const kin_evaluation *e, int kind, cJSON *o, kin_error *err)
{
    static const struct {
        const char *key;
        measure *m;
    } shares[] = {{"colour_share", m_colour},
                  {"intact_share", m_intact},
                  {"direction_share", m_direction}},
      medians[] = {{"velocity_error_median", m_velocity},
                   {"acceleration_error_median", m_acceleration},
                   {"restitution_error_median", m_restitution},
                   {"period_error_median", m_period}};
    int clips = 0;
    for (size_t i = 0; i < e->count; i++)
        clips += kind < 0 || e->rows[i].kind == kind;
    bool ok = cJSON_AddNumberToObject(o, "clips", clips);
    for (size_t k = 0; ok && k < sizeof shares / sizeof *shares; k++)
        ok = put(o, shares[k].key, share(e, kind, shares[k].m));
    for (size_t k = 0; ok && k < sizeof medians / sizeof *medians; k++) {
        double v = NAN;
        KIN_TRY(median(e, kind, medians[k].m, &v, err));
        ok = put(o, medians[k].key, v);
    }
    int bounce = kin_sim_kind_find("bounce");
    ok = ok &&
         put(o, "bounce_share", kind < 0 || kind == bounce ? share(e, bounce, m_bounced) : NAN);
    return ok ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "evaluate: a report");
}

kin_status kin_evaluation_report(const kin_evaluation *e, cJSON **out, kin_error *err)
{
    cJSON *root = cJSON_CreateObject(), *total, *kinds;
    kin_status status = KIN_OK;
    bool ok = cJSON_AddNumberToObject(root, "clips", (double)e->count);
    total = cJSON_AddObjectToObject(root, "total");
    kinds = cJSON_AddObjectToObject(root, "kinds");
    if (!ok || !total || !kinds) {
        cJSON_Delete(root);
        return kin_fail(err, KIN_ERR_MEM, "evaluate: a report");
    }
    status = block(e, -1, total, err);
    for (int k = 0; k < kin_sim_kind_count() && status == KIN_OK; k++) {
        if (isnan(share(e, k, m_colour)))
            continue;
        cJSON *o = cJSON_AddObjectToObject(kinds, kin_sim_kind_name(k));
        status = o ? block(e, k, o, err) : kin_fail(err, KIN_ERR_MEM, "evaluate: a report");
    }
    if (status != KIN_OK)
        cJSON_Delete(root);
    else
        *out = root;
    return status;
}
