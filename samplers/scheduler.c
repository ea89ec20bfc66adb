#include "samplers/scheduler.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* --- classes --- */

enum {
    FME = 1 << KIN_SCHEDULER_FLOW_EULER,
    FMH = 1 << KIN_SCHEDULER_FLOW_HEUN,
    EUL = 1 << KIN_SCHEDULER_EULER,
    EUA = 1 << KIN_SCHEDULER_EULER_ANCESTRAL,
    HEU = 1 << KIN_SCHEDULER_HEUN,
    DPM = 1 << KIN_SCHEDULER_DPM,
    UPC = 1 << KIN_SCHEDULER_UNIPC,
    DDI = 1 << KIN_SCHEDULER_DDIM,
    DDP = 1 << KIN_SCHEDULER_DDPM,
    CDI = 1 << KIN_SCHEDULER_COG_DDIM,
    CDP = 1 << KIN_SCHEDULER_COG_DPM,
    COG = CDI | CDP,
    DIFF = EUL | EUA | HEU | DPM | UPC | DDI | DDP | COG, /* those with betas */
    SIGMA = EUL | HEU | DPM | UPC,
    ANY = DIFF | FME | FMH
};

enum {
    B_LINE = 1 << KIN_BETA_LINEAR | 1 << KIN_BETA_SCALED_LINEAR,
    B_COS = B_LINE | 1 << KIN_BETA_COSINE,
    P_EPS = 1 << KIN_PREDICT_EPSILON,
    P_X0 = 1 << KIN_PREDICT_SAMPLE,
    P_V = 1 << KIN_PREDICT_V,
    P_FLOW = 1 << KIN_PREDICT_FLOW
};

typedef struct class_row {
    const char *name;
    unsigned betas, predictions;
} class_row;

static const class_row classes[KIN_SCHEDULER_CLASSES] = {
    [KIN_SCHEDULER_FLOW_EULER] = {"FlowMatchEulerDiscreteScheduler", 0, P_FLOW},
    [KIN_SCHEDULER_FLOW_HEUN] = {"FlowMatchHeunDiscreteScheduler", 0, P_FLOW},
    [KIN_SCHEDULER_EULER] = {"EulerDiscreteScheduler", B_COS, P_EPS | P_X0 | P_V},
    [KIN_SCHEDULER_EULER_ANCESTRAL] = {"EulerAncestralDiscreteScheduler", B_COS, P_EPS | P_V},
    [KIN_SCHEDULER_HEUN] = {"HeunDiscreteScheduler", B_COS | 1 << KIN_BETA_EXP, P_EPS | P_X0 | P_V},
    [KIN_SCHEDULER_DPM] = {"DPMSolverMultistepScheduler", B_COS, P_EPS | P_X0 | P_V | P_FLOW},
    [KIN_SCHEDULER_UNIPC] = {"UniPCMultistepScheduler", B_COS, P_EPS | P_X0 | P_V | P_FLOW},
    [KIN_SCHEDULER_DDIM] = {"DDIMScheduler", B_COS, P_EPS | P_X0 | P_V},
    [KIN_SCHEDULER_DDPM] = {"DDPMScheduler", B_COS | 1 << KIN_BETA_SIGMOID | 1 << KIN_BETA_LAPLACE,
                            P_EPS | P_X0 | P_V},
    [KIN_SCHEDULER_COG_DDIM] = {"CogVideoXDDIMScheduler", B_COS, P_EPS | P_X0 | P_V},
    [KIN_SCHEDULER_COG_DPM] = {"CogVideoXDPMScheduler", B_COS, P_EPS | P_X0 | P_V},
};

const char *kin_scheduler_name(kin_scheduler_class class)
{
    return classes[class].name;
}

bool kin_scheduler_is_flow(const kin_scheduler *s)
{
    return s->flow_sigmas;
}

kin_scheduler kin_scheduler_default(kin_scheduler_class class)
{
    const unsigned bit = 1u << class;
    return (kin_scheduler){
        .class = class,
        .prediction = bit & (FME | FMH) ? KIN_PREDICT_FLOW : KIN_PREDICT_EPSILON,
        .train_steps = 1000,
        .spacing = bit & (DDI | DDP | COG) ? KIN_TIME_LEADING : KIN_TIME_LINSPACE,
        .beta_schedule = bit & COG ? KIN_BETA_SCALED_LINEAR : KIN_BETA_LINEAR,
        .beta_start = bit & (HEU | COG) ? 0.00085 : 0.0001,
        .beta_end = bit & (HEU | COG) ? 0.012 : 0.02,
        .snr_shift = 3.0,
        .alpha_to_one = true,
        .flow_sigmas = (bit & (FME | FMH)) != 0,
        .shift = 1.0,
        .base_shift = 0.5,
        .max_shift = 1.15,
        .base_tokens = 256.0,
        .max_tokens = 4096.0,
        .clip = (bit & (DDI | DDP)) != 0,
        .clip_range = 1.0,
        .threshold_ratio = 0.995,
        .threshold_max = 1.0,
        .order = 2,
        .predict_x0 = true,
        .lower_order_final = true,
        .lambda_min = -(double)INFINITY,
        .sigma_min = (double)NAN,
        .sigma_max = (double)NAN,
        .s_tmax = (double)INFINITY,
        .s_noise = 1.0,
    };
}

double kin_scheduler_mu(const kin_scheduler *s, double tokens)
{
    double slope = (s->max_shift - s->base_shift) / (s->max_tokens - s->base_tokens);
    return s->base_shift + slope * (tokens - s->base_tokens);
}

/* --- keys --- */

typedef enum key_type {
    KEY_INT,
    KEY_F64, /* null leaves the default */
    KEY_BOOL,
    KEY_NAME,   /* one of `names`, an enum */
    KEY_CHOICE, /* one of `names`, a bool */
    KEY_LIST,   /* cJSON array of numbers or null */
    KEY_CURVE,  /* true sets the curve */
    KEY_UNUSED  /* known, without effect in this class */
} key_type;

typedef struct named_value {
    const char *name;
    int value;
} named_value;

typedef struct key_row {
    const char *key;
    unsigned classes;
    key_type type;
    size_t at;                /* offset in kin_scheduler */
    const named_value *names; /* KEY_NAME, ended by NULL */
    int curve;                /* KEY_CURVE */
    double lo, hi;            /* KEY_INT, KEY_F64 */
} key_row;

static const named_value spacing_names[] = {{"linspace", KIN_TIME_LINSPACE},
                                            {"leading", KIN_TIME_LEADING},
                                            {"trailing", KIN_TIME_TRAILING},
                                            {NULL, 0}};
static const named_value beta_names[] = {{"linear", KIN_BETA_LINEAR},
                                         {"scaled_linear", KIN_BETA_SCALED_LINEAR},
                                         {"squaredcos_cap_v2", KIN_BETA_COSINE},
                                         {"sigmoid", KIN_BETA_SIGMOID},
                                         {"laplace", KIN_BETA_LAPLACE},
                                         {"exp", KIN_BETA_EXP},
                                         {NULL, 0}};
/* note: "original_sample" is an older name of "sample" */
static const named_value prediction_names[] = {
    {"epsilon", KIN_PREDICT_EPSILON},        {"sample", KIN_PREDICT_SAMPLE},
    {"v_prediction", KIN_PREDICT_V},         {"flow_prediction", KIN_PREDICT_FLOW},
    {"original_sample", KIN_PREDICT_SAMPLE}, {NULL, 0}};
/* note: fixed_large_log takes the root of a negative number in diffusers; it is refused here */
static const named_value variance_names[] = {{"fixed_small", KIN_VARIANCE_FIXED_SMALL},
                                             {"fixed_small_log", KIN_VARIANCE_FIXED_SMALL_LOG},
                                             {"fixed_large", KIN_VARIANCE_FIXED_LARGE},
                                             {"learned", KIN_VARIANCE_LEARNED},
                                             {"learned_range", KIN_VARIANCE_LEARNED_RANGE},
                                             {NULL, 0}};
static const named_value learned_names[] = {{"learned", true}, {"learned_range", true}, {NULL, 0}};
static const named_value algorithm_names[] = {{"dpmsolver++", KIN_DPM_PLUS},
                                              {"dpmsolver", KIN_DPM_NOISE},
                                              {"sde-dpmsolver++", KIN_DPM_SDE_PLUS},
                                              {"sde-dpmsolver", KIN_DPM_SDE_NOISE},
                                              {"deis", KIN_DPM_PLUS},
                                              {NULL, 0}};
/* note: each of the two classes takes the other's names as its own default */
static const named_value dpm_type_names[] = {{"midpoint", false}, {"heun", true}, {"logrho", false},
                                             {"bh1", false},      {"bh2", false}, {NULL, 0}};
static const named_value bh_names[] = {{"bh2", false},  {"bh1", true},     {"midpoint", false},
                                       {"heun", false}, {"logrho", false}, {NULL, 0}};
static const named_value final_names[] = {{"zero", false}, {"sigma_min", true}, {NULL, 0}};
static const named_value shift_names[] = {{"exponential", false}, {"linear", true}, {NULL, 0}};
static const named_value interpolation_names[] = {
    {"linear", false}, {"log_linear", true}, {NULL, 0}};
static const named_value timestep_names[] = {{"discrete", false}, {"continuous", true}, {NULL, 0}};

#define AT(field) offsetof(kin_scheduler, field)
#define BIG 1e9

static const key_row keys[] = {
    {"num_train_timesteps", ANY, KEY_INT, AT(train_steps), NULL, 0, 2, 100000},
    {"beta_start", DIFF, KEY_F64, AT(beta_start), NULL, 0, 0, 1},
    {"beta_end", DIFF, KEY_F64, AT(beta_end), NULL, 0, 0, 1},
    {"beta_schedule", DIFF, KEY_NAME, AT(beta_schedule), beta_names, 0, 0, 0},
    {"trained_betas", DIFF, KEY_LIST, AT(trained_betas), NULL, 0, 0, 0},
    {"prediction_type", DIFF, KEY_NAME, AT(prediction), prediction_names, 0, 0, 0},
    {"timestep_spacing", DIFF, KEY_NAME, AT(spacing), spacing_names, 0, 0, 0},
    {"steps_offset", DIFF, KEY_INT, AT(steps_offset), NULL, 0, 0, 100000},
    {"rescale_betas_zero_snr", DIFF & ~HEU, KEY_BOOL, AT(zero_snr), NULL, 0, 0, 0},
    {"use_karras_sigmas", SIGMA | FME, KEY_CURVE, AT(curve), NULL, KIN_CURVE_KARRAS, 0, 0},
    {"use_exponential_sigmas", SIGMA | FME, KEY_CURVE, AT(curve), NULL, KIN_CURVE_EXPONENTIAL, 0,
     0},
    {"use_beta_sigmas", SIGMA | FME, KEY_CURVE, AT(curve), NULL, KIN_CURVE_BETA, 0, 0},
    {"use_lu_lambdas", DPM, KEY_CURVE, AT(curve), NULL, KIN_CURVE_LU, 0, 0},
    {"clip_sample", DDI | DDP | HEU, KEY_BOOL, AT(clip), NULL, 0, 0, 0},
    {"clip_sample_range", DDI | DDP | HEU, KEY_F64, AT(clip_range), NULL, 0, 0, BIG},
    {"clip_sample", COG, KEY_UNUSED, 0, NULL, 0, 0, 0},
    {"clip_sample_range", COG, KEY_UNUSED, 0, NULL, 0, 0, 0},
    {"sample_max_value", COG, KEY_UNUSED, 0, NULL, 0, 0, 0},
    {"thresholding", DDI | DDP | DPM | UPC, KEY_BOOL, AT(threshold), NULL, 0, 0, 0},
    {"dynamic_thresholding_ratio", DDI | DDP | DPM | UPC, KEY_F64, AT(threshold_ratio), NULL, 0, 0,
     1},
    {"sample_max_value", DDI | DDP | DPM | UPC, KEY_F64, AT(threshold_max), NULL, 0, 1, BIG},
    {"variance_type", DDP, KEY_NAME, AT(variance), variance_names, 0, 0, 0},
    {"variance_type", DPM, KEY_CHOICE, AT(learned_channels), learned_names, 0, 0, 0},
    {"set_alpha_to_one", DDI | COG, KEY_BOOL, AT(alpha_to_one), NULL, 0, 0, 0},
    {"snr_shift_scale", COG, KEY_F64, AT(snr_shift), NULL, 0, 1e-6, BIG},
    {"solver_order", DPM | UPC, KEY_INT, AT(order), NULL, 0, 1, 3},
    {"algorithm_type", DPM, KEY_NAME, AT(algorithm), algorithm_names, 0, 0, 0},
    {"solver_type", DPM, KEY_CHOICE, AT(heun_type), dpm_type_names, 0, 0, 0},
    {"solver_type", UPC, KEY_CHOICE, AT(bh1), bh_names, 0, 0, 0},
    {"lower_order_final", DPM | UPC, KEY_BOOL, AT(lower_order_final), NULL, 0, 0, 0},
    {"euler_at_final", DPM, KEY_BOOL, AT(euler_at_final), NULL, 0, 0, 0},
    {"lambda_min_clipped", DPM, KEY_F64, AT(lambda_min), NULL, 0, -(double)INFINITY, BIG},
    {"predict_x0", UPC, KEY_BOOL, AT(predict_x0), NULL, 0, 0, 0},
    {"disable_corrector", UPC, KEY_LIST, AT(disable_corrector), NULL, 0, 0, 0},
    {"use_flow_sigmas", DPM | UPC, KEY_BOOL, AT(flow_sigmas), NULL, 0, 0, 0},
    {"flow_shift", DPM | UPC, KEY_F64, AT(shift), NULL, 0, 1e-6, BIG},
    {"final_sigmas_type", DPM | UPC | EUL, KEY_CHOICE, AT(final_sigma_min), final_names, 0, 0, 0},
    {"sigma_min", UPC | EUL, KEY_F64, AT(sigma_min), NULL, 0, 1e-12, BIG},
    {"sigma_max", UPC | EUL, KEY_F64, AT(sigma_max), NULL, 0, 1e-12, BIG},
    {"interpolation_type", EUL, KEY_CHOICE, AT(log_linear), interpolation_names, 0, 0, 0},
    {"timestep_type", EUL, KEY_CHOICE, AT(continuous), timestep_names, 0, 0, 0},
    {"shift", FME | FMH, KEY_F64, AT(shift), NULL, 0, 1e-6, BIG},
    {"use_dynamic_shifting", FME | DPM | UPC, KEY_BOOL, AT(dynamic_shift), NULL, 0, 0, 0},
    {"time_shift_type", FME | DPM | UPC, KEY_CHOICE, AT(shift_linear), shift_names, 0, 0, 0},
    {"shift_terminal", FME | UPC, KEY_F64, AT(shift_terminal), NULL, 0, 0, 1},
    {"base_shift", FME, KEY_F64, AT(base_shift), NULL, 0, -BIG, BIG},
    {"max_shift", FME, KEY_F64, AT(max_shift), NULL, 0, -BIG, BIG},
    {"base_image_seq_len", FME, KEY_F64, AT(base_tokens), NULL, 0, 0, BIG},
    {"max_image_seq_len", FME, KEY_F64, AT(max_tokens), NULL, 0, 0, BIG},
    {"invert_sigmas", FME, KEY_BOOL, AT(invert_sigmas), NULL, 0, 0, 0},
    {"stochastic_sampling", FME, KEY_BOOL, AT(stochastic), NULL, 0, 0, 0},
};

enum { KEYS = sizeof keys / sizeof *keys };

static void store(kin_scheduler *s, const key_row *k, int value)
{
    char *at = (char *)s + k->at;
    if (k->type == KEY_CHOICE)
        *(bool *)at = value != 0;
    else
        memcpy(at, &value, sizeof value);
}

static int load(const kin_scheduler *s, const key_row *k)
{
    const char *at = (const char *)s + k->at;
    int value;
    if (k->type == KEY_CHOICE)
        return *(const bool *)at;
    memcpy(&value, at, sizeof value);
    return value;
}

static kin_status read_name(const cJSON *config, const key_row *k, kin_scheduler *s, kin_error *err)
{
    const char *text = NULL;
    char list[256] = "";
    KIN_TRY(kin_json_get_str(config, k->key, &text, err));
    if (!text)
        return KIN_OK;
    for (const named_value *v = k->names; v->name; v++) {
        if (strcmp(v->name, text) == 0) {
            store(s, k, v->value);
            return KIN_OK;
        }
        strncat(list, " ", sizeof list - strlen(list) - 1);
        strncat(list, v->name, sizeof list - strlen(list) - 1);
    }
    return kin_fail(err, KIN_ERR_UNSUPPORTED,
                    "scheduler: %s \"%s\" of %s is not supported; it has%s", k->key, text,
                    classes[s->class].name, list);
}

static kin_status read_list(const cJSON *config, const key_row *k, kin_scheduler *s, kin_error *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(config, k->key), *item;
    if (!list || cJSON_IsNull(list))
        return KIN_OK;
    if (!cJSON_IsArray(list))
        return kin_fail(err, KIN_ERR_FORMAT, "scheduler: %s must be a list of numbers", k->key);
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsNumber(item))
            return kin_fail(err, KIN_ERR_FORMAT, "scheduler: %s must be a list of numbers", k->key);
    }
    memcpy((char *)s + k->at, &list, sizeof list);
    return KIN_OK;
}

static kin_status read_number(const cJSON *config, const key_row *k, kin_scheduler *s,
                              kin_error *err)
{
    char *at = (char *)s + k->at;
    if (k->type == KEY_INT) {
        int64_t v = *(int *)at;
        KIN_TRY(kin_json_get_i64(config, k->key, (int64_t)k->lo, (int64_t)k->hi, &v, err));
        *(int *)at = (int)v;
        return KIN_OK;
    }
    double *v = (double *)at;
    const double before = *v;
    KIN_TRY(kin_json_get_f64(config, k->key, v, err));
    /* note: a default may be NaN (not given); what the file gives must lie in its range */
    if (!(*v >= k->lo && *v <= k->hi) && !(isnan(before) && isnan(*v)))
        return kin_fail(err, KIN_ERR_FORMAT, "scheduler: %s %g must lie in %g to %g", k->key, *v,
                        k->lo, k->hi);
    return KIN_OK;
}

static kin_status read_curve(const cJSON *config, const key_row *k, kin_scheduler *s,
                             kin_error *err)
{
    bool on = false;
    KIN_TRY(kin_json_get_bool(config, k->key, &on, err));
    if (!on)
        return KIN_OK;
    if (s->curve != KIN_CURVE_NONE)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "scheduler: %s must be false, another curve of sigmas is on", k->key);
    s->curve = (kin_sigma_curve)k->curve;
    return KIN_OK;
}

static kin_status read_keys(const cJSON *config, kin_scheduler *s, kin_error *err)
{
    for (int i = 0; i < KEYS; i++) {
        const key_row *k = &keys[i];
        if (!(k->classes & 1u << s->class))
            continue;
        switch (k->type) {
        case KEY_INT:
        case KEY_F64: KIN_TRY(read_number(config, k, s, err)); break;
        case KEY_BOOL:
            KIN_TRY(kin_json_get_bool(config, k->key, (bool *)((char *)s + k->at), err));
            break;
        case KEY_CHOICE:
        case KEY_NAME: KIN_TRY(read_name(config, k, s, err)); break;
        case KEY_LIST: KIN_TRY(read_list(config, k, s, err)); break;
        case KEY_CURVE: KIN_TRY(read_curve(config, k, s, err)); break;
        case KEY_UNUSED: break;
        }
    }
    return KIN_OK;
}

static kin_status known_keys(const cJSON *config, kin_scheduler_class class, kin_error *err)
{
    const char *known[KEYS + 4] = {"_class_name", "_diffusers_version"};
    int n = 2;
    for (int i = 0; i < KEYS; i++)
        if (keys[i].classes & 1u << class)
            known[n++] = keys[i].key;
    if (class == KIN_SCHEDULER_UNIPC)
        known[n++] = "solver_p";
    known[n] = NULL;
    return kin_json_known_keys(config, known, "scheduler", err);
}

/* --- rules between keys --- */

static kin_status unsupported(const kin_scheduler *s, const char *what, kin_error *err)
{
    return kin_fail(err, KIN_ERR_UNSUPPORTED, "scheduler: %s is not supported by %s", what,
                    classes[s->class].name);
}

static kin_status check_solver(const kin_scheduler *s, kin_error *err)
{
    const bool dpm = s->class == KIN_SCHEDULER_DPM;
    const bool noise_space =
        dpm ? s->algorithm == KIN_DPM_NOISE || s->algorithm == KIN_DPM_SDE_NOISE
            : s->class == KIN_SCHEDULER_UNIPC && !s->predict_x0;
    if (noise_space && s->prediction == KIN_PREDICT_FLOW)
        return unsupported(s, "flow_prediction in noise space", err);
    if (dpm && noise_space && !s->final_sigma_min)
        return unsupported(s, "final_sigmas_type zero with dpmsolver or sde-dpmsolver", err);
    if (dpm && s->algorithm == KIN_DPM_SDE_NOISE && s->order == 3)
        return unsupported(s, "solver_order 3 with sde-dpmsolver", err);
    if (dpm && s->dynamic_shift && s->shift_linear)
        return unsupported(s, "time_shift_type linear", err);
    if (s->shift_terminal > 0 && !s->flow_sigmas)
        return kin_fail(err, KIN_ERR_FORMAT, "scheduler: shift_terminal needs use_flow_sigmas");
    if (s->flow_sigmas && (s->prediction == KIN_PREDICT_EPSILON || s->prediction == KIN_PREDICT_V))
        return unsupported(s, "use_flow_sigmas with this prediction_type", err);
    if (!s->flow_sigmas && s->prediction == KIN_PREDICT_FLOW)
        return unsupported(s, "flow_prediction without use_flow_sigmas", err);
    return KIN_OK;
}

static kin_status check(const kin_scheduler *s, const cJSON *config, kin_error *err)
{
    const class_row *c = &classes[s->class];
    const cJSON *p = cJSON_GetObjectItemCaseSensitive(config, "solver_p");
    if (!(c->predictions >> s->prediction & 1))
        return unsupported(s, "this prediction_type", err);
    if (c->betas && !s->trained_betas && !(c->betas >> s->beta_schedule & 1))
        return unsupported(s, "this beta_schedule", err);
    if (s->trained_betas && cJSON_GetArraySize(s->trained_betas) != s->train_steps)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "scheduler: %d trained_betas must be as many as num_train_timesteps %d",
                        cJSON_GetArraySize(s->trained_betas), s->train_steps);
    if (s->shift_terminal >= 1)
        return kin_fail(err, KIN_ERR_FORMAT, "scheduler: shift_terminal %g must lie in [0,1)",
                        s->shift_terminal);
    if (p && !cJSON_IsNull(p))
        return unsupported(s, "solver_p", err);
    return check_solver(s, err);
}

kin_status kin_scheduler_read(const cJSON *config, kin_scheduler *out, kin_error *err)
{
    const char *name = classes[KIN_SCHEDULER_FLOW_EULER].name;
    int c = 0;
    if (!cJSON_IsObject(config))
        return kin_fail(err, KIN_ERR_FORMAT, "scheduler: the config must be an object");
    KIN_TRY(kin_json_get_str(config, "_class_name", &name, err));
    while (c < KIN_SCHEDULER_CLASSES && strcmp(classes[c].name, name) != 0)
        c++;
    if (c == KIN_SCHEDULER_CLASSES)
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "scheduler: class %s is not supported", name);
    *out = kin_scheduler_default((kin_scheduler_class)c);
    KIN_TRY(known_keys(config, out->class, err));
    KIN_TRY(read_keys(config, out, err));
    return check(out, config, err);
}

kin_status kin_scheduler_convert(const cJSON *config, const kin_scheduler *from,
                                 kin_scheduler_class class, kin_scheduler *out, kin_error *err)
{
    const bool flow = kin_scheduler_is_flow(from);
    *out = kin_scheduler_default(class);
    if (flow ? !(classes[class].predictions & P_FLOW) : !classes[class].betas)
        return kin_fail(err, KIN_ERR_ARG, "sampler: %s has no form for a model that predicts %s",
                        classes[class].name, flow ? "a flow" : "noise, v or the sample");
    if (config)
        KIN_TRY(read_keys(config, out, err));
    out->prediction = from->prediction;
    out->train_steps = from->train_steps;
    if (flow) {
        out->flow_sigmas = true;
        out->shift = from->shift;
    }
    return check(out, NULL, err);
}

/* --- writing --- */

static bool write_key(const kin_scheduler *s, const key_row *k, cJSON *to)
{
    const char *at = (const char *)s + k->at;
    const cJSON *list;
    const named_value *v = k->names;
    double x;
    switch (k->type) {
    case KEY_INT: return cJSON_AddNumberToObject(to, k->key, *(const int *)at);
    case KEY_F64:
        memcpy(&x, at, sizeof x);
        /* not given, or no limit: the reader's default */
        return !isfinite(x) || cJSON_AddNumberToObject(to, k->key, x);
    case KEY_BOOL: return cJSON_AddBoolToObject(to, k->key, *(const bool *)at);
    case KEY_CURVE: return cJSON_AddBoolToObject(to, k->key, (int)s->curve == k->curve);
    case KEY_CHOICE:
    case KEY_NAME:
        while (v->name && v->value != load(s, k))
            v++;
        return !v->name || cJSON_AddStringToObject(to, k->key, v->name);
    case KEY_LIST:
        memcpy(&list, at, sizeof list);
        return !list || kin_json_put(to, k->key, cJSON_Duplicate(list, true));
    case KEY_UNUSED: break;
    }
    return true;
}

kin_status kin_scheduler_write(const kin_scheduler *s, cJSON **out, kin_error *err)
{
    cJSON *to = cJSON_CreateObject();
    bool ok = to && cJSON_AddStringToObject(to, "_class_name", classes[s->class].name);
    for (int i = 0; ok && i < KEYS; i++)
        if (keys[i].classes & 1u << s->class)
            ok = write_key(s, &keys[i], to);
    if (ok) {
        *out = to;
        return KIN_OK;
    }
    cJSON_Delete(to);
    return kin_fail(err, KIN_ERR_MEM, "scheduler: out of memory");
}

kin_status kin_time_spacing_parse(const char *name, kin_time_spacing *out, kin_error *err)
{
    for (const named_value *v = spacing_names; v->name; v++) {
        if (strcmp(v->name, name) == 0) {
            *out = (kin_time_spacing)v->value;
            return KIN_OK;
        }
    }
    return kin_fail(err, KIN_ERR_ARG,
                    "schedule: spacing \"%s\" must be linspace, leading or trailing", name);
}
