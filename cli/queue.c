#include "cli/queue.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/generation.h"

enum { LINES_MAX_BYTES = 256 << 20 };

typedef struct line {
    const char *text; /* in the block of lines */
    int64_t number;   /* in the file, from 1 */
    char *output;     /* owned */
} line;

typedef struct queue {
    const kin_args *args;
    kin_progress progress;
    kin_strbuf text;
    line *jobs; /* [n] */
    int64_t n, room;
    kin_generation_models models;
    kin_preview_kind preview;
    double previewed;
    int64_t made, failed;
} queue;

/* Settings that are of the model in memory or of the whole run, the same for every job. */
static const char *const shared[] = {"model",
                                     "lora",
                                     "phys-weights",
                                     "threads",
                                     "dtype",
                                     "diffmoe-infer",
                                     "progress",
                                     "class-file",
                                     "matmul-precision",
                                     "max-sequence-length",
                                     NULL};

static bool is_in(const char *const *names, const char *name)
{
    while (*names && strcmp(*names, name) != 0)
        names++;
    return *names != NULL;
}

/* A flag that a line may name. */
static bool is_key(const kin_flag *f)
{
    return (f->verbs & KIN_VERB_GENERATE) && !is_in(shared, f->name) &&
           (f->setting || strcmp(f->name, "output") == 0);
}

/* ---- the words of one job's command ---- */

/* A growing argument list; its strings lie in `text`, offsets until it is finished. */
typedef struct words {
    kin_strbuf text;
    size_t at[KIN_ARGS_MAX + 2];
    char *argv[KIN_ARGS_MAX + 3];
    int n;
} words;

static void add_word(words *w, const char *name, const char *value)
{
    w->at[w->n++] = w->text.len;
    if (value)
        kin_strbuf_addf(&w->text, "--%s=", name);
    kin_strbuf_add(&w->text, value ? value : name);
    kin_strbuf_add_bytes(&w->text, "", 1);
}

static kin_status unknown_key(const char *name, kin_error *err)
{
    const char *names[KIN_ARGS_MAX + 1];
    int n = 0;
    if (is_in(shared, name))
        return kin_fail(err, KIN_ERR_FORMAT, "'%s' is the same for every job; give it as a flag",
                        name);
    for (const kin_flag *f = kin_flags; f->name; f++)
        if (is_key(f))
            names[n++] = f->name;
    names[n] = NULL;
    const char *near = kin_nearest_name(name, names);
    return kin_fail(err, KIN_ERR_FORMAT, "'%s' is no key of a job%s%s%s", name,
                    near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static const kin_flag *find_key(const char *name)
{
    for (const kin_flag *f = kin_flags; f->name; f++)
        if (is_key(f) && strcmp(f->name, name) == 0)
            return f;
    return NULL;
}

static kin_status add_member(words *w, const cJSON *item, const cJSON *object, kin_error *err)
{
    char number[64];
    const kin_flag *f = find_key(item->string);
    if (!f)
        return unknown_key(item->string, err);
    const bool text =
        f->type == KIN_FLAG_TEXT || f->type == KIN_FLAG_CHOICE || f->type == KIN_FLAG_SIZE;
    if (cJSON_GetObjectItemCaseSensitive(object, item->string) != item)
        return kin_fail(err, KIN_ERR_FORMAT, "'%s' is given twice", item->string);
    if (f->type == KIN_FLAG_BOOL && cJSON_IsBool(item)) {
        add_word(w, f->name, cJSON_IsTrue(item) ? "true" : "false");
    } else if (text && cJSON_IsString(item)) {
        add_word(w, f->name, item->valuestring);
    } else if (!text && f->type != KIN_FLAG_BOOL && cJSON_IsNumber(item)) {
        const double x = item->valuedouble;
        snprintf(number, sizeof number, x == floor(x) && fabs(x) < 1e15 ? "%.0f" : "%.17g", x);
        add_word(w, f->name, number);
    } else {
        return kin_fail(err, KIN_ERR_FORMAT, "'%s' must be a %s", item->string,
                        f->type == KIN_FLAG_BOOL ? "true or false"
                        : text                   ? "string"
                                                 : "number");
    }
    return KIN_OK;
}

/* Flags of the command line that the job does not name itself. */
static void add_flags(words *w, const kin_args *args, const cJSON *object, const char *output)
{
    const kin_flag *f = kin_flags;
    for (int i = 0; f[i].name; i++) {
        const char *name = f[i].name;
        if (args->value[i].source != KIN_SOURCE_FLAG || strcmp(name, "prompts") == 0 ||
            strcmp(name, "output") == 0 || cJSON_GetObjectItemCaseSensitive(object, name))
            continue;
        add_word(w, name, args->value[i].text);
    }
    if (!cJSON_GetObjectItemCaseSensitive(object, "output"))
        add_word(w, "output", output);
}

/* The arguments of job i, as if it had been called alone. kin_args_free, also on failure. */
static kin_status job_args(const queue *q, int64_t i, kin_args *out, kin_error *err)
{
    char output[KIN_PATH_MAX];
    words w = {0};
    cJSON *object = NULL;
    kin_status status = KIN_OK;
    const char *text = q->jobs[i].text, *base = kin_args_text(q->args, "output");
    const bool json = text[0] == '{';
    *out = (kin_args){0};
    if (json)
        KIN_GOTO(kin_json_parse(text, strlen(text), KIN_JSON_STRICT, &object, err));
    add_word(&w, "kinema", NULL);
    add_word(&w, "generate", NULL);
    for (const cJSON *item = object ? object->child : NULL; item; item = item->next)
        KIN_GOTO(add_member(&w, item, object, err));
    if (!json)
        add_word(&w, "prompt", text);
    if (!cJSON_HasObjectItem(object, "output") && !kin_output_has_index(base))
        KIN_GOTO(kin_fail(err, KIN_ERR_ARG,
                          "-o '%s' needs a number, e.g. clip-%%03d.mp4, or the job an \"output\"",
                          base));
    if (kin_output_has_index(base))
        KIN_GOTO(kin_output_name(output, base, i, err));
    add_flags(&w, q->args, object, output);
    if (w.text.failed)
        KIN_GOTO(kin_fail(err, KIN_ERR_MEM, "out of memory"));
    for (int k = 0; k < w.n; k++)
        w.argv[k] = w.text.data + w.at[k];
    KIN_GOTO(kin_args_parse(w.n, w.argv, out, err));
done:
    cJSON_Delete(object);
    kin_strbuf_free(&w.text);
    if (status != KIN_OK)
        kin_fail_prefix(err, "prompts line %lld", (long long)q->jobs[i].number);
    return status;
}

/* ---- reading ---- */

static kin_status read_text(queue *q, const char *path, kin_error *err)
{
    char block[1 << 16];
    const bool in = strcmp(path, "-") == 0;
    FILE *fp = in ? stdin : fopen(path, "r");
    size_t n = 0;
    if (!fp)
        return kin_fail(err, KIN_ERR_FORMAT, "prompts %s: %s", path, strerror(errno));
    while (!q->text.failed && q->text.len <= LINES_MAX_BYTES &&
           (n = fread(block, 1, sizeof block, fp)) > 0)
        kin_strbuf_add_bytes(&q->text, block, n);
    const bool bad = ferror(fp) != 0;
    if (!in)
        fclose(fp);
    if (q->text.failed)
        return kin_fail(err, KIN_ERR_MEM, "prompts: out of memory");
    if (bad || q->text.len > LINES_MAX_BYTES)
        return kin_fail(err, KIN_ERR_FORMAT,
                        bad ? "prompts %s: %s" : "prompts %s: more than 256 MB", path,
                        strerror(errno));
    return KIN_OK;
}

static kin_status add_job(queue *q, char *text, size_t n, int64_t number, kin_error *err)
{
    while (n && (text[n - 1] == '\r' || text[n - 1] == ' ' || text[n - 1] == '\t'))
        text[--n] = 0;
    if (!kin_utf8_valid(text, n) || strlen(text) != n)
        return kin_fail(err, KIN_ERR_FORMAT, "prompts line %lld: is not UTF-8 text",
                        (long long)number);
    text += strspn(text, " \t");
    if (!*text || *text == '#')
        return KIN_OK;
    if (q->n == q->room) {
        const int64_t room = q->room ? 2 * q->room : 64;
        line *more = kin_realloc(q->jobs, (size_t)room * sizeof *more);
        if (!more)
            return kin_fail(err, KIN_ERR_MEM, "prompts: out of memory");
        q->jobs = more;
        q->room = room;
    }
    q->jobs[q->n++] = (line){.text = text, .number = number};
    return KIN_OK;
}

static kin_status split(queue *q, kin_error *err)
{
    char *text = q->text.data, *end = text + q->text.len;
    for (int64_t number = 1; text < end; number++) {
        char *stop = memchr(text, '\n', (size_t)(end - text));
        stop = stop ? stop : end;
        *stop = 0;
        KIN_TRY(add_job(q, text, (size_t)(stop - text), number, err));
        text = stop + 1;
    }
    return q->n ? KIN_OK : kin_fail(err, KIN_ERR_FORMAT, "prompts: there is no job in it");
}

static int by_output(const void *a, const void *b)
{
    const line *x = *(const line *const *)a, *y = *(const line *const *)b;
    const int order = strcmp(x->output, y->output);
    return order ? order : (x->number > y->number) - (x->number < y->number);
}

/* No two jobs write the same file. */
static kin_status check_outputs(queue *q, kin_error *err)
{
    const line **sorted = kin_malloc((size_t)q->n * sizeof *sorted);
    kin_status status = KIN_OK;
    if (!sorted)
        return kin_fail(err, KIN_ERR_MEM, "prompts: out of memory");
    for (int64_t i = 0; i < q->n; i++)
        sorted[i] = &q->jobs[i];
    qsort(sorted, (size_t)q->n, sizeof *sorted, by_output);
    for (int64_t i = 1; i < q->n && status == KIN_OK; i++)
        if (strcmp(sorted[i - 1]->output, sorted[i]->output) == 0)
            status = kin_fail(err, KIN_ERR_ARG, "prompts line %lld: writes %s, as line %lld does",
                              (long long)sorted[i]->number, sorted[i]->output,
                              (long long)sorted[i - 1]->number);
    kin_free(sorted);
    return status;
}

/* Every line, before the first job runs. */
static kin_status check_jobs(queue *q, kin_error *err)
{
    for (int64_t i = 0; i < q->n; i++) {
        kin_args a;
        kin_status status = job_args(q, i, &a, err);
        if (status == KIN_OK && !(q->jobs[i].output = kin_strdup(kin_args_text(&a, "output"))))
            status = kin_fail(err, KIN_ERR_MEM, "prompts: out of memory");
        if (status == KIN_OK && strcmp(q->jobs[i].output, "-") == 0)
            status = kin_fail(err, KIN_ERR_ARG, "prompts line %lld: must name a file, not -",
                              (long long)q->jobs[i].number);
        kin_args_free(&a);
        KIN_TRY(status);
    }
    return check_outputs(q, err);
}

static kin_status check_flags(const kin_args *a, kin_error *err)
{
    static const char *const others[] = {"prompt", "npz", "from-latents", "class-file", NULL};
    for (int i = 0; others[i]; i++)
        if (kin_args_text(a, others[i]))
            return kin_fail(err, KIN_ERR_ARG, "generate: --%s has no place beside --prompts",
                            others[i]);
    return KIN_OK;
}

/* ---- running ---- */

static kin_status run_job(queue *q, int64_t i, kin_error *err)
{
    kin_args a;
    kin_status status = job_args(q, i, &a, err);
    if (status == KIN_OK) {
        kin_generation g = {.args = &a,
                            .models = &q->models,
                            .progress = q->progress,
                            .preview = q->preview,
                            .previewed = q->previewed};
        snprintf(g.label, sizeof g.label, "generate %lld/%lld", (long long)i + 1, (long long)q->n);
        status = kin_generation_run(&g, err);
        q->made += g.made;
        q->previewed = g.previewed;
    }
    kin_args_free(&a);
    if (status != KIN_OK && status != KIN_ERR_INTERRUPTED)
        kin_fail_prefix(err, "prompts line %lld", (long long)q->jobs[i].number);
    return status;
}

static kin_status run_jobs(queue *q, kin_error *err)
{
    kin_error first = {0};
    for (int64_t i = 0; i < q->n; i++) {
        const kin_status status = run_job(q, i, err);
        if (status == KIN_OK)
            continue;
        if (status != KIN_ERR_NUMERIC)
            return status;
        kin_progress_end(&q->progress);
        kin_progress_note(&q->progress, "%s", err->text);
        if (!q->failed++)
            first = *err;
    }
    if (!q->failed)
        return KIN_OK;
    *err = first;
    return err->status;
}

kin_status kin_generate_queue(const kin_args *args, kin_error *err)
{
    queue q = {.args = args, .models = {.shared = true}};
    const char *path = kin_args_text(args, "prompts");
    kin_status status;
    kin_cli_progress(args, &q.progress);
    q.preview = kin_generation_preview(args, &q.progress);
    KIN_GOTO(check_flags(args, err));
    KIN_GOTO(read_text(&q, path, err));
    KIN_GOTO(split(&q, err));
    KIN_GOTO(check_jobs(&q, err));
    status = run_jobs(&q, err);
    if (kin_args_bool(args, "dry-run") && status == KIN_OK)
        printf("peak memory: %llu bytes (%.1f MB)\n", (unsigned long long)q.models.checked,
               (double)q.models.checked / 1e6);
    else
        kin_progress_note(&q.progress, "prompts %s: %lld jobs, %lld made now%s%.0lld%s", path,
                          (long long)q.n, (long long)q.made, q.failed ? ", " : "",
                          (long long)q.failed, q.failed ? " without usable frames" : "");
done:
    kin_generation_models_close(&q.models);
    for (int64_t i = 0; i < q.n; i++)
        kin_free(q.jobs[i].output);
    kin_free(q.jobs);
    kin_strbuf_free(&q.text);
    return status;
}
