/* cli/help.h: what the flag table says to people and to shells: help on the terminal, man pages,
 * completions. */
#ifndef KIN_CLI_HELP_H
#define KIN_CLI_HELP_H

#include <stdio.h>

#include "base/text.h"
#include "cli/flags.h"

/* Help of one verb, or of the program (verb NULL). */
void kin_help_show(const kin_verb_row *verb, FILE *to);
/* The five jobs with one example each: what the bare program shows. */
void kin_help_jobs(FILE *to);

/* One of the five jobs. */
typedef struct kin_job {
    const char *what, *example;
} kin_job;
extern const kin_job kin_jobs[]; /* ends with what NULL */

/* Text that several forms share. */
extern const char kin_help_config[]; /* the user's configuration */
typedef struct kin_exit_row {
    int code;
    const char *meaning;
} kin_exit_row;
extern const kin_exit_row kin_exit_rows[]; /* ends with meaning NULL */

/* Sections of a verb's page beside its flags, in their order; ends with title NULL. Lines of text
 * that begin with two spaces are examples, empty lines end paragraphs. */
typedef struct kin_manual_section {
    unsigned verbs; /* set of kin_verb */
    const char *title, *text;
    bool phenomena; /* the phrases of the taxonomy follow */
} kin_manual_section;
extern const kin_manual_section kin_manual_sections[];
/* The manual page of a verb, or of the program (verb NULL), in man's language. */
void kin_manual_page(const kin_verb_row *verb, kin_strbuf *out);
/* Name of that page without its section: "kinema-dataset-simulate". Returns buf. */
const char *kin_manual_name(const kin_verb_row *verb, char buf[80]);

/* Completion scripts. */
void kin_completions_bash(kin_strbuf *out);
void kin_completions_zsh(kin_strbuf *out);
void kin_completions_fish(kin_strbuf *out);

/* Writes all of them below dir: man1/, bash/kinema, zsh/_kinema, fish/kinema.fish. Fails: IO, MEM.
 */
kin_status kin_help_write(const char *dir, kin_error *err);

#endif
