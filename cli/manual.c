/* cli/manual.c: the flag table as manual pages (man(7)). */
#include <stdio.h>
#include <string.h>

#include "cli/help.h"
#include "physics/taxonomy.h"

/* n bytes of plain text: what man would take for its own is escaped. */
static void add_span(kin_strbuf *out, const char *text, size_t n)
{
    for (const char *p = text; p < text + n; p++) {
        const bool starts_line = p == text ? !out->len || out->data[out->len - 1] == '\n' : false;
        if (*p == '\\')
            kin_strbuf_add(out, "\\e");
        else if (*p == '-')
            kin_strbuf_add(out, "\\-");
        else if (starts_line && (*p == '.' || *p == '\''))
            kin_strbuf_addf(out, "\\&%c", *p);
        else if (strncmp(p, "\xC2\xB3", 2) == 0) /* superscript three */
            kin_strbuf_add(out, "\\(S3"), p++;
        else
            kin_strbuf_add_bytes(out, p, 1);
    }
}

static void add(kin_strbuf *out, const char *text)
{
    add_span(out, text, strlen(text));
}

const char *kin_manual_name(const kin_verb_row *verb, char buf[80])
{
    char words[64];
    snprintf(buf, 80, "kinema%s%s", verb ? "-" : "", verb ? kin_verb_text(verb, words) : "");
    for (char *p = buf; *p; p++)
        *p = *p == ' ' ? '-' : *p;
    return buf;
}

static void add_head(kin_strbuf *out, const kin_verb_row *verb, const char *summary)
{
    char name[80];
    kin_manual_name(verb, name);
    kin_strbuf_add(out, ".TH ");
    for (const char *p = name; *p; p++)
        kin_strbuf_addf(out, "%c", *p >= 'a' && *p <= 'z' ? *p - 'a' + 'A' : *p);
    kin_strbuf_add(out, " 1 \"\" \"kinema " KIN_VERSION "\" \"kinema\"\n.SH NAME\n");
    add(out, name);
    kin_strbuf_add(out, " \\- ");
    add(out, summary);
    kin_strbuf_add(out, "\n.SH SYNOPSIS\n.B kinema");
}

static void add_flag(const kin_flag *f, kin_strbuf *out)
{
    char variable[96];
    kin_strbuf_add(out, ".TP\n");
    if (f->letter)
        kin_strbuf_addf(out, "\\fB\\-%c\\fR, ", f->letter);
    kin_strbuf_add(out, "\\fB\\-\\-");
    add(out, f->name);
    kin_strbuf_add(out, "\\fR");
    if (f->metavar) {
        kin_strbuf_add(out, " \\fI");
        add(out, f->metavar);
        kin_strbuf_add(out, "\\fR");
    }
    kin_strbuf_add(out, "\n");
    add(out, f->help);
    if (f->standard) {
        kin_strbuf_add(out, " (default ");
        add(out, f->standard);
        kin_strbuf_add(out, ")");
    }
    if (f->type == KIN_FLAG_INT || f->type == KIN_FLAG_REAL || f->type == KIN_FLAG_SIZE)
        kin_strbuf_addf(out, "; %.16g to %.16g", f->lo, f->hi);
    kin_strbuf_add(out, ".");
    if (f->setting)
        kin_strbuf_addf(out, " Environment: %s.", kin_flag_variable(f, variable));
    kin_strbuf_add(out, "\n");
}

static void add_files(kin_strbuf *out)
{
    kin_strbuf_add(out, ".SH FILES\n.TP\n.I $XDG_CONFIG_HOME/kinema/config.json\n"
                        "(~/.config where the variable is not set) the user's configuration: ");
    add(out, kin_help_config);
    kin_strbuf_add(out, ".\n");
}

static void add_exit_status(kin_strbuf *out)
{
    kin_strbuf_add(out, ".SH EXIT STATUS\n");
    for (const kin_exit_row *r = kin_exit_rows; r->meaning; r++)
        kin_strbuf_addf(out, ".TP\n%d\n%s.\n", r->code, r->meaning);
}

static void add_verb_list(kin_strbuf *out)
{
    char name[80], words[64];
    kin_strbuf_add(out, ".SH VERBS\n");
    for (const kin_verb_row *r = kin_verbs; r->name; r++) {
        kin_strbuf_addf(out, ".TP\n\\fB%s\\fR\n", kin_verb_text(r, words));
        add(out, r->summary);
        kin_strbuf_add(out, "; see \\fB");
        add(out, kin_manual_name(r, name));
        kin_strbuf_add(out, "\\fR(1).\n");
    }
}

static void program_page(kin_strbuf *out)
{
    add_head(out, NULL, "physics-aware image and video generation, and training");
    kin_strbuf_add(out, "\n.I VERB\n[\\fIFLAGS\\fR]\n.br\n.B kinema\n\\fB\\-\\-help\\fR | "
                        "\\fB\\-\\-version\\fR\n.SH DESCRIPTION\n");
    add(out, "Generates and trains physics-aware image and video diffusion models with "
             "mixture-of-experts transformers, on the CPU. Data goes to standard output, progress "
             "and notes to standard error. A clip depends on the model, the settings and the seed "
             "alone. Settings come from flags, the environment, a settings file (-c), the user's "
             "configuration and defaults, in this order; what was used, and where it came from, is "
             "saved beside every output and can be given back with -c.");
    kin_strbuf_add(out, "\n");
    add_verb_list(out);
    kin_strbuf_add(out, ".SH EXAMPLES\n");
    for (const kin_job *j = kin_jobs; j->what; j++) {
        kin_strbuf_addf(out, ".TP\n%s\n.EX\n", j->what);
        add(out, j->example);
        kin_strbuf_add(out, "\n.EE\n");
    }
    kin_strbuf_add(
        out, ".SH ENVIRONMENT\n.TP\n.B KINEMA_NAME\na setting of the verb, where its page "
             "says so, e.g. KINEMA_SEED=5.\n.TP\n.B NO_COLOR\nno colour in the progress line.\n"
             ".TP\n.B KINEMA_ISA\navx2, avx512 or amx: the instruction set to use.\n"
             ".TP\n.B OMP_WAIT_POLICY\nhow waiting threads wait; by itself kinema has "
             "them sleep soon.\n");
}

static void add_lines(kin_strbuf *out, const char *text)
{
    bool example = false;
    for (const char *line = text, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        const bool now = strncmp(line, "  ", 2) == 0;
        if (now != example)
            kin_strbuf_add(out, now ? ".PP\n.EX\n" : ".EE\n");
        example = now;
        if (end == line)
            kin_strbuf_add(out, ".PP");
        else
            add_span(out, line, (size_t)(end - line));
        kin_strbuf_add(out, "\n");
    }
    kin_strbuf_add(out, example ? ".EE\n" : "");
}

/* The phrases that answer q0 to q4. */
static void add_phenomena(kin_strbuf *out)
{
    for (int q = 0; q < KIN_PHYS_QUESTIONS; q++) {
        const int first = kin_phys_question_first(q), n = kin_phys_question_count(q);
        kin_strbuf_addf(out, ".TP\n\\fBq%d\\fR\n", q);
        for (int i = 0; i < n; i++)
            kin_strbuf_addf(out, "%s%s", kin_phys_phrase(first + i), i + 1 < n ? ", " : ".\n");
    }
}

static void add_section(const kin_manual_section *s, kin_strbuf *out)
{
    kin_strbuf_addf(out, ".SH %s\n", s->title);
    add_lines(out, s->text);
    if (s->phenomena)
        add_phenomena(out);
}

static void verb_page(const kin_verb_row *verb, kin_strbuf *out)
{
    char words[64];
    add_head(out, verb, verb->summary);
    kin_strbuf_addf(out, " %s\n", kin_verb_text(verb, words));
    if (verb->positional) {
        kin_strbuf_add(out, ".I ");
        add(out, verb->positional);
        kin_strbuf_add(out, "\n");
    }
    kin_strbuf_add(out, "[\\fIFLAGS\\fR]\n.SH FLAGS\n");
    for (const kin_flag *f = kin_flags; f->name; f++)
        if (f->verbs & verb->verb)
            add_flag(f, out);
    for (const kin_manual_section *s = kin_manual_sections; s->title; s++)
        if (s->verbs & verb->verb)
            add_section(s, out);
}

void kin_manual_page(const kin_verb_row *verb, kin_strbuf *out)
{
    if (verb)
        verb_page(verb, out);
    else
        program_page(out);
    add_files(out);
    add_exit_status(out);
    kin_strbuf_add(out, verb ? ".SH SEE ALSO\n\\fBkinema\\fR(1)\n" : "");
}
