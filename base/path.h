/* base/path.h: paths, whole-file reads, and files that appear under their final name only when
 * complete. */
#ifndef KIN_BASE_PATH_H
#define KIN_BASE_PATH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

enum { KIN_PATH_MAX = 4096 };

/* out = dir + "/" + name (name alone when dir is NULL, empty, or name is absolute). KIN_ERR_ARG if
 * it does not fit. */
kin_status kin_path_join(char out[KIN_PATH_MAX], const char *dir, const char *name, kin_error *err);
/* out = the directory part of path ("." if none). */
kin_status kin_path_dir(char out[KIN_PATH_MAX], const char *path, kin_error *err);
const char *kin_path_base(const char *path); /* the part after the last '/' */
const char *kin_path_ext(const char *path); /* extension without dot of the base name, "" if none */
bool kin_path_exists(const char *path);
bool kin_path_is_dir(const char *path);
/* True for a relative path that cannot leave its folder (no leading '/', no ".." part, no empty
 * name, no NUL). */
bool kin_path_is_inside(const char *path);
/* mkdir -p. */
kin_status kin_path_make_dirs(const char *path, kin_error *err);
/* rm -r of one directory of ours (does not follow links). */
kin_status kin_path_remove_tree(const char *path, kin_error *err);

/* Reads a whole regular file of at most max_bytes into a kin_malloc block (one zero byte is added
 * after it). */
kin_status kin_file_read(const char *path, size_t max_bytes, char **data, size_t *bytes,
                         kin_error *err);

/* A file being written: `path`.tmp.PID first; commit = flush, fsync, rename, fsync of the folder.
 */
typedef struct kin_file_out {
    FILE *fp;
    char path[KIN_PATH_MAX];
    char temp[KIN_PATH_MAX];
} kin_file_out;
kin_status kin_file_out_open(kin_file_out *f, const char *path, kin_error *err);
kin_status kin_file_out_commit(kin_file_out *f,
                               kin_error *err); /* on failure the temp file is gone too */
void kin_file_out_abort(kin_file_out *f);       /* removes the temp file; safe when not open */
/* Whole file at once through kin_file_out. */
kin_status kin_file_write(const char *path, const void *data, size_t bytes, kin_error *err);
/* fsync of a directory. */
kin_status kin_path_sync_dir(const char *dir, kin_error *err);
/* True if the free space of the file system holding path is at least `bytes`. */
bool kin_path_has_space(const char *path, uint64_t bytes);

/* Path of `name` in the user's cache: what the environment variable `own` says ("none": nothing),
 * else $XDG_CACHE_HOME/kinema/name, else ~/.cache/kinema/name. False: nowhere. */
bool kin_path_cache(char out[KIN_PATH_MAX], const char *own, const char *name);

#endif
