#include "diffusion/routing_stats.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

kin_status kin_routing_stats_init(kin_routing_stats *s, const kin_model_info *info,
                                  const kin_params *params, int levels, int64_t tokens,
                                  kin_error *err)
{
    const size_t cells = (size_t)KIN_ROUTING_MAX_LAYERS * (size_t)levels;

    *s = (kin_routing_stats){.experts = info->experts,
                             .levels = levels,
                             .params = params,
                             .tokens = tokens,
                             .cosine = !strncmp(info->router, "promoe", 6)};
    if (!info->experts)
        return kin_fail(err, KIN_ERR_ARG, "routing: this model has no experts");
    if (levels < 1 || tokens < 1 || info->num_layers > KIN_ROUTING_MAX_LAYERS)
        return kin_fail(err, KIN_ERR_ARG,
                        "routing: %d levels, %lld tokens, %lld layers: at least 1, 1, at most %d",
                        levels, (long long)tokens, (long long)info->num_layers,
                        (int)KIN_ROUTING_MAX_LAYERS);
    s->cell = kin_calloc(cells, sizeof(*s->cell));
    s->taken = kin_calloc(cells, (size_t)s->experts * sizeof(*s->taken));
    s->choice = kin_calloc(cells, (size_t)tokens * sizeof(*s->choice));
    s->drawn = kin_calloc(cells, sizeof(*s->drawn));
    if (!s->cell || !s->taken || !s->choice || !s->drawn) {
        kin_routing_stats_free(s);
        return kin_fail(err, KIN_ERR_MEM, "routing: out of memory");
    }
    return KIN_OK;
}

void kin_routing_stats_free(kin_routing_stats *s)
{
    kin_free(s->cell);
    kin_free(s->taken);
    kin_free(s->choice);
    kin_free(s->drawn);
    *s = (kin_routing_stats){0};
}

static int64_t at(const kin_routing_stats *s, int layer, int level)
{
    return (int64_t)layer * s->levels + level;
}

kin_routing_cell *kin_routing_stats_cell(const kin_routing_stats *s, int layer, int level)
{
    return s->cell + at(s, layer, level);
}

int64_t *kin_routing_stats_taken(const kin_routing_stats *s, int layer, int level)
{
    return s->taken + at(s, layer, level) * s->experts;
}

const int16_t *kin_routing_stats_choice(const kin_routing_stats *s, int layer, int level)
{
    return s->choice + at(s, layer, level) * s->tokens;
}

/* --- counting --- */

/* prototypes or gate of a block, [E,D] */
static const kin_param *gate_of(const kin_routing_stats *s, int block)
{
    static const char *const names[] = {"mlp.cluster_centers", "mlp.gate.weight",
                                        "mlp.gate_weight",     "ffn.cluster_centers",
                                        "ffn.gate.weight",     "ffn.gate_weight"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char name[64];
        const kin_param *p;

        snprintf(name, sizeof(name), "blocks.%d.%s", block, names[i]);
        if ((p = kin_params_find(s->params, name)) && p->value.ndim == 2 &&
            p->value.size[0] == s->experts)
            return p;
    }
    return NULL;
}

/* cosine of rows a of x and b of y, d values each */
static double cosine(const kin_tensor *x, int64_t a, const kin_tensor *y, int64_t b, int64_t d)
{
    double dot = 0, aa = 0, bb = 0;

    for (int64_t i = 0; i < d; i++) {
        const double u = kin_tensor_get(x, a * d + i), v = kin_tensor_get(y, b * d + i);

        dot += u * v;
        aa += u * u;
        bb += v * v;
    }
    return dot / (fmax(sqrt(aa), 1e-12) * fmax(sqrt(bb), 1e-12));
}

/* The slot of largest weight that is in use, or -1. */
static int64_t first_choice(const int32_t *idx, const float *weight, int64_t slots)
{
    int64_t best = -1;

    for (int64_t k = 0; k < slots; k++) {
        if (idx[k] >= 0 && (best < 0 || weight[k] > weight[best]))
            best = k;
    }
    return best;
}

/* All tokens of one layer in one forward: route i32 [B,N,K], weight [B,N,K]. */
static void count(kin_routing_stats *s, int layer, const kin_tensor *weight)
{
    kin_routing_cell *c = kin_routing_stats_cell(s, layer, s->level);
    int64_t *taken = kin_routing_stats_taken(s, layer, s->level);
    int16_t *choice = s->choice + at(s, layer, s->level) * s->tokens;
    bool *drawn = s->drawn + at(s, layer, s->level);
    const int64_t slots = s->route.size[2], tokens = kin_tensor_numel(&s->route) / slots;
    const kin_param *gate = s->cosine ? gate_of(s, s->block[layer]) : NULL;

    for (int64_t t = 0; t < tokens; t++) {
        const int32_t *idx = (const int32_t *)s->route.data + t * slots;
        const float *w = (const float *)weight->data + t * slots;
        const int64_t best = first_choice(idx, w, slots);
        const int64_t expert = best < 0 ? -1 : idx[best];

        c->tokens++;
        c->none += expert < 0;
        c->unconditional += expert == s->experts;
        if (t < s->tokens && !*drawn)
            choice[t] = (int16_t)expert;
        if (expert < 0 || expert >= s->experts)
            continue;
        for (int64_t k = 0; k < slots; k++) {
            if (idx[k] >= 0 && idx[k] < s->experts) {
                taken[idx[k]]++;
                c->pairs++;
            }
        }
        c->strength +=
            gate ? cosine(&s->in, t, &gate->value, expert, gate->value.size[1]) : (double)w[best];
    }
    *drawn = true;
}

static int layer_of(kin_routing_stats *s, int block)
{
    int i = 0;

    while (i < s->layers && s->block[i] != block)
        i++;
    if (i == KIN_ROUTING_MAX_LAYERS)
        return -1;
    if (i == s->layers)
        s->block[s->layers++] = block;
    return i;
}

void kin_routing_stats_tap(void *user, const char *name, const kin_tensor *t)
{
    kin_routing_stats *s = user;
    int block, used = 0, layer;
    const char *what;

    if (sscanf(name, "layers.%d.%n", &block, &used) != 1 || !used)
        return;
    what = name + used;
    layer = layer_of(s, block);
    if (layer < 0 || s->level < 0 || s->level >= s->levels) {
        s->odd = true;
    } else if (!strcmp(what, "in")) {
        s->in = *t;
    } else if (!strcmp(what, "route")) {
        s->route = *t;
    } else if (!strcmp(what, "weight")) {
        if (t->dtype != KIN_DTYPE_F32 || t->ndim != 3 || !kin_tensor_same_shape(t, &s->route) ||
            t->size[1] != s->tokens)
            s->odd = true;
        else
            count(s, layer, t);
    } else if (!strcmp(what, "rcl")) {
        kin_routing_stats_cell(s, layer, s->level)->rcl += kin_tensor_get(t, 0);
        kin_routing_stats_cell(s, layer, s->level)->rcl_n++;
    }
}

/* --- results --- */

double kin_routing_stats_imbalance(const kin_routing_stats *s, int layer, int level)
{
    const kin_routing_cell *c = kin_routing_stats_cell(s, layer, level);
    const int64_t *taken = kin_routing_stats_taken(s, layer, level);
    int64_t most = 0;

    for (int64_t e = 0; e < s->experts; e++)
        most = taken[e] > most ? taken[e] : most;
    return c->pairs ? (double)(most * s->experts) / (double)c->pairs : 0;
}

kin_status kin_routing_stats_likeness(const kin_routing_stats *s, int layer, double *out,
                                      kin_error *err)
{
    const kin_param *p = gate_of(s, s->block[layer]);

    if (!p)
        return kin_fail(err, KIN_ERR_FORMAT, "routing: block %d has no prototypes",
                        s->block[layer]);
    for (int64_t i = 0; i < s->experts * s->experts; i++)
        out[i] = cosine(&p->value, i / s->experts, &p->value, i % s->experts, p->value.size[1]);
    return KIN_OK;
}
