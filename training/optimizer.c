#include "training/optimizer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "tensor/device.h"
#include "tensor/kernels.h"

kin_optimizer_options kin_optimizer_options_default(void)
{
    return (kin_optimizer_options){.lr = 1e-4,
                                   .beta1 = 0.9,
                                   .beta2 = 0.999,
                                   .eps = 1e-8,
                                   .max_grad_norm = 1.0,
                                   .ema_decay = 0.9999,
                                   .final_fraction = 1.0};
}

double kin_lr_at(const kin_optimizer_options *o, int64_t step)
{
    if (o->schedule == KIN_LR_FROM_ZERO)
        return step <= o->warmup_steps ? o->lr * (double)(step - 1) / (double)o->warmup_steps
                                       : o->lr;
    if (step <= o->warmup_steps)
        return o->lr * (double)step / (double)o->warmup_steps;
    if (o->schedule == KIN_LR_CONSTANT || o->steps <= o->warmup_steps)
        return o->lr;
    double at = (double)(step - o->warmup_steps) / (double)(o->steps - o->warmup_steps);
    if (at > 1)
        at = 1;
    double c = 0.5 * (1 + cos(3.14159265358979323846 * at));
    return o->lr * (o->final_fraction + (1 - o->final_fraction) * c);
}

double kin_ema_decay_at(const kin_optimizer_options *o, int64_t step)
{
    double warm = (1.0 + (double)step) / (10.0 + (double)step);
    return o->ema_warmup && warm < o->ema_decay ? warm : o->ema_decay;
}

/* Floats of one parameter in a block, padded so that each part has cache lines of its own. */
static size_t padded(int64_t n)
{
    return ((size_t)n + 15) & ~(size_t)15;
}

static float lr_factor_of(kin_optimizer *o, const char *name, bool used[KIN_OPTIMIZER_FACTORS])
{
    size_t best = 0;
    double factor = 1;
    for (int i = 0; i < o->opt.factors; i++) {
        const kin_lr_factor *f = &o->opt.factor[i];
        size_t len = strlen(f->prefix);
        if (strncmp(name, f->prefix, len) != 0)
            continue;
        used[i] = true;
        if (len >= best) {
            best = len;
            factor = f->factor;
        }
    }
    return (float)factor;
}

static bool has_decay(const kin_optimizer_options *opt, const kin_param *p)
{
    if (!opt->decay_matrices_only)
        return true;
    size_t len = strlen(p->name);
    return p->value.ndim >= 2 && len >= 7 && strcmp(p->name + len - 7, ".weight") == 0;
}

/* Frozen in memory that is not the table's: nothing to update, average or save. */
static bool takes_part(const kin_param *p)
{
    return p->trainable || p->owned;
}

static kin_status add_slots(kin_optimizer *o, kin_params *const *tables, int n, kin_error *err)
{
    char name[KIN_OPTIMIZER_NAME_MAX];
    bool used[KIN_OPTIMIZER_FACTORS] = {false};

    for (int t = 0; t < n; t++) {
        for (int i = 0; tables[t] && i < tables[t]->count; i++) {
            if (!takes_part(tables[t]->list[i]))
                continue;
            kin_optimizer_slot *s = &o->slot[o->count++];
            s->param = tables[t]->list[i];
            s->table = t;
            s->n = kin_tensor_numel(&s->param->value);
            if (s->param->value.dtype != KIN_DTYPE_F32 || !s->param->value.data)
                return kin_fail(err, KIN_ERR_ARG, "optimizer: parameter %s must be f32",
                                s->param->name);
            kin_optimizer_name(o, o->count - 1, name, sizeof name);
            s->lr_factor = lr_factor_of(o, name, used);
            s->decay = has_decay(&o->opt, s->param) ? (float)o->opt.weight_decay : 0.0f;
        }
    }
    for (int i = 0; i < o->opt.factors; i++)
        if (!used[i])
            return kin_fail(err, KIN_ERR_ARG,
                            "optimizer: lr factor for \"%s\": no parameter has this name",
                            o->opt.factor[i].prefix);
    return KIN_OK;
}

/* Sets the pointers into a block of two or three parts and copies the values into the averages. */
static void lay_out(kin_optimizer *o, float *block, size_t floats, bool plan)
{
    float *at = block;
    for (int i = 0; i < o->count; i++) {
        kin_optimizer_slot *s = &o->slot[i];
        s->m = at;
        s->v = at + floats;
        s->ema = o->opt.no_ema ? NULL : at + 2 * floats;
        if (!plan && s->ema)
            memcpy(s->ema, s->param->value.data, (size_t)s->n * sizeof(float));
        at += padded(s->n);
    }
}

kin_status kin_optimizer_create(const kin_optimizer_options *opt, kin_params *const *tables,
                                const char *const *prefixes, int n, bool plan, kin_optimizer **out,
                                kin_error *err)
{
    *out = NULL;
    size_t count = 0, floats = 0;
    if (n < 1 || n > KIN_OPTIMIZER_TABLES)
        return kin_fail(err, KIN_ERR_ARG, "optimizer: %d tables, must be 1 or 2", n);
    for (int t = 0; t < n; t++)
        count += tables[t] ? (size_t)tables[t]->count : 0;
    kin_optimizer *o = kin_calloc(1, sizeof *o);
    if (o) {
        o->slot = kin_calloc(count + 1, sizeof *o->slot);
        o->part = kin_calloc(count + 1, sizeof *o->part);
    }
    if (!o || !o->slot || !o->part) {
        kin_optimizer_destroy(&o);
        return kin_fail(err, KIN_ERR_MEM, "optimizer: out of memory");
    }
    o->opt = *opt;
    for (int t = 0; t < n; t++)
        o->prefix[t] = prefixes[t];
    kin_status status = add_slots(o, tables, n, err);
    if (status != KIN_OK) {
        kin_optimizer_destroy(&o);
        return status;
    }
    for (int i = 0; i < o->count; i++)
        floats += padded(o->slot[i].n);
    const size_t blocks = opt->no_ema ? 2 : 3;
    o->bytes = blocks * floats * sizeof(float);
    float *block = (float *)(uintptr_t)4096; /* plan: an address that is never touched */
    if (!plan) {
        block = o->block = kin_calloc(floats ? blocks * floats : 1, sizeof(float));
        if (!block) {
            status = kin_fail(err, KIN_ERR_MEM, "optimizer: %zu bytes do not fit", o->bytes);
            kin_optimizer_destroy(&o);
            return status;
        }
    }
    lay_out(o, block, floats, plan);
    *out = o;
    return KIN_OK;
}

/* What an update of slot s touches: value, gradient, moments, average (or NULL). */
enum { TOUCHED = 5 };
static void list_touched(const kin_optimizer_slot *s, float *list[TOUCHED])
{
    list[0] = s->param->value.data;
    list[1] = s->m;
    list[2] = s->v;
    list[3] = s->ema;
    list[4] = s->param->grad.data;
}

kin_status kin_optimizer_settle(kin_ctx *ctx, kin_optimizer *o)
{
    if (!ctx->device)
        return KIN_OK;
    o->home = ctx;
    for (int i = 0; i < o->count; i++) {
        float *list[TOUCHED];
        list_touched(&o->slot[i], list);
        for (int k = 0; k < TOUCHED && o->slot[i].param->grad.data; k++)
            if (list[k])
                KIN_TRY(ctx->device->adopt(ctx, list[k], (size_t)o->slot[i].n * sizeof(float)));
    }
    return KIN_OK;
}

kin_status kin_optimizer_bring(const kin_optimizer *o)
{
    for (int i = 0; i < o->count && o->home; i++) {
        float *list[TOUCHED];
        list_touched(&o->slot[i], list);
        /* note: gradients are 0 between updates */
        for (int k = 0; k < TOUCHED - 1; k++)
            if (list[k])
                KIN_TRY(
                    o->home->device->pull(o->home, list[k], (size_t)o->slot[i].n * sizeof(float)));
    }
    return KIN_OK;
}

/* Back to the host, for whoever uses the parameters after the optimizer. */
static void leave(kin_optimizer *o)
{
    (void)kin_optimizer_bring(o);
    for (int i = 0; i < o->count && o->home; i++) {
        float *list[TOUCHED];
        list_touched(&o->slot[i], list);
        for (int k = 0; k < TOUCHED; k++)
            if (list[k])
                o->home->device->release(o->home, list[k]);
        kin_param_touch(o->slot[i].param);
    }
    o->home = NULL;
}

void kin_optimizer_destroy(kin_optimizer **po)
{
    kin_optimizer *o = *po;
    if (!o)
        return;
    if (o->swapped)
        kin_optimizer_swap_ema(o);
    leave(o);
    kin_free(o->slot);
    kin_free(o->part);
    kin_free(o->block);
    kin_free(o);
    *po = NULL;
}

/* The slots with a gradient, as the kernels want them. */
static int64_t list_parts(kin_optimizer *o, double lr)
{
    int64_t parts = 0;
    for (int i = 0; i < o->count; i++) {
        const kin_optimizer_slot *s = &o->slot[i];
        if (!s->param->grad.data)
            continue;
        o->part[parts++] = (kin_adamw_part){.n = s->n,
                                            .w = s->param->value.data,
                                            .m = s->m,
                                            .v = s->v,
                                            .ema = s->ema,
                                            .g = s->param->grad.data,
                                            .lr = (float)lr * s->lr_factor,
                                            .weight_decay = s->decay};
    }
    return parts;
}

kin_status kin_optimizer_step(kin_ctx *ctx, kin_optimizer *o, double scale,
                              kin_optimizer_report *report)
{
    const kin_optimizer_options *opt = &o->opt;
    const double lr = kin_lr_at(opt, o->step + 1);
    const int64_t parts = list_parts(o, lr);
    double squares;
    KIN_TRY(ctx->k->sumsq(ctx, o->part, parts, &squares));
    const double norm = sqrt(squares) * scale;
    *report = (kin_optimizer_report){.grad_norm = norm, .lr = lr};
    if (!isfinite(norm))
        return kin_fail(&ctx->error, KIN_ERR_NUMERIC, "optimizer: gradient norm %g must be finite",
                        norm);
    if (opt->max_grad_norm > 0 && opt->max_grad_norm < norm + 1e-6)
        scale *= opt->max_grad_norm / (norm + 1e-6);
    o->step++;
    const kin_adamw_args args = {.part = o->part,
                                 .parts = parts,
                                 .beta1 = (float)opt->beta1,
                                 .beta2 = (float)opt->beta2,
                                 .eps = (float)opt->eps,
                                 .grad_scale = (float)scale,
                                 .ema_decay = (float)kin_ema_decay_at(opt, o->step),
                                 .step = o->step};
    KIN_TRY(ctx->k->adamw(ctx, &args));
    for (int i = 0; i < o->count && !kin_ctx_is_plan(ctx); i++) {
        kin_optimizer_slot *s = &o->slot[i];
        if (s->param->grad.data)
            kin_param_touch(s->param);
        else if (s->ema) /* a buffer: the averaged model has the present one */
            memcpy(s->ema, s->param->value.data, (size_t)s->n * sizeof(float));
    }
    return KIN_OK;
}

void kin_optimizer_swap_ema(kin_optimizer *o)
{
    for (int i = 0; i < o->count && !o->opt.no_ema; i++) {
        kin_optimizer_slot *s = &o->slot[i];
        float *value = s->param->value.data;
        s->param->value.data = s->ema;
        s->ema = value;
        kin_param_touch(s->param);
    }
    o->swapped = !o->swapped;
}

const float *kin_optimizer_ema(const kin_optimizer *o, int table, const kin_param *p)
{
    for (int i = 0; i < o->count; i++)
        if (o->slot[i].table == table && o->slot[i].param == p)
            return o->swapped || o->opt.no_ema ? p->value.data : o->slot[i].ema;
    return NULL;
}

const char *kin_optimizer_name(const kin_optimizer *o, int i, char *buf, size_t bytes)
{
    const kin_optimizer_slot *s = &o->slot[i];
    snprintf(buf, bytes, "%s%s", o->prefix[s->table] ? o->prefix[s->table] : "", s->param->name);
    return buf;
}
