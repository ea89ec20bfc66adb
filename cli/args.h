/* cli/args.h: the values of one call, read from its arguments. They are taken in this order: flag,
 * environment (KINEMA_NAME), settings file (-c), the user's configuration file, default. Prints
 * nothing. */
#ifndef KIN_CLI_ARGS_H
#define KIN_CLI_ARGS_H

#include <stdbool.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "base/status.h"
#include "cli/flags.h"

typedef enum kin_source {
    KIN_SOURCE_NONE = 0,
    KIN_SOURCE_DEFAULT,
    KIN_SOURCE_USER, /* the user's configuration file */
    KIN_SOURCE_FILE, /* -c */
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
    char *user_file;    /* path of the user's configuration, where one was read; owned */
    bool help, version; /* asked for; nothing else was checked then */
} kin_args;

/* Reads argv (argv[0] is the program). Settings files are read here too (not for train, whose -c is
 * the training configuration), and the user's configuration, $XDG_CONFIG_HOME/kinema/config.json
 * (~/.config where the variable is not set): names of settings as keys, for every verb that has
 * them; the name of a verb holds an object of its own ones, which win. Fails: KIN_ERR_ARG (unknown
 * verb or flag, with the nearest known one; a value outside its rule), KIN_ERR_FORMAT (settings
 * file), KIN_ERR_IO, KIN_ERR_MEM. */
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
/* Where each of them comes from: "flag", "KINEMA_STEPS", the name of a file, "default".
 * cJSON_Delete. */
kin_status kin_args_origins(const kin_args *a, cJSON **out, kin_error *err);

#endif
