#include "training/source.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "io/dataset.h"
#include "training/images.h"
#include "vision/resize.h"

/* Held-out clips of the simulator: indices no training run reaches. */
static const uint64_t sim_held_out_base = UINT64_C(1) << 48;

typedef struct record {
    char *prompt;
    float prior[KIN_PHYS_CATEGORIES], quant[KIN_PHYS_QUANTITIES];
    int64_t at; /* in the dataset */
} record;

struct kin_source {
    kin_sample_shape shape;
    kin_caption_field caption;
    char prefix[64]; /* of every caption */
    kin_record_filter filter;
    int64_t count, held_out;
    uint64_t fingerprint;
    float flip; /* probability of a mirrored training sample */
    /* simulated */
    bool simulate;
    kin_sim_options sim;
    uint64_t sim_seed;
    /* files */
    kin_dataset *set;
    record *records;
    int64_t records_n;
    kin_images *images;
    kin_latents *latents;
    kin_clips *clips;
    /* text */
    const kin_tokenizer *tok;
    /* cache: `cached` entries of entry_bytes, filled when first read */
    size_t cache_limit, entry_bytes;
    int64_t cached;
    uint8_t *cache, *filled;
    kin_source_note note;
    void *user;
};

int64_t kin_sample_moments(const kin_sample_shape *s)
{
    return 2 * s->latent * s->frames * s->height * s->width;
}

int64_t kin_sample_states(const kin_sample_shape *s)
{
    return s->text_len * s->state_dim;
}

size_t kin_sample_frame_bytes(const kin_sample_shape *s)
{
    return s->latent ? 0 : (size_t)s->frames * (size_t)s->height * (size_t)s->width * 3;
}

static uint64_t fnv_text(uint64_t h, const char *s)
{
    return kin_fnv1a(h, s, strlen(s) + 1);
}

static void note_text(kin_source *s, const char *text)
{
    if (s->note)
        s->note(s->user, text);
}

static void dataset_note(void *user, kin_dataset_note kind, int64_t index, const char *text)
{
    char line[640];
    if (kind != KIN_DATASET_DROP)
        return;
    snprintf(line, sizeof line, "record %" PRId64 " dropped: %.500s", index, text);
    note_text(user, line);
}

/* Prompt as the configuration wants it, from caption + law. */
static char *prompt_of(const kin_source *s, const kin_physics_prior *p)
{
    const size_t head = strlen(s->prefix);
    size_t n = p->caption ? strlen(p->caption) : 0;
    if (s->caption == KIN_CAPTION_CAPTIONS && p->caption_bytes < n)
        n = p->caption_bytes;
    char *text = kin_malloc(head + n + 1);
    if (text) {
        memcpy(text, s->prefix, head);
        if (n > 0)
            memcpy(text + head, p->caption, n);
        text[head + n] = '\0';
    }
    return text;
}

static kin_status read_annotation(kin_source *s, int64_t i, record *r, kin_error *err)
{
    kin_physics_prior p;
    KIN_TRY(kin_annotation_read(s->set->records[i].json, NULL, &p, err));
    r->prompt = prompt_of(s, &p);
    memcpy(r->prior, p.prior, sizeof r->prior);
    memcpy(r->quant, p.quant, sizeof r->quant);
    r->at = i;
    kin_physics_prior_free(&p);
    return r->prompt ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "data: out of memory");
}

static kin_status open_records(kin_source *s, const kin_train_config *c, kin_error *err)
{
    const kin_dataset_options opt = {.note = dataset_note, .user = s};
    KIN_TRY(kin_dataset_open(c->data.path, &opt, &s->set, err));
    s->records = kin_calloc((size_t)s->set->count, sizeof *s->records);
    if (!s->records)
        return kin_fail(err, KIN_ERR_MEM, "data: out of memory");
    for (int64_t i = 0; i < s->set->count; i++) {
        record *r = &s->records[s->records_n];
        const char *why =
            s->filter ? kin_dataset_left_out(s->set, i, s->filter == KIN_FILTER_WISA_ONLINE) : NULL;
        kin_status status =
            why ? kin_fail(err, KIN_ERR_ARG, "%s", why) : read_annotation(s, i, r, err);
        if (status == KIN_ERR_MEM)
            return status;
        if (status != KIN_OK) {
            char line[640];
            snprintf(line, sizeof line, "record %" PRId64 " dropped: %.500s",
                     s->set->records[i].index, err->text);
            note_text(s, line);
            continue;
        }
        s->fingerprint = fnv_text(s->fingerprint, s->set->records[i].file);
        s->fingerprint = fnv_text(s->fingerprint, r->prompt);
        s->fingerprint = kin_fnv1a(s->fingerprint, r->quant, sizeof r->quant);
        s->records_n++;
    }
    if (s->records_n == 0)
        return kin_fail(err, KIN_ERR_FORMAT, "data: %s has no usable record", c->data.path);
    if (s->records_n < s->set->total) {
        char line[160];
        snprintf(line, sizeof line, "%" PRId64 " of %" PRId64 " records dropped",
                 s->set->total - s->records_n, s->set->total);
        note_text(s, line);
    }
    s->count = s->records_n - s->held_out;
    return s->count > 0
               ? KIN_OK
               : kin_fail(err, KIN_ERR_ARG,
                          "data: held_out %" PRId64 " must leave some of %" PRId64 " samples",
                          s->held_out, s->records_n);
}

static kin_status open_images(kin_source *s, const kin_train_config *c, kin_error *err)
{
    KIN_TRY(kin_images_open(c->data.path, c->data.split, c->data.held_out, s->note, s->user,
                            &s->images, err));
    s->count = kin_images_count(s->images, false);
    s->held_out = kin_images_count(s->images, true);
    s->flip = c->data.flip < 0 ? 0.5f : c->data.flip;
    for (int held = 0; held < 2; held++)
        for (int64_t i = 0; i < kin_images_count(s->images, held); i++)
            s->fingerprint = fnv_text(s->fingerprint, kin_images_name(s->images, held, i));
    return KIN_OK;
}

static kin_status open_latents(kin_source *s, const kin_train_config *c, kin_error *err)
{
    KIN_TRY(kin_latents_open(c->data.path, &s->latents, err));
    const kin_latents_info *info = kin_latents_get_info(s->latents);
    s->shape = (kin_sample_shape){1, info->height, info->width, 0, info->channels, 0};
    s->count = info->count[0];
    s->held_out = info->count[1];
    s->flip = c->data.flip < 0 ? 0.5f : c->data.flip;
    s->fingerprint = kin_fnv1a(s->fingerprint, &info->key, sizeof info->key);
    return KIN_OK;
}

/* Cached clips; the last held_out of them are for validation. */
static kin_status open_clips(kin_source *s, const kin_train_config *c, kin_error *err)
{
    KIN_TRY(kin_clips_open(c->data.path, &s->clips, err));
    const kin_clips_info *info = kin_clips_get_info(s->clips);
    s->shape = (kin_sample_shape){.frames = info->frames,
                                  .height = info->height,
                                  .width = info->width,
                                  .text_len = info->text_len,
                                  .latent = info->channels,
                                  .state_dim = info->text_dim};
    s->count = info->count - s->held_out;
    s->fingerprint = kin_fnv1a(s->fingerprint, &info->key, sizeof info->key);
    return s->count > 0
               ? KIN_OK
               : kin_fail(err, KIN_ERR_ARG,
                          "data: held_out %" PRId64 " must leave some of %" PRId64 " clips",
                          s->held_out, info->count);
}

static void open_simulated(kin_source *s, const kin_train_config *c)
{
    s->simulate = true;
    s->sim = c->data.sim;
    s->sim_seed = c->data.sim_seed;
    s->count = c->data.sim_count;
    s->fingerprint = kin_fnv1a(s->fingerprint, &s->sim_seed, sizeof s->sim_seed);
}

kin_status kin_source_open(const kin_train_config *c, bool classes, kin_source_note note,
                           void *user, kin_source **out, kin_error *err)
{
    kin_status status = KIN_OK;
    *out = NULL;
    kin_source *s = kin_calloc(1, sizeof *s);
    if (!s)
        return kin_fail(err, KIN_ERR_MEM, "data: out of memory");
    s->shape = (kin_sample_shape){c->data.frames, c->data.height, c->data.width, 0, 0, 0};
    s->caption = c->data.caption;
    memcpy(s->prefix, c->data.prefix, sizeof s->prefix);
    s->filter = c->data.filter;
    s->cache_limit = (size_t)c->data.cache_mb << 20;
    s->fingerprint = KIN_FNV1A_START;
    s->note = note;
    s->user = user;
    s->held_out = c->data.held_out;
    if (c->data.simulate && classes)
        status = kin_fail(err, KIN_ERR_ARG, "data: an image model needs class folders");
    else if (c->data.flip > 0 && !classes)
        status = kin_fail(err, KIN_ERR_ARG,
                          "data: flip %g must be 0 for clips: captions tell left from right",
                          (double)c->data.flip);
    else if (c->data.simulate)
        open_simulated(s, c);
    else if (classes && kin_latents_is(c->data.path))
        status = open_latents(s, c, err);
    else if (!classes && kin_clips_is(c->data.path))
        status = open_clips(s, c, err);
    else
        status = classes ? open_images(s, c, err) : open_records(s, c, err);
    if (status != KIN_OK) {
        kin_source_close(&s);
        return status;
    }
    *out = s;
    return KIN_OK;
}

void kin_source_close(kin_source **ps)
{
    kin_source *s = *ps;
    if (!s)
        return;
    for (int64_t i = 0; i < s->records_n; i++)
        kin_free(s->records[i].prompt);
    kin_free(s->records);
    if (s->set)
        kin_dataset_close(&s->set);
    kin_images_close(&s->images);
    kin_latents_close(&s->latents);
    kin_clips_close(&s->clips);
    kin_free(s->cache);
    kin_free(s->filled);
    kin_free(s);
    *ps = NULL;
}

int64_t kin_source_count(const kin_source *s)
{
    return s->count;
}

int64_t kin_source_held_out(const kin_source *s)
{
    return s->held_out;
}

int64_t kin_source_classes(const kin_source *s)
{
    if (s->latents)
        return kin_latents_get_info(s->latents)->classes;
    return s->images ? kin_images_classes(s->images) : 0;
}

const char *kin_source_class_name(const kin_source *s, int64_t class_id)
{
    return s->latents ? kin_latents_class_name(s->latents, class_id)
                      : kin_images_class_name(s->images, class_id);
}

const kin_latents_info *kin_source_latents(const kin_source *s)
{
    return s->latents ? kin_latents_get_info(s->latents) : NULL;
}

const kin_clips *kin_source_clips(const kin_source *s)
{
    return s->clips;
}

float kin_source_flip(const kin_source *s)
{
    return s->flip;
}

uint64_t kin_source_fingerprint(const kin_source *s)
{
    return s->fingerprint;
}

kin_sample_shape kin_source_shape(const kin_source *s)
{
    return s->shape;
}

void kin_source_set_tokenizer(kin_source *s, const kin_tokenizer *tok, int64_t text_len)
{
    s->tok = tok;
    s->shape.text_len = tok ? text_len : 0;
}

static kin_status simulate(kin_source *s, uint64_t index, kin_sim_clip *clip,
                           kin_physics_prior *prior, kin_error *err)
{
    KIN_TRY(kin_simulate_clip(&s->sim, s->sim_seed, index, clip, err));
    kin_status status = kin_sim_prior(clip, prior, err);
    if (status != KIN_OK)
        kin_sim_clip_free(clip);
    return status;
}

kin_status kin_source_prompt(kin_source *s, int64_t i, bool held_out, char **text, kin_error *err)
{
    *text = NULL;
    if (s->simulate) {
        kin_sim_clip clip;
        kin_physics_prior prior;
        KIN_TRY(simulate(s, held_out ? sim_held_out_base + (uint64_t)i : (uint64_t)i, &clip, &prior,
                         err));
        *text = prompt_of(s, &prior);
        kin_sim_clip_free(&clip);
        kin_physics_prior_free(&prior);
    } else {
        *text = kin_strdup(s->images || s->latents ? ""
                           : s->clips ? kin_clips_prompt(s->clips, held_out ? s->count + i : i)
                                      : s->records[held_out ? s->count + i : i].prompt);
    }
    return *text ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "data: out of memory");
}

static kin_status tokenize(const kin_source *s, const char *prompt, const kin_sample *out,
                           kin_error *err)
{
    *out->empty = prompt[0] == '\0';
    if (!s->tok)
        return KIN_OK;
    KIN_TRY(kin_tokenizer_encode_padded(s->tok, prompt, strlen(prompt), (int)s->shape.text_len,
                                        out->ids, out->mask, err));
    *out->empty = out->ids[0] == 1; /* as the pipeline: nothing before the eos */
    return KIN_OK;
}

static kin_status read_simulated(kin_source *s, uint64_t index, const kin_sample *out,
                                 kin_error *err)
{
    kin_sim_clip clip;
    kin_physics_prior prior;
    KIN_TRY(simulate(s, index, &clip, &prior, err));
    memcpy(out->frames, clip.frames, kin_sample_frame_bytes(&s->shape));
    memcpy(out->prior, prior.prior, sizeof prior.prior);
    memcpy(out->quant, prior.quant, sizeof prior.quant);
    *out->label = 0;
    char *prompt = prompt_of(s, &prior);
    kin_status status =
        prompt ? tokenize(s, prompt, out, err) : kin_fail(err, KIN_ERR_MEM, "data: out of memory");
    kin_free(prompt);
    kin_sim_clip_free(&clip);
    kin_physics_prior_free(&prior);
    return status;
}

/* Any clip or picture to the size of the training samples. */
static kin_status fit(const kin_source *s, const kin_tensor *src, uint8_t *frames, kin_error *err)
{
    kin_tensor dst =
        KIN_TENSOR(frames, KIN_DTYPE_U8, s->shape.frames, s->shape.height, s->shape.width, 3);
    if (src->size[1] == s->shape.height && src->size[2] == s->shape.width) {
        memcpy(frames, src->data, kin_sample_frame_bytes(&s->shape));
        return KIN_OK;
    }
    return kin_resize_cover(src, &dst, KIN_RESIZE_AREA, err);
}

static kin_status read_record(kin_source *s, int64_t i, const kin_sample *out, kin_error *err)
{
    const record *r = &s->records[i];
    kin_clip clip;
    KIN_TRY(kin_dataset_read_clip(s->set, r->at, s->shape.frames, &clip, err));
    kin_tensor src = kin_clip_tensor(&clip);
    kin_status status = fit(s, &src, out->frames, err);
    kin_clip_free(&clip);
    KIN_TRY(status);
    memcpy(out->prior, r->prior, sizeof r->prior);
    memcpy(out->quant, r->quant, sizeof r->quant);
    *out->label = 0;
    return tokenize(s, r->prompt, out, err);
}

kin_status kin_source_get_facts(kin_source *s, int64_t i, kin_source_facts *out, kin_error *err)
{
    memset(out, 0, sizeof *out);
    if (!s->simulate) {
        const record *r = &s->records[i];
        memcpy(out->prior, r->prior, sizeof r->prior);
        memcpy(out->quant, r->quant, sizeof r->quant);
        KIN_TRY(kin_dataset_clip_key(s->set, r->at, &out->content, err));
        out->prompt = kin_strdup(r->prompt);
    } else {
        kin_sim_clip clip;
        kin_physics_prior prior;
        KIN_TRY(simulate(s, (uint64_t)i, &clip, &prior, err));
        memcpy(out->prior, prior.prior, sizeof prior.prior);
        memcpy(out->quant, prior.quant, sizeof prior.quant);
        out->content = kin_fnv1a(KIN_FNV1A_START, clip.frames, kin_sample_frame_bytes(&s->shape));
        out->prompt = prompt_of(s, &prior);
        kin_sim_clip_free(&clip);
        kin_physics_prior_free(&prior);
    }
    return out->prompt ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "data: out of memory");
}

kin_status kin_source_read_float(kin_source *s, int64_t i, kin_tensor *dst, kin_error *err)
{
    kin_status status;
    if (s->simulate) {
        kin_sim_clip clip;
        kin_physics_prior prior;
        KIN_TRY(simulate(s, (uint64_t)i, &clip, &prior, err));
        const kin_tensor src = KIN_TENSOR(clip.frames, KIN_DTYPE_U8, s->shape.frames,
                                          s->shape.height, s->shape.width, 3);
        status = kin_resize_float(&src, dst, err);
        kin_sim_clip_free(&clip);
        kin_physics_prior_free(&prior);
        return status;
    }
    kin_clip clip;
    KIN_TRY(kin_dataset_read_clip(s->set, s->records[i].at, dst->size[1], &clip, err));
    const kin_tensor src = kin_clip_tensor(&clip);
    status = kin_resize_float(&src, dst, err);
    kin_clip_free(&clip);
    return status;
}

static kin_status read_clip_latent(kin_source *s, int64_t i, const kin_sample *out, kin_error *err)
{
    const kin_clips_sample to = {out->moments, out->states, out->prior, out->quant};
    *out->empty = 0;
    *out->label = 0;
    return kin_clips_read(s->clips, i, &to, err);
}

static kin_status read_latent(kin_source *s, int64_t i, bool held_out, bool mirrored,
                              const kin_sample *out)
{
    memset(out->prior, 0, KIN_PHYS_CATEGORIES * sizeof(float));
    memset(out->quant, 0, KIN_PHYS_QUANTITIES * sizeof(float));
    *out->empty = 0;
    *out->label = kin_latents_label(s->latents, held_out, i);
    memcpy(out->moments, kin_latents_moments(s->latents, held_out, i, mirrored),
           (size_t)kin_sample_moments(&s->shape) * sizeof(float));
    return KIN_OK;
}

static kin_status read_image(kin_source *s, int64_t i, bool held_out, const kin_sample *out,
                             kin_error *err)
{
    kin_tensor dst = KIN_TENSOR(out->frames, KIN_DTYPE_U8, s->shape.height, s->shape.width, 3);
    memset(out->prior, 0, KIN_PHYS_CATEGORIES * sizeof(float));
    memset(out->quant, 0, KIN_PHYS_QUANTITIES * sizeof(float));
    *out->empty = 0;
    *out->label = kin_images_label(s->images, held_out, i);
    return kin_images_read(s->images, held_out, i, &dst, err);
}

static kin_status load(kin_source *s, int64_t i, bool held_out, const kin_sample *out,
                       kin_error *err)
{
    if (s->simulate)
        return read_simulated(s, held_out ? sim_held_out_base + (uint64_t)i : (uint64_t)i, out,
                              err);
    if (s->latents)
        return read_latent(s, i, held_out, false, out);
    if (s->images)
        return read_image(s, i, held_out, out, err);
    if (s->clips)
        return read_clip_latent(s, held_out ? s->count + i : i, out, err);
    return read_record(s, held_out ? s->count + i : i, out, err);
}

/* Parts of a cache entry. */
static kin_sample entry_of(const kin_source *s, int64_t i)
{
    uint8_t *at = s->cache + (size_t)i * s->entry_bytes;
    kin_sample e = {.prior = (float *)at};
    e.quant = e.prior + KIN_PHYS_CATEGORIES;
    e.label = (int32_t *)(e.quant + KIN_PHYS_QUANTITIES);
    e.ids = e.label + 1;
    e.mask = (uint8_t *)(e.ids + s->shape.text_len);
    e.empty = e.mask + s->shape.text_len;
    e.frames = e.empty + 1;
    return e;
}

static void copy_sample(const kin_sample_shape *shape, const kin_sample *from, const kin_sample *to)
{
    memcpy(to->frames, from->frames, kin_sample_frame_bytes(shape));
    memcpy(to->prior, from->prior, KIN_PHYS_CATEGORIES * sizeof(float));
    memcpy(to->quant, from->quant, KIN_PHYS_QUANTITIES * sizeof(float));
    *to->label = *from->label;
    *to->empty = *from->empty;
    if (shape->text_len > 0) {
        memcpy(to->ids, from->ids, (size_t)shape->text_len * sizeof(int32_t));
        memcpy(to->mask, from->mask, (size_t)shape->text_len);
    }
}

static void measure_cache(const kin_source *s, size_t *entry, int64_t *entries)
{
    size_t text = (size_t)s->shape.text_len;
    *entry = ((KIN_PHYS_CATEGORIES + KIN_PHYS_QUANTITIES + 1 + text) * 4 + text + 1 +
              kin_sample_frame_bytes(&s->shape) + 63) &
             ~(size_t)63;
    /* note: latents lie in mapped files already, or in the page cache */
    int64_t fit_n = s->latents || s->clips ? 0 : (int64_t)(s->cache_limit / *entry);
    *entries = fit_n < s->count ? fit_n : s->count; /* endless: count 0, nothing comes twice */
}

size_t kin_source_cache_bytes(const kin_source *s)
{
    size_t entry;
    int64_t entries;
    measure_cache(s, &entry, &entries);
    return entry * (size_t)entries;
}

kin_status kin_source_reserve(kin_source *s, kin_error *err)
{
    measure_cache(s, &s->entry_bytes, &s->cached);
    if (s->cached == 0)
        return KIN_OK;
    s->cache = kin_malloc((size_t)s->cached * s->entry_bytes);
    s->filled = kin_calloc((size_t)s->cached, 1);
    return s->cache && s->filled
               ? KIN_OK
               : kin_fail(err, KIN_ERR_MEM, "data: a cache of %zu bytes does not fit",
                          kin_source_cache_bytes(s));
}

kin_status kin_source_read(kin_source *s, int64_t i, const kin_sample *out, kin_error *err)
{
    if (i >= s->cached)
        return load(s, i, false, out, err);
    kin_sample e = entry_of(s, i);
    if (!s->filled[i]) {
        KIN_TRY(load(s, i, false, &e, err));
        s->filled[i] = 1;
    }
    copy_sample(&s->shape, &e, out);
    return KIN_OK;
}

kin_status kin_source_read_mirrored(kin_source *s, int64_t i, const kin_sample *out, kin_error *err)
{
    if (s->latents)
        return read_latent(s, i, false, true, out);
    KIN_TRY(kin_source_read(s, i, out, err));
    kin_images_flip(out->frames, s->shape.frames * s->shape.height, s->shape.width);
    return KIN_OK;
}

kin_status kin_source_read_held_out(kin_source *s, int64_t i, const kin_sample *out, kin_error *err)
{
    return load(s, i, true, out, err);
}
