/* cli/plot.c: `kinema plot RUN`: the curves of a training run, from its log.jsonl and from reports
 * of `kinema evaluate --suite physics` kept beside it as physics-STEP.json. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "cli/chart.h"
#include "cli/common.h"

enum { REPORT_MAX = 16 << 20 };

static bool add(kin_chart *c, const char *title, const char *name, double x, double y)
{
    kin_series *s = kin_chart_series(c, title, name);
    return s && kin_series_add(s, x, y);
}

/* ---- log.jsonl ---- */

/* The panel of a number of a log line, NULL: none. */
static const char *panel_of(const char *key)
{
    static const struct {
        const char *key, *title;
    } known[] = {{"loss", "loss"},
                 {"val", "loss"},
                 {"val_shuffled", "loss"},
                 {"accuracy", "accuracy"},
                 {"val_accuracy", "accuracy"},
                 {"lr", "learning rate"},
                 {"grad_norm", "norm of the gradient"},
                 {"step", NULL},
                 {"samples", NULL},
                 {"total", NULL},
                 {"phase", NULL}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(key, known[i].key) == 0)
            return known[i].title;
    return "parts of the loss";
}

/* Shares of one layer; the last is the unconditional expert's, of all tokens. */
static bool add_experts(kin_chart *c, double x, const cJSON *layer)
{
    char title[96], name[32];
    const int n = cJSON_GetArraySize(layer);
    int i = 0;
    snprintf(title, sizeof title, "expert load, block %s", layer->string);
    for (const cJSON *v = layer->child; v; v = v->next, i++) {
        const bool last = i == n - 1;
        snprintf(name, sizeof name, last ? "unconditional" : "%d", i);
        kin_series *s = kin_chart_series(c, title, name);
        if (!s || !cJSON_IsNumber(v) || !kin_series_add(s, x, v->valuedouble))
            return s && !cJSON_IsNumber(v);
        s->dashed = last;
    }
    for (int k = 0; k < c->n; k++)
        if (strcmp(c->panel[k].title, title) == 0)
            c->panel[k].stacked = true;
    return true;
}

/* "time" is of the machine and "time_mlp", "quantity_mlp" of no curve's interest. */
static bool add_object(kin_chart *c, double x, const cJSON *object)
{
    const bool experts = strcmp(object->string, "experts") == 0;
    const bool levels = strcmp(object->string, "val_at") == 0;
    char name[64];
    for (const cJSON *v = object->child; v && (experts || levels); v = v->next) {
        snprintf(name, sizeof name, "at %s", v->string);
        if (experts && cJSON_IsArray(v) && !add_experts(c, x, v))
            return false;
        if (levels && cJSON_IsNumber(v) && !add(c, "validation by noise", name, x, v->valuedouble))
            return false;
    }
    return true;
}

static bool add_line(kin_chart *c, const cJSON *line)
{
    /* a log of several phases, one after the other, counts its steps in "total" */
    const cJSON *total = cJSON_GetObjectItemCaseSensitive(line, "total");
    const cJSON *step = cJSON_GetObjectItemCaseSensitive(line, "step");
    const cJSON *at = cJSON_IsNumber(total) ? total : step;
    bool ok = true;
    if (!cJSON_IsNumber(at))
        return true;
    for (const cJSON *v = line->child; v && ok; v = v->next) {
        const char *title = cJSON_IsNumber(v) ? panel_of(v->string) : NULL;
        if (title)
            ok = add(c, title, v->string, at->valuedouble, v->valuedouble);
        else if (cJSON_IsObject(v))
            ok = add_object(c, at->valuedouble, v);
    }
    return ok;
}

/* note: the last line of a run that goes on may be unfinished; it is left out */
static kin_status read_log(kin_chart *c, const char *path, kin_error *err)
{
    FILE *fp = fopen(path, "r");
    char *text = NULL;
    size_t room = 0;
    ssize_t n;
    kin_status status = KIN_OK;
    if (!fp)
        return kin_fail(err, KIN_ERR_FORMAT, "plot: %s: %s", path, strerror(errno));
    for (int64_t number = 1; (n = getline(&text, &room, fp)) > 0; number++) {
        cJSON *line = NULL;
        if (text[n - 1] != '\n')
            break;
        if (kin_json_parse(text, (size_t)n, KIN_JSON_STRICT, &line, err) != KIN_OK)
            KIN_GOTO(kin_fail_prefix(err, "plot: %s line %lld", path, (long long)number));
        const bool ok = add_line(c, line);
        cJSON_Delete(line);
        if (!ok)
            KIN_GOTO(kin_fail(err, KIN_ERR_MEM, "plot: out of memory"));
    }
    if (ferror(fp))
        status = kin_fail(err, KIN_ERR_IO, "plot: %s: %s", path, strerror(errno));
done:
    free(text);
    fclose(fp);
    return status;
}

/* ---- physics-STEP.json ---- */

static int is_report(const struct dirent *e)
{
    long step;
    int end = 0;
    return sscanf(e->d_name, "physics-%ld.json%n", &step, &end) == 1 && end && !e->d_name[end];
}

static int by_step(const struct dirent **a, const struct dirent **b)
{
    const long x = atol((*a)->d_name + strlen("physics-")),
               y = atol((*b)->d_name + strlen("physics-"));
    return (x > y) - (x < y);
}

static kin_status add_report(kin_chart *c, const char *path, double step, kin_error *err)
{
    static const struct {
        const char *key, *title, *name;
    } rows[] = {{"velocity_error_median", "errors of the laws", "velocity"},
                {"acceleration_error_median", "errors of the laws", "acceleration"},
                {"restitution_error_median", "errors of the laws", "restitution"},
                {"period_error_median", "errors of the laws", "period"},
                {"colour_share", "right clips", "colour"},
                {"intact_share", "right clips", "intact"},
                {"direction_share", "right clips", "direction"},
                {"bounce_share", "right clips", "bounce"}};
    cJSON *root = NULL;
    KIN_TRY(kin_json_read(path, REPORT_MAX, KIN_JSON_STRICT, &root, err));
    const cJSON *total = cJSON_GetObjectItemCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(root, "generated"), "total");
    bool ok = true;
    for (size_t i = 0; i < sizeof rows / sizeof *rows && ok; i++) {
        const cJSON *v = cJSON_GetObjectItemCaseSensitive(total, rows[i].key);
        if (cJSON_IsNumber(v))
            ok = add(c, rows[i].title, rows[i].name, step, v->valuedouble);
    }
    const bool known = total != NULL;
    cJSON_Delete(root);
    if (!known)
        return kin_fail(err, KIN_ERR_FORMAT,
                        "plot: %s: is no report of `kinema evaluate --suite physics`", path);
    return ok ? KIN_OK : kin_fail(err, KIN_ERR_MEM, "plot: out of memory");
}

static kin_status read_reports(kin_chart *c, const char *run, kin_error *err)
{
    struct dirent **entry;
    char path[KIN_PATH_MAX];
    kin_status status = KIN_OK;
    const int n = scandir(run, &entry, is_report, by_step);
    if (n < 0)
        return kin_fail(err, KIN_ERR_IO, "plot: %s: %s", run, strerror(errno));
    for (int i = 0; i < n; i++) {
        if (status == KIN_OK)
            status = kin_path_join(path, run, entry[i]->d_name, err);
        if (status == KIN_OK)
            status = add_report(c, path, (double)atol(entry[i]->d_name + strlen("physics-")), err);
        free(entry[i]);
    }
    free(entry);
    return status;
}

static kin_status blame_input(kin_error *err)
{
    if (err->status == KIN_ERR_IO)
        err->status = KIN_ERR_FORMAT;
    return err->status;
}

kin_status kin_cmd_plot(const kin_args *args, kin_error *err)
{
    const char *run = args->positional, *out = kin_args_text(args, "output");
    char log[KIN_PATH_MAX];
    kin_chart chart = {0};
    kin_status status;
    if (!run)
        return kin_fail(err, KIN_ERR_ARG, "plot: needs a run folder, e.g. kinema plot run");
    KIN_TRY(kin_path_join(log, run, "log.jsonl", err));
    KIN_TRY(kin_cli_need_input("log", log, err));
    snprintf(chart.title, sizeof chart.title, "%s", run);
    status = read_log(&chart, log, err);
    if (status == KIN_OK)
        status = read_reports(&chart, run, err);
    if (status != KIN_OK)
        status = blame_input(err);
    else if (!chart.n)
        status = kin_fail(err, KIN_ERR_FORMAT, "plot: %s holds no step yet", log);
    if (status == KIN_OK)
        status = kin_chart_write(&chart, out, (int)kin_args_int(args, "width"), err);
    if (status == KIN_OK && !kin_args_bool(args, "quiet"))
        printf("%s: %d panels\n", out, chart.n);
    kin_chart_free(&chart);
    return status;
}
