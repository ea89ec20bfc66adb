#include "samplers/density.h"

#include <math.h>
#include <string.h>

kin_density kin_density_default(void)
{
    return (kin_density){KIN_DENSITY_LOGIT_NORMAL, 0.0, 1.0, 1.29};
}

kin_status kin_density_parse(const char *name, kin_density_kind *out, kin_error *err)
{
    static const struct {
        const char *name;
        kin_density_kind kind;
    } rows[] = {
        {"logit_normal", KIN_DENSITY_LOGIT_NORMAL}, {"mode", KIN_DENSITY_MODE},
        {"uniform", KIN_DENSITY_UNIFORM},           {"none", KIN_DENSITY_UNIFORM},
        {"sigma_sqrt", KIN_DENSITY_UNIFORM},        {"cosmap", KIN_DENSITY_UNIFORM},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(name, rows[i].name) == 0) {
            *out = rows[i].kind;
            return KIN_OK;
        }
    }
    return kin_fail(err, KIN_ERR_ARG, "time density: \"%s\" must be logit_normal, mode or uniform",
                    name);
}

bool kin_density_wants_normal(kin_density_kind kind)
{
    return kind == KIN_DENSITY_LOGIT_NORMAL;
}

static double density_map(const kin_density *d, double z)
{
    switch (d->kind) {
    case KIN_DENSITY_LOGIT_NORMAL: return 1.0 / (1.0 + exp(-(d->logit_mean + d->logit_std * z)));
    case KIN_DENSITY_MODE: {
        double c = cos(acos(-1.0) * z / 2.0);
        return 1.0 - z - d->mode_scale * (c * c - 1.0 + z);
    }
    case KIN_DENSITY_UNIFORM: break;
    }
    return z;
}

void kin_density_apply(const kin_density *density, const float *draw, int64_t n, float *u)
{
    for (int64_t i = 0; i < n; i++)
        u[i] = (float)density_map(density, (double)draw[i]);
}

kin_status kin_loss_weighting_parse(const char *name, kin_loss_weighting *out, kin_error *err)
{
    kin_density_kind density;
    *out = KIN_WEIGHT_NONE;
    if (strcmp(name, "sigma_sqrt") == 0)
        *out = KIN_WEIGHT_SIGMA_SQRT;
    else if (strcmp(name, "cosmap") == 0)
        *out = KIN_WEIGHT_COSMAP;
    return kin_density_parse(name, &density, err);
}

double kin_loss_weight(kin_loss_weighting kind, double sigma)
{
    switch (kind) {
    case KIN_WEIGHT_SIGMA_SQRT: return 1.0 / (sigma * sigma);
    case KIN_WEIGHT_COSMAP: return 2.0 / (acos(-1.0) * (1.0 - 2.0 * sigma + 2.0 * sigma * sigma));
    case KIN_WEIGHT_NONE: break;
    }
    return 1.0;
}
