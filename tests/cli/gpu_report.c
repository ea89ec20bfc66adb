/* gpu_report FILE: checks the report of scripts/gpu-check --dry-run: every step went well, and the
 * parts that docs/gpu.md promises are there. Exit status 1 and a line for what is not. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"

static int bad;

static void expect(bool holds, const char *what, const char *where)
{
    if (holds)
        return;
    fprintf(stderr, "gpu_report: %s%s%s\n", where ? where : "", where ? ": " : "", what);
    bad = 1;
}

static const cJSON *part(const cJSON *o, const char *key, cJSON_bool (*is)(const cJSON *))
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
    expect(v && is(v), "is missing or of another type", key);
    return v;
}

static void check_steps(const cJSON *report)
{
    static const char *const names[] = {"build",
                                        "device",
                                        "kernels",
                                        "golden",
                                        "same_bits",
                                        "same_steps",
                                        "bench",
                                        "promoe_xl_training",
                                        "promoe_xl_sampling",
                                        "wan_1_3b"};
    const cJSON *steps = part(report, "steps", cJSON_IsArray), *step;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        bool ran = false;
        cJSON_ArrayForEach(step, steps)
        {
            const char *name = cJSON_GetStringValue(part(step, "step", cJSON_IsString));
            if (!name || strcmp(name, names[i]) != 0)
                continue;
            ran = true;
            expect(part(step, "exit", cJSON_IsNumber)->valuedouble == 0, "failed", name);
            part(step, "seconds", cJSON_IsNumber);
        }
        expect(ran, "did not run", names[i]);
    }
}

/* The rows of the table of bars. What needs the device's own peak has no value here. */
static void check_bars(const cJSON *report)
{
    static const char *const works[] = {"MoE layer",
                                        "grouped experts forward against",
                                        "grouped experts forward and backward",
                                        "ProMoE-XL training",
                                        "ProMoE-XL sampling",
                                        "Wan2.1-1.3B"};
    const cJSON *bars = part(report, "bars", cJSON_IsArray), *bar;
    for (size_t i = 0; i < sizeof works / sizeof *works; i++) {
        bool found = false;
        cJSON_ArrayForEach(bar, bars)
        {
            const char *work = cJSON_GetStringValue(part(bar, "work", cJSON_IsString));
            const char *unit = cJSON_GetStringValue(part(bar, "unit", cJSON_IsString));
            const cJSON *value = cJSON_GetObjectItemCaseSensitive(bar, "value");
            if (!work || !unit || strncmp(work, works[i], strlen(works[i])) != 0)
                continue;
            found = true;
            const bool share_of_device = strcmp(unit, "mfu") == 0;
            expect(share_of_device ? cJSON_IsNull(value)
                                   : cJSON_IsNumber(value) && value->valuedouble > 0,
                   "has no fit value", work);
            expect(part(bar, "bar", cJSON_IsNumber)->valuedouble > 0, "has no bar", work);
            part(bar, "at_most", cJSON_IsBool);
            part(bar, "holds", cJSON_IsNull); /* a dry run judges nothing */
        }
        expect(found, "has no bar in the report", works[i]);
    }
}

static void check_models(const cJSON *report)
{
    static const char *const names[] = {"promoe_xl_training", "promoe_xl_sampling", "wan_1_3b"};
    const cJSON *models = part(report, "models", cJSON_IsObject);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const cJSON *m = part(models, names[i], cJSON_IsObject);
        part(m, "device", cJSON_IsObject);
        part(m, "peaks", cJSON_IsObject);
        expect(cJSON_GetArraySize(part(m, "ops", cJSON_IsArray)) > 5, "few ops", names[i]);
        expect(part(m, "gflop", cJSON_IsNumber)->valuedouble > 0, "no work", names[i]);
        part(part(m, "memory", cJSON_IsObject), "device_used", cJSON_IsNumber);
        expect(part(m, "played", cJSON_IsNumber)->valuedouble > 0, "nothing recorded", names[i]);
    }
}

/* Recordings were played and kept the bits. */
static void check_same(const cJSON *report)
{
    static const char *const names[] = {"sampling", "training"};
    const cJSON *same = part(report, "same", cJSON_IsObject), *row;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        double played = 0;
        cJSON_ArrayForEach(row, part(same, names[i], cJSON_IsArray))
        {
            expect(cJSON_IsTrue(part(row, "same_bits", cJSON_IsBool)), "other bits", names[i]);
            played += part(row, "played", cJSON_IsNumber)->valuedouble;
        }
        expect(played > 0, "no recording was played", names[i]);
    }
}

int main(int argc, char **argv)
{
    kin_error err = {0};
    cJSON *report = NULL;
    if (argc != 2) {
        fprintf(stderr, "usage: gpu_report FILE\n");
        return 2;
    }
    if (kin_json_read(argv[1], 1 << 22, KIN_JSON_STRICT, &report, &err) != KIN_OK) {
        fprintf(stderr, "gpu_report: %s\n", err.text);
        return 1;
    }
    part(report, "date", cJSON_IsString);
    part(report, "commit", cJSON_IsString);
    part(report, "device", cJSON_IsString);
    expect(cJSON_IsTrue(part(report, "dry_run", cJSON_IsBool)), "is no dry run", argv[1]);
    part(part(report, "subset", cJSON_IsObject), "kernels", cJSON_IsString);
    part(part(report, "subset", cJSON_IsObject), "golden", cJSON_IsString);
    const cJSON *rows = part(part(report, "bench", cJSON_IsObject), "rows", cJSON_IsArray);
    expect(cJSON_GetArraySize(rows) > 20, "few rows", "bench");
    check_steps(report);
    check_bars(report);
    check_models(report);
    check_same(report);
    cJSON_Delete(report);
    return bad;
}
