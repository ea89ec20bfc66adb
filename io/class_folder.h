/* io/class_folder.h: images sorted into one folder per class, as a folder or an uncompressed tar:
 * .../<part>/<class>/<name>.{jpg,jpeg,png}. */
#ifndef KIN_IO_CLASS_FOLDER_H
#define KIN_IO_CLASS_FOLDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "io/image.h"

typedef struct kin_class_item {
    int64_t class_id; /* position in the sorted class names */
    const char *name; /* path inside the set */
} kin_class_item;

typedef struct kin_class_folder kin_class_folder;

/* Lists the images of `parts` (names of the folder above the class folders, NULL-terminated), or,
 * parts NULL, of all class folders; the part "" is every image there is, also outside class folders
 * (class ""). Items are sorted by name; classes are numbered over all parts
 * together. Fails: KIN_ERR_IO, KIN_ERR_FORMAT (no image there), KIN_ERR_MEM. */
kin_status kin_class_folder_open(const char *path, const char *const *parts, kin_class_folder **out,
                                 kin_error *err);
void kin_class_folder_close(kin_class_folder **set);

int64_t kin_class_folder_classes(const kin_class_folder *set);
const char *kin_class_folder_class_name(const kin_class_folder *set, int64_t class_id);
int64_t kin_class_folder_count(const kin_class_folder *set);
/* True if item i belongs to this part. */
bool kin_class_folder_in(const kin_class_folder *set, int64_t i, const char *part);
const kin_class_item *kin_class_folder_at(const kin_class_folder *set, int64_t i);
/* Decodes item i. Free: kin_image_free. */
kin_status kin_class_folder_image(const kin_class_folder *set, int64_t i, kin_image *out,
                                  kin_error *err);

#endif
