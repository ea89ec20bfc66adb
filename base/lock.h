/* base/lock.h: one process at a time on an output. The lock is the kernel's (flock): it ends with
 * its process, however that ends, so that nothing stale is ever left. */
#ifndef KIN_BASE_LOCK_H
#define KIN_BASE_LOCK_H

#include <stdbool.h>

#include "base/path.h"

/* Locks the open file. False if another open file holds it; a file system without locks counts as
 * locked. */
bool kin_lock_file(int fd);
/* True if the file behind fd still has the name `path`. */
bool kin_lock_is_current(int fd, const char *path);
/* The process that holds the lock of the file, 0: unknown (Linux: /proc/locks). */
long kin_lock_holder(int fd);
/* "process 123" or "another process". Returns buf. */
const char *kin_lock_describe(int fd, char *buf, size_t bytes);

/* A folder that one process works on. */
typedef struct kin_lock {
    int fd; /* of FOLDER/.lock; -1: not held */
    char path[KIN_PATH_MAX];
} kin_lock;
#define KIN_LOCK_NONE ((kin_lock){.fd = -1})

/* Locks a folder that is there by its file .lock, and removes the temporary files (kin_file_out)
 * that killed processes left in it. Fails: IO, naming the process that holds it. */
kin_status kin_lock_folder(kin_lock *lock, const char *folder, kin_error *err);
/* Gives it up and removes the file; safe on KIN_LOCK_NONE. */
void kin_lock_release(kin_lock *lock);

#endif
