#include "io/class_folder.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/path.h"
#include "io/tar.h"

enum { MAX_DEPTH = 8, MAX_ITEMS = 20000000 };

struct kin_class_folder {
    char path[KIN_PATH_MAX];
    kin_tar *tar; /* NULL: a folder */
    kin_class_item *items;
    int64_t count, cap;
    char **classes;
    int64_t class_count;
};

static bool is_image(const char *name)
{
    const char *ext = kin_path_ext(name);
    return strcasecmp(ext, "jpg") == 0 || strcasecmp(ext, "jpeg") == 0 ||
           strcasecmp(ext, "png") == 0;
}

/* The last folder of name[0..end), as a span; false if there is none. */
static bool last_part(const char *name, size_t end, size_t *start, size_t *length)
{
    size_t i = end;
    while (i > 0 && name[i - 1] != '/')
        i--;
    *start = i;
    *length = end - i;
    return *length > 0;
}

/* Class folder of an image path; false when it has none. */
static bool class_of(const char *name, size_t *start, size_t *length)
{
    const char *slash = strrchr(name, '/');
    return slash && last_part(name, (size_t)(slash - name), start, length);
}

/* True if the folder above the class folder has this name. */
static bool is_of_part(const char *name, const char *part)
{
    size_t start, length, s, n;
    return class_of(name, &start, &length) && start > 0 && last_part(name, start - 1, &s, &n) &&
           strlen(part) == n && memcmp(name + s, part, n) == 0;
}

static bool is_wanted(const char *name, const char *const *parts)
{
    size_t start, length;
    if (!is_image(name))
        return false;
    for (int i = 0; parts && parts[i]; i++)
        if (!parts[i][0] || is_of_part(name, parts[i]))
            return true;
    return !parts && class_of(name, &start, &length);
}

/* Takes a copy of the name of an image of the parts; passes over everything else. */
static kin_status add_item(kin_class_folder *set, const char *name, const char *const *parts,
                           kin_error *err)
{
    if (!is_wanted(name, parts))
        return KIN_OK;
    if (set->count == MAX_ITEMS)
        return kin_fail(err, KIN_ERR_FORMAT, "class folder: %s: more than %d images", set->path,
                        MAX_ITEMS);
    if (set->count == set->cap) {
        int64_t cap = set->cap ? set->cap * 2 : 256;
        kin_class_item *items = kin_realloc(set->items, (size_t)cap * sizeof *items);
        if (!items)
            return kin_fail(err, KIN_ERR_MEM, "class folder: %s: no memory", set->path);
        set->items = items;
        set->cap = cap;
    }
    char *copy = kin_strdup(name);
    if (!copy)
        return kin_fail(err, KIN_ERR_MEM, "class folder: %s: no memory", set->path);
    set->items[set->count++] = (kin_class_item){0, copy};
    return KIN_OK;
}

/* Walks one folder; `inside` is its path inside the set. */
static kin_status walk(kin_class_folder *set, const char *inside, const char *const *parts,
                       int depth, kin_error *err)
{
    kin_status status = KIN_OK;
    char path[KIN_PATH_MAX], name[KIN_PATH_MAX], full[KIN_PATH_MAX];
    if (depth > MAX_DEPTH)
        return KIN_OK;
    KIN_TRY(kin_path_join(path, set->path, inside, err));
    DIR *dir = opendir(path);
    if (!dir)
        return kin_fail(err, KIN_ERR_IO, "class folder: %s: %s", path, strerror(errno));
    for (struct dirent *e; status == KIN_OK && (e = readdir(dir));) {
        if (e->d_name[0] == '.')
            continue;
        KIN_GOTO(kin_path_join(name, inside, e->d_name, err));
        KIN_GOTO(kin_path_join(full, set->path, name, err));
        if (kin_path_is_dir(full))
            status = walk(set, name, parts, depth + 1, err);
        else
            status = add_item(set, name, parts, err);
    }
done:
    closedir(dir);
    return status;
}

static int compare_items(const void *a, const void *b)
{
    return strcmp(((const kin_class_item *)a)->name, ((const kin_class_item *)b)->name);
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static char *class_copy(const kin_class_item *item)
{
    size_t start = 0, length = 0;
    if (!class_of(item->name, &start, &length))
        length = 0;
    char *copy = kin_calloc(length + 1, 1);
    if (copy)
        memcpy(copy, item->name + start, length);
    return copy;
}

/* The distinct class names, sorted; every item gets its number. */
static kin_status number_classes(kin_class_folder *set, kin_error *err)
{
    size_t n = (size_t)set->count;
    kin_status status = KIN_OK;
    char **all = kin_calloc(n, sizeof *all);
    for (size_t i = 0; all && i < n; i++) {
        all[i] = class_copy(&set->items[i]);
        if (!all[i])
            status = KIN_ERR_MEM;
    }
    set->classes = kin_calloc(n, sizeof *set->classes);
    if (!all || !set->classes || status != KIN_OK) {
        status = kin_fail(err, KIN_ERR_MEM, "class folder: %s: no memory", set->path);
        goto done;
    }
    qsort(all, n, sizeof *all, compare_strings);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || strcmp(all[i], set->classes[set->class_count - 1]) != 0) {
            set->classes[set->class_count++] = all[i];
            all[i] = NULL;
        } else {
            kin_free(all[i]);
            all[i] = NULL;
        }
    for (size_t i = 0; i < n; i++) {
        char *name = class_copy(&set->items[i]);
        if (!name) {
            status = kin_fail(err, KIN_ERR_MEM, "class folder: %s: no memory", set->path);
            goto done;
        }
        char **at =
            bsearch(&name, set->classes, (size_t)set->class_count, sizeof *at, compare_strings);
        set->items[i].class_id = at - set->classes;
        kin_free(name);
    }
done:
    for (size_t i = 0; all && i < n; i++)
        kin_free(all[i]);
    kin_free(all);
    return status;
}

kin_status kin_class_folder_open(const char *path, const char *const *parts, kin_class_folder **out,
                                 kin_error *err)
{
    kin_status status;
    *out = NULL;
    if (strlen(path) >= KIN_PATH_MAX)
        return kin_fail(err, KIN_ERR_ARG, "class folder: path is too long");
    kin_class_folder *set = kin_calloc(1, sizeof *set);
    if (!set)
        return kin_fail(err, KIN_ERR_MEM, "class folder: %s: no memory", path);
    strcpy(set->path, path);
    if (kin_path_is_dir(path)) {
        KIN_GOTO(walk(set, "", parts, 0, err));
    } else {
        KIN_GOTO(kin_tar_open(path, &set->tar, err));
        for (int64_t i = 0; i < kin_tar_count(set->tar); i++)
            KIN_GOTO(add_item(set, kin_tar_at(set->tar, i)->name, parts, err));
    }
    if (set->count == 0) {
        status = kin_fail(err, KIN_ERR_FORMAT, "class folder: %s: holds no image%s%s", path,
                          parts ? " of part " : "", parts ? parts[0] : "");
        goto done;
    }
    qsort(set->items, (size_t)set->count, sizeof *set->items, compare_items);
    KIN_GOTO(number_classes(set, err));
done:
    if (status != KIN_OK)
        kin_class_folder_close(&set);
    *out = set;
    return status;
}

void kin_class_folder_close(kin_class_folder **folder)
{
    kin_class_folder *set = *folder;
    if (!set)
        return;
    for (int64_t i = 0; i < set->count; i++)
        kin_free((char *)(uintptr_t)set->items[i].name);
    for (int64_t i = 0; i < set->class_count; i++)
        kin_free(set->classes[i]);
    kin_free(set->items);
    kin_free(set->classes);
    kin_tar_close(&set->tar);
    kin_free(set);
    *folder = NULL;
}

int64_t kin_class_folder_classes(const kin_class_folder *set)
{
    return set->class_count;
}

const char *kin_class_folder_class_name(const kin_class_folder *set, int64_t class_id)
{
    return set->classes[class_id];
}

int64_t kin_class_folder_count(const kin_class_folder *set)
{
    return set->count;
}

bool kin_class_folder_in(const kin_class_folder *set, int64_t i, const char *part)
{
    return is_of_part(set->items[i].name, part);
}

const kin_class_item *kin_class_folder_at(const kin_class_folder *set, int64_t i)
{
    return &set->items[i];
}

kin_status kin_class_folder_image(const kin_class_folder *set, int64_t i, kin_image *out,
                                  kin_error *err)
{
    char where[2 * KIN_PATH_MAX];
    const char *name = set->items[i].name;
    *out = (kin_image){0};
    if (set->tar) {
        const kin_tar_entry *e = kin_tar_find(set->tar, name);
        snprintf(where, sizeof where, "%s: %s", set->path, name);
        return kin_image_decode(e->data, e->bytes, where, out, err);
    }
    KIN_TRY(kin_path_join(where, set->path, name, err));
    return kin_image_read(where, out, err);
}
