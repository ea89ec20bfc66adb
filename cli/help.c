#include "cli/help.h"

#include <string.h>

#include "base/path.h"
#include "cli/exit.h"

const kin_job kin_jobs[] = {
    {"a video from text",
     "kinema generate \"a steel ball falls and bounces on a wooden floor\" -o ball.mp4"},
    {"images by the thousand",
     "kinema generate -m MODEL --class 0-9 --count 50000 -o out/%06d.png"},
    {"a model trained on your clips", "kinema train -c train.json --data clips -o run"},
    {"clips of exact physics, as data", "kinema dataset simulate -o clips --count 2000"},
    {"weights from elsewhere", "kinema convert ckpt_step_500000.pth -o promoe-b"},
    {NULL, NULL},
};

const char kin_help_config[] =
    "JSON with names of settings as keys, for every verb that has them; the name of a verb holds "
    "an object of its own settings, which win: {\"threads\": 2, \"generate\": {\"steps\": 50}}";

const kin_exit_row kin_exit_rows[] = {
    {KIN_EXIT_OK, "done"},
    {KIN_EXIT_FAILED, "failed"},
    {KIN_EXIT_USAGE, "wrong usage"},
    {KIN_EXIT_INPUT, "a bad input file"},
    {KIN_EXIT_MEMORY, "out of memory"},
    {KIN_EXIT_NUMERIC, "a numeric failure (NaN, flat frames)"},
    {KIN_EXIT_THRESHOLD, "a threshold that was asked for was missed"},
    {KIN_EXIT_SIGNAL + 2, "interrupted (SIGINT), with a usable partial result; "
                          "another signal, a second or more later, ends at once, without one"},
    {KIN_EXIT_SIGNAL + 15, "interrupted (SIGTERM), likewise"},
    {0, NULL},
};

/* ---- on the terminal ---- */

static void show_flag(const kin_flag *f, FILE *to)
{
    char left[96];
    int n = f->letter ? snprintf(left, sizeof left, "  -%c, --%s", f->letter, f->name)
                      : snprintf(left, sizeof left, "      --%s", f->name);
    if (f->metavar && n > 0 && (size_t)n < sizeof left)
        snprintf(left + n, sizeof left - (size_t)n, " %s", f->metavar);
    if (strlen(left) > 32)
        fprintf(to, "%s\n%33s", left, "");
    else
        fprintf(to, "%-33s", left);
    fprintf(to, " %s", f->help);
    if (f->standard)
        fprintf(to, " (default %s)", f->standard);
    fputc('\n', to);
}

static void show_verbs(FILE *to)
{
    char buf[64];
    fputs("kinema: physics-aware image and video generation, and training of the models that do it"
          "\n\nusage: kinema VERB [FLAGS]\n\n",
          to);
    for (const kin_verb_row *r = kin_verbs; r->name; r++)
        fprintf(to, "  %-18s %s\n", kin_verb_text(r, buf), r->summary);
    fputs("\n'kinema VERB --help' lists the flags of a verb; 'kinema --version' prints the "
          "version;\n'kinema' alone shows an example of each job.\n",
          to);
}

void kin_help_show(const kin_verb_row *verb, FILE *to)
{
    char buf[64];
    if (!verb) {
        show_verbs(to);
        return;
    }
    fprintf(to, "kinema %s: %s\n\nusage: kinema %s", kin_verb_text(verb, buf), verb->summary, buf);
    fprintf(to, "%s%s [FLAGS]\n\n", verb->positional ? " " : "",
            verb->positional ? verb->positional : "");
    for (const kin_flag *f = kin_flags; f->name; f++)
        if (f->verbs & verb->verb)
            show_flag(f, to);
    fputs("\nSettings (the manual page names them) can also come from the environment, e.g. "
          "KINEMA_SEED=5,\nand from ~/.config/kinema/config.json.\nExit codes:",
          to);
    for (const kin_exit_row *r = kin_exit_rows; r->meaning; r++)
        fprintf(to, "%s%d %s",
                r == kin_exit_rows            ? " "
                : r->code == KIN_EXIT_NUMERIC ? ",\n"
                                              : ", ",
                r->code, r->meaning);
    fputs(".\n", to);
}

void kin_help_jobs(FILE *to)
{
    fputs("kinema makes videos and images that keep to physics, and trains the models that do.\n",
          to);
    for (const kin_job *j = kin_jobs; j->what; j++)
        fprintf(to, "\n%s\n  %s\n", j->what, j->example);
    fputs("\n'kinema --help' lists every verb, 'kinema VERB --help' its flags.\n", to);
}

/* ---- files ---- */

static kin_status write_text(const char *dir, const char *folder, const char *name,
                             kin_strbuf *text, kin_error *err)
{
    char path[KIN_PATH_MAX], file[128];
    kin_status status = KIN_OK;
    if (text->failed)
        KIN_GOTO(kin_fail(err, KIN_ERR_MEM, "%s: out of memory", name));
    KIN_GOTO(kin_path_join(path, dir, folder, err));
    KIN_GOTO(kin_path_make_dirs(path, err));
    snprintf(file, sizeof file, "%s/%s", folder, name);
    KIN_GOTO(kin_path_join(path, dir, file, err));
    KIN_GOTO(kin_file_write(path, text->data, text->len, err));
done:
    kin_strbuf_free(text);
    return status;
}

static kin_status write_page(const char *dir, const kin_verb_row *verb, kin_error *err)
{
    char name[80], file[96];
    kin_strbuf text = {0};
    kin_manual_page(verb, &text);
    snprintf(file, sizeof file, "%s.1", kin_manual_name(verb, name));
    return write_text(dir, "man1", file, &text, err);
}

kin_status kin_help_write(const char *dir, kin_error *err)
{
    static const struct {
        const char *folder, *name;
        void (*make)(kin_strbuf *out);
    } shells[] = {{"bash", "kinema", kin_completions_bash},
                  {"zsh", "_kinema", kin_completions_zsh},
                  {"fish", "kinema.fish", kin_completions_fish}};
    KIN_TRY(write_page(dir, NULL, err));
    for (const kin_verb_row *r = kin_verbs; r->name; r++)
        KIN_TRY(write_page(dir, r, err));
    for (size_t i = 0; i < sizeof shells / sizeof shells[0]; i++) {
        kin_strbuf text = {0};
        shells[i].make(&text);
        KIN_TRY(write_text(dir, shells[i].folder, shells[i].name, &text, err));
    }
    return KIN_OK;
}
