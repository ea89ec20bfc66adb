/* cli/classes.h: which class each image of a batch shows: from --class, --class-file and
 * --balanced. The class of image i is a function of the seed and i alone. */
#ifndef KIN_CLI_CLASSES_H
#define KIN_CLI_CLASSES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct kin_classes {
    int32_t *list; /* [n], owned */
    int64_t n;
    bool in_turn; /* image i shows list[i % n]; else one drawn evenly from (seed, i) */
} kin_classes;

/* The classes of a list "3", "0-9", "1,5,7-9" or of names. num: classes of the model. names [num]:
 * NULL for a class without one; several names of a class are parted by commas, as diffusers' DiT
 * models have them; all of them together are a name too, but in a list. Fails: KIN_ERR_ARG naming
 * the item (and the nearest name), KIN_ERR_MEM. Free: kin_classes_free. */
kin_status kin_classes_from_list(const char *list, int64_t num, const char *const *names,
                                 kin_classes *out, kin_error *err);
/* The same from the text of a file with one class (number or name) a line; in_turn is set. `where`
 * names it in errors. Fails: KIN_ERR_FORMAT with the line, KIN_ERR_MEM. */
kin_status kin_classes_from_lines(const char *text, const char *where, int64_t num,
                                  const char *const *names, kin_classes *out, kin_error *err);
/* All classes 0..num-1. */
kin_status kin_classes_all(int64_t num, kin_classes *out, kin_error *err);
void kin_classes_free(kin_classes *c); /* sets {0}; safe on {0} */

/* Lines of the text that hold anything but blanks. */
int64_t kin_classes_count_lines(const char *text);
/* The class of image `index` (0 when there are no classes). */
int32_t kin_classes_at(const kin_classes *c, uint64_t seed, int64_t index);
/* 64 bits that differ where the classes or their order do (FNV-1a). */
uint64_t kin_classes_hash(const kin_classes *c);

#endif
