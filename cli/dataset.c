/* cli/dataset.c: `kinema dataset simulate`: clips of real simulation as a WISA-style set. Worker
 * threads take clip numbers from one counter; a clip depends on (options, seed, number) alone, so
 * the set has the same bytes for any -t. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/text.h"
#include "cli/common.h"
#include "cli/signals.h"
#include "io/video.h"
#include "physics/simulate.h"

typedef struct simulation {
    kin_sim_options options;
    uint64_t seed;
    int64_t count;
    const char *dir;
    char **records; /* [count] JSON text, NULL: not made */
    atomic_long next;
    atomic_long done;
    atomic_int stop;
    int workers; /* still running; guarded by lock */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    kin_error error; /* first failure; guarded by lock */
} simulation;

/* Small file under its final name only when complete; no fsync: wisa.json, written last, completes
 * the set. */
static kin_status write_text(const char *path, const char *text, kin_error *err)
{
    char temp[KIN_PATH_MAX];
    int n = snprintf(temp, sizeof temp, "%s.tmp.%ld", path, (long)getpid());
    if (n < 0 || (size_t)n >= sizeof temp)
        return kin_fail(err, KIN_ERR_ARG, "%s: the path is too long", path);
    FILE *f = fopen(temp, "wb");
    bool ok = f && fputs(text, f) >= 0 && fputc('\n', f) != EOF;
    ok = (!f || fclose(f) == 0) && ok && rename(temp, path) == 0;
    if (ok)
        return KIN_OK;
    remove(temp);
    return kin_fail(err, KIN_ERR_IO, "%s: write failed", path);
}

static kin_status clip_path(const simulation *s, const char *pattern, int64_t index,
                            char out[KIN_PATH_MAX], kin_error *err)
{
    char name[128];
    snprintf(name, sizeof name, pattern, (long long)index);
    return kin_path_join(out, s->dir, name, err);
}

static kin_status write_video(const simulation *s, int64_t index, const kin_sim_clip *clip,
                              kin_error *err)
{
    char path[KIN_PATH_MAX];
    kin_video_params params = kin_video_params_default();
    const kin_sim_truth *t = &clip->truth;
    params.width = t->width;
    params.height = t->height;
    params.crf = 12;
    params.chroma_444 = true; /* colours of small objects survive */
    KIN_TRY(kin_video_fps(t->fps, &params.fps_num, &params.fps_den, err));
    KIN_TRY(clip_path(s, "videos/%06lld.mp4", index, path, err));
    kin_tensor frames = KIN_TENSOR(clip->frames, KIN_DTYPE_U8, t->frames, t->height, t->width, 3);
    return kin_video_write(path, &params, &frames, err);
}

/* The record's text into *record (kin_free), and truth/NNNNNN.json. */
static kin_status write_texts(const simulation *s, int64_t index, const kin_sim_clip *clip,
                              char **record, kin_error *err)
{
    char path[KIN_PATH_MAX], id[32], file[64];
    cJSON *json = NULL, *truth = NULL;
    char *text = NULL, *truth_text = NULL;
    kin_status status = KIN_OK;
    snprintf(id, sizeof id, "%06lld", (long long)index);
    snprintf(file, sizeof file, "videos/%s.mp4", id);
    KIN_GOTO(kin_sim_record_json(clip, id, file, &json, err));
    KIN_GOTO(kin_sim_truth_json(clip, &truth, err));
    text = cJSON_PrintUnformatted(json);
    truth_text = cJSON_PrintUnformatted(truth);
    *record = text ? kin_strdup(text) : NULL;
    if (!*record || !truth_text)
        KIN_GOTO(kin_fail(err, KIN_ERR_MEM, "dataset simulate: out of memory"));
    KIN_GOTO(clip_path(s, "truth/%06lld.json", index, path, err));
    KIN_GOTO(write_text(path, truth_text, err));
done:
    cJSON_free(text);
    cJSON_free(truth_text);
    cJSON_Delete(json);
    cJSON_Delete(truth);
    return status;
}

static kin_status make_clip(simulation *s, int64_t index, kin_error *err)
{
    kin_sim_clip clip;
    char *record = NULL;
    KIN_TRY(kin_simulate_clip(&s->options, s->seed, (uint64_t)index, &clip, err));
    kin_status status = write_video(s, index, &clip, err);
    if (status == KIN_OK)
        status = write_texts(s, index, &clip, &record, err);
    if (status == KIN_OK)
        s->records[index] = record;
    else
        kin_free(record);
    kin_sim_clip_free(&clip);
    return status;
}

static void *worker(void *user)
{
    simulation *s = user;
    while (!atomic_load(&s->stop)) {
        long index = atomic_fetch_add(&s->next, 1);
        if (index >= s->count)
            break;
        kin_error err = {0};
        if (make_clip(s, index, &err) != KIN_OK) {
            atomic_store(&s->stop, 1);
            pthread_mutex_lock(&s->lock);
            if (s->error.status == KIN_OK)
                s->error = err;
            pthread_mutex_unlock(&s->lock);
            break;
        }
        atomic_fetch_add(&s->done, 1);
    }
    pthread_mutex_lock(&s->lock);
    s->workers--;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* Shows progress and looks for signals until all workers are through. */
static void watch(simulation *s, kin_progress *progress)
{
    pthread_mutex_lock(&s->lock);
    while (s->workers > 0) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += 100000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&s->changed, &s->lock, &until);
        pthread_mutex_unlock(&s->lock);
        if (kin_signals_caught())
            atomic_store(&s->stop, 1);
        kin_progress_update(progress, atomic_load(&s->done), NULL, false);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
}

static kin_status run_workers(simulation *s, int threads, kin_progress *progress, kin_error *err)
{
    pthread_t *thread = kin_calloc((size_t)threads, sizeof *thread);
    int started = 0;
    if (!thread)
        return kin_fail(err, KIN_ERR_MEM, "dataset simulate: out of memory");
    s->workers = threads;
    while (started < threads && pthread_create(&thread[started], NULL, worker, s) == 0)
        started++;
    pthread_mutex_lock(&s->lock);
    s->workers -= threads - started;
    pthread_mutex_unlock(&s->lock);
    if (started)
        watch(s, progress);
    for (int i = 0; i < started; i++)
        pthread_join(thread[i], NULL);
    kin_free(thread);
    if (!started)
        return kin_fail(err, KIN_ERR_MEM, "dataset simulate: no thread could be started");
    if (s->error.status != KIN_OK) {
        *err = s->error;
        return err->status;
    }
    return KIN_OK;
}

/* wisa.json with the records made so far, in order; *made counts them. Without any there is none,
 * so that the same command can be given again. */
static kin_status write_index(const simulation *s, int64_t *made, kin_error *err)
{
    char path[KIN_PATH_MAX];
    kin_file_out f;
    *made = 0;
    KIN_TRY(kin_path_join(path, s->dir, "wisa.json", err));
    bool any = false;
    for (int64_t i = 0; i < s->count && !any; i++)
        any = s->records[i] != NULL;
    if (!any)
        return KIN_OK;
    KIN_TRY(kin_file_out_open(&f, path, err));
    for (int64_t i = 0; i < s->count; i++)
        if (s->records[i])
            fprintf(f.fp, "%s%s", (*made)++ ? ",\n" : "[\n", s->records[i]);
    fputs("\n]\n", f.fp);
    return kin_file_out_commit(&f, err);
}

/* The folders; refuses one that holds a set already unless --force, and takes that set's index away
 * first. */
static kin_status prepare_folder(const kin_args *args, const char *dir, kin_error *err)
{
    static const char *const sub[] = {"videos", "truth"};
    char path[KIN_PATH_MAX];
    KIN_TRY(kin_path_join(path, dir, "wisa.json", err));
    if (kin_path_exists(path)) {
        if (!kin_args_bool(args, "force"))
            return kin_fail(err, KIN_ERR_ARG,
                            "dataset simulate: %s already holds a set (--force writes over it)",
                            dir);
        if (remove(path))
            return kin_fail(err, KIN_ERR_IO, "%s: cannot be removed", path);
    }
    for (size_t i = 0; i < sizeof sub / sizeof sub[0]; i++) {
        KIN_TRY(kin_path_join(path, dir, sub[i], err));
        KIN_TRY(kin_path_make_dirs(path, err));
    }
    return KIN_OK;
}

static kin_status options_from(const kin_args *args, kin_sim_options *o, kin_error *err)
{
    kin_sim_options_default(o);
    o->width = (int)kin_args_int(args, "width");
    o->height = (int)kin_args_int(args, "height");
    o->frames = (int)kin_args_int(args, "frames");
    o->fps = kin_args_real(args, "fps");
    o->fps_jitter = kin_args_real(args, "fps-jitter");
    o->short_captions = kin_args_real(args, "short-captions");
    if (kin_args_text(args, "kinds"))
        KIN_TRY(kin_sim_options_kinds(o, kin_args_text(args, "kinds"), err));
    return kin_sim_options_check(o, err);
}

static kin_status write_settings(const kin_args *args, const char *dir, kin_error *err)
{
    char path[KIN_PATH_MAX];
    cJSON *json = NULL, *from = NULL;
    kin_status status = KIN_OK;
    KIN_TRY(kin_path_join(path, dir, "simulate.json", err));
    KIN_GOTO(kin_args_settings(args, &json, err));
    KIN_GOTO(kin_args_origins(args, &from, err));
    cJSON *own = cJSON_AddObjectToObject(json, "kinema");
    if (!own || !cJSON_AddItemToObject(own, "from", from))
        KIN_GOTO(kin_fail(err, KIN_ERR_MEM, "settings: out of memory"));
    from = NULL;
    status = kin_cli_write_json(path, json, err);
done:
    cJSON_Delete(from);
    cJSON_Delete(json);
    return status;
}

static kin_status simulate_all(const kin_args *args, simulation *s, kin_error *err)
{
    kin_progress progress;
    int64_t made = 0;
    kin_cli_progress(args, &progress);
    kin_progress_begin(&progress, "simulate", "clips", s->count);
    double start = kin_clock_s();
    int threads = kin_cli_threads(args);
    kin_status status =
        run_workers(s, threads < s->count ? threads : (int)s->count, &progress, err);
    kin_progress_end(&progress);
    kin_error index_err = {0};
    kin_status index_status = write_index(s, &made, status == KIN_OK ? err : &index_err);
    double spent = kin_clock_s() - start;
    if (status == KIN_OK)
        status = index_status;
    if (status == KIN_OK && made < s->count)
        status = kin_signals_check("dataset simulate", err);
    if (status == KIN_OK || status == KIN_ERR_INTERRUPTED)
        kin_cli_say(args, "%s: %lld clips, seed %llu, %.1f s (%.0f clips/s)\n", s->dir,
                    (long long)made, (unsigned long long)s->seed, spent,
                    (double)made / (spent > 0 ? spent : 1));
    return status;
}

kin_status kin_cmd_simulate(const kin_args *args, kin_error *err)
{
    simulation s = {.count = kin_args_int(args, "count"),
                    .seed = (uint64_t)kin_args_int(args, "seed")};
    s.dir = kin_args_text(args, "output");
    if (!s.dir)
        return kin_fail(err, KIN_ERR_ARG, "dataset simulate: needs a folder to write (-o DIR)");
    KIN_TRY(options_from(args, &s.options, err));
    KIN_TRY(prepare_folder(args, s.dir, err));
    KIN_TRY(write_settings(args, s.dir, err));
    s.records = kin_calloc((size_t)s.count, sizeof *s.records);
    if (!s.records)
        return kin_fail(err, KIN_ERR_MEM, "dataset simulate: out of memory for %lld records",
                        (long long)s.count);
    /* note: a clock that is set back must not make the wait longer */
    pthread_condattr_t steady;
    pthread_condattr_init(&steady);
    pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
    pthread_mutex_init(&s.lock, NULL);
    pthread_cond_init(&s.changed, &steady);
    pthread_condattr_destroy(&steady);
    kin_status status = simulate_all(args, &s, err);
    for (int64_t i = 0; i < s.count; i++)
        kin_free(s.records[i]);
    kin_free(s.records);
    pthread_cond_destroy(&s.changed);
    pthread_mutex_destroy(&s.lock);
    return status;
}
