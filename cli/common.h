/* cli/common.h: what several verbs share: the context from flags, the model's place, saved
 * settings, memory limits. */
#ifndef KIN_CLI_COMMON_H
#define KIN_CLI_COMMON_H

#include <cjson/cJSON.h>

#include "base/path.h"
#include "cli/args.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "diffusion/pipeline.h"
#include "tensor/ctx.h"

/* One verb's work: prints its data on stdout, progress on stderr; err carries what main prints. */
kin_status kin_cmd_generate(const kin_args *args, kin_error *err);
kin_status kin_cmd_train(const kin_args *args, kin_error *err);
kin_status kin_cmd_simulate(const kin_args *args, kin_error *err);
kin_status kin_cmd_cache(const kin_args *args, kin_error *err);
kin_status kin_cmd_check(const kin_args *args, kin_error *err);
kin_status kin_cmd_evaluate(const kin_args *args, kin_error *err);
kin_status kin_cmd_inspect(const kin_args *args, kin_error *err);
kin_status kin_cmd_plot(const kin_args *args, kin_error *err);
kin_status kin_cmd_convert(const kin_args *args, kin_error *err);
kin_status kin_cmd_bench(const kin_args *args, kin_error *err);

/* Progress as --progress and --quiet ask. */
void kin_cli_progress(const kin_args *args, kin_progress *p);
/* A closing word on standard output, unless --quiet asks for none. */
void kin_cli_say(const kin_args *args, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Threads: -t, else every core this process may use. */
int kin_cli_threads(const kin_args *args);
/* A type of products as flags spell it: f32, bf16, int8, fp8. */
kin_status kin_cli_dtype(const char *name, kin_dtype *out, kin_error *err);
const char *kin_cli_dtype_name(kin_dtype dtype);
/* Guidance: --cfg-scale, else the model's own, else 3. */
float kin_cli_cfg_scale(const kin_args *args, const kin_pipeline *model);
/* --device into backend and number, where the verb has it. Fails: ARG. */
kin_status kin_cli_device(const kin_args *args, kin_ctx_options *opt, kin_error *err);
/* A context of the CPU backend (or the plan backend) with the threads of -t and, where the verb has
 * it, --dtype and --matmul-precision (a note says where `high` is not to be had). */
kin_status kin_cli_context(const kin_args *args, bool plan, kin_ctx **out, kin_error *err);

/* The model directory: -m or KINEMA_MODEL, else the bundled one (source tree of this program, then
 * PREFIX/share/kinema). Fails: KIN_ERR_FORMAT if the named one is not there. */
kin_status kin_cli_model(const kin_args *args, char out[KIN_PATH_MAX], kin_error *err);

/* Loads the model directory with what flags say of it, where the verb has them: adapters of --lora
 * FILE[:STRENGTH],..., --diffmoe-infer. A file of the model or an adapter that cannot be read or
 * does not fit is a bad input (KIN_ERR_FORMAT). kin_pipeline_destroy. */
kin_status kin_cli_load(const kin_args *args, kin_ctx *ctx, const char *dir, kin_pipeline **out,
                        kin_error *err);

/* The output called name, as --animated and --grid ask (kin_output_init). For "-" standard output
 * must not be a terminal; a reader that goes away is an error of writing from then on, no signal.
 */
kin_status kin_cli_output(const kin_args *args, const char *name, int64_t count, kin_output *out,
                          kin_error *err);

/* KIN_ERR_FORMAT if `path` cannot be read (an input that is not there is a bad input file). */
kin_status kin_cli_need_input(const char *what, const char *path, kin_error *err);

/* Writes json, indented, complete or not at all. */
kin_status kin_cli_write_json(const char *path, const cJSON *json, kin_error *err);
/* Prints json, indented, on stdout. */
kin_status kin_cli_print_json(const cJSON *json, kin_error *err);

/* Bytes this process may still take: the smaller of MemAvailable and the rest of the cgroup's
 * limit; 0 when unknown. */
uint64_t kin_cli_memory_left(void);
/* Bytes this process holds in memory now (libraries and program text included). */
uint64_t kin_cli_memory_used(void);
/* KIN_ERR_MEM with both figures if peak does not fit and force is off. */
kin_status kin_cli_check_memory(const char *what, uint64_t peak, bool force, kin_error *err);

#endif
