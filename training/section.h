/* training/section.h: reading of train.json. A value is checked, and its default written back, so
 * that the tree becomes the resolved configuration. Internal to training/. */
#ifndef KIN_TRAINING_SECTION_H
#define KIN_TRAINING_SECTION_H

#include "training/config.h"

/* A part of the tree under its name, for messages and defaults. */
typedef struct kin_section {
    cJSON *obj;
    const char *name;
    kin_error *err;
} kin_section;

/* Sets a member; takes value (NULL: out of memory). */
kin_status kin_section_put(const kin_section *s, const char *key, cJSON *value);
/* Numbers in [lo, hi]; absent: *v stays as it is and is written back. Fail: FORMAT, ARG. */
kin_status kin_section_i64(const kin_section *s, const char *key, int64_t lo, int64_t hi,
                           int64_t *v);
kin_status kin_section_f64(const kin_section *s, const char *key, double lo, double hi, double *v);
kin_status kin_section_f32(const kin_section *s, const char *key, double lo, double hi, float *v);
kin_status kin_section_bool(const kin_section *s, const char *key, bool *v);
/* A string of at most bytes-1 characters; absent: out stays as it is, and is written back if
 * `keep`. */
kin_status kin_section_str(const kin_section *s, const char *key, char *out, size_t bytes,
                           bool keep);
/* A path, relative to dir, made absolute and written back; absent: "". */
kin_status kin_section_path(const kin_section *s, const char *key, const char *dir,
                            char out[KIN_PATH_MAX]);
/* One of names, ended by NULL; *at: the default, then what was chosen. */
kin_status kin_section_pick(const kin_section *s, const char *key, const char *const *names,
                            int *at);
/* The member object `key`, made empty where it is absent; its keys must be known. */
kin_status kin_section_child(const kin_section *s, const char *key, const char *const *known,
                             kin_section *out);
/* The member object `key`, NULL where it is absent. */
kin_status kin_section_object(const kin_section *s, const char *key, const cJSON **out);

/* config_objective.c: sections optimizer and objective. */
kin_status kin_section_optimizer(const kin_section *root, kin_train_config *c);
/* "train", "lora" and "insert_gap" of a published model that is fine-tuned. */
kin_status kin_section_finetune(const kin_section *root, kin_train_config *c);
kin_status kin_section_objective(const kin_section *root, kin_train_config *c);

#endif
