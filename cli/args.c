#include "cli/args.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/path.h"
#include "base/text.h"

/* ---- one value ---- */

static bool choice_has(const char *choices, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = choices; *p; p += strcspn(p, "|"), p += *p == '|')
        if (strcspn(p, "|") == n && strncmp(p, word, n) == 0)
            return true;
    return false;
}

/* Checks text against the row's rule. `what` is how the user named it ("--steps", "KINEMA_STEPS",
 * ...). */
static kin_status value_parse(const kin_flag *f, const char *what, const char *text, kin_value *v,
                              kin_error *err)
{
    char *end = NULL;
    if (f->type == KIN_FLAG_BOOL) {
        if (strcmp(text, "true") && strcmp(text, "false"))
            return kin_fail(err, KIN_ERR_ARG, "%s: '%s' must be true or false", what, text);
        v->flag = text[0] == 't';
    } else if (f->type == KIN_FLAG_SIZE && strcmp(text, "auto") == 0) {
        v->integer = 0;
    } else if (f->type == KIN_FLAG_INT || f->type == KIN_FLAG_SIZE) {
        errno = 0;
        long long n = strtoll(text, &end, 10);
        if (end == text || *end || isspace((unsigned char)text[0]))
            return kin_fail(err, KIN_ERR_ARG, "%s: '%s' must be a whole number", what, text);
        if (errno || (double)n < f->lo || (double)n > f->hi)
            return kin_fail(err, KIN_ERR_ARG, "%s: %s must be between %.0f and %.0f", what, text,
                            f->lo, f->hi);
        v->integer = n;
        v->real = (double)n;
    } else if (f->type == KIN_FLAG_REAL) {
        double x = strtod(text, &end);
        if (end == text || *end || isspace((unsigned char)text[0]) || !isfinite(x))
            return kin_fail(err, KIN_ERR_ARG, "%s: '%s' must be a number", what, text);
        if (x < f->lo || x > f->hi)
            return kin_fail(err, KIN_ERR_ARG, "%s: %s must be between %g and %g", what, text, f->lo,
                            f->hi);
        v->real = x;
    } else if (f->type == KIN_FLAG_CHOICE && !choice_has(f->metavar, text)) {
        return kin_fail(err, KIN_ERR_ARG, "%s: '%s' must be one of %s", what, text, f->metavar);
    }
    return KIN_OK;
}

static kin_status value_set(kin_args *a, int row, kin_source source, const char *what,
                            const char *text, kin_error *err)
{
    kin_value v = {.source = source};
    KIN_TRY(value_parse(&kin_flags[row], what, text, &v, err));
    v.text = kin_strdup(text);
    if (!v.text)
        return kin_fail(err, KIN_ERR_MEM, "%s: out of memory", what);
    kin_free(a->value[row].text);
    a->value[row] = v;
    return KIN_OK;
}

/* ---- finding verbs and flags ---- */

/* The names of the verb's flags (settings alone when asked), NULL-terminated. */
static void names_of(unsigned verb, bool settings, const char *names[KIN_ARGS_MAX + 1])
{
    int n = 0;
    for (int i = 0; kin_flags[i].name; i++)
        if ((kin_flags[i].verbs & verb) && (!settings || kin_flags[i].setting))
            names[n++] = kin_flags[i].name;
    names[n] = NULL;
}

static kin_status unknown_flag(const kin_verb_row *verb, const char *given, kin_error *err)
{
    const char *names[KIN_ARGS_MAX + 1];
    char name[128], buf[64];
    names_of(verb->verb, false, names);
    snprintf(name, sizeof name, "%.*s", (int)strcspn(given + strspn(given, "-"), "="),
             given + strspn(given, "-"));
    const char *near = kin_nearest_name(name, names);
    if (near)
        return kin_fail(err, KIN_ERR_ARG, "%s: unknown flag '%s'; did you mean --%s?",
                        kin_verb_text(verb, buf), given, near);
    return kin_fail(err, KIN_ERR_ARG, "%s: unknown flag '%s'; see 'kinema %s --help'",
                    kin_verb_text(verb, buf), given, buf);
}

static kin_status unknown_verb(const char *first, const char *second, kin_error *err)
{
    const char *names[16];
    int n = 0;
    for (const kin_verb_row *r = kin_verbs; r->name; r++) {
        const char *name = second ? r->second : r->name;
        if (!name || (second && strcmp(r->name, first)))
            continue;
        bool known = false;
        for (int i = 0; i < n; i++)
            known = known || strcmp(names[i], name) == 0;
        if (!known)
            names[n++] = name;
    }
    names[n] = NULL;
    const char *given = second ? second : first, *near = kin_nearest_name(given, names);
    const char *before = second ? first : "", *gap = second ? " " : "";
    if (near)
        return kin_fail(err, KIN_ERR_ARG, "kinema: unknown verb '%s%s%s'; did you mean '%s%s%s'?",
                        before, gap, given, before, gap, near);
    return kin_fail(err, KIN_ERR_ARG, "kinema: unknown verb '%s%s%s'; see 'kinema --help'", before,
                    gap, given);
}

/* Finds the verb in argv; *used counts the words it took. A two-word verb without its second word
 * leaves out->verb NULL with help set. */
static kin_status verb_find(int argc, char *const *argv, kin_args *out, int *used, kin_error *err)
{
    *used = 1;
    if (argc < 2)
        return kin_fail(err, KIN_ERR_ARG, "kinema: no verb given; see 'kinema --help'");
    const char *first = argv[1];
    if (!strcmp(first, "--help") || !strcmp(first, "-h") || !strcmp(first, "help")) {
        out->help = true;
        return KIN_OK;
    }
    if (!strcmp(first, "--version")) {
        out->version = true;
        return KIN_OK;
    }
    for (const kin_verb_row *r = kin_verbs; r->name; r++) {
        if (strcmp(r->name, first))
            continue;
        const bool first_row = r == kin_verbs || strcmp(r[-1].name, first) != 0;
        if (!r->second && (first_row || (argc > 2 && argv[2][0] == '-'))) {
            *used = 2;
            out->verb = r;
            return KIN_OK;
        }
        if (argc > 2 && (!strcmp(argv[2], "--help") || !strcmp(argv[2], "-h"))) {
            out->help = true;
            return KIN_OK;
        }
        if (argc < 3)
            return kin_fail(err, KIN_ERR_ARG,
                            "kinema: '%s' needs a second word; see 'kinema --help'", first);
        if (r->second && !strcmp(r->second, argv[2])) {
            *used = 3;
            out->verb = r;
            return KIN_OK;
        }
        if (!r[1].name || strcmp(r[1].name, first))
            return unknown_verb(first, argv[2], err);
    }
    return unknown_verb(first, NULL, err);
}

/* ---- flags, environment, file, defaults ---- */

/* True for a value of KIN_FLAG_SIZE (its bounds aside): a next word that is another is not its. */
static bool is_size(const char *word)
{
    return strcmp(word, "auto") == 0 || (*word && word[strspn(word, "0123456789")] == '\0');
}

static kin_status parse_flag(int argc, char *const *argv, int *at, kin_args *out, kin_error *err)
{
    const char *word = argv[*at];
    char buf[64], name[128], what[160];
    unsigned verb = out->verb->verb;
    int row = -1;
    const char *inline_value = NULL;
    if (word[1] == '-') {
        inline_value = strchr(word, '=');
        size_t n = inline_value ? (size_t)(inline_value - word) - 2 : strlen(word) - 2;
        if (n < sizeof name) {
            snprintf(name, sizeof name, "%.*s", (int)n, word + 2);
            row = kin_flag_find(verb, name);
        }
        inline_value = inline_value ? inline_value + 1 : NULL;
    } else if (!word[2]) {
        row = kin_flag_find_letter(verb, word[1]);
    }
    if (row < 0)
        return unknown_flag(out->verb, word, err);
    const kin_flag *f = &kin_flags[row];
    if (!strcmp(f->name, "help")) {
        out->help = true;
        return KIN_OK;
    }
    snprintf(what, sizeof what, "%s: --%s", kin_verb_text(out->verb, buf), f->name);
    if (out->value[row].source == KIN_SOURCE_FLAG)
        return kin_fail(err, KIN_ERR_ARG, "%s is given twice", what);
    if (!inline_value && f->type == KIN_FLAG_BOOL)
        inline_value = "true";
    if (!inline_value && f->type == KIN_FLAG_SIZE && (*at + 1 >= argc || !is_size(argv[*at + 1])))
        inline_value = "auto";
    if (!inline_value) {
        if (*at + 1 >= argc)
            return kin_fail(err, KIN_ERR_ARG, "%s needs a value (%s)", what, f->metavar);
        inline_value = argv[++*at];
    }
    return value_set(out, row, KIN_SOURCE_FLAG, what, inline_value, err);
}

static kin_status read_environment(kin_args *out, kin_error *err)
{
    for (int i = 0; kin_flags[i].name; i++) {
        const kin_flag *f = &kin_flags[i];
        if (!(f->verbs & out->verb->verb) || !f->setting || out->value[i].source == KIN_SOURCE_FLAG)
            continue;
        char name[96];
        const char *text = getenv(kin_flag_variable(f, name));
        if (text && *text)
            KIN_TRY(value_set(out, i, KIN_SOURCE_ENV, name, text, err));
    }
    return KIN_OK;
}

static kin_status file_value(kin_args *out, int row, kin_source source, const char *what,
                             const cJSON *item, kin_error *err)
{
    char number[64];
    const kin_flag *f = &kin_flags[row];
    const char *text = NULL;
    if (f->type == KIN_FLAG_BOOL && cJSON_IsBool(item)) {
        text = cJSON_IsTrue(item) ? "true" : "false";
    } else if ((f->type == KIN_FLAG_INT || f->type == KIN_FLAG_REAL) && cJSON_IsNumber(item)) {
        snprintf(number, sizeof number,
                 f->type == KIN_FLAG_INT && item->valuedouble == floor(item->valuedouble) ? "%.0f"
                                                                                          : "%.17g",
                 item->valuedouble);
        text = number;
    } else if ((f->type == KIN_FLAG_TEXT || f->type == KIN_FLAG_CHOICE ||
                f->type == KIN_FLAG_SIZE) &&
               cJSON_IsString(item)) {
        text = item->valuestring;
    }
    if (!text)
        return kin_fail(err, KIN_ERR_FORMAT, "%s has the wrong type", what);
    kin_status status = value_set(out, row, source, what, text, err);
    return status == KIN_ERR_ARG ? err->status = KIN_ERR_FORMAT, KIN_ERR_FORMAT : status;
}

static kin_status read_object(const char *path, cJSON **json, kin_error *err)
{
    kin_status status = kin_json_read(path, 1 << 20, KIN_JSON_STRICT, json, err);
    if (status != KIN_OK) {
        /* settings that cannot be read are a bad input file too */
        err->status = status == KIN_ERR_IO ? KIN_ERR_FORMAT : status;
        return err->status;
    }
    if (cJSON_IsObject(*json))
        return KIN_OK;
    cJSON_Delete(*json);
    return kin_fail(err, KIN_ERR_FORMAT, "settings %s: must be an object", path);
}

static kin_status unknown_key(const char *what, const char *key, unsigned verbs, kin_error *err)
{
    const char *names[KIN_ARGS_MAX + 1];
    names_of(verbs, true, names);
    const char *near = kin_nearest_name(key, names);
    return kin_fail(err, KIN_ERR_FORMAT, "%s is no known key%s%s%s", what,
                    near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

/* True if a setting of one of the verbs has this name. */
static bool is_setting(unsigned verbs, const char *name)
{
    for (int i = 0; kin_flags[i].name; i++)
        if ((kin_flags[i].verbs & verbs) && kin_flags[i].setting &&
            !strcmp(kin_flags[i].name, name))
            return true;
    return false;
}

/* One key of a settings file; what a stronger source has given already stays. */
static kin_status take_setting(kin_args *out, kin_source source, const char *path,
                               const cJSON *item, kin_error *err)
{
    char what[512];
    snprintf(what, sizeof what, "settings %s: '%s'", path, item->string);
    if (!is_setting(out->verb->verb, item->string))
        return unknown_key(what, item->string, out->verb->verb, err);
    const int row = kin_flag_find(out->verb->verb, item->string);
    return out->value[row].source < source ? file_value(out, row, source, what, item, err) : KIN_OK;
}

static kin_status read_file(kin_args *out, const char *path, kin_error *err)
{
    cJSON *json = NULL;
    kin_status status = KIN_OK;
    KIN_TRY(read_object(path, &json, err));
    for (const cJSON *item = json->child; item; item = item->next) {
        /* note: "kinema" is the part that a saved settings file adds (version, hash of the model)
         */
        if (strcmp(item->string, "kinema"))
            KIN_GOTO(take_setting(out, KIN_SOURCE_FILE, path, item, err));
    }
done:
    cJSON_Delete(json);
    return status;
}

/* ---- the user's configuration ---- */

/* Its path, "" where there is no place for one. */
static kin_status user_path(char path[KIN_PATH_MAX], kin_error *err)
{
    const char *dir = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    path[0] = 0;
    if (dir && dir[0] == '/') /* the standard has relative ones ignored */
        return kin_path_join(path, dir, "kinema/config.json", err);
    return home && home[0] == '/' ? kin_path_join(path, home, ".config/kinema/config.json", err)
                                  : KIN_OK;
}

static bool is_verb(const char *name)
{
    char buf[64];
    for (const kin_verb_row *r = kin_verbs; r->name; r++)
        if (!strcmp(kin_verb_text(r, buf), name))
            return true;
    return false;
}

/* One key that stands for every verb: those that lack it pass it over. */
static kin_status take_common(kin_args *out, const char *path, const cJSON *item, kin_error *err)
{
    char what[512];
    if (is_setting(out->verb->verb, item->string))
        return take_setting(out, KIN_SOURCE_USER, path, item, err);
    if (is_setting(KIN_VERB_ALL, item->string) || (is_verb(item->string) && cJSON_IsObject(item)))
        return KIN_OK;
    snprintf(what, sizeof what, "settings %s: '%s'", path, item->string);
    return unknown_key(what, item->string, KIN_VERB_ALL, err);
}

static kin_status read_user_file(kin_args *out, kin_error *err)
{
    char path[KIN_PATH_MAX], verb[64];
    cJSON *json = NULL;
    kin_status status = KIN_OK;
    KIN_TRY(user_path(path, err));
    if (!path[0] || !kin_path_exists(path))
        return KIN_OK;
    KIN_TRY(read_object(path, &json, err));
    const cJSON *own = cJSON_GetObjectItemCaseSensitive(json, kin_verb_text(out->verb, verb));
    for (const cJSON *item = own ? own->child : NULL; item; item = item->next)
        KIN_GOTO(take_setting(out, KIN_SOURCE_USER, path, item, err));
    for (const cJSON *item = json->child; item; item = item->next)
        KIN_GOTO(take_common(out, path, item, err));
    if (!(out->user_file = kin_strdup(path)))
        status = kin_fail(err, KIN_ERR_MEM, "settings %s: out of memory", path);
done:
    cJSON_Delete(json);
    return status;
}

static kin_status plain_argument(kin_args *out, const char *word, bool *taken, kin_error *err)
{
    char buf[64], what[160];
    const kin_verb_row *verb = out->verb;
    if (!verb->positional || *taken)
        return kin_fail(err, KIN_ERR_ARG, "%s: '%s' is one argument too many",
                        kin_verb_text(verb, buf), word);
    *taken = true;
    if (!verb->stands_for) {
        out->positional = word;
        return KIN_OK;
    }
    int row = kin_flag_find(verb->verb, verb->stands_for);
    snprintf(what, sizeof what, "%s: %s", kin_verb_text(verb, buf), verb->stands_for);
    if (out->value[row].source == KIN_SOURCE_FLAG)
        return kin_fail(err, KIN_ERR_ARG, "%s is given twice", what);
    return value_set(out, row, KIN_SOURCE_FLAG, what, word, err);
}

kin_status kin_args_parse(int argc, char *const *argv, kin_args *out, kin_error *err)
{
    int used = 1;
    bool flags_end = false, plain = false;
    KIN_TRY(verb_find(argc, argv, out, &used, err));
    if (!out->verb)
        return KIN_OK;
    for (int i = used; i < argc; i++) {
        const char *word = argv[i];
        if (!flags_end && !strcmp(word, "--")) {
            flags_end = true;
        } else if (!flags_end && word[0] == '-' && word[1]) {
            KIN_TRY(parse_flag(argc, argv, &i, out, err));
            if (out->help)
                return KIN_OK;
        } else {
            KIN_TRY(plain_argument(out, word, &plain, err));
        }
    }
    KIN_TRY(read_environment(out, err));
    int row = kin_flag_find(out->verb->verb, "config");
    if (row >= 0 && kin_flag_is_settings(&kin_flags[row]) && out->value[row].text)
        KIN_TRY(read_file(out, out->value[row].text, err));
    KIN_TRY(read_user_file(out, err));
    for (int i = 0; kin_flags[i].name; i++)
        if ((kin_flags[i].verbs & out->verb->verb) && kin_flags[i].standard &&
            !out->value[i].source)
            KIN_TRY(value_set(out, i, KIN_SOURCE_DEFAULT, kin_flags[i].name, kin_flags[i].standard,
                              err));
    return KIN_OK;
}

void kin_args_free(kin_args *a)
{
    for (int i = 0; i < KIN_ARGS_MAX; i++)
        kin_free(a->value[i].text);
    kin_free(a->user_file);
    memset(a, 0, sizeof *a);
}

/* ---- reading values ---- */

static const kin_value *value_of(const kin_args *a, const char *name)
{
    int row = kin_flag_find(a->verb->verb, name);
    assert(row >= 0);
    return &a->value[row];
}

const char *kin_args_text(const kin_args *a, const char *name)
{
    return value_of(a, name)->text;
}

int64_t kin_args_int(const kin_args *a, const char *name)
{
    return value_of(a, name)->integer;
}

double kin_args_real(const kin_args *a, const char *name)
{
    return value_of(a, name)->real;
}

bool kin_args_bool(const kin_args *a, const char *name)
{
    return value_of(a, name)->flag;
}

kin_source kin_args_source(const kin_args *a, const char *name)
{
    return value_of(a, name)->source;
}

kin_status kin_args_settings(const kin_args *a, cJSON **out, kin_error *err)
{
    cJSON *json = cJSON_CreateObject();
    bool ok = json != NULL;
    for (int i = 0; ok && kin_flags[i].name; i++) {
        const kin_flag *f = &kin_flags[i];
        const kin_value *v = &a->value[i];
        if (!(f->verbs & a->verb->verb) || !f->setting || !v->source)
            continue;
        if (f->type == KIN_FLAG_BOOL)
            ok = cJSON_AddBoolToObject(json, f->name, v->flag);
        else if (f->type == KIN_FLAG_INT || f->type == KIN_FLAG_REAL)
            ok = cJSON_AddNumberToObject(json, f->name, v->real);
        else
            ok = cJSON_AddStringToObject(json, f->name, v->text);
    }
    if (!ok) {
        cJSON_Delete(json);
        return kin_fail(err, KIN_ERR_MEM, "settings: out of memory");
    }
    *out = json;
    return KIN_OK;
}

kin_status kin_args_origins(const kin_args *a, cJSON **out, kin_error *err)
{
    cJSON *json = cJSON_CreateObject();
    bool ok = json != NULL;
    for (int i = 0; ok && kin_flags[i].name; i++) {
        const kin_flag *f = &kin_flags[i];
        const kin_source source = a->value[i].source;
        char name[96];
        if (!(f->verbs & a->verb->verb) || !f->setting || !source)
            continue;
        const char *origin = source == KIN_SOURCE_FLAG   ? "flag"
                             : source == KIN_SOURCE_ENV  ? kin_flag_variable(f, name)
                             : source == KIN_SOURCE_FILE ? kin_args_text(a, "config")
                             : source == KIN_SOURCE_USER ? a->user_file
                                                         : "default";
        ok = cJSON_AddStringToObject(json, f->name, origin) != NULL;
    }
    if (!ok) {
        cJSON_Delete(json);
        return kin_fail(err, KIN_ERR_MEM, "settings: out of memory");
    }
    *out = json;
    return KIN_OK;
}
