/* Kinds of golden/video in CogVideoX form: cogvideox, cogvideox_wisa. Their frames stand before the
 * channels; kinema's video tensors have the channels first. */
#include "diffusion/model.h"
#include "tests/golden/golden.h"
#include "tests/golden/models.h"

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

static kin_status run(kin_golden_case *c, kin_golden_model *m)
{
    kin_golden_video v;
    kin_tensor video, y;
    kin_model_output out;
    cog_tap hook;

    KIN_TRY(kin_golden_model_open(c, c->config, "CogVideoXTransformer3DModel", NULL, true, m));
    KIN_TRY(kin_golden_video_input(c, &v));
    kin_golden_tolerance(c, "out.time_sinusoid", 5e-5);
    kin_golden_taps(c, 1e-5, NULL);
    hook = (cog_tap){.next = c->ctx->tap, .user = c->ctx->tap_user, .c = c};
    c->ctx->tap = tap;
    c->ctx->tap_user = &hook;
    KIN_TRY(kin_tape_begin(c->ctx));
    KIN_TRY(kin_tape_watch(c->ctx, &v.x));
    KIN_TRY(kin_tape_watch(c->ctx, &v.text));
    KIN_TRY(swap(c, &v.x, &video));
    v.in.x = &video;
    KIN_TRY(kin_model_forward(c->ctx, m->model, &v.in, &out));
    KIN_TRY(swap(c, &out.y, &y));
    return kin_golden_video_judge(c, m->params, &v, &out, &y);
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
