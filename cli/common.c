#include "cli/common.h"

#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "base/alloc.h"
#include "tensor/device.h"

void kin_cli_progress(const kin_args *args, kin_progress *p)
{
    kin_progress_init(p, kin_args_bool(args, "quiet") ? "none" : kin_args_text(args, "progress"),
                      stderr);
}

void kin_cli_say(const kin_args *args, const char *fmt, ...)
{
    va_list ap;
    if (kin_args_bool(args, "quiet"))
        return;
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
}

int kin_cli_threads(const kin_args *args)
{
    int64_t n = kin_args_int(args, "threads");
    const char *omp = getenv("OMP_NUM_THREADS");
    if (!n && omp)
        n = strtol(omp, NULL, 10);
    cpu_set_t set;
    if (n <= 0)
        n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return (int)(n < 1024 ? n : 1024);
}

kin_status kin_cli_dtype(const char *name, kin_dtype *out, kin_error *err)
{
    if (strcmp(name, "int8") == 0)
        *out = KIN_DTYPE_I8;
    else if (!kin_dtype_parse(name, out))
        return kin_fail(err, KIN_ERR_ARG, "--dtype: '%s' is unknown", name);
    return KIN_OK;
}

const char *kin_cli_dtype_name(kin_dtype dtype)
{
    return dtype == KIN_DTYPE_I8 ? "int8" : kin_dtype_name(dtype);
}

float kin_cli_cfg_scale(const kin_args *args, const kin_pipeline *model)
{
    if (kin_args_source(args, "cfg-scale"))
        return (float)kin_args_real(args, "cfg-scale");
    return model->cfg_scale > 0 ? (float)model->cfg_scale : kin_generate_params_default().cfg_scale;
}

kin_status kin_cli_device(const kin_args *args, kin_ctx_options *opt, kin_error *err)
{
    if (kin_flag_find(args->verb->verb, "device") < 0)
        return KIN_OK;
    const char *name = kin_args_text(args, "device");
    char why[200], *end = NULL;
    if (!name || strcmp(name, "cpu") == 0)
        return KIN_OK;
    if (strcmp(name, "auto") == 0) {
        if (opt->compute != KIN_DTYPE_I8 && kin_cuda_count(why, sizeof why) > 0)
            opt->backend = KIN_BACKEND_CUDA;
        return KIN_OK;
    }
    const bool cuda = strncmp(name, "cuda", 4) == 0, numbered = cuda && name[4] == ':';
    const long n = numbered ? strtol(name + 5, &end, 10) : 0;
    if (!cuda || (name[4] && !numbered) || (numbered && (!name[5] || *end || n < 0 || n > 255)))
        return kin_fail(err, KIN_ERR_ARG, "--device: '%s' must be cpu, cuda, cuda:N or auto", name);
    opt->backend = KIN_BACKEND_CUDA;
    opt->device = (int)n;
    return KIN_OK;
}

/* --offload into the options, whose backend is chosen */
static kin_status choose_offload(const kin_args *args, kin_ctx_options *opt, kin_error *err)
{
    char why[200];
    if (kin_flag_find(args->verb->verb, "offload") < 0 || !kin_args_source(args, "offload"))
        return KIN_OK;
    if (opt->backend != KIN_BACKEND_CUDA)
        return kin_cuda_count(why, sizeof why) > 0
                   ? kin_fail(
                         err, KIN_ERR_ARG,
                         "--offload: is for --device cuda; the CPU reads weights where they lie")
                   : kin_fail(err, KIN_ERR_ARG,
                              "--offload: is for --device cuda, and no device can be used here: %s",
                              why);
    const int64_t mb = kin_args_int(args, "offload");
    opt->offload = mb ? (size_t)mb * 1000000 : KIN_OFFLOAD_AUTO;
    return KIN_OK;
}

kin_status kin_cli_context(const kin_args *args, bool plan, kin_ctx **out, kin_error *err)
{
    kin_ctx_options opt = {.backend = KIN_BACKEND_CPU, .threads = kin_cli_threads(args)};
    unsigned with_dtype = KIN_VERB_GENERATE | KIN_VERB_EVALUATE | KIN_VERB_INSPECT;
    const char *dtype = args->verb->verb & with_dtype ? kin_args_text(args, "dtype") : "f32";
    KIN_TRY(kin_cli_dtype(dtype, &opt.compute, err));
    const char *precision = kin_args_text(args, "matmul-precision");
    if (precision && strcmp(precision, "high") == 0)
        opt.precision = KIN_PRECISION_HIGH;
    KIN_TRY(kin_cli_device(args, &opt, err));
    KIN_TRY(choose_offload(args, &opt, err));
    if (plan)
        opt.backend = KIN_BACKEND_PLAN;
    KIN_TRY(kin_ctx_create(&opt, out, err));
    if (!plan && opt.backend == KIN_BACKEND_CPU && opt.precision == KIN_PRECISION_HIGH &&
        (*out)->isa < KIN_ISA_AMX_EMULATED) {
        kin_progress note;
        kin_cli_progress(args, &note);
        kin_progress_note(&note, "--matmul-precision high: no AMX here, products are plain f32");
    }
    return KIN_OK;
}

/* ---- the model's place ---- */

/* True and out filled if DIR/NAME holds a model. */
static bool model_in(const char *dir, const char *name, char out[KIN_PATH_MAX])
{
    char index[KIN_PATH_MAX];
    return kin_path_join(out, dir, name, NULL) == KIN_OK &&
           kin_path_join(index, out, "model_index.json", NULL) == KIN_OK && kin_path_exists(index);
}

/* The file of this program; without /proc (a bare chroot) as it was called. */
static bool find_program(char out[KIN_PATH_MAX])
{
    const char *called = (const char *)getauxval(AT_EXECFN);
    ssize_t n = readlink("/proc/self/exe", out, KIN_PATH_MAX - 1);
    if (n > 0)
        out[n] = 0;
    return n > 0 || (called && kin_path_join(out, NULL, called, NULL) == KIN_OK);
}

kin_status kin_cli_model(const kin_args *args, char out[KIN_PATH_MAX], kin_error *err)
{
    const char *named = kin_args_text(args, "model");
    if (named) {
        if (!kin_path_exists(named))
            return kin_fail(err, KIN_ERR_FORMAT,
                            "model %s: must be a model directory or a run folder", named);
        return kin_path_join(out, NULL, named, err);
    }
    char program[KIN_PATH_MAX], dir[KIN_PATH_MAX];
    if (find_program(program)) {
        KIN_TRY(kin_path_dir(dir, program, err));
        /* the build folder lies in the source tree (build/) or one below it; then an installed
         * program (bin/) */
        static const char *const places[] = {"../models/" KIN_BUNDLED_MODEL,
                                             "../../models/" KIN_BUNDLED_MODEL,
                                             "../share/kinema/" KIN_BUNDLED_MODEL};
        for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
            if (model_in(dir, places[i], out))
                return KIN_OK;
    }
    if (model_in(KIN_SOURCE_DIR, "models/" KIN_BUNDLED_MODEL, out) ||
        model_in(KIN_INSTALL_PREFIX, "share/kinema/" KIN_BUNDLED_MODEL, out))
        return KIN_OK;
    return kin_fail(err, KIN_ERR_FORMAT,
                    "model: no bundled model found; name one by -m DIR or KINEMA_MODEL");
}

/* one entry of the list: FILE or FILE:STRENGTH */
static kin_status add_lora(kin_pipeline *model, char *entry, kin_error *err)
{
    char *colon = strrchr(entry, ':'), *rest = NULL;
    double strength = 1;
    kin_status status;
    if (colon && colon[1]) {
        const double v = strtod(colon + 1, &rest);
        if (!*rest) {
            strength = v;
            *colon = 0;
        }
    }
    status = kin_pipeline_add_lora(model, entry, strength);
    if (status == KIN_OK)
        return KIN_OK;
    *err = model->ctx->error;
    err->status = status == KIN_ERR_MEM || status == KIN_ERR_ARG ? status : KIN_ERR_FORMAT;
    return err->status;
}

/* the adapters of --lora FILE[:STRENGTH],... */
static kin_status add_loras(const kin_args *args, kin_pipeline *model, kin_error *err)
{
    const char *list = kin_args_text(args, "lora");
    kin_status status = KIN_OK;
    if (!list)
        return KIN_OK;
    char *text = kin_strdup(list), *at = text;
    if (!text)
        return kin_fail(err, KIN_ERR_MEM, "lora: out of memory");
    while (at && status == KIN_OK) {
        char *comma = strchr(at, ',');
        if (comma)
            *comma++ = 0;
        status = *at ? add_lora(model, at, err)
                     : kin_fail(err, KIN_ERR_ARG, "--lora %s: an entry is empty", list);
        at = comma;
    }
    kin_free(text);
    return status;
}

/* What was inferred, line by line. */
static void tell(const kin_args *args, const char *note)
{
    kin_progress p;
    kin_cli_progress(args, &p);
    while (*note) {
        size_t n = strcspn(note, "\n");
        kin_progress_note(&p, "%.*s", (int)n, note);
        note += n + (note[n] == '\n');
    }
}

/* Whatever is wrong with a model's files: the input is bad. */
static kin_status blame_files(kin_error *err)
{
    if (err->status != KIN_ERR_MEM && err->status != KIN_ERR_INTERRUPTED)
        err->status = KIN_ERR_FORMAT;
    return err->status;
}

kin_status kin_cli_load(const kin_args *args, kin_ctx *ctx, const char *dir, kin_pipeline **out,
                        kin_error *err)
{
    const unsigned verb = args->verb->verb, infer = KIN_VERB_GENERATE | KIN_VERB_EVALUATE;
    const unsigned models = infer | KIN_VERB_INSPECT | KIN_VERB_CONVERT;
    const kin_load_options opt = {.phys_weights =
                                      verb & models ? kin_args_text(args, "phys-weights") : NULL};
    bool flow;
    kin_status status = kin_pipeline_load_with(ctx, dir, &opt, out);
    if (status != KIN_OK) {
        *err = ctx->error;
        return blame_files(err);
    }
    if (verb & infer && (*out)->scheduler_config &&
        kin_pipeline_is_flow(*out, &flow, err) != KIN_OK) {
        kin_pipeline_destroy(out);
        kin_fail_prefix(err, "%s", dir);
        return blame_files(err);
    }
    if (!kin_ctx_is_plan(ctx))
        tell(args, (*out)->note);
    if (verb & models)
        status = add_loras(args, *out, err);
    if (verb & infer)
        kin_model_set_diffmoe_infer((*out)->model,
                                    strcmp(kin_args_text(args, "diffmoe-infer"), "batch") == 0);
    if (status != KIN_OK)
        kin_pipeline_destroy(out);
    return status;
}

kin_status kin_cli_output(const kin_args *args, const char *name, int64_t count, kin_output *out,
                          kin_error *err)
{
    const kin_output_look look = {.animated = kin_args_bool(args, "animated"),
                                  .grid = kin_args_text(args, "grid")};
    KIN_TRY(kin_output_init(out, name, count, &look, err));
    if (out->piped && isatty(STDOUT_FILENO))
        return kin_fail(err, KIN_ERR_ARG,
                        "output: - writes video data, and standard output is a terminal; pipe it, "
                        "e.g. into ffplay -");
    if (out->piped)
        signal(SIGPIPE, SIG_IGN);
    return KIN_OK;
}

kin_status kin_cli_need_input(const char *what, const char *path, kin_error *err)
{
    if (access(path, R_OK))
        return kin_fail(err, KIN_ERR_FORMAT,
                        "%s %s: cannot be read: no such file, or no right to read it", what, path);
    return KIN_OK;
}

/* ---- JSON out ---- */

kin_status kin_cli_write_json(const char *path, const cJSON *json, kin_error *err)
{
    char *text = cJSON_Print(json);
    if (!text)
        return kin_fail(err, KIN_ERR_MEM, "%s: out of memory", path);
    size_t n = strlen(text);
    kin_file_out f;
    kin_status status = kin_file_out_open(&f, path, err);
    if (status == KIN_OK) {
        fwrite(text, 1, n, f.fp);
        fputc('\n', f.fp);
        status = kin_file_out_commit(&f, err);
    }
    cJSON_free(text);
    return status;
}

kin_status kin_cli_print_json(const cJSON *json, kin_error *err)
{
    char *text = cJSON_Print(json);
    if (!text)
        return kin_fail(err, KIN_ERR_MEM, "report: out of memory");
    puts(text);
    cJSON_free(text);
    return KIN_OK;
}

/* ---- memory ---- */

/* The number behind `key` in a file, or in its only line (key NULL); UINT64_MAX: none ("max"). */
static uint64_t number_in(const char *path, const char *key)
{
    char line[256];
    uint64_t found = UINT64_MAX;
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        const char *p = line;
        if (key && strncmp(line, key, strlen(key)))
            continue;
        p += key ? strlen(key) : 0;
        char *end;
        unsigned long long v = strtoull(p, &end, 10);
        if (end != p)
            found = v;
        break;
    }
    if (f)
        fclose(f);
    return found;
}

uint64_t kin_cli_memory_left(void)
{
    uint64_t left = number_in("/proc/meminfo", "MemAvailable:");
    left = left == UINT64_MAX ? left : left * 1024;
    uint64_t limit = number_in("/sys/fs/cgroup/memory.max", NULL);
    uint64_t used = number_in("/sys/fs/cgroup/memory.current", NULL);
    /* note: page cache counts as used by the cgroup but is given back under pressure */
    uint64_t cache = number_in("/sys/fs/cgroup/memory.stat", "inactive_file");
    if (limit != UINT64_MAX && used != UINT64_MAX) {
        used -= cache != UINT64_MAX && cache < used ? cache : 0;
        uint64_t rest = limit > used ? limit - used : 0;
        left = rest < left ? rest : left;
    }
    return left == UINT64_MAX ? 0 : left;
}

uint64_t kin_cli_memory_used(void)
{
    uint64_t kb = number_in("/proc/self/status", "VmRSS:");
    return kb == UINT64_MAX ? 0 : kb * 1024;
}

kin_status kin_cli_check_memory(const char *what, uint64_t peak, bool force, kin_error *err)
{
    uint64_t left = kin_cli_memory_left();
    if (force || !left || peak <= left)
        return KIN_OK;
    return kin_fail(err, KIN_ERR_MEM,
                    "%s: needs %.1f MB, only %.1f MB are free (--force tries all the same)", what,
                    (double)peak / 1e6, (double)left / 1e6);
}
