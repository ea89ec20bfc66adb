/* Kind real_configs: published sizes. For every entry {class, config, parameters, tensors} the
 * model is created without memory for its values and its parameters are compared by number, name
 * and shape. */
#include <string.h>

#include "tests/golden/golden.h"
#include "text/encoder.h"
#include "vision/vae.h"

extern const kin_golden_kind kin_golden_kinds_real_configs[];

/* Registers the parameters of the class; the object itself is not needed afterwards. */
static kin_status build(const char *class_name, const cJSON *config, kin_params *params,
                        kin_error *err)
{
    const size_t n = strlen(class_name), tail = strlen("EncoderModel");
    kin_text_encoder *text = NULL;
    kin_vae *vae = NULL;
    cJSON *own = cJSON_Duplicate(config, 1);
    kin_status status;

    if (!own)
        return kin_fail(err, KIN_ERR_MEM, "case: out of memory");
    if (n > tail && !strcmp(class_name + n - tail, "EncoderModel")) {
        cJSON_AddItemToObject(own, "architectures", cJSON_CreateStringArray(&class_name, 1));
        status = kin_text_encoder_create(own, params, &text, err);
    } else {
        cJSON_AddStringToObject(own, "_class_name", class_name);
        status = kin_vae_create(own, params, &vae, err);
    }
    kin_text_encoder_destroy(&text);
    kin_vae_destroy(&vae);
    cJSON_Delete(own);
    return status;
}

static bool same_shape(const kin_tensor *t, const cJSON *shape)
{
    const cJSON *item;
    int i = 0;

    if (!cJSON_IsArray(shape) || cJSON_GetArraySize(shape) != t->ndim)
        return false;
    cJSON_ArrayForEach(item, shape)
    {
        if (!cJSON_IsNumber(item) || item->valuedouble != (double)t->size[i++])
            return false;
    }
    return true;
}

static void compare(kin_golden_case *c, const cJSON *entry, const kin_params *params)
{
    const cJSON *tensors = cJSON_GetObjectItemCaseSensitive(entry, "tensors"), *shape;
    const cJSON *number = cJSON_GetObjectItemCaseSensitive(entry, "parameters");
    const double want = cJSON_IsNumber(number) ? number->valuedouble : -1,
                 got = (double)kin_params_numel(params);

    kin_golden_check_values(c, entry->string, &want, &got, 1, 0);
    kin_golden_expect(c, cJSON_GetArraySize(tensors) == params->count,
                      "%s: %d tensors published, %d here", entry->string,
                      cJSON_GetArraySize(tensors), params->count);
    cJSON_ArrayForEach(shape, tensors)
    {
        const kin_param *p = kin_params_find(params, shape->string);
        char text[96];

        kin_golden_expect(c, p && same_shape(&p->value, shape), "%s: %s is %s here", entry->string,
                          shape->string,
                          p ? kin_tensor_describe(&p->value, text, sizeof text) : "unknown");
    }
}

static kin_status kind_real_configs(kin_golden_case *c)
{
    const cJSON *entry;

    cJSON_ArrayForEach(entry, c->config)
    {
        const cJSON *class_name = cJSON_GetObjectItemCaseSensitive(entry, "class");
        kin_params *params = NULL;
        kin_status status;

        if (!cJSON_IsObject(entry))
            continue; /* "kind" */
        if (!cJSON_IsString(class_name))
            return kin_fail(&c->ctx->error, KIN_ERR_FORMAT, "%s has no class", entry->string);
        KIN_TRY(kin_params_create(&params, &c->ctx->error));
        status = build(class_name->valuestring, cJSON_GetObjectItemCaseSensitive(entry, "config"),
                       params, &c->ctx->error);
        if (status == KIN_OK)
            compare(c, entry, params);
        kin_params_destroy(&params);
        KIN_TRY(status);
    }
    return KIN_OK;
}

const kin_golden_kind kin_golden_kinds_real_configs[] = {{"real_configs", kind_real_configs},
                                                         {NULL, NULL}};
