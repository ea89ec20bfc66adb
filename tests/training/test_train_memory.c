/* tests/training/test_train_memory.c: the planned peak of a run against what the process really
 * took. A program of its own, so that nothing else is in the figure. */
#include "tests/training/tiny.h"

static double peak_mb(void)
{
    char line[256];
    double kb = 0;
    FILE *fp = fopen("/proc/self/status", "r");
    assert_non_null(fp);
    while (fgets(line, sizeof line, fp))
        if (sscanf(line, "VmHWM: %lf", &kb) == 1)
            break;
    fclose(fp);
    return kb * 1024 / 1e6;
}

static void write_config(const char *path, const char *checkpointing)
{
    FILE *fp = fopen(path, "w");
    assert_non_null(fp);
    fprintf(
        fp,
        "{\"transformer\":{\"_class_name\":\"KinemaTransformer3DModel\",\"model\":\"promoe_tc\","
        "\"patch_size\":[2,4,4],\"num_attention_heads\":2,\"attention_head_dim\":32,"
        "\"text_dim\":16,\"text_len\":40,\"freq_dim\":48,\"ffn_dim\":256,\"num_layers\":4,"
        "\"phys_heads_per_class\":1,\"phys_head_dim\":4,\"phys_qk_norm\":\"layer_norm\","
        "\"mopa_floor\":0,\"MoE_config\":{\"num_routed_experts\":4}},"
        "\"text_encoder\":{\"model_type\":\"t5\",\"d_model\":16,\"d_kv\":8,\"d_ff\":32,"
        "\"num_layers\":1,\"num_heads\":2,\"vocab_size\":80},"
        "\"tokenizer\":{\"vocab_size\":80,\"sentences\":100},\"steps\":3,\"batch_size\":24,"
        "%s\"data\":{\"simulate\":{\"count\":200},\"frames\":8}}",
        checkpointing);
    fclose(fp);
}

static void the_plan_is_within_a_twentieth(void **state)
{
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    print_message("the sanitizer's own memory would be counted\n");
    skip();
#endif
    char *dir = tiny_dir();
    tiny_run t;
    tiny_open(&t, dir, "memory", 2);
    write_config(t.config, "");
    t.opt.dry_run = true;
    assert_ok(kin_train_run(t.ctx, &t.opt), &t.ctx->error);
    const double planned = (double)t.opt.peak_bytes / 1e6;
    assert_false(kin_path_exists(t.run)); /* a dry run leaves nothing */
    /* recomputation of blocks must show in the plan */
    write_config(t.config, "\"checkpointing\":true,");
    assert_ok(kin_train_run(t.ctx, &t.opt), &t.ctx->error);
    assert_true((double)t.opt.peak_bytes / 1e6 < 0.9 * planned);
    write_config(t.config, "");
    t.opt.dry_run = false;
    assert_ok(kin_train_run(t.ctx, &t.opt), &t.ctx->error);
    const double real = peak_mb();
    print_message("planned %.1f MB, taken %.1f MB\n", planned, real);
#ifndef KIN_SANITIZED /* the sanitizer's own memory counts there */
    if (!(fabs(planned - real) < 0.05 * real))
        fail_msg("planned %.1f MB, taken %.1f MB", planned, real);
#endif
    tiny_close(&t);
    tiny_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_plan_is_within_a_twentieth)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
