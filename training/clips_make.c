/* training/clips_make.c: texts and clips through the encoders of a model into the files of a cache.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/lock.h"
#include "diffusion/pipeline.h"
#include "io/safetensors.h"
#include "training/clips.h"
#include "training/source.h"
#include "training/trainer.h"

enum { HEAD_BYTES = 4096, KEY_TEXT = 17, MAX_TOKENIZER = 256 << 20 };

typedef struct entry {
    kin_source *source;
    int64_t at; /* in it */
    char text[KEY_TEXT], latents[KEY_TEXT];
    kin_source_facts facts;
} entry;

typedef struct maker {
    kin_ctx *ctx;
    kin_lock lock; /* of the folder */
    kin_clips_options *opt;
    kin_source *source[2]; /* files, simulated */
    cJSON *index;
    entry *entries;
    int64_t count;
    int64_t pixels[3], latent[4]; /* F, H, W; C, f, h, w */
    int64_t text_len, text_dim;
    uint64_t text_hash, vae_hash;
} maker;

/* --- what the files depend on --- */

/* h mixed with names, sizes and beginnings of all tensors of a folder of weights. */
static kin_status hash_weights(const char *dir, const char *part, const char *file, uint64_t *h,
                               kin_error *err)
{
    char folder[KIN_PATH_MAX];
    kin_safetensors *st;
    KIN_TRY(kin_path_join(folder, dir, part, err));
    KIN_TRY(kin_safetensors_open_dir(folder, file, &st, err));
    for (int64_t i = 0; i < kin_safetensors_count(st); i++) {
        const kin_safetensors_entry *e = kin_safetensors_at(st, i);
        const size_t head = e->bytes < HEAD_BYTES ? e->bytes : HEAD_BYTES;
        *h = kin_fnv1a(*h, e->name, strlen(e->name) + 1);
        *h = kin_fnv1a(*h, &e->bytes, sizeof e->bytes);
        *h = kin_fnv1a(*h, e->data, head);
    }
    kin_safetensors_close(&st);
    return KIN_OK;
}

/* h mixed with a whole file of a part, where it is there. */
static kin_status hash_file(const char *dir, const char *name, uint64_t *h, kin_error *err)
{
    char path[KIN_PATH_MAX], *data;
    size_t bytes;
    KIN_TRY(kin_path_join(path, dir, name, err));
    if (!kin_path_exists(path))
        return KIN_OK;
    KIN_TRY(kin_file_read(path, MAX_TOKENIZER, &data, &bytes, err));
    *h = kin_fnv1a(*h, data, bytes);
    kin_free(data);
    return KIN_OK;
}

static kin_status hash_model(maker *m, kin_error *err)
{
    static const char *const text[] = {"text_encoder/config.json", "tokenizer/spiece.model",
                                       "tokenizer/tokenizer.json"};
    const char *dir = m->opt->model;
    m->text_hash = kin_fnv1a(KIN_FNV1A_START, &m->text_len, sizeof m->text_len);
    m->text_hash = kin_fnv1a(m->text_hash, &m->ctx->compute, sizeof m->ctx->compute);
    for (int i = 0; i < 3; i++)
        KIN_TRY(hash_file(dir, text[i], &m->text_hash, err));
    KIN_TRY(hash_weights(dir, "text_encoder", "model.safetensors", &m->text_hash, err));
    m->vae_hash = kin_fnv1a(KIN_FNV1A_START, m->pixels, sizeof m->pixels);
    m->vae_hash = kin_fnv1a(m->vae_hash, &m->ctx->compute, sizeof m->ctx->compute);
    KIN_TRY(hash_file(dir, "vae/config.json", &m->vae_hash, err));
    return hash_weights(dir, "vae", "diffusion_pytorch_model.safetensors", &m->vae_hash, err);
}

static kin_status make_keys(maker *m, kin_error *err)
{
    for (int64_t i = 0; i < m->count; i++) {
        entry *e = &m->entries[i];
        KIN_TRY(kin_source_get_facts(e->source, e->at, &e->facts, err));
        const uint64_t text = kin_fnv1a(m->text_hash, e->facts.prompt, strlen(e->facts.prompt)),
                       clip = kin_fnv1a(m->vae_hash, &e->facts.content, sizeof e->facts.content);
        snprintf(e->text, sizeof e->text, "%016" PRIx64, text);
        snprintf(e->latents, sizeof e->latents, "%016" PRIx64, clip);
    }
    return KIN_OK;
}

/* --- sizes, by the shapes of the model alone --- */

static kin_status add_norm(maker *m, const kin_vae_info *v, kin_error *err)
{
    cJSON *j = m->index;
    const int n = (int)v->latent_channels;
    bool ok =
        cJSON_AddNumberToObject(j, "scaling_factor",
                                v->latents_mean ? 1.0 : (double)v->scaling_factor) &&
        cJSON_AddNumberToObject(j, "shift_factor", v->latents_mean ? 0.0 : (double)v->shift_factor);
    if (ok && v->latents_mean) {
        ok = kin_json_put(j, "latents_mean", cJSON_CreateFloatArray(v->latents_mean, n)) &&
             kin_json_put(j, "latents_std", cJSON_CreateFloatArray(v->latents_std, n));
    }
    return ok ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "clips: out of memory");
}

static kin_status take_sizes(maker *m, const kin_pipeline *p, const kin_vae *vae, kin_error *err)
{
    const kin_vae_info *v = kin_vae_get_info(vae);
    const int64_t *px = m->pixels;
    if (!p->text || !v->video || v->in_channels != 3)
        return kin_fail(err, KIN_ERR_ARG,
                        "dataset cache: clips need a model with a text encoder and a VAE of "
                        "videos");
    for (int i = 1; i < 3; i++)
        if (px[i] % v->reduction)
            return kin_fail(err, KIN_ERR_ARG,
                            "dataset cache: %s %" PRId64 " must be a multiple of %" PRId64,
                            i == 1 ? "height" : "width", px[i], v->reduction);
    m->latent[0] = v->latent_channels;
    m->latent[1] = kin_vae_latent_frames(vae, px[0]);
    m->latent[2] = kin_vae_latent_size(vae, px[1]);
    m->latent[3] = kin_vae_latent_size(vae, px[2]);
    if (kin_vae_decoded_frames(vae, m->latent[1]) != px[0])
        return kin_fail(err, KIN_ERR_ARG,
                        "dataset cache: frames %" PRId64 " would come back as %" PRId64
                        "; this VAE takes 1 and multiples of %" PRId64 " and one more",
                        px[0], kin_vae_decoded_frames(vae, m->latent[1]),
                        v->frame_reduction * (v->latents_mean ? 1 : 2));
    m->text_len = kin_pipeline_text_len(p);
    m->text_dim = kin_model_get_info(p->model)->text_dim;
    return add_norm(m, v, err);
}

/* Loads vae/ of the model. */
static kin_status load_vae(const maker *m, kin_ctx *ctx, kin_vae_model **out)
{
    char folder[KIN_PATH_MAX];
    KIN_TRY(kin_path_join(folder, m->opt->model, "vae", &ctx->error));
    return kin_vae_model_load(ctx, folder, out);
}

static kin_status plan_sizes(maker *m, kin_error *err)
{
    const kin_ctx_options options = {
        .backend = KIN_BACKEND_PLAN, .isa = m->ctx->isa, .threads = 1, .compute = m->ctx->compute};
    kin_ctx *plan = NULL;
    kin_pipeline *p = NULL;
    kin_vae_model *vae = NULL;
    KIN_TRY(kin_ctx_create(&options, &plan, err));
    kin_status status = kin_pipeline_load(plan, m->opt->model, &p);
    if (status == KIN_OK)
        status = load_vae(m, plan, &vae);
    if (status != KIN_OK)
        *err = plan->error;
    else
        status = take_sizes(m, p, vae->vae, err);
    kin_vae_model_destroy(&vae);
    kin_pipeline_destroy(&p);
    kin_ctx_destroy(&plan);
    return status;
}

/* --- encoding --- */

/* Whether a file of the cache is there; a damaged one counts as missing. */
static bool is_made(const maker *m, const char *kind, const char *key)
{
    char path[KIN_PATH_MAX];
    kin_safetensors *st;
    if (kin_clips_path(path, m->opt->out, kind, key, NULL) != KIN_OK || !kin_path_exists(path) ||
        kin_safetensors_open(path, &st, NULL) != KIN_OK)
        return false;
    kin_safetensors_close(&st);
    return true;
}

static kin_status write_file(const maker *m, const char *kind, const char *key, const char *name,
                             const kin_tensor *t, kin_error *err)
{
    char path[KIN_PATH_MAX], folder[KIN_PATH_MAX];
    KIN_TRY(kin_clips_path(path, m->opt->out, kind, key, err));
    KIN_TRY(kin_path_dir(folder, path, err));
    KIN_TRY(kin_path_make_dirs(folder, err));
    return kin_safetensors_write(path, &name, t, NULL, 1, NULL, err);
}

/* States [rows,D] of a prompt: rows of zeros at the end are left out. */
static kin_status encode_text(const maker *m, kin_pipeline *p, const entry *e, kin_error *err)
{
    const size_t mark = kin_ws_mark(m->ctx);
    const char *prompt = e->facts.prompt;
    kin_tensor states, null;
    kin_status status = kin_pipeline_encode(p, &prompt, 1, &states, &null);
    if (status != KIN_OK) {
        *err = m->ctx->error;
    } else if ((status = kin_host(m->ctx, &states, &states)) != KIN_OK) {
        *err = m->ctx->error;
    } else {
        const float *v = states.data;
        int64_t n = m->text_len * m->text_dim;
        while (n > m->text_dim && v[n - 1] == 0.0f)
            n--;
        const int64_t rows = (n + m->text_dim - 1) / m->text_dim;
        const kin_tensor t = KIN_TENSOR(states.data, KIN_DTYPE_F32, rows, m->text_dim);
        status = write_file(m, "text", e->text, "states", &t, err);
    }
    kin_ws_release(m->ctx, mark);
    return status;
}

static kin_status posterior(const maker *m, const kin_vae_model *vae, const entry *e,
                            kin_tensor *out)
{
    kin_ctx *ctx = m->ctx;
    const int64_t *px = m->pixels, *z = m->latent;
    kin_tensor x, one, mean, logvar;
    KIN_TRY(KIN_WS_HOST(ctx, &x, KIN_DTYPE_F32, 1, 3, px[0], px[1], px[2]));
    one = kin_tensor_select(&x, 0, 0);
    KIN_TRY(kin_source_read_float(e->source, e->at, &one, &ctx->error));
    KIN_TRY(kin_vae_encode(ctx, vae->vae, &x, &mean, &logvar));
    KIN_TRY(KIN_WS_HOST(ctx, out, KIN_DTYPE_F32, 2 * z[0], z[1], z[2], z[3]));
    for (int k = 0; k < 2; k++) {
        const kin_tensor from = kin_tensor_select(k ? &logvar : &mean, 0, 0);
        kin_tensor to = kin_tensor_slice(out, 0, k * z[0], z[0]);
        KIN_TRY(kin_copy_into(ctx, &from, &to));
    }
    return KIN_OK;
}

static kin_status encode_clip(const maker *m, const kin_vae_model *vae, const entry *e,
                              kin_error *err)
{
    const size_t mark = kin_ws_mark(m->ctx);
    kin_tensor moments;
    kin_status status = posterior(m, vae, e, &moments);
    if (status != KIN_OK)
        *err = m->ctx->error;
    else
        status = write_file(m, "latents", e->latents, "moments", &moments, err);
    kin_ws_release(m->ctx, mark);
    return status;
}

/* The model, for its text encoder; many prompts want its packed weights to stay, where there is
 * room for them. */
static kin_status load_texts(const maker *m, kin_pipeline **out)
{
    const uint64_t room = kin_memory_available();
    KIN_TRY(kin_pipeline_load(m->ctx, m->opt->model, out));
    if (room && 2 * kin_params_bytes((*out)->text_params) > room)
        kin_text_encoder_set_streaming((*out)->text, true);
    return KIN_OK;
}

static kin_status make_texts(maker *m, kin_error *err)
{
    kin_pipeline *p = NULL;
    kin_status status = KIN_OK;
    for (int64_t i = 0; i < m->count && status == KIN_OK; i++) {
        const entry *e = &m->entries[i];
        if (is_made(m, "text", e->text)) {
            m->opt->kept++;
        } else {
            if (!p && (status = load_texts(m, &p)) != KIN_OK) {
                *err = m->ctx->error;
                break;
            }
            status = encode_text(m, p, e, err);
            m->opt->made += status == KIN_OK;
        }
        if (status == KIN_OK && m->opt->progress)
            status = m->opt->progress(m->opt->user, "texts", i + 1, m->count, err);
    }
    kin_pipeline_destroy(&p);
    return status;
}

static kin_status make_clips(maker *m, kin_error *err)
{
    kin_vae_model *vae = NULL;
    kin_status status = KIN_OK;
    for (int64_t i = 0; i < m->count && status == KIN_OK; i++) {
        if (is_made(m, "latents", m->entries[i].latents)) {
            m->opt->kept++;
        } else {
            if (!vae && (status = load_vae(m, m->ctx, &vae)) != KIN_OK) {
                *err = m->ctx->error;
                break;
            }
            status = encode_clip(m, vae, &m->entries[i], err);
            m->opt->made += status == KIN_OK;
        }
        if (status == KIN_OK && m->opt->progress)
            status = m->opt->progress(m->opt->user, "clips", i + 1, m->count, err);
    }
    kin_vae_model_destroy(&vae);
    return status;
}

/* --- the index --- */

static bool add_record(cJSON *list, const entry *e)
{
    cJSON *j = cJSON_CreateObject(), *prior = NULL;
    bool ok = kin_json_append(list, j) && cJSON_AddStringToObject(j, "text", e->text) &&
              cJSON_AddStringToObject(j, "latents", e->latents) &&
              cJSON_AddStringToObject(j, "prompt", e->facts.prompt) &&
              (prior = cJSON_AddArrayToObject(j, "prior"));
    for (int i = 0; ok && i < KIN_PHYS_CATEGORIES; i++)
        if (e->facts.prior[i] > 0)
            ok = kin_json_append(prior, cJSON_CreateNumber(i));
    return ok &&
           kin_json_put(j, "quant", cJSON_CreateFloatArray(e->facts.quant, KIN_PHYS_QUANTITIES));
}

static uint64_t content_key(const maker *m)
{
    uint64_t h = KIN_FNV1A_START;
    for (int64_t i = 0; i < m->count; i++) {
        const entry *e = &m->entries[i];
        h = kin_fnv1a(h, e->text, sizeof e->text);
        h = kin_fnv1a(h, e->latents, sizeof e->latents);
        h = kin_fnv1a(h, e->facts.prior, sizeof e->facts.prior);
        h = kin_fnv1a(h, e->facts.quant, sizeof e->facts.quant);
    }
    return h;
}

static kin_status write_index(maker *m, kin_error *err)
{
    cJSON *j = m->index, *list = NULL;
    char path[KIN_PATH_MAX], key[KEY_TEXT];
    const double latent[4] = {(double)m->latent[0], (double)m->latent[1], (double)m->latent[2],
                              (double)m->latent[3]};
    snprintf(key, sizeof key, "%016" PRIx64, content_key(m));
    bool ok = cJSON_AddNumberToObject(j, "version", 1) && cJSON_AddStringToObject(j, "key", key) &&
              cJSON_AddStringToObject(j, "model", m->opt->model) &&
              cJSON_AddNumberToObject(j, "frames", (double)m->pixels[0]) &&
              cJSON_AddNumberToObject(j, "height", (double)m->pixels[1]) &&
              cJSON_AddNumberToObject(j, "width", (double)m->pixels[2]) &&
              kin_json_put(j, "latent", cJSON_CreateDoubleArray(latent, 4)) &&
              cJSON_AddNumberToObject(j, "text_len", (double)m->text_len) &&
              cJSON_AddNumberToObject(j, "text_dim", (double)m->text_dim) &&
              (list = cJSON_AddArrayToObject(j, "records"));
    for (int64_t i = 0; ok && i < m->count; i++)
        ok = add_record(list, &m->entries[i]);
    char *text = ok ? cJSON_PrintUnformatted(j) : NULL;
    if (!text)
        return kin_fail(err, KIN_ERR_MEM, "clips: out of memory");
    kin_status status = kin_path_join(path, m->opt->out, "clips.json", err);
    if (status == KIN_OK)
        status = kin_file_write(path, text, strlen(text), err);
    cJSON_free(text);
    return status;
}

/* Clips of files, then simulated ones. */
static kin_status open_sources(maker *m, kin_error *err)
{
    const kin_clips_options *o = m->opt;
    int64_t n[2] = {0, 0};
    for (int k = 0; k < 2; k++) {
        kin_train_config one = *o->data;
        if (k ? !one.data.simulate : !one.data.path[0])
            continue;
        one.data.simulate = k == 1;
        KIN_TRY(kin_source_open(&one, false, o->message, o->user, &m->source[k], err));
        n[k] = kin_source_count(m->source[k]);
        if (n[k] < 1 || kin_source_clips(m->source[k]))
            return kin_fail(err, KIN_ERR_ARG,
                            "dataset cache: needs a finite set of clips (simulate.count)");
    }
    m->count = n[0] + n[1];
    m->entries = kin_calloc((size_t)m->count, sizeof *m->entries);
    if (!m->entries)
        return kin_fail(err, KIN_ERR_MEM, "clips: out of memory");
    for (int64_t i = 0; i < m->count; i++) {
        m->entries[i].source = m->source[i >= n[0]];
        m->entries[i].at = i < n[0] ? i : i - n[0];
    }
    return KIN_OK;
}

static kin_status make(maker *m, kin_error *err)
{
    const kin_clips_options *o = m->opt;
    const kin_train_config *c = o->data;
    KIN_TRY(open_sources(m, err));
    m->pixels[0] = c->data.frames;
    m->pixels[1] = c->data.height;
    m->pixels[2] = c->data.width;
    m->index = cJSON_CreateObject();
    if (!m->index)
        return kin_fail(err, KIN_ERR_MEM, "clips: out of memory");
    KIN_TRY(plan_sizes(m, err));
    KIN_TRY(hash_model(m, err));
    KIN_TRY(make_keys(m, err));
    KIN_TRY(kin_path_make_dirs(o->out, err));
    KIN_TRY(kin_lock_folder(&m->lock, o->out, err));
    KIN_TRY(make_texts(m, err));
    KIN_TRY(make_clips(m, err));
    return write_index(m, err);
}

kin_status kin_clips_make(kin_ctx *ctx, kin_clips_options *opt, kin_error *err)
{
    maker m = {.ctx = ctx, .opt = opt, .lock = KIN_LOCK_NONE};
    opt->made = opt->kept = 0;
    const kin_status status = make(&m, err);
    kin_lock_release(&m.lock);
    for (int64_t i = 0; m.entries && i < m.count; i++)
        kin_free(m.entries[i].facts.prompt);
    kin_free(m.entries);
    cJSON_Delete(m.index);
    for (int k = 0; k < 2; k++)
        kin_source_close(&m.source[k]);
    return status;
}
