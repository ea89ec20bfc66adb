/* training/report.c: what a run tells while it goes: log lines and validation. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "training/trainer.h"

/* --- experts --- */

kin_status kin_trainer_experts_alloc(kin_trainer *t)
{
    const kin_model_info *info = kin_model_get_info(t->pipe->model);
    kin_expert_counts *e = &t->experts;
    if (info->experts == 0)
        return KIN_OK;
    e->layers = info->num_layers;
    e->experts = info->experts;
    e->n = kin_calloc((size_t)(e->layers * (e->experts + 1)), sizeof *e->n);
    e->seen = kin_calloc((size_t)e->layers, sizeof *e->seen);
    e->share = kin_calloc((size_t)e->experts + 1, sizeof *e->share);
    return e->n && e->seen && e->share
               ? KIN_OK
               : kin_fail(&t->ctx->error, KIN_ERR_MEM, "train: out of memory");
}

/* Counts the routing decisions that the model shows under "layers.I.route" [B,N,K]. */
static void count_experts(void *user, const char *name, const kin_tensor *x)
{
    kin_expert_counts *e = &((kin_trainer *)user)->experts;
    int layer, at = 0;
    if (sscanf(name, "layers.%d.route%n", &layer, &at) != 1 || at == 0 || name[at] != '\0' ||
        layer < 0 || layer >= e->layers || x->dtype != KIN_DTYPE_I32)
        return;
    const int64_t k = x->size[x->ndim - 1], tokens = kin_tensor_numel(x) / k;
    const int32_t *idx = x->data;
    int64_t *n = e->n + layer * (e->experts + 1);
    for (int64_t i = 0; i < tokens * k; i++) {
        /* note: a token of a null sample names the unconditional expert in every slot but uses one
         */
        if (idx[i] > e->experts || idx[i] < 0 || (idx[i] == e->experts && i % k != 0))
            continue;
        n[idx[i]]++;
    }
    e->seen[layer] = true;
}

void kin_trainer_watch_experts(kin_trainer *t, bool on)
{
    kin_expert_counts *e = &t->experts;
    if (e->experts == 0)
        return;
    t->ctx->tap = on ? count_experts : NULL;
    t->ctx->tap_user = on ? t : NULL;
    if (on) {
        memset(e->n, 0, (size_t)(e->layers * (e->experts + 1)) * sizeof *e->n);
        memset(e->seen, 0, (size_t)e->layers * sizeof *e->seen);
    }
}

/* Shares of the routed experts among the tokens that are routed, then the share of all tokens that
 * went to the unconditional one. */
static void log_experts(kin_trainer *t)
{
    const kin_expert_counts *e = &t->experts;
    char key[24];
    double lo = 1, hi = 0;
    kin_log_open_object(&t->log, "experts");
    for (int64_t l = 0; l < e->layers; l++) {
        const int64_t *n = e->n + l * (e->experts + 1);
        int64_t routed = 0;
        if (!e->seen[l])
            continue;
        for (int64_t i = 0; i < e->experts; i++)
            routed += n[i];
        for (int64_t i = 0; i < e->experts; i++) {
            e->share[i] = routed ? (double)n[i] / (double)routed : 0;
            lo = fmin(lo, e->share[i]);
            hi = fmax(hi, e->share[i]);
        }
        const int64_t all = routed + n[e->experts];
        e->share[e->experts] = all ? (double)n[e->experts] / (double)all : 0;
        snprintf(key, sizeof key, "%" PRId64, l);
        kin_log_array(&t->log, key, e->share, (int)e->experts + 1);
    }
    kin_log_close_object(&t->log);
    t->report.expert_share_min = lo;
    t->report.expert_share_max = hi;
}

/* --- steps --- */

static void log_time(kin_trainer *t)
{
    const double now = kin_trainer_clock();
    const double seconds = now - t->logged;
    kin_train_report *r = &t->report;
    r->it_per_s = seconds > 0 ? (double)(t->step - t->logged_step) / seconds : 0;
    r->tokens_per_s = r->it_per_s * (double)t->tokens;
    r->eta_s = r->it_per_s > 0 ? (double)(r->steps - t->step) / r->it_per_s : 0;
    t->logged = now;
    t->logged_step = t->step;
    kin_log_open_object(&t->log, "time");
    kin_log_number(&t->log, "s", now - t->started);
    kin_log_number(&t->log, "it_per_s", r->it_per_s);
    kin_log_number(&t->log, "tokens_per_s", r->tokens_per_s);
    kin_log_close_object(&t->log);
}

void kin_trainer_report_step(kin_trainer *t, const kin_train_losses *l,
                             const kin_optimizer_report *update)
{
    t->report = (kin_train_report){.step = t->step,
                                   .steps = t->cfg.steps,
                                   .loss = l->total,
                                   .mse = l->flow,
                                   .rec = l->has_rec ? l->rec : -1,
                                   .bce = l->bce,
                                   .aux = l->aux,
                                   .grad_norm = update->grad_norm,
                                   .lr = update->lr,
                                   .expert_share_min = -1,
                                   .expert_share_max = -1,
                                   .val_loss = -1,
                                   .accuracy = l->has_accuracy ? l->accuracy : -1};
}

kin_status kin_trainer_log_step(kin_trainer *t, const kin_train_losses *l)
{
    const kin_train_report *r = &t->report;
    kin_log_begin(&t->log, t->step);
    kin_log_number(&t->log, "loss", l->total);
    if (l->has_flow)
        kin_log_number(&t->log, "mse", l->flow);
    if (l->has_accuracy)
        kin_log_number(&t->log, "accuracy", l->accuracy);
    if (l->has_rec) {
        kin_log_number(&t->log, "rec", l->rec);
        kin_log_number(&t->log, "kl", l->kl);
    }
    if (l->has_bce) {
        kin_log_number(&t->log, "bce", l->bce);
        kin_log_number(&t->log, "classifier", l->classifier);
    }
    if (l->has_vb)
        kin_log_number(&t->log, "vb", l->vb);
    if (l->has_aux)
        kin_log_number(&t->log, "aux", l->aux);
    kin_log_number(&t->log, "grad_norm", r->grad_norm);
    kin_log_number(&t->log, "lr", r->lr);
    kin_log_number(&t->log, "samples", (double)(t->step * t->cfg.batch * t->cfg.accumulation));
    if (t->experts.experts > 0)
        log_experts(t);
    log_time(t);
    return kin_log_end(&t->log, &t->ctx->error);
}

/* --- validation --- */

static kin_status run_validation(kin_trainer *t, bool shuffled, kin_validation_result *out)
{
    kin_validation_options opt = {.sigmas = t->cfg.validation.sigmas,
                                  .batch = t->cfg.batch,
                                  .shuffled = shuffled,
                                  .seed = t->cfg.seed};
    memcpy(opt.sigma, t->cfg.validation.sigma, sizeof opt.sigma);
    return kin_validate(t->ctx, &t->task, &t->held_out, &opt, out);
}

static void log_health(kin_trainer *t, const kin_mlp_health *h)
{
    if (h->has_time) {
        kin_log_open_object(&t->log, "time_mlp");
        kin_log_number(&t->log, "mean", h->time_mean);
        kin_log_number(&t->log, "spread", h->time_spread);
        kin_log_close_object(&t->log);
    }
    if (h->has_quant) {
        kin_log_open_object(&t->log, "quantity_mlp");
        kin_log_number(&t->log, "mean", h->quant_mean);
        kin_log_number(&t->log, "spread", h->quant_spread);
        kin_log_close_object(&t->log);
    }
    if ((h->has_time && h->time_spread < 1e-3) || (h->has_quant && h->quant_spread < 1e-4))
        kin_trainer_message(t,
                            "step %" PRId64 ": a conditioning MLP hardly reacts any more (spread: "
                            "time %.2g, quantities %.2g)",
                            t->step, h->time_spread, h->quant_spread);
}

static kin_status validate_averages(kin_trainer *t)
{
    kin_validation_result own, other = {0};
    kin_mlp_health health;
    char key[24];
    KIN_TRY(run_validation(t, false, &own));
    if (t->cfg.validation.shuffled)
        KIN_TRY(run_validation(t, true, &other));
    KIN_TRY(kin_train_health(t->ctx, &t->task, &t->held_out, &health));
    kin_log_begin(&t->log, t->step);
    kin_log_number(&t->log, "val", own.mean);
    kin_log_open_object(&t->log, "val_at");
    for (int i = 0; i < t->cfg.validation.sigmas; i++) {
        snprintf(key, sizeof key, "%g", (double)t->cfg.validation.sigma[i]);
        kin_log_number(&t->log, key, own.at[i]);
    }
    kin_log_close_object(&t->log);
    if (t->cfg.validation.shuffled)
        kin_log_number(&t->log, "val_shuffled", other.mean);
    log_health(t, &health);
    t->report.val_loss = own.mean;
    return kin_log_end(&t->log, &t->ctx->error);
}

static kin_status validate_vae(kin_trainer *t)
{
    double total, rec, kl;
    KIN_TRY(kin_validate_vae(t->ctx, &t->task, &t->held_out, t->cfg.batch, &total, &rec, &kl));
    kin_log_begin(&t->log, t->step);
    kin_log_number(&t->log, "val", total);
    kin_log_number(&t->log, "val_rec", rec);
    kin_log_number(&t->log, "val_kl", kl);
    t->report.val_loss = total;
    return kin_log_end(&t->log, &t->ctx->error);
}

static kin_status validate_classes(kin_trainer *t)
{
    double loss, accuracy;
    KIN_TRY(kin_validate_classes(t->ctx, &t->task, &t->held_out, t->cfg.batch, &loss, &accuracy));
    kin_log_begin(&t->log, t->step);
    kin_log_number(&t->log, "val", loss);
    kin_log_number(&t->log, "val_accuracy", accuracy);
    t->report.val_loss = loss;
    return kin_log_end(&t->log, &t->ctx->error);
}

kin_status kin_trainer_validate(kin_trainer *t)
{
    kin_status status;
    kin_optimizer_swap_ema(t->optim);
    switch (kin_model_get_info(t->pipe->model)->family) {
    case KIN_FAMILY_CLASSIFIER: status = validate_classes(t); break;
    case KIN_FAMILY_VAE: status = validate_vae(t); break;
    default: status = validate_averages(t); break;
    }
    kin_optimizer_swap_ema(t->optim);
    return status;
}
