#include "samplers/betas.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

static const double pi = 3.14159265358979323846;

/* --- betas in the arithmetic of diffusers --- */

/* torch.linspace in f32: from both ends, one rounding each */
static double line(double a, double b, int n, int i)
{
    const float from = (float)a, to = (float)b;
    const float step = n > 1 ? (to - from) / (float)(n - 1) : 0.0f;
    if (i < n / 2)
        return (double)(float)((double)from + (double)step * i);
    return (double)(float)((double)to - (double)step * (n - 1 - i));
}

static double alpha_bar(kin_beta_schedule schedule, double t)
{
    double c;
    switch (schedule) {
    case KIN_BETA_EXP: return exp(-12.0 * t);
    case KIN_BETA_LAPLACE:
        c = exp(-0.5 * copysign(1.0, 0.5 - t) * log(1.0 - 2.0 * fabs(0.5 - t) + 1e-6));
        return sqrt(c / (1.0 + c));
    default: c = cos((t + 0.008) / 1.008 * pi / 2.0); return c * c;
    }
}

static double from_alpha_bar(kin_beta_schedule schedule, int T, int i)
{
    const double a = alpha_bar(schedule, (double)i / T);
    return fmin(1.0 - alpha_bar(schedule, (double)(i + 1) / T) / a, 0.999);
}

static double beta_at(const kin_scheduler *s, bool f64, int i)
{
    const int T = s->train_steps;
    double root;
    if (s->trained_betas)
        return (double)(float)cJSON_GetArrayItem(s->trained_betas, i)->valuedouble;
    switch (s->beta_schedule) {
    case KIN_BETA_LINEAR: return line(s->beta_start, s->beta_end, T, i);
    case KIN_BETA_SCALED_LINEAR:
        if (f64) {
            const double a = sqrt(s->beta_start), b = sqrt(s->beta_end), d = (b - a) / (T - 1);
            root = i < T / 2 ? a + d * i : b - d * (T - 1 - i);
            return root * root;
        }
        root = line(sqrt(s->beta_start), sqrt(s->beta_end), T, i);
        return (double)(float)(root * root);
    case KIN_BETA_SIGMOID:
        root = (double)(1.0f / (1.0f + expf(-(float)line(-6.0, 6.0, T, i))));
        return (double)((float)root * (float)(s->beta_end - s->beta_start) + (float)s->beta_start);
    case KIN_BETA_COSINE:
    case KIN_BETA_LAPLACE:
    case KIN_BETA_EXP: break;
    }
    return (double)(float)from_alpha_bar(s->beta_schedule, T, i);
}

/* products of 1 - beta: summed up in double, each entry rounded to f32 unless f64 */
static void accumulate(const double *beta, int T, bool f64, double *ab)
{
    double product = 1.0;
    for (int i = 0; i < T; i++) {
        product *= f64 ? 1.0 - beta[i] : (double)(1.0f - (float)beta[i]);
        ab[i] = f64 ? product : (double)(float)product;
    }
}

/* Lin et al. 2023 (arXiv 2305.08891), on the roots of alphas_cumprod */
static void zero_terminal(double *ab, int T, bool f64)
{
    const double first = f64 ? sqrt(ab[0]) : (double)sqrtf((float)ab[0]);
    const double last = f64 ? sqrt(ab[T - 1]) : (double)sqrtf((float)ab[T - 1]);
    for (int i = 0; i < T; i++) {
        if (f64) {
            const double r = (sqrt(ab[i]) - last) * (first / (first - last));
            ab[i] = r * r;
        } else {
            const float scale = (float)first / ((float)first - (float)last);
            const float r = (sqrtf((float)ab[i]) - (float)last) * scale;
            ab[i] = (double)(r * r);
        }
    }
}

/* betas whose products are ab, in f32 */
static void rescale_betas(double *beta, double *ab, int T)
{
    zero_terminal(ab, T, false);
    for (int i = T - 1; i > 0; i--)
        beta[i] = (double)(1.0f - (float)ab[i] / (float)ab[i - 1]);
    beta[0] = (double)(1.0f - (float)ab[0]);
    accumulate(beta, T, false, ab);
}

static void fill(const kin_scheduler *s, double *beta, double *ab)
{
    const int T = s->train_steps;
    const bool cog = s->class == KIN_SCHEDULER_COG_DDIM || s->class == KIN_SCHEDULER_COG_DPM;
    const bool f64 = cog && s->beta_schedule == KIN_BETA_SCALED_LINEAR && !s->trained_betas;
    for (int i = 0; i < T; i++)
        beta[i] = beta_at(s, f64, i);
    accumulate(beta, T, f64, ab);
    if (cog) {
        for (int i = 0; i < T; i++)
            ab[i] = ab[i] / (s->snr_shift + (1.0 - s->snr_shift) * ab[i]);
        if (s->zero_snr)
            zero_terminal(ab, T, f64);
        return;
    }
    if (!s->zero_snr)
        return;
    rescale_betas(beta, ab, T);
    /* note: classes that divide by alpha stay a little above zero */
    if (s->class != KIN_SCHEDULER_DDPM && s->class != KIN_SCHEDULER_DDIM)
        ab[T - 1] = ldexp(1.0, -24);
}

kin_status kin_alphas_cumprod(const kin_scheduler *s, double *betas, double **out, kin_error *err)
{
    const size_t T = (size_t)s->train_steps;
    double *ab = kin_malloc(T * sizeof *ab), *beta = kin_malloc(T * sizeof *beta);
    kin_status status = KIN_OK;
    *out = NULL;
    if (!ab || !beta)
        KIN_GOTO(kin_fail(err, KIN_ERR_MEM, "scheduler: no memory for %d betas", s->train_steps));
    fill(s, beta, ab);
    for (size_t i = 0; i < T; i++)
        if (!(beta[i] >= 0 && beta[i] <= 1 && ab[i] >= 0 && ab[i] <= 1))
            KIN_GOTO(kin_fail(err, KIN_ERR_FORMAT,
                              "scheduler: beta %g of step %d must lie in 0 to 1", beta[i], (int)i));
    if (betas)
        memcpy(betas, beta, T * sizeof *beta);
    *out = ab;
    ab = NULL;
done:
    kin_free(ab);
    kin_free(beta);
    return status;
}

kin_status kin_betas_exact(kin_beta_schedule schedule, int T, double start, double end,
                           double *beta, kin_error *err)
{
    const double scale = 1000.0 / T;
    for (int i = 0; i < T; i++) {
        const double u = T > 1 ? (double)i / (T - 1) : 0.0;
        double root;
        switch (schedule) {
        case KIN_BETA_LINEAR: beta[i] = scale * (start + (end - start) * u); break;
        case KIN_BETA_SCALED_LINEAR:
            root = sqrt(start) + (sqrt(end) - sqrt(start)) * u;
            beta[i] = root * root;
            break;
        case KIN_BETA_COSINE: beta[i] = from_alpha_bar(schedule, T, i); break;
        default:
            return kin_fail(err, KIN_ERR_ARG,
                            "betas: the schedule must be linear, scaled_linear or "
                            "squaredcos_cap_v2");
        }
        if (!(beta[i] > 0 && beta[i] <= 1))
            return kin_fail(err, KIN_ERR_ARG, "betas: %g of step %d of %d must lie in 0 to 1",
                            beta[i], i, T);
    }
    return KIN_OK;
}

/* --- kept steps --- */

static kin_status respacing_fail(const char *text, int T, kin_error *err)
{
    return kin_fail(
        err, KIN_ERR_ARG,
        "respacing: \"%s\" must be N, counts of equal sections like 3,2,4, or ddimN, of "
        "at most %d steps",
        text, T);
}

static kin_status every_kth(const char *text, int T, int *kept, int *n, kin_error *err)
{
    char *end = NULL;
    const long want = strtol(text + 4, &end, 10);
    if (*end || want < 1 || want > T)
        return respacing_fail(text, T, err);
    for (int k = 1; k < T; k++) {
        if ((T + k - 1) / k != want)
            continue;
        for (*n = 0; *n < want; (*n)++)
            kept[*n] = *n * k;
        return KIN_OK;
    }
    return kin_fail(err, KIN_ERR_ARG, "respacing: no stride gives %ld of %d steps", want, T);
}

/* the counts of the sections; *sections of them */
static bool section_counts(const char *text, int T, int *count, int *sections)
{
    *sections = 0;
    for (const char *p = text;; p++) {
        char *end = NULL;
        const long v = strtol(p, &end, 10);
        if (end == p || v < 1 || v > T || *sections == T)
            return false;
        count[(*sections)++] = (int)v;
        p = end;
        if (!*p)
            return true;
        if (*p != ',')
            return false;
    }
}

kin_status kin_respacing_parse(const char *text, int T, int *kept, int *n, kin_error *err)
{
    int sections, *count = kept, start = T;
    *n = 0;
    if (!text || !*text) {
        while (*n < T) {
            kept[*n] = *n;
            (*n)++;
        }
        return KIN_OK;
    }
    if (strncmp(text, "ddim", 4) == 0)
        return every_kth(text, T, kept, n, err);
    if (!section_counts(text, T, count, &sections))
        return respacing_fail(text, T, err);
    for (int i = 0, total = 0; i < sections; i++) {
        const int size = T / sections + (i < T % sections);
        if ((total += count[i]) > T || count[i] > size)
            return kin_fail(err, KIN_ERR_ARG, "respacing: \"%s\": %d steps of a section of %d",
                            text, count[i], size);
        *n += count[i];
    }
    /* from the last section down, as the counts and the steps share their memory: the steps of the
     * sections up to i take at least i+1 entries */
    for (int i = sections - 1, at = *n; i >= 0; i--) {
        const int c = count[i], size = T / sections + (i < T % sections);
        const double stride = c > 1 ? (double)(size - 1) / (c - 1) : 1.0;
        start -= size;
        at -= c;
        double step = 0.0;
        for (int k = 0; k < c; k++, step += stride)
            kept[at + k] = start + (int)rint(step);
    }
    return KIN_OK;
}

/* --- processes --- */

void kin_process_free(kin_process *p)
{
    kin_free(p->beta);
    kin_free(p->time);
    *p = (kin_process){0};
}

static void fill_process(const double *ab, const int *kept, kin_process *p)
{
    double before = 1.0;
    for (int i = 0; i < p->n; i++) {
        p->time[i] = kept ? kept[i] : i;
        p->ab[i] = ab[p->time[i]];
        p->ab_prev[i] = before;
        before = p->ab[i];
    }
    for (int i = 0; i < p->n; i++) {
        const double rest = 1.0 - p->ab[i], rest_prev = 1.0 - p->ab_prev[i], beta = p->beta[i];
        p->variance[i] = beta * rest_prev / rest;
        p->coef1[i] = beta * sqrt(p->ab_prev[i]) / rest;
        p->coef2[i] = rest_prev * sqrt(1.0 - beta) / rest;
    }
    for (int i = 0; i < p->n; i++)
        p->log_variance[i] = log(p->variance[i == 0 && p->n > 1 ? 1 : i]);
}

kin_status kin_process_make(const double *beta, int T, const int *kept, int n, kin_process *out,
                            kin_error *err)
{
    const size_t count = (size_t)(kept ? n : T);
    double *ab = kin_malloc((size_t)T * sizeof *ab);
    *out = (kin_process){.n = (int)count,
                         .time = kin_malloc(count * sizeof *out->time),
                         .beta = kin_malloc(7 * count * sizeof *out->beta)};
    if (!ab || !out->time || !out->beta) {
        kin_free(ab);
        kin_process_free(out);
        return kin_fail(err, KIN_ERR_MEM, "process: no memory for %zu steps", count);
    }
    double **part[] = {&out->ab,           &out->ab_prev, &out->variance,
                       &out->log_variance, &out->coef1,   &out->coef2};
    for (size_t i = 0; i < 6; i++)
        *part[i] = out->beta + (i + 1) * count;
    accumulate(beta, T, true, ab);
    for (size_t i = 0; i < count; i++) {
        /* note: without gaps the betas themselves, else 1 - ab_k/ab_(k-1) of the kept steps */
        const double prev = i ? ab[kept ? kept[i - 1] : (int)i - 1] : 1.0;
        out->beta[i] = kept ? 1.0 - ab[kept[i]] / prev : beta[i];
    }
    fill_process(ab, kept, out);
    kin_free(ab);
    return KIN_OK;
}
