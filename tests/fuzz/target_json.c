/* tests/fuzz/target_json.c: data sets, configurations, tokenizers and annotations. */
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "diffusion/model.h"
#include "diffusion/preset.h"
#include "io/dataset.h"
#include "physics/annotation.h"
#include "physics/prior_rules.h"
#include "samplers/schedule.h"
#include "tests/fuzz/targets.h"
#include "text/clean.h"
#include "text/encoder.h"
#include "text/tokenizer.h"
#include "text/unicode.h"
#include "training/config.h"
#include "vision/vae.h"

static cJSON *parse(const uint8_t *data, size_t bytes)
{
    kin_error err;
    cJSON *json = NULL;
    kin_json_parse((const char *)data, bytes, KIN_JSON_ALLOW_INFINITY, &json, &err);
    return json;
}

/* All readings of one record. */
static void read_record(const cJSON *record)
{
    const kin_annotation_options strict = {.strict = true};
    kin_error err;
    kin_py_error py;
    kin_physics_prior prior = {0};
    kin_annotation_carry carry = {0};
    for (int i = 0; i < 2; i++) { /* the second inherits from the first */
        if (kin_annotation_official(record, &carry, &prior, &py, &err) == KIN_OK)
            kin_physics_prior_free(&prior);
    }
    if (kin_annotation_official_training(record, &prior, &err) == KIN_OK)
        kin_physics_prior_free(&prior);
    if (kin_annotation_read(record, NULL, &prior, &err) == KIN_OK)
        kin_physics_prior_free(&prior);
    if (kin_annotation_read(record, &strict, &prior, &err) == KIN_OK)
        kin_physics_prior_free(&prior);
}

int kin_fuzz_dataset(const uint8_t *data, size_t bytes)
{
    const kin_dataset_options options[] = {{.strict = false}, {.strict = true}};
    const char *path = kin_fuzz_file(data, bytes);
    for (int k = 0; path && k < 2; k++) {
        kin_error err;
        kin_dataset *ds;
        if (kin_dataset_open(path, &options[k], &ds, &err) != KIN_OK)
            continue;
        for (int64_t i = 0; i < ds->count; i++) {
            kin_dataset_left_out(ds, i, true);
            read_record(ds->records[i].json);
        }
        kin_dataset_close(&ds);
    }
    return 0;
}

/* The lines of the text as the fields of an inference record. */
int kin_fuzz_annotation(const uint8_t *data, size_t bytes)
{
    static const char *const fields[] = {
        "n0", "n1", "n2", "q0", "q1", "q2", "q3", "q4", "phys_law", "detail_caption", "duration"};
    cJSON *record = cJSON_CreateObject();
    char *text = kin_malloc(bytes + 1), *rest = text;
    if (!record || !text)
        goto done;
    memcpy(text, data, bytes);
    text[bytes] = 0;
    for (size_t i = 0; i < sizeof fields / sizeof *fields && rest; i++) {
        const char *line = strsep(&rest, "\n");
        cJSON_AddStringToObject(record, fields[i], line);
    }
    read_record(record);
done:
    kin_free(text);
    cJSON_Delete(record);
    return 0;
}

int kin_fuzz_train_config(const uint8_t *data, size_t bytes)
{
    kin_error err;
    kin_train_config c, again;
    cJSON *json = parse(data, bytes);
    if (kin_train_config_parse(json, ".", NULL, &c, &err) == KIN_OK) {
        /* what was resolved is itself a configuration, and that of a run that may go on */
        if (kin_train_config_parse(c.json, ".", NULL, &again, &err) == KIN_OK) {
            kin_train_config_compatible(&again, c.json, &err);
            kin_train_config_free(&again);
        }
        kin_train_config_free(&c);
    }
    cJSON_Delete(json);
    return 0;
}

/* The config of whatever network it is: parameters are registered, no memory taken for them. */
int kin_fuzz_model_config(const uint8_t *data, size_t bytes)
{
    kin_error err;
    cJSON *json = parse(data, bytes);
    for (int k = 0; json && k < 3; k++) {
        kin_params *params = NULL;
        kin_model *model = NULL;
        kin_text_encoder *text = NULL;
        kin_vae *vae = NULL;
        if (kin_params_create(&params, &err) != KIN_OK)
            break;
        if (k == 0)
            kin_text_encoder_create(json, params, &text, &err);
        else if (k == 1)
            kin_vae_create(json, params, &vae, &err);
        else if (kin_preset_expand(json, &err) == KIN_OK)
            kin_model_create(json, params, &model, &err);
        kin_text_encoder_destroy(&text);
        kin_vae_destroy(&vae);
        kin_model_destroy(&model);
        kin_params_destroy(&params);
    }
    cJSON_Delete(json);
    return 0;
}

static void make_schedule(const kin_scheduler *s, int steps)
{
    const kin_schedule_request request = {.steps = steps, .has_mu = s->dynamic_shift, .mu = 0.9};
    kin_error err;
    kin_schedule made;
    if (kin_schedule_make(s, &request, &made, &err) == KIN_OK)
        kin_schedule_free(&made);
}

int kin_fuzz_scheduler_config(const uint8_t *data, size_t bytes)
{
    kin_error err;
    kin_scheduler s, other;
    cJSON *json = parse(data, bytes), *written;
    if (json && kin_scheduler_read(json, &s, &err) == KIN_OK) {
        make_schedule(&s, 1);
        make_schedule(&s, 7);
        if (kin_scheduler_write(&s, &written, &err) == KIN_OK)
            cJSON_Delete(written);
        for (int c = 0; c < KIN_SCHEDULER_CLASSES; c++)
            if (kin_scheduler_convert(json, &s, (kin_scheduler_class)c, &other, &err) == KIN_OK)
                make_schedule(&other, 5);
    }
    cJSON_Delete(json);
    return 0;
}

static void encode(const kin_tokenizer *tok, const char *text, size_t bytes)
{
    int32_t *ids, padded[12];
    uint8_t mask[12];
    int n;
    kin_error err;
    if (kin_tokenizer_encode(tok, text, bytes, &ids, &n, &err) == KIN_OK)
        kin_free(ids);
    kin_tokenizer_encode_padded(tok, text, bytes, 12, padded, mask, &err);
}

int kin_fuzz_tokenizer_json(const uint8_t *data, size_t bytes)
{
    static const char *const texts[] = {"", "a red ball",
                                        " \xEF\xBB\xBF e\xCC\x81  <extra_id_0></s> x",
                                        "\xE2\x96\x81\xFF\xF0\x9F\x98\x80\n"};
    kin_error err;
    kin_tokenizer *tok;
    if (kin_tokenizer_create_json((const char *)data, bytes, &tok, &err) != KIN_OK)
        return 0;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        encode(tok, texts[i], strlen(texts[i]));
    kin_tokenizer_destroy(&tok);
    return 0;
}

/* A tokenizer as small as one can be, with an added token and the marks of T5. */
static const char small_tokenizer[] =
    "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":0,\"content\":\"<pad>\",\"special\":true},"
    "{\"id\":1,\"content\":\"</s>\",\"special\":true},{\"id\":2,\"content\":\"<unk>\",\"special\":"
    "true}],\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"},{\"type\":"
    "\"Strip\",\"strip_left\":false,\"strip_right\":true}]},\"pre_tokenizer\":{\"type\":"
    "\"Metaspace\",\"replacement\":\"\xE2\x96\x81\",\"prepend_scheme\":\"always\",\"split\":true},"
    "\"model\":{\"type\":\"Unigram\",\"unk_id\":2,\"byte_fallback\":false,\"vocab\":[[\"<pad>\",0],"
    "[\"</s>\",0],[\"<unk>\",0],[\"\xE2\x96\x81\",-2],[\"a\",-3],[\"\xE2\x96\x81"
    "ball\",-4]]}}";

int kin_fuzz_prompt(const uint8_t *data, size_t bytes)
{
    static kin_tokenizer *tok; /* kept for the life of the process */
    kin_error err = {0};
    kin_physics_prior prior = {0};
    kin_strbuf form = {0}, clean = {0};
    char described[64], *text = kin_malloc(bytes + 1);
    if (!text)
        return 0;
    memcpy(text, data, bytes);
    text[bytes] = 0;
    if (!tok && kin_tokenizer_create_json(small_tokenizer, sizeof small_tokenizer - 1, &tok, &err))
        __builtin_trap();
    encode(tok, text, bytes);
    if (kin_prior_from_text(text, 2, &prior, &err) == KIN_OK) {
        kin_prior_describe(&prior, described, sizeof described);
        kin_physics_prior_free(&prior);
    }
    for (size_t i = 0; i < bytes;)
        i += kin_unicode_cluster(text + i, bytes - i);
    kin_unicode_normalize(text, bytes, KIN_UNICODE_NFKC, &form, &err);
    if (form.data && !kin_utf8_valid(form.data, form.len))
        __builtin_trap();
    kin_strbuf_free(&form);
    if (kin_prompt_clean(text, bytes, &clean, &err) == KIN_OK && kin_utf8_valid(text, bytes) &&
        clean.data && !kin_utf8_valid(clean.data, clean.len))
        __builtin_trap();
    kin_strbuf_free(&clean);
    kin_free(text);
    return 0;
}
