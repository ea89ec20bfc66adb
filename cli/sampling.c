#include "cli/sampling.h"

#include <stdlib.h>
#include <string.h>

#include "cli/common.h"
#include "samplers/sampler.h"

/* "LO,HI" */
static kin_status parse_interval(const char *text, float out[2], kin_error *err)
{
    char *end = NULL;
    out[0] = strtof(text, &end);
    if (end != text && *end == ',') {
        const char *high = end + 1;
        out[1] = strtof(high, &end);
        if (end != high && !*end && out[0] >= 0 && out[0] <= out[1])
            return KIN_OK;
    }
    return kin_fail(err, KIN_ERR_ARG, "--cfg-interval: '%s' must be two times LO,HI, as 100,900",
                    text);
}

kin_status kin_cli_sampling_check(const kin_args *args, kin_error *err)
{
    const char *name = kin_args_text(args, "sampling-method");
    const char *spacing = kin_args_text(args, "timestep-spacing");
    const char *interval = kin_args_text(args, "cfg-interval");
    const kin_sampler *sampler;
    kin_time_spacing parsed;
    float times[2];
    if (name)
        KIN_TRY(kin_sampler_find(name, &sampler, err));
    if (spacing && !kin_solver_is_respacing(spacing))
        KIN_TRY(kin_time_spacing_parse(spacing, &parsed, err));
    if (kin_solver_is_respacing(spacing) && kin_args_source(args, "steps") == KIN_SOURCE_FLAG)
        return kin_fail(err, KIN_ERR_ARG,
                        "--steps and --timestep-spacing %s both say how many steps; give one",
                        spacing);
    if (interval)
        KIN_TRY(parse_interval(interval, times, err));
    if (kin_args_real(args, "phys-cfg") > 0 && strcmp(kin_args_text(args, "cfg-mode"), "multi"))
        return kin_fail(err, KIN_ERR_ARG, "--phys-cfg %g works with --cfg-mode multi alone",
                        kin_args_real(args, "phys-cfg"));
    return KIN_OK;
}

void kin_cli_sampling(const kin_args *args, const kin_pipeline *model, kin_generate_params *p)
{
    p->steps = model->steps && kin_args_source(args, "steps") <= KIN_SOURCE_DEFAULT
                   ? model->steps
                   : (int)kin_args_int(args, "steps");
    p->sampler = kin_args_text(args, "sampling-method");
    p->spacing = kin_args_text(args, "timestep-spacing");
    p->eta = (float)kin_args_real(args, "eta");
    if (kin_args_source(args, "flow-shift"))
        p->shift = (float)kin_args_real(args, "flow-shift");
    p->cfg_scale = kin_cli_cfg_scale(args, model);
    p->phys_cfg = (float)kin_args_real(args, "phys-cfg");
    p->cfg_mode = strcmp(kin_args_text(args, "cfg-mode"), "multi") ? KIN_CFG_PLAIN : KIN_CFG_MULTI;
    if (kin_args_text(args, "cfg-interval"))
        parse_interval(kin_args_text(args, "cfg-interval"), p->cfg_interval, NULL);
    p->dynamic_cfg = !strcmp(kin_args_text(args, "dynamic-cfg"), "on")    ? KIN_DYNAMIC_ON
                     : !strcmp(kin_args_text(args, "dynamic-cfg"), "off") ? KIN_DYNAMIC_OFF
                                                                          : KIN_DYNAMIC_AUTO;
    p->cfg_rescale = (float)kin_args_real(args, "cfg-rescale");
    p->seed = (uint64_t)kin_args_int(args, "seed");
}
