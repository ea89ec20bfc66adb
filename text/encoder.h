/* text/encoder.h: T5 (v1.0 relu, v1.1 gated-gelu) and UMT5 encoders. Maths: Raffel et al. 2020,
 * section 2.1; UMT5 has one relative bias table per block. Names are those of transformers'
 * T5EncoderModel / UMT5EncoderModel. */
#ifndef KIN_TEXT_ENCODER_H
#define KIN_TEXT_ENCODER_H

#include <cjson/cJSON.h>

#include "tensor/ops.h"

typedef struct kin_text_encoder kin_text_encoder;

/* config: text_encoder/config.json (`model_type` or `architectures` "T5EncoderModel" /
 * "UMT5EncoderModel", d_model, d_kv, d_ff, num_layers, num_heads, vocab_size,
 * relative_attention_num_buckets, relative_attention_max_distance, feed_forward_proj,
 * layer_norm_epsilon; other keys of published configs are accepted). Registers parameters. Fails:
 * FORMAT, ARG, MEM. */
kin_status kin_text_encoder_create(const cJSON *config, kin_params *params, kin_text_encoder **out,
                                   kin_error *err);
void kin_text_encoder_destroy(kin_text_encoder **enc);
/* Outside of training: packed forms and pages of a block are given back when it has run, so that
 * one block at a time is in memory. The result is the same. */
void kin_text_encoder_set_streaming(kin_text_encoder *enc, bool on);
int64_t kin_text_encoder_width(const kin_text_encoder *enc); /* d_model */
int64_t kin_text_encoder_vocab(const kin_text_encoder *enc);

/* ids i32 [B,n]; mask u8 [B,n] or NULL (every position counts) -> states [B,n,d_model] after the
 * last rms. Padded rows are computed like any other. Taps "hidden.I", "last_hidden_state".
 * Differentiable in the parameters. Fails: ARG for an id out of range. */
kin_status kin_text_encoder_run(kin_ctx *ctx, const kin_text_encoder *enc, const kin_tensor *ids,
                                const kin_tensor *mask, kin_tensor *states);
/* Bucket of relative position r = key - query (bidirectional T5 rule). */
int kin_text_encoder_bucket(int r, int num_buckets, int max_distance);

#endif
