/* tests/faults/sweep.c: runs a command again and again, each time with another single fault, and
 * judges how it ends:
 *   fault_sweep alloc|file STRIDE TEMPLATE SCRATCH -- COMMAND...
 * Every run starts in SCRATCH as a copy of TEMPLATE. k goes over 1, 1+STRIDE, ... up to the number
 * of allocations (file calls) of an undisturbed run, whose files are what all others are compared
 * with. A run passes when it ends with 0 and the same files, or with 1 to 4, a message on standard
 * error, and only whole files under their final names; folders with a model_index.json or
 * state.json are whole or not there. The shim is KIN_FAULT_SHIM. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/path.h"

enum { TIMEOUT_S = 60, SHOWN = 12, REFUSED_AS_MEMORY = 4 };

typedef struct sweep {
    bool files; /* faults in file calls, else in allocations */
    const char *template, *scratch, *shim;
    char **command;
    char reference[KIN_PATH_MAX], err[KIN_PATH_MAX], count[KIN_PATH_MAX];
    long code[8]; /* runs that ended so; [7]: otherwise */
    long bad, tried;
} sweep;

static void die(const char *what)
{
    fprintf(stderr, "fault_sweep: %s: %s\n", what, strerror(errno));
    exit(2);
}

static int spawn(char *const argv[])
{
    int status = 0;
    const pid_t pid = fork();
    if (pid == 0) {
        execvp(argv[0], argv);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        die("fork");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void copy_tree(const char *from, const char *to)
{
    char *const remove[] = {"rm", "-rf", (char *)to, NULL};
    char *const copy[] = {"cp", "-a", (char *)from, (char *)to, NULL};
    if (spawn(remove) != 0 || spawn(copy) != 0)
        die("copy");
}

/* One run with fault k; the wait status. */
static int run(const sweep *s, long k)
{
    char number[32];
    int status = 0;
    snprintf(number, sizeof number, "%ld", k);
    copy_tree(s->template, s->scratch);
    unlink(s->count);
    const pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        const int out = open("/dev/null", O_RDWR),
                  err = open(s->err, O_WRONLY | O_CREAT | O_TRUNC, 0666);
        dup2(out, 0);
        dup2(out, 1);
        dup2(err, 2);
        if (chdir(s->scratch) != 0)
            _exit(126);
        setenv(s->files ? "KIN_FAULT_FILE" : "KIN_FAULT_ALLOC", number, 1);
        setenv("KIN_FAULT_COUNT", s->count, 1);
        if (s->files)
            setenv("LD_PRELOAD", s->shim, 1);
        execv(s->command[0], s->command);
        _exit(127);
    }
    for (int waited = 0; waitpid(pid, &status, WNOHANG) == 0; waited++) {
        const struct timespec pause = {0, 2000000};
        nanosleep(&pause, NULL);
        if (waited * 2 > TIMEOUT_S * 1000) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            return -1;
        }
    }
    return status;
}

static long read_count(const sweep *s)
{
    long n = 0;
    FILE *fp = fopen(s->count, "r");
    if (fp && fscanf(fp, "%ld", &n) != 1)
        n = 0;
    if (fp)
        fclose(fp);
    return n;
}

/* --- judging what lies there --- */

static bool same_file(const char *a, const char *b)
{
    char *da = NULL, *db = NULL;
    size_t na = 0, nb = 0;
    const bool same = kin_file_read(a, 1 << 28, &da, &na, NULL) == KIN_OK &&
                      kin_file_read(b, 1 << 28, &db, &nb, NULL) == KIN_OK && na == nb &&
                      memcmp(da, db, na) == 0;
    kin_free(da);
    kin_free(db);
    return same;
}

/* Files that hold times. */
static bool is_log(const char *name)
{
    return strcmp(kin_path_ext(name), "jsonl") == 0 ||
           strncmp(kin_path_base(name), "events.out.", 11) == 0;
}

static bool is_unit(const char *folder)
{
    char path[KIN_PATH_MAX];
    kin_path_join(path, folder, "model_index.json", NULL);
    if (kin_path_exists(path))
        return true;
    kin_path_join(path, folder, "state.json", NULL);
    return kin_path_exists(path);
}

/* Everything below `a` is below `b` too (whole: with the same bytes, logs apart); else why. */
static bool is_within(const char *a, const char *b, char *why)
{
    DIR *d = opendir(a);
    const struct dirent *e;
    bool ok = true;
    if (!d) {
        snprintf(why, KIN_PATH_MAX, "%s is missing", a);
        return false;
    }
    while (ok && (e = readdir(d))) {
        char pa[KIN_PATH_MAX], pb[KIN_PATH_MAX];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        kin_path_join(pa, a, e->d_name, NULL);
        kin_path_join(pb, b, e->d_name, NULL);
        if (!kin_path_exists(pb) || kin_path_is_dir(pa) != kin_path_is_dir(pb))
            ok = false;
        else if (kin_path_is_dir(pa)) {
            if (!is_within(pa, pb, why)) {
                closedir(d);
                return false;
            }
        } else {
            ok = is_log(pa) || same_file(pa, pb);
        }
        if (!ok)
            snprintf(why, KIN_PATH_MAX, "%s is not in or not the same as in %s", e->d_name, b);
    }
    closedir(d);
    return ok;
}

/* What an interrupted run may leave: its pictures and latents so far, the index of the clips that
 * are whole. */
static bool is_kept(const char *path)
{
    const char *name = kin_path_base(path);
    cJSON *index = NULL;
    if (strcmp(name, "wisa.json") == 0) {
        const bool list = kin_json_read(path, 1 << 24, KIN_JSON_STRICT, &index, NULL) == KIN_OK &&
                          cJSON_GetArraySize(index) > 0;
        cJSON_Delete(index);
        return list;
    }
    return strstr(name, ".npz.part") || strstr(name, ".latents.safetensors");
}

/* `latest` of a run names a checkpoint that is there. */
static bool names_folder(const char *folder, const char *file)
{
    char *text = NULL, path[KIN_PATH_MAX];
    size_t n = 0;
    if (strcmp(kin_path_base(file), "latest") != 0 ||
        kin_file_read(file, 256, &text, &n, NULL) != KIN_OK)
        return false;
    text[strcspn(text, "\n")] = 0;
    kin_path_join(path, folder, text, NULL);
    kin_free(text);
    return is_unit(path);
}

/* After an error: what is in the scratch folder (now) is whole, or was there before the run. */
static bool left_whole(const char *now, const char *reference, const char *before, char *why)
{
    DIR *d = opendir(now);
    const struct dirent *e;
    bool ok = true;
    if (is_unit(reference) && !is_within(reference, now, why)) {
        closedir(d);
        return false;
    }
    while (ok && (e = readdir(d))) {
        char p[KIN_PATH_MAX], r[KIN_PATH_MAX], b[KIN_PATH_MAX];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        kin_path_join(p, now, e->d_name, NULL);
        kin_path_join(r, reference, e->d_name, NULL);
        kin_path_join(b, before, e->d_name, NULL);
        if (kin_path_is_dir(p) && kin_path_is_dir(r)) {
            if (!left_whole(p, r, b, why)) {
                closedir(d);
                return false;
            }
            continue;
        }
        if (kin_path_is_dir(p))
            ok = is_within(p, b, why);
        else
            ok = is_log(p) || is_kept(p) || same_file(p, r) || same_file(p, b) ||
                 names_folder(now, p);
        if (!ok)
            snprintf(why, KIN_PATH_MAX, "%.3000s is left", p);
    }
    closedir(d);
    return ok;
}

static bool has_message(const sweep *s, char *line, size_t n)
{
    bool found = false;
    char text[1024];
    FILE *fp = fopen(s->err, "r");
    while (fp && fgets(text, sizeof text, fp)) {
        if (strncmp(text, "kinema: ", 8) == 0 && strlen(text) > 16) {
            found = true;
            snprintf(line, n, "%.*s", (int)strcspn(text, "\n"), text);
        }
    }
    if (fp)
        fclose(fp);
    return found;
}

static void judge(sweep *s, long k, int status)
{
    char why[KIN_PATH_MAX] = "", line[1024] = "no message";
    const int code = status >= 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 7;
    const bool message = has_message(s, line, sizeof line);
    bool ok;
    s->tried++;
    s->code[code < 7 ? code : 7]++;
    if (code == 0)
        ok = is_within(s->reference, s->scratch, why) && is_within(s->scratch, s->reference, why);
    else
        ok = code <= REFUSED_AS_MEMORY && message &&
             left_whole(s->scratch, s->reference, s->template, why);
    if (ok && code != 0 && !s->files && code != REFUSED_AS_MEMORY) {
        ok = false;
        snprintf(why, sizeof why, "an allocation that fails must end in code 4");
    }
    if (ok)
        return;
    if (s->bad++ < SHOWN) {
        printf("FAIL k %ld: status %s %d, %s; %s\n", k,
               status < 0            ? "hang"
               : WIFSIGNALED(status) ? "signal"
                                     : "code",
               status < 0            ? 0
               : WIFSIGNALED(status) ? WTERMSIG(status)
                                     : code,
               line, why);
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    sweep s = {.shim = getenv("KIN_FAULT_SHIM")};
    if (argc < 7 || strcmp(argv[5], "--") != 0 || !s.shim) {
        fprintf(stderr, "usage: fault_sweep alloc|file STRIDE TEMPLATE SCRATCH -- COMMAND...\n");
        return 2;
    }
    s.files = strcmp(argv[1], "file") == 0;
    const long stride = strtol(argv[2], NULL, 10);
    s.template = argv[3];
    s.scratch = argv[4];
    s.command = argv + 6;
    snprintf(s.reference, sizeof s.reference, "%s.reference", s.scratch);
    snprintf(s.err, sizeof s.err, "%s.err", s.scratch);
    snprintf(s.count, sizeof s.count, "%s.count", s.scratch);
    const int status = run(&s, 0);
    const long n = read_count(&s);
    if (status != 0 || n < 1 || stride < 1) {
        char *const show[] = {"cat", s.err, NULL};
        printf("FAIL the undisturbed run: status %d, %ld calls\n", status, n);
        fflush(stdout);
        spawn(show);
        return 1;
    }
    copy_tree(s.scratch, s.reference);
    for (long k = 1; k <= n; k += stride)
        judge(&s, k, run(&s, k));
    printf(
        "%s: %ld calls, %ld tried, %ld ended well, codes 0:%ld 1:%ld 2:%ld 3:%ld 4:%ld other:%ld\n",
        argv[1], n, s.tried, s.tried - s.bad, s.code[0], s.code[1], s.code[2], s.code[3], s.code[4],
        s.code[5] + s.code[6] + s.code[7]);
    return s.bad != 0;
}
