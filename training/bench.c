#include "training/bench.h"

#include "base/alloc.h"
#include "training/trainer.h"

struct kin_train_bench {
    kin_trainer t;
    kin_train_options opt;
    double (*clock)(void *user);
    void *user;
    double forward_done;
    double loss, grad_norm; /* of the last step */
};

static void on_forward_done(void *user)
{
    kin_train_bench *b = user;
    b->forward_done = b->clock(b->user);
}

kin_status kin_train_bench_open(kin_ctx *ctx, const char *config, double (*clock)(void *user),
                                void *user, kin_train_bench **out)
{
    kin_train_bench *b = kin_calloc(1, sizeof *b);
    kin_status status;
    *out = NULL;
    if (!b)
        return kin_fail(&ctx->error, KIN_ERR_MEM, "train: out of memory");
    b->clock = clock;
    b->user = user;
    b->t.ctx = ctx;
    b->t.opt = &b->opt;
    b->opt.config = config;
    KIN_GOTO(kin_train_config_read(config, NULL, &b->t.cfg, &ctx->error));
    KIN_GOTO(kin_train_config_adopt(&b->t.cfg, ctx));
    KIN_GOTO(kin_trainer_setup(&b->t, NULL));
    b->t.task.forward_done = on_forward_done;
    b->t.task.user = b;
    if (!kin_ctx_is_plan(ctx)) {
        KIN_GOTO(kin_source_reserve(b->t.source, &ctx->error));
        KIN_GOTO(kin_loader_start(b->t.source, b->t.cfg.seed, b->t.cfg.batch, 0, &b->t.loader,
                                  &ctx->error));
    }
    *out = b;
    return KIN_OK;
done:
    kin_train_bench_close(&b);
    return status;
}

void kin_train_bench_close(kin_train_bench **b)
{
    if (*b)
        kin_trainer_close(&(*b)->t);
    kin_free(*b);
    *b = NULL;
}

static kin_status micro_step(kin_train_bench *b, kin_train_phases *out, kin_train_losses *losses)
{
    kin_trainer *t = &b->t;
    const kin_batch shape = {.size = t->cfg.batch, .shape = kin_source_shape(t->source)};
    const kin_batch *batch = &shape;
    double start = b->clock(b->user);
    if (t->loader)
        KIN_TRY(kin_loader_next(t->loader, &batch, &t->ctx->error));
    const double ready = b->clock(b->user);
    KIN_TRY(kin_train_micro_step(t->ctx, &t->task, batch, (uint32_t)(t->step + 1), losses));
    out->data += ready - start;
    out->forward += b->forward_done - ready;
    out->backward += b->clock(b->user) - b->forward_done;
    return KIN_OK;
}

kin_status kin_train_bench_step(kin_train_bench *b, kin_train_phases *out)
{
    kin_trainer *t = &b->t;
    const int64_t micro = t->cfg.accumulation;
    kin_train_losses losses = {0};
    kin_optimizer_report report;
    *out = (kin_train_phases){0};
    for (int64_t i = 0; i < micro; i++)
        KIN_TRY(micro_step(b, out, &losses));
    const double start = b->clock(b->user);
    KIN_TRY(kin_optimizer_step(t->ctx, t->optim, 1.0 / (double)micro, &report));
    out->optimizer += b->clock(b->user) - start;
    b->loss = losses.total / (double)micro;
    b->grad_norm = report.grad_norm;
    t->step++;
    return KIN_OK;
}

kin_train_bench_info kin_train_bench_get_info(const kin_train_bench *b)
{
    const int64_t samples = b->t.cfg.batch * b->t.cfg.accumulation;
    return (kin_train_bench_info){.pipe = b->t.pipe,
                                  .batch = samples,
                                  .tokens = b->t.tokens / samples,
                                  .optimizer_bytes = b->t.optim->bytes,
                                  .played = kin_replay_count(b->t.task.replay).played,
                                  .loss = b->loss,
                                  .grad_norm = b->grad_norm};
}
