#include "training/image_loss.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "training/validate.h"
#include "training/wiener.h"

enum { TIMES = KIN_IMAGE_LOSS_TIMES };
static const float flow_sigma[TIMES] = {0.162f, 0.262f, 0.338f, 0.405f, 0.469f,
                                        0.531f, 0.595f, 0.662f, 0.738f, 0.838f};

typedef struct suite {
    const kin_image_loss_options *opt;
    kin_image_loss *out;
    kin_source *source;
    kin_train_task task;
    kin_ddpm ddpm;        /* of task.ddpm */
    float level[TIMES];   /* what kin_validate takes: sigma, or the share of the process */
    float mixed[TIMES];   /* sigma of the flow that has the same ratio of noise to image */
    double factor[TIMES]; /* from the squared error of that flow's velocity to that of the model */
    kin_batch batch;
    float *values; /* images and noise of a batch, [2,B,dim] */
    int64_t dim;   /* values of one image */
    kin_wiener wiener;
} suite;

/* The flow x_t / (a + b) of a process x_t = a x0 + b n has sigma = b / (a + b) and estimates the
 * same x0, whose squared error is sigma^2 times that of its velocity; those of n and of a n - b x0
 * are a^2/b^2 and 1/b^2 times it. */
static void set_times(suite *s)
{
    const kin_process *p = s->task.ddpm ? &s->task.ddpm->process : NULL;
    s->out->ddpm = p != NULL;
    for (int k = 0; k < TIMES; k++) {
        s->level[k] = s->mixed[k] = flow_sigma[k];
        s->out->time[k] = round(1e3 * (double)flow_sigma[k]) / 1e3;
        s->factor[k] = 1;
        if (!p)
            continue;
        s->level[k] = ((float)k + 0.5f) / TIMES;
        const int step = (int)lrintf(s->level[k] * (float)(p->n - 1));
        const double a = sqrt(p->ab[step]), b = sqrt(1 - p->ab[step]), sigma = b / (a + b);
        s->mixed[k] = (float)sigma;
        s->out->time[k] = p->time[step];
        s->factor[k] = sigma * sigma;
        if (s->ddpm.opt.prediction == KIN_PREDICT_EPSILON)
            s->factor[k] *= a * a / (b * b);
        else if (s->ddpm.opt.prediction == KIN_PREDICT_V)
            s->factor[k] /= b * b;
    }
}

static kin_status open_source(suite *s, kin_error *err)
{
    const kin_model_info *info = kin_model_get_info(s->task.pipe->model);
    kin_train_config *c = kin_calloc(1, sizeof *c);
    if (!c)
        return kin_fail(err, KIN_ERR_MEM, "loss: out of memory");
    snprintf(c->data.path, sizeof c->data.path, "%s", s->opt->data);
    c->data.frames = 1;
    c->data.height = c->data.width = info->input_size;
    c->data.held_out = s->opt->count;
    kin_status status = kin_source_open(c, true, NULL, NULL, &s->source, err);
    kin_free(c);
    KIN_TRY(status);
    s->out->images = kin_source_held_out(s->source);
    const kin_latents_info *latents = kin_source_latents(s->source);
    s->dim = (latents ? latents->channels : 3) * info->input_size * info->input_size;
    if (latents) {
        s->task.latent_scale = latents->scale;
        s->task.latent_shift = latents->shift;
    }
    if (s->out->images < 1)
        return kin_fail(err, KIN_ERR_ARG,
                        "loss: %s has no part test, val or validation; a count takes so many of "
                        "all images",
                        s->opt->data);
    return kin_source_classes(s->source) <= info->num_classes
               ? KIN_OK
               : kin_fail(err, KIN_ERR_ARG,
                          "loss: %lld classes in the data must be at most the model's %lld",
                          (long long)kin_source_classes(s->source), (long long)info->num_classes);
}

static kin_status make_buffers(suite *s, kin_error *err)
{
    const kin_sample_shape shape = kin_source_shape(s->source);
    const int64_t n = s->opt->batch < s->out->images ? s->opt->batch : s->out->images;
    KIN_TRY(kin_batch_alloc(&shape, n, &s->batch, err));
    s->values = kin_malloc((size_t)(2 * n * s->dim) * sizeof *s->values);
    return s->values ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "loss: out of memory");
}

/* The first n images of the batch as the network sees them -> values[0]. */
static kin_status convert(suite *s, int64_t n, kin_error *err)
{
    kin_ctx *ctx = s->task.pipe->ctx;
    const size_t mark = kin_ws_mark(ctx);
    kin_batch part = s->batch;
    kin_train_inputs in;
    part.size = n;
    kin_status status = kin_train_clean(ctx, &s->task, &part, 0, &in);
    if (status == KIN_OK)
        memcpy(s->values, in.x0.data, (size_t)(n * s->dim) * sizeof *s->values);
    else
        *err = ctx->error;
    kin_ws_release(ctx, mark);
    return status;
}

static kin_status tell(const suite *s, const char *what, int64_t done, int64_t total,
                       kin_error *err)
{
    return s->opt->progress ? s->opt->progress(s->opt->user, what, done, total, err) : KIN_OK;
}

/* The training images and their mirror images, which training draws as often. */
static kin_status add_training_images(suite *s, kin_moments *m, kin_error *err)
{
    const int64_t n = kin_source_count(s->source), size = s->batch.size;
    for (int64_t at = 0; at < n; at += size) {
        const int64_t part = n - at < size ? n - at : size;
        s->batch.first = (uint64_t)at;
        for (int mirrored = 0; mirrored < 2; mirrored++) {
            for (int64_t b = 0; b < part; b++) {
                kin_sample sample = kin_batch_sample(&s->batch, b);
                KIN_TRY(mirrored ? kin_source_read_mirrored(s->source, at + b, &sample, err)
                                 : kin_source_read(s->source, at + b, &sample, err));
            }
            KIN_TRY(convert(s, part, err));
            kin_moments_add(m, s->values, part);
        }
        KIN_TRY(tell(s, "linear denoiser", at + part, n, err));
    }
    return KIN_OK;
}

static kin_status fit_linear(suite *s, kin_error *err)
{
    kin_moments m;
    s->out->training_images = kin_source_count(s->source);
    if (s->dim > KIN_EIGEN_MAX)
        return KIN_OK;
    KIN_TRY(kin_moments_init(&m, s->dim, err));
    kin_status status = add_training_images(s, &m, err);
    if (status == KIN_OK)
        status = kin_wiener_fit(&m, &s->wiener, err);
    s->out->has_linear = status == KIN_OK;
    kin_moments_free(&m);
    return status;
}

/* The affine denoiser on the same images with the same noise. */
static kin_status measure_linear(suite *s, int64_t n, kin_error *err)
{
    float *noise = s->values + s->batch.size * s->dim;
    KIN_TRY(convert(s, n, err));
    for (int64_t b = 0; b < n; b++) {
        const kin_rng rng = {s->task.seed, KIN_RNG_VALIDATE, s->batch.first + (uint64_t)b, 0};
        kin_rng_normal(&rng, 0, s->dim, noise + b * s->dim);
    }
    return kin_wiener_error(&s->wiener, s->values, noise, n, s->mixed, TIMES, s->out->linear_at,
                            err);
}

static kin_status measure_part(suite *s, int64_t at, int64_t n, kin_error *err)
{
    kin_validation_options opt = {.sigmas = TIMES, .batch = n, .seed = s->task.seed};
    kin_validation_result result;
    memcpy(opt.sigma, s->level, sizeof s->level);
    s->batch.first = (uint64_t)at;
    for (int64_t b = 0; b < n; b++) {
        kin_sample sample = kin_batch_sample(&s->batch, b);
        KIN_TRY(kin_source_read_held_out(s->source, at + b, &sample, err));
    }
    kin_batch part = s->batch;
    part.size = n;
    if (kin_validate(s->task.pipe->ctx, &s->task, &part, &opt, &result) != KIN_OK) {
        *err = s->task.pipe->ctx->error;
        return err->status;
    }
    for (int k = 0; k < TIMES; k++) {
        s->out->at[k] += result.at[k] * (double)n;
        s->out->vb[k] += result.vb[k] * (double)n;
    }
    return s->out->has_linear ? measure_linear(s, n, err) : KIN_OK;
}

static kin_status measure(suite *s, kin_error *err)
{
    kin_image_loss *out = s->out;
    for (int64_t at = 0; at < out->images; at += s->batch.size) {
        const int64_t left = out->images - at, n = left < s->batch.size ? left : s->batch.size;
        KIN_TRY(measure_part(s, at, n, err));
        KIN_TRY(tell(s, "evaluate", at + n, out->images, err));
    }
    for (int k = 0; k < TIMES; k++) {
        out->at[k] /= (double)out->images;
        out->vb[k] /= (double)out->images;
        out->linear_at[k] *= s->factor[k] / (double)out->images;
        out->vb_mean += out->vb[k] / TIMES;
        out->mean += out->at[k] / TIMES;
        out->linear_mean += out->linear_at[k] / TIMES;
    }
    out->has_vb = s->task.ddpm && s->ddpm.opt.variance == KIN_VARIANCE_LEARNED_RANGE;
    return out->mean < 1e30 ? KIN_OK
                            : kin_fail(err, KIN_ERR_NUMERIC, "loss: %g is not finite", out->mean);
}

kin_status kin_image_loss_run(kin_pipeline *pipeline, const kin_image_loss_options *opt,
                              kin_image_loss *out, kin_error *err)
{
    suite s = {.opt = opt, .out = out, .task = {.pipe = pipeline, .seed = opt->seed}};
    kin_status status = KIN_OK;
    *out = (kin_image_loss){0};
    KIN_GOTO(kin_train_process(pipeline, &s.ddpm, &s.task, err));
    set_times(&s);
    KIN_GOTO(open_source(&s, err));
    KIN_GOTO(make_buffers(&s, err));
    KIN_GOTO(fit_linear(&s, err));
    status = measure(&s, err);
done:
    kin_ddpm_free(&s.ddpm);
    kin_wiener_free(&s.wiener);
    kin_batch_free(&s.batch);
    kin_source_close(&s.source);
    kin_free(s.values);
    return status;
}
