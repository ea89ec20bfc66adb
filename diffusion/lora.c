#include "diffusion/lora.h"

#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

enum { LORA_NAME = 300 };

/* --- new adapters --- */

/* length of NAME in NAME.weight, 0: not of that form */
static size_t stem_length(const char *name)
{
    const size_t n = strlen(name), tail = strlen(".weight");

    return n > tail && !strcmp(name + n - tail, ".weight") ? n - tail : 0;
}

static bool matches(const regex_t *re, const kin_param *p)
{
    const size_t stem = stem_length(p->name);
    char module[LORA_NAME];
    regmatch_t m;

    if (!stem || stem >= sizeof(module) || p->value.ndim != 2)
        return false;
    memcpy(module, p->name, stem);
    module[stem] = 0;
    return !regexec(re, module, 1, &m, 0) && m.rm_so == 0 && (size_t)m.rm_eo == stem;
}

kin_status kin_lora_create(kin_params *params, const char *targets, int64_t rank, double alpha,
                           const char *name, int64_t *count, kin_error *err)
{
    const int present = params->count;
    int64_t made = 0;
    kin_status status = KIN_OK;
    char whole[1024];
    regex_t re;

    if (rank < 1 || !(isfinite(alpha) && alpha > 0))
        return kin_fail(err, KIN_ERR_ARG,
                        "lora: rank %lld must be at least 1 and alpha %g greater than 0",
                        (long long)rank, alpha);
    if (snprintf(whole, sizeof(whole), "^(%s)$", targets) >= (int)sizeof(whole) ||
        regcomp(&re, whole, REG_EXTENDED))
        return kin_fail(err, KIN_ERR_ARG, "lora: \"%.200s\" is not a regular expression", targets);
    for (int i = 0; i < present && status == KIN_OK; i++) {
        if (!matches(&re, params->list[i]))
            continue;
        status = kin_params_adapt(params, params->list[i], rank, (float)(alpha / (double)rank),
                                  name, err);
        made++;
    }
    regfree(&re);
    if (status == KIN_OK && !made)
        return kin_fail(err, KIN_ERR_ARG, "lora: \"%.200s\" matches no matrix of the model",
                        targets);
    if (count)
        *count = made;
    return status;
}

/* --- files --- */

typedef enum lora_part { LORA_NONE = 0, LORA_A, LORA_B, LORA_ALPHA } lora_part;

/* skips what stands before the module's name in the files of peft and diffusers */
static const char *without_prefix(const char *name)
{
    static const char *const prefix[] = {"base_model.model.", "transformer.", "diffusion_model."};

    for (int i = 0; i < 3; i++) {
        const size_t n = strlen(prefix[i]);

        if (!strncmp(name, prefix[i], n))
            name += n;
    }
    return name;
}

/* Splits a tensor's name into module ("blocks.0.attn1.to_q") and part. */
static lora_part parse_name(const char *name, char module[LORA_NAME])
{
    static const struct {
        const char *mark;
        lora_part part;
    } marks[] = {{".lora_A.", LORA_A},  {".lora_B.", LORA_B},    {".lora_down.", LORA_A},
                 {".lora_up.", LORA_B}, {".lora.down.", LORA_A}, {".lora.up.", LORA_B},
                 {".alpha", LORA_ALPHA}};

    name = without_prefix(name);
    for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++) {
        const char *at = strstr(name, marks[i].mark);
        const size_t n = at ? (size_t)(at - name) : 0;

        if (!at || n == 0 || n >= LORA_NAME - 8)
            continue;
        if (marks[i].part == LORA_ALPHA ? at[strlen(marks[i].mark)] != 0 : !stem_length(name))
            continue;
        memcpy(module, name, n);
        module[n] = 0;
        return marks[i].part;
    }
    return LORA_NONE;
}

/* tensor of the file with this module and part, -1: none */
static int64_t find_part(const kin_safetensors *file, const char *module, lora_part part)
{
    char other[LORA_NAME];

    for (int64_t i = 0; i < kin_safetensors_count(file); i++) {
        if (parse_name(kin_safetensors_at(file, i)->name, other) == part && !strcmp(other, module))
            return i;
    }
    return -1;
}

static kin_status check_pair(const kin_param *w, const kin_tensor *a, const kin_tensor *b,
                             const char *module, kin_error *err)
{
    char ta[80], tb[80], tw[80];

    if (a->ndim == 2 && b->ndim == 2 && a->size[0] == b->size[1] && a->size[0] >= 1 &&
        a->size[1] == w->value.size[1] && b->size[0] == w->value.size[0])
        return KIN_OK;
    return kin_fail(err, KIN_ERR_SHAPE, "lora: %s: A %s and B %s do not fit the matrix %s", module,
                    kin_tensor_describe(a, ta, sizeof(ta)), kin_tensor_describe(b, tb, sizeof(tb)),
                    kin_tensor_describe(&w->value, tw, sizeof(tw)));
}

/* the adapter whose A is tensor i of the file */
static kin_status load_pair(kin_params *params, const kin_safetensors *file, int64_t i,
                            const char *module, double strength, const char *name, kin_error *err)
{
    const int64_t down = find_part(file, module, LORA_B), at = find_part(file, module, LORA_ALPHA);
    char weight[LORA_NAME + 8];
    kin_tensor a, b, alpha;
    kin_adapter *last;
    double scale = strength;
    kin_param *w;

    snprintf(weight, sizeof(weight), "%s.weight", module);
    w = kin_params_find(params, weight);
    if (!w || w->value.ndim != 2)
        return kin_fail(err, KIN_ERR_FORMAT, "lora: \"%s\" is for no matrix of the model",
                        kin_safetensors_at(file, i)->name);
    if (down < 0)
        return kin_fail(err, KIN_ERR_FORMAT, "lora: %s has no second factor (lora_B)", module);
    KIN_TRY(kin_safetensors_tensor(file, i, &a, err));
    KIN_TRY(kin_safetensors_tensor(file, down, &b, err));
    KIN_TRY(check_pair(w, &a, &b, module, err));
    if (at >= 0) {
        KIN_TRY(kin_safetensors_tensor(file, at, &alpha, err));
        if (kin_tensor_numel(&alpha) != 1)
            return kin_fail(err, KIN_ERR_SHAPE, "lora: %s.alpha must be one number", module);
        scale *= kin_tensor_get(&alpha, 0) / (double)a.size[0];
    }
    if ((float)scale == 0.0f)
        return KIN_OK; /* adds nothing, not even a rounding */
    KIN_TRY(kin_params_adapt(params, w, a.size[0], (float)scale, name, err));
    for (last = w->adapters; last->next;)
        last = last->next;
    last->a->trainable = last->b->trainable = false;
    KIN_TRY(kin_params_bind(last->a, &a, err));
    return kin_params_bind(last->b, &b, err);
}

kin_status kin_lora_load(kin_params *params, const kin_safetensors *file, double strength,
                         const char *name, int64_t *count, kin_error *err)
{
    int64_t made = 0;

    if (!isfinite(strength))
        return kin_fail(err, KIN_ERR_ARG, "lora: strength must be finite");
    for (int64_t i = 0; i < kin_safetensors_count(file); i++) {
        const char *tensor = kin_safetensors_at(file, i)->name;
        char module[LORA_NAME];
        const lora_part part = parse_name(tensor, module);

        if (part == LORA_NONE)
            return kin_fail(err, KIN_ERR_FORMAT, "lora: \"%s\" is not part of an adapter", tensor);
        if (part != LORA_A) {
            if (find_part(file, module, LORA_A) < 0)
                return kin_fail(err, KIN_ERR_FORMAT, "lora: %s has no first factor (lora_A)",
                                module);
            continue;
        }
        KIN_TRY(load_pair(params, file, i, module, strength, name, err));
        made++;
    }
    if (!made)
        return kin_fail(err, KIN_ERR_FORMAT, "lora: the file holds no adapter");
    if (count)
        *count = made;
    return KIN_OK;
}

/* --- merging --- */

static void merge_row(const kin_param *w, int64_t row, double *sum)
{
    const int64_t k = w->value.size[1];

    for (int64_t j = 0; j < k; j++)
        sum[j] = kin_tensor_get(&w->value, row * k + j);
    for (const kin_adapter *a = w->adapters; a; a = a->next) {
        const int64_t rank = a->a->value.size[0];

        for (int64_t r = 0; r < rank; r++) {
            const double f = (double)a->scale * kin_tensor_get(&a->b->value, row * rank + r);

            for (int64_t j = 0; j < k; j++)
                sum[j] += f * kin_tensor_get(&a->a->value, r * k + j);
        }
    }
}

/* blocks have no room for a sum */
static kin_dtype merged_type(const kin_param *w)
{
    return w->value.scale ? KIN_DTYPE_F32 : w->value.dtype;
}

static size_t merged_bytes(const kin_param *w)
{
    const size_t n = (size_t)kin_tensor_numel(&w->value) * kin_dtype_size(merged_type(w));

    return w->adapters ? (n + 63) & ~(size_t)63 : 0;
}

kin_status kin_lora_merge(kin_params *params, void **memory, kin_error *err)
{
    size_t bytes = 0;
    int64_t widest = 1;
    double *sum;
    char *at;

    for (int i = 0; i < params->count; i++) {
        bytes += merged_bytes(params->list[i]);
        if (params->list[i]->adapters && params->list[i]->value.size[1] > widest)
            widest = params->list[i]->value.size[1];
    }
    sum = kin_calloc((size_t)widest, sizeof(*sum));
    *memory = at = kin_malloc(bytes + 1);
    if (!sum || !at) {
        kin_free(sum);
        kin_free(at);
        *memory = NULL;
        return kin_fail(err, KIN_ERR_MEM, "lora: %zu bytes of merged weights do not fit", bytes);
    }
    for (int i = 0; i < params->count; i++) {
        kin_param *w = params->list[i];
        kin_tensor merged = kin_tensor_of(at, merged_type(w), w->value.ndim, w->value.size);

        if (!w->adapters)
            continue;
        for (int64_t row = 0; row < w->value.size[0]; row++) {
            merge_row(w, row, sum);
            for (int64_t j = 0; j < w->value.size[1]; j++)
                kin_tensor_set(&merged, row * w->value.size[1] + j, sum[j]);
        }
        at += merged_bytes(w);
        kin_param_drop_pages(w);
        w->value = merged;
        w->owned = w->mapped = false;
        kin_param_touch(w);
    }
    kin_free(sum);
    kin_params_drop_adapters(params);
    return KIN_OK;
}

/* --- saving --- */

typedef struct lora_list {
    char (*names)[LORA_NAME];
    const char **name;
    kin_tensor *tensors;
    int64_t count;
} lora_list;

/* transformer.X.lora_A.weight for X.lora_A.NAME.weight; false: not of that adapter */
static bool file_name(const kin_param *p, const char *name, char out[LORA_NAME])
{
    static const char *const part[] = {".lora_A.", ".lora_B."};
    char tail[LORA_NAME];

    for (int i = 0; i < 2; i++) {
        const char *at = strstr(p->name, part[i]);

        snprintf(tail, sizeof(tail), "%s%s.weight", part[i], name);
        if (at && !strcmp(at, tail))
            return snprintf(out, LORA_NAME, "transformer.%.*s%sweight", (int)(at - p->name),
                            p->name, part[i]) < LORA_NAME;
    }
    return false;
}

kin_status kin_lora_save(const kin_params *params, const char *name, const char *path,
                         kin_error *err)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    const size_t most = (size_t)params->count + 1;
    lora_list l = {.names = kin_calloc(most, sizeof(*l.names)),
                   .name = kin_calloc(most, sizeof(*l.name)),
                   .tensors = kin_calloc(most, sizeof(*l.tensors))};
    kin_status status;

    if (!l.names || !l.name || !l.tensors) {
        status = kin_fail(err, KIN_ERR_MEM, "lora: out of memory");
    } else {
        for (int i = 0; i < params->count; i++) {
            if (!file_name(params->list[i], name, l.names[l.count]))
                continue;
            l.name[l.count] = l.names[l.count];
            l.tensors[l.count++] = params->list[i]->value;
        }
        status = l.count
                     ? kin_safetensors_write(path, l.name, l.tensors, NULL, l.count, metadata, err)
                     : kin_fail(err, KIN_ERR_ARG, "lora: the model has no adapter \"%s\"", name);
    }
    kin_free(l.names);
    kin_free(l.name);
    kin_free(l.tensors);
    return status;
}
