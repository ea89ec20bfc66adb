/* The judge: exact on simulated clips, and not to be fooled by broken ones. */
#include "tests/support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "physics/evaluate.h"

enum { SIDE = 32, FRAMES = 16, FRAME_BYTES = SIDE * SIDE * 3 };

static kin_sim_clip make(const char *kinds, uint64_t seed, uint64_t index)
{
    kin_sim_options o;
    kin_sim_clip c;
    kin_error err = {0};
    kin_sim_options_default(&o);
    if (kinds)
        assert_ok(kin_sim_options_kinds(&o, kinds, &err), &err);
    assert_ok(kin_simulate_clip(&o, seed, index, &c, &err), &err);
    return c;
}

static kin_verdict judge(const kin_sim_clip *c)
{
    kin_asked a;
    kin_verdict v;
    kin_error err = {0};
    kin_asked_from_truth(&c->truth, &a);
    assert_ok(
        kin_judge_clip(c->frames, c->truth.frames, c->truth.height, c->truth.width, &a, &v, &err),
        &err);
    return v;
}

/* Every real clip passes; errors of 99 % of the clips and of the median stay below their bounds. */
static void check_kind(const char *kind, int count)
{
    kin_evaluation *e = NULL;
    kin_error err = {0};
    cJSON *report = NULL;
    int above = 0;
    assert_ok(kin_evaluation_create(&e, &err), &err);
    for (int i = 0; i < count; i++) {
        kin_sim_clip c = make(kind, 31, (uint64_t)i);
        kin_verdict v = judge(&c);
        if (!v.colour || !v.intact || !v.direction || (strcmp(kind, "bounce") == 0) != v.bounced)
            fail_msg("%s %d (%s): colour %d, intact %d, direction %d, bounced %d", kind, i,
                     c.caption, v.colour, v.intact, v.direction, v.bounced);
        above += v.velocity_error > 0.05 || v.acceleration_error > 0.05 ||
                 v.restitution_error > 0.05 || v.period_error > 0.05;
        assert_ok(kin_evaluation_add_verdict(e, c.truth.kind, &v, &err), &err);
        kin_sim_clip_free(&c);
    }
    if (above > count / 50)
        fail_msg("%s: %d of %d clips are off by more than 5 %%", kind, above, count);
    assert_ok(kin_evaluation_report(e, &report, &err), &err);
    const cJSON *b = cJSON_GetObjectItem(cJSON_GetObjectItem(report, "kinds"), kind), *m;
    assert_non_null(b);
    assert_true(cJSON_GetObjectItem(b, "intact_share")->valuedouble == 1);
    cJSON_ArrayForEach(m, b) if (strstr(m->string, "_median") && cJSON_IsNumber(m))
    {
        if (m->valuedouble > 0.01)
            fail_msg("%s: %s %g is above 1 %%", kind, m->string, m->valuedouble);
    }
    cJSON_Delete(report);
    kin_evaluation_destroy(e);
}

static void test_real_clips(void **state)
{
    (void)state;
    for (int k = 0; k < kin_sim_kind_count(); k++)
        check_kind(kin_sim_kind_name(k), 60);
}

static uint8_t *frame(const kin_sim_clip *c, int f)
{
    return c->frames + f * FRAME_BYTES;
}

/* Paints the object's pixels of a column range with the background beside it. */
static void erase(const kin_sim_clip *c, int f, int x0, int x1)
{
    const kin_sim_state *s = &c->truth.object[0].states[f];
    int r = (int)ceil(c->truth.object[0].radius) + 2;
    int far = s->x > SIDE / 2.0 ? 0 : SIDE - 1;
    for (int y = (int)s->y - r; y <= (int)s->y + r; y++)
        for (int x = x0; x < x1; x++)
            if (x >= 0 && y >= 0 && x < SIDE && y < SIDE)
                memcpy(frame(c, f) + 3 * (y * SIDE + x), frame(c, f) + 3 * (y * SIDE + far), 3);
}

static kin_sim_clip uniform_clip(uint64_t index)
{
    kin_sim_clip c = make("uniform", 8, index);
    kin_verdict v = judge(&c);
    assert_true(v.intact && v.colour && v.direction && v.velocity_error < 0.02);
    return c;
}

static void test_split_object(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 10; i++) {
        kin_sim_clip c = uniform_clip(i);
        int x = (int)c.truth.object[0].states[7].x;
        erase(&c, 7, x - 1, x + 2);
        kin_verdict v = judge(&c);
        assert_false(v.intact);
        assert_true(v.colour);
        kin_sim_clip_free(&c);
    }
}

/* A second, small piece of the asked colour far from the whole object. */
static void test_fragment(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 10; i++) {
        kin_sim_clip c = uniform_clip(i);
        const kin_sim_object *ob = &c.truth.object[0];
        int x0 = ob->states[3].x > SIDE / 2.0 ? 1 : SIDE - 4;
        int y0 = ob->states[3].y > SIDE / 2.0 ? 1 : SIDE - 4;
        for (int k = 0; k < 9; k++)
            memcpy(frame(&c, 3) + 3 * ((y0 + k / 3) * SIDE + x0 + k % 3), ob->rgb, 3);
        kin_verdict v = judge(&c);
        assert_true(!v.intact && v.colour && v.direction && v.velocity_error < 0.05);
        kin_sim_clip_free(&c);
    }
}

static void test_half_object(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 10; i++) {
        kin_sim_clip c = uniform_clip(i);
        int x = (int)c.truth.object[0].states[4].x;
        erase(&c, 4, x, x + 20);
        assert_false(judge(&c).intact);
        kin_sim_clip_free(&c);
    }
}

static void test_missing_frame(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 10; i++) {
        kin_sim_clip c = uniform_clip(i);
        int x = (int)c.truth.object[0].states[9].x;
        erase(&c, 9, x - 12, x + 12);
        kin_verdict v = judge(&c);
        assert_false(v.intact);
        assert_true(v.colour && v.direction);
        kin_sim_clip_free(&c);
    }
}

static void test_wrong_colour(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 30; i++) {
        kin_sim_clip c = uniform_clip(i), other = {0};
        /* a clip of another colour, judged by this one's truth */
        uint64_t k = 100;
        do {
            kin_sim_clip_free(&other);
            other = make("uniform", 8, k++);
        } while (strcmp(other.truth.object[0].colour, c.truth.object[0].colour) == 0);
        kin_asked a;
        kin_verdict v;
        kin_error err = {0};
        kin_asked_from_truth(&c.truth, &a);
        assert_ok(kin_judge_clip(other.frames, FRAMES, SIDE, SIDE, &a, &v, &err), &err);
        if (v.colour || v.intact || v.direction)
            fail_msg("%s taken for: %s", other.caption, c.caption);
        assert_true(v.velocity_error == 1);
        kin_sim_clip_free(&other);
        kin_sim_clip_free(&c);
    }
}

static void test_static_object(void **state)
{
    (void)state;
    for (int k = 0; k < kin_sim_kind_count(); k++)
        for (uint64_t i = 0; i < 5; i++) {
            kin_sim_clip c = make(kin_sim_kind_name(k), 8, i);
            for (int f = 1; f < FRAMES; f++)
                memcpy(frame(&c, f), frame(&c, 0), FRAME_BYTES);
            kin_verdict v = judge(&c);
            assert_true(v.colour);
            if (v.direction || v.bounced || !(v.velocity_error >= 0.9))
                fail_msg("%s, at rest: direction %d, velocity error %g", c.caption, v.direction,
                         v.velocity_error);
            kin_sim_clip_free(&c);
        }
}

/* A film shown backwards moves the other way. */
static void test_reversed(void **state)
{
    (void)state;
    uint8_t *copy = malloc(FRAMES * FRAME_BYTES);
    assert_non_null(copy);
    for (uint64_t i = 0; i < 10; i++) {
        kin_sim_clip c = make(i < 5 ? "uniform" : "throw", 8, i);
        memcpy(copy, c.frames, FRAMES * FRAME_BYTES);
        for (int f = 0; f < FRAMES; f++)
            memcpy(frame(&c, f), copy + (FRAMES - 1 - f) * FRAME_BYTES, FRAME_BYTES);
        kin_verdict v = judge(&c);
        assert_true(v.intact && !v.direction && v.velocity_error > 0.2);
        kin_sim_clip_free(&c);
    }
    free(copy);
}

static void test_blank_and_noise(void **state)
{
    (void)state;
    kin_sim_clip c = uniform_clip(0);
    uint32_t x = 1;
    memset(c.frames, 127, FRAMES * FRAME_BYTES);
    kin_verdict v = judge(&c);
    assert_true(!v.colour && !v.intact && !v.direction && v.velocity_error == 1);
    for (int i = 0; i < FRAMES * FRAME_BYTES; i++) {
        x = x * 1664525u + 1013904223u;
        c.frames[i] = (uint8_t)(x >> 24);
    }
    v = judge(&c);
    assert_true(!v.intact && !v.direction);
    kin_sim_clip_free(&c);
}

/* A drop instead of the bounce that was asked for. */
static void test_no_bounce(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 10; i++) {
        kin_sim_clip c = make("drop", 8, i);
        kin_asked a;
        kin_verdict v;
        kin_error err = {0};
        kin_asked_from_truth(&c.truth, &a);
        a.kind = kin_sim_kind_find("bounce");
        a.motion.restitution = 0.8;
        assert_ok(kin_judge_clip(c.frames, FRAMES, SIDE, SIDE, &a, &v, &err), &err);
        assert_true(v.direction && !v.bounced && v.restitution_error > 0.5);
        kin_sim_clip_free(&c);
    }
}

/* Colours that a decoder or a model has shifted a little are still found. */
static void test_slightly_noisy(void **state)
{
    (void)state;
    uint32_t x = 7;
    int intact = 0;
    double worst = 0;
    for (uint64_t i = 0; i < 20; i++) {
        kin_sim_clip c = uniform_clip(i);
        for (int k = 0; k < FRAMES * FRAME_BYTES; k++) {
            x = x * 1664525u + 1013904223u;
            int v = c.frames[k] + (int)(x >> 24) % 21 - 10;
            c.frames[k] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
        }
        kin_verdict v = judge(&c);
        intact += v.intact;
        worst = fmax(worst, v.velocity_error);
        kin_sim_clip_free(&c);
    }
    assert_true(intact >= 19);
    assert_true(worst < 0.1);
}

static void test_caption_parse(void **state)
{
    (void)state;
    kin_sim_options o;
    kin_asked a, t;
    kin_error err = {0};
    kin_sim_options_default(&o);
    for (uint64_t i = 0; i < 400; i++) {
        kin_sim_clip c;
        assert_ok(kin_simulate_clip(&o, 12, i, &c, &err), &err);
        assert_ok(kin_caption_parse(c.caption, &o, &a, &err), &err);
        kin_asked_from_truth(&c.truth, &t);
        bool same = a.kind == t.kind && a.objects == t.objects &&
                    strcmp(a.background, t.background) == 0 &&
                    hypot(a.direction[0] - t.direction[0], a.direction[1] - t.direction[1]) < 1e-9;
        for (int k = 0; k < t.objects && same; k++)
            same = strcmp(a.object[k].colour, t.object[k].colour) == 0 &&
                   a.object[k].shape == t.object[k].shape &&
                   a.object[k].radius_min <= c.truth.object[k].radius &&
                   a.object[k].radius_max >= c.truth.object[k].radius;
        const double got[] = {a.motion.vx, a.motion.vy,     a.motion.ax,
                              a.motion.ay, a.motion.period, a.motion.restitution};
        const double want[] = {t.motion.vx, t.motion.vy,     t.motion.ax,
                               t.motion.ay, t.motion.period, t.motion.restitution};
        for (size_t k = 0; k < sizeof got / sizeof *got; k++)
            same = same && (isnan(got[k]) || fabs(got[k] - want[k]) <= 1e-6 * fabs(want[k]) + 1e-9);
        if (!same)
            fail_msg("\"%s\" is not understood as it was made", c.caption);
        kin_sim_clip_free(&c);
    }
    assert_ok(kin_caption_parse("A red ball moves quickly to the right.", &o, &a, &err), &err);
    assert_true(a.kind == kin_sim_kind_find("uniform") && a.direction[0] == 1 && a.motion.vx > 5);
    assert_int_equal(kin_caption_parse("a cat sleeps", &o, &a, &err), KIN_ERR_ARG);
}

static void test_evaluation_counts(void **state)
{
    (void)state;
    kin_evaluation *e = NULL;
    kin_error err = {0};
    cJSON *report = NULL;
    assert_ok(kin_evaluation_create(&e, &err), &err);
    for (int i = 0; i < 8; i++) {
        kin_verdict v = {.colour = i < 6,
                         .intact = i < 4,
                         .direction = i < 2,
                         .bounced = i == 7,
                         .velocity_error = i == 3 ? NAN : i / 10.0,
                         .acceleration_error = NAN,
                         .restitution_error = NAN,
                         .period_error = NAN};
        int kind = kin_sim_kind_find(i < 4 ? "uniform" : "bounce");
        assert_ok(kin_evaluation_add_verdict(e, kind, &v, &err), &err);
    }
    assert_true(kin_evaluation_colour_share(e) == 0.75 && kin_evaluation_intact_share(e) == 0.5);
    assert_ok(kin_evaluation_report(e, &report, &err), &err);
    const cJSON *t = cJSON_GetObjectItem(report, "total");
    const cJSON *kinds = cJSON_GetObjectItem(report, "kinds");
    const cJSON *u = cJSON_GetObjectItem(kinds, "uniform");
    const cJSON *b = cJSON_GetObjectItem(kinds, "bounce");
    assert_int_equal(cJSON_GetArraySize(kinds), 2);
    assert_true(cJSON_GetObjectItem(report, "clips")->valuedouble == 8);
    assert_true(cJSON_GetObjectItem(t, "direction_share")->valuedouble == 0.25);
    assert_true(fabs(cJSON_GetObjectItem(t, "velocity_error_median")->valuedouble - 0.4) < 1e-12);
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(t, "acceleration_error_median")));
    assert_true(cJSON_GetObjectItem(u, "intact_share")->valuedouble == 1);
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(u, "bounce_share")));
    assert_true(cJSON_GetObjectItem(b, "bounce_share")->valuedouble == 0.25);
    assert_true(cJSON_GetObjectItem(b, "clips")->valuedouble == 4);
    cJSON_Delete(report);
    kin_evaluation_destroy(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_clips),        cmocka_unit_test(test_split_object),
        cmocka_unit_test(test_fragment),          cmocka_unit_test(test_half_object),
        cmocka_unit_test(test_missing_frame),     cmocka_unit_test(test_wrong_colour),
        cmocka_unit_test(test_static_object),     cmocka_unit_test(test_reversed),
        cmocka_unit_test(test_blank_and_noise),   cmocka_unit_test(test_no_bounce),
        cmocka_unit_test(test_slightly_noisy),    cmocka_unit_test(test_caption_parse),
        cmocka_unit_test(test_evaluation_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
