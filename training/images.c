#include "training/images.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "io/class_folder.h"
#include "vision/crop.h"

struct kin_images {
    kin_class_folder *folder;
    int64_t *item; /* training images, then held-out ones */
    int64_t count, held_out;
};

static bool has_part(const kin_class_folder *folder, const char *part)
{
    for (int64_t i = 0; i < kin_class_folder_count(folder); i++)
        if (kin_class_folder_in(folder, i, part))
            return true;
    return false;
}

/* The parts to train on and to hold out; NULL: none is told apart. */
static void choose_parts(const kin_class_folder *all, const char *split, const char **train,
                         const char **held)
{
    static const char *const others[] = {"test", "val", "validation"};
    *train = split[0] ? split : has_part(all, "train") ? "train" : NULL;
    *held = NULL;
    for (int i = 0; *train && strcmp(*train, "train") == 0 && !*held && i < 3; i++)
        if (has_part(all, others[i]))
            *held = others[i];
}

static kin_status open_parts(kin_images *im, const char *path, const char *split,
                             const char **train, const char **held, kin_error *err)
{
    KIN_TRY(kin_class_folder_open(path, NULL, &im->folder, err));
    choose_parts(im->folder, split, train, held);
    if (!*train)
        return KIN_OK;
    /* note: opened again, so that other folders of the set name no classes */
    const char *const parts[] = {*train, *held, NULL};
    kin_class_folder_close(&im->folder);
    return kin_class_folder_open(path, parts, &im->folder, err);
}

/* `want` of the n numbers at list, evenly, to the front of out; the others (rest not NULL) to
 * rest. */
static void spread(const int64_t *list, int64_t n, int64_t want, int64_t *out, int64_t *rest)
{
    int64_t taken = 0, left = 0;
    for (int64_t i = 0; i < n; i++)
        if (taken < want && i == taken * n / want)
            out[taken++] = list[i];
        else if (rest)
            rest[left++] = list[i];
}

/* Fills item, count and held_out. */
static kin_status divide(kin_images *im, const char *held, int64_t want, kin_error *err)
{
    const int64_t all = kin_class_folder_count(im->folder);
    int64_t *list = kin_malloc((size_t)all * sizeof *list), n = 0;
    im->item = kin_malloc((size_t)all * sizeof *im->item);
    if (!list || !im->item) {
        kin_free(list);
        return kin_fail(err, KIN_ERR_MEM, "data: out of memory");
    }
    for (int64_t i = 0; held && i < all; i++)
        if (kin_class_folder_in(im->folder, i, held))
            list[n++] = i;
        else
            im->item[im->count++] = i;
    if (held && want == 0)
        want = n < KIN_IMAGES_HELD_OUT ? n : KIN_IMAGES_HELD_OUT;
    for (int64_t i = 0; !held && i < all; i++)
        list[n++] = i;
    const bool enough = held ? want <= n : want < n;
    if (enough) {
        im->held_out = want;
        im->count = held ? im->count : n - want;
        spread(list, n, want, im->item + im->count, held ? NULL : im->item);
    }
    kin_free(list);
    return enough ? KIN_OK
                  : kin_fail(err, KIN_ERR_ARG,
                             "data: held_out %" PRId64 " must leave some of %" PRId64 " images",
                             want, n);
}

kin_status kin_images_open(const char *path, const char *split, int64_t count, kin_source_note note,
                           void *user, kin_images **out, kin_error *err)
{
    const char *train = NULL, *held = NULL;
    char text[256];
    *out = NULL;
    kin_images *im = kin_calloc(1, sizeof *im);
    if (!im)
        return kin_fail(err, KIN_ERR_MEM, "data: out of memory");
    kin_status status = open_parts(im, path, split, &train, &held, err);
    if (status == KIN_OK)
        status = divide(im, held, count, err);
    if (status != KIN_OK) {
        kin_images_close(&im);
        return status;
    }
    snprintf(text, sizeof text,
             "data: %" PRId64 " images%s%.60s in %" PRId64 " classes, %" PRId64 " held out%s%.60s",
             im->count, train ? " of " : "", train ? train : "", kin_images_classes(im),
             im->held_out, held ? " of " : "", held ? held : "");
    if (note)
        note(user, text);
    *out = im;
    return KIN_OK;
}

void kin_images_close(kin_images **pim)
{
    kin_images *im = *pim;
    if (!im)
        return;
    kin_class_folder_close(&im->folder);
    kin_free(im->item);
    kin_free(im);
    *pim = NULL;
}

int64_t kin_images_count(const kin_images *im, bool held_out)
{
    return held_out ? im->held_out : im->count;
}

int64_t kin_images_classes(const kin_images *im)
{
    return kin_class_folder_classes(im->folder);
}

const char *kin_images_class_name(const kin_images *im, int64_t class_id)
{
    return kin_class_folder_class_name(im->folder, class_id);
}

static int64_t item_of(const kin_images *im, bool held_out, int64_t i)
{
    return im->item[held_out ? im->count + i : i];
}

const char *kin_images_name(const kin_images *im, bool held_out, int64_t i)
{
    return kin_class_folder_at(im->folder, item_of(im, held_out, i))->name;
}

int32_t kin_images_label(const kin_images *im, bool held_out, int64_t i)
{
    return (int32_t)kin_class_folder_at(im->folder, item_of(im, held_out, i))->class_id;
}

kin_status kin_images_read(const kin_images *im, bool held_out, int64_t i, kin_tensor *dst,
                           kin_error *err)
{
    kin_image image;
    KIN_TRY(kin_class_folder_image(im->folder, item_of(im, held_out, i), &image, err));
    kin_tensor src = kin_image_tensor(&image);
    kin_status status = kin_adm_crop(&src, dst, err);
    kin_image_free(&image);
    return status == KIN_OK ? status : kin_fail_prefix(err, "%s", kin_images_name(im, held_out, i));
}

void kin_images_flip(uint8_t *pixels, int64_t rows, int64_t width)
{
    for (int64_t y = 0; y < rows; y++, pixels += width * 3)
        for (int64_t l = 0, r = width - 1; l < r; l++, r--)
            for (int c = 0; c < 3; c++) {
                const uint8_t t = pixels[3 * l + c];
                pixels[3 * l + c] = pixels[3 * r + c];
                pixels[3 * r + c] = t;
            }
}
