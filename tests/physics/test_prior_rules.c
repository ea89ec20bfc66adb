/* Priors from words: captions of our own grammar give their record's prior; free prompts give
 * sensible ones. */
#include "tests/support/support.h"

#include <string.h>

#include "physics/prior_rules.h"
#include "physics/simulate.h"

static void test_own_captions(void **state)
{
    (void)state;
    kin_sim_options o;
    int seen[KIN_SIM_MAX_KINDS] = {0};
    kin_sim_options_default(&o);
    for (int k = 0; k < kin_sim_kind_count(); k++)
        o.weights[k] = 1;
    o.fps_jitter = 0.05;
    for (uint64_t i = 0; i < 800; i++) {
        kin_sim_clip c;
        kin_physics_prior record, rules;
        kin_error err = {0};
        assert_ok(kin_simulate_clip(&o, 77, i, &c, &err), &err);
        assert_ok(kin_sim_prior(&c, &record, &err), &err);
        assert_ok(kin_prior_from_text(c.caption, c.truth.frames / c.truth.fps, &rules, &err), &err);
        for (int q = 0; q < KIN_PHYS_CATEGORIES; q++)
            if (record.prior[q] != rules.prior[q])
                fail_msg("\"%s\": %s is %g in the record, %g by the rules", c.caption,
                         kin_phys_phrase(q), (double)record.prior[q], (double)rules.prior[q]);
        for (int q = 0; q < KIN_PHYS_QUANTITIES; q++)
            if (record.quant[q] != rules.quant[q])
                fail_msg("\"%s\": quantity %d is %g in the record, %g by the rules", c.caption, q,
                         (double)record.quant[q], (double)rules.quant[q]);
        assert_string_equal(record.caption, rules.caption);
        seen[c.truth.kind]++;
        kin_physics_prior_free(&record);
        kin_physics_prior_free(&rules);
        kin_sim_clip_free(&c);
    }
    for (int k = 0; k < kin_sim_kind_count(); k++)
        assert_true(seen[k] > 50);
}

static void test_prompts(void **state)
{
    (void)state;
    static const struct {
        const char *prompt, *labels;
        float density[2]; /* of the first two objects */
    } t[] = {
        {"a steel ball falls and bounces on a wooden floor",
         "collision, rigid body motion, elastic motion",
         {7.85f, 0.6f}},
        {"A wooden block slides down a ramp.", "rigid body motion", {0.6f, 0}},
        {"two glass marbles collide", "collision, rigid body motion", {2.5f, 0}},
        {"milk is poured into a cup", "liquid motion", {1.03f, 0.95f}},
        {"an ice cube melts on a table", "melting", {0.917f, 0}},
        {"smoke rises from a campfire at night", "gas motion, combustion", {0.0012f, 0}},
        {"a laser beam is bent by a prism", "refraction, unnatural light source", {0, 0}},
        {"a portrait of a cat", "none", {0, 0}},
        {"", "none", {0, 0}},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        kin_physics_prior p;
        kin_error err = {0};
        char labels[256];
        assert_ok(kin_prior_from_text(t[i].prompt, 2, &p, &err), &err);
        kin_prior_describe(&p, labels, sizeof labels);
        if (strcmp(labels, t[i].labels) != 0)
            fail_msg("\"%s\": %s, not %s", t[i].prompt, labels, t[i].labels);
        if (p.quant[0] != t[i].density[0] || p.quant[2] != t[i].density[1])
            fail_msg("\"%s\": densities %g, %g", t[i].prompt, (double)p.quant[0],
                     (double)p.quant[2]);
        assert_true(strncmp(p.caption, t[i].prompt, p.caption_bytes) == 0);
        kin_physics_prior_free(&p);
    }
}

static void test_details(void **state)
{
    (void)state;
    kin_physics_prior p;
    kin_error err = {0};
    static const float zero[KIN_PHYS_CATEGORIES] = {0};
    /* nothing matches: every category stays 0; an empty prompt has no quantities either */
    assert_ok(kin_prior_from_text("a portrait of a cat", 2, &p, &err), &err);
    assert_memory_equal(p.prior, zero, sizeof p.prior);
    assert_true(p.quant[12] == 2 && p.quant[14] == 2 && p.quant[16] == 2.5f);
    kin_physics_prior_free(&p);
    assert_ok(kin_prior_from_text("", 2, &p, &err), &err);
    for (int i = 0; i < KIN_PHYS_QUANTITIES; i++)
        assert_true(p.quant[i] == 0);
    kin_physics_prior_free(&p);
    /* temperature and camera */
    assert_ok(kin_prior_from_text("the camera pans over boiling water", 5, &p, &err), &err);
    assert_true(p.prior[KIN_PHYS_CAMERA_YES] == 1 && p.prior[KIN_PHYS_CAMERA_NO] == 0);
    assert_true(p.prior[KIN_PHYS_VAPORIZATION] == 1 && p.prior[KIN_PHYS_LIQUIDS_APPEAR] == 1);
    assert_true(p.quant[0] == 0.998f && p.quant[14] == 9.5f && p.quant[15] == 1);
    kin_physics_prior_free(&p);
    assert_int_equal(kin_prior_from_text("a ball", 0, &p, &err), KIN_ERR_ARG);
    assert_true(kin_material_density("wooden") == 0.6 && kin_material_density("cat") == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_captions),
        cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_details),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
