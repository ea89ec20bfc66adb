#include "diffusion/import.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

/* Names of the parts in the files of the trainers that we know. */
static const struct {
    const char *model, *ema, *optimizer;
} forms[] = {
    {"model_state_dict.", "ema_model_state_dict.", "optimizer_state_dict."},
    {"model.", "ema.", "opt."},
    {"state_dict.", "ema_state_dict.", "optimizer."},
    {"", "", ""},
};

static const char probe[] = "x_embedder.proj.weight";

static bool has(const kin_import *imp, const char *prefix, const char *name)
{
    char full[512];
    return snprintf(full, sizeof full, "%s%s", prefix, name) < (int)sizeof full &&
           kin_pth_find(imp->pth, full) >= 0;
}

static kin_status find_parts(kin_import *imp, kin_error *err)
{
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        /* note: weights of a model wrapped for several devices carry "module." */
        for (int wrapped = 0; wrapped < 2; wrapped++) {
            const char *module = wrapped ? "module." : "";
            char *prefix = imp->prefix[KIN_IMPORT_MODEL], *ema = imp->prefix[KIN_IMPORT_EMA];
            snprintf(prefix, sizeof imp->prefix[0], "%s%s", forms[i].model, module);
            snprintf(ema, sizeof imp->prefix[1], "%s%s", forms[i].ema, module);
            const bool model = has(imp, prefix, probe);
            imp->has_ema = forms[i].ema[0] && has(imp, ema, probe);
            if (!model && !imp->has_ema)
                continue;
            if (!model || !imp->has_ema)
                memcpy(model ? ema : prefix, model ? prefix : ema, sizeof imp->prefix[0]);
            if (forms[i].optimizer[0])
                snprintf(imp->optimizer, sizeof imp->optimizer, "%s", forms[i].optimizer);
            return KIN_OK;
        }
    }
    return kin_fail(err, KIN_ERR_FORMAT,
                    "import: no weights of an image transformer (\"%s\", plain or in "
                    "model_state_dict, model or state_dict); of other families .pth files are "
                    "written, not read",
                    probe);
}

bool kin_import_is_buffer(const char *name)
{
    const char *dot = strrchr(name, '.'), *last = dot ? dot + 1 : name;
    return strcmp(last, "expert_threshold") == 0 || strcmp(last, "ema_decay") == 0;
}

static kin_status list_params(kin_import *imp, kin_error *err)
{
    const char *prefix = imp->prefix[KIN_IMPORT_MODEL];
    const int64_t n = kin_pth_count(imp->pth);
    imp->param = kin_calloc((size_t)n + 1, sizeof *imp->param);
    if (!imp->param)
        return kin_fail(err, KIN_ERR_MEM, "import: out of memory");
    for (int64_t i = 0; i < n; i++) {
        const char *name = kin_pth_at(imp->pth, i)->name;
        if (strncmp(name, prefix, strlen(prefix)) == 0 && !kin_import_is_buffer(name))
            imp->param[imp->params++] = i;
    }
    return KIN_OK;
}

/* Parameters that the groups of the optimizer list. */
static int64_t count_listed(const kin_import *imp)
{
    char name[160];
    double v;
    int64_t n = 0;
    for (int group = 0; group < 1000; group++) {
        int64_t i = 0;
        for (;; i++) {
            snprintf(name, sizeof name, "%sparam_groups.%d.params.%" PRId64, imp->optimizer, group,
                     i);
            if (!kin_pth_number(imp->pth, name, &v))
                break;
        }
        if (i == 0)
            break;
        n += i;
    }
    return n;
}

static int64_t find_state(const kin_import *imp, int64_t param, const char *what)
{
    char name[160];
    snprintf(name, sizeof name, "%sstate.%" PRId64 ".%s", imp->optimizer, param, what);
    return kin_pth_find(imp->pth, name);
}

/* Updates so far, from the counters of the optimizer. */
static kin_status count_updates(kin_import *imp, kin_error *err)
{
    double step;
    bool moments = false;
    imp->step =
        kin_pth_number(imp->pth, "step", &step) && step >= 0 && step < 1e12 ? (int64_t)step : -1;
    int64_t most = -1;
    for (int64_t i = 0; imp->optimizer[0] && i < imp->params; i++) {
        char name[160];
        moments = moments || find_state(imp, i, "exp_avg") >= 0;
        snprintf(name, sizeof name, "%sstate.%" PRId64 ".step", imp->optimizer, i);
        if (kin_pth_number(imp->pth, name, &step) && step > (double)most && step < 1e12)
            most = (int64_t)step;
    }
    imp->updates = most >= 0 ? most : imp->step + 1;
    if (!moments)
        imp->optimizer[0] = '\0';
    if (!imp->optimizer[0])
        return KIN_OK;
    const int64_t listed = count_listed(imp);
    if (listed != imp->params)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "import: the optimizer counts %" PRId64
                        " parameters, the model has %" PRId64,
                        listed, imp->params);
    return KIN_OK;
}

kin_status kin_import_open(const char *path, kin_import *out, kin_error *err)
{
    *out = (kin_import){0};
    KIN_TRY(kin_pth_open(path, &out->pth, err));
    kin_status status = find_parts(out, err);
    if (status == KIN_OK)
        status = list_params(out, err);
    if (status == KIN_OK)
        status = count_updates(out, err);
    if (status != KIN_OK) {
        kin_fail_prefix(err, "%s", path);
        kin_import_close(out);
    }
    return status;
}

void kin_import_close(kin_import *imp)
{
    kin_free(imp->param);
    kin_pth_close(&imp->pth);
    *imp = (kin_import){0};
}

int64_t kin_import_find(const kin_import *imp, kin_import_part part, const char *name)
{
    char full[512];
    if (snprintf(full, sizeof full, "%s%s", imp->prefix[part], name) >= (int)sizeof full)
        return -1;
    return kin_pth_find(imp->pth, full);
}

static kin_status check_shape(const kin_import *imp, int64_t i, const kin_param *p, kin_error *err)
{
    const kin_pth_entry *e = kin_pth_at(imp->pth, i);
    char want[80];
    bool same = e->ndim == p->value.ndim;
    for (int d = 0; same && d < e->ndim; d++)
        same = e->size[d] == p->value.size[d];
    return same ? KIN_OK
                : kin_fail(err, KIN_ERR_SHAPE,
                           "import: \"%s\" has %d dimensions of %" PRId64 "..., the model needs %s",
                           e->name, e->ndim, e->ndim ? e->size[0] : 1,
                           kin_tensor_describe(&p->value, want, sizeof want));
}

static kin_status find_checked(const kin_import *imp, kin_import_part part, const kin_param *p,
                               int64_t *i, kin_error *err)
{
    *i = kin_import_find(imp, part, p->name);
    if (*i < 0)
        return kin_fail(err, KIN_ERR_FORMAT, "import: tensor \"%s%s\" is missing",
                        imp->prefix[part], p->name);
    return check_shape(imp, *i, p, err);
}

kin_status kin_import_value(const kin_import *imp, kin_import_part part, const kin_param *p,
                            float *out, kin_error *err)
{
    int64_t i;
    KIN_TRY(find_checked(imp, part, p, &i, err));
    kin_pth_read(kin_pth_at(imp->pth, i), 0, kin_tensor_numel(&p->value), KIN_DTYPE_F32, out);
    return KIN_OK;
}

kin_status kin_import_moments(const kin_import *imp, const kin_param *p, int64_t *m, int64_t *v,
                              kin_error *err)
{
    const int64_t at = kin_import_find(imp, KIN_IMPORT_MODEL, p->name);
    *m = *v = -1;
    for (int64_t i = 0; at >= 0 && i < imp->params; i++) {
        if (imp->param[i] != at)
            continue;
        *m = find_state(imp, i, "exp_avg");
        *v = find_state(imp, i, "exp_avg_sq");
        if ((*m < 0) != (*v < 0))
            return kin_fail(err, KIN_ERR_FORMAT, "import: %s has one moment of two", p->name);
        if (*m < 0)
            return KIN_OK;
        KIN_TRY(check_shape(imp, *m, p, err));
        return check_shape(imp, *v, p, err);
    }
    return KIN_OK;
}

kin_status kin_import_check(const kin_import *imp, kin_import_part part, const kin_params *params,
                            kin_error *err)
{
    const char *prefix = imp->prefix[part];
    for (int i = 0; i < params->count; i++) {
        int64_t at;
        KIN_TRY(find_checked(imp, part, params->list[i], &at, err));
    }
    for (int64_t i = 0; i < kin_pth_count(imp->pth); i++) {
        const char *name = kin_pth_at(imp->pth, i)->name;
        if (strncmp(name, prefix, strlen(prefix)) == 0 && !kin_import_is_buffer(name) &&
            !kin_params_find(params, name + strlen(prefix)))
            return kin_fail(err, KIN_ERR_FORMAT,
                            "import: tensor \"%s\" belongs to no part of the model", name);
    }
    return KIN_OK;
}
