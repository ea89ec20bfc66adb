#include "samplers/schedule.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "tensor/kernels.h"

void kin_schedule_free(kin_schedule *s)
{
    kin_free(s->sigma);
    kin_free(s->t);
    *s = (kin_schedule){0};
}

static kin_status schedule_alloc(int n, kin_schedule *out, kin_error *err)
{
    if (n < 1 || n > KIN_SCHEDULE_MAX_STEPS)
        return kin_fail(err, KIN_ERR_ARG, "schedule: %d steps must be 1 to %d", n,
                        (int)KIN_SCHEDULE_MAX_STEPS);
    out->n = n;
    out->sigma = kin_malloc(((size_t)n + 1) * sizeof *out->sigma);
    out->t = kin_malloc((size_t)n * sizeof *out->t);
    if (out->sigma && out->t)
        return KIN_OK;
    kin_schedule_free(out);
    return kin_fail(err, KIN_ERR_MEM, "schedule: no memory for %d steps", n);
}

double kin_flow_shift(double shift, double u)
{
    return shift * u / (1.0 + (shift - 1.0) * u);
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
    KIN_TRY(shift_check(sample_shift, err));
    KIN_TRY(shift_check(shift, err));
    KIN_TRY(schedule_alloc(steps, out, err));
    for (int i = 0; i < steps; i++) {
        double u = 1.0 - (double)i / (double)steps;
        double sigma = kin_flow_shift(shift, kin_flow_shift(sample_shift, u));
        out->sigma[i] = (float)sigma;
        out->t[i] = (float)(1000.0 * sigma);
    }
    out->sigma[steps] = 0.0f;
    return KIN_OK;
}

kin_status kin_schedule_flow(int steps, double shift, kin_schedule *out, kin_error *err)
{
    /* note: one shift only; the second one of the scheduler classes is left out on purpose */
    return kin_schedule_promoe(steps, shift, 1.0, out, err);
}

kin_status kin_schedule_find(const kin_schedule *s, float t, float *sigma, kin_error *err)
{
    int found = -1, count = 0;
    for (int i = 0; i < s->n && count < 2; i++) {
        if (s->t[i] == t) {
            found = i; /* of several equal times the second counts, as in diffusers */
            count++;
        }
    }
    if (found < 0)
        return kin_fail(err, KIN_ERR_ARG, "schedule: %.9g is not one of the %d times", (double)t,
                        s->n);
    *sigma = s->sigma[found];
    return KIN_OK;
}

kin_status kin_flow_noise(kin_ctx *ctx, const kin_tensor *x0, const kin_tensor *noise,
                          const kin_tensor *sigma, kin_tensor *x)
{
    char a[96], b[96];
    if (x0->ndim < 1 || !kin_tensor_same_shape(x0, noise) || !kin_tensor_same_shape(x0, x) ||
        sigma->ndim != 1 || sigma->size[0] != x0->size[0] || !kin_tensor_is_contiguous(x0) ||
        !kin_tensor_is_contiguous(noise) || !kin_tensor_is_contiguous(x))
        return kin_fail(&ctx->error, KIN_ERR_SHAPE,
                        "flow noise: x0 %s and noise %s must be contiguous and of one shape, sigma "
                        "one value per sample",
                        kin_tensor_describe(x0, a, sizeof a),
                        kin_tensor_describe(noise, b, sizeof b));
    if (kin_ctx_is_plan(ctx) || x->size[0] == 0)
        return KIN_OK;
    const float *p = x0->data, *q = noise->data, *s = sigma->data;
    float *y = x->data;
    int64_t rows = x->size[0], n = kin_tensor_numel(x) / rows;
    for (int64_t r = 0; r < rows; r++) {
        float w = s[r * sigma->stride[0]];
        for (int64_t i = r * n; i < (r + 1) * n; i++)
            y[i] = (1.0f - w) * p[i] + w * q[i];
    }
    return KIN_OK;
}

/* --- FlowMatchEulerDiscreteScheduler --- */

kin_flow_scheduler kin_flow_scheduler_default(void)
{
    return (kin_flow_scheduler){.num_train_timesteps = 1000,
                                .shift = 1.0,
                                .base_shift = 0.5,
                                .max_shift = 1.15,
                                .base_image_seq_len = 256.0,
                                .max_image_seq_len = 4096.0};
}

static kin_status read_spacing(const cJSON *config, kin_flow_scheduler *s, kin_error *err)
{
    static const struct {
        const char *key;
        kin_flow_spacing spacing;
    } rows[] = {{"use_karras_sigmas", KIN_FLOW_KARRAS},
                {"use_exponential_sigmas", KIN_FLOW_EXPONENTIAL},
                {"use_beta_sigmas", KIN_FLOW_BETA}};
    int count = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bool on = false;
        KIN_TRY(kin_json_get_bool(config, rows[i].key, &on, err));
        if (on) {
            s->spacing = rows[i].spacing;
            count++;
        }
    }
    if (count > 1)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "scheduler: only one of use_karras_sigmas, use_exponential_sigmas and "
                        "use_beta_sigmas may be true");
    return KIN_OK;
}

static kin_status read_numbers(const cJSON *config, kin_flow_scheduler *s, kin_error *err)
{
    int64_t steps = s->num_train_timesteps;
    KIN_TRY(
        kin_json_get_i64(config, "num_train_timesteps", 1, KIN_SCHEDULE_MAX_STEPS, &steps, err));
    s->num_train_timesteps = (int)steps;
    KIN_TRY(kin_json_get_f64(config, "shift", &s->shift, err));
    KIN_TRY(kin_json_get_f64(config, "base_shift", &s->base_shift, err));
    KIN_TRY(kin_json_get_f64(config, "max_shift", &s->max_shift, err));
    KIN_TRY(kin_json_get_f64(config, "base_image_seq_len", &s->base_image_seq_len, err));
    KIN_TRY(kin_json_get_f64(config, "max_image_seq_len", &s->max_image_seq_len, err));
    KIN_TRY(kin_json_get_f64(config, "shift_terminal", &s->shift_terminal, err));
    /* note: 0 means none, as in the official code */
    s->has_shift_terminal = s->shift_terminal != 0.0;
    if (!(s->shift > 0.0))
        return kin_fail(err, KIN_ERR_FORMAT, "scheduler: shift %g must be positive", s->shift);
    if (s->shift_terminal < 0.0 || s->shift_terminal >= 1.0)
        return kin_fail(err, KIN_ERR_FORMAT, "scheduler: shift_terminal %g must lie in [0,1)",
                        s->shift_terminal);
    return KIN_OK;
}

kin_status kin_flow_scheduler_read(const cJSON *config, kin_flow_scheduler *out, kin_error *err)
{
    static const char *const keys[] = {"_class_name",
                                       "_diffusers_version",
                                       "num_train_timesteps",
                                       "shift",
                                       "base_shift",
                                       "max_shift",
                                       "base_image_seq_len",
                                       "max_image_seq_len",
                                       "shift_terminal",
                                       "use_dynamic_shifting",
                                       "invert_sigmas",
                                       "stochastic_sampling",
                                       "use_karras_sigmas",
                                       "use_beta_sigmas",
                                       "use_exponential_sigmas",
                                       "time_shift_type",
                                       NULL};
    *out = kin_flow_scheduler_default();
    const char *name = "FlowMatchEulerDiscreteScheduler", *type = "exponential";
    KIN_TRY(kin_json_get_str(config, "_class_name", &name, err));
    if (strcmp(name, "FlowMatchEulerDiscreteScheduler") != 0)
        return kin_fail(err, KIN_ERR_UNSUPPORTED,
                        "scheduler: class %s is not supported, only "
                        "FlowMatchEulerDiscreteScheduler is",
                        name);
    KIN_TRY(kin_json_known_keys(config, keys, "scheduler", err));
    KIN_TRY(read_numbers(config, out, err));
    KIN_TRY(kin_json_get_bool(config, "use_dynamic_shifting", &out->use_dynamic_shifting, err));
    KIN_TRY(kin_json_get_bool(config, "invert_sigmas", &out->invert_sigmas, err));
    KIN_TRY(kin_json_get_bool(config, "stochastic_sampling", &out->stochastic_sampling, err));
    KIN_TRY(read_spacing(config, out, err));
    KIN_TRY(kin_json_get_str(config, "time_shift_type", &type, err));
    out->time_shift_linear = strcmp(type, "linear") == 0;
    if (!out->time_shift_linear && strcmp(type, "exponential") != 0)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "scheduler: time_shift_type \"%s\" must be exponential or linear", type);
    return KIN_OK;
}

double kin_flow_scheduler_mu(const kin_flow_scheduler *s, double tokens)
{
    double slope = (s->max_shift - s->base_shift) / (s->max_image_seq_len - s->base_image_seq_len);
    return s->base_shift + slope * (tokens - s->base_image_seq_len);
}

/* The i-th of n evenly spaced values from a to b. */
static double linspace(double a, double b, int n, int i)
{
    return n == 1 ? a : a + (b - a) * (double)i / (double)(n - 1);
}

/* The training level of step k = 1..num_train_timesteps, in the f32 arithmetic of the official
 * class. */
static float train_sigma(const kin_flow_scheduler *s, int k)
{
    float sigma = (float)k / (float)s->num_train_timesteps, shift = (float)s->shift;
    return s->use_dynamic_shifting ? sigma
                                   : shift * sigma / (1.0f + (float)(s->shift - 1.0) * sigma);
}

/* Regularised incomplete beta function I_x(a,a) by its continued fraction (Lentz), x <= 1/2. */
static double beta_cdf(double a, double x)
{
    if (x <= 0.0)
        return 0.0;
    double c = 1.0, d = 1.0 / (1.0 - 2.0 * a * x / (a + 1.0)), f = d;
    for (int m = 1; m < 300; m++) {
        double even = m * (a - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        double odd = -(a + m) * (2.0 * a + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        d = 1.0 / (1.0 + even * d);
        c = 1.0 + even / c;
        f *= c * d;
        d = 1.0 / (1.0 + odd * d);
        c = 1.0 + odd / c;
        f *= c * d;
        if (fabs(c * d - 1.0) < 1e-16)
            break;
    }
    double front = lgamma(2.0 * a) - 2.0 * lgamma(a) + a * log(x) + a * log1p(-x);
    return exp(front) * f / a;
}

/* x with I_x(a,a) = p; symmetric about 1/2. */
static double beta_quantile(double a, double p)
{
    if (p > 0.5)
        return 1.0 - beta_quantile(a, 1.0 - p);
    double lo = 0.0, hi = 0.5;
    for (int i = 0; i < 200 && hi - lo > 1e-17; i++) {
        double mid = 0.5 * (lo + hi);
        if (beta_cdf(a, mid) < p)
            lo = mid;
        else
            hi = mid;
    }
    return 0.5 * (lo + hi);
}

/* Replaces the sigmas by a curve between the first and the last of them. */
static void respace(kin_flow_spacing spacing, int n, double *sigma)
{
    double first = sigma[0], last = sigma[n - 1];
    const double rho = 7.0;
    for (int i = 0; i < n; i++) {
        double ramp = linspace(0.0, 1.0, n, i);
        if (spacing == KIN_FLOW_KARRAS) {
            double a = pow(first, 1.0 / rho), b = pow(last, 1.0 / rho);
            sigma[i] = pow(a + ramp * (b - a), rho);
        } else if (spacing == KIN_FLOW_EXPONENTIAL) {
            sigma[i] = exp(log(first) + ramp * (log(last) - log(first)));
        } else {
            sigma[i] = last + (first - last) * beta_quantile(0.6, 1.0 - ramp);
        }
    }
}

/* Steps 1 and 2 of set_timesteps: the grid, and the shift of each level. */
static void base_sigmas(const kin_flow_scheduler *s, const kin_flow_request *r, int n,
                        double *sigma)
{
    double big = (double)train_sigma(s, s->num_train_timesteps), small = (double)train_sigma(s, 1);
    for (int i = 0; i < n; i++) {
        double u;
        if (r->sigmas)
            u = (double)(float)r->sigmas[i];
        else if (r->timesteps)
            u = (double)(float)r->timesteps[i] / s->num_train_timesteps;
        else
            u = linspace(big, small, n, i);
        if (!s->use_dynamic_shifting) {
            sigma[i] = kin_flow_shift(s->shift, u);
        } else {
            double m = s->time_shift_linear ? r->mu : exp(r->mu);
            sigma[i] = m / (m + (1.0 / u - 1.0));
        }
    }
}

static kin_status request_steps(const kin_flow_scheduler *s, const kin_flow_request *r, int *n,
                                kin_error *err)
{
    *n = r->steps ? r->steps : r->sigmas ? r->n_sigmas : r->timesteps ? r->n_timesteps : 0;
    if ((r->sigmas && r->n_sigmas != *n) || (r->timesteps && r->n_timesteps != *n))
        return kin_fail(err, KIN_ERR_ARG,
                        "schedule: %d sigmas and %d timesteps must be as many as the %d steps",
                        r->sigmas ? r->n_sigmas : *n, r->timesteps ? r->n_timesteps : *n, *n);
    if (s->use_dynamic_shifting && !r->has_mu)
        return kin_fail(err, KIN_ERR_ARG, "schedule: use_dynamic_shifting needs mu");
    return KIN_OK;
}

kin_status kin_schedule_flow_match(const kin_flow_scheduler *s, const kin_flow_request *request,
                                   kin_schedule *out, kin_error *err)
{
    int n;
    KIN_TRY(request_steps(s, request, &n, err));
    KIN_TRY(schedule_alloc(n, out, err));
    double *sigma = kin_malloc((size_t)n * sizeof *sigma);
    if (!sigma) {
        kin_schedule_free(out);
        return kin_fail(err, KIN_ERR_MEM, "schedule: no memory for %d steps", n);
    }
    base_sigmas(s, request, n, sigma);
    if (s->has_shift_terminal) {
        double scale = (1.0 - sigma[n - 1]) / (1.0 - s->shift_terminal);
        for (int i = 0; i < n; i++)
            sigma[i] = 1.0 - (1.0 - sigma[i]) / scale;
    }
    if (s->spacing != KIN_FLOW_PLAIN)
        respace(s->spacing, n, sigma);
    for (int i = 0; i < n; i++) {
        float level = (float)sigma[i], train = (float)s->num_train_timesteps;
        out->t[i] = request->timesteps ? (float)request->timesteps[i] : level * train;
        if (s->invert_sigmas) {
            level = 1.0f - level;
            out->t[i] =
                level * train; /* note: custom times are lost here, as in the official class */
        }
        out->sigma[i] = level;
    }
    out->sigma[n] = s->invert_sigmas ? 1.0f : 0.0f;
    kin_free(sigma);
    return KIN_OK;
}

kin_status kin_schedule_flow_match_train(const kin_flow_scheduler *s, kin_schedule *out,
                                         kin_error *err)
{
    KIN_TRY(schedule_alloc(s->num_train_timesteps, out, err));
    for (int i = 0; i < out->n; i++) {
        out->sigma[i] = train_sigma(s, out->n - i);
        out->t[i] = out->sigma[i] * (float)out->n;
    }
    out->sigma[out->n] = out->sigma[out->n - 1];
    return KIN_OK;
}
