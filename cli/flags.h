/* cli/flags.h: the one table of verbs and flags. Parsing, help and the saved settings all come from
 * it. Values are taken in this order: flag, environment (KINEMA_NAME), settings file (-c), default.
 * Prints nothing. */
#ifndef KIN_CLI_FLAGS_H
#define KIN_CLI_FLAGS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <cjson/cJSON.h>

#include "base/status.h"

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
    KIN_VERB_ALL = 8191
} kin_verb;

typedef enum kin_flag_type {
    KIN_FLAG_BOOL,
    KIN_FLAG_TEXT,
    KIN_FLAG_INT,   /* whole number in [lo, hi] */
    KIN_FLAG_REAL,  /* finite number in [lo, hi] */
    KIN_FLAG_CHOICE /* one of `metavar`, "a|b|c" */
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
const kin_flag *kin_flag_table(void);
const kin_verb_row *kin_verb_table(void);

typedef enum kin_source {
    KIN_SOURCE_NONE = 0,
    KIN_SOURCE_DEFAULT,
    KIN_SOURCE_FILE,
    KIN_SOURCE_ENV,
    KIN_SOURCE_FLAG
} kin_source;

typedef struct kin_value {
    kin_source source;
    char *text; /* as given; owned */
    bool flag;
    int64_t integer;
    double real;
} kin_value;

enum { KIN_ARGS_MAX = 160 };

/* The values of one call. Initialise with {0}. */
typedef struct kin_args {
    const kin_verb_row *verb;      /* NULL: none was named */
    kin_value value[KIN_ARGS_MAX]; /* by row of the table */
    const char
        *positional;    /* plain argument that stands for no flag; borrowed from argv; NULL: none */
    bool help, version; /* asked for; nothing else was checked then */
} kin_args;

/* Reads argv (argv[0] is the program). Settings files are read here too (not for train, whose -c is
 * the training configuration). Fails: KIN_ERR_ARG (unknown verb or flag, with the nearest known
 * one; a value outside its rule), KIN_ERR_FORMAT (settings file), KIN_ERR_IO, KIN_ERR_MEM. */
kin_status kin_args_parse(int argc, char *const *argv, kin_args *out, kin_error *err);
void kin_args_free(kin_args *a);

/* The value of a flag of this verb; a name that the table lacks for the verb is our own bug
 * (assert). */
const char *kin_args_text(const kin_args *a, const char *name); /* NULL: not given and no default */
int64_t kin_args_int(const kin_args *a, const char *name); /* 0 when not given and no default */
double kin_args_real(const kin_args *a, const char *name); /* 0 likewise */
bool kin_args_bool(const kin_args *a, const char *name);
kin_source kin_args_source(const kin_args *a, const char *name);

/* All settings that have a value, as a settings file holds them. cJSON_Delete. */
kin_status kin_args_settings(const kin_args *a, cJSON **out, kin_error *err);

/* Help of one verb, or of the program (verb NULL). */
void kin_args_help(const kin_verb_row *verb, FILE *to);

#endif
