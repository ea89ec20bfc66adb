/* cli/flags.h: the one table of verbs and flags. Parsing (args.h), help, man pages, completions
 * (help.h) and the saved settings all come from it. */
#ifndef KIN_CLI_FLAGS_H
#define KIN_CLI_FLAGS_H

#include <stdbool.h>

typedef enum kin_verb {
    KIN_VERB_NONE = 0,
    KIN_VERB_GENERATE = 1,
    KIN_VERB_TRAIN = 2,
    KIN_VERB_SIMULATE = 4,
    KIN_VERB_CHECK = 8,
    KIN_VERB_EVALUATE = 16,
    KIN_VERB_INSPECT = 32,
    KIN_VERB_CONVERT = 64,
    KIN_VERB_BENCH_OPS = 128,
    KIN_VERB_BENCH_MODEL = 256,
    KIN_VERB_BENCH_TRAIN = 512,
    KIN_VERB_BENCH_SCALING = 1024,
    KIN_VERB_BENCH = 2048, /* without a second word: --calibrate */
    KIN_VERB_CACHE = 4096,
    KIN_VERB_PLOT = 8192,
    KIN_VERB_ALL = 16383
} kin_verb;

typedef enum kin_flag_type {
    KIN_FLAG_BOOL,
    KIN_FLAG_TEXT,
    KIN_FLAG_INT,    /* whole number in [lo, hi] */
    KIN_FLAG_REAL,   /* finite number in [lo, hi] */
    KIN_FLAG_CHOICE, /* one of `metavar`, "a|b|c" */
    KIN_FLAG_SIZE    /* whole number in [lo, hi] or "auto"; the flag alone means auto */
} kin_flag_type;

/* One row. The same name may stand in several rows for different verbs. */
typedef struct kin_flag {
    const char *name; /* without the dashes */
    char letter;      /* 0: no short form */
    kin_flag_type type;
    const char *metavar;  /* shown in help; choices: the words */
    const char *standard; /* default as text, NULL: none */
    double lo, hi;
    unsigned verbs; /* set of kin_verb */
    bool setting; /* part of the saved settings, may stand in a settings file and the environment */
    const char *help;
} kin_flag;

/* One verb as the user types it. */
typedef struct kin_verb_row {
    kin_verb verb;
    const char *name, *second; /* "dataset", "simulate"; second NULL for one-word verbs */
    const char *positional;    /* shown in help, NULL: none is taken */
    const char
        *stands_for; /* the flag that the plain argument gives, NULL: it is kin_args.positional */
    const char *summary;
} kin_verb_row;

/* Rows end with name NULL. */
extern const kin_flag kin_flags[];
extern const kin_verb_row kin_verbs[];

/* "dataset simulate" into buf; returns buf. */
const char *kin_verb_text(const kin_verb_row *v, char buf[64]);
/* Row of the table with this name (letter) for the verb, or -1. */
int kin_flag_find(unsigned verb, const char *name);
int kin_flag_find_letter(unsigned verb, char letter);
/* True for the flag -c of a verb that takes a settings file there (others take another file). */
bool kin_flag_is_settings(const kin_flag *f);
/* The name of the environment variable of a setting: "KINEMA_CFG_SCALE". Returns buf. */
const char *kin_flag_variable(const kin_flag *f, char buf[96]);

#endif
