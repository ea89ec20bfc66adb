#include "training/config.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "diffusion/preset.h"
#include "training/section.h"

/* Side of the images of a model that takes images, else 0. */
static int64_t image_side(const cJSON *transformer)
{
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(transformer, "_class_name"),
                *size = cJSON_GetObjectItemCaseSensitive(transformer, "input_size"),
                *sample = cJSON_GetObjectItemCaseSensitive(transformer, "sample_size");
    if (cJSON_IsString(name) && strcmp(name->valuestring, "AutoencoderKL") == 0)
        return cJSON_IsNumber(sample) && sample->valuedouble >= 1 && sample->valuedouble <= 16384
                   ? (int64_t)sample->valuedouble
                   : 32;
    if (cJSON_IsString(name) ? strcmp(name->valuestring, "DiTTransformer2DModel") != 0 &&
                                   strcmp(name->valuestring, "KinemaImageClassifier") != 0
                             : !size)
        return 0;
    return cJSON_IsNumber(size) && size->valuedouble >= 1 && size->valuedouble <= 16384
               ? (int64_t)size->valuedouble
               : 32; /* as the model's own default */
}

static kin_status parse_tokenizer(const kin_section *root, const char *dir, kin_train_config *c)
{
    static const char *const known[] = {"file",      "type",          "vocab_size",
                                        "sentences", "byte_fallback", NULL};
    kin_section s;
    if (!c->text_encoder)
        return KIN_OK;
    c->tokenizer.vocab_size = 400;
    c->tokenizer.sentences = 2000;
    KIN_TRY(kin_section_child(root, "tokenizer", known, &s));
    KIN_TRY(kin_section_path(&s, "file", dir, c->tokenizer.file));
    if (c->tokenizer.file[0])
        return KIN_OK;
    memcpy(c->tokenizer.type, "bpe", 4);
    KIN_TRY(kin_section_str(&s, "type", c->tokenizer.type, sizeof c->tokenizer.type, true));
    KIN_TRY(kin_section_i64(&s, "vocab_size", 8, 1000000, &c->tokenizer.vocab_size));
    KIN_TRY(kin_section_i64(&s, "sentences", 1, 1000000, &c->tokenizer.sentences));
    return kin_section_bool(&s, "byte_fallback", &c->tokenizer.byte_fallback);
}

static kin_status parse_kinds(const kin_section *s, kin_sim_options *o)
{
    char list[512] = "";
    KIN_TRY(kin_section_str(s, "kinds", list, sizeof list, false));
    return list[0] ? kin_sim_options_kinds(o, list, s->err) : KIN_OK;
}

static kin_status parse_simulate(const kin_section *data, kin_train_config *c)
{
    static const char *const known[] = {
        "seed",       "count",          "kinds",     "fps_jitter",     "radius_min",
        "radius_max", "gradient_share", "box_share", "short_captions", NULL};
    kin_sim_options *o = &c->data.sim;
    int64_t seed = 1;
    kin_section s;
    KIN_TRY(kin_section_child(data, "simulate", known, &s));
    KIN_TRY(kin_section_i64(&s, "seed", 0, INT64_C(1) << 53, &seed));
    c->data.sim_seed = (uint64_t)seed;
    KIN_TRY(kin_section_i64(&s, "count", 0, INT32_MAX, &c->data.sim_count));
    KIN_TRY(parse_kinds(&s, o));
    KIN_TRY(kin_section_f64(&s, "fps_jitter", 0, 0.3, &o->fps_jitter));
    KIN_TRY(kin_section_f64(&s, "radius_min", 0, 1000, &o->radius_min));
    KIN_TRY(kin_section_f64(&s, "radius_max", 0, 1000, &o->radius_max));
    KIN_TRY(kin_section_f64(&s, "gradient_share", 0, 1, &o->gradient_share));
    KIN_TRY(kin_section_f64(&s, "box_share", 0, 1, &o->box_share));
    KIN_TRY(kin_section_f64(&s, "short_captions", 0, 1, &o->short_captions));
    o->frames = (int)c->data.frames;
    o->height = (int)c->data.height;
    o->width = (int)c->data.width;
    o->fps = c->data.fps;
    return kin_sim_options_check(o, s.err);
}

kin_status kin_record_filter_parse(const char *name, kin_record_filter *out, kin_error *err)
{
    static const char *const names[] = {"none", "wisa", "wisa-online", NULL};
    for (int i = 0; names[i]; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (kin_record_filter)i;
            return KIN_OK;
        }
    return kin_fail(err, KIN_ERR_ARG, "filter \"%s\" must be none, wisa or wisa-online", name);
}

static kin_status parse_caption(const kin_section *s, kin_caption_field *out)
{
    static const char *const names[] = {"captions", "captions+phys_law", NULL};
    char name[64];
    snprintf(name, sizeof name, "%s", names[*out]);
    KIN_TRY(kin_section_str(s, "caption_field", name, sizeof name, true));
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
static kin_status normalise_data(const kin_section *root, const char *override)
{
    cJSON *data = cJSON_GetObjectItemCaseSensitive(root->obj, "data");
    if (cJSON_IsString(data)) {
        cJSON *obj = cJSON_CreateObject();
        if (obj && !cJSON_AddStringToObject(obj, "path", data->valuestring)) {
            cJSON_Delete(obj);
            obj = NULL;
        }
        KIN_TRY(kin_section_put(root, "data", obj));
        data = obj;
    }
    if (!override)
        return KIN_OK;
    if (!data)
        KIN_TRY(kin_section_put(root, "data", cJSON_CreateObject()));
    data = cJSON_GetObjectItemCaseSensitive(root->obj, "data");
    kin_section s = {data, "data", root->err};
    cJSON_DeleteItemFromObjectCaseSensitive(data, "simulate");
    return kin_section_put(&s, "path", cJSON_CreateString(override));
}

/* The size of clips that a configuration leaves open. */
static void default_size(kin_train_config *c)
{
    c->data.frames = c->image ? 1 : 16;
    c->data.height = c->data.width = c->image ? c->image : 32;
    c->data.fps = 8;
    if (c->autoencoder && !c->transformer) /* 0: the one it is made for */
        c->data.frames = c->data.height = c->data.width = 0;
    if (!c->base)
        return;
    /* as WISA's scripts */
    c->data.frames = 49;
    c->data.height = 480;
    c->data.width = c->base == KIN_FAMILY_WAN ? 832 : 720;
    c->data.fps = 16;
    c->data.caption = KIN_CAPTION_PROMPT;
}

static kin_status parse_data(const kin_section *root, const char *dir, const char *override,
                             kin_train_config *c)
{
    static const char *const known[] = {
        "path", "split",    "simulate", "caption_field", "frames",         "height", "width",
        "fps",  "held_out", "cache_mb", "flip",          "caption_prefix", "filter", NULL};
    char filter[16] = "none";
    kin_section s;
    KIN_TRY(normalise_data(root, override));
    KIN_TRY(kin_section_child(root, "data", known, &s));
    KIN_TRY(kin_section_path(&s, "path", override ? NULL : dir, c->data.path));
    KIN_TRY(kin_section_str(&s, "split", c->data.split, sizeof c->data.split, false));
    c->data.simulate = cJSON_HasObjectItem(s.obj, "simulate");
    /* clips that are encoded first may come from both */
    if (c->base ? !c->data.simulate && !c->data.path[0]
                : c->data.simulate == (c->data.path[0] != '\0'))
        return kin_fail(s.err, KIN_ERR_ARG,
                        "train config: data must have either path or simulate (or give --data)");
    c->data.cache_mb = 1024;
    c->data.flip = -1;
    default_size(c);
    /* an autoencoder that is not read yet takes any size */
    const bool open = c->autoencoder && !c->transformer;
    KIN_TRY(kin_section_i64(&s, "frames", open ? 0 : 1, 4096, &c->data.frames));
    KIN_TRY(kin_section_i64(&s, "height", open ? 0 : 1, 8192, &c->data.height));
    KIN_TRY(kin_section_i64(&s, "width", open ? 0 : 1, 8192, &c->data.width));
    KIN_TRY(kin_section_f64(&s, "fps", 0.01, 1000, &c->data.fps));
    KIN_TRY(kin_section_i64(&s, "held_out", 0, 1000000, &c->data.held_out));
    KIN_TRY(kin_section_i64(&s, "cache_mb", 0, 1 << 24, &c->data.cache_mb));
    KIN_TRY(kin_section_f32(&s, "flip", -1, 1, &c->data.flip));
    KIN_TRY(parse_caption(&s, &c->data.caption));
    KIN_TRY(kin_section_str(&s, "caption_prefix", c->data.prefix, sizeof c->data.prefix, false));
    KIN_TRY(kin_section_str(&s, "filter", filter, sizeof filter, false));
    KIN_TRY(kin_record_filter_parse(filter, &c->data.filter, s.err));
    return c->data.simulate ? parse_simulate(&s, c) : KIN_OK;
}

static kin_status parse_sigmas(const kin_section *s, kin_train_config *c)
{
    static const double standard[] = {.98, .9, .8, .65, .5, .3};
    if (!cJSON_HasObjectItem(s->obj, "sigmas"))
        KIN_TRY(kin_section_put(s, "sigmas", cJSON_CreateDoubleArray(standard, 6)));
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

static kin_status parse_reports(const kin_section *root, kin_train_config *c)
{
    static const char *const val[] = {"every", "sigmas", "shuffled", NULL};
    static const char *const smp[] = {"every", "count", "steps", "cfg_scale", NULL};
    static const char *const ckp[] = {"every", "keep", NULL};
    kin_section s;
    const int64_t many = INT64_C(1) << 40;
    KIN_TRY(kin_section_child(root, "validation", val, &s));
    KIN_TRY(kin_section_i64(&s, "every", 0, many, &c->validation.every));
    KIN_TRY(kin_section_bool(&s, "shuffled", &c->validation.shuffled));
    KIN_TRY(parse_sigmas(&s, c));
    KIN_TRY(kin_section_child(root, "samples", smp, &s));
    c->samples.count = 8;
    c->samples.steps = 25;
    c->samples.cfg_scale = 3;
    KIN_TRY(kin_section_i64(&s, "every", 0, many, &c->samples.every));
    KIN_TRY(kin_section_i64(&s, "count", 1, 1024, &c->samples.count));
    KIN_TRY(kin_section_i64(&s, "steps", 1, 1000, &c->samples.steps));
    KIN_TRY(kin_section_f64(&s, "cfg_scale", 0, 100, &c->samples.cfg_scale));
    if (c->base && c->samples.every > 0)
        return kin_fail(s.err, KIN_ERR_ARG,
                        "train config: samples.every must be 0 when a published model is "
                        "fine-tuned (kinema generate --lora draws them)");
    KIN_TRY(kin_section_child(root, "checkpoint", ckp, &s));
    c->checkpoint.every = 1000;
    c->checkpoint.keep = 2;
    KIN_TRY(kin_section_i64(&s, "every", 0, many, &c->checkpoint.every));
    return kin_section_i64(&s, "keep", 1, 1000000, &c->checkpoint.keep);
}

/* objective.kind, which --objective may say too; an autoencoder's config says it by itself */
static kin_status parse_kind(const kin_section *root, const char *asked, const cJSON *vae,
                             kin_train_config *c)
{
    cJSON *obj = cJSON_GetObjectItemCaseSensitive(root->obj, "objective");
    const cJSON *kind = cJSON_GetObjectItemCaseSensitive(obj, "kind");
    const char *said = cJSON_IsString(kind) ? kind->valuestring : NULL;
    c->autoencoder = vae || strcmp(asked ? asked : said ? said : "", "vae") == 0;
    if (!c->autoencoder)
        return KIN_OK;
    if (said && strcmp(said, "vae") != 0)
        return kin_fail(root->err, KIN_ERR_ARG,
                        "train config: objective.kind \"%s\" must be vae for an autoencoder", said);
    if (!obj)
        KIN_TRY(kin_section_put(root, "objective", cJSON_CreateObject()));
    const kin_section s = {cJSON_GetObjectItemCaseSensitive(root->obj, "objective"), "objective",
                           root->err};
    return kin_section_put(&s, "kind", cJSON_CreateString("vae"));
}

/* The family of the model that init_from names, if it is a published one to be fine-tuned. */
static kin_status find_base(kin_train_config *c, kin_error *err)
{
    kin_error why = {0};
    kin_status status = KIN_OK;
    if (c->init_from[0])
        status = kin_finetune_family(c->init_from, &c->base, &why);
    if (status == KIN_ERR_MEM) {
        *err = why;
        return status;
    }
    if (status != KIN_OK)
        c->base = KIN_FAMILY_DIT;
    c->checkpointing = c->base != KIN_FAMILY_DIT;
    return KIN_OK;
}

/* what is trained */
static kin_status parse_model(const kin_section *root, const char *dir, const char *asked,
                              kin_train_config *c)
{
    const cJSON *vae;
    KIN_TRY(kin_section_object(root, "transformer", &c->transformer));
    KIN_TRY(kin_section_object(root, "vae", &vae));
    KIN_TRY(parse_kind(root, asked, vae, c));
    if (c->transformer && c->autoencoder)
        return kin_fail(root->err, KIN_ERR_ARG,
                        "train config: the objective vae trains an autoencoder: \"vae\" or "
                        "init_from, no transformer");
    if (c->transformer)
        KIN_TRY(
            kin_preset_expand(cJSON_GetObjectItemCaseSensitive(c->json, "transformer"), root->err));
    KIN_TRY(kin_section_object(root, "text_encoder", &c->text_encoder));
    KIN_TRY(kin_section_object(root, "scheduler", &c->scheduler));
    KIN_TRY(kin_section_path(root, "init_from", dir, c->init_from));
    if (!c->autoencoder)
        KIN_TRY(find_base(c, root->err));
    if (c->autoencoder && (c->text_encoder || c->scheduler))
        return kin_fail(root->err, KIN_ERR_ARG,
                        "train config: an autoencoder has no text_encoder and no scheduler");
    c->transformer = c->autoencoder ? vae : c->transformer;
    c->image = c->transformer ? image_side(c->transformer) : 0;
    if (!c->transformer == !c->init_from[0])
        return kin_fail(root->err, KIN_ERR_ARG, "train config: needs either %s or init_from",
                        c->autoencoder ? "vae" : "transformer");
    return KIN_OK;
}

static kin_status parse_root(const kin_section *root, int64_t steps, kin_train_config *c)
{
    char compute[8] = "", precision[8] = "";
    int64_t seed = 1;
    KIN_TRY(kin_section_i64(root, "seed", 0, INT64_C(1) << 53, &seed));
    c->seed = (uint64_t)seed;
    c->batch = c->accumulation = 1;
    c->log_every = 10;
    if (steps > 0)
        KIN_TRY(kin_section_put(root, "steps", cJSON_CreateNumber((double)steps)));
    c->steps = 1000;
    KIN_TRY(kin_section_i64(root, "steps", 1, INT64_C(1) << 31, &c->steps));
    KIN_TRY(kin_section_i64(root, "batch_size", 1, KIN_TRAIN_MAX_BATCH, &c->batch));
    KIN_TRY(kin_section_i64(root, "gradient_accumulation", 1, 65536, &c->accumulation));
    KIN_TRY(kin_section_i64(root, "log_every", 1, INT64_C(1) << 31, &c->log_every));
    KIN_TRY(kin_section_bool(root, "checkpointing", &c->checkpointing));
    KIN_TRY(kin_section_str(root, "compute", compute, sizeof compute, false));
    c->has_compute = compute[0] != '\0';
    if (c->has_compute && (!kin_dtype_parse(compute, &c->compute) ||
                           (c->compute != KIN_DTYPE_F32 && c->compute != KIN_DTYPE_BF16)))
        return kin_fail(root->err, KIN_ERR_ARG,
                        "train config: compute \"%s\" must be f32 or bf16 (int8 has no gradient)",
                        compute);
    KIN_TRY(kin_section_str(root, "matmul_precision", precision, sizeof precision, false));
    c->has_precision = precision[0] != '\0';
    c->precision = strcmp(precision, "high") == 0 ? KIN_PRECISION_HIGH : KIN_PRECISION_HIGHEST;
    if (c->has_precision && c->precision != KIN_PRECISION_HIGH && strcmp(precision, "highest") != 0)
        return kin_fail(root->err, KIN_ERR_ARG,
                        "train config: matmul_precision \"%s\" must be highest or high", precision);
    return KIN_OK;
}

kin_status kin_train_config_parse(const cJSON *json, const char *dir,
                                  const kin_train_overrides *given, kin_train_config *c,
                                  kin_error *err)
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
                                        "vae",
                                        "train",
                                        "lora",
                                        "insert_gap",
                                        NULL};
    const kin_train_overrides over = given ? *given : (kin_train_overrides){0};
    kin_status status = KIN_OK;
    memset(c, 0, sizeof *c);
    kin_sim_options_default(&c->data.sim);
    if (!cJSON_IsObject(json))
        return kin_fail(err, KIN_ERR_FORMAT, "train config: must be an object");
    c->json = cJSON_Duplicate(json, true);
    if (!c->json)
        return kin_fail(err, KIN_ERR_MEM, "train config: out of memory");
    kin_section root = {c->json, "train config", err};
    KIN_GOTO(kin_json_known_keys(c->json, known, "train config", err));
    KIN_GOTO(parse_model(&root, dir, over.objective, c));
    KIN_GOTO(parse_root(&root, over.steps, c));
    KIN_GOTO(kin_section_finetune(&root, c));
    KIN_GOTO(parse_tokenizer(&root, dir, c));
    KIN_GOTO(parse_data(&root, dir, over.data, c));
    KIN_GOTO(kin_section_optimizer(&root, c));
    KIN_GOTO(kin_section_objective(&root, c));
    KIN_GOTO(parse_reports(&root, c));
done:
    if (status != KIN_OK)
        kin_train_config_free(c);
    return status;
}

kin_status kin_train_config_read(const char *path, const kin_train_overrides *over,
                                 kin_train_config *out, kin_error *err)
{
    char dir[KIN_PATH_MAX];
    cJSON *json = NULL;
    memset(out, 0, sizeof *out);
    KIN_TRY(kin_path_dir(dir, path, err));
    KIN_TRY(kin_json_read(path, 16 << 20, KIN_JSON_ALLOW_INFINITY, &json, err));
    kin_status status = kin_train_config_parse(json, dir, over, out, err);
    cJSON_Delete(json);
    return status == KIN_OK ? KIN_OK : kin_fail_prefix(err, "%s", path);
}

kin_status kin_train_config_classifier(const kin_train_overrides *over, kin_train_config *out,
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
    kin_status status = kin_train_config_parse(json, NULL, over, out, err);
    cJSON_Delete(json);
    return status;
}

kin_status kin_train_config_adopt(kin_train_config *c, kin_ctx *ctx)
{
    const kin_section root = {c->json, "train config", &ctx->error};
    if (c->has_compute)
        ctx->compute = c->compute;
    if (c->has_precision)
        ctx->precision = c->precision;
    return ctx->precision == KIN_PRECISION_HIGH
               ? kin_section_put(&root, "matmul_precision", cJSON_CreateString("high"))
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
    KIN_TRY(kin_train_config_parse(saved, NULL, NULL, &old, err));
    kin_status status = compare(c->json, old.json, "", err);
    if (status == KIN_OK)
        status = compare(old.json, c->json, "", err);
    kin_train_config_free(&old);
    return status;
}
