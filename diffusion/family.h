/* diffusion/family.h: what a model family gives to model.c. Internal to diffusion/. */
#ifndef KIN_DIFFUSION_FAMILY_H
#define KIN_DIFFUSION_FAMILY_H

#include "diffusion/model.h"
#include "physics/mopa.h"

struct kin_model {
    kin_model_info info;
    bool checkpoint;
    bool infer_batch;            /* see kin_model_set_diffmoe_infer */
    const kin_mopa_config *mopa; /* NULL: no physics */
    kin_status (*forward)(kin_ctx *ctx, const kin_model *model, const kin_model_input *in,
                          kin_model_output *out);
    /* NULL: no cross-attention. Values of kv are allocated */
    kin_status (*cache_text)(kin_ctx *ctx, const kin_model *model, const kin_tensor *text,
                             kin_text_cache *cache);
    void (*fill_tables)(const kin_model *model); /* NULL: nothing to fill */
    void (*set_checkpointing)(kin_model *model); /* NULL: forward looks at `checkpoint` */
    void (*destroy)(
        kin_model *model); /* frees the family's struct, whose first member is kin_model */
};

kin_status kin_autoencoder_create(const cJSON *config, kin_params *params, kin_model **out,
                                  kin_error *err);
kin_status kin_classifier_model_create(const cJSON *config, kin_params *params, kin_model **out,
                                       kin_error *err);
kin_status kin_dit_create(const cJSON *config, kin_params *params, kin_model **out, kin_error *err);
kin_status kin_wan_create(const cJSON *config, kin_params *params, kin_model **out, kin_error *err);
kin_status kin_cogvideox_create(const cJSON *config, kin_params *params, kin_model **out,
                                kin_error *err);
kin_status kin_kinema_create(const cJSON *config, kin_params *params, kin_model **out,
                             kin_error *err);

/* Adds b (scalar, data NULL: nothing) to *sum (data NULL: becomes b). */
kin_status kin_sum_scalar(kin_ctx *ctx, kin_tensor *sum, const kin_tensor *b);

/* Runs the blocks of a model one after the other over the hidden state, in the cheapest way the
 * context allows: recorded as they are, recorded with recomputation, or in inference with the
 * workspace given back after each block. */
typedef kin_status (*kin_layer_fn)(kin_ctx *ctx, void *arg, const kin_tensor *in, kin_tensor *out);
typedef struct kin_layers {
    kin_layer_fn fn; /* in[0] = hidden state, in[1..n_in) shared inputs; out[0] hidden state, out[1]
                        aux scalar if asked for */
    char *args;      /* one per layer, `arg_bytes` apart; in the workspace */
    size_t arg_bytes;
    int64_t count;
    int n_in;
    const kin_tensor *in; /* [n_in]; in[0] is the first hidden state */
    const bool *has_aux;  /* [count]: layer gives out[1] */
    bool checkpoint;
} kin_layers;
/* y = hidden state after the last layer; aux = sum of the layers' aux (data NULL when none). */
kin_status kin_layers_run(kin_ctx *ctx, const kin_layers *l, kin_tensor *y, kin_tensor *aux);

#endif
