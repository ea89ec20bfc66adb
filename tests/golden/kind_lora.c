/* Kind of golden/video with adapters: lora (wan_wisa with adapters, and the files that hold them).
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/path.h"
#include "diffusion/lora.h"
#include "tests/golden/golden.h"
#include "tests/golden/models.h"

static const char *const extra[] = {"rank", "lora_alpha", "target_modules", NULL};

/* w.NAME or, for a matrix with an adapter, peft's w.MODULE.base_layer.weight */
static kin_status bind(kin_golden_case *c, kin_params *params, bool adapters)
{
    for (int i = 0; i < params->count; i++) {
        kin_param *p = params->list[i];
        const char *dot = strrchr(p->name, '.');
        char name[400];
        kin_tensor t;

        if (!adapters && strstr(p->name, ".lora_"))
            continue;
        snprintf(name, sizeof(name), "w.%s", p->name);
        if (!kin_golden_has(c, name) && dot)
            snprintf(name, sizeof(name), "w.%.*s.base_layer%s", (int)(dot - p->name), p->name, dot);
        KIN_TRY(kin_golden_tensor(c, name, &t));
        KIN_TRY(kin_params_bind(p, &t, &c->ctx->error));
    }
    return KIN_OK;
}

/* adapters made here, values of the case: output and gradients */
static kin_status run_made(kin_golden_case *c, kin_golden_model *m, kin_golden_video *v)
{
    kin_error *err = &c->ctx->error;
    kin_model_output out;

    KIN_TRY(kin_golden_model_create(c, c->config, "WanTransformer3DModel", extra, m));
    KIN_TRY(kin_lora_create(m->params, kin_golden_string(c, "target_modules"),
                            (int64_t)kin_golden_number(c, "rank", 0),
                            kin_golden_number(c, "lora_alpha", 0), "default", NULL, err));
    for (int i = 0; i < m->params->count; i++) {
        kin_param *p = m->params->list[i];

        p->trainable = strstr(p->name, ".lora_") || strstr(p->name, "phys");
    }
    KIN_TRY(bind(c, m->params, true));
    KIN_TRY(kin_params_alloc_grads(m->params, false, err));
    kin_golden_taps(c, 1e-5, NULL);
    KIN_TRY(kin_tape_begin(c->ctx));
    KIN_TRY(kin_tape_watch(c->ctx, &v->x));
    KIN_TRY(kin_model_forward(c->ctx, m->model, &v->in, &out));
    return kin_golden_video_judge(c, m->params, v, &out, &out.y);
}

/* adapters of lora_checkpoint/ at a strength, as ops of their own or merged; the phys weights
 * beside them must be those of the case */
static kin_status run_file(kin_golden_case *c, const kin_golden_video *v, double strength,
                           bool merge, const char *want)
{
    kin_error *err = &c->ctx->error;
    kin_safetensors *file = NULL;
    kin_golden_model m = {0};
    kin_model_output out;
    void *memory = NULL;
    char path[KIN_PATH_MAX];
    kin_status status;

    KIN_GOTO(kin_golden_path(c, "lora_checkpoint/pytorch_lora_weights.safetensors", path));
    KIN_GOTO(kin_safetensors_open(path, &file, err));
    KIN_GOTO(kin_golden_model_create(c, c->config, "WanTransformer3DModel", extra, &m));
    KIN_GOTO(bind(c, m.params, false));
    KIN_GOTO(kin_lora_load(m.params, file, strength, "default", NULL, err));
    if (merge)
        KIN_GOTO(kin_lora_merge(m.params, &memory, err));
    KIN_GOTO(kin_model_forward(c->ctx, m.model, &v->in, &out));
    kin_golden_check(c, want, &out.y, 1e-5);
done:
    kin_golden_model_free(&m);
    kin_safetensors_close(&file);
    kin_free(memory);
    return status;
}

static kin_status check_phys_file(kin_golden_case *c)
{
    kin_safetensors *file = NULL;
    char path[KIN_PATH_MAX];
    kin_status status;

    KIN_GOTO(kin_golden_path(c, "lora_checkpoint/phys_weights.safetensors", path));
    KIN_GOTO(kin_safetensors_open(path, &file, &c->ctx->error));
    for (int64_t i = 0; i < kin_safetensors_count(file); i++) {
        const kin_safetensors_entry *e = kin_safetensors_at(file, i);
        char name[400];
        kin_tensor t;

        snprintf(name, sizeof(name), "w.%s", e->name);
        KIN_GOTO(kin_golden_tensor(c, name, &t));
        kin_golden_expect(c, !memcmp(t.data, e->data, e->bytes), "%s: another value in the file",
                          e->name);
    }
done:
    kin_safetensors_close(&file);
    return status;
}

static kin_status kind_lora(kin_golden_case *c)
{
    const double scale = kin_golden_number(c, "lora_alpha", 0) / kin_golden_number(c, "rank", 1);
    kin_golden_model m = {0};
    kin_golden_video v;
    kin_status status;

    KIN_GOTO(kin_golden_video_input(c, &v));
    KIN_GOTO(run_made(c, &m, &v));
    c->ctx->tap = NULL;
    KIN_GOTO(check_phys_file(c));
    KIN_GOTO(run_file(c, &v, scale, false, "out.sample"));
    KIN_GOTO(run_file(c, &v, scale, true, "out.sample"));
    KIN_GOTO(run_file(c, &v, 1, false, "out.sample_strength_1"));
    KIN_GOTO(run_file(c, &v, 1, true, "out.sample_strength_1"));
done:
    c->ctx->tap = NULL;
    kin_golden_model_free(&m);
    return status;
}

extern const kin_golden_kind kin_golden_kinds_lora[];
const kin_golden_kind kin_golden_kinds_lora[] = {
    {"lora", kind_lora},
    {NULL, NULL},
};
