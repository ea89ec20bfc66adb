/* Simulated clips: laws in closed form, drawing, determinism, records, hostile options, lack of
 * memory. */
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "physics/simulate.h"

enum { SEED = 20240 };

static kin_sim_clip make(const kin_sim_options *o, uint64_t seed, uint64_t index)
{
    kin_sim_clip c;
    kin_error err = {0};
    assert_ok(kin_simulate_clip(o, seed, index, &c, &err), &err);
    return c;
}

/* Must be the first to simulate: Chipmunk, as Debian builds it, greets once per process on stdout
 * and warns of resting contacts on stderr. */
static void test_prints_nothing(void **state)
{
    (void)state;
    kin_sim_options o;
    kin_sim_options_default(&o);
    FILE *file = tmpfile();
    assert_non_null(file);
    fflush(NULL);
    int out = dup(1), err = dup(2);
    assert_true(out >= 0 && err >= 0 && dup2(fileno(file), 1) == 1 && dup2(fileno(file), 2) == 2);
    for (int kind = 0; kind < kin_sim_kind_count(); kind++) {
        for (int i = 0; i < kin_sim_kind_count(); i++)
            o.weights[i] = i == kind;
        kin_sim_clip c = make(&o, SEED, 0);
        kin_sim_clip_free(&c);
    }
    fflush(NULL);
    assert_true(dup2(out, 1) == 1 && dup2(err, 2) == 2);
    close(out);
    close(err);
    assert_int_equal(lseek(fileno(file), 0, SEEK_END), 0);
    fclose(file);
}

/* Height of a fall with bounces at time t: rest height 0, up positive. */
static double bounce_height(double h, double g, double e, double t)
{
    double fall = sqrt(2 * h / g), v = g * fall;
    if (t <= fall)
        return h - g * t * t / 2;
    t -= fall;
    for (int k = 0; k < 1000 && v > 1e-9; k++) {
        v *= e;
        if (t <= 2 * v / g)
            return v * t - g * t * t / 2;
        t -= 2 * v / g;
    }
    return 0;
}

/* Closed form of object i's place at time t, from the constants of the truth and the first state
 * alone. */
static void closed_form(const kin_sim_truth *t, int i, double time, double out[2])
{
    const kin_motion *m = &t->motion;
    const kin_sim_state *s = &t->object[i].states[0];
    const char *kind = kin_sim_kind_name(t->kind);
    double g = t->gravity * t->px_per_m;
    out[0] = s->x;
    out[1] = s->y;
    if (strcmp(kind, "uniform") == 0) {
        out[0] += m->vx * time;
        out[1] += m->vy * time;
    } else if (strcmp(kind, "throw") == 0) {
        out[0] += m->vx * time;
        out[1] += m->vy * time + g * time * time / 2;
    } else if (strcmp(kind, "incline") == 0) {
        double factor = t->object[0].shape == KIN_SIM_BOX ? 1 : 5.0 / 7;
        double a = factor * g * sin(t->incline), side = m->ax < 0 ? -1 : 1;
        out[0] += side * a * cos(t->incline) * time * time / 2;
        out[1] += a * sin(t->incline) * time * time / 2;
    } else if (strcmp(kind, "drop") == 0 || strcmp(kind, "bounce") == 0) {
        double rest = t->floor_y - t->object[0].radius;
        out[1] = rest - bounce_height(rest - s->y, g, m->restitution, time);
    } else if (strcmp(kind, "spring") == 0) {
        double w = sqrt(t->spring_k / t->object[0].mass);
        double swing = hypot(m->vx, m->vy) / w * (s->ax < 0 || s->ay < 0 ? 1 : -1);
        out[m->vy > 0] += swing * (cos(w * time) - 1);
    } else { /* collision: momentum and restitution */
        double m1 = t->object[0].mass, m2 = t->object[1].mass, e = m->restitution;
        double gap = fabs(t->object[1].states[0].x - t->object[0].states[0].x) -
                     t->object[0].radius - t->object[1].radius;
        double hit = gap / fabs(m->vx), after = time > hit ? time - hit : 0;
        double v1 = (m1 - e * m2) / (m1 + m2) * m->vx, v2 = m1 * (1 + e) / (m1 + m2) * m->vx;
        out[0] += i == 0 ? m->vx * (time - after) + v1 * after : v2 * after;
    }
}

static void check_laws(const kin_sim_clip *c, const char *name)
{
    const kin_sim_truth *t = &c->truth;
    for (int i = 0; i < t->objects; i++) {
        double path = 1e-9, worst = 0;
        for (int f = 1; f < t->frames; f++) {
            const kin_sim_state *s = &t->object[i].states[f];
            double want[2];
            closed_form(t, i, f / t->fps, want);
            path = fmax(path, hypot(s->x - s[-f].x, s->y - s[-f].y));
            worst = fmax(worst, hypot(s->x - want[0], s->y - want[1]));
        }
        if (worst > 0.005 * path)
            fail_msg("%s (%s), object %d: %g px off the law on a path of %g px", name, c->caption,
                     i, worst, path);
    }
}

/* Velocities against central differences of the places, away from impacts. */
static void check_velocities(const kin_sim_clip *c)
{
    const kin_sim_truth *t = &c->truth;
    if (strcmp(kin_sim_kind_name(t->kind), "uniform") != 0 &&
        strcmp(kin_sim_kind_name(t->kind), "throw") != 0 &&
        strcmp(kin_sim_kind_name(t->kind), "incline") != 0)
        return;
    for (int f = 1; f + 1 < t->frames; f++) {
        const kin_sim_state *s = &t->object[0].states[f];
        double vx = (s[1].x - s[-1].x) / 2 * t->fps, vy = (s[1].y - s[-1].y) / 2 * t->fps;
        double scale = fmax(hypot(vx, vy), 1);
        if (hypot(s->vx - vx, s->vy - vy) > 0.005 * scale)
            fail_msg("%s: velocity (%g, %g), path says (%g, %g)", c->caption, s->vx, s->vy, vx, vy);
    }
}

static void check_inside(const kin_sim_clip *c)
{
    const kin_sim_truth *t = &c->truth;
    for (int i = 0; i < t->objects; i++)
        for (int f = 0; f < t->frames; f++) {
            const kin_sim_object *ob = &t->object[i];
            const kin_sim_state *s = &ob->states[f];
            double r = ob->radius *
                       (ob->shape == KIN_SIM_BOX ? fabs(cos(s->angle)) + fabs(sin(s->angle)) : 1);
            if (s->x < r || s->y < r || s->x > t->width - r || s->y > t->height - r)
                fail_msg("%s: object %d leaves the frame at %d", c->caption, i, f);
        }
}

/* Centre of the pixels near the object's colour, another way than the tracker's. */
static void check_centroid(const kin_sim_clip *c)
{
    const kin_sim_truth *t = &c->truth;
    for (int i = 0; i < t->objects; i++)
        for (int f = 0; f < t->frames; f++) {
            double sum = 0, sx = 0, sy = 0;
            for (int y = 0; y < t->height; y++)
                for (int x = 0; x < t->width; x++) {
                    const uint8_t *p = c->frames + 3 * ((f * t->height + y) * t->width + x);
                    double d = 0;
                    for (int k = 0; k < 3; k++)
                        d += pow(p[k] - t->object[i].rgb[k], 2);
                    double w = fmax(0, 1 - sqrt(d) / 50);
                    sum += w;
                    sx += w * (x + 0.5);
                    sy += w * (y + 0.5);
                }
            double off =
                hypot(sx / sum - t->object[i].states[f].x, sy / sum - t->object[i].states[f].y);
            if (!(off <= 0.5))
                fail_msg("%s: object %d drawn %g px off its truth at frame %d", c->caption, i, off,
                         f);
        }
}

static void check_options(const kin_sim_options *o, int count)
{
    for (int k = 0; k < kin_sim_kind_count(); k++) {
        kin_sim_options one = *o;
        kin_error err = {0};
        assert_ok(kin_sim_options_kinds(&one, kin_sim_kind_name(k), &err), &err);
        for (int i = 0; i < count; i++) {
            kin_sim_clip c = make(&one, SEED, (uint64_t)i);
            assert_int_equal(c.truth.kind, k);
            check_laws(&c, kin_sim_kind_name(k));
            check_velocities(&c);
            check_inside(&c);
            check_centroid(&c);
            kin_sim_clip_free(&c);
        }
    }
}

static void test_laws_default(void **state)
{
    (void)state;
    kin_sim_options o;
    kin_sim_options_default(&o);
    check_options(&o, 40);
}

static void test_laws_other_sizes(void **state)
{
    (void)state;
    kin_sim_options o;
    kin_sim_options_default(&o);
    o.width = 64;
    o.height = 48;
    o.frames = 33;
    o.fps = 16;
    o.fps_jitter = 0.2;
    check_options(&o, 6);
    o.width = 40;
    o.height = 56;
    o.frames = 5;
    o.fps = 3;
    o.radius_min = o.radius_max = 7.5;
    check_options(&o, 6);
}

/* The clip stays, its caption names every object's colour and the background, and nothing else. */
static void test_short_captions(void **state)
{
    (void)state;
    kin_sim_options o, full;
    kin_sim_options_default(&full);
    o = full;
    o.short_captions = 1;
    for (uint64_t i = 0; i < 40; i++) {
        kin_sim_clip a = make(&full, 9, i), b = make(&o, 9, i);
        assert_memory_equal(a.frames, b.frames, 16 * 32 * 32 * 3);
        for (int k = 0; k < b.truth.objects; k++)
            assert_non_null(strstr(b.caption, b.truth.object[k].colour));
        assert_non_null(strstr(b.caption, b.truth.background));
        assert_null(strstr(b.caption, "ward"));
        assert_null(strstr(b.caption, " the right"));
        assert_null(strstr(b.caption, "resting"));
        assert_true(strlen(b.caption) < strlen(a.caption));
        kin_sim_clip_free(&a);
        kin_sim_clip_free(&b);
    }
    o.short_captions = 1.5;
    assert_int_equal(kin_sim_options_check(&o, NULL), KIN_ERR_ARG);
}

static void test_same_clip_alone(void **state)
{
    (void)state;
    kin_sim_options o;
    kin_sim_options_default(&o);
    kin_sim_clip a = make(&o, 5, 17);
    for (uint64_t i = 0; i < 20; i++) {
        kin_sim_clip b = make(&o, 5, i);
        bool same = memcmp(a.frames, b.frames, 16 * 32 * 32 * 3) == 0;
        assert_int_equal(same, i == 17);
        if (i == 17)
            assert_string_equal(a.caption, b.caption);
        kin_sim_clip_free(&b);
    }
    kin_sim_clip other = make(&o, 6, 17);
    assert_true(memcmp(a.frames, other.frames, 16 * 32 * 32 * 3) != 0);
    kin_sim_clip_free(&other);
    kin_sim_clip_free(&a);
}

static void test_record_gives_prior(void **state)
{
    (void)state;
    static const char *const keys[] = {"video_id",
                                       "file",
                                       "captions",
                                       "width",
                                       "height",
                                       "fps",
                                       "duration",
                                       "label",
                                       "motion_score",
                                       "motion_score_v2",
                                       "text_bbox_num",
                                       "text_bbox_ratio",
                                       "visual_quality_score"};
    kin_sim_options o;
    kin_sim_options_default(&o);
    o.fps_jitter = 0.1;
    for (uint64_t i = 0; i < 200; i++) {
        kin_sim_clip c = make(&o, 3, i);
        kin_error err = {0};
        kin_physics_prior official, strict, flat;
        kin_annotation_options options = {.strict = true};
        kin_py_error py;
        cJSON *r = NULL;
        assert_ok(kin_sim_record_json(&c, "id", "clips/a.mp4", &r, &err), &err);
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
            assert_non_null(cJSON_GetObjectItemCaseSensitive(r, keys[k]));
        assert_ok(kin_annotation_official_training(r, &official, &err), &err);
        assert_ok(kin_annotation_read(r, &options, &strict, &err), &err);
        /* the free text alone, as an inference record */
        cJSON *text = cJSON_Duplicate(cJSON_GetObjectItem(r, "physical_annotation"), 1);
        cJSON_AddStringToObject(text, "en_caption", c.caption);
        assert_ok(kin_annotation_official(text, NULL, &flat, &py, &err), &err);
        assert_int_equal(py, KIN_PY_OK);
        assert_memory_equal(official.prior, strict.prior, sizeof official.prior);
        assert_memory_equal(official.prior, flat.prior, sizeof official.prior);
        assert_memory_equal(official.quant, strict.quant, sizeof official.quant);
        assert_memory_equal(official.quant, flat.quant, sizeof official.quant);
        assert_string_equal(official.caption, flat.caption);
        int label = kin_sim_kind_label(c.truth.kind);
        assert_true(official.prior[label] == 1 && official.prior[KIN_PHYS_LIQUID_MOTION] == 0);
        assert_true(official.prior[KIN_PHYS_CAMERA_NO] == 1 &&
                    official.prior[KIN_PHYS_SOLIDS_APPEAR] == 1 &&
                    official.prior[KIN_PHYS_NO_OPTICS] == 1);
        assert_true((double)official.quant[0] > 0.1 &&
                    (double)official.quant[0] == (double)(float)c.truth.object[0].density);
        cJSON_Delete(text);
        cJSON_Delete(r);
        kin_physics_prior_free(&official);
        kin_physics_prior_free(&strict);
        kin_physics_prior_free(&flat);
        kin_sim_clip_free(&c);
    }
}

static void test_truth_round_trip(void **state)
{
    (void)state;
    kin_sim_options o;
    kin_sim_options_default(&o);
    for (uint64_t i = 0; i < 20; i++) {
        kin_sim_clip c = make(&o, 4, i);
        kin_error err = {0};
        kin_sim_truth t;
        cJSON *json = NULL;
        char caption[KIN_SIM_CAPTION_MAX];
        assert_ok(kin_sim_truth_json(&c, &json, &err), &err);
        assert_ok(kin_sim_truth_read(json, &t, caption, &err), &err);
        assert_string_equal(caption, c.caption);
        assert_int_equal(t.kind, c.truth.kind);
        assert_int_equal(t.objects, c.truth.objects);
        assert_memory_equal(&t.motion.vx, &c.truth.motion.vx, sizeof t.motion.vx);
        for (int k = 0; k < t.objects; k++) {
            assert_memory_equal(t.object[k].states, c.truth.object[k].states,
                                (size_t)t.frames * sizeof(kin_sim_state));
            assert_string_equal(t.object[k].colour, c.truth.object[k].colour);
        }
        kin_sim_truth_free(&t);
        /* a missing frame is refused */
        cJSON *ob = cJSON_GetObjectItem(json, "objects")->child;
        cJSON_DeleteItemFromArray(cJSON_GetObjectItem(ob, "velocity_px_s"), 0);
        assert_int_equal(kin_sim_truth_read(json, &t, NULL, &err), KIN_ERR_FORMAT);
        assert_non_null(strstr(err.text, "velocity_px_s"));
        cJSON_Delete(json);
        kin_sim_clip_free(&c);
    }
}

static void test_options(void **state)
{
    (void)state;
    kin_sim_options o;
    kin_error err = {0};
    kin_sim_options_default(&o);
    assert_ok(kin_sim_options_kinds(&o, "drop, bounce:3", &err), &err);
    assert_true(o.weights[kin_sim_kind_find("bounce")] == 3 &&
                o.weights[kin_sim_kind_find("drop")] == 1 &&
                o.weights[kin_sim_kind_find("uniform")] == 0);
    assert_ok(kin_sim_options_kinds(&o, "Elastic Motion", &err), &err);
    assert_true(o.weights[kin_sim_kind_find("spring")] == 1 &&
                o.weights[kin_sim_kind_find("drop")] == 0);
    assert_int_equal(kin_sim_options_kinds(&o, "bounse", &err), KIN_ERR_ARG);
    assert_non_null(strstr(err.text, "bounce"));
    assert_int_equal(kin_sim_options_kinds(&o, "drop:x", &err), KIN_ERR_ARG);
    assert_int_equal(kin_sim_options_kinds(&o, "", &err), KIN_ERR_ARG);
    assert_int_equal(kin_sim_options_kinds(&o, "drop,", &err), KIN_ERR_ARG);
    for (int k = 0; k < 7; k++) {
        kin_sim_clip c;
        kin_sim_options_default(&o);
        switch (k) {
        case 0: o.width = 8; break;
        case 1: o.frames = 1; break;
        case 2: o.fps = NAN; break;
        case 3: o.radius_max = 9; break;
        case 4: o.radius_min = 7; break;
        case 5: o.gradient_share = -1; break;
        default: memset(o.weights, 0, sizeof o.weights); break;
        }
        assert_int_equal(kin_simulate_clip(&o, 1, 1, &c, &err), KIN_ERR_ARG);
        assert_null(c.frames);
    }
}

static void test_out_of_memory(void **state)
{
    (void)state;
    kin_sim_options o;
    kin_sim_options_default(&o);
    int refused = 0;
    for (uint64_t k = 1; k < 20; k++) {
        kin_sim_clip c;
        kin_error err = {0};
        kin_alloc_fail_at(k);
        kin_status status = kin_simulate_clip(&o, 1, 2, &c, &err);
        kin_alloc_fail_at(0);
        if (status == KIN_OK) {
            kin_sim_clip_free(&c);
            break;
        }
        assert_int_equal(status, KIN_ERR_MEM);
        refused++;
    }
    assert_true(refused >= 2); /* states, frames */
}

static void test_speed(void **state)
{
    (void)state;
    kin_sim_options o;
    kin_sim_options_default(&o);
    clock_t start = clock();
    for (uint64_t i = 0; i < 100; i++) {
        kin_sim_clip c = make(&o, 9, i);
        kin_sim_clip_free(&c);
    }
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    if (seconds > 2) /* 50 clips/s on one core */
        fail_msg("100 clips took %g s of one core", seconds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prints_nothing),   cmocka_unit_test(test_laws_default),
        cmocka_unit_test(test_laws_other_sizes), cmocka_unit_test(test_short_captions),
        cmocka_unit_test(test_same_clip_alone),  cmocka_unit_test(test_record_gives_prior),
        cmocka_unit_test(test_truth_round_trip), cmocka_unit_test(test_options),
        cmocka_unit_test(test_out_of_memory),    cmocka_unit_test(test_speed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
