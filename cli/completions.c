/* cli/completions.c: the flag table as completion scripts of three shells. */
#include <stdio.h>
#include <string.h>

#include "cli/help.h"

/* Text between single quotes of a shell, with what `special` names behind a backslash. */
static void add_quoted(kin_strbuf *out, const char *text, const char *special)
{
    for (const char *p = text; *p; p++) {
        if (*p == '\'')
            kin_strbuf_add(out, "'\\''");
        else if (strchr(special, *p))
            kin_strbuf_addf(out, "\\%c", *p);
        else
            kin_strbuf_add_bytes(out, p, 1);
    }
}

/* The words of "a|b|c" with spaces between. */
static void add_choices(kin_strbuf *out, const char *choices)
{
    for (const char *p = choices; *p; p++)
        kin_strbuf_addf(out, "%c", *p == '|' ? ' ' : *p);
}

static bool takes_folder(const kin_flag *f)
{
    return f->metavar && strncmp(f->metavar, "DIR", 3) == 0 && !strchr(f->metavar, '|');
}

static bool takes_path(const kin_flag *f)
{
    return f->type == KIN_FLAG_TEXT &&
           (strstr(f->metavar, "FILE") || strstr(f->metavar, "DIR") || strstr(f->metavar, "PATH"));
}

/* True for the first row of its first word. */
static bool is_first(const kin_verb_row *r)
{
    return r == kin_verbs || strcmp(r[-1].name, r->name) != 0;
}

/* First words, or the second words that go with `first`. */
static void add_words(kin_strbuf *out, const char *first)
{
    for (const kin_verb_row *r = kin_verbs; r->name; r++)
        if (first ? r->second && !strcmp(r->name, first) : is_first(r))
            kin_strbuf_addf(out, " %s", first ? r->second : r->name);
}

static bool has_second(const char *first)
{
    for (const kin_verb_row *r = kin_verbs; r->name; r++)
        if (r->second && !strcmp(r->name, first))
            return true;
    return false;
}

/* ---- bash ---- */

static void bash_verb(const kin_verb_row *r, kin_strbuf *out)
{
    char words[64];
    kin_strbuf_addf(out, "    '%s')\n        case $before in\n", kin_verb_text(r, words));
    for (const kin_flag *f = kin_flags; f->name; f++) {
        if (!(f->verbs & r->verb) || f->type == KIN_FLAG_BOOL)
            continue;
        kin_strbuf_addf(out, "        --%s", f->name);
        if (f->letter)
            kin_strbuf_addf(out, "|-%c", f->letter);
        kin_strbuf_add(out, ") ");
        if (f->type == KIN_FLAG_CHOICE) {
            kin_strbuf_add(out, "COMPREPLY=($(compgen -W '");
            add_choices(out, f->metavar);
            kin_strbuf_add(out, "' -- \"$word\")); ");
        } else if (takes_folder(f)) {
            kin_strbuf_add(out, "COMPREPLY=($(compgen -d -- \"$word\")); ");
        }
        kin_strbuf_add(out, "return ;;\n");
    }
    kin_strbuf_add(out, "        esac\n        words='");
    for (const kin_flag *f = kin_flags; f->name; f++)
        if (f->verbs & r->verb)
            kin_strbuf_addf(out, " --%s", f->name);
    kin_strbuf_add(out, "' ;;\n");
}

void kin_completions_bash(kin_strbuf *out)
{
    kin_strbuf_add(out,
                   "# completion of kinema for bash, made from its table of flags\n"
                   "_kinema() {\n"
                   "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}\n"
                   "    local verb=${COMP_WORDS[1]} words=\n"
                   "    COMPREPLY=()\n"
                   "    if [ \"$COMP_CWORD\" = 1 ]; then\n"
                   "        COMPREPLY=($(compgen -W '");
    add_words(out, NULL);
    kin_strbuf_add(out, " --help --version' -- \"$word\"))\n        return\n    fi\n"
                        "    case $verb in\n");
    for (const kin_verb_row *r = kin_verbs; r->name; r++) {
        if (!is_first(r) || !has_second(r->name))
            continue;
        kin_strbuf_addf(out,
                        "    %s)\n        if [ \"$COMP_CWORD\" = 2 ]; then\n"
                        "            COMPREPLY=($(compgen -W '",
                        r->name);
        add_words(out, r->name);
        kin_strbuf_add(out, "' -- \"$word\"))\n            [ -n \"${word%%-*}\" ] && return\n"
                            "        elif [ \"${COMP_WORDS[2]#-}\" = \"${COMP_WORDS[2]}\" ]; then\n"
                            "            verb=\"$verb ${COMP_WORDS[2]}\"\n        fi ;;\n");
    }
    kin_strbuf_add(out, "    esac\n    case $verb in\n");
    for (const kin_verb_row *r = kin_verbs; r->name; r++)
        bash_verb(r, out);
    kin_strbuf_add(out, "    esac\n"
                        "    case $word in\n"
                        "    -*) COMPREPLY=($(compgen -W \"$words\" -- \"$word\")) ;;\n"
                        "    esac\n"
                        "}\n"
                        "complete -o default -F _kinema kinema\n");
}

/* ---- zsh ---- */

/* One specification of _arguments: '(-s --seed)'{-s,--seed}'[help]:N:'. */
static void zsh_flag(const kin_flag *f, kin_strbuf *out)
{
    kin_strbuf_add(out, " \\\n            ");
    if (f->letter)
        kin_strbuf_addf(out, "'(-%c --%s)'{-%c,--%s}'[", f->letter, f->name, f->letter, f->name);
    else
        kin_strbuf_addf(out, "'--%s[", f->name);
    add_quoted(out, f->help, "[]\\:");
    kin_strbuf_add(out, "]");
    if (f->type != KIN_FLAG_BOOL) {
        kin_strbuf_add(out, ":");
        add_quoted(out, f->type == KIN_FLAG_CHOICE ? f->name : f->metavar, "[]\\:");
        kin_strbuf_add(out, ":");
        if (f->type == KIN_FLAG_CHOICE) {
            kin_strbuf_add(out, "(");
            add_choices(out, f->metavar);
            kin_strbuf_add(out, ")");
        } else if (takes_path(f)) {
            kin_strbuf_add(out, takes_folder(f) ? "_files -/" : "_files");
        }
    }
    kin_strbuf_add(out, "'");
}

static void zsh_verb(const kin_verb_row *r, kin_strbuf *out)
{
    char words[64];
    kin_strbuf_addf(out, "    '%s')\n        _arguments", kin_verb_text(r, words));
    for (const kin_flag *f = kin_flags; f->name; f++)
        if (f->verbs & r->verb)
            zsh_flag(f, out);
    kin_strbuf_add(out, " \\\n            '*::file:_files' ;;\n");
}

/* The list that _describe shows: names with what they are. */
static void zsh_list(const char *first, kin_strbuf *out)
{
    for (const kin_verb_row *r = kin_verbs; r->name; r++) {
        if (first ? !r->second || strcmp(r->name, first) : !is_first(r))
            continue;
        kin_strbuf_addf(out, " '%s:", first ? r->second : r->name);
        if (first || !has_second(r->name))
            add_quoted(out, r->summary, "\\:");
        else
            add_words(out, r->name);
        kin_strbuf_add(out, "'");
    }
}

void kin_completions_zsh(kin_strbuf *out)
{
    kin_strbuf_add(out, "#compdef kinema\n"
                        "# completion of kinema for zsh, made from its table of flags\n"
                        "local -a verbs\n"
                        "local verb=${words[2]}\n"
                        "if (( CURRENT == 2 )); then\n    verbs=(");
    zsh_list(NULL, out);
    kin_strbuf_add(out, ")\n    _describe verb verbs\n    return\nfi\ncase $verb in\n");
    for (const kin_verb_row *r = kin_verbs; r->name; r++) {
        if (!is_first(r) || !has_second(r->name))
            continue;
        kin_strbuf_addf(out,
                        "%s)\n    if (( CURRENT == 3 )) && [[ $words[3] != -* ]]; then\n"
                        "        verbs=(",
                        r->name);
        zsh_list(r->name, out);
        kin_strbuf_add(out, ")\n        _describe verb verbs\n        return\n    fi\n"
                            "    if [[ $words[3] != -* ]]; then\n"
                            "        verb=\"$verb $words[3]\"\n        shift words\n"
                            "        (( CURRENT-- ))\n    fi ;;\n");
    }
    kin_strbuf_add(out, "esac\nshift words\n(( CURRENT-- ))\ncase $verb in\n");
    for (const kin_verb_row *r = kin_verbs; r->name; r++)
        zsh_verb(r, out);
    kin_strbuf_add(out, "esac\n");
}

/* ---- fish ---- */

static void fish_flag(const kin_verb_row *r, const kin_flag *f, kin_strbuf *out)
{
    char words[64];
    kin_strbuf_addf(out, "complete -c kinema -n '__kinema_at %s%s%s' -l %s",
                    kin_verb_text(r, words),
                    !r->second && has_second(r->name) ? "; and __kinema_one " : "",
                    !r->second && has_second(r->name) ? "word" : "", f->name);
    if (f->letter)
        kin_strbuf_addf(out, " -s %c", f->letter);
    if (f->type == KIN_FLAG_CHOICE) {
        kin_strbuf_add(out, " -xa '");
        add_choices(out, f->metavar);
        kin_strbuf_add(out, "'");
    } else if (f->type != KIN_FLAG_BOOL) {
        kin_strbuf_add(out, takes_folder(f) ? " -xa '(__fish_complete_directories)'"
                            : takes_path(f) ? " -rF"
                                            : " -x");
    }
    kin_strbuf_add(out, " -d '");
    add_quoted(out, f->help, "\\");
    kin_strbuf_add(out, "'\n");
}

void kin_completions_fish(kin_strbuf *out)
{
    kin_strbuf_add(out, "# completion of kinema for fish, made from its table of flags\n"
                        "# the words behind the program begin with these\n"
                        "function __kinema_at\n"
                        "    set -l words (commandline -opc)\n"
                        "    for i in (seq (count $argv))\n"
                        "        set -l k (math $i + 1)\n"
                        "        test \"$words[$k]\" = \"$argv[$i]\"; or return 1\n"
                        "    end\n"
                        "end\n"
                        "# ... and are these alone\n"
                        "function __kinema_only\n"
                        "    test (count (commandline -opc)) -eq (math (count $argv) + 1)\n"
                        "    and __kinema_at $argv\n"
                        "end\n"
                        "# the verb has no second word\n"
                        "function __kinema_one\n"
                        "    set -l words (commandline -opc)\n"
                        "    test (count $words) -lt 3; or string match -q -- '-*' $words[3]\n"
                        "end\n");
    for (const kin_verb_row *r = kin_verbs; r->name; r++) {
        if (is_first(r)) {
            kin_strbuf_addf(out, "complete -c kinema -n '__kinema_only' -f -a %s -d '", r->name);
            if (has_second(r->name))
                add_words(out, r->name);
            else
                add_quoted(out, r->summary, "\\");
            kin_strbuf_add(out, "'\n");
        }
        if (r->second) {
            kin_strbuf_addf(out, "complete -c kinema -n '__kinema_only %s' -f -a %s -d '", r->name,
                            r->second);
            add_quoted(out, r->summary, "\\");
            kin_strbuf_add(out, "'\n");
        }
        for (const kin_flag *f = kin_flags; f->name; f++)
            if (f->verbs & r->verb)
                fish_flag(r, f, out);
    }
}
