/* Every slot of the kernel table, on every backend and ISA level this machine has, against the
 * reference. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/device.h"
#include "tests/tensor/rig.h"

typedef struct body {
    const char *name;
    void (*run)(rig *r);
} body;

static const body bodies[] = {
    {"linear", kernels_linear},
    {"linear backward", kernels_linear_bwd},
    {"linear rows", kernels_linear_rows},
    {"grouped", kernels_grouped},
    {"grouped rows", kernels_grouped_rows},
    {"grouped trained", kernels_grouped_trained},
    {"combine", kernels_combine},
    {"conv", kernels_conv},
    {"conv rows", kernels_conv_rows},
    {"groupnorm", kernels_groupnorm},
    {"posterior", kernels_posterior},
    {"norm", kernels_norm},
    {"norm rows", kernels_norm_rows},
    {"attention", kernels_attention},
    {"attention rows", kernels_attention_rows},
    {"rope", kernels_rope},
    {"embedding", kernels_embedding},
    {"patch", kernels_patch},
    {"sinusoid", kernels_sinusoid},
    {"cosine", kernels_cosine},
    {"topk", kernels_topk},
    {"choose", kernels_choose},
    {"dispatch", kernels_dispatch},
    {"rcl", kernels_rcl},
    {"balance", kernels_balance},
    {"binary", kernels_binary},
    {"reduce", kernels_reduce},
    {"unary", kernels_unary},
    {"gate", kernels_gate},
    {"softmax", kernels_softmax},
    {"copy", kernels_copy},
    {"transpose", kernels_transpose},
    {"loss", kernels_loss},
    {"optim", kernels_optim},
    {"randn", kernels_randn},
};
enum { BODIES = sizeof(bodies) / sizeof(bodies[0]), RIGS = 10, TESTS = RIGS * (BODIES + 1) };

typedef struct test {
    rig *r;
    const body *b;
    char name[96];
} test;

static rig rigs[RIGS];
static test tests[TESTS];
static struct CMUnitTest list[TESTS];

/* True for bodies that ask for the same bits where a library may give others. */
static bool bits_are_free(const test *t)
{
    const kin_device *d = t->r->ctx[1]->device;
    const bool conv = strcmp(t->b->name, "conv rows") == 0;
    return (d && d->library && (conv || strcmp(t->b->name, "linear rows") == 0)) ||
           (rig_has_cudnn(t->r) && (conv || strcmp(t->b->name, "attention rows") == 0));
}

/* Where cuDNN is there, the slots that it has a graph for must have used it. */
static void check_cudnn(const test *t)
{
    static const struct {
        const char *body;
        size_t slot;
        bool f32;
    } covered[] = {
        {"attention", offsetof(kin_kernels, attention), false},
        {"attention", offsetof(kin_kernels, attention_bwd), false},
        {"conv", offsetof(kin_kernels, conv), true},
        {"conv", offsetof(kin_kernels, conv_dx), true},
        {"conv", offsetof(kin_kernels, conv_dw), true},
    };
    for (size_t i = 0; i < sizeof(covered) / sizeof(covered[0]) && rig_has_cudnn(t->r); i++) {
        if (strcmp(t->b->name, covered[i].body) != 0 || (!covered[i].f32 && !rig_is_bf16(t->r)))
            continue;
        const size_t slot = covered[i].slot / sizeof(void *);
        print_message("slot %zu: %u of %u calls by cuDNN\n", slot, t->r->by_cudnn[slot],
                      t->r->ran[slot]);
        assert_true(t->r->by_cudnn[slot] > 0);
    }
}

static void run_body(void **state)
{
    const test *t = *state;
    int before = t->r->cases;
    if (bits_are_free(t)) {
        print_message("a library does the products: rows may depend on their number\n");
        skip();
    }
    t->b->run(t->r);
    assert_true(t->r->cases > before);
    check_cudnn(t);
}

/* A slot that no case reached is a slot without a test. */
static void every_slot_ran(void **state)
{
    const test *t = *state;
    int missing = 0;
    for (size_t i = 0; i < RIG_SLOTS; i++) {
        if (t->r->ran[i] == 0) {
            print_error("slot %zu of kin_kernels was never run\n", i);
            missing++;
        }
    }
    print_message("%s: %d cases over %d slots\n", t->r->name, t->r->cases, (int)RIG_SLOTS);
    assert_int_equal(missing, 0);
}

/* Every slot of every table is filled. */
static void tables_are_full(void **state)
{
    kin_kernels tables[3];
    void *slots[RIG_SLOTS];
    (void)state;
    memset(tables, 0, sizeof(tables));
    kin_kernels_init_ref(&tables[0]);
    kin_kernels_init_plan(&tables[1]);
    kin_kernels_init_ref(&tables[2]);
    kin_kernels_init_cpu(&tables[2], kin_isa_detect());
    for (int t = 0; t < 3; t++) {
        memcpy(slots, &tables[t], sizeof(slots));
        for (size_t i = 0; i < RIG_SLOTS; i++) {
            if (!slots[i])
                fail_msg("table %d has no kernel in slot %zu", t, i);
        }
    }
}

static void add(int *n, rig *r, const body *b, CMUnitTestFunction fn, const char *what)
{
    test *t = &tests[*n];
    *t = (test){.r = r, .b = b};
    snprintf(t->name, sizeof(t->name), "%.40s: %.40s", r->name, what);
    list[(*n)++] = (struct CMUnitTest){.name = t->name, .test_func = fn, .initial_state = t};
}

int main(int argc, char **argv)
{
#ifdef KIN_TEST_CUDA
    setenv("KINEMA_CUDA_DETERMINISTIC", "0", 0); /* every slot that cuDNN has */
#endif
    int n = 0, count, failed;
    (void)kin_test_seed();
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
#ifdef KIN_TEST_CUDA
    char why[200];
    if (kin_cuda_count(why, sizeof why) == 0) {
        printf("no CUDA device: %s\n", why);
        return 77;
    }
    count = rig_open_cuda(rigs, RIGS);
#else
    count = rig_open_all(rigs, RIGS);
#endif
    for (int i = 0; i < count; i++) {
        for (int b = 0; b < BODIES; b++)
            add(&n, &rigs[i], &bodies[b], run_body, bodies[b].name);
        add(&n, &rigs[i], NULL, every_slot_ran, "every slot ran");
    }
    const struct CMUnitTest tables[] = {cmocka_unit_test(tables_are_full)};
    failed = cmocka_run_group_tests_name("tables", tables, NULL, NULL);
    failed += _cmocka_run_group_tests("kernels", list, (size_t)n, NULL, NULL);
    for (int i = 0; i < count; i++)
        rig_close(&rigs[i]);
    return failed;
}
