#include "diffusion/preset.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"

typedef struct size_row {
    const char *name;
    int depth, width, heads;
} size_row;

typedef struct router_row {
    const char *name, *model;
} router_row;

static const size_row sizes[] = {
    {"s", 12, 384, 6}, {"b", 12, 768, 12}, {"l", 24, 1024, 16}, {"xl", 28, 1152, 16}};
static const router_row routers[] = {
    {"dit", "dense"}, {"promoe", "promoe_tc"}, {"promoe-ec", "promoe_ec"}, {"tc", "tc"},
    {"ec", "ec"},     {"diffmoe", "diffmoe"}};
enum {
    SIZES = sizeof(sizes) / sizeof(sizes[0]),
    ROUTERS = sizeof(routers) / sizeof(routers[0]),
    NAME_MAX_BYTES = 24
};

static void name_of(int router, int size, char out[NAME_MAX_BYTES])
{
    snprintf(out, NAME_MAX_BYTES, "%s-%s", routers[router].name, sizes[size].name);
}

static bool find(const char *name, const router_row **router, const size_row **size)
{
    char own[NAME_MAX_BYTES];

    for (int i = 0; i < ROUTERS * SIZES; i++) {
        name_of(i / SIZES, i % SIZES, own);
        if (!strcmp(own, name)) {
            *router = &routers[i / SIZES];
            *size = &sizes[i % SIZES];
            return true;
        }
    }
    return false;
}

bool kin_preset_is_name(const char *name)
{
    const router_row *router;
    const size_row *size;

    return find(name, &router, &size);
}

static kin_status fail_unknown(const char *name, kin_error *err)
{
    static const char rule[] = "{dit,promoe,promoe-ec,tc,ec,diffmoe}-{s,b,l,xl}";
    char names[ROUTERS * SIZES][NAME_MAX_BYTES];
    const char *list[ROUTERS * SIZES + 1] = {NULL}, *near;

    for (int i = 0; i < ROUTERS * SIZES; i++) {
        name_of(i / SIZES, i % SIZES, names[i]);
        list[i] = names[i];
    }
    near = kin_nearest_name(name, list);
    return kin_fail(err, KIN_ERR_ARG, "preset \"%s\" must be one of %s%s%s", name, rule,
                    near ? "; nearest is " : "", near ? near : "");
}

/* the settings of the published configurations */
static bool add_promoe(cJSON *moe, int width)
{
    return cJSON_AddNumberToObject(moe, "num_routed_experts", 12) &&
           cJSON_AddNumberToObject(moe, "top_k", 1) &&
           cJSON_AddStringToObject(moe, "router_weight_mode", "identity") &&
           cJSON_AddNumberToObject(moe, "moe_intermediate_size", 2 * width) &&
           cJSON_AddNumberToObject(moe, "shared_expert_intermediate_size", 2 * width) &&
           cJSON_AddNumberToObject(moe, "routing_contrastive_lam", 1) &&
           cJSON_AddNumberToObject(moe, "routing_contrastive_temperature", 0.07) &&
           cJSON_AddBoolToObject(moe, "use_top_k_for_routing_contrastive", true) &&
           cJSON_AddNumberToObject(moe, "load_balance_loss_coef", 0) &&
           cJSON_AddBoolToObject(moe, "use_shared_expert", true) &&
           cJSON_AddBoolToObject(moe, "use_uncond_expert", true) &&
           cJSON_AddBoolToObject(moe, "interleave", true);
}

static bool add_gated(cJSON *moe)
{
    return cJSON_AddNumberToObject(moe, "num_experts", 8) &&
           cJSON_AddNumberToObject(moe, "capacity", 1) &&
           cJSON_AddNumberToObject(moe, "n_shared_experts", 0) &&
           cJSON_AddBoolToObject(moe, "interleave", true);
}

static bool add_router(cJSON *j, const router_row *router, const size_row *size)
{
    cJSON *moe;

    if (!strcmp(router->model, "dense"))
        return true;
    moe = cJSON_AddObjectToObject(j, "MoE_config");
    if (!strncmp(router->model, "promoe", 6))
        return moe && add_promoe(moe, size->width);
    /* the paper's weight: the published configuration means it, but puts it where nobody reads */
    return moe && add_gated(moe) &&
           (strcmp(router->model, "diffmoe") ||
            cJSON_AddNumberToObject(j, "CapacityPred_loss_weight", 1));
}

kin_status kin_preset_config(const char *name, cJSON **out, kin_error *err)
{
    const router_row *router;
    const size_row *size;
    cJSON *j;
    bool ok;

    *out = NULL;
    if (!find(name, &router, &size))
        return fail_unknown(name, err);
    j = cJSON_CreateObject();
    ok = j && cJSON_AddStringToObject(j, "_class_name", "DiTTransformer2DModel") &&
         cJSON_AddStringToObject(j, "model", router->model) &&
         cJSON_AddNumberToObject(j, "input_size", 32) &&
         cJSON_AddNumberToObject(j, "patch_size", 2) &&
         cJSON_AddNumberToObject(j, "in_channels", 4) &&
         cJSON_AddNumberToObject(j, "hidden_size", size->width) &&
         cJSON_AddNumberToObject(j, "depth", size->depth) &&
         cJSON_AddNumberToObject(j, "num_heads", size->heads) &&
         cJSON_AddNumberToObject(j, "mlp_ratio", 4) &&
         cJSON_AddNumberToObject(j, "num_classes", 1000) &&
         cJSON_AddNumberToObject(j, "class_dropout_prob", 0.1) &&
         cJSON_AddBoolToObject(j, "learn_sigma", true) && add_router(j, router, size);
    if (!ok) {
        cJSON_Delete(j);
        return kin_fail(err, KIN_ERR_MEM, "preset: out of memory");
    }
    *out = j;
    return KIN_OK;
}

/* The members of `from` that `to` lacks are added; objects that both have are filled likewise. */
static bool fill_missing(cJSON *to, const cJSON *from)
{
    const cJSON *item;

    cJSON_ArrayForEach(item, from)
    {
        cJSON *own = cJSON_GetObjectItemCaseSensitive(to, item->string), *copy;

        if (own) {
            if (cJSON_IsObject(own) && cJSON_IsObject(item) && !fill_missing(own, item))
                return false;
            continue;
        }
        copy = cJSON_Duplicate(item, true);
        if (!copy || !cJSON_AddItemToObject(to, item->string, copy)) {
            cJSON_Delete(copy);
            return false;
        }
    }
    return true;
}

kin_status kin_preset_expand(cJSON *config, kin_error *err)
{
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(config, "preset");
    cJSON *base = NULL;
    bool ok;

    if (!name)
        return KIN_OK;
    if (!cJSON_IsString(name))
        return kin_fail(err, KIN_ERR_FORMAT, "preset must be a name like promoe-b");
    KIN_TRY(kin_preset_config(name->valuestring, &base, err));
    cJSON_DeleteItemFromObjectCaseSensitive(config, "preset");
    ok = fill_missing(config, base);
    cJSON_Delete(base);
    return ok ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "preset: out of memory");
}
