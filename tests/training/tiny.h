/* tests/training/tiny.h: a model of a few thousand weights on simulated clips of 4 frames of 16x16,
 * and runs of it. */
#ifndef KIN_TESTS_TRAINING_TINY_H
#define KIN_TESTS_TRAINING_TINY_H

#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/path.h"
#include "training/checkpoint.h"
#include "tests/support/folder.h"
#include "training/train.h"

#define TINY_MOE                                                        \
    "\"model\":\"promoe_tc\",\"MoE_config\":{\"num_routed_experts\":3," \
    "\"moe_intermediate_size\":16,\"shared_expert_intermediate_size\":16}"
#define TINY_DENSE "\"model\":\"dense\""
#define TINY_SIMULATE "\"simulate\":{\"seed\":5,\"count\":12}"

/* A train.json from its changing parts; `extra` are more members of the whole
 * ("\"batch_size\":2,"). */
static inline void tiny_write(const char *path, const char *ffn, const char *data,
                              const char *optimizer, const char *extra)
{
    FILE *fp = fopen(path, "w");
    assert_non_null(fp);
    fprintf(
        fp,
        "{\"transformer\":{\"_class_name\":\"KinemaTransformer3DModel\",%s,\"patch_size\":[2,8,8],"
        "\"num_attention_heads\":2,\"attention_head_dim\":16,\"text_dim\":16,\"text_len\":40,"
        "\"freq_dim\":48,\"ffn_dim\":32,\"num_layers\":2,\"phys_heads_per_class\":1,"
        "\"phys_head_dim\":4,\"phys_qk_norm\":\"layer_norm\",\"mopa_floor\":0,"
        "\"prediction_type\":\"sample\",\"sample_loss_floor\":0.3,\"pos_embed\":\"learned\","
        "\"sample_frames\":4,\"sample_height\":16,\"sample_width\":16,\"gate_start\":0.5},"
        "\"text_encoder\":{\"model_type\":\"t5\",\"d_model\":16,\"d_kv\":8,\"d_ff\":32,"
        "\"num_layers\":1,\"num_heads\":2,\"vocab_size\":80},"
        "\"tokenizer\":{\"vocab_size\":80,\"sentences\":100},\"seed\":3,%s"
        "\"data\":{%s,\"frames\":4,\"height\":16,\"width\":16,\"held_out\":3},"
        "\"optimizer\":{%s},\"objective\":{\"weighting_scheme\":\"mixed\",\"shift\":3}}",
        ffn, extra, data, optimizer);
    fclose(fp);
}

typedef struct tiny_run {
    kin_ctx *ctx;
    kin_train_options opt;
    char config[256], run[256];
    double last_loss, first_loss;
    int64_t reports;
} tiny_run;

static inline void tiny_report(void *user, const kin_train_report *r)
{
    tiny_run *t = user;
    if (t->reports++ == 0)
        t->first_loss = r->loss;
    t->last_loss = r->loss;
}

/* A context and paths below `dir`; run folder dir/NAME, configuration dir/NAME.json. */
static inline void tiny_open(tiny_run *t, const char *dir, const char *name, int threads)
{
    kin_error err = {0};
    const kin_ctx_options o = {.backend = KIN_BACKEND_CPU, .threads = threads};
    memset(t, 0, sizeof *t);
    assert_ok(kin_ctx_create(&o, &t->ctx, &err), &err);
    snprintf(t->run, sizeof t->run, "%s/%s", dir, name);
    snprintf(t->config, sizeof t->config, "%s/%s.json", dir, name);
    t->opt =
        (kin_train_options){.config = t->config, .run = t->run, .report = tiny_report, .user = t};
}

static inline void tiny_close(tiny_run *t)
{
    kin_ctx_destroy(&t->ctx);
}

static inline char *tiny_dir(void)
{
    static char dir[KIN_TEST_FOLDER_MAX];
    assert_int_equal(kin_test_folder_new(dir), 0);
    return dir;
}

static inline void tiny_remove(const char *dir)
{
    kin_error err;
    assert_ok(kin_path_remove_tree(dir, &err), &err);
}

/* note: inlined, gcc 12 takes the result for a pointer to the local */
__attribute__((noinline, unused)) static char *tiny_read(const char *dir, const char *name,
                                                         size_t *bytes)
{
    char path[KIN_PATH_MAX], *found = NULL;
    kin_error err;
    assert_ok(kin_path_join(path, dir, name, &err), &err);
    assert_ok(kin_file_read(path, 64 << 20, &found, bytes, &err), &err);
    return found;
}

/* True if two folders hold this file with the same bytes. */
static inline bool tiny_same(const char *a, const char *b, const char *name)
{
    size_t na, nb;
    char *da = tiny_read(a, name, &na), *db = tiny_read(b, name, &nb);
    bool same = na == nb && memcmp(da, db, na) == 0;
    kin_free(da);
    kin_free(db);
    return same;
}

static const char *const tiny_files[] = {"transformer/diffusion_pytorch_model.safetensors",
                                         "text_encoder/model.safetensors",
                                         "ema/transformer/diffusion_pytorch_model.safetensors",
                                         "ema/text_encoder/model.safetensors",
                                         "optimizer.safetensors",
                                         NULL};

/* Weights, averages and moments of two runs at one step are the same bytes. */
static inline bool tiny_same_checkpoint(const tiny_run *a, const tiny_run *b, int step)
{
    char da[320], db[320];
    snprintf(da, sizeof da, "%s/checkpoint-%d", a->run, step);
    snprintf(db, sizeof db, "%s/checkpoint-%d", b->run, step);
    for (int i = 0; tiny_files[i]; i++)
        if (!tiny_same(da, db, tiny_files[i]))
            return false;
    return true;
}

/* The log without the member "time" of each line. The caller's: kin_free. */
static inline char *tiny_log(const tiny_run *t)
{
    size_t n;
    char *text = tiny_read(t->run, "log.jsonl", &n), *to = text;
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = '\0';
        char *time = strstr(line, ",\"time\":{\"s\"");
        if (time)
            *time = '\0';
        size_t len = strlen(line);
        memmove(to, line, len);
        to += len;
        *to++ = '\n';
    }
    *to = '\0';
    return text;
}

#endif
