/* diffusion/model.h: one interface over the model families. A model is created from its
 * config.json, registers its parameters by the official names, and has one forward for training and
 * inference. It knows no file format. */
#ifndef KIN_DIFFUSION_MODEL_H
#define KIN_DIFFUSION_MODEL_H

#include <cjson/cJSON.h>

#include "tensor/ops.h"
#include "tensor/replay.h"

typedef enum kin_family {
    KIN_FAMILY_DIT,
    KIN_FAMILY_WAN,
    KIN_FAMILY_COGVIDEOX,
    KIN_FAMILY_KINEMA,
    KIN_FAMILY_CLASSIFIER, /* tells classes of images apart; makes nothing */
    KIN_FAMILY_VAE         /* an autoencoder alone: forward gives x back; makes nothing */
} kin_family;
const char *kin_family_name(kin_family family); /* "dit", "wan", ... */

typedef struct kin_model kin_model;

/* Facts that callers need without knowing the family. */
typedef struct kin_model_info {
    kin_family family;
    int64_t in_channels, out_channels;
    int patch[3];               /* t, h, w (dit: 1, p, p) */
    int64_t num_classes;        /* dit: null label = num_classes; else 0 */
    float class_dropout;        /* dit: share of training labels that become the null label */
    int64_t text_dim, text_len; /* kinema; wan: text_len 0 = any */
    int64_t categories;         /* 29 with physics, else 0 */
    int64_t phys_blocks;        /* number of physical blocks */
    int64_t phys_heads;         /* heads of one physical block */
    float mopa_flip, mopa_floor;
    bool mopa_flip_at_inference;
    bool predicts_sample; /* prediction_type "sample": y of forward is the clean estimate */
    float sample_loss_floor;
    bool has_classifier;
    int64_t experts;    /* routed experts per MoE layer, 0 = dense */
    const char *router; /* by its config name: "dense", "promoe_tc", ... */
    int64_t num_layers;
    int64_t input_size; /* dit: height = width of x; VAE of images: what it is made for; else 0 */
    int64_t sample[3];  /* kinema: sample_frames, sample_height, sample_width of the config, 0 =
                           unknown */
    int64_t inner;      /* width D of the tokens */
    bool has_token;     /* a physical token stands before the video tokens */
} kin_model_info;

/* What the cross-attentions of a model make of a text: the same at every step of a sampling. */
typedef struct kin_text_cache {
    kin_tensor *kv; /* [2 * num_layers]: keys and values [B,T,heads,d] of each layer; NULL: the
                       model keeps none */
    int64_t rows;   /* B */
} kin_text_cache;

typedef struct kin_model_input {
    const kin_tensor *x;     /* dit, classifier [B,C,H,W]; video [B,C,F,H,W] f32; VAE as it says */
    const kin_tensor *t;     /* [B] f32, 0..1000; classifier, VAE: none */
    const kin_tensor *label; /* dit: i32 [B] after dropout */
    const kin_tensor *text;  /* [B,T,text_dim]; may be a node (joint training of the encoder) */
    const kin_text_cache *cache; /* of that text, or NULL: made anew */
    const kin_tensor *null;      /* u8 [B]; kinema: or NULL (none); dit: or NULL (by the label) */
    const kin_tensor *prior;     /* [B,29] or NULL = 0 */
    const kin_tensor *quant;     /* [B,18] or NULL = 0 */
    const kin_tensor *u;         /* [phys_blocks,B,phys_heads] uniform draws or NULL = no flips */
    const kin_tensor *gates; /* of kin_model_gates, or NULL: made of prior and u. Not cogvideox */
} kin_model_input;

typedef struct kin_model_output {
    kin_tensor y;      /* as x with out_channels; classifier: features [B,inner] */
    kin_tensor logits; /* [B,29], classifier: [B,num_classes]; data NULL where there are none */
    kin_tensor aux; /* scalar: sum over MoE layers of lam*RCL + load balance; data NULL where there
                     * is none, and in inference (neither recording nor tapped) */
} kin_model_output;

/* Creates a model of the family named by config's `_class_name` ("KinemaTransformer3DModel",
 * "WanTransformer3DModel", "CogVideoXTransformer3DModel"; dit: "DiTTransformer2DModel" or a config
 * with `input_size`), strict: unknown keys are errors naming the nearest. *out is the caller's.
 * Fails: FORMAT, ARG, UNSUPPORTED (a family member of a later release), MEM. */
kin_status kin_model_create(const cJSON *config, kin_params *params, kin_model **out,
                            kin_error *err);
void kin_model_destroy(kin_model **model);
const kin_model_info *kin_model_get_info(const kin_model *model);
/* The autoencoder of a model that is one, else NULL. */
const struct kin_vae *kin_model_vae(const kin_model *model);
/* Start values of all parameters (kin_params_init) and of the fixed tables (dit: pos_embed). */
void kin_model_start(const kin_model *model, kin_params *params, uint64_t seed);
/* Fills only the fixed tables (dit: pos_embed), for weights that come without them. */
void kin_model_fill_tables(const kin_model *model);

/* dit: null u8 [B] of label i32 [B], in host memory, as forward derives it. Fails: MEM. */
kin_status kin_model_null_of(kin_ctx *ctx, const kin_model *model, const kin_tensor *label,
                             kin_tensor *null);
/* Gates [phys_blocks,B,phys_heads] f32 of a native video model with physics, in host memory, as
 * forward makes them of prior and u (or NULL). Fails: SHAPE, MEM. */
kin_status kin_model_gates(kin_ctx *ctx, const kin_model *model, const kin_tensor *prior,
                           const kin_tensor *u, int64_t batch, kin_tensor *gates);

/* Makes the cache of text [B,T,text_dim] in the workspace, for forwards without recording; bits are
 * those of forwards without it. Models without cross-attention: out->kv NULL. Fails: SHAPE, MEM. */
kin_status kin_model_cache_text(kin_ctx *ctx, const kin_model *model, const kin_tensor *text,
                                kin_text_cache *out);
/* Rows [first, first + n) of a cache as views. Fails: MEM. */
kin_status kin_text_cache_rows(kin_ctx *ctx, const kin_model *model, const kin_text_cache *cache,
                               int64_t first, int64_t n, kin_text_cache *out);

/* Taps (ctx->tap) carry the golden names: "blocks.0", "phys_blocks.1", "layers.1.in",
 * "layers.1.assign", "gates", ... */
kin_status kin_model_forward(kin_ctx *ctx, const kin_model *model, const kin_model_input *in,
                             kin_model_output *out);
/* The same, played where `replay` (not NULL) has recorded it; inputs that change from one call to
 * the next lie at the same places. Fails: as forward. */
kin_status kin_model_replay(kin_ctx *ctx, kin_replay *replay, const kin_model *model,
                            const kin_model_input *in, kin_model_output *out);

/* The velocity that samplers integrate: y itself, or (x - y)/max(sigma, 0.05) for models that
 * predict the sample. y cut to in_channels where out_channels is larger (learned sigma). sigma [B].
 * Differentiable in y. */
kin_status kin_model_velocity(kin_ctx *ctx, const kin_model *model, const kin_tensor *x,
                              const kin_tensor *y, const kin_tensor *sigma, kin_tensor *v);
/* Block recomputation in training (kin_checkpoint around each block). */
void kin_model_set_checkpointing(kin_model *model, bool on);
/* DiffMoE in inference. false (at the start): an expert takes exactly the tokens whose predicted
 * capacity is above its threshold, so a sample's result is its own. true: as in the published code
 * it takes as many tokens of the whole batch as that, by router probability; results then depend on
 * the batch. Nothing for other routers. */
void kin_model_set_diffmoe_infer(kin_model *model, bool batch);
/* True where a sample's result depends on its batch mates. */
bool kin_model_pools_batch(const kin_model *model);

#endif
