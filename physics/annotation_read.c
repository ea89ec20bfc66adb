/* The tolerant reading: official first, then what can be mended, and a note for each mend. */
#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/text.h"
#include "physics/annotation.h"
#include "physics/annotation_text.h"

enum { MAX_DENSITIES = 5 };

/* One reading under way. */
typedef struct reader {
    const kin_annotation_options *options;
    const cJSON *record, *a; /* a: where q0..q4 and n0..n2 are */
    bool training;
    kin_error *err;
} reader;

const char *kin_annotation_note_name(kin_annotation_note kind)
{
    switch (kind) {
    case KIN_NOTE_FALLBACK: return "fallback";
    case KIN_NOTE_ALIAS: return "alias";
    case KIN_NOTE_DROP: return "drop";
    }
    return "unknown";
}

/* Reports one mend; an error when strict. */
static kin_status note(const reader *r, kin_annotation_note kind, const char *field,
                       const char *fmt, ...) __attribute__((format(printf, 4, 5)));
static kin_status note(const reader *r, kin_annotation_note kind, const char *field,
                       const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (r->options && r->options->note)
        r->options->note(r->options->user, kind, field, text);
    if (r->options && r->options->strict)
        return kin_fail(r->err, KIN_ERR_FORMAT, "annotation: %s: %s (%s)", field, text,
                        kin_annotation_note_name(kind));
    return KIN_OK;
}

static const char *text_of(const cJSON *object, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsString(v) ? v->valuestring : NULL;
}

/* ---- prompt text ---- */

static kin_status read_caption(const reader *r, kin_physics_prior *out)
{
    static const char *const training_keys[] = {"captions", "caption", NULL};
    static const char *const flat_keys[] = {"detail_caption", "en_caption", "captions", NULL};
    const char *const *keys = r->training ? training_keys : flat_keys;
    const char *caption = NULL, *law = text_of(r->a, "phys_law");
    for (int k = 0; keys[k] && !caption; k++) {
        caption = text_of(r->record, keys[k]);
        if (caption && k == (r->training ? 1 : 2))
            KIN_TRY(note(r, KIN_NOTE_FALLBACK, keys[0], "missing; %s is used", keys[k]));
    }
    if (!caption)
        return kin_fail(r->err, KIN_ERR_FORMAT, "annotation: %s must be a string", keys[0]);
    if (!law) {
        KIN_TRY(note(r, KIN_NOTE_FALLBACK, "phys_law", "missing; the caption stands alone"));
        law = "";
    }
    size_t a = strlen(caption), b = strlen(law);
    out->caption = kin_malloc(a + b + 1);
    if (!out->caption)
        return kin_fail(r->err, KIN_ERR_MEM, "annotation: %zu bytes of prompt text", a + b + 1);
    memcpy(out->caption, caption, a);
    memcpy(out->caption + a, law, b + 1);
    out->caption_bytes = a;
    return KIN_OK;
}

/* ---- answers ---- */

/* The answer as one text: a string as it is, a list of strings joined by newlines. NULL with
 * b->failed unset: no such text. */
static const char *answer_text(const cJSON *answer, kin_strbuf *b)
{
    const cJSON *e;
    if (cJSON_IsString(answer))
        kin_strbuf_add(b, answer->valuestring);
    else if (cJSON_IsArray(answer))
        cJSON_ArrayForEach(e, answer)
        {
            if (cJSON_IsString(e)) {
                kin_strbuf_add(b, e->valuestring);
                kin_strbuf_add(b, "\n");
            }
        }
    else
        return NULL;
    kin_strbuf_add(b, "");
    return b->data;
}

/* In place: lower case, runs of blanks as one. */
static void fold(char *s)
{
    char *w = s;
    for (char *p = s; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == ' ' || c == '\t') {
            if (w == s || w[-1] != ' ')
                *w++ = ' ';
        } else {
            *w++ = c < 0x80 ? (char)tolower(c) : (char)c;
        }
    }
    *w = 0;
}

static bool names_category(const char *piece, int q)
{
    const int first = kin_phys_question_first(q), last = first + kin_phys_question_count(q);
    const char *spelling;
    for (int i = first; i < last; i++)
        if (strstr(piece, kin_phys_phrase(i)))
            return true;
    return kin_phys_find_alias_in(piece, q, 0, &spelling) >= 0;
}

/* Pieces of an answer of at most four words that name nothing, beside others that do: a word in a
 * wrong spelling. Longer ones are explanations. */
static kin_status note_unknown(const reader *r, int q, const char *key, char *text)
{
    enum { WORDS = 4 };
    char *rest = text, *piece;
    while ((piece = strsep(&rest, ",;\n")) != NULL) {
        piece += strspn(piece, "0123456789. ");
        int words = *piece != 0;
        for (const char *p = piece; *p; p++)
            words += *p == ' ' && p[1] != 0;
        if (words > 0 && words <= WORDS && !names_category(piece, q))
            KIN_TRY(note(r, KIN_NOTE_DROP, key, "no known category in \"%s\"", piece));
    }
    return KIN_OK;
}

static kin_status match_answer(const reader *r, int q, const char *key, char *text, float *prior)
{
    int first = kin_phys_question_first(q), last = first + kin_phys_question_count(q), found = 0;
    bool exact[KIN_PHYS_CATEGORIES] = {false};
    for (int i = first; i < last; i++)
        exact[i] = strstr(text, kin_phys_phrase(i)) != NULL;
    fold(text);
    for (int i = first; i < last; i++) {
        prior[i] = exact[i] || strstr(text, kin_phys_phrase(i)) ? 1 : 0;
        found += prior[i] != 0;
        if (prior[i] != 0 && !exact[i])
            KIN_TRY(note(r, KIN_NOTE_ALIAS, key, "\"%s\" matched in another spelling",
                         kin_phys_phrase(i)));
    }
    const char *spelling;
    for (int k = kin_phys_find_alias_in(text, q, 0, &spelling); k >= 0;
         k = kin_phys_find_alias_in(text, q, k + 1, &spelling)) {
        int i = kin_phys_alias_index(k);
        if (prior[i] != 0)
            continue;
        prior[i] = 1;
        found++;
        KIN_TRY(
            note(r, KIN_NOTE_ALIAS, key, "\"%s\" taken for \"%s\"", spelling, kin_phys_phrase(i)));
    }
    if (found == 0 && text[strspn(text, " \n\t")] != 0)
        return note(r, KIN_NOTE_DROP, key, "no known category in \"%.80s\"", text);
    return note_unknown(r, q, key, text);
}

static kin_status read_answers(const reader *r, float prior[KIN_PHYS_CATEGORIES])
{
    for (int q = 0; q < KIN_PHYS_QUESTIONS; q++) {
        const char key[3] = {'q', (char)('0' + q), 0};
        kin_strbuf b = {0};
        const cJSON *answer = cJSON_GetObjectItemCaseSensitive(r->a, key);
        kin_status status;
        if (answer_text(answer, &b))
            status = match_answer(r, q, key, b.data, prior);
        else if (b.failed)
            status = kin_fail(r->err, KIN_ERR_MEM, "annotation: %s", key);
        else
            status = note(r, KIN_NOTE_FALLBACK, key, "%s; its categories stay 0",
                          answer ? "is no text" : "missing");
        kin_strbuf_free(&b);
        KIN_TRY(status);
    }
    return KIN_OK;
}

/* ---- numbers in free text ---- */

/* One or two finite numbers at the end of s[0..n): "... 1.2 - 1.6 ", "about 5". Returns how many.
 */
static int trailing_numbers(const char *s, size_t n, double out[2])
{
    double v[2] = {0, 0};
    int count = 0;
    size_t i = 0;
    while (i < n) {
        char *end;
        bool minus = s[i] == '-' && (i == 0 || s[i - 1] == ' ' || s[i - 1] == ':');
        bool number = isdigit((unsigned char)s[i]) ||
                      ((minus || s[i] == '.') && i + 1 < n && isdigit((unsigned char)s[i + 1]));
        if (number && (i == 0 || !isalpha((unsigned char)s[i - 1]))) {
            double x = strtod(s + i, &end);
            size_t used = (size_t)(end - s) - i;
            if (used > 0 && i + used <= n && isfinite(x)) {
                v[0] = v[1];
                v[1] = x;
                count++;
                i += used;
                continue;
            }
        }
        /* words other than "to" or "and" between two numbers: the earlier one does not belong */
        if (isalpha((unsigned char)s[i]) && count > 0) {
            size_t w = 0;
            while (i + w < n && isalpha((unsigned char)s[i + w]))
                w++;
            if (!(w == 2 && strncmp(s + i, "to", 2) == 0) &&
                !(w == 3 && strncmp(s + i, "and", 3) == 0))
                count = 0;
            i += w;
            continue;
        }
        i++;
    }
    if (count == 0)
        return 0;
    out[0] = count == 1 ? v[1] : v[0];
    out[1] = v[1];
    return count > 2 ? 2 : count;
}

static bool is_finite_pair(const double v[2])
{
    return isfinite(v[0]) && isfinite(v[1]) && fabs(v[0]) < 1e30 && fabs(v[1]) < 1e30;
}

/* The next density unit at or after s; *bytes its length, *scale its size in g/cm3. */
static const char *next_unit(const char *s, size_t *bytes, double *scale)
{
    static const struct {
        const char *name;
        double scale;
    } unit[] = {{"g/cm\xC2\xB3", 1},     {"g/cm3", 1},     {"g/cm^3", 1},
                {"kg/m\xC2\xB3", 0.001}, {"kg/m3", 0.001}, {"kg/m^3", 0.001}};
    const char *best = NULL;
    for (size_t k = 0; k < sizeof unit / sizeof *unit; k++) {
        const char *at = strstr(s, unit[k].name);
        if (at && (!best || at < best)) {
            best = at;
            *bytes = strlen(unit[k].name);
            *scale = unit[k].scale;
        }
    }
    return best;
}

static kin_status text_densities(const reader *r, const char *n0, double density[][2], int *objects)
{
    size_t bytes = 0;
    double scale = 1;
    for (const char *s = n0, *u; (u = next_unit(s, &bytes, &scale)) != NULL; s = u + bytes) {
        kin_span piece = {s, (size_t)(u - s)};
        double v[2];
        bool official = strncmp(u, "g/cm\xC2\xB3", bytes) == 0 && bytes == 6 &&
                        kin_span_read_density(piece, v) == KIN_DENSITY_VALUE && is_finite_pair(v);
        if (!official) {
            if (trailing_numbers(piece.s, piece.n, v) == 0 || !is_finite_pair(v)) {
                KIN_TRY(note(r, KIN_NOTE_DROP, "n0", "no density in \"%.*s\"", (int)piece.n, s));
                continue;
            }
            v[0] *= scale;
            v[1] *= scale;
            KIN_TRY(note(r, KIN_NOTE_ALIAS, "n0", "\"%.*s%.*s\" read as %g to %g g/cm3",
                         (int)piece.n, s, (int)bytes, u, v[0], v[1]));
        }
        if (*objects == MAX_DENSITIES) {
            KIN_TRY(
                note(r, KIN_NOTE_DROP, "n0", "only the first %d densities count", MAX_DENSITIES));
            break;
        }
        memcpy(density[(*objects)++], v, sizeof v);
    }
    if (*objects == 0 && n0[strspn(n0, " \n\t")] != 0)
        return note(r, KIN_NOTE_DROP, "n0", "no density in \"%.80s\"", n0);
    return KIN_OK;
}

/* Seconds per unit named in a text of n1, 1 when none is. */
static double time_unit(const char *s)
{
    static const struct {
        const char *word;
        double seconds;
    } unit[] = {{"millisecond", 1e-3}, {" ms", 1e-3},  {"microsecond", 1e-6},
                {"minute", 60},        {"hour", 3600}, {"day", 86400}};
    for (size_t k = 0; k < sizeof unit / sizeof *unit; k++)
        if (strstr(s, unit[k].word))
            return unit[k].seconds;
    return 1;
}

/* First number of a text and the one after it, whatever words stand around. Returns how many. */
static int first_numbers(const char *s, double out[2])
{
    size_t n = strlen(s), end = 0;
    int count = 0;
    for (size_t i = 1; i <= n && count < 2; i++) {
        double v[2];
        bool at_end = i == n || !(isdigit((unsigned char)s[i]) || s[i] == '.' || s[i] == 'e');
        if (at_end && isdigit((unsigned char)s[i - 1]) &&
            trailing_numbers(s + end, i - end, v) > 0) {
            out[count++] = v[1];
            end = i;
        }
    }
    return count;
}

static kin_status text_time(const reader *r, const char *n1, double time[2])
{
    if (n1 && kin_span_read_range((kin_span){n1, strlen(n1)}, time) && is_finite_pair(time))
        return KIN_OK;
    double v[2];
    int count = n1 ? first_numbers(n1, v) : 0;
    if (count > 0 && is_finite_pair((double[2]){v[0], v[count - 1]})) {
        double unit = time_unit(n1);
        time[0] = count == 2 ? v[0] * unit : 0;
        time[1] = v[count - 1] * unit;
        return note(r, KIN_NOTE_ALIAS, "n1", "\"%.80s\" read as %g to %g seconds", n1, time[0],
                    time[1]);
    }
    const cJSON *d = cJSON_GetObjectItemCaseSensitive(r->record, "duration");
    if (!cJSON_IsNumber(d) || !(d->valuedouble > 0) || !(d->valuedouble < 1e30))
        return kin_fail(r->err, KIN_ERR_FORMAT,
                        "annotation: n1 \"%.80s\" must be \"LO to HI seconds\" (and there is no "
                        "duration to fall back on)",
                        n1 ? n1 : "");
    time[0] = 0;
    time[1] = d->valuedouble;
    return note(r, KIN_NOTE_FALLBACK, "n1", "no time span; 0 to duration %g is used", time[1]);
}

static kin_status text_temperature(const reader *r, const char *n2, double out[2])
{
    if (n2 && kin_span_read_range((kin_span){n2, strlen(n2)}, out) && is_finite_pair(out))
        return KIN_OK;
    double v[2];
    int count = n2 ? first_numbers(n2, v) : 0;
    if (count > 0 && is_finite_pair((double[2]){v[0], v[count - 1]})) {
        out[0] = v[0];
        out[1] = v[count - 1];
        return note(r, KIN_NOTE_ALIAS, "n2", "\"%.80s\" read as %g to %g degrees", n2, out[0],
                    out[1]);
    }
    out[0] = 20;
    out[1] = 25;
    return note(r, KIN_NOTE_FALLBACK, "n2", "no temperature in \"%.80s\"; 20 to 25 is used",
                n2 ? n2 : "");
}

/* ---- quantify_* of training records, else the text ---- */

static bool pair(const cJSON *p, double out[2])
{
    if (!cJSON_IsArray(p) || cJSON_GetArraySize(p) != 2 || !cJSON_IsNumber(p->child) ||
        !cJSON_IsNumber(p->child->next))
        return false;
    out[0] = p->child->valuedouble;
    out[1] = p->child->next->valuedouble;
    return is_finite_pair(out);
}

static kin_status read_densities(const reader *r, double density[][2], int *objects)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(r->a, "quantify_n0"), *e;
    const char *n0 = text_of(r->a, "n0");
    if (r->training && cJSON_IsArray(list)) {
        cJSON_ArrayForEach(e, list)
        {
            double v[2];
            if (!pair(e, v))
                KIN_TRY(note(r, KIN_NOTE_DROP, "quantify_n0", "an entry is no pair of numbers"));
            else if (*objects == MAX_DENSITIES)
                KIN_TRY(note(r, KIN_NOTE_DROP, "quantify_n0", "only the first %d densities count",
                             MAX_DENSITIES));
            else
                memcpy(density[(*objects)++], v, sizeof v);
        }
        return KIN_OK;
    }
    if (r->training)
        KIN_TRY(note(r, KIN_NOTE_FALLBACK, "quantify_n0", "missing; the text of n0 is read"));
    if (!n0)
        return note(r, KIN_NOTE_FALLBACK, "n0", "missing; no density is given");
    return text_densities(r, n0, density, objects);
}

static kin_status read_span(const reader *r, const char *key, const char *text_key, double out[2],
                            kin_status (*from_text)(const reader *, const char *, double[2]))
{
    if (r->training) {
        if (pair(cJSON_GetObjectItemCaseSensitive(r->a, key), out))
            return KIN_OK;
        KIN_TRY(note(r, KIN_NOTE_FALLBACK, key, "no pair of numbers; the text of %s is read",
                     text_key));
    }
    return from_text(r, text_of(r->a, text_key), out);
}

static kin_status check_label(const reader *r)
{
    const char *label = text_of(r->record, "label");
    kin_phys_match how;
    int i = kin_phys_find(label, &how);
    if (!label)
        return KIN_OK;
    if (i < 0 || !kin_phys_is_label(i))
        return note(r, KIN_NOTE_DROP, "label", "\"%.60s\" is none of the 17 labels", label);
    if (how != KIN_PHYS_MATCH_EXACT)
        return note(r, KIN_NOTE_ALIAS, "label", "\"%.60s\" taken for \"%s\"", label,
                    kin_phys_title(i));
    return KIN_OK;
}

static kin_status read_all(const reader *r, kin_physics_prior *out)
{
    double density[MAX_DENSITIES][2], time[2], temperature[2];
    int objects = 0;
    KIN_TRY(read_caption(r, out));
    KIN_TRY(check_label(r));
    KIN_TRY(read_answers(r, out->prior));
    KIN_TRY(read_densities(r, density, &objects));
    KIN_TRY(read_span(r, "quantify_n1", "n1", time, text_time));
    KIN_TRY(read_span(r, "quantify_n2", "n2", temperature, text_temperature));
    kin_quantities_pack(objects, (const double(*)[2])density, time, temperature, out->quant);
    return KIN_OK;
}

kin_status kin_annotation_read(const cJSON *record, const kin_annotation_options *options,
                               kin_physics_prior *out, kin_error *err)
{
    memset(out, 0, sizeof *out);
    if (!cJSON_IsObject(record))
        return kin_fail(err, KIN_ERR_FORMAT, "annotation: a record must be a JSON object");
    const cJSON *a = cJSON_GetObjectItemCaseSensitive(record, "physical_annotation");
    if (a && !cJSON_IsObject(a))
        return kin_fail(err, KIN_ERR_FORMAT, "annotation: physical_annotation must be an object");
    reader r = {options, record, a ? a : record, a != NULL, err};
    kin_status status = read_all(&r, out);
    if (status != KIN_OK)
        kin_physics_prior_free(out);
    return status;
}
