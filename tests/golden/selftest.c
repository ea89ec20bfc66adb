/* tests/golden/selftest.c: the runner has to find planted errors. Copies of good cases get one
 * wrong value, a wrong shape, a missing or an extra tensor, another kind; each copy must fail, the
 * untouched copy must pass. argv[1]: the program golden, whose exit status is checked too. */
#include "tests/support/folder.h"
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "io/safetensors.h"
#include "tests/golden/golden.h"

enum { MAX_TENSORS = 512 };

static const char *golden_program;
static char folder[KIN_TEST_FOLDER_MAX];
static kin_ctx *ctx;

/* A case in memory, to be changed and written. */
typedef struct copy {
    kin_safetensors *file;
    int64_t n;
    const char *names[MAX_TENSORS];
    kin_tensor tensors[MAX_TENSORS];
    const char *metadata[9];
    char path[256];
} copy;

static void copy_load(copy *c, const char *name)
{
    char path[512];
    kin_error err = {0};
    *c = (copy){0};
    snprintf(path, sizeof path, "%s/%s", KIN_GOLDEN_CASES, name);
    assert_ok(kin_safetensors_open(path, &c->file, &err), &err);
    c->n = kin_safetensors_count(c->file);
    assert_true(c->n <= MAX_TENSORS - 1);
    for (int64_t i = 0; i < c->n; i++) {
        kin_tensor t;
        c->names[i] = kin_safetensors_at(c->file, i)->name;
        assert_ok(kin_safetensors_tensor(c->file, i, &t, &err), &err);
        c->tensors[i] = t;
        size_t bytes = (size_t)kin_tensor_numel(&t) * kin_dtype_size(t.dtype);
        c->tensors[i].data = kin_malloc(bytes);
        assert_non_null(c->tensors[i].data);
        memcpy(c->tensors[i].data, t.data, bytes);
    }
    c->metadata[0] = "kind";
    c->metadata[1] = kin_safetensors_metadata(c->file, "kind");
    c->metadata[2] = "config";
    c->metadata[3] = kin_safetensors_metadata(c->file, "config");
    snprintf(c->path, sizeof c->path, "%s/copy.safetensors", folder);
}

static void copy_free(copy *c)
{
    for (int64_t i = 0; i < c->n; i++)
        kin_free(c->tensors[i].data);
    kin_safetensors_close(&c->file);
    unlink(c->path);
}

static kin_tensor *copy_find(copy *c, const char *name)
{
    for (int64_t i = 0; i < c->n; i++)
        if (strcmp(c->names[i], name) == 0)
            return &c->tensors[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static void copy_write(const copy *c)
{
    kin_error err = {0};
    assert_ok(kin_safetensors_write(c->path, c->names, c->tensors, NULL, c->n, c->metadata, &err),
              &err);
}

static bool passes(const copy *c)
{
    kin_golden_case k;
    copy_write(c);
    kin_golden_open(&k, ctx, c->path);
    kin_golden_run(&k);
    bool ok = !k.failed;
    if (!ok)
        print_message("  found: %s\n", k.why);
    kin_golden_close(&k);
    return ok;
}

/* Adds `step` times the largest entry to element i of a tensor; the case must then fail. */
static void plant(copy *c, const char *name, int64_t i, double step)
{
    kin_tensor *t = copy_find(c, name);
    double most = 0.0, old = kin_tensor_get(t, i);
    for (int64_t j = 0; j < kin_tensor_numel(t); j++)
        most = fmax(most, fabs(kin_tensor_get(t, j)));
    kin_tensor_set(t, i, old + step * most);
    assert_false(passes(c));
    kin_tensor_set(t, i, old);
}

static void planted_errors_fail(void **state)
{
    (void)state;
    copy c;
    copy_load(&c, "text/t5_relu.safetensors");
    assert_true(passes(&c));
    plant(&c, "out.last_hidden_state", 7, 3e-5);
    plant(&c, "out.last_hidden_state", kin_tensor_numel(copy_find(&c, "out.last_hidden_state")) - 1,
          -3e-5);
    plant(&c, "out.hidden.1", 100, 3e-5);
    plant(&c, "out.last_hidden_state", 0, (double)NAN);
    plant(&c, "grad.shared.weight", 40, 3e-4);
    plant(&c, "grad.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 3, 3e-4);
    plant(&c, "w.encoder.block.1.layer.0.SelfAttention.k.weight", 5, 0.1);
    plant(&c, "in.input_ids", 2, 0.5);
    assert_true(passes(&c));
    copy_free(&c);
}

static void integers_must_be_equal(void **state)
{
    (void)state;
    copy c;
    copy_load(&c, "text/t5_relu.safetensors");
    kin_tensor bucket = *copy_find(&c, "out.bucket");
    kin_tensor_set(&bucket, 4, kin_tensor_get(&bucket, 4) + 1.0);
    assert_false(passes(&c));
    copy_free(&c);
}

static void shapes_and_names_count(void **state)
{
    (void)state;
    copy c;
    copy_load(&c, "text/t5_relu.safetensors");
    /* the same numbers in another shape */
    kin_tensor *t = copy_find(&c, "out.last_hidden_state"), old = *t;
    *t = KIN_RESHAPE(&old, old.size[0] * old.size[1], old.size[2]);
    assert_false(passes(&c));
    *t = old;
    /* a result that nobody computes */
    c.names[c.n] = "out.hidden.99";
    c.tensors[c.n] = old;
    c.n++;
    assert_false(passes(&c));
    c.names[c.n - 1] = "grad.nobody";
    assert_false(passes(&c));
    /* a weight that nobody takes */
    c.names[c.n - 1] = "w.nobody";
    assert_false(passes(&c));
    c.n--;
    assert_true(passes(&c));
    /* a missing input: the last tensor goes */
    for (int64_t i = 0; i < c.n; i++) {
        if (strcmp(c.names[i], "w.shared.weight") == 0) {
            c.names[i] = "w.renamed";
            assert_false(passes(&c));
            c.names[i] = "w.shared.weight";
        }
    }
    c.metadata[1] = "no_such_kind";
    assert_false(passes(&c));
    copy_free(&c);
}

static void schedules_and_densities_are_compared(void **state)
{
    (void)state;
    copy c;
    copy_load(&c, "samplers/fme_shift3.safetensors");
    assert_true(passes(&c));
    plant(&c, "out.sigmas", 4, 1e-4);
    plant(&c, "out.x.8", 3, 1e-4);
    plant(&c, "in.table.0", 3, 1e-2);
    copy_free(&c);
    copy_load(&c, "samplers/density_mode.safetensors");
    assert_true(passes(&c));
    plant(&c, "out.u", 200, 3e-5);
    copy_free(&c);
}

static int run_program(const char *path)
{
    char command[1200];
    snprintf(command, sizeof command, "'%s' '%s' > '%s/output' 2>&1", golden_program, path, folder);
    int rc = system(command);
    return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

static void program_exits_accordingly(void **state)
{
    (void)state;
    copy c;
    char line[2000] = "";
    copy_load(&c, "text/t5_relu.safetensors");
    copy_write(&c);
    assert_int_equal(run_program(c.path), 0);
    kin_tensor *t = copy_find(&c, "out.last_hidden_state");
    kin_tensor_set(t, 1, kin_tensor_get(t, 1) + 1e-3);
    copy_write(&c);
    assert_int_equal(run_program(c.path), 1);
    char output[300];
    snprintf(output, sizeof output, "%s/output", folder);
    FILE *fp = fopen(output, "r");
    assert_non_null(fp);
    assert_non_null(fgets(line, sizeof line, fp));
    fclose(fp);
    assert_memory_equal(line, "FAIL", 4);
    assert_non_null(strstr(line, "t5_encoder"));
    assert_non_null(strstr(line, "out.last_hidden_state"));
    assert_int_equal(run_program("/nowhere/at_all.safetensors"), 1);
    unlink(output);
    copy_free(&c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(planted_errors_fail),
        cmocka_unit_test(integers_must_be_equal),
        cmocka_unit_test(shapes_and_names_count),
        cmocka_unit_test(schedules_and_densities_are_compared),
        cmocka_unit_test(program_exits_accordingly),
    };
    kin_error err = {0};
    golden_program = argc > 1 ? argv[1] : NULL;
    if (!golden_program || kin_test_folder_new(folder) ||
        kin_ctx_create(&(kin_ctx_options){.backend = KIN_BACKEND_CPU}, &ctx, &err) != KIN_OK) {
        fprintf(stderr, "usage: test_golden_selftest GOLDEN  %s\n", err.text);
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    kin_ctx_destroy(&ctx);
    rmdir(folder);
    return failed;
}
