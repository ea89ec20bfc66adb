#include "tests/golden/models.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "physics/classifier.h"
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

/* --- golden/video --- */

kin_status kin_golden_optional(kin_golden_case *c, const char *name, kin_tensor *t,
                               const kin_tensor **out)
{
    KIN_TRY(kin_golden_input_optional(c, name, t));
    *out = t->data ? t : NULL;
    return KIN_OK;
}

kin_status kin_golden_video_input(kin_golden_case *c, kin_golden_video *v)
{
    v->in = (kin_model_input){.x = &v->x, .t = &v->t, .text = &v->text};
    KIN_TRY(kin_golden_input(c, "in.hidden_states", &v->x));
    KIN_TRY(kin_golden_input_f32(c, "in.timestep", &v->t));
    KIN_TRY(kin_golden_input(c, "in.encoder_hidden_states", &v->text));
    KIN_TRY(kin_golden_optional(c, "in.priori", &v->prior, &v->in.prior));
    KIN_TRY(kin_golden_optional(c, "in.quantify_priori", &v->quant, &v->in.quant));
    return kin_golden_optional(c, "in.mopa_u", &v->u, &v->in.u);
}

/* the objective of the *_loss cases */
static kin_status video_objective(kin_golden_case *c, const kin_golden_video *v,
                                  const kin_model_output *out, const kin_tensor *y,
                                  kin_tensor *total)
{
    kin_tensor target, diff, aux, term;

    KIN_TRY(kin_golden_input(c, "in.target", &target));
    KIN_TRY(kin_mse(c->ctx, y, &target, NULL, &diff));
    kin_golden_check(c, "out.loss_diff", &diff, 1e-5);
    KIN_TRY(kin_bce_logits(c->ctx, &out->logits, &v->prior, NULL, &aux));
    KIN_TRY(kin_classifier_loss(c->ctx, KIN_CLASSIFIER_LOSS_WISA, &aux, &term));
    KIN_TRY(kin_add(c->ctx, &diff, &term, 1.0f, total));
    kin_golden_check(c, "out.loss", total, 1e-5);
    return KIN_OK;
}

static kin_status video_backward(kin_golden_case *c, const kin_params *params,
                                 const kin_golden_video *v, const kin_tensor *out,
                                 const kin_tensor *dout)
{
    kin_tensor g;

    KIN_TRY(kin_tape_backward(c->ctx, out, dout, 1));
    g = kin_tape_grad(c->ctx, &v->x);
    kin_golden_check(c, "grad_in.hidden_states", &g, 1e-4);
    if (kin_golden_has(c, "grad_in.encoder_hidden_states")) {
        g = kin_tape_grad(c->ctx, &v->text);
        kin_golden_check(c, "grad_in.encoder_hidden_states", &g, 1e-4);
    }
    kin_golden_check_grads(c, params, 1e-4);
    return KIN_OK;
}

kin_status kin_golden_video_judge(kin_golden_case *c, const kin_params *params,
                                  const kin_golden_video *v, const kin_model_output *out,
                                  const kin_tensor *y)
{
    kin_tensor total, dout, aux;

    kin_golden_check(c, "out.sample", y, 1e-5);
    if (kin_golden_has(c, "in.target")) {
        KIN_TRY(video_objective(c, v, out, y, &total));
        KIN_TRY(video_backward(c, params, v, &total, NULL));
    } else if (kin_golden_has(c, "in.dout")) {
        KIN_TRY(kin_golden_input(c, "in.dout", &dout));
        KIN_TRY(video_backward(c, params, v, y, &dout));
    }
    kin_tape_end(c->ctx);
    if (kin_golden_has(c, "out.aux_loss")) {
        KIN_TRY(kin_bce_logits(c->ctx, &out->logits, &v->prior, NULL, &aux));
        kin_golden_check(c, "out.aux_loss", &aux, 1e-5);
    }
    return KIN_OK;
}

/* --- training --- */

const char *const kin_golden_train_keys[] = {"lr",
                                             "weight_decay",
                                             "betas",
                                             "max_grad_norm",
                                             "ema_decay",
                                             "weighting_scheme",
                                             "logit_mean",
                                             "logit_std",
                                             "sigmoid_scale",
                                             "mode_scale",
                                             "shift",
                                             "num_train_timesteps",
                                             "file",
                                             NULL};

kin_status kin_golden_times(kin_golden_case *c, const kin_objective_options *o, const kin_tensor *n,
                            kin_tensor *sigma, kin_tensor *t)
{
    KIN_TRY(KIN_WS_HOST(c->ctx, sigma, KIN_DTYPE_F32, n->size[0]));
    KIN_TRY(KIN_WS_HOST(c->ctx, t, KIN_DTYPE_F32, n->size[0]));
    for (int64_t b = 0; b < n->size[0]; b++) {
        const float s = kin_time_sigma(o->shift, kin_time_u(o, (float)kin_tensor_get(n, b)));

        kin_tensor_set(sigma, b, (double)s);
        kin_tensor_set(t, b, (double)(1000.0f * s));
    }
    return KIN_OK;
}

kin_golden_adamw kin_golden_adamw_options(const kin_golden_case *c)
{
    const cJSON *betas = cJSON_GetObjectItemCaseSensitive(c->config, "betas");
    kin_golden_adamw opt = {.lr = kin_golden_number(c, "lr", 0),
                            .beta1 = 0.9,
                            .beta2 = 0.999,
                            .eps = kin_golden_number(c, "eps", 1e-8),
                            .weight_decay = kin_golden_number(c, "weight_decay", 0),
                            .max_grad_norm = kin_golden_number(c, "max_grad_norm", 1),
                            .ema_decay = kin_golden_number(c, "ema_decay", 0)};

    if (cJSON_GetArraySize(betas) == 2) {
        opt.beta1 = cJSON_GetArrayItem(betas, 0)->valuedouble;
        opt.beta2 = cJSON_GetArrayItem(betas, 1)->valuedouble;
    }
    return opt;
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
    KIN_TRY(kin_ws_host(c->ctx, t.dtype == KIN_DTYPE_F32 ? KIN_DTYPE_F32 : t.dtype, t.ndim, t.size,
                        out));
    memset(out->data, 0, (size_t)kin_tensor_numel(out) * kin_dtype_size(out->dtype));
    return KIN_OK;
}

kin_status kin_golden_store(kin_golden_case *c, kin_tensor *dst, int64_t i, const kin_tensor *t)
{
    kin_tensor at = kin_tensor_select(dst, 0, i);

    if (kin_tensor_numel(&at) != kin_tensor_numel(t))
        return kin_fail(&c->ctx->error, KIN_ERR_SHAPE,
                        "case: an entry of another size than expected");
    kin_tensor from;

    KIN_TRY(kin_host(c->ctx, t, &from));
    for (int64_t k = 0; k < kin_tensor_numel(t); k++)
        kin_tensor_set(&at, k, kin_tensor_get(&from, k));
    return KIN_OK;
}
