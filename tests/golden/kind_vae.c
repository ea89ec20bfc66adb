/* Kinds of golden/vae: autoencoder_kl, autoencoder_kl_wan, autoencoder_kl_cogvideox. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/golden/golden.h"
#include "vision/vae.h"

typedef struct subject {
    kin_params *params;
    kin_vae *vae;
    kin_safetensors *file; /* weights in a directory of their own */
} subject;

static kin_status bind_file(kin_golden_case *c, subject *s, const char *folder)
{
    kin_error *err = &c->ctx->error;
    char path[KIN_PATH_MAX];

    KIN_TRY(kin_golden_path(c, folder, path));
    KIN_TRY(kin_safetensors_open_dir(path, "diffusion_pytorch_model.safetensors", &s->file, err));
    kin_golden_expect(c, kin_safetensors_count(s->file) == s->params->count,
                      "%lld tensors in the file, %d in the model",
                      (long long)kin_safetensors_count(s->file), s->params->count);
    for (int i = 0; i < s->params->count; i++) {
        kin_param *p = s->params->list[i];
        const int64_t at = kin_safetensors_find(s->file, p->name);
        kin_tensor t;

        if (at < 0)
            return kin_fail(err, KIN_ERR_FORMAT, "%s is not in the file", p->name);
        KIN_TRY(kin_safetensors_tensor(s->file, at, &t, err));
        KIN_TRY(kin_params_bind(p, &t, err));
    }
    return KIN_OK;
}

static kin_status open_subject(kin_golden_case *c, subject *s)
{
    const char *folder = kin_golden_string(c, "directory");
    cJSON *config = cJSON_Duplicate(c->config, 1);
    kin_status status;

    if (!config)
        return kin_fail(&c->ctx->error, KIN_ERR_MEM, "case: out of memory");
    cJSON_DeleteItemFromObjectCaseSensitive(config, "directory");
    cJSON_AddStringToObject(config, "_class_name",
                            !strcmp(c->kind, "autoencoder_kl")       ? "AutoencoderKL"
                            : !strcmp(c->kind, "autoencoder_kl_wan") ? "AutoencoderKLWan"
                                                                     : "AutoencoderKLCogVideoX");
    KIN_GOTO(kin_params_create(&s->params, &c->ctx->error));
    KIN_GOTO(kin_vae_create(config, s->params, &s->vae, &c->ctx->error));
    status = folder ? bind_file(c, s, folder) : kin_golden_bind(c, s->params, "w.", true, false);
done:
    cJSON_Delete(config);
    return status;
}

/* Stages of a video that comes in batches: each is compared with its frames of the file's tensor.
 */
typedef struct pieces {
    kin_golden_case *c;
    char name[32][110];
    int64_t done[32];
    int names;
} pieces;

static void tap_piece(void *user, const char *name, const kin_tensor *t)
{
    pieces *p = user;
    char full[110];
    double top = 0, error = 0;
    kin_tensor want;
    int i = 0;

    snprintf(full, sizeof full, "out.%s", name);
    if (!kin_golden_has(p->c, full) || kin_golden_tensor(p->c, full, &want) != KIN_OK)
        return;
    while (i < p->names && strcmp(p->name[i], full) != 0)
        i++;
    if (i == p->names && p->names++ < 32)
        snprintf(p->name[i], sizeof p->name[i], "%s", full);
    if (p->done[i] + t->size[2] > want.size[2]) {
        kin_golden_fail(p->c, "%s: more frames than the file's %lld", full,
                        (long long)want.size[2]);
        return;
    }
    want = kin_tensor_slice(&want, 2, p->done[i], t->size[2]);
    p->done[i] += t->size[2];
    for (int64_t k = 0; k < kin_tensor_numel(t); k++) {
        const double w = kin_tensor_get(&want, k);

        top = fmax(top, fabs(w));
        error = fmax(error, fabs(kin_tensor_get(t, k) - w));
    }
    kin_golden_expect(p->c, error <= 1e-5 * top, "%s, frames before %lld: error %g", full,
                      (long long)p->done[i], error / top);
    kin_golden_ignore(p->c, full);
}

/* objective = <dout, rec> + <dkl, kl>, where z itself is decoded */
static kin_status gradients(kin_golden_case *c, subject *s, const kin_tensor *x,
                            const kin_tensor *z, const kin_tensor *kl)
{
    kin_tensor out[2], dout[2], g;

    KIN_TRY(kin_golden_input(c, "in.dout", &dout[0]));
    KIN_TRY(kin_golden_input(c, "in.dkl", &dout[1]));
    KIN_TRY(kin_vae_decode(c->ctx, s->vae, z, &out[0]));
    out[1] = *kl;
    KIN_TRY(kin_tape_backward(c->ctx, out, dout, 2));
    g = kin_tape_grad(c->ctx, x);
    kin_golden_check(c, "grad_in.x", &g, 1e-4);
    kin_golden_check_grads(c, s->params, 1e-4);
    return KIN_OK;
}

static kin_status run_kl(kin_golden_case *c, subject *s)
{
    const bool train = kin_golden_has(c, "in.dout");
    kin_tensor x, noise, mean, logvar, z, kl, norm, back, rec;
    pieces stages = {.c = c};

    KIN_TRY(open_subject(c, s));
    KIN_TRY(kin_golden_input(c, "in.x", &x));
    KIN_TRY(kin_golden_input(c, "in.noise", &noise));
    kin_golden_tolerance(c, "out.decoder.conv_out", 2e-5);
    kin_golden_taps(c, 1e-5, NULL);
    if (!strcmp(c->kind, "autoencoder_kl_cogvideox")) {
        c->ctx->tap = tap_piece;
        c->ctx->tap_user = &stages;
    }
    if (train) {
        KIN_TRY(kin_tape_begin(c->ctx));
        KIN_TRY(kin_tape_watch(c->ctx, &x));
    }
    KIN_TRY(kin_vae_encode(c->ctx, s->vae, &x, &mean, &logvar));
    KIN_TRY(kin_vae_sample(c->ctx, &mean, &logvar, &noise, &z));
    KIN_TRY(kin_vae_kl(c->ctx, &mean, &logvar, &kl));
    kin_golden_check(c, "out.mean", &mean, 1e-5);
    kin_golden_check(c, "out.logvar", &logvar, 1e-5);
    kin_golden_check(c, "out.z", &z, 1e-5);
    kin_golden_check(c, "out.kl", &kl, 1e-5);
    if (train)
        KIN_TRY(gradients(c, s, &x, &z, &kl));
    kin_tape_end(c->ctx);
    KIN_TRY(kin_vae_normalize(c->ctx, s->vae, &z, &norm));
    kin_golden_check(c, "out.z_norm", &norm, 1e-5);
    KIN_TRY(kin_vae_denormalize(c->ctx, s->vae, &norm, &back));
    KIN_TRY(kin_vae_decode(c->ctx, s->vae, &back, &rec));
    kin_golden_check(c, "out.rec", &rec, 2e-5);
    if (!kin_vae_get_info(s->vae)->video)
        return KIN_OK;
    /* once more piece by piece, without a tap */
    c->ctx->tap = NULL;
    KIN_TRY(kin_vae_encode(c->ctx, s->vae, &x, &mean, &logvar));
    KIN_TRY(kin_vae_decode(c->ctx, s->vae, &back, &rec));
    kin_golden_check(c, "out.mean", &mean, 1e-5);
    kin_golden_check(c, "out.logvar", &logvar, 1e-5);
    kin_golden_check(c, "out.rec", &rec, 2e-5);
    return KIN_OK;
}

static kin_status kind_kl(kin_golden_case *c)
{
    subject s = {0};
    const kin_status status = run_kl(c, &s);

    kin_vae_destroy(&s.vae);
    kin_params_destroy(&s.params);
    kin_safetensors_close(&s.file);
    return status;
}

extern const kin_golden_kind kin_golden_kinds_vae[];
const kin_golden_kind kin_golden_kinds_vae[] = {
    {"autoencoder_kl", kind_kl},
    {"autoencoder_kl_wan", kind_kl},
    {"autoencoder_kl_cogvideox", kind_kl},
    {NULL, NULL},
};
