/* samplers/scheduler.h: what a scheduler_config.json of diffusers (0.39.0) says: one struct for all
 * classes, each of which knows its own keys. Tables and times are schedule.h, steps sampler.h. */
#ifndef KIN_SAMPLERS_SCHEDULER_H
#define KIN_SAMPLERS_SCHEDULER_H

#include <stdbool.h>

#include <cjson/cJSON.h>

#include "base/json.h"

typedef enum kin_scheduler_class {
    KIN_SCHEDULER_FLOW_EULER = 0,  /* FlowMatchEulerDiscreteScheduler */
    KIN_SCHEDULER_FLOW_HEUN,       /* FlowMatchHeunDiscreteScheduler */
    KIN_SCHEDULER_EULER,           /* EulerDiscreteScheduler */
    KIN_SCHEDULER_EULER_ANCESTRAL, /* EulerAncestralDiscreteScheduler */
    KIN_SCHEDULER_HEUN,            /* HeunDiscreteScheduler */
    KIN_SCHEDULER_DPM,             /* DPMSolverMultistepScheduler */
    KIN_SCHEDULER_UNIPC,           /* UniPCMultistepScheduler */
    KIN_SCHEDULER_DDIM,            /* DDIMScheduler */
    KIN_SCHEDULER_DDPM,            /* DDPMScheduler */
    KIN_SCHEDULER_COG_DDIM,        /* CogVideoXDDIMScheduler */
    KIN_SCHEDULER_COG_DPM,         /* CogVideoXDPMScheduler */
    KIN_SCHEDULER_CLASSES
} kin_scheduler_class;

/* What the model's output is, where x = alpha x0 + sigma eps. */
typedef enum kin_prediction {
    KIN_PREDICT_EPSILON = 0,
    KIN_PREDICT_SAMPLE, /* x0 */
    KIN_PREDICT_V,      /* alpha eps - sigma x0 */
    KIN_PREDICT_FLOW    /* eps - x0 */
} kin_prediction;

typedef enum kin_beta_schedule {
    KIN_BETA_LINEAR = 0,
    KIN_BETA_SCALED_LINEAR, /* square of a line between the roots */
    KIN_BETA_COSINE,        /* squaredcos_cap_v2 */
    KIN_BETA_SIGMOID,
    KIN_BETA_LAPLACE,
    KIN_BETA_EXP
} kin_beta_schedule;

typedef enum kin_time_spacing {
    KIN_TIME_LINSPACE = 0,
    KIN_TIME_LEADING,
    KIN_TIME_TRAILING
} kin_time_spacing;

/* Curves that replace the sigmas between the first and the last of them. */
typedef enum kin_sigma_curve {
    KIN_CURVE_NONE = 0,
    KIN_CURVE_KARRAS,      /* Karras et al. 2022, eq. 5, rho 7 */
    KIN_CURVE_EXPONENTIAL, /* even in log sigma */
    KIN_CURVE_BETA,        /* quantiles of Beta(0.6, 0.6), Lee et al. 2024 */
    KIN_CURVE_LU           /* even in lambda = -log sigma, Lu et al. 2022 */
} kin_sigma_curve;

typedef enum kin_variance_type {
    KIN_VARIANCE_FIXED_SMALL = 0,
    KIN_VARIANCE_FIXED_SMALL_LOG,
    KIN_VARIANCE_FIXED_LARGE,
    KIN_VARIANCE_LEARNED,      /* channels C..2C-1 of the model's output are the variance */
    KIN_VARIANCE_LEARNED_RANGE /* ... lie between the logs of the small and the large one */
} kin_variance_type;

typedef enum kin_dpm_algorithm {
    KIN_DPM_PLUS = 0, /* dpmsolver++ */
    KIN_DPM_NOISE,    /* dpmsolver */
    KIN_DPM_SDE_PLUS, /* sde-dpmsolver++ */
    KIN_DPM_SDE_NOISE /* sde-dpmsolver */
} kin_dpm_algorithm;

typedef struct kin_scheduler {
    kin_scheduler_class class;
    kin_prediction prediction;
    int train_steps; /* num_train_timesteps */
    int steps_offset;
    kin_time_spacing spacing;
    kin_sigma_curve curve;

    /* noise levels from betas */
    kin_beta_schedule beta_schedule;
    double beta_start, beta_end;
    const cJSON *trained_betas; /* NULL, or a list in the config that was read, which must live */
    bool zero_snr;              /* rescale_betas_zero_snr */
    double snr_shift;           /* CogVideoX: snr_shift_scale */
    bool alpha_to_one;          /* set_alpha_to_one */

    /* noise levels of flows */
    bool flow_sigmas; /* use_flow_sigmas; true for the FlowMatch classes */
    double shift;     /* shift, flow_shift */
    bool dynamic_shift;
    double base_shift, max_shift, base_tokens, max_tokens; /* for kin_scheduler_mu */
    double shift_terminal;                                 /* 0: none */
    bool shift_linear; /* time_shift_type "linear" (else "exponential") */
    bool invert_sigmas;
    bool early_sigmas; /* UniPC: flow sigmas as diffusers 0.33 has them (those of DPM); no key */

    /* of the clean estimate */
    bool clip;
    double clip_range;
    bool threshold;
    double threshold_ratio, threshold_max;

    /* solvers */
    kin_variance_type variance;
    bool learned_channels; /* DPM: variance_type learned or learned_range; the rest is dropped */
    int order;
    kin_dpm_algorithm algorithm;
    bool heun_type;  /* DPM: solver_type heun, else midpoint */
    bool bh1;        /* UniPC: solver_type bh1, else bh2 */
    bool predict_x0; /* UniPC */
    bool lower_order_final, euler_at_final;
    bool final_sigma_min; /* final_sigmas_type sigma_min, else zero */
    const cJSON *disable_corrector;
    double lambda_min;           /* lambda_min_clipped */
    double sigma_min, sigma_max; /* NaN: not given */
    bool log_linear;             /* interpolation_type */
    bool continuous;             /* timestep_type */
    bool stochastic;             /* stochastic_sampling */

    /* arguments of step() in diffusers */
    double eta;                              /* DDIM */
    bool clipped_output;                     /* DDIM: use_clipped_model_output */
    double s_churn, s_tmin, s_tmax, s_noise; /* Euler, FlowMatchHeun */
} kin_scheduler;

/* The defaults of a class. */
kin_scheduler kin_scheduler_default(kin_scheduler_class class);

/* Reads a config over the defaults of the class that its _class_name names
 * (FlowMatchEulerDiscreteScheduler without one). Strict: an unknown key is an error that names the
 * nearest. The pointers in *out lead into the config. Fails: FORMAT (a key, or a value outside its
 * rule), UNSUPPORTED (another class, or an option that the class does not have). */
kin_status kin_scheduler_read(const cJSON *config, kin_scheduler *out, kin_error *err);
/* The same config for another class: keys that both know are carried over, as from_config does.
 * A flow stays a flow (shift and flow_shift are one thing) and betas stay betas. Fails: ARG where
 * the class has no form for what the model predicts. */
kin_status kin_scheduler_convert(const cJSON *config, const kin_scheduler *from,
                                 kin_scheduler_class class, kin_scheduler *out, kin_error *err);
/* The config as diffusers would write it (the keys of the class). *out: cJSON_Delete. Fails: MEM.
 */
kin_status kin_scheduler_write(const kin_scheduler *s, cJSON **out, kin_error *err);

/* True for noise levels x = (1-sigma) x0 + sigma eps. */
bool kin_scheduler_is_flow(const kin_scheduler *s);
/* The official name of a class. */
const char *kin_scheduler_name(kin_scheduler_class class);
/* "linspace", "leading", "trailing". Fails: ARG. */
kin_status kin_time_spacing_parse(const char *name, kin_time_spacing *out, kin_error *err);

/* mu of dynamic shifting for an image of `tokens` tokens: the line through (base_image_seq_len,
 * base_shift), (max_image_seq_len, max_shift). */
double kin_scheduler_mu(const kin_scheduler *s, double tokens);

#endif
