/* training/images.h: labelled images as training samples: which of a set of class folders are for
 * training and which are held out, and one of them at the size of the samples (ADM's crop). */
#ifndef KIN_TRAINING_IMAGES_H
#define KIN_TRAINING_IMAGES_H

#include "training/source.h"

typedef struct kin_images kin_images;

/* split: part of the set (folder above the class folders) to train on; "": `train` where the set
 * has such a part, else all images. Held out are `count` images of the set's other part (`test`,
 * else `val`, else `validation`; count 0: all, at most KIN_IMAGES_HELD_OUT) where it has `train`
 * and one of these, else `count` of the training images; both spread over the classes. note: told
 * which parts are taken. Fails: IO, FORMAT, ARG (nothing is left for training), MEM. */
enum { KIN_IMAGES_HELD_OUT = 2048 };
kin_status kin_images_open(const char *path, const char *split, int64_t count, kin_source_note note,
                           void *user, kin_images **out, kin_error *err);
void kin_images_close(kin_images **im);

int64_t kin_images_count(const kin_images *im, bool held_out);
int64_t kin_images_classes(const kin_images *im);
const char *kin_images_class_name(const kin_images *im, int64_t class_id);
/* Path of image i inside the set, and its class. */
const char *kin_images_name(const kin_images *im, bool held_out, int64_t i);
int32_t kin_images_label(const kin_images *im, bool held_out, int64_t i);
/* Image i, cropped to the size of dst u8 [s,s,3]. Fails: IO, FORMAT (named), SHAPE, MEM. */
kin_status kin_images_read(const kin_images *im, bool held_out, int64_t i, kin_tensor *dst,
                           kin_error *err);

/* Mirrors pixels u8 [n,width,3] left to right in place. */
void kin_images_flip(uint8_t *pixels, int64_t rows, int64_t width);

#endif
