/* Kinds of golden/video in CogVideoX form: cogvideox, cogvideox_wisa. Their frames stand before the
 * channels; kinema's video tensors have the channels first. */
#include "diffusion/model.h"
#include "physics/classifier.h"
#include "tests/golden/golden.h"
#include "tests/golden/models.h"

/* an optional input as a pointer */
static kin_status optional(kin_golden_case *c, const char *name, kin_tensor *t,
                           const kin_tensor **out)
{
    KIN_TRY(kin_golden_input_optional(c, name, t));
    *out = t->data ? t : NULL;
    return KIN_OK;
}

/* [B,F,C,H,W] <-> [B,C,F,H,W] */
static kin_status swap(kin_golden_case *c, const kin_tensor *x, kin_tensor *y)
{
    const kin_tensor view = kin_tensor_transpose(x, 1, 2);

    return kin_contiguous(c->ctx, &view, y);
}

/* the tables in the file hold each value twice, ours once */
static void check_table(kin_golden_case *c, const char *name, const kin_tensor *t)
{
    kin_tensor given;

    if (kin_golden_input(c, name, &given) != KIN_OK)
        return;
    for (int64_t i = 0; i < kin_tensor_numel(&given); i++) {
        const double want = kin_tensor_get(&given, i), got = kin_tensor_get(t, i / 2);

        if (!(want - got < 1e-5 && got - want < 1e-5)) {
            kin_golden_fail(c, "%s[%lld]: %g, the file has %g", name, (long long)i, got, want);
            return;
        }
    }
}

typedef struct cog_tap {
    void (*next)(void *user, const char *name, const kin_tensor *t);
    void *user;
    kin_golden_case *c;
} cog_tap;

static void tap(void *user, const char *name, const kin_tensor *t)
{
    cog_tap *self = user;
    char in[64] = "in.";

    if (name[0] == 'r' && kin_golden_has(self->c, "in.rope_cos")) {
        for (size_t i = 0; name[i] && i < 40; i++) {
            in[3 + i] = name[i];
            in[4 + i] = 0;
        }
        check_table(self->c, in, t);
    }
    self->next(self->user, name, t);
}

static kin_status objective(kin_golden_case *c, const kin_model_output *out, const kin_tensor *y,
                            const kin_tensor *prior, kin_tensor *total)
{
    kin_tensor target, diff, aux, term;

    KIN_TRY(kin_golden_input(c, "in.target", &target));
    KIN_TRY(kin_mse(c->ctx, y, &target, NULL, &diff));
    kin_golden_check(c, "out.loss_diff", &diff, 1e-5);
    KIN_TRY(kin_bce_logits(c->ctx, &out->logits, prior, NULL, &aux));
    KIN_TRY(kin_classifier_loss(c->ctx, KIN_CLASSIFIER_LOSS_WISA, &aux, &term));
    KIN_TRY(kin_add(c->ctx, &diff, &term, 1.0f, total));
    kin_golden_check(c, "out.loss", total, 1e-5);
    return KIN_OK;
}

static kin_status backward(kin_golden_case *c, kin_golden_model *m, const kin_tensor *y,
                           const kin_tensor *dy, const kin_tensor *x, const kin_tensor *text)
{
    kin_tensor g;

    KIN_TRY(kin_tape_backward(c->ctx, y, dy, 1));
    g = kin_tape_grad(c->ctx, x);
    kin_golden_check(c, "grad_in.hidden_states", &g, 1e-4);
    g = kin_tape_grad(c->ctx, text);
    kin_golden_check(c, "grad_in.encoder_hidden_states", &g, 1e-4);
    kin_golden_check_grads(c, m->params, 1e-4);
    return KIN_OK;
}

static kin_status run(kin_golden_case *c, kin_golden_model *m)
{
    kin_tensor x, video, t, text, prior, quant, u, y, total, dout, aux;
    kin_model_input in = {.x = &video, .t = &t, .text = &text};
    kin_model_output out;
    cog_tap hook;

    KIN_TRY(kin_golden_model_open(c, c->config, "CogVideoXTransformer3DModel", NULL, true, m));
    KIN_TRY(kin_golden_input(c, "in.hidden_states", &x));
    KIN_TRY(kin_golden_input_f32(c, "in.timestep", &t));
    KIN_TRY(kin_golden_input(c, "in.encoder_hidden_states", &text));
    KIN_TRY(optional(c, "in.priori", &prior, &in.prior));
    KIN_TRY(optional(c, "in.quantify_priori", &quant, &in.quant));
    KIN_TRY(optional(c, "in.mopa_u", &u, &in.u));
    kin_golden_tolerance(c, "out.time_sinusoid", 5e-5);
    kin_golden_taps(c, 1e-5, NULL);
    hook = (cog_tap){.next = c->ctx->tap, .user = c->ctx->tap_user, .c = c};
    c->ctx->tap = tap;
    c->ctx->tap_user = &hook;
    KIN_TRY(kin_tape_begin(c->ctx));
    KIN_TRY(kin_tape_watch(c->ctx, &x));
    KIN_TRY(kin_tape_watch(c->ctx, &text));
    KIN_TRY(swap(c, &x, &video));
    KIN_TRY(kin_model_forward(c->ctx, m->model, &in, &out));
    KIN_TRY(swap(c, &out.y, &y));
    kin_golden_check(c, "out.sample", &y, 1e-5);
    if (kin_golden_has(c, "in.target")) {
        KIN_TRY(objective(c, &out, &y, &prior, &total));
        KIN_TRY(backward(c, m, &total, NULL, &x, &text));
    } else if (kin_golden_has(c, "in.dout")) {
        KIN_TRY(kin_golden_input(c, "in.dout", &dout));
        KIN_TRY(backward(c, m, &y, &dout, &x, &text));
    }
    kin_tape_end(c->ctx);
    if (kin_golden_has(c, "out.aux_loss")) {
        KIN_TRY(kin_bce_logits(c->ctx, &out.logits, &prior, NULL, &aux));
        kin_golden_check(c, "out.aux_loss", &aux, 1e-5);
    }
    return KIN_OK;
}

static kin_status kind_cogvideox(kin_golden_case *c)
{
    kin_golden_model m = {0};
    const kin_status status = run(c, &m);

    c->ctx->tap = NULL;
    kin_golden_model_free(&m);
    return status;
}

extern const kin_golden_kind kin_golden_kinds_cogvideox[];
const kin_golden_kind kin_golden_kinds_cogvideox[] = {
    {"cogvideox", kind_cogvideox},
    {"cogvideox_wisa", kind_cogvideox},
    {NULL, NULL},
};
