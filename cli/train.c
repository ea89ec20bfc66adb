/* cli/train.c: `kinema train`: hands flags to the training loop and shows what it reports. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/common.h"
#include "cli/signals.h"
#include "training/config.h"
#include "training/official.h"
#include "training/train.h"

static int on_poll(void *user)
{
    (void)user;
    return kin_signals_caught();
}

/* The report for programs: what people see, as numbers. */
static void report_members(kin_progress *p, const kin_train_report *r)
{
    const struct {
        const char *name;
        double value;
        bool there;
    } list[] = {
        {"loss", r->loss, true},
        {"mse", r->mse, r->accuracy < 0 && r->rec < 0},
        {"rec", r->rec, r->rec >= 0},
        {"accuracy", r->accuracy, r->accuracy >= 0},
        {"grad_norm", r->grad_norm, true},
        {"lr", r->lr, true},
        {"it_per_s", r->it_per_s, true},
        {"tokens_per_s", r->tokens_per_s, true},
        {"eta_s", r->eta_s, true},
        {"expert_share_min", r->expert_share_min, r->expert_share_min >= 0},
        {"expert_share_max", r->expert_share_max, r->expert_share_min >= 0},
        {"validation", r->val_loss, r->val_loss >= 0},
    };
    kin_strbuf b = {0};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
        if (list[i].there && isfinite(list[i].value))
            kin_strbuf_addf(&b, "%s\"%s\":%.6g", i ? "," : "", list[i].name, list[i].value);
    if (!b.failed)
        kin_progress_members(p, r->step, b.data, r->val_loss >= 0 || r->step == r->steps);
    kin_strbuf_free(&b);
}

static void on_report(void *user, const kin_train_report *r)
{
    kin_progress *p = user;
    char text[256], eta[32];
    const bool classes = r->accuracy >= 0, vae = r->rec >= 0;
    int n =
        snprintf(text, sizeof text,
                 "loss %.4f  %s %.4f  grad %.2f  lr %.2g  %.2f it/s  %.0f %s/s  ETA %s", r->loss,
                 classes ? "accuracy"
                 : vae   ? "rec"
                         : "mse",
                 classes ? r->accuracy
                 : vae   ? r->rec
                         : r->mse,
                 r->grad_norm, r->lr, r->it_per_s, r->tokens_per_s,
                 classes ? "pixels"
                 : vae   ? "latents"
                         : "tokens",
                 kin_progress_time(r->eta_s, eta));
    if (r->expert_share_min >= 0 && (size_t)n < sizeof text)
        n += snprintf(text + n, sizeof text - (size_t)n, "  experts %.0f-%.0f %%",
                      100 * r->expert_share_min, 100 * r->expert_share_max);
    if (r->val_loss >= 0 && (size_t)n < sizeof text)
        snprintf(text + n, sizeof text - (size_t)n, "  val %.4f", r->val_loss);
    p->what = "train";
    p->unit = "steps";
    p->total = r->steps;
    if (p->mode == KIN_PROGRESS_JSON) {
        report_members(p, r);
        return;
    }
    /* note: the trainer knows rate and rest better (a resumed run did not start at step 0) */
    kin_progress_show(p, r->step, text, r->val_loss >= 0 || r->step == r->steps);
}

static void on_message(void *user, const char *text)
{
    kin_progress_note(user, "%s", text);
}

static bool classifies(const kin_train_options *opt)
{
    return opt->objective && strcmp(opt->objective, "classify") == 0;
}

/* Refuses a bad configuration before anything is written. */
static kin_status check_config(const kin_train_options *opt, kin_error *err)
{
    const kin_train_overrides over = {opt->data, opt->steps, opt->objective};
    kin_train_config config = {0};
    if (!opt->config && !classifies(opt))
        return KIN_OK;
    KIN_TRY(opt->config ? kin_train_config_read(opt->config, &over, &config, err)
                        : kin_train_config_classifier(&over, &config, err));
    kin_train_config_free(&config);
    return KIN_OK;
}

/* --resume-from: the checkpoint becomes the first one of the run, which is then resumed. */
static kin_status take_checkpoint(const kin_args *args, kin_train_options *opt,
                                  kin_progress *progress, kin_error *err)
{
    const kin_train_overrides over = {opt->data, opt->steps, opt->objective};
    const char *from = kin_args_text(args, "resume-from");
    kin_train_config config = {0};
    kin_strbuf notes = {0};
    int64_t step = 0;
    if (!from)
        return KIN_OK;
    if (opt->resume || !opt->config)
        return kin_fail(err, KIN_ERR_ARG,
                        "train: --resume-from starts a run: it needs -c, and no --resume");
    KIN_TRY(kin_cli_need_input("checkpoint", from, err));
    if (opt->dry_run) /* note: the first checkpoint changes nothing in what a run takes */
        return KIN_OK;
    KIN_TRY(kin_train_config_read(opt->config, &over, &config, err));
    kin_status status = KIN_OK;
    if (!config.transformer)
        status = kin_fail(err, KIN_ERR_ARG, "train: --resume-from needs \"transformer\" in %s",
                          opt->config);
    if (status == KIN_OK)
        status = kin_official_to_run(from, opt->run, config.transformer, &notes, &step, err);
    if (status == KIN_OK)
        kin_progress_note(progress, "%s: going on after update %lld", from, (long long)step);
    kin_strbuf_free(&notes);
    kin_train_config_free(&config);
    opt->resume = true;
    return status;
}

kin_status kin_cmd_train(const kin_args *args, kin_error *err)
{
    kin_progress progress;
    kin_ctx *ctx = NULL;
    kin_cli_progress(args, &progress);
    kin_progress_begin(&progress, "train", "steps", 0);
    kin_train_options opt = {
        .config = kin_args_text(args, "config"),
        .data = kin_args_text(args, "data"),
        .run = kin_args_text(args, "output"),
        .resume = kin_args_bool(args, "resume"),
        .objective = kin_args_text(args, "objective"),
        .steps = kin_args_int(args, "steps"),
        .dry_run = kin_args_bool(args, "dry-run"),
        .force = kin_args_bool(args, "force"),
        .interrupted = on_poll,
        .report = on_report,
        .message = on_message,
        .user = &progress,
    };
    if (!opt.run)
        return kin_fail(err, KIN_ERR_ARG, "train: needs a run folder (-o DIR)");
    if (classifies(&opt) && opt.config)
        return kin_fail(err, KIN_ERR_ARG,
                        "train: --objective classify brings its own configuration; one of yours "
                        "(-c) names a KinemaImageClassifier as transformer");
    if (classifies(&opt) && !opt.data && !opt.resume)
        return kin_fail(err, KIN_ERR_ARG, "train: --objective classify needs images (--data PATH)");
    if (!opt.config && !opt.resume && !classifies(&opt))
        return kin_fail(err, KIN_ERR_ARG, "train: needs a configuration (-c FILE)");
    if (opt.config)
        KIN_TRY(kin_cli_need_input("configuration", opt.config, err));
    /* note: the whole path is saved with the run, so that --resume finds the data from any folder
     */
    char data[KIN_PATH_MAX];
    if (opt.data) {
        KIN_TRY(kin_cli_need_input("data set", opt.data, err));
        opt.data = realpath(opt.data, data) ? data : opt.data;
    }
    KIN_TRY(check_config(&opt, err));
    KIN_TRY(take_checkpoint(args, &opt, &progress, err));
    KIN_TRY(kin_cli_context(args, opt.dry_run, &ctx, err));
    kin_status status = kin_train_run(ctx, &opt);
    kin_progress_end(&progress);
    if (status != KIN_OK)
        *err = ctx->error;
    else if (opt.dry_run)
        printf("peak memory: %llu bytes (%.1f MB)\n", (unsigned long long)opt.peak_bytes,
               (double)opt.peak_bytes / 1e6);
    else
        kin_cli_say(args, "%s: done\n", opt.run);
    kin_ctx_destroy(&ctx);
    return status;
}
