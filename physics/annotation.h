/* physics/annotation.h: physical annotations of WISA records -> prior, quantities, prompt text.
 * Two readings: the official one, exact to the letter with its errors (360CVGroup/WISA fcdc0b1,
 * load_prompt_json, process_phys_priori, split_to_coefficient_and_exponent), and a tolerant one
 * that reports everything it mends. */
#ifndef KIN_PHYSICS_ANNOTATION_H
#define KIN_PHYSICS_ANNOTATION_H

#include <cjson/cJSON.h>

#include "base/status.h"
#include "physics/taxonomy.h"

/* What a model is told of the physics of one clip. */
typedef struct kin_physics_prior {
    float prior[KIN_PHYS_CATEGORIES]; /* 0 or 1 */
    float quant[KIN_PHYS_QUANTITIES]; /* see KIN_PHYS_QUANTITIES; g/cm3, seconds, degrees Celsius */
    char *caption;        /* prompt text = caption + law without separator; owned, may be NULL */
    size_t caption_bytes; /* length of the caption part of `caption`; the law follows it */
} kin_physics_prior;
void kin_physics_prior_free(kin_physics_prior *p); /* frees the text and zeroes everything */

/* How the official parser ends; the names are Python's. */
typedef enum kin_py_error {
    KIN_PY_OK = 0,
    KIN_PY_SKIPPED, /* record without n0: left out, no error */
    KIN_PY_KEY_ERROR,
    KIN_PY_UNBOUND_LOCAL_ERROR, /* n1 has no value and there is no record before */
    KIN_PY_OVERFLOW_ERROR,      /* infinite time or temperature */
    KIN_PY_VALUE_ERROR,         /* NaN time or temperature */
    KIN_PY_ZERO_DIVISION_ERROR, /* |x| below 10^-323 */
    KIN_PY_RUNTIME_ERROR,       /* a density beyond float32 */
    KIN_PY_TYPE_ERROR,
    KIN_PY_ATTRIBUTE_ERROR
} kin_py_error;
/* "KeyError", "skipped: record without n0", ...; NULL for KIN_PY_OK. */
const char *kin_py_error_name(kin_py_error e);

/* The value of n1 that a record without one silently inherits in one file; {0} at the start of a
 * file. */
typedef struct kin_annotation_carry {
    int set;
    double lo, hi;
} kin_annotation_carry;

/* Official reading of an inference record (flat: n0 n1 n2 q0..q4 phys_law and detail_caption or
 * en_caption). carry: NULL for a record alone. *py says how the official script ends; unless it is
 * KIN_PY_OK, *out is zeroed. Fails only with KIN_ERR_ARG (record no object) and KIN_ERR_MEM. Free
 * *out. */
kin_status kin_annotation_official(const cJSON *record, kin_annotation_carry *carry,
                                   kin_physics_prior *out, kin_py_error *py, kin_error *err);

/* Official reading of a training record: q0..q4 and quantify_n0, _n1, _n2 of `physical_annotation`,
 * prompt = captions + phys_law. No text of n0..n2 is parsed. Fails: KIN_ERR_FORMAT (names the key),
 * KIN_ERR_MEM. */
kin_status kin_annotation_official_training(const cJSON *record, kin_physics_prior *out,
                                            kin_error *err);

/* Everything the tolerant reading mends is reported. */
typedef enum kin_annotation_note {
    KIN_NOTE_FALLBACK, /* a default or another source was used (n2 -> 20 to 25, n1 -> duration, text
                          for quantify_*) */
    KIN_NOTE_ALIAS,    /* a phrase or label in another spelling was taken for the official one */
    KIN_NOTE_DROP /* something was left out (an unreadable density, a sixth object, an answer nobody
                     knows) */
} kin_annotation_note;
const char *kin_annotation_note_name(kin_annotation_note kind); /* "fallback", "alias", "drop" */

typedef struct kin_annotation_options {
    bool strict; /* every note is an error (KIN_ERR_FORMAT) with the note's text */
    void (*note)(void *user, kin_annotation_note kind, const char *field,
                 const char *text); /* may be NULL */
    void *user;
} kin_annotation_options;

/* Tolerant reading of either form: a training record (has physical_annotation) or an inference
 * record (flat). Whatever the official reading takes gives the same prior and quantities here.
 * Beyond it: phrases match whatever their case and in known other spellings; densities also as
 * "1.2-1.6 g/cm3" or "kg/m³"; a single time t, in s, ms, minutes or hours, means 0 to t; a time
 * that cannot be read falls back on `duration`; a single temperature t means t to t; missing
 * quantify_* are read from the text. options NULL: not strict, no notes. Fails: KIN_ERR_FORMAT
 * (field and rule), KIN_ERR_MEM. Free *out. */
kin_status kin_annotation_read(const cJSON *record, const kin_annotation_options *options,
                               kin_physics_prior *out, kin_error *err);

/* x = coefficient * 10^exponent, exponent = floor(log10|x|), in double; 0 -> (0,0). x must be
 * finite. */
void kin_quantity_split(double x, double *coefficient, double *exponent);

/* The 18 quantities of `objects` densities (g/cm3, [lo,hi] each; the first five count), a time span
 * in seconds and a temperature span in degrees Celsius. */
void kin_quantities_pack(int objects, const double (*density)[2], const double time[2],
                         const double temperature[2], float quant[KIN_PHYS_QUANTITIES]);

#endif
