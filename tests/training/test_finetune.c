/* tests/training/test_finetune.c: published video models fine-tuned the WISA way: tiny Wan and
 * CogVideoX directories with random weights, real and simulated clips. Children run with one
 * thread, so that the parent never owns an OpenMP team when it forks. */
#include "tests/training/tiny.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "diffusion/finetune.h"
#include "diffusion/vae_model.h"
#include "io/safetensors.h"
#include "training/clips.h"
#include "training/config.h"

static char *dir;

/* --- bases --- */

static const char wan[] =
    "{\"_class_name\":\"WanTransformer3DModel\",\"patch_size\":[1,2,2],\"num_attention_heads\":2,"
    "\"attention_head_dim\":12,\"in_channels\":3,\"out_channels\":3,\"text_dim\":16,"
    "\"freq_dim\":32,\"ffn_dim\":32,\"num_layers\":2,\"rope_max_seq_len\":32}";
static const char wan_vae[] =
    "{\"_class_name\":\"AutoencoderKLWan\",\"base_dim\":6,\"z_dim\":3,\"dim_mult\":[1,2,2],"
    "\"num_res_blocks\":1,\"temperal_downsample\":[true,true],\"latents_mean\":[0.2,-0.4,0.1],"
    "\"latents_std\":[0.9,1.3,0.7]}";
static const char cog[] =
    "{\"_class_name\":\"CogVideoXTransformer3DModel\",\"num_attention_heads\":2,"
    "\"attention_head_dim\":16,\"in_channels\":3,\"out_channels\":3,\"time_embed_dim\":20,"
    "\"text_embed_dim\":16,\"num_layers\":2,\"sample_width\":8,\"sample_height\":8,"
    "\"sample_frames\":9,\"max_text_seq_length\":40,\"use_rotary_positional_embeddings\":true}";
static const char cog_vae[] =
    "{\"_class_name\":\"AutoencoderKLCogVideoX\",\"block_out_channels\":[8,12,12],"
    "\"latent_channels\":3,\"layers_per_block\":1,\"norm_num_groups\":4,\"scaling_factor\":0.7}";
static const char cog_scheduler[] =
    "{\"_class_name\":\"CogVideoXDDIMScheduler\",\"beta_start\":0.00085,\"beta_end\":0.012,"
    "\"beta_schedule\":\"scaled_linear\",\"prediction_type\":\"v_prediction\","
    "\"rescale_betas_zero_snr\":true,\"snr_shift_scale\":1.0,\"timestep_spacing\":\"trailing\"}";
static const char flow_scheduler[] =
    "{\"_class_name\":\"FlowMatchEulerDiscreteScheduler\",\"shift\":3.0}";
static const char text[] =
    "{\"model_type\":\"t5\",\"d_model\":16,\"d_kv\":8,\"d_ff\":32,\"num_layers\":1,"
    "\"num_heads\":2,\"vocab_size\":80}";

static cJSON *parse(const char *json)
{
    cJSON *out = NULL;
    kin_error err = {0};
    assert_ok(kin_json_parse(json, strlen(json), KIN_JSON_STRICT, &out, &err), &err);
    return out;
}

/* Adds vae/ to the pipeline and writes the directory. */
static void save_base(kin_ctx *ctx, kin_pipeline *p, const char *vae, const char *folder)
{
    cJSON *config = parse(vae);
    const char *const pair[] = {"diffusers",
                                cJSON_GetObjectItem(config, "_class_name")->valuestring};
    assert_ok(kin_vae_model_create(ctx, config, 11, &p->vae), &ctx->error);
    cJSON_ReplaceItemInObjectCaseSensitive(p->index, "vae", cJSON_CreateStringArray(pair, 2));
    assert_ok(kin_pipeline_save(p, folder, KIN_DTYPE_F32, NULL, NULL, &ctx->error), &ctx->error);
    cJSON_Delete(config);
}

/* A directory in the diffusers layout with random weights. */
static void make_base(const char *name, const char *transformer, const char *vae,
                      const char *scheduler)
{
    static const char *const words[] = {"a red ball falls and bounces", "two balls collide",
                                        "the physical law is gravity", "a box slides to the left"};
    const kin_ctx_options o = {.backend = KIN_BACKEND_CPU, .threads = 1};
    cJSON *j[3] = {parse(transformer), parse(text), parse(scheduler)};
    char folder[KIN_PATH_MAX];
    kin_error err = {0};
    kin_pipeline *p;
    kin_ctx *ctx;
    void *spiece;
    size_t bytes;
    assert_ok(kin_ctx_create(&o, &ctx, &err), &err);
    assert_ok(kin_tokenizer_train_type("bpe", words, 4, 60, false, &spiece, &bytes, &err), &err);
    assert_ok(kin_pipeline_create(ctx, j[0], j[1], spiece, bytes, j[2], 7, &p), &ctx->error);
    /* note: what starts at zero would keep a random base from showing anything */
    for (int i = 0; i < p->params->count; i++) {
        kin_param *w = p->params->list[i];
        if (w->init.kind == KIN_INIT_ZERO && w->value.ndim == 2) {
            w->init = KIN_INIT(KIN_INIT_XAVIER, 1);
            kin_param_init(w, 7);
        }
    }
    assert_ok(kin_path_join(folder, dir, name, &err), &err);
    save_base(ctx, p, vae, folder);
    kin_pipeline_destroy(&p);
    kin_ctx_destroy(&ctx);
    kin_free(spiece);
    for (int i = 0; i < 3; i++)
        cJSON_Delete(j[i]);
}

static int make_dir(void **state)
{
    (void)state;
    dir = tiny_dir();
    make_base("wan", wan, wan_vae, flow_scheduler);
    make_base("cog", cog, cog_vae, cog_scheduler);
    return 0;
}

static int drop_dir(void **state)
{
    (void)state;
    tiny_remove(dir);
    return 0;
}

/* --- runs --- */

#define LORA "\"lora\":{\"rank\":3,\"alpha\":6},"
#define SIMULATED "\"simulate\":{\"seed\":5,\"count\":6},\"frames\":9,\"height\":32,\"width\":32"

/* dir/NAME.json that fine-tunes dir/BASE. */
static void write_config(const char *name, const char *base, int steps, const char *extra,
                         const char *data)
{
    char path[KIN_PATH_MAX];
    snprintf(path, sizeof path, "%s/%s.json", dir, name);
    FILE *fp = fopen(path, "w");
    assert_non_null(fp);
    fprintf(fp,
            "{\"init_from\":\"%s\",\"steps\":%d,\"batch_size\":2,\"seed\":3,\"log_every\":1,%s"
            "\"data\":{%s},\"optimizer\":{\"lr\":0.003,\"warmup_steps\":5}}",
            base, steps, extra, data);
    fclose(fp);
}

static void run_to(tiny_run *t, int64_t stop_at, bool resume)
{
    t->opt.resume = resume;
    t->opt.stop_at = stop_at;
    const kin_status status = kin_train_run(t->ctx, &t->opt);
    if (stop_at > 0)
        assert_int_equal(status, KIN_ERR_INTERRUPTED);
    else
        assert_ok(status, &t->ctx->error);
}

/* Mean of a number over some of the log's lines that have it, from number `first` on. */
static double mean_of(const tiny_run *t, const char *key, int first, int lines)
{
    char *log = tiny_log(t), mark[32];
    const char *at = log;
    double sum = 0;
    snprintf(mark, sizeof mark, "\"%s\":", key);
    for (int i = 0; i < first + lines; i++) {
        at = strstr(at, mark);
        assert_non_null(at);
        at += strlen(mark);
        if (i >= first)
            sum += strtod(at, NULL) / lines;
    }
    kin_free(log);
    return sum;
}

static bool same_files(const tiny_run *a, const tiny_run *b, int step, const char *const *files)
{
    char da[320], db[320];
    snprintf(da, sizeof da, "%s/checkpoint-%d", a->run, step);
    snprintf(db, sizeof db, "%s/checkpoint-%d", b->run, step);
    for (int i = 0; files[i]; i++)
        if (!tiny_same(da, db, files[i]))
            return false;
    return true;
}

static const char *const adapted[] = {"pytorch_lora_weights.safetensors",
                                      "phys_weights.safetensors", "optimizer.safetensors", NULL};

/* The tiny Wan of the golden set where it is, on real and simulated clips where they are. */
static void wisa_config(const char *name)
{
    const char *golden = kin_test_golden_dir(), *real = kin_test_data_dir();
    char base[KIN_PATH_MAX], data[2 * KIN_PATH_MAX] = "";
    snprintf(base, sizeof base, "%s/wan", dir);
    if (golden)
        snprintf(base, sizeof base, "%s/video/wan_tiny", golden);
    if (real)
        snprintf(data, sizeof data, "\"path\":\"%s/wisa/wisa.json\",", real);
    snprintf(data + strlen(data), sizeof data - strlen(data),
             "\"simulate\":{\"seed\":5,\"count\":12},\"frames\":9,\"height\":32,\"width\":32,"
             "\"held_out\":2,\"caption_prefix\":\"PIKA_CRUSH \"");
    write_config(name, base, 50, LORA "\"validation\":{\"every\":25},", data);
}

static void losses_fall_and_resume_is_exact(void **state)
{
    tiny_run whole, parts;
    (void)state;
    wisa_config("whole");
    wisa_config("parts");
    tiny_open(&whole, dir, "whole", 2);
    tiny_open(&parts, dir, "parts", 1);
    run_to(&whole, 0, false);
    assert_true(mean_of(&whole, "loss", 38, 12) < 0.9 * mean_of(&whole, "loss", 0, 8));
    run_to(&parts, 25, false);
    run_to(&parts, 0, true);
    assert_true(same_files(&whole, &parts, 50, adapted));
    char *a = tiny_log(&whole), *b = tiny_log(&parts);
    assert_string_equal(a, b);
    kin_free(a);
    kin_free(b);
    tiny_close(&whole);
    tiny_close(&parts);
}

/* A physics token that starts blind learns what the set shows. */
static void the_classifier_learns(void **state)
{
    tiny_run t;
    char base[KIN_PATH_MAX];
    (void)state;
    snprintf(base, sizeof base, "%s/wan", dir);
    write_config("classifier", base, 60, "\"train\":\"phys\",", SIMULATED);
    tiny_open(&t, dir, "classifier", 1);
    run_to(&t, 0, false);
    print_message("bce %g %g\n", mean_of(&t, "bce", 0, 5), mean_of(&t, "bce", 50, 10));
    assert_true(mean_of(&t, "bce", 50, 10) < 0.5 * mean_of(&t, "bce", 0, 5));
    tiny_close(&t);
}

/* The file that peft and diffusers read: pairs of f32 factors of every matrix that was named. */
static void check_lora(const char *path, const char *stem, int64_t pairs)
{
    kin_safetensors *st;
    kin_error err = {0};
    assert_ok(kin_safetensors_open(path, &st, &err), &err);
    assert_int_equal(kin_safetensors_count(st), 2 * pairs);
    for (int64_t i = 0; i < 2 * pairs; i++) {
        const char *name = kin_safetensors_at(st, i)->name;
        const bool down = strstr(name, ".lora_A.weight") != NULL;
        kin_tensor t;
        assert_int_equal(strncmp(name, stem, strlen(stem)), 0);
        assert_true(down || strstr(name, ".lora_B.weight"));
        assert_ok(kin_safetensors_tensor(st, i, &t, &err), &err);
        assert_int_equal(t.size[down ? 0 : 1], 3);
        double moved = 0;
        for (int64_t k = 0; k < kin_tensor_numel(&t); k++)
            moved += fabs(kin_tensor_get(&t, k));
        assert_true(moved > 0);
    }
    kin_safetensors_close(&st);
}

static void both_families_write_what_generate_reads(void **state)
{
    static const char *const bases[] = {"wan", "cog"};
    static const char *const stems[] = {"transformer.blocks.", "transformer.transformer_blocks."};
    const int64_t pairs[] = {16, 8};
    (void)state;
    for (int i = 0; i < 2; i++) {
        char name[32], base[KIN_PATH_MAX], path[KIN_PATH_MAX], phys[KIN_PATH_MAX];
        kin_pipeline *p;
        tiny_run t;
        snprintf(name, sizeof name, "lora_%s", bases[i]);
        snprintf(base, sizeof base, "%s/%s", dir, bases[i]);
        write_config(name, base, 6, LORA, SIMULATED);
        tiny_open(&t, dir, name, 1);
        run_to(&t, 0, false);
        snprintf(path, sizeof path, "%s/checkpoint-6/pytorch_lora_weights.safetensors", t.run);
        snprintf(phys, sizeof phys, "%s/checkpoint-6/phys_weights.safetensors", t.run);
        check_lora(path, stems[i], pairs[i]);
        const kin_load_options load = {.phys_weights = phys};
        assert_ok(kin_pipeline_load_with(t.ctx, base, &load, &p), &t.ctx->error);
        assert_int_equal(kin_model_get_info(p->model)->phys_blocks, 1);
        assert_ok(kin_pipeline_add_lora(p, path, 2.0), &t.ctx->error);
        kin_pipeline_destroy(&p);
        tiny_close(&t);
    }
}

static void all_weights_train_and_resume(void **state)
{
    static const char *const files[] = {"transformer/diffusion_pytorch_model.safetensors",
                                        "optimizer.safetensors", NULL};
    char base[KIN_PATH_MAX], folder[KIN_PATH_MAX];
    tiny_run whole, parts;
    kin_pipeline *p;
    (void)state;
    snprintf(base, sizeof base, "%s/wan", dir);
    write_config("full", base, 8, "\"train\":\"full+phys\",", SIMULATED);
    write_config("full2", base, 8, "\"train\":\"full+phys\",", SIMULATED);
    tiny_open(&whole, dir, "full", 1);
    tiny_open(&parts, dir, "full2", 1);
    run_to(&whole, 0, false);
    run_to(&parts, 3, false);
    run_to(&parts, 0, true);
    assert_true(same_files(&whole, &parts, 8, files));
    snprintf(folder, sizeof folder, "%s/checkpoint-8", whole.run);
    assert_ok(kin_pipeline_load(whole.ctx, folder, &p), &whole.ctx->error);
    assert_non_null(p->text);
    assert_non_null(p->vae);
    kin_pipeline_destroy(&p);
    tiny_close(&whole);
    tiny_close(&parts);
}

/* Block recomputation with a frozen base changes nothing. */
static void checkpointing_changes_nothing(void **state)
{
    char base[KIN_PATH_MAX];
    tiny_run a, b;
    (void)state;
    snprintf(base, sizeof base, "%s/wan", dir);
    write_config("keep", base, 5, LORA "\"checkpointing\":false,", SIMULATED);
    write_config("again", base, 5, LORA "\"checkpointing\":true,", SIMULATED);
    tiny_open(&a, dir, "keep", 1);
    tiny_open(&b, dir, "again", 1);
    run_to(&a, 0, false);
    run_to(&b, 0, false);
    assert_true(same_files(&a, &b, 5, adapted));
    tiny_close(&a);
    tiny_close(&b);
}

/* --- kill -9 --- */

static void wait_ms(long ms)
{
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static bool exists(const char *run, const char *name)
{
    char path[KIN_PATH_MAX];
    return kin_path_join(path, run, name, NULL) == KIN_OK && kin_path_exists(path);
}

/* Runs dir/NAME.json in a child, which is killed once run/NAME holds `mark`. */
static void kill_at(const char *name, bool resume, const char *mark)
{
    char run[KIN_PATH_MAX];
    int status;
    snprintf(run, sizeof run, "%s/%s", dir, name);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        tiny_run t;
        tiny_open(&t, dir, name, 1);
        t.opt.resume = resume;
        _exit(kin_train_run(t.ctx, &t.opt) == KIN_OK ? 0 : 1);
    }
    for (int tries = 0; !exists(run, mark) && tries < 10000; tries++)
        wait_ms(1);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(exists(run, mark));
}

static void killed_while_encoding_or_training_it_goes_on(void **state)
{
    char base[KIN_PATH_MAX];
    tiny_run t, whole;
    (void)state;
    snprintf(base, sizeof base, "%s/wan", dir);
    write_config("killed", base, 40, LORA "\"checkpoint\":{\"every\":1},", SIMULATED);
    write_config("quiet", base, 40, LORA "\"checkpoint\":{\"every\":1},", SIMULATED);
    kill_at("killed", false, "encoded/text");
    kill_at("killed", false, "encoded/latents");
    kill_at("killed", false, "checkpoint-2");
    kill_at("killed", true, "checkpoint-5");
    tiny_open(&t, dir, "killed", 1);
    tiny_open(&whole, dir, "quiet", 1);
    run_to(&t, 0, exists(t.run, "latest"));
    run_to(&whole, 0, false);
    assert_true(same_files(&whole, &t, 40, adapted));
    tiny_close(&t);
    tiny_close(&whole);
}

/* --- the cache --- */

static void the_cache_is_kept_by_content(void **state)
{
    char base[KIN_PATH_MAX], out[KIN_PATH_MAX], key[17];
    kin_train_config c;
    kin_clips *clips;
    tiny_run t;
    (void)state;
    snprintf(base, sizeof base, "%s/wan", dir);
    snprintf(out, sizeof out, "%s/cache", dir);
    write_config("cache", base, 5, LORA, SIMULATED);
    tiny_open(&t, dir, "cache", 1);
    assert_ok(kin_train_config_read(t.config, NULL, &c, &t.ctx->error), &t.ctx->error);
    kin_clips_options o = {.data = &c, .model = base, .out = out};
    kin_error err = {0};
    assert_ok(kin_clips_make(t.ctx, &o, &err), &err);
    assert_int_equal(o.made, 12);
    assert_ok(kin_clips_make(t.ctx, &o, &err), &err);
    assert_int_equal(o.made, 0);
    assert_int_equal(o.kept, 12);
    assert_ok(kin_clips_open(out, &clips, &err), &err);
    const kin_clips_info *info = kin_clips_get_info(clips);
    assert_int_equal(info->count, 6);
    assert_int_equal(info->frames, 3);
    assert_int_equal(info->height, 8);
    assert_non_null(info->mean);
    snprintf(key, sizeof key, "%016llx", (unsigned long long)info->key);
    kin_clips_close(&clips);
    /* another size: the texts stay, the clips are made */
    c.data.height = 16;
    c.data.sim.height = 16;
    assert_ok(kin_clips_make(t.ctx, &o, &err), &err);
    assert_int_equal(o.made, 6);
    /* a set that is not there to be encoded any more trains from the cache */
    t.opt.data = out;
    run_to(&t, 0, false);
    kin_train_config_free(&c);
    tiny_close(&t);
}

static void bad_configurations_are_named(void **state)
{
    static const struct {
        const char *extra, *data, *names;
    } bad[] = {
        {"\"train\":\"all\",", SIMULATED, "train"},
        {"\"lora\":{\"rank\":3,\"alpha\":6,\"target_modules\":\"nothing\"},", SIMULATED, "nothing"},
        {"\"samples\":{\"every\":5},", SIMULATED, "samples.every"},
        {"\"objective\":{\"condition_dropout\":0.1},", SIMULATED, "condition_dropout"},
        {LORA, "\"simulate\":{\"count\":4},\"frames\":6,\"height\":32,\"width\":32", "frames 6"},
        {LORA, "\"simulate\":{\"count\":4},\"frames\":5,\"height\":30,\"width\":32", "height 30"},
        {LORA, "\"simulate\":{},\"frames\":5,\"height\":32,\"width\":32", "count"},
    };
    char base[KIN_PATH_MAX], name[32];
    (void)state;
    snprintf(base, sizeof base, "%s/wan", dir);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tiny_run t;
        snprintf(name, sizeof name, "bad%zu", i);
        write_config(name, base, 5, bad[i].extra, bad[i].data);
        tiny_open(&t, dir, name, 1);
        assert_int_not_equal(kin_train_run(t.ctx, &t.opt), KIN_OK);
        if (!strstr(t.ctx->error.text, bad[i].names))
            fail_msg("%s: %s", bad[i].names, t.ctx->error.text);
        tiny_close(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_while_encoding_or_training_it_goes_on),
        cmocka_unit_test(the_classifier_learns),
        cmocka_unit_test(both_families_write_what_generate_reads),
        cmocka_unit_test(all_weights_train_and_resume),
        cmocka_unit_test(checkpointing_changes_nothing),
        cmocka_unit_test(the_cache_is_kept_by_content),
        cmocka_unit_test(bad_configurations_are_named),
        cmocka_unit_test(losses_fall_and_resume_is_exact),
    };
    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
