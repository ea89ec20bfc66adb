/* training/plan.c: how much memory a run will take, before it starts. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "training/trainer.h"

/* Memory of the process now: program, libraries, and what is loaded already. */
static uint64_t resident_now(void)
{
    unsigned long long size = 0, resident = 0;
    FILE *fp = fopen("/proc/self/statm", "r");
    if (!fp)
        return 0;
    if (fscanf(fp, "%llu %llu", &size, &resident) != 2)
        resident = 0;
    fclose(fp);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t table_bytes(const kin_params *params)
{
    return params ? (uint64_t)kin_params_resident_bytes(params) : 0;
}

kin_status kin_trainer_plan(kin_trainer *t, uint64_t *peak)
{
    const kin_sample_shape shape = kin_source_shape(t->source);
    kin_train_losses sum = {0};
    const kin_batch batch = {.size = t->cfg.batch, .shape = shape};
    t->ctx->ws.peak = t->ctx->ws.used;
    KIN_TRY(kin_train_micro_step(t->ctx, &t->task, &batch, 1, &sum));
    *peak =
        resident_now() + t->ctx->ws.peak + table_bytes(t->pipe->params) +
        table_bytes(t->pipe->text_params) + t->optim->bytes + kin_source_cache_bytes(t->source) +
        kin_loader_bytes(&shape, t->cfg.batch, kin_source_count(t->source)) +
        (uint64_t)kin_source_held_out(t->source) *
            (kin_sample_frame_bytes(&shape) + (uint64_t)kin_sample_moments(&shape) * sizeof(float));
    return KIN_OK;
}

/* The number in a file of one number ("max": none), or UINT64_MAX. */
static uint64_t read_number(const char *path)
{
    char text[64];
    uint64_t v = UINT64_MAX;
    FILE *fp = fopen(path, "r");
    if (!fp)
        return v;
    if (fgets(text, sizeof text, fp) && text[0] >= '0' && text[0] <= '9')
        v = strtoull(text, NULL, 10);
    fclose(fp);
    return v;
}

static uint64_t cgroup_left(void)
{
    static const char *const pairs[][2] = {
        {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
        {"/sys/fs/cgroup/memory/memory.limit_in_bytes",
         "/sys/fs/cgroup/memory/memory.usage_in_bytes"}};
    for (int i = 0; i < 2; i++) {
        uint64_t limit = read_number(pairs[i][0]), used = read_number(pairs[i][1]);
        if (limit != UINT64_MAX && used != UINT64_MAX)
            return limit > used ? limit - used : 0;
    }
    return UINT64_MAX;
}

uint64_t kin_memory_available(void)
{
    char line[256];
    unsigned long long kb = 0;
    uint64_t left = cgroup_left();
    FILE *fp = fopen("/proc/meminfo", "r");
    if (!fp)
        return left == UINT64_MAX ? 0 : left;
    while (fgets(line, sizeof line, fp))
        if (sscanf(line, "MemAvailable: %llu", &kb) == 1)
            break;
    fclose(fp);
    uint64_t bytes = kb * UINT64_C(1024);
    return bytes < left ? bytes : left;
}
