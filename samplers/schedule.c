#include "samplers/schedule.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "samplers/betas.h"

void kin_schedule_free(kin_schedule *s)
{
    kin_free(s->sigma);
    kin_free(s->t);
    kin_free(s->ab);
    kin_free(s->table);
    *s = (kin_schedule){0};
}

/* --- a schedule in the making: doubles, rounded at the end --- */

typedef struct plan {
    const kin_scheduler *cfg;
    const kin_schedule_request *request;
    kin_schedule *out;
    kin_error *err;
    int n;         /* steps asked for */
    int calls;     /* model calls */
    int sigmas;    /* entries of sigma */
    double *t;     /* [room] */
    double *sigma; /* [room] */
} plan;

static kin_status fail_steps(int n, kin_error *err)
{
    return kin_fail(err, KIN_ERR_ARG, "schedule: %d steps must be 1 to %d", n,
                    (int)KIN_SCHEDULE_MAX_STEPS);
}

/* room for n steps: Heun calls the model 2n-1 times, trailing spacing may round to one more */
static kin_status plan_open(plan *p)
{
    if (p->n < 1 || p->n > KIN_SCHEDULE_MAX_STEPS)
        return fail_steps(p->n, p->err);
    const size_t room = 2 * (size_t)p->n + 3;
    p->calls = p->n;
    p->t = kin_calloc(room, sizeof *p->t);
    p->sigma = kin_calloc(room, sizeof *p->sigma);
    if (p->t && p->sigma)
        return KIN_OK;
    return kin_fail(p->err, KIN_ERR_MEM, "schedule: no memory for %d steps", p->n);
}

/* Moves what was planned into the schedule, in f32; the plan is freed in any case. */
static kin_status plan_close(plan *p, kin_status status)
{
    kin_schedule *out = p->out;
    if (status == KIN_OK) {
        out->cfg = *p->cfg;
        out->n = p->calls;
        out->sigmas = p->sigmas;
        out->t = kin_malloc((size_t)p->calls * sizeof *out->t);
        out->sigma = kin_malloc((size_t)p->sigmas * sizeof *out->sigma);
        if (!out->t || !out->sigma)
            status = kin_fail(p->err, KIN_ERR_MEM, "schedule: no memory for %d steps", p->calls);
    }
    if (status == KIN_OK) {
        for (int i = 0; i < p->calls; i++)
            out->t[i] = (float)p->t[i];
        for (int i = 0; i < p->sigmas; i++)
            out->sigma[i] = (float)p->sigma[i];
    } else {
        kin_schedule_free(out);
    }
    kin_free(p->t);
    kin_free(p->sigma);
    return status;
}

/* The i-th of n evenly spaced values from a to b. */
static double linspace(double a, double b, int n, int i)
{
    if (n == 1)
        return a;
    return i == n - 1 ? b : a + (b - a) / (double)(n - 1) * (double)i;
}

static const char *class_text(const plan *p)
{
    return kin_scheduler_name(p->cfg->class);
}

/* Steps of the request; which of sigmas and timesteps a class takes. */
static kin_status request_steps(plan *p, bool sigmas, bool timesteps, int sigma_ends)
{
    const kin_schedule_request *r = p->request;
    const int given = r->sigmas ? r->n_sigmas - sigma_ends : r->timesteps ? r->n_timesteps : 0;
    if ((r->sigmas && !sigmas) || (r->timesteps && !timesteps) ||
        (r->has_mu && !p->cfg->dynamic_shift))
        return kin_fail(p->err, KIN_ERR_ARG, "schedule: %s takes no %s here", class_text(p),
                        r->has_mu && !p->cfg->dynamic_shift ? "mu"
                        : r->sigmas && !sigmas              ? "sigmas"
                                                            : "timesteps");
    if (p->cfg->dynamic_shift && !r->has_mu)
        return kin_fail(p->err, KIN_ERR_ARG, "schedule: use_dynamic_shifting needs mu");
    p->n = r->steps ? r->steps : given;
    if ((given && given != p->n) || (r->sigmas && r->timesteps && r->n_timesteps != p->n))
        return kin_fail(p->err, KIN_ERR_ARG,
                        "schedule: %d given levels and times must be as many as the %d steps",
                        given, p->n);
    return plan_open(p);
}

/* --- times of classes with betas --- */

/* numpy's arange(T, 0, -T/n), which may have one element too many */
static int trailing_times(plan *p, int last)
{
    const double step = (double)p->cfg->train_steps / p->n;
    const double delta = ((double)last - step) - (double)last;
    const int count = (int)ceil((0.0 - (double)last) / -step);
    for (int i = 0; i < count; i++)
        p->t[i] = rint((double)last + i * delta) - 1.0;
    return count;
}

/* Evenly spaced times below `last`; apart: one time more is spaced and the 0 dropped (DPM, UniPC);
 * whole: rounded to whole times. */
static kin_status spaced_times(plan *p, int last, bool apart, bool whole)
{
    const kin_scheduler *c = p->cfg;
    const int points = p->n + (apart ? 1 : 0), ratio = last / points;
    if (p->n > c->train_steps)
        return kin_fail(p->err, KIN_ERR_ARG,
                        "schedule: %d steps must be at most the %d of training", p->n,
                        c->train_steps);
    if (c->spacing == KIN_TIME_TRAILING) {
        p->calls = trailing_times(p, last);
        return KIN_OK;
    }
    for (int i = 0; i < p->n; i++) {
        const int k = points - 1 - i;
        const double even = linspace(0.0, last - 1, points, k);
        if (c->spacing == KIN_TIME_LINSPACE)
            p->t[i] = whole ? rint(even) : (double)(float)even;
        else
            p->t[i] = (double)((int64_t)k * ratio + c->steps_offset);
        if (p->t[i] >= c->train_steps)
            return kin_fail(p->err, KIN_ERR_ARG,
                            "schedule: time %g (steps_offset %d) must be below %d", p->t[i],
                            c->steps_offset, c->train_steps);
    }
    return KIN_OK;
}

static kin_status given_times(plan *p)
{
    for (int i = 0; i < p->n; i++) {
        p->t[i] = p->request->timesteps[i];
        if (!(p->t[i] >= 0 && p->t[i] < p->cfg->train_steps) || (i && !(p->t[i] < p->t[i - 1])))
            return kin_fail(p->err, KIN_ERR_ARG,
                            "schedule: given times must descend from below %d to 0",
                            p->cfg->train_steps);
    }
    return KIN_OK;
}

/* --- DDPM, DDIM, CogVideoX: by alphas_cumprod --- */

static double table_at(const kin_schedule *s, double t)
{
    return s->table[(int)t];
}

/* ab and ab_prev of the calls; sigma for information */
static kin_status fill_alphas(plan *p)
{
    kin_schedule *out = p->out;
    const kin_scheduler *c = p->cfg;
    const size_t n = (size_t)p->calls;
    const double final = c->class == KIN_SCHEDULER_DDPM || c->alpha_to_one ? 1.0 : out->table[0];
    out->ab = kin_malloc(2 * n * sizeof *out->ab);
    if (!out->ab)
        return kin_fail(p->err, KIN_ERR_MEM, "schedule: no memory for %d steps", p->calls);
    out->ab_prev = out->ab + n;
    for (int i = 0; i < p->calls; i++) {
        double before = p->t[i] - c->train_steps / p->n;
        if (c->class == KIN_SCHEDULER_DDPM || p->request->respacing)
            before = i + 1 < p->calls ? p->t[i + 1] : -1.0;
        /* note: a time of -1 (trailing, some counts) is listed but cannot be run */
        out->ab[i] = p->t[i] < 0 ? 1.0 : table_at(out, p->t[i]);
        out->ab_prev[i] = before < 0 ? final : table_at(out, before);
        p->sigma[i] = sqrt(1.0 - out->ab[i]);
    }
    p->sigma[p->calls] = sqrt(1.0 - out->ab_prev[p->calls - 1]);
    p->sigmas = p->calls + 1;
    return KIN_OK;
}

/* the times of ADM's kept steps, and the table in f64 */
static kin_status respaced_times(plan *p)
{
    const kin_scheduler *c = p->cfg;
    const int T = c->train_steps;
    double *beta = kin_malloc((size_t)T * sizeof *beta), product = 1.0;
    int *kept = kin_malloc((size_t)T * sizeof *kept);
    kin_status status = KIN_OK;
    if (!beta || !kept)
        KIN_GOTO(kin_fail(p->err, KIN_ERR_MEM, "schedule: no memory for %d steps", T));
    KIN_GOTO(kin_respacing_parse(p->request->respacing, T, kept, &p->n, p->err));
    if (p->request->steps && p->request->steps != p->n)
        KIN_GOTO(kin_fail(p->err, KIN_ERR_ARG, "schedule: respacing \"%s\" keeps %d steps, not %d",
                          p->request->respacing, p->n, p->request->steps));
    KIN_GOTO(plan_open(p));
    for (int i = 0; i < p->n; i++)
        p->t[i] = kept[p->n - 1 - i];
    if (!c->trained_betas && !c->zero_snr &&
        kin_betas_exact(c->beta_schedule, T, c->beta_start, c->beta_end, beta, NULL) == KIN_OK)
        for (int i = 0; i < T; i++)
            p->out->table[i] = product *= 1.0 - beta[i];
    p->out->respaced = true;
done:
    kin_free(beta);
    kin_free(kept);
    return status;
}

static kin_status make_alphas(plan *p)
{
    const kin_scheduler *c = p->cfg;
    const bool ddpm = c->class == KIN_SCHEDULER_DDPM;
    KIN_TRY(kin_alphas_cumprod(c, NULL, &p->out->table, p->err));
    if (p->request->respacing) {
        KIN_TRY(respaced_times(p));
    } else {
        KIN_TRY(request_steps(p, false, ddpm, 0));
        KIN_TRY(p->request->timesteps ? given_times(p)
                                      : spaced_times(p, c->train_steps, false, true));
    }
    p->out->init_sigma = 1.0;
    return fill_alphas(p);
}

/* --- Euler, Euler ancestral, Heun: sigma = sqrt((1-ab)/ab) --- */

/* the table's sigma between its whole times */
static double sigma_at(const plan *p, double t)
{
    const double *table = p->out->table;
    const int T = p->cfg->train_steps, low = t < 0 ? 0 : (int)t;
    if (t <= 0 || low >= T - 1)
        return kin_sigma_of(table[low >= T - 1 ? T - 1 : 0]);
    const double a = kin_sigma_of(table[low]), b = kin_sigma_of(table[low + 1]);
    return a + (b - a) * (t - low);
}

static void curve_ends(const plan *p, double high, double low, double *first, double *last)
{
    *first = isnan(p->cfg->sigma_max) ? high : p->cfg->sigma_max;
    *last = isnan(p->cfg->sigma_min) ? low : p->cfg->sigma_min;
}

/* sigmas[0..n) of a curve between the first and the last of what is there, with their times */
static void apply_curve(plan *p, int points)
{
    const kin_scheduler *c = p->cfg;
    double first, last;
    curve_ends(p, p->sigma[0], p->sigma[points - 1], &first, &last);
    kin_sigma_curve_fill(c->curve, first, last, p->n, p->sigma);
    for (int i = 0; i < p->n; i++)
        p->t[i] = kin_sigma_to_time(p->out->table, c->train_steps, p->sigma[i]);
}

static void set_init_sigma(plan *p)
{
    double most = 0.0;
    for (int i = 0; i < p->sigmas; i++)
        most = fmax(most, (double)(float)p->sigma[i]);
    p->out->init_sigma = p->cfg->spacing == KIN_TIME_LEADING ? sqrt(most * most + 1.0) : most;
}

static void given_sigmas(plan *p)
{
    for (int i = 0; i <= p->n; i++) {
        p->sigma[i] = (double)(float)p->request->sigmas[i];
        if (i < p->n)
            p->t[i] = kin_sigma_to_time(p->out->table, p->cfg->train_steps, p->sigma[i]);
    }
    p->sigmas = p->n + 1;
}

static kin_status ve_sigmas(plan *p)
{
    const kin_scheduler *c = p->cfg;
    const int T = c->train_steps;
    int points;
    if (c->curve != KIN_CURVE_NONE && p->request->timesteps)
        return kin_fail(p->err, KIN_ERR_ARG, "schedule: given times exclude a curve of sigmas");
    KIN_TRY(p->request->timesteps ? given_times(p) : spaced_times(p, T, false, false));
    p->n = points = p->calls;
    for (int i = 0; i < p->n; i++)
        p->sigma[i] = sigma_at(p, p->t[i]);
    if (c->log_linear) {
        const double high = log(kin_sigma_of(p->out->table[T - 1]));
        const double low = log(kin_sigma_of(p->out->table[0]));
        for (points = 0; points <= p->n; points++)
            p->sigma[points] = exp(linspace(high, low, p->n + 1, points));
    }
    if (c->curve != KIN_CURVE_NONE) {
        apply_curve(p, points);
        points = p->n;
    }
    p->sigma[points] = c->final_sigma_min ? kin_sigma_of(p->out->table[0]) : 0.0;
    p->sigmas = points + 1;
    return KIN_OK;
}

/* every level but the first and the last twice, in place */
static void repeat_for_heun(plan *p)
{
    const double end = p->sigma[p->n];
    p->calls = 2 * p->n - 1;
    p->sigmas = p->calls + 1;
    p->sigma[p->calls] = end;
    for (int i = p->calls - 1; i > 0; i--) {
        p->sigma[i] = p->sigma[(i + 1) / 2];
        p->t[i] = p->t[(i + 1) / 2];
    }
}

static kin_status make_ve(plan *p)
{
    const kin_scheduler *c = p->cfg;
    KIN_TRY(kin_alphas_cumprod(c, NULL, &p->out->table, p->err));
    KIN_TRY(request_steps(p, c->class == KIN_SCHEDULER_EULER,
                          c->class != KIN_SCHEDULER_EULER_ANCESTRAL, 1));
    if (p->request->sigmas)
        given_sigmas(p);
    else
        KIN_TRY(ve_sigmas(p));
    set_init_sigma(p);
    if (c->continuous && c->prediction == KIN_PREDICT_V)
        for (int i = 0; i < p->calls; i++)
            p->t[i] = 0.25 * log((double)(float)p->sigma[i]);
    if (c->class == KIN_SCHEDULER_HEUN)
        repeat_for_heun(p);
    return KIN_OK;
}

/* --- DPMSolver and UniPC --- */

static double dynamic_shift(const plan *p, double u)
{
    const double m = p->cfg->shift_linear ? p->request->mu : exp(p->request->mu);
    return m / (m + (1.0 / u - 1.0));
}

/* the last level, 1, stretched so that it ends at shift_terminal */
static void stretch(const plan *p, int n)
{
    const double scale = (1.0 - p->sigma[n - 1]) / (1.0 - p->cfg->shift_terminal);
    for (int i = 0; i < n; i++)
        p->sigma[i] = 1.0 - (1.0 - p->sigma[i]) / scale;
}

static void dpm_flow_sigmas(plan *p)
{
    const kin_scheduler *c = p->cfg;
    const double shift = c->dynamic_shift ? exp(p->request->mu) : c->shift;
    for (int i = 0; i < p->n; i++) {
        const double alpha = linspace(1.0, 1.0 / c->train_steps, p->n + 1, p->n - i);
        p->sigma[i] = kin_flow_shift(shift, 1.0 - alpha);
        p->t[i] = trunc(p->sigma[i] * c->train_steps);
    }
}

static void unipc_flow_sigmas(plan *p)
{
    const kin_scheduler *c = p->cfg;
    const double eps = 1e-6;
    for (int i = 0; i < p->n; i++) {
        const double u = p->request->sigmas ? p->request->sigmas[i]
                                            : linspace(1.0, 1.0 / c->train_steps, p->n + 1, i);
        p->sigma[i] = c->dynamic_shift ? dynamic_shift(p, u) : kin_flow_shift(c->shift, u);
    }
    if (c->shift_terminal > 0)
        stretch(p, p->n);
    /* note: alpha = 1 - sigma must not be 0 */
    if (fabs(p->sigma[0] - 1.0) < eps)
        p->sigma[0] -= eps;
    for (int i = 0; i < p->n; i++)
        p->t[i] = trunc(p->sigma[i] * c->train_steps);
}

/* a curve over the whole table */
static void curve_over_table(plan *p)
{
    const kin_scheduler *c = p->cfg;
    const double *table = p->out->table;
    const int T = c->train_steps;
    const bool unipc = c->class == KIN_SCHEDULER_UNIPC;
    const bool round = c->curve == KIN_CURVE_KARRAS || c->curve == KIN_CURVE_LU;
    double first, last;
    curve_ends(p, kin_sigma_of(table[T - 1]), kin_sigma_of(table[0]), &first, &last);
    kin_sigma_curve_fill(c->curve, first, last, p->n, p->sigma);
    for (int i = 0; i < p->n; i++) {
        if (unipc && c->flow_sigmas && c->curve == KIN_CURVE_KARRAS) {
            p->sigma[i] /= p->sigma[i] + 1.0;
            p->t[i] = trunc(p->sigma[i] * T);
            continue;
        }
        const double t = kin_sigma_to_time(table, T, p->sigma[i]);
        /* note: DPMSolver does not round for the cosine schedule, and then truncates */
        p->t[i] = round && (unipc || c->beta_schedule != KIN_BETA_COSINE) ? rint(t) : trunc(t);
    }
}

/* times that lambda_min_clipped leaves */
static int last_time(const plan *p)
{
    int clipped = 0;
    const double *table = p->out->table;
    while (clipped < p->cfg->train_steps) {
        const double ab = table[p->cfg->train_steps - 1 - clipped];
        if (log(sqrt(ab)) - log(sqrt(1.0 - ab)) >= p->cfg->lambda_min)
            break;
        clipped++;
    }
    return p->cfg->train_steps - clipped;
}

static kin_status dpm_levels(plan *p)
{
    const kin_scheduler *c = p->cfg;
    const bool dpm = c->class == KIN_SCHEDULER_DPM;
    if (c->curve != KIN_CURVE_NONE) {
        if (p->request->timesteps)
            return kin_fail(p->err, KIN_ERR_ARG, "schedule: given times exclude a curve of sigmas");
        curve_over_table(p);
        return KIN_OK;
    }
    if (c->flow_sigmas) {
        (dpm || c->early_sigmas ? dpm_flow_sigmas : unipc_flow_sigmas)(p);
        return KIN_OK;
    }
    const int last = dpm ? last_time(p) : c->train_steps;
    KIN_TRY(p->request->timesteps ? given_times(p) : spaced_times(p, last, true, true));
    p->n = p->calls;
    for (int i = 0; i < p->n; i++)
        p->sigma[i] = sigma_at(p, p->t[i]);
    return KIN_OK;
}

static kin_status make_dpm(plan *p)
{
    const kin_scheduler *c = p->cfg;
    const bool dpm = c->class == KIN_SCHEDULER_DPM;
    KIN_TRY(kin_alphas_cumprod(c, NULL, &p->out->table, p->err));
    KIN_TRY(request_steps(p, !dpm && c->flow_sigmas && c->curve == KIN_CURVE_NONE, dpm, 0));
    KIN_TRY(dpm_levels(p));
    double end = 0.0;
    if (c->final_sigma_min)
        end = !dpm && (c->flow_sigmas || c->curve != KIN_CURVE_NONE)
                  ? p->sigma[p->n - 1]
                  : kin_sigma_of(p->out->table[0]);
    p->sigma[p->n] = end;
    p->sigmas = p->n + 1;
    p->out->init_sigma = 1.0;
    return KIN_OK;
}

/* --- flow matching --- */

double kin_flow_shift(double shift, double u)
{
    return shift * u / (1.0 + (shift - 1.0) * u);
}

/* The training level of step k = 1..num_train_timesteps, in the f32 arithmetic of the official
 * class. */
static float train_sigma(const kin_scheduler *s, int k)
{
    float sigma = (float)k / (float)s->train_steps, shift = (float)s->shift;
    return s->dynamic_shift ? sigma : shift * sigma / (1.0f + (float)(s->shift - 1.0) * sigma);
}

/* Steps 1 and 2 of set_timesteps: the grid, and the shift of each level. */
static void base_sigmas(plan *p)
{
    const kin_scheduler *s = p->cfg;
    const kin_schedule_request *r = p->request;
    double big = (double)train_sigma(s, s->train_steps), small = (double)train_sigma(s, 1);
    for (int i = 0; i < p->n; i++) {
        double u;
        if (r->sigmas)
            u = (double)(float)r->sigmas[i];
        else if (r->timesteps)
            u = (double)(float)r->timesteps[i] / s->train_steps;
        else
            u = linspace(big, small, p->n, i);
        p->sigma[i] = s->dynamic_shift ? dynamic_shift(p, u) : kin_flow_shift(s->shift, u);
    }
}

static kin_status make_flow(plan *p)
{
    const kin_scheduler *s = p->cfg;
    const kin_schedule_request *r = p->request;
    const bool euler = s->class == KIN_SCHEDULER_FLOW_EULER;
    const float train = (float)s->train_steps;
    /* note: given sigmas for Heun are kinema's own addition */
    KIN_TRY(request_steps(p, true, euler, 0));
    base_sigmas(p);
    if (s->shift_terminal > 0)
        stretch(p, p->n);
    if (s->curve != KIN_CURVE_NONE)
        kin_sigma_curve_fill(s->curve, p->sigma[0], p->sigma[p->n - 1], p->n, p->sigma);
    for (int i = 0; i < p->n; i++) {
        float level = (float)p->sigma[i];
        p->t[i] = r->timesteps ? (double)(float)r->timesteps[i] : (double)(level * train);
        if (s->invert_sigmas) {
            level = 1.0f - level;
            /* note: custom times are lost here, as in the official class */
            p->t[i] = (double)(level * train);
        }
        p->sigma[i] = (double)level;
    }
    p->sigma[p->n] = s->invert_sigmas ? 1.0 : 0.0;
    p->sigmas = p->n + 1;
    p->out->init_sigma = 1.0;
    if (s->class == KIN_SCHEDULER_FLOW_HEUN)
        repeat_for_heun(p);
    return KIN_OK;
}

/* --- making --- */

kin_status kin_schedule_make(const kin_scheduler *cfg, const kin_schedule_request *request,
                             kin_schedule *out, kin_error *err)
{
    plan p = {.cfg = cfg, .request = request, .out = out, .err = err};
    kin_status status;
    *out = (kin_schedule){0};
    if (request->respacing && cfg->class != KIN_SCHEDULER_DDPM && cfg->class != KIN_SCHEDULER_DDIM)
        return kin_fail(err, KIN_ERR_ARG, "schedule: %s takes no respacing",
                        kin_scheduler_name(cfg->class));
    switch (cfg->class) {
    case KIN_SCHEDULER_FLOW_EULER:
    case KIN_SCHEDULER_FLOW_HEUN: status = make_flow(&p); break;
    case KIN_SCHEDULER_EULER:
    case KIN_SCHEDULER_EULER_ANCESTRAL:
    case KIN_SCHEDULER_HEUN: status = make_ve(&p); break;
    case KIN_SCHEDULER_DPM:
    case KIN_SCHEDULER_UNIPC: status = make_dpm(&p); break;
    default: status = make_alphas(&p); break;
    }
    return plan_close(&p, status);
}

static kin_status shift_check(double shift, kin_error *err)
{
    if (!(shift > 0.0) || !isfinite(shift))
        return kin_fail(err, KIN_ERR_ARG, "schedule: shift %g must be positive", shift);
    return KIN_OK;
}

kin_status kin_schedule_promoe(int steps, double sample_shift, double shift, kin_schedule *out,
                               kin_error *err)
{
    const kin_scheduler cfg = kin_scheduler_default(KIN_SCHEDULER_FLOW_EULER);
    plan p = {.cfg = &cfg, .out = out, .err = err, .n = steps};
    *out = (kin_schedule){.init_sigma = 1.0};
    KIN_TRY(shift_check(sample_shift, err));
    KIN_TRY(shift_check(shift, err));
    kin_status status = plan_open(&p);
    for (int i = 0; status == KIN_OK && i < steps; i++) {
        const double u = 1.0 - (double)i / (double)steps;
        p.sigma[i] = kin_flow_shift(shift, kin_flow_shift(sample_shift, u));
        p.t[i] = 1000.0 * p.sigma[i];
    }
    p.sigmas = steps + 1;
    return plan_close(&p, status);
}

kin_status kin_schedule_flow(int steps, double shift, kin_schedule *out, kin_error *err)
{
    /* note: one shift only; the second one of the scheduler classes is left out on purpose */
    return kin_schedule_promoe(steps, shift, 1.0, out, err);
}

kin_status kin_schedule_train(const kin_scheduler *cfg, kin_schedule *out, kin_error *err)
{
    const kin_schedule_request none = {0};
    const bool flow =
        cfg->class == KIN_SCHEDULER_FLOW_EULER || cfg->class == KIN_SCHEDULER_FLOW_HEUN;
    const bool dpm = cfg->class == KIN_SCHEDULER_DPM || cfg->class == KIN_SCHEDULER_UNIPC;
    plan p = {.cfg = cfg, .request = &none, .out = out, .err = err, .n = cfg->train_steps};
    const int T = cfg->train_steps;
    kin_status status = KIN_OK;
    *out = (kin_schedule){.init_sigma = 1.0};
    if (!flow)
        status = kin_alphas_cumprod(cfg, NULL, &out->table, err);
    if (status == KIN_OK)
        status = plan_open(&p);
    for (int i = 0; status == KIN_OK && i < T; i++) {
        p.sigma[i] =
            flow ? (double)train_sigma(cfg, T - i) : kin_sigma_of(out->table[dpm ? i : T - 1 - i]);
        p.t[i] = flow ? (double)((float)p.sigma[i] * (float)T) : T - 1 - i;
    }
    if (status == KIN_OK && flow)
        p.sigma[T] = p.sigma[T - 1];
    p.sigmas = T + 1;
    return plan_close(&p, status);
}
