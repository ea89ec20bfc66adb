#include "training/recording.h"

#include <string.h>

#include "diffusion/config.h"

bool kin_train_recordable(const kin_ctx *ctx, const kin_train_task *task)
{
    const kin_model_info *info = kin_model_get_info(task->pipe->model);
    if (!ctx->device || !task->replay || task->levels)
        return false;
    if (task->ddpm && task->ddpm->opt.variance == KIN_VARIANCE_LEARNED_RANGE)
        return false;
    if (info->family != KIN_FAMILY_DIT && info->family != KIN_FAMILY_KINEMA)
        return false;
    if (strcmp(info->router, kin_config_router_name(KIN_ROUTER_DIFFMOE)) == 0)
        return false;
    return task->ddpm || !info->predicts_sample || info->sample_loss_floor > 0;
}

/* note: what lies on the device is not looked at again */
static kin_status check_ids(kin_ctx *ctx, const char *what, const kin_tensor *ids, int64_t rows)
{
    const int32_t *id = ids->data;
    for (int64_t i = 0; i < kin_tensor_numel(ids); i++)
        if (id[i] < 0 || id[i] >= rows)
            return kin_fail(&ctx->error, KIN_ERR_ARG, "train: %s %d must be in [0, %lld)", what,
                            id[i], (long long)rows);
    return KIN_OK;
}

static kin_status settle_conditions(kin_ctx *ctx, const kin_train_task *task, kin_train_inputs *in)
{
    const kin_model *model = task->pipe->model;
    const kin_model_info *info = kin_model_get_info(model);
    if (in->label.data) {
        KIN_TRY(check_ids(ctx, "label", &in->label,
                          info->num_classes + (info->class_dropout > 0 ? 1 : 0)));
        KIN_TRY(kin_model_null_of(ctx, model, &in->label, &in->null));
    }
    if (in->ids.data) {
        KIN_TRY(check_ids(ctx, "token", &in->ids, kin_text_encoder_vocab(task->pipe->text)));
        KIN_TRY(kin_pipeline_keep(task->pipe, &in->mask, &in->keep));
    }
    if (info->phys_blocks > 0)
        KIN_TRY(kin_model_gates(ctx, model, &in->prior, in->u.data ? &in->u : NULL, in->x0.size[0],
                                &in->gates));
    return KIN_OK;
}

kin_status kin_train_settle(kin_ctx *ctx, const kin_train_task *task, kin_train_inputs *in,
                            const kin_tensor *reads[KIN_TRAIN_READS])
{
    kin_tensor *const from_host[] = {&in->t,     &in->label,  &in->ids,        &in->mask,
                                     &in->keep,  &in->states, &in->null,       &in->quant,
                                     &in->gates, &in->weight, &in->true_prior, &in->x0};
    enum { FROM_HOST = sizeof from_host / sizeof *from_host };
    _Static_assert(FROM_HOST + 2 == KIN_TRAIN_READS, "and two that lie there already");
    /* the sample itself is read by its own loss alone */
    const int n =
        kin_model_get_info(task->pipe->model)->predicts_sample ? FROM_HOST : FROM_HOST - 1;
    KIN_TRY(settle_conditions(ctx, task, in));
    KIN_TRY(
        kin_objective_weight(ctx, task->pipe->model, &task->objective, &in->sigma, &in->weight));
    memset(reads, 0, KIN_TRAIN_READS * sizeof *reads);
    for (int i = 0; i < n; i++) {
        if (from_host[i]->data)
            KIN_TRY(kin_settle(ctx, from_host[i]));
        reads[i] = from_host[i];
    }
    reads[FROM_HOST] = &in->xt;
    reads[FROM_HOST + 1] = &in->target;
    return KIN_OK;
}
