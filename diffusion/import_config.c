/* diffusion/import_config.c: the configuration of an image transformer from the names and shapes of
 * its tensors. Names: ali-vilab/ProMoE. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "diffusion/import.h"

/* Published models: what shapes do not tell. */
static const struct {
    const char *name;
    int64_t depth, width, heads;
} published[] = {
    {"S", 12, 384, 6},   {"B", 12, 768, 12},   {"M", 16, 960, 16},
    {"L", 24, 1024, 16}, {"XL", 28, 1152, 16},
};

typedef struct reader {
    const kin_import *imp;
    cJSON *config;
    kin_strbuf *notes;
    kin_error *err;
    int64_t depth, width, moe_block; /* a block with experts, -1: none */
    const char *size;                /* of the published model, NULL: not one */
    int64_t heads;
} reader;

/* Entry of the EMA (or only) weights by name; NULL: none. */
static const kin_pth_entry *entry(const reader *r, const char *name)
{
    const int64_t i = kin_import_find(r->imp, KIN_IMPORT_EMA, name);
    return i < 0 ? NULL : kin_pth_at(r->imp->pth, i);
}

static const kin_pth_entry *in_block(const reader *r, int64_t block, const char *name)
{
    char full[160];
    snprintf(full, sizeof full, "blocks.%" PRId64 ".%s", block, name);
    return entry(r, full);
}

/* Size of dimension d of a tensor that must be there with `ndim` dimensions, each at least 1. */
static kin_status need(const reader *r, const char *name, int ndim, int d, int64_t *out)
{
    const kin_pth_entry *e = entry(r, name);
    if (!e || e->ndim != ndim || e->size[d] < 1)
        return kin_fail(r->err, KIN_ERR_FORMAT, "import: tensor \"%s\" must have %d dimensions",
                        name, ndim);
    *out = e->size[d];
    return KIN_OK;
}

static bool set(const reader *r, cJSON *obj, const char *key, double v)
{
    (void)r;
    return cJSON_AddNumberToObject(obj, key, v) != NULL;
}

/* Width, channels, patch, input size, classes, depth, output channels. */
static kin_status read_frame(reader *r)
{
    int64_t channels, patch, tokens, rows, vector, blocks = 0;
    KIN_TRY(need(r, "x_embedder.proj.weight", 4, 0, &r->width));
    KIN_TRY(need(r, "x_embedder.proj.weight", 4, 1, &channels));
    KIN_TRY(need(r, "x_embedder.proj.weight", 4, 2, &patch));
    KIN_TRY(need(r, "pos_embed", 3, 1, &tokens));
    KIN_TRY(need(r, "y_embedder.embedding_table.weight", 2, 0, &rows));
    KIN_TRY(need(r, "final_layer.linear.weight", 2, 0, &vector));
    while (blocks < 1024 && in_block(r, blocks, "attn.qkv.weight"))
        blocks++;
    const int64_t side = (int64_t)llround(sqrt((double)tokens));
    if (side * side != tokens || blocks == 0 || patch > 1024 || channels > 4096 || rows < 2)
        return kin_fail(r->err, KIN_ERR_FORMAT,
                        "import: %" PRId64 " tokens, %" PRId64 " blocks, %" PRId64
                        " label rows: not an image transformer",
                        tokens, blocks, rows);
    if (vector != patch * patch * channels && vector != 2 * patch * patch * channels)
        return kin_fail(r->err, KIN_ERR_FORMAT,
                        "import: %" PRId64 " values per patch must be one or two per channel",
                        vector);
    r->depth = blocks;
    const bool ok =
        set(r, r->config, "input_size", (double)(side * patch)) &&
        set(r, r->config, "patch_size", (double)patch) &&
        set(r, r->config, "in_channels", (double)channels) &&
        set(r, r->config, "hidden_size", (double)r->width) &&
        set(r, r->config, "depth", (double)blocks) &&
        set(r, r->config, "num_classes", (double)(rows - 1)) &&
        set(r, r->config, "class_dropout_prob", 0.1) &&
        cJSON_AddBoolToObject(r->config, "learn_sigma", vector == 2 * patch * patch * channels);
    kin_strbuf_addf(r->notes, "the last of %" PRId64 " label rows stands for no class\n", rows);
    return ok ? KIN_OK : kin_fail(r->err, KIN_ERR_MEM, "import: out of memory");
}

/* Heads: from the norm of q, else from the published model of this size, else the user's. */
static kin_status read_attention(reader *r, const cJSON *given)
{
    const kin_pth_entry *norm = in_block(r, 0, "attn.q_norm.weight");
    int64_t rows, heads = r->heads;
    KIN_TRY(need(r, "blocks.0.attn.qkv.weight", 2, 0, &rows));
    bool ok = cJSON_AddBoolToObject(r->config, "qk_norm", norm != NULL) != NULL;
    if (norm && norm->ndim == 1 && norm->size[0] > 0 && rows % (3 * norm->size[0]) == 0) {
        heads = rows / (3 * norm->size[0]);
        if (heads * norm->size[0] != r->width)
            ok = ok && set(r, r->config, "head_dim", (double)norm->size[0]);
    } else if (heads && rows == 3 * r->width) {
        kin_strbuf_addf(r->notes, "num_heads %" PRId64 " as published for size %s\n", heads,
                        r->size);
    } else if (!cJSON_GetObjectItemCaseSensitive(given, "num_heads")) {
        return kin_fail(
            r->err, KIN_ERR_FORMAT,
            "import: the number of heads is not in the file, and no published model has "
            "depth %" PRId64 " and width %" PRId64 "; give it by -c FILE: {\"num_heads\": N}",
            r->depth, r->width);
    } else {
        heads = 1; /* overridden below */
    }
    ok = ok && set(r, r->config, "num_heads", (double)heads);
    return ok ? KIN_OK : kin_fail(r->err, KIN_ERR_MEM, "import: out of memory");
}

/* The dense blocks' FFN; without any, the width that experts of the baselines have. */
static kin_status read_ffn(reader *r)
{
    const kin_pth_entry *e = NULL;
    bool swiglu = false;
    for (int64_t i = 0; i < r->depth && !e; i++) {
        e = in_block(r, i, "mlp.fc1.weight");
        if (!e && (e = in_block(r, i, "mlp.gate_proj.weight")))
            swiglu = true;
    }
    if (!e && r->moe_block >= 0 && !(e = in_block(r, r->moe_block, "mlp.experts.0.fc1.weight")) &&
        (e = in_block(r, r->moe_block, "mlp.experts.0.gate_proj.weight")))
        swiglu = true;
    double ratio = e && e->ndim == 2 ? (double)e->size[0] / (double)r->width : 4.0;
    /* the width is int(D * ratio), which rounding must not make one less */
    if (e && e->ndim == 2 && (int64_t)((double)r->width * ratio) < e->size[0])
        ratio = nextafter(ratio, 1e9);
    return set(r, r->config, "mlp_ratio", ratio) &&
                   cJSON_AddBoolToObject(r->config, "use_swiglu", swiglu)
               ? KIN_OK
               : kin_fail(r->err, KIN_ERR_MEM, "import: out of memory");
}

static int64_t count_experts(const reader *r)
{
    char name[64];
    int64_t n = 0;
    for (;; n++) {
        snprintf(name, sizeof name, "mlp.experts.%" PRId64 ".up_proj.weight", n);
        if (in_block(r, r->moe_block, name))
            continue;
        snprintf(name, sizeof name, "mlp.experts.%" PRId64 ".fc1.weight", n);
        if (!in_block(r, r->moe_block, name))
            return n;
    }
}

/* Rows of a matrix of the block with experts, 0: not there. */
static int64_t rows_of(const reader *r, const char *name)
{
    const kin_pth_entry *e = in_block(r, r->moe_block, name);
    return e && e->ndim >= 1 ? e->size[0] : 0;
}

static bool fill_promoe(reader *r, cJSON *moe)
{
    const int64_t routed = rows_of(r, "mlp.cluster_centers"), experts = count_experts(r);
    const int64_t hidden = rows_of(r, "mlp.experts.0.up_proj.weight");
    const int64_t shared = rows_of(r, "mlp.shared_expert.up_proj.weight");
    kin_strbuf_add(r->notes, "router promoe_tc, top_k 1, weight identity, contrastive loss 1 at "
                             "temperature 0.07: as published (the file does not say)\n");
    return cJSON_AddStringToObject(r->config, "model", "promoe_tc") &&
           set(r, moe, "num_routed_experts", (double)routed) && set(r, moe, "top_k", 1) &&
           cJSON_AddStringToObject(moe, "router_weight_mode", "identity") &&
           set(r, moe, "moe_intermediate_size", (double)hidden) &&
           set(r, moe, "shared_expert_intermediate_size", (double)(shared ? shared : hidden)) &&
           cJSON_AddBoolToObject(moe, "use_shared_expert", shared > 0) &&
           cJSON_AddBoolToObject(moe, "use_uncond_expert", experts > routed) &&
           set(r, moe, "routing_contrastive_lam", 1) &&
           set(r, moe, "routing_contrastive_temperature", 0.07) &&
           cJSON_AddBoolToObject(moe, "use_top_k_for_routing_contrastive", true) &&
           set(r, moe, "load_balance_loss_coef", 0);
}

/* TC-DiT, EC-DiT and DiffMoE differ in the name of the gate and in the predictor. */
static bool fill_baseline(reader *r, cJSON *moe, const char *model)
{
    const int64_t wide = rows_of(r, "mlp.shared_experts.gate_proj.weight");
    /* note: DiffMoE's shared expert has one width, whatever their number */
    const int64_t shared = wide ? wide / r->width : rows_of(r, "mlp.shared_experts.fc1.weight") > 0;
    kin_strbuf_addf(r->notes, "model %s, capacity 1: as published (the file does not say)\n",
                    model);
    return cJSON_AddStringToObject(r->config, "model", model) &&
           set(r, moe, "num_experts", (double)count_experts(r)) && set(r, moe, "capacity", 1) &&
           set(r, moe, "n_shared_experts", (double)shared);
}

static kin_status read_experts(reader *r)
{
    if (r->moe_block < 0)
        return cJSON_AddStringToObject(r->config, "model", "dense")
                   ? KIN_OK
                   : kin_fail(r->err, KIN_ERR_MEM, "import: out of memory");
    cJSON *moe = cJSON_AddObjectToObject(r->config, "MoE_config");
    bool ok = moe != NULL;
    if (rows_of(r, "mlp.cluster_centers"))
        ok = ok && fill_promoe(r, moe);
    else if (rows_of(r, "mlp.capacity_predictor.0.weight"))
        ok = ok && fill_baseline(r, moe, "diffmoe");
    else
        ok = ok && fill_baseline(r, moe, rows_of(r, "mlp.gate.weight") ? "tc" : "ec");
    ok = ok && cJSON_AddBoolToObject(moe, "interleave", r->moe_block > 0);
    return ok ? KIN_OK : kin_fail(r->err, KIN_ERR_MEM, "import: out of memory");
}

/* Keys of `over` replace those of `config`; objects are merged key by key. */
static kin_status merge(cJSON *config, const cJSON *over, kin_error *err)
{
    for (const cJSON *m = over ? over->child : NULL; m; m = m->next) {
        cJSON *old = cJSON_GetObjectItemCaseSensitive(config, m->string);
        if (cJSON_IsObject(m) && cJSON_IsObject(old)) {
            KIN_TRY(merge(old, m, err));
            continue;
        }
        cJSON *copy = cJSON_Duplicate(m, true);
        cJSON_DeleteItemFromObjectCaseSensitive(config, m->string);
        if (!copy || !cJSON_AddItemToObject(config, m->string, copy)) {
            cJSON_Delete(copy);
            return kin_fail(err, KIN_ERR_MEM, "import: out of memory");
        }
    }
    return KIN_OK;
}

static kin_status read_all(reader *r, const cJSON *given)
{
    if (given && !cJSON_IsObject(given))
        return kin_fail(r->err, KIN_ERR_FORMAT, "import: the configuration must be a JSON object");
    r->config = cJSON_CreateObject();
    if (!r->config || !cJSON_AddStringToObject(r->config, "_class_name", "DiTTransformer2DModel"))
        return kin_fail(r->err, KIN_ERR_MEM, "import: out of memory");
    KIN_TRY(read_frame(r));
    for (size_t i = 0; i < sizeof published / sizeof *published; i++)
        if (published[i].depth == r->depth && published[i].width == r->width) {
            r->size = published[i].name;
            r->heads = published[i].heads;
        }
    for (int64_t i = r->depth - 1; i >= 0; i--)
        if (in_block(r, i, "mlp.experts.0.up_proj.weight") ||
            in_block(r, i, "mlp.experts.0.fc1.weight"))
            r->moe_block = i;
    KIN_TRY(read_attention(r, given));
    KIN_TRY(read_ffn(r));
    KIN_TRY(read_experts(r));
    return merge(r->config, given, r->err);
}

kin_status kin_import_config(const kin_import *imp, const cJSON *given, cJSON **out,
                             kin_strbuf *notes, kin_error *err)
{
    reader r = {.imp = imp, .notes = notes, .err = err, .moe_block = -1};
    const kin_status status = read_all(&r, given);
    *out = NULL;
    if (status == KIN_OK)
        *out = r.config;
    else
        cJSON_Delete(r.config);
    return status;
}
