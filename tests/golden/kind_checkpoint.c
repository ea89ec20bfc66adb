/* Kind of golden/image: checkpoint: a .pth of the official trainer. */
#include <stdio.h>
#include <string.h>

#include "diffusion/import.h"
#include "tests/golden/golden.h"
#include "tests/golden/models.h"

/* Forward with the weights of one part, widened to f32. */
static kin_status run_part(kin_golden_case *c, const kin_import *imp, kin_import_part part,
                           kin_golden_model *m, const char *name)
{
    kin_tensor x, t, y;
    kin_model_output out;
    KIN_TRY(kin_import_check(imp, part, m->params, &c->ctx->error));
    for (int i = 0; i < m->params->count; i++) {
        kin_param *p = m->params->list[i];
        KIN_TRY(kin_import_value(imp, part, p, p->value.data, &c->ctx->error));
        kin_param_touch(p);
    }
    KIN_TRY(kin_golden_input(c, "in.x", &x));
    KIN_TRY(kin_golden_input(c, "in.t", &t));
    KIN_TRY(kin_golden_input(c, "in.y", &y));
    const kin_model_input in = {.x = &x, .t = &t, .label = &y};
    KIN_TRY(kin_model_forward(c->ctx, m->model, &in, &out));
    kin_golden_check(c, name, &out.y, 1e-5);
    return KIN_OK;
}

static void check_count(kin_golden_case *c, const char *name, int64_t value)
{
    const double number = (double)value;
    kin_tensor want;
    if (kin_golden_tensor(c, name, &want) != KIN_OK)
        return;
    const double expected = kin_tensor_get(&want, 0);
    kin_golden_check_values(c, name, &expected, &number, 1, 0);
    kin_golden_ignore(c, name); /* judged by the line above */
}

static kin_status check_moments(kin_golden_case *c, const kin_import *imp, const kin_params *params)
{
    for (int i = 0; i < params->count; i++) {
        const kin_param *p = params->list[i];
        char m_name[300], v_name[300];
        int64_t m, v;
        snprintf(m_name, sizeof m_name, "out.exp_avg.%s", p->name);
        snprintf(v_name, sizeof v_name, "out.exp_avg_sq.%s", p->name);
        KIN_TRY(kin_import_moments(imp, p, &m, &v, &c->ctx->error));
        kin_golden_expect(c, (m >= 0) == p->trainable, "%s has moments where it is trained",
                          p->name);
        if (m < 0 || !kin_golden_has(c, m_name))
            continue;
        kin_tensor t;
        KIN_TRY(kin_pth_tensor(imp->pth, m, &t, &c->ctx->error));
        kin_golden_check(c, m_name, &t, 0);
        KIN_TRY(kin_pth_tensor(imp->pth, v, &t, &c->ctx->error));
        kin_golden_check(c, v_name, &t, 0);
    }
    return KIN_OK;
}

/* What shapes and the case's heads say is the case's configuration. */
static kin_status check_config(kin_golden_case *c, const kin_import *imp)
{
    static const char *const keys[] = {"input_size",  "patch_size", "in_channels", "hidden_size",
                                       "depth",       "num_heads",  "mlp_ratio",   "num_classes",
                                       "learn_sigma", "use_swiglu", "qk_norm",     "model",
                                       NULL};
    static const char *const moe_keys[] = {"num_routed_experts",
                                           "moe_intermediate_size",
                                           "shared_expert_intermediate_size",
                                           "use_shared_expert",
                                           "use_uncond_expert",
                                           "interleave",
                                           NULL};
    cJSON *given = cJSON_CreateObject(), *config = NULL;
    kin_strbuf notes = {0};
    cJSON_AddNumberToObject(given, "num_heads", kin_golden_number(c, "num_heads", 0));
    kin_status status = kin_import_config(imp, given, &config, &notes, &c->ctx->error);
    for (int i = 0; status == KIN_OK && keys[i]; i++)
        kin_golden_expect(c,
                          cJSON_Compare(cJSON_GetObjectItem(config, keys[i]),
                                        cJSON_GetObjectItem(c->config, keys[i]), true),
                          "%s as the tensors say", keys[i]);
    for (int i = 0; status == KIN_OK && moe_keys[i]; i++)
        kin_golden_expect(
            c,
            cJSON_Compare(
                cJSON_GetObjectItem(cJSON_GetObjectItem(config, "MoE_config"), moe_keys[i]),
                cJSON_GetObjectItem(cJSON_GetObjectItem(c->config, "MoE_config"), moe_keys[i]),
                true),
            "MoE_config.%s as the tensors say", moe_keys[i]);
    kin_strbuf_free(&notes);
    cJSON_Delete(config);
    cJSON_Delete(given);
    return status;
}

static kin_status run(kin_golden_case *c, kin_import *imp, kin_golden_model *m)
{
    char path[KIN_PATH_MAX];
    KIN_TRY(kin_golden_path(c, kin_golden_string(c, "file"), path));
    KIN_TRY(kin_import_open(path, imp, &c->ctx->error));
    KIN_TRY(check_config(c, imp));
    KIN_TRY(kin_golden_model_create(c, c->config, NULL, kin_golden_train_keys, m));
    KIN_TRY(kin_params_alloc(m->params, KIN_DTYPE_F32, false, &c->ctx->error));
    KIN_TRY(run_part(c, imp, KIN_IMPORT_EMA, m, "out.y"));
    KIN_TRY(run_part(c, imp, KIN_IMPORT_MODEL, m, "out.y_model"));
    check_count(c, "out.step", imp->step);
    check_count(c, "out.opt_step", imp->updates);
    return check_moments(c, imp, m->params);
}

static kin_status kind_checkpoint(kin_golden_case *c)
{
    kin_golden_model m = {0};
    kin_import imp = {0};
    const kin_status status = run(c, &imp, &m);
    kin_golden_model_free(&m);
    kin_import_close(&imp);
    return status;
}

extern const kin_golden_kind kin_golden_kinds_checkpoint[];
const kin_golden_kind kin_golden_kinds_checkpoint[] = {
    {"checkpoint", kind_checkpoint},
    {NULL, NULL},
};
