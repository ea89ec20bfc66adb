/* training/config_objective.c: the sections of train.json that say what is minimised, and how. */
#include <stdio.h>
#include <string.h>

#include "training/section.h"

static kin_status parse_factors(const kin_section *s, kin_optimizer_options *o)
{
    const cJSON *obj, *item;
    KIN_TRY(kin_section_object(s, "lr_factors", &obj));
    cJSON_ArrayForEach(item, obj)
    {
        if (o->factors == KIN_OPTIMIZER_FACTORS || strlen(item->string) >= 128)
            return kin_fail(s->err, KIN_ERR_ARG,
                            "train config: optimizer.lr_factors must have at most %d short names",
                            (int)KIN_OPTIMIZER_FACTORS);
        if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= 100))
            return kin_fail(s->err, KIN_ERR_ARG,
                            "train config: optimizer.lr_factors.%s must be between 0 and 100",
                            item->string);
        kin_lr_factor *f = &o->factor[o->factors++];
        snprintf(f->prefix, sizeof f->prefix, "%s", item->string);
        f->factor = item->valuedouble;
    }
    return KIN_OK;
}

static kin_status parse_betas(const kin_section *s, kin_optimizer_options *o)
{
    cJSON *a = cJSON_GetObjectItemCaseSensitive(s->obj, "betas");
    const double old[2] = {o->beta1, o->beta2};
    if (!a)
        return kin_section_put(s, "betas", cJSON_CreateDoubleArray(old, 2));
    const cJSON *x = cJSON_GetArrayItem(a, 0), *y = cJSON_GetArrayItem(a, 1);
    if (!cJSON_IsArray(a) || cJSON_GetArraySize(a) != 2 || !cJSON_IsNumber(x) ||
        !cJSON_IsNumber(y) || !(x->valuedouble >= 0 && x->valuedouble < 1) ||
        !(y->valuedouble >= 0 && y->valuedouble < 1))
        return kin_fail(s->err, KIN_ERR_ARG,
                        "train config: optimizer.betas must be two numbers in [0,1)");
    o->beta1 = x->valuedouble;
    o->beta2 = y->valuedouble;
    return KIN_OK;
}

static kin_status parse_schedule(const kin_section *s, kin_optimizer_options *o)
{
    char name[32];
    snprintf(name, sizeof name, "%s",
             o->schedule == KIN_LR_FROM_ZERO ? "constant_with_warmup" : "constant");
    KIN_TRY(kin_section_str(s, "schedule", name, sizeof name, true));
    if (strcmp(name, "constant") == 0)
        o->schedule = KIN_LR_CONSTANT;
    else if (strcmp(name, "cosine") == 0)
        o->schedule = KIN_LR_COSINE;
    else if (strcmp(name, "constant_with_warmup") == 0)
        o->schedule = KIN_LR_FROM_ZERO;
    else
        return kin_fail(s->err, KIN_ERR_ARG,
                        "train config: optimizer.schedule \"%s\" must be constant, "
                        "constant_with_warmup or cosine",
                        name);
    KIN_TRY(kin_section_i64(s, "warmup_steps", 0, INT64_C(1) << 40, &o->warmup_steps));
    if (o->schedule == KIN_LR_COSINE) {
        o->final_fraction = 0;
        KIN_TRY(kin_section_f64(s, "final_lr_fraction", 0, 1, &o->final_fraction));
    }
    return KIN_OK;
}

/* As WISA's scripts. */
static void set_wisa_optimizer(const kin_train_config *c, kin_optimizer_options *o)
{
    o->lr = 2e-5;
    o->beta2 = 0.99;
    o->weight_decay = 1e-4;
    o->ema_decay = 0;
    o->schedule = KIN_LR_FROM_ZERO;
    o->warmup_steps = c->base == KIN_FAMILY_WAN ? 200 : 100;
}

kin_status kin_section_optimizer(const kin_section *root, kin_train_config *c)
{
    static const char *const known[] = {"lr",
                                        "betas",
                                        "eps",
                                        "weight_decay",
                                        "weight_decay_matrices_only",
                                        "max_grad_norm",
                                        "schedule",
                                        "warmup_steps",
                                        "final_lr_fraction",
                                        "lr_factors",
                                        "ema_decay",
                                        "ema_warmup",
                                        NULL};
    kin_optimizer_options *o = &c->optimizer;
    kin_section s;
    *o = kin_optimizer_options_default();
    if (c->image && !c->autoencoder)
        o->max_grad_norm = 0.5; /* as published for image models */
    if (c->base)
        set_wisa_optimizer(c, o);
    KIN_TRY(kin_section_child(root, "optimizer", known, &s));
    KIN_TRY(kin_section_f64(&s, "lr", 0, 10, &o->lr));
    KIN_TRY(parse_betas(&s, o));
    KIN_TRY(kin_section_f64(&s, "eps", 1e-20, 1, &o->eps));
    KIN_TRY(kin_section_f64(&s, "weight_decay", 0, 10, &o->weight_decay));
    KIN_TRY(kin_section_bool(&s, "weight_decay_matrices_only", &o->decay_matrices_only));
    KIN_TRY(kin_section_f64(&s, "max_grad_norm", 0, 1e9, &o->max_grad_norm));
    KIN_TRY(kin_section_f64(&s, "ema_decay", 0, 1, &o->ema_decay));
    KIN_TRY(kin_section_bool(&s, "ema_warmup", &o->ema_warmup));
    if (c->base && o->ema_decay > 0)
        return kin_fail(s.err, KIN_ERR_ARG,
                        "train config: optimizer.ema_decay must be 0 when a published model is "
                        "fine-tuned");
    o->no_ema = c->base != KIN_FAMILY_DIT;
    KIN_TRY(parse_schedule(&s, o));
    KIN_TRY(parse_factors(&s, o));
    o->steps = c->steps;
    return KIN_OK;
}

/* keys of the DDPM objective, which stand in the resolved tree where it is chosen alone */
static kin_status parse_ddpm(const kin_section *s, kin_train_config *c)
{
    static const char *const kinds[] = {"flow", "ddpm", "vae", NULL};
    static const char *const schedules[] = {"linear", "squaredcos_cap_v2", NULL};
    static const char *const predictions[] = {"epsilon", "sample", "v_prediction", NULL};
    static const char *const variances[] = {"learned_range", "fixed_large", "fixed_small", NULL};
    static const char *const own[] = {"noise_schedule", "diffusion_steps", "prediction_type",
                                      "variance_type", "rescale_learned_sigmas"};
    const kin_variance_type of[] = {KIN_VARIANCE_LEARNED_RANGE, KIN_VARIANCE_FIXED_LARGE,
                                    KIN_VARIANCE_FIXED_SMALL};
    int kind = 0, schedule = 0, prediction = 0, variance = 0;
    int64_t steps = 1000;
    c->ddpm = kin_ddpm_options_default();
    if (cJSON_HasObjectItem(s->obj, "kind"))
        KIN_TRY(kin_section_pick(s, "kind", kinds, &kind));
    c->use_ddpm = kind == 1;
    for (size_t i = 0; !c->use_ddpm && i < sizeof own / sizeof *own; i++)
        if (cJSON_HasObjectItem(s->obj, own[i]))
            return kin_fail(s->err, KIN_ERR_ARG, "train config: %s.%s needs %s.kind ddpm", s->name,
                            own[i], s->name);
    if (!c->use_ddpm)
        return KIN_OK;
    KIN_TRY(kin_section_pick(s, "noise_schedule", schedules, &schedule));
    KIN_TRY(kin_section_i64(s, "diffusion_steps", 2, 100000, &steps));
    KIN_TRY(kin_section_pick(s, "prediction_type", predictions, &prediction));
    KIN_TRY(kin_section_pick(s, "variance_type", variances, &variance));
    KIN_TRY(kin_section_bool(s, "rescale_learned_sigmas", &c->ddpm.rescale));
    c->ddpm.schedule = schedule ? KIN_BETA_COSINE : KIN_BETA_LINEAR;
    c->ddpm.steps = (int)steps;
    c->ddpm.prediction = (kin_prediction)prediction;
    c->ddpm.variance = of[variance];
    return KIN_OK;
}

/* what an autoencoder is trained on */
static kin_status parse_vae(const kin_section *root, kin_train_config *c)
{
    static const char *const known[] = {"kind", "reconstruction", "kl_weight", NULL};
    static const char *const errors[] = {"l1", "l2", NULL};
    kin_section s;
    int error = 0;
    c->vae = kin_vae_objective_default();
    KIN_TRY(kin_section_child(root, "objective", known, &s));
    KIN_TRY(kin_section_pick(&s, "reconstruction", errors, &error));
    c->vae.squared = error == 1;
    return kin_section_f64(&s, "kl_weight", 0, 1e6, &c->vae.kl_weight);
}

kin_status kin_section_objective(const kin_section *root, kin_train_config *c)
{
    static const char *const known[] = {"weighting_scheme",
                                        "logit_mean",
                                        "logit_std",
                                        "sigmoid_scale",
                                        "mode_scale",
                                        "shift",
                                        "condition_dropout",
                                        "prior_dropout",
                                        "quant_dropout",
                                        "classifier_loss",
                                        "kind",
                                        "noise_schedule",
                                        "diffusion_steps",
                                        "prediction_type",
                                        "variance_type",
                                        "rescale_learned_sigmas",
                                        "reconstruction",
                                        "kl_weight",
                                        NULL};
    kin_objective_options *o = &c->objective;
    char scheme[32] = "logit_normal", loss[16] = "wisa";
    kin_section s;
    *o = kin_objective_options_default();
    if (c->autoencoder)
        return parse_vae(root, c);
    if (c->base) {
        o->condition_dropout = 0;
        o->prior_dropout = o->quant_dropout = 0.1f;
    }
    if (c->base == KIN_FAMILY_COGVIDEOX)
        snprintf(scheme, sizeof scheme, "uniform");
    KIN_TRY(kin_section_child(root, "objective", known, &s));
    if (cJSON_HasObjectItem(s.obj, "reconstruction") || cJSON_HasObjectItem(s.obj, "kl_weight"))
        return kin_fail(s.err, KIN_ERR_ARG,
                        "train config: objective.reconstruction and kl_weight: this needs "
                        "objective.kind vae");
    KIN_TRY(parse_ddpm(&s, c));
    KIN_TRY(kin_section_str(&s, "weighting_scheme", scheme, sizeof scheme, true));
    KIN_TRY(kin_time_scheme_parse(scheme, &o->scheme, s.err));
    KIN_TRY(kin_section_f32(&s, "logit_mean", -100, 100, &o->logit_mean));
    KIN_TRY(kin_section_f32(&s, "logit_std", 0, 100, &o->logit_std));
    KIN_TRY(kin_section_f32(&s, "sigmoid_scale", 0, 100, &o->sigmoid_scale));
    KIN_TRY(kin_section_f32(&s, "mode_scale", -10, 10, &o->mode_scale));
    KIN_TRY(kin_section_f32(&s, "shift", 1e-3, 1000, &o->shift));
    KIN_TRY(kin_section_f32(&s, "condition_dropout", 0, 1, &o->condition_dropout));
    KIN_TRY(kin_section_f32(&s, "prior_dropout", -1, 1, &o->prior_dropout));
    KIN_TRY(kin_section_f32(&s, "quant_dropout", -1, 1, &o->quant_dropout));
    if (c->base && (c->use_ddpm || o->condition_dropout > 0))
        return kin_fail(s.err, KIN_ERR_ARG,
                        "train config: objective.%s when a published model is fine-tuned",
                        c->use_ddpm ? "kind must be flow" : "condition_dropout must be 0");
    KIN_TRY(kin_section_str(&s, "classifier_loss", loss, sizeof loss, true));
    if (strcmp(loss, "wisa") == 0)
        o->classifier_loss = KIN_CLASSIFIER_LOSS_WISA;
    else if (strcmp(loss, "plain") == 0)
        o->classifier_loss = KIN_CLASSIFIER_LOSS_PLAIN;
    else
        return kin_fail(s.err, KIN_ERR_ARG,
                        "train config: objective.classifier_loss \"%s\" must be wisa or plain",
                        loss);
    return KIN_OK;
}
