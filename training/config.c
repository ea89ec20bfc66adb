#include "training/config.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/text.h"
#include "diffusion/preset.h"

/* A part of the tree under its name, for messages and defaults. */
typedef struct section {
    cJSON *obj;
    const char *name;
    kin_error *err;
} section;

static kin_status put(const section *s, const char *key, cJSON *value)
{
    if (!value)
        return kin_fail(s->err, KIN_ERR_MEM, "train config: out of memory");
    cJSON *old = cJSON_GetObjectItemCaseSensitive(s->obj, key);
    cJSON_bool done = old ? cJSON_ReplaceItemInObjectCaseSensitive(s->obj, key, value)
                          : cJSON_AddItemToObject(s->obj, key, value);
    if (done)
        return KIN_OK;
    cJSON_Delete(value);
    return kin_fail(s->err, KIN_ERR_MEM, "train config: out of memory");
}

static kin_status get_i64(const section *s, const char *key, int64_t lo, int64_t hi, int64_t *v)
{
    KIN_TRY(kin_json_get_i64(s->obj, key, lo, hi, v, s->err));
    return put(s, key, cJSON_CreateNumber((double)*v));
}

static kin_status get_f64(const section *s, const char *key, double lo, double hi, double *v)
{
    KIN_TRY(kin_json_get_f64(s->obj, key, v, s->err));
    if (!(*v >= lo && *v <= hi))
        return kin_fail(s->err, KIN_ERR_ARG, "train config: %s.%s %g must be between %g and %g",
                        s->name, key, *v, lo, hi);
    return put(s, key, cJSON_CreateNumber(*v));
}

static kin_status get_f32(const section *s, const char *key, double lo, double hi, float *v)
{
    double d = (double)*v;
    char text[32];
    /* the shortest decimal form, so that a default such as 0.1f is written as 0.1 */
    snprintf(text, sizeof text, "%.7g", d);
    sscanf(text, "%lf", &d);
    KIN_TRY(get_f64(s, key, lo, hi, &d));
    *v = (float)d;
    return KIN_OK;
}

static kin_status get_bool(const section *s, const char *key, bool *v)
{
    KIN_TRY(kin_json_get_bool(s->obj, key, v, s->err));
    return put(s, key, cJSON_CreateBool(*v));
}

/* A string of at most bytes-1 characters; absent: out stays as it is, and is written back if
 * `keep`. */
static kin_status get_str(const section *s, const char *key, char *out, size_t bytes, bool keep)
{
    const char *text = NULL;
    KIN_TRY(kin_json_get_str(s->obj, key, &text, s->err));
    if (text && strlen(text) >= bytes)
        return kin_fail(s->err, KIN_ERR_ARG, "train config: %s.%s must be shorter than %zu bytes",
                        s->name, key, bytes);
    if (text)
        memcpy(out, text, strlen(text) + 1);
    return text || !keep ? KIN_OK : put(s, key, cJSON_CreateString(out));
}

static kin_status get_path(const section *s, const char *key, const char *dir,
                           char out[KIN_PATH_MAX])
{
    char name[KIN_PATH_MAX] = "";
    KIN_TRY(get_str(s, key, name, sizeof name, false));
    char joined[KIN_PATH_MAX], real[PATH_MAX];
    out[0] = '\0';
    if (!name[0])
        return KIN_OK;
    KIN_TRY(kin_path_join(joined, dir, name, s->err));
    /* absolute, so that the resolved configuration means the same from any folder */
    const char *found = realpath(joined, real);
    if (found && strlen(found) < KIN_PATH_MAX)
        memcpy(joined, found, strlen(found) + 1);
    memcpy(out, joined, sizeof joined);
    return put(s, key, cJSON_CreateString(out));
}

/* The member object `key`, made empty where it is absent. */
static kin_status get_section(const section *s, const char *key, const char *const *known,
                              section *out)
{
    cJSON *obj = cJSON_GetObjectItemCaseSensitive(s->obj, key);
    if (!obj || cJSON_IsNull(obj)) {
        KIN_TRY(put(s, key, cJSON_CreateObject()));
        obj = cJSON_GetObjectItemCaseSensitive(s->obj, key);
    }
    if (!cJSON_IsObject(obj))
        return kin_fail(s->err, KIN_ERR_FORMAT, "train config: %s must be an object", key);
    *out = (section){obj, key, s->err};
    return kin_json_known_keys(obj, known, key, s->err);
}

static kin_status get_object(const section *s, const char *key, const cJSON **out)
{
    const cJSON *obj = cJSON_GetObjectItemCaseSensitive(s->obj, key);
    *out = NULL;
    if (!obj || cJSON_IsNull(obj))
        return KIN_OK;
    if (!cJSON_IsObject(obj))
        return kin_fail(s->err, KIN_ERR_FORMAT, "train config: %s must be an object", key);
    *out = obj;
    return KIN_OK;
}

/* Side of the images of a model whose samples are images with labels, else 0. */
static int64_t image_side(const cJSON *transformer)
{
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(transformer, "_class_name"),
                *size = cJSON_GetObjectItemCaseSensitive(transformer, "input_size");
    if (cJSON_IsString(name) ? strcmp(name->valuestring, "DiTTransformer2DModel") != 0 &&
                                   strcmp(name->valuestring, "KinemaImageClassifier") != 0
                             : !size)
        return 0;
    return cJSON_IsNumber(size) && size->valuedouble >= 1 && size->valuedouble <= 16384
               ? (int64_t)size->valuedouble
               : 32; /* as the model's own default */
}

static kin_status parse_tokenizer(const section *root, const char *dir, kin_train_config *c)
{
    static const char *const known[] = {"file",      "type",          "vocab_size",
                                        "sentences", "byte_fallback", NULL};
    section s;
    if (!c->text_encoder)
        return KIN_OK;
    c->tokenizer.vocab_size = 400;
    c->tokenizer.sentences = 2000;
    KIN_TRY(get_section(root, "tokenizer", known, &s));
    KIN_TRY(get_path(&s, "file", dir, c->tokenizer.file));
    if (c->tokenizer.file[0])
        return KIN_OK;
    memcpy(c->tokenizer.type, "bpe", 4);
    KIN_TRY(get_str(&s, "type", c->tokenizer.type, sizeof c->tokenizer.type, true));
    KIN_TRY(get_i64(&s, "vocab_size", 8, 1000000, &c->tokenizer.vocab_size));
    KIN_TRY(get_i64(&s, "sentences", 1, 1000000, &c->tokenizer.sentences));
    return get_bool(&s, "byte_fallback", &c->tokenizer.byte_fallback);
}

static kin_status parse_kinds(const section *s, kin_sim_options *o)
{
    char list[512] = "";
    KIN_TRY(get_str(s, "kinds", list, sizeof list, false));
    return list[0] ? kin_sim_options_kinds(o, list, s->err) : KIN_OK;
}

static kin_status parse_simulate(const section *data, kin_train_config *c)
{
    static const char *const known[] = {
        "seed",       "count",          "kinds",     "fps_jitter",     "radius_min",
        "radius_max", "gradient_share", "box_share", "short_captions", NULL};
    kin_sim_options *o = &c->data.sim;
    int64_t seed = 1;
    section s;
    KIN_TRY(get_section(data, "simulate", known, &s));
    KIN_TRY(get_i64(&s, "seed", 0, INT64_C(1) << 53, &seed));
    c->data.sim_seed = (uint64_t)seed;
    KIN_TRY(get_i64(&s, "count", 0, INT32_MAX, &c->data.sim_count));
    KIN_TRY(parse_kinds(&s, o));
    KIN_TRY(get_f64(&s, "fps_jitter", 0, 0.3, &o->fps_jitter));
    KIN_TRY(get_f64(&s, "radius_min", 0, 1000, &o->radius_min));
    KIN_TRY(get_f64(&s, "radius_max", 0, 1000, &o->radius_max));
    KIN_TRY(get_f64(&s, "gradient_share", 0, 1, &o->gradient_share));
    KIN_TRY(get_f64(&s, "box_share", 0, 1, &o->box_share));
    KIN_TRY(get_f64(&s, "short_captions", 0, 1, &o->short_captions));
    o->frames = (int)c->data.frames;
    o->height = (int)c->data.height;
    o->width = (int)c->data.width;
    o->fps = c->data.fps;
    return kin_sim_options_check(o, s.err);
}

static kin_status parse_caption(const section *s, kin_caption_field *out)
{
    char name[64] = "captions";
    static const char *const names[] = {"captions", "captions+phys_law", NULL};
    KIN_TRY(get_str(s, "caption_field", name, sizeof name, true));
    for (int i = 0; names[i]; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (kin_caption_field)i;
            return KIN_OK;
        }
    return kin_fail(s->err, KIN_ERR_ARG,
                    "train config: data.caption_field \"%s\" must be captions or captions+phys_law",
                    name);
}

/* "data": "PATH" means {"path": "PATH"}; --data replaces path and simulate. */
static kin_status normalise_data(const section *root, const char *override)
{
    cJSON *data = cJSON_GetObjectItemCaseSensitive(root->obj, "data");
    if (cJSON_IsString(data)) {
        cJSON *obj = cJSON_CreateObject();
        if (obj && !cJSON_AddStringToObject(obj, "path", data->valuestring)) {
            cJSON_Delete(obj);
            obj = NULL;
        }
        KIN_TRY(put(root, "data", obj));
        data = obj;
    }
    if (!override)
        return KIN_OK;
    if (!data)
        KIN_TRY(put(root, "data", cJSON_CreateObject()));
    data = cJSON_GetObjectItemCaseSensitive(root->obj, "data");
    section s = {data, "data", root->err};
    cJSON_DeleteItemFromObjectCaseSensitive(data, "simulate");
    return put(&s, "path", cJSON_CreateString(override));
}

static kin_status parse_data(const section *root, const char *dir, const char *override,
                             kin_train_config *c)
{
    static const char *const known[] = {"path",     "split",    "simulate", "caption_field",
                                        "frames",   "height",   "width",    "fps",
                                        "held_out", "cache_mb", "flip",     NULL};
    section s;
    KIN_TRY(normalise_data(root, override));
    KIN_TRY(get_section(root, "data", known, &s));
    KIN_TRY(get_path(&s, "path", override ? NULL : dir, c->data.path));
    KIN_TRY(get_str(&s, "split", c->data.split, sizeof c->data.split, false));
    c->data.simulate = cJSON_HasObjectItem(s.obj, "simulate");
    if (c->data.simulate == (c->data.path[0] != '\0'))
        return kin_fail(s.err, KIN_ERR_ARG,
                        "train config: data must have either path or simulate (or give --data)");
    c->data.frames = c->image ? 1 : 16;
    c->data.height = c->data.width = c->image ? c->image : 32;
    c->data.fps = 8;
    c->data.held_out = 0;
    c->data.cache_mb = 1024;
    c->data.flip = -1;
    KIN_TRY(get_i64(&s, "frames", 1, 4096, &c->data.frames));
    KIN_TRY(get_i64(&s, "height", 1, 8192, &c->data.height));
    KIN_TRY(get_i64(&s, "width", 1, 8192, &c->data.width));
    KIN_TRY(get_f64(&s, "fps", 0.01, 1000, &c->data.fps));
    KIN_TRY(get_i64(&s, "held_out", 0, 1000000, &c->data.held_out));
    KIN_TRY(get_i64(&s, "cache_mb", 0, 1 << 24, &c->data.cache_mb));
    KIN_TRY(get_f32(&s, "flip", -1, 1, &c->data.flip));
    KIN_TRY(parse_caption(&s, &c->data.caption));
    return c->data.simulate ? parse_simulate(&s, c) : KIN_OK;
}

static kin_status parse_factors(const section *s, kin_optimizer_options *o)
{
    const cJSON *obj, *item;
    KIN_TRY(get_object(s, "lr_factors", &obj));
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

static kin_status parse_betas(const section *s, kin_optimizer_options *o)
{
    cJSON *a = cJSON_GetObjectItemCaseSensitive(s->obj, "betas");
    const double old[2] = {o->beta1, o->beta2};
    if (!a)
        return put(s, "betas", cJSON_CreateDoubleArray(old, 2));
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

static kin_status parse_schedule(const section *s, kin_optimizer_options *o)
{
    char name[32] = "constant";
    KIN_TRY(get_str(s, "schedule", name, sizeof name, true));
    if (strcmp(name, "constant") == 0)
        o->schedule = KIN_LR_CONSTANT;
    else if (strcmp(name, "cosine") == 0)
        o->schedule = KIN_LR_COSINE;
    else
        return kin_fail(s->err, KIN_ERR_ARG,
                        "train config: optimizer.schedule \"%s\" must be constant or cosine", name);
    KIN_TRY(get_i64(s, "warmup_steps", 0, INT64_C(1) << 40, &o->warmup_steps));
    if (o->schedule == KIN_LR_COSINE) {
        o->final_fraction = 0;
        KIN_TRY(get_f64(s, "final_lr_fraction", 0, 1, &o->final_fraction));
    }
    return KIN_OK;
}

static kin_status parse_optimizer(const section *root, kin_train_config *c)
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
    section s;
    *o = kin_optimizer_options_default();
    if (c->image)
        o->max_grad_norm = 0.5; /* as published for image models */
    KIN_TRY(get_section(root, "optimizer", known, &s));
    KIN_TRY(get_f64(&s, "lr", 0, 10, &o->lr));
    KIN_TRY(parse_betas(&s, o));
    KIN_TRY(get_f64(&s, "eps", 1e-20, 1, &o->eps));
    KIN_TRY(get_f64(&s, "weight_decay", 0, 10, &o->weight_decay));
    KIN_TRY(get_bool(&s, "weight_decay_matrices_only", &o->decay_matrices_only));
    KIN_TRY(get_f64(&s, "max_grad_norm", 0, 1e9, &o->max_grad_norm));
    KIN_TRY(get_f64(&s, "ema_decay", 0, 1, &o->ema_decay));
    KIN_TRY(get_bool(&s, "ema_warmup", &o->ema_warmup));
    KIN_TRY(parse_schedule(&s, o));
    KIN_TRY(parse_factors(&s, o));
    o->steps = c->steps;
    return KIN_OK;
}

static kin_status pick(const section *s, const char *key, const char *const *names, int *at)
{
    char text[32], list[128] = "";
    snprintf(text, sizeof text, "%s", names[*at]);
    KIN_TRY(get_str(s, key, text, sizeof text, true));
    for (int i = 0; names[i]; i++) {
        if (strcmp(names[i], text) == 0) {
            *at = i;
            return KIN_OK;
        }
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", names[i]);
    }
    return kin_fail(s->err, KIN_ERR_ARG, "train config: %s.%s \"%s\" must be one of %s", s->name,
                    key, text, list);
}

/* keys of the DDPM objective, which stand in the resolved tree where it is chosen alone */
static kin_status parse_ddpm(const section *s, kin_train_config *c)
{
    static const char *const kinds[] = {"flow", "ddpm", NULL};
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
        KIN_TRY(pick(s, "kind", kinds, &kind));
    c->use_ddpm = kind == 1;
    for (size_t i = 0; !c->use_ddpm && i < sizeof own / sizeof *own; i++)
        if (cJSON_HasObjectItem(s->obj, own[i]))
            return kin_fail(s->err, KIN_ERR_ARG, "train config: %s.%s needs %s.kind ddpm", s->name,
                            own[i], s->name);
    if (!c->use_ddpm)
        return KIN_OK;
    KIN_TRY(pick(s, "noise_schedule", schedules, &schedule));
    KIN_TRY(get_i64(s, "diffusion_steps", 2, 100000, &steps));
    KIN_TRY(pick(s, "prediction_type", predictions, &prediction));
    KIN_TRY(pick(s, "variance_type", variances, &variance));
    KIN_TRY(get_bool(s, "rescale_learned_sigmas", &c->ddpm.rescale));
    c->ddpm.schedule = schedule ? KIN_BETA_COSINE : KIN_BETA_LINEAR;
    c->ddpm.steps = (int)steps;
    c->ddpm.prediction = (kin_prediction)prediction;
    c->ddpm.variance = of[variance];
    return KIN_OK;
}

static kin_status parse_objective(const section *root, kin_train_config *c)
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
                                        NULL};
    kin_objective_options *o = &c->objective;
    char scheme[32] = "logit_normal", loss[16] = "wisa";
    section s;
    *o = kin_objective_options_default();
    KIN_TRY(get_section(root, "objective", known, &s));
    KIN_TRY(parse_ddpm(&s, c));
    KIN_TRY(get_str(&s, "weighting_scheme", scheme, sizeof scheme, true));
    KIN_TRY(kin_time_scheme_parse(scheme, &o->scheme, s.err));
    KIN_TRY(get_f32(&s, "logit_mean", -100, 100, &o->logit_mean));
    KIN_TRY(get_f32(&s, "logit_std", 0, 100, &o->logit_std));
    KIN_TRY(get_f32(&s, "sigmoid_scale", 0, 100, &o->sigmoid_scale));
    KIN_TRY(get_f32(&s, "mode_scale", -10, 10, &o->mode_scale));
    KIN_TRY(get_f32(&s, "shift", 1e-3, 1000, &o->shift));
    KIN_TRY(get_f32(&s, "condition_dropout", 0, 1, &o->condition_dropout));
    KIN_TRY(get_f32(&s, "prior_dropout", -1, 1, &o->prior_dropout));
    KIN_TRY(get_f32(&s, "quant_dropout", -1, 1, &o->quant_dropout));
    KIN_TRY(get_str(&s, "classifier_loss", loss, sizeof loss, true));
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

static kin_status parse_sigmas(const section *s, kin_train_config *c)
{
    static const double standard[] = {.98, .9, .8, .65, .5, .3};
    if (!cJSON_HasObjectItem(s->obj, "sigmas"))
        KIN_TRY(put(s, "sigmas", cJSON_CreateDoubleArray(standard, 6)));
    const cJSON *a = cJSON_GetObjectItemCaseSensitive(s->obj, "sigmas"), *item;
    if (!cJSON_IsArray(a) || cJSON_GetArraySize(a) < 1 ||
        cJSON_GetArraySize(a) > KIN_TRAIN_MAX_SIGMAS)
        return kin_fail(s->err, KIN_ERR_ARG,
                        "train config: validation.sigmas must be an array of 1 to %d numbers",
                        (int)KIN_TRAIN_MAX_SIGMAS);
    cJSON_ArrayForEach(item, a)
    {
        if (!cJSON_IsNumber(item) || !(item->valuedouble > 0 && item->valuedouble <= 1))
            return kin_fail(s->err, KIN_ERR_ARG,
                            "train config: validation.sigmas must lie in (0,1]");
        c->validation.sigma[c->validation.sigmas++] = (float)item->valuedouble;
    }
    return KIN_OK;
}

static kin_status parse_reports(const section *root, kin_train_config *c)
{
    static const char *const val[] = {"every", "sigmas", "shuffled", NULL};
    static const char *const smp[] = {"every", "count", "steps", "cfg_scale", NULL};
    static const char *const ckp[] = {"every", "keep", NULL};
    section s;
    const int64_t many = INT64_C(1) << 40;
    KIN_TRY(get_section(root, "validation", val, &s));
    KIN_TRY(get_i64(&s, "every", 0, many, &c->validation.every));
    KIN_TRY(get_bool(&s, "shuffled", &c->validation.shuffled));
    KIN_TRY(parse_sigmas(&s, c));
    KIN_TRY(get_section(root, "samples", smp, &s));
    c->samples.count = 8;
    c->samples.steps = 25;
    c->samples.cfg_scale = 3;
    KIN_TRY(get_i64(&s, "every", 0, many, &c->samples.every));
    KIN_TRY(get_i64(&s, "count", 1, 1024, &c->samples.count));
    KIN_TRY(get_i64(&s, "steps", 1, 1000, &c->samples.steps));
    KIN_TRY(get_f64(&s, "cfg_scale", 0, 100, &c->samples.cfg_scale));
    KIN_TRY(get_section(root, "checkpoint", ckp, &s));
    c->checkpoint.every = 1000;
    c->checkpoint.keep = 2;
    KIN_TRY(get_i64(&s, "every", 0, many, &c->checkpoint.every));
    return get_i64(&s, "keep", 1, 1000000, &c->checkpoint.keep);
}

static kin_status parse_root(const section *root, const char *dir, int64_t steps,
                             kin_train_config *c)
{
    char compute[8] = "", precision[8] = "";
    int64_t seed = 1;
    KIN_TRY(get_object(root, "transformer", &c->transformer));
    if (c->transformer)
        KIN_TRY(
            kin_preset_expand(cJSON_GetObjectItemCaseSensitive(c->json, "transformer"), root->err));
    KIN_TRY(get_object(root, "text_encoder", &c->text_encoder));
    KIN_TRY(get_object(root, "scheduler", &c->scheduler));
    KIN_TRY(get_path(root, "init_from", dir, c->init_from));
    c->image = c->transformer ? image_side(c->transformer) : 0;
    if (!c->transformer == !c->init_from[0])
        return kin_fail(root->err, KIN_ERR_ARG,
                        "train config: needs either transformer or init_from");
    KIN_TRY(get_i64(root, "seed", 0, INT64_C(1) << 53, &seed));
    c->seed = (uint64_t)seed;
    c->batch = c->accumulation = 1;
    c->log_every = 10;
    if (steps > 0)
        KIN_TRY(put(root, "steps", cJSON_CreateNumber((double)steps)));
    c->steps = 1000;
    KIN_TRY(get_i64(root, "steps", 1, INT64_C(1) << 31, &c->steps));
    KIN_TRY(get_i64(root, "batch_size", 1, KIN_TRAIN_MAX_BATCH, &c->batch));
    KIN_TRY(get_i64(root, "gradient_accumulation", 1, 65536, &c->accumulation));
    KIN_TRY(get_i64(root, "log_every", 1, INT64_C(1) << 31, &c->log_every));
    KIN_TRY(get_bool(root, "checkpointing", &c->checkpointing));
    KIN_TRY(get_str(root, "compute", compute, sizeof compute, false));
    c->has_compute = compute[0] != '\0';
    if (c->has_compute && (!kin_dtype_parse(compute, &c->compute) ||
                           (c->compute != KIN_DTYPE_F32 && c->compute != KIN_DTYPE_BF16)))
        return kin_fail(root->err, KIN_ERR_ARG,
                        "train config: compute \"%s\" must be f32 or bf16 (int8 has no gradient)",
                        compute);
    KIN_TRY(get_str(root, "matmul_precision", precision, sizeof precision, false));
    c->has_precision = precision[0] != '\0';
    c->precision = strcmp(precision, "high") == 0 ? KIN_PRECISION_HIGH : KIN_PRECISION_HIGHEST;
    if (c->has_precision && c->precision != KIN_PRECISION_HIGH && strcmp(precision, "highest") != 0)
        return kin_fail(root->err, KIN_ERR_ARG,
                        "train config: matmul_precision \"%s\" must be highest or high", precision);
    return KIN_OK;
}

kin_status kin_train_config_parse(const cJSON *json, const char *dir, const char *data,
                                  int64_t steps, kin_train_config *c, kin_error *err)
{
    static const char *const known[] = {"transformer",
                                        "text_encoder",
                                        "scheduler",
                                        "init_from",
                                        "tokenizer",
                                        "seed",
                                        "steps",
                                        "batch_size",
                                        "compute",
                                        "gradient_accumulation",
                                        "matmul_precision",
                                        "log_every",
                                        "checkpointing",
                                        "data",
                                        "optimizer",
                                        "objective",
                                        "validation",
                                        "samples",
                                        "checkpoint",
                                        NULL};
    kin_status status = KIN_OK;
    memset(c, 0, sizeof *c);
    kin_sim_options_default(&c->data.sim);
    if (!cJSON_IsObject(json))
        return kin_fail(err, KIN_ERR_FORMAT, "train config: must be an object");
    c->json = cJSON_Duplicate(json, true);
    if (!c->json)
        return kin_fail(err, KIN_ERR_MEM, "train config: out of memory");
    section root = {c->json, "train config", err};
    KIN_GOTO(kin_json_known_keys(c->json, known, "train config", err));
    KIN_GOTO(parse_root(&root, dir, steps, c));
    KIN_GOTO(parse_tokenizer(&root, dir, c));
    KIN_GOTO(parse_data(&root, dir, data, c));
    KIN_GOTO(parse_optimizer(&root, c));
    KIN_GOTO(parse_objective(&root, c));
    KIN_GOTO(parse_reports(&root, c));
done:
    if (status != KIN_OK)
        kin_train_config_free(c);
    return status;
}

kin_status kin_train_config_read(const char *path, const char *data, int64_t steps,
                                 kin_train_config *out, kin_error *err)
{
    char dir[KIN_PATH_MAX];
    cJSON *json = NULL;
    memset(out, 0, sizeof *out);
    KIN_TRY(kin_path_dir(dir, path, err));
    KIN_TRY(kin_json_read(path, 16 << 20, KIN_JSON_ALLOW_INFINITY, &json, err));
    kin_status status = kin_train_config_parse(json, dir, data, steps, out, err);
    cJSON_Delete(json);
    return status == KIN_OK ? KIN_OK : kin_fail_prefix(err, "%s", path);
}

kin_status kin_train_config_classifier(const char *data, int64_t steps, kin_train_config *out,
                                       kin_error *err)
{
    static const char text[] =
        "{\"transformer\":{\"_class_name\":\"KinemaImageClassifier\",\"input_size\":32},"
        "\"steps\":1500,\"batch_size\":64,\"log_every\":50,\"optimizer\":{\"lr\":0.001,"
        "\"weight_decay\":0.05,\"weight_decay_matrices_only\":true,\"max_grad_norm\":1,"
        "\"schedule\":\"cosine\",\"warmup_steps\":100,\"ema_decay\":0.99,\"ema_warmup\":true},"
        "\"validation\":{\"every\":250},\"checkpoint\":{\"every\":250,\"keep\":1}}";
    cJSON *json = NULL;
    memset(out, 0, sizeof *out);
    KIN_TRY(kin_json_parse(text, sizeof text - 1, KIN_JSON_STRICT, &json, err));
    kin_status status = kin_train_config_parse(json, NULL, data, steps, out, err);
    cJSON_Delete(json);
    return status;
}

kin_status kin_train_config_adopt(kin_train_config *c, kin_ctx *ctx)
{
    const section root = {c->json, "train config", &ctx->error};
    if (c->has_compute)
        ctx->compute = c->compute;
    if (c->has_precision)
        ctx->precision = c->precision;
    return ctx->precision == KIN_PRECISION_HIGH
               ? put(&root, "matmul_precision", cJSON_CreateString("high"))
               : KIN_OK;
}

void kin_train_config_free(kin_train_config *c)
{
    cJSON_Delete(c->json);
    memset(c, 0, sizeof *c);
}

/* Keys that may change between the parts of one run. */
static bool may_change(const char *parent, const char *key)
{
    static const char *const free_keys[] = {".steps",         ".log_every",       ".samples",
                                            ".checkpoint",    "data.path",        "data.cache_mb",
                                            ".checkpointing", "validation.every", NULL};
    char name[256];
    snprintf(name, sizeof name, "%s.%s", parent, key);
    for (int i = 0; free_keys[i]; i++)
        if (strcmp(name, free_keys[i]) == 0)
            return true;
    return false;
}

static kin_status compare(const cJSON *a, const cJSON *b, const char *parent, kin_error *err)
{
    const cJSON *item;
    cJSON_ArrayForEach(item, a)
    {
        const cJSON *other = cJSON_GetObjectItemCaseSensitive(b, item->string);
        if (may_change(parent, item->string))
            continue;
        if (parent[0] == '\0' && cJSON_IsObject(item) && cJSON_IsObject(other)) {
            KIN_TRY(compare(item, other, item->string, err));
            KIN_TRY(compare(other, item, item->string, err));
        } else if (!cJSON_Compare(item, other, true)) {
            return kin_fail(err, KIN_ERR_ARG,
                            "resume: %s%s%s differs from the run's configuration and must not",
                            parent, parent[0] ? "." : "", item->string);
        }
    }
    return KIN_OK;
}

kin_status kin_train_config_compatible(const kin_train_config *c, const cJSON *saved,
                                       kin_error *err)
{
    kin_train_config old;
    /* note: parsed again, so that keys of later releases have their defaults in it */
    KIN_TRY(kin_train_config_parse(saved, NULL, NULL, 0, &old, err));
    kin_status status = compare(c->json, old.json, "", err);
    if (status == KIN_OK)
        status = compare(old.json, c->json, "", err);
    kin_train_config_free(&old);
    return status;
}
