#include "tests/golden/models.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tensor/ops.h"

static kin_status make_config(const cJSON *config, const char *class_name, const char *const *extra,
                              cJSON **out, kin_error *err)
{
    cJSON *j = cJSON_Duplicate(config, 1);

    if (!j)
        return kin_fail(err, KIN_ERR_MEM, "case: out of memory");
    for (int i = 0; extra && extra[i]; i++)
        cJSON_DeleteItemFromObjectCaseSensitive(j, extra[i]);
    if (class_name && !cJSON_GetObjectItemCaseSensitive(j, "_class_name"))
        cJSON_AddStringToObject(j, "_class_name", class_name);
    *out = j;
    return KIN_OK;
}

kin_status kin_golden_model_create(kin_golden_case *c, const cJSON *config, const char *class_name,
                                   const char *const *extra, kin_golden_model *m)
{
    kin_error *err = &c->ctx->error;
    cJSON *j = NULL;
    kin_status status;

    *m = (kin_golden_model){0};
    KIN_TRY(make_config(config, class_name, extra, &j, err));
    KIN_GOTO(kin_params_create(&m->params, err));
    KIN_GOTO(kin_model_create(j, m->params, &m->model, err));
done:
    cJSON_Delete(j);
    return status;
}

kin_status kin_golden_model_open(kin_golden_case *c, const cJSON *config, const char *class_name,
                                 const char *const *extra, bool grads, kin_golden_model *m)
{
    KIN_TRY(kin_golden_model_create(c, config, class_name, extra, m));
    return kin_golden_bind(c, m->params, "w.", grads, false);
}

/* A table with the names, shapes and order of `like`, holding a copy of its values or zeros. */
static kin_status table_like(kin_golden_case *c, const kin_params *like, bool copy,
                             kin_params **out)
{
    kin_error *err = &c->ctx->error;

    KIN_TRY(kin_params_create(out, err));
    for (int i = 0; i < like->count; i++) {
        const kin_param *p = like->list[i];

        kin_params_add(*out, KIN_INIT(KIN_INIT_ZERO, 0), p->value.ndim, p->value.size, "%s",
                       p->name);
    }
    KIN_TRY(kin_params_alloc(*out, KIN_DTYPE_F32, false, err));
    for (int i = 0; copy && i < like->count; i++)
        memcpy((*out)->list[i]->value.data, like->list[i]->value.data,
               (size_t)kin_tensor_numel(&like->list[i]->value) * sizeof(float));
    return KIN_OK;
}

kin_status kin_golden_model_open_train(kin_golden_case *c, const cJSON *config,
                                       const char *class_name, const char *const *extra,
                                       kin_golden_model *m)
{
    kin_error *err = &c->ctx->error;

    KIN_TRY(kin_golden_model_create(c, config, class_name, extra, m));
    KIN_TRY(kin_params_alloc(m->params, KIN_DTYPE_F32, false, err));
    KIN_TRY(kin_params_alloc_grads(m->params, false, err));
    for (int i = 0; i < m->params->count; i++) {
        kin_param *p = m->params->list[i];
        char name[300];
        kin_tensor t;

        snprintf(name, sizeof(name), "w.%s", p->name);
        KIN_TRY(kin_golden_tensor(c, name, &t));
        if (!kin_tensor_same_shape(&t, &p->value))
            return kin_fail(err, KIN_ERR_SHAPE, "case: %s has another shape than the model's",
                            name);
        KIN_TRY(kin_copy_into(c->ctx, &t, &p->value));
        kin_param_touch(p);
    }
    KIN_TRY(table_like(c, m->params, true, &m->ema));
    KIN_TRY(table_like(c, m->params, false, &m->m));
    return table_like(c, m->params, false, &m->v);
}

void kin_golden_model_free(kin_golden_model *m)
{
    kin_model_destroy(&m->model);
    kin_params_destroy(&m->params);
    kin_params_destroy(&m->ema);
    kin_params_destroy(&m->m);
    kin_params_destroy(&m->v);
}

kin_status kin_golden_adamw_step(kin_golden_case *c, kin_golden_model *m, const kin_golden_adamw *o,
                                 int step, double *norm)
{
    enum { MOST = 512 };
    kin_adamw_part part[MOST];
    kin_adamw_args a = {.part = part,
                        .beta1 = (float)o->beta1,
                        .beta2 = (float)o->beta2,
                        .eps = (float)o->eps,
                        .ema_decay = (float)o->ema_decay,
                        .step = step};
    double sum = 0;

    for (int i = 0; i < m->params->count; i++) {
        kin_param *p = m->params->list[i];

        if (!p->grad.data)
            continue;
        if (a.parts == MOST)
            return kin_fail(&c->ctx->error, KIN_ERR_ARG, "more than %d parameters", MOST);
        part[a.parts++] = (kin_adamw_part){.n = kin_tensor_numel(&p->value),
                                           .w = p->value.data,
                                           .m = m->m->list[i]->value.data,
                                           .v = m->v->list[i]->value.data,
                                           .ema = m->ema->list[i]->value.data,
                                           .g = p->grad.data,
                                           .lr = (float)o->lr,
                                           .weight_decay = (float)o->weight_decay};
        kin_param_touch(p);
    }
    KIN_TRY(c->ctx->k->sumsq(c->ctx, part, a.parts, &sum));
    *norm = sqrt(sum);
    a.grad_scale = (float)fmin(1.0, o->max_grad_norm / (*norm + 1e-6));
    return c->ctx->k->adamw(c->ctx, &a);
}

kin_status kin_golden_entry(kin_golden_case *c, const char *name, int64_t i, kin_tensor *out)
{
    kin_tensor all;

    KIN_TRY(kin_golden_input(c, name, &all));
    *out = kin_tensor_select(&all, 0, i);
    return KIN_OK;
}

kin_status kin_golden_like(kin_golden_case *c, const char *name, kin_tensor *out)
{
    kin_tensor t;

    KIN_TRY(kin_golden_tensor(c, name, &t));
    KIN_TRY(kin_ws_tensor(c->ctx, t.dtype == KIN_DTYPE_F32 ? KIN_DTYPE_F32 : t.dtype, t.ndim,
                          t.size, out));
    memset(out->data, 0, (size_t)kin_tensor_numel(out) * kin_dtype_size(out->dtype));
    return KIN_OK;
}

kin_status kin_golden_store(kin_golden_case *c, kin_tensor *dst, int64_t i, const kin_tensor *t)
{
    kin_tensor at = kin_tensor_select(dst, 0, i);

    if (kin_tensor_numel(&at) != kin_tensor_numel(t))
        return kin_fail(&c->ctx->error, KIN_ERR_SHAPE,
                        "case: an entry of another size than expected");
    for (int64_t k = 0; k < kin_tensor_numel(t); k++)
        kin_tensor_set(&at, k, kin_tensor_get(t, k));
    return KIN_OK;
}
