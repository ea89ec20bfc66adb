/* Kinds of golden/video in Wan form: wan, wan_wisa, mopa, quantity_embedding,
 * physical_classifier_loss. */
#include <math.h>
#include <string.h>

#include "physics/classifier.h"
#include "physics/mopa.h"
#include "physics/quantity.h"
#include "tests/golden/golden.h"
#include "tests/golden/models.h"

static kin_status run_wan(kin_golden_case *c, kin_golden_model *m)
{
    kin_golden_video v;
    kin_model_output out;

    KIN_TRY(kin_golden_model_open(c, c->config, "WanTransformer3DModel", NULL, true, m));
    KIN_TRY(kin_golden_video_input(c, &v));
    kin_golden_tolerance(c, "out.time_sinusoid", 5e-5);
    kin_golden_taps(c, 1e-5, NULL);
    KIN_TRY(kin_tape_begin(c->ctx));
    KIN_TRY(kin_tape_watch(c->ctx, &v.x));
    KIN_TRY(kin_tape_watch(c->ctx, &v.text));
    KIN_TRY(kin_model_forward(c->ctx, m->model, &v.in, &out));
    return kin_golden_video_judge(c, m->params, &v, &out, &out.y);
}

static kin_status kind_wan(kin_golden_case *c)
{
    kin_golden_model m = {0};
    const kin_status status = run_wan(c, &m);

    kin_golden_model_free(&m);
    return status;
}

/* --- mopa --- */

/* a rotary table, if the case has one: CogVideoX's hold each value twice, ours once */
static kin_status rope_table(kin_golden_case *c, const char *name, int64_t half, kin_tensor *t,
                             const kin_tensor **out)
{
    kin_tensor given;

    KIN_TRY(kin_golden_optional(c, name, t, out));
    if (!t->data || t->size[1] == half)
        return KIN_OK;
    given = *t;
    KIN_TRY(KIN_WS_HOST(c->ctx, t, given.dtype, given.size[0], half));
    for (int64_t i = 0; i < given.size[0] * half; i++)
        kin_tensor_set(t, i, kin_tensor_get(&given, 2 * i));
    return KIN_OK;
}

static kin_status run_mopa(kin_golden_case *c, kin_params *params)
{
    const char *norm = kin_golden_string(c, "qk_norm");
    const kin_mopa_config cfg = {.width = (int64_t)kin_golden_number(c, "query_dim", 0),
                                 .heads = (int64_t)kin_golden_number(c, "heads", 0),
                                 .categories = (int64_t)kin_golden_number(c, "categories", 0),
                                 .head_dim = (int64_t)kin_golden_number(c, "dim_head", 0),
                                 .layer_norm = norm && !strcmp(norm, "layer_norm"),
                                 .eps = (float)kin_golden_number(c, "eps", 1e-6),
                                 .flip = 0.2f,
                                 .floor = 0.1f};
    kin_tensor x, prior, u, cos, sin, gates, y, dout, g;
    const kin_tensor *turn[2];
    kin_mopa m;

    kin_mopa_register(params, "", &cfg, &m);
    KIN_TRY(kin_golden_bind(c, params, "w.", true, false));
    KIN_TRY(kin_golden_input(c, "in.hidden_states", &x));
    KIN_TRY(kin_golden_input(c, "in.priori", &prior));
    KIN_TRY(kin_golden_input(c, "in.mopa_u", &u));
    KIN_TRY(rope_table(c, "in.rope_cos", cfg.head_dim / 2, &cos, &turn[0]));
    KIN_TRY(rope_table(c, "in.rope_sin", cfg.head_dim / 2, &sin, &turn[1]));
    KIN_TRY(kin_golden_input(c, "in.dout", &dout));
    KIN_TRY(kin_mopa_gates(c->ctx, &cfg, &prior, &u, x.size[0], KIN_DTYPE_F32, &gates));
    kin_golden_check(c, "out.mopa_gates", &gates, 1e-6);
    KIN_TRY(kin_tape_begin(c->ctx));
    KIN_TRY(kin_tape_watch(c->ctx, &x));
    KIN_TRY(kin_mopa_forward(c->ctx, &m, &x, turn[0], turn[1], &gates, NULL, NULL, &y));
    kin_golden_check(c, "out.output", &y, 1e-5);
    KIN_TRY(kin_tape_backward(c->ctx, &y, &dout, 1));
    g = kin_tape_grad(c->ctx, &x);
    kin_golden_check(c, "grad_in.hidden_states", &g, 1e-4);
    kin_golden_check_grads(c, params, 1e-4);
    kin_tape_end(c->ctx);
    return KIN_OK;
}

static kin_status with_params(kin_golden_case *c,
                              kin_status (*run)(kin_golden_case *, kin_params *))
{
    kin_params *params;
    kin_status status;

    KIN_TRY(kin_params_create(&params, &c->ctx->error));
    status = run(c, params);
    kin_params_destroy(&params);
    return status;
}

static kin_status kind_mopa(kin_golden_case *c)
{
    return with_params(c, run_mopa);
}

/* --- quantity_embedding --- */

static kin_status run_quantity(kin_golden_case *c, kin_params *params)
{
    kin_tensor quant, tproj, dout, code, q, y, g;
    kin_quantity e;

    KIN_TRY(kin_quantity_register(params, "", (int64_t)kin_golden_number(c, "dim", 0),
                                  (int64_t)kin_golden_number(c, "freq_dim", 0),
                                  (int64_t)kin_golden_number(c, "proj_dim", 0), &e,
                                  &c->ctx->error));
    KIN_TRY(kin_golden_bind(c, params, "w.", true, false));
    KIN_TRY(kin_golden_input(c, "in.quantify_priori", &quant));
    KIN_TRY(kin_golden_input(c, "in.timestep_proj", &tproj));
    KIN_TRY(kin_golden_input(c, "in.dout", &dout));
    KIN_TRY(kin_tape_begin(c->ctx));
    KIN_TRY(kin_tape_watch(c->ctx, &quant));
    KIN_TRY(kin_tape_watch(c->ctx, &tproj));
    KIN_TRY(kin_quantity_encode(c->ctx, &quant, e.freq, &code));
    kin_golden_check(c, "out.encoding", &code, 1e-5);
    KIN_TRY(kin_quantity_project(c->ctx, &e, &code, &q));
    if (kin_golden_bool(c, "before", false)) { /* CogVideoX */
        KIN_TRY(kin_quantity_modulate_sum(c->ctx, &e, &q, &tproj, &y));
        y = KIN_RESHAPE(&y, quant.size[0], e.out);
    } else {
        KIN_TRY(kin_quantity_modulate(c->ctx, &e, &q, &tproj, &y));
    }
    kin_golden_check(c, "out.ptemb", &y, 1e-5);
    KIN_TRY(kin_tape_backward(c->ctx, &y, &dout, 1));
    g = kin_tape_grad(c->ctx, &quant);
    kin_golden_check(c, "grad_in.quantify_priori", &g, 1e-4);
    g = kin_tape_grad(c->ctx, &tproj);
    kin_golden_check(c, "grad_in.timestep_proj", &g, 1e-4);
    kin_golden_check_grads(c, params, 1e-4);
    kin_tape_end(c->ctx);
    return KIN_OK;
}

static kin_status kind_quantity(kin_golden_case *c)
{
    return with_params(c, run_quantity);
}

/* --- physical_classifier_loss --- */

static kin_status kind_classifier_loss(kin_golden_case *c)
{
    kin_tensor logits, prior, diff, aux, term, total, g;

    KIN_TRY(kin_golden_input(c, "in.logits", &logits));
    KIN_TRY(kin_golden_input(c, "in.priori", &prior));
    KIN_TRY(kin_golden_input(c, "in.loss_diff", &diff));
    KIN_TRY(kin_tape_begin(c->ctx));
    KIN_TRY(kin_tape_watch(c->ctx, &logits));
    KIN_TRY(kin_bce_logits(c->ctx, &logits, &prior, NULL, &aux));
    kin_golden_check(c, "out.aux_loss", &aux, 1e-5);
    KIN_TRY(kin_classifier_loss(c->ctx, KIN_CLASSIFIER_LOSS_WISA, &aux, &term));
    KIN_TRY(kin_add(c->ctx, &diff, &term, 1.0f, &total));
    kin_golden_check(c, "out.loss", &total, 1e-5);
    KIN_TRY(kin_tape_backward(c->ctx, &total, NULL, 1));
    g = kin_tape_grad(c->ctx, &logits);
    kin_golden_check(c, "grad_in.logits", &g, 1e-4);
    kin_tape_end(c->ctx);
    return KIN_OK;
}

extern const kin_golden_kind kin_golden_kinds_wan[];
const kin_golden_kind kin_golden_kinds_wan[] = {
    {"wan", kind_wan},
    {"wan_wisa", kind_wan},
    {"mopa", kind_mopa},
    {"quantity_embedding", kind_quantity},
    {"physical_classifier_loss", kind_classifier_loss},
    {NULL, NULL},
};
