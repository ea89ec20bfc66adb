/* cli/inspect.c: `kinema inspect`: parameters of a model and its routing maps, the machine, or any
 * one input file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/text.h"
#include "cli/common.h"
#include "cli/routing_map.h"
#include "diffusion/condition.h"
#include "diffusion/pipeline.h"
#include "io/check.h"
#include "tensor/cpu/choose.h"
#include "tensor/device.h"
#include "tensor/kernels.h"

static kin_status check_file(const char *path, kin_error *err)
{
    kin_strbuf report = {0};
    KIN_TRY(kin_cli_need_input("inspect", path, err));
    kin_status status = kin_check_file(path, &report, err);
    if (status == KIN_OK && report.failed)
        status = kin_fail(err, KIN_ERR_MEM, "inspect: out of memory");
    if (status == KIN_OK && report.len)
        printf("%s%s", report.data, report.data[report.len - 1] == '\n' ? "" : "\n");
    kin_strbuf_free(&report);
    /* whatever is wrong with it, but for memory, it is a bad input file */
    if (status != KIN_OK && status != KIN_ERR_MEM)
        status = err->status = KIN_ERR_FORMAT;
    return status;
}

/* ---- --cpu ---- */

/* A kernel table seen as a row of slots. */
enum { SLOTS = sizeof(kin_kernels) / sizeof(void (*)(void)) };
typedef union table_view {
    kin_kernels k;
    void (*slot[SLOTS])(void);
} table_view;

static int differing(const table_view *a, const table_view *b)
{
    int n = 0;
    for (int i = 0; i < SLOTS; i++)
        n += a->slot[i] != b->slot[i];
    return n;
}

static void show_cpu(const kin_args *args)
{
    table_view ref, cpu;
    kin_isa best = kin_isa_detect();
    memset(&ref, 0, sizeof ref);
    kin_kernels_init_ref(&ref.k);
    printf("instruction set: %s (KINEMA_ISA forces a lower one)\nthreads: %d\n", kin_isa_name(best),
           kin_cli_threads(args));
    for (int isa = KIN_ISA_AVX2; isa <= KIN_ISA_AMX; isa++) {
        if (!kin_isa_available((kin_isa)isa))
            continue;
        cpu = ref;
        kin_kernels_init_cpu(&cpu.k, (kin_isa)isa);
        printf("kernels at %s: %d of %d slots with a fast form, the others run the reference\n",
               kin_isa_name((kin_isa)isa), differing(&ref, &cpu), (int)SLOTS);
    }
    if (best < KIN_ISA_AMX && kin_isa_available(KIN_ISA_AMX_EMULATED))
        puts("  (amx-emulated: the code for AMX with its tile instructions in software, slow, for "
             "tests)");
    char path[KIN_PATH_MAX];
    kin_cpu_choices_path(path, sizeof path);
    printf("dense products: %s\n", path[0] && kin_path_exists(path) ? path : "own kernels");
    puts("precision, always f32: norms, softmax, routing scores and cosine, gates, time and "
         "quantity embeddings,\n"
         "  modulation, losses, sampler state, optimizer, EMA\n"
         "precision, follows --dtype f32 or bf16: operands of linear products, expert products and "
         "attention (f32 sums)\n"
         "precision, --dtype int8 (inference): products of the blocks' matrices (attention "
         "projections, feed-forward, experts)\n"
         "  in 8-bit integers, one step per row of x and of w, exact sums; attention in bf16; "
         "embeddings, modulation,\n"
         "  last projection, classifier and text encoder in f32\n"
         "precision, --dtype fp8 (inference, --device cuda): dense products of the same matrices "
         "in e4m3, one factor per\n"
         "  operand, f32 sums; the others as bf16");
    printf("precision, --matmul-precision high: f32 products as three of bf16 halves on AMX, error "
           "about 2^-16;\n  here: %s; with --device cuda: TF32, operands rounded to 10 bits\n",
           best == KIN_ISA_AMX ? "available" : "no AMX, the same as highest");
}

/* ---- --device ---- */

static kin_status show_device(const kin_args *args, kin_error *err)
{
    kin_ctx *ctx = NULL;
    char text[256];
    const int count = kin_cuda_count(text, sizeof text);
    printf("CUDA devices: %d%s%s\n", count, count ? "" : ": ", count ? "" : text);
    for (int i = 0; i < count; i++)
        if (kin_cuda_describe(i, text, sizeof text))
            printf("  cuda:%d: %s\n", i, text);
    fflush(stdout);
    KIN_TRY(kin_cli_context(args, false, &ctx, err));
    if (ctx->device)
        printf("--device %s: %s; %d of %d kernel slots; dense products by %s\n",
               kin_args_text(args, "device"), ctx->device->name, (int)SLOTS, (int)SLOTS,
               ctx->device->library ? "cublasLt" : "own kernels");
    else
        printf("--device %s: the CPU, see inspect --cpu\n", kin_args_text(args, "device"));
    kin_ctx_destroy(&ctx);
    return KIN_OK;
}

/* ---- MODEL ---- */

/* Parameters grouped by the first two parts of their names ("blocks.3"), in order of appearance. */
static void show_params(const char *title, const kin_params *params)
{
    char group[128] = "", name[128];
    int64_t count = 0;
    printf("%s: %lld parameters in %d tensors\n", title, (long long)kin_params_numel(params),
           params->count);
    for (int i = 0; i <= params->count; i++) {
        name[0] = 0;
        if (i < params->count) {
            const char *full = params->list[i]->name, *dot = strchr(full, '.');
            const char *second = dot ? strchr(dot + 1, '.') : NULL;
            bool numbered = dot && dot[1] >= '0' && dot[1] <= '9';
            size_t n = numbered && second ? (size_t)(second - full)
                       : dot              ? (size_t)(dot - full)
                                          : strlen(full);
            snprintf(name, sizeof name, "%.*s", (int)n, full);
        }
        if (group[0] && strcmp(group, name)) {
            printf("  %-36s %12lld\n", group, (long long)count);
            count = 0;
        }
        snprintf(group, sizeof group, "%s", name);
        if (i < params->count)
            count += kin_tensor_numel(&params->list[i]->value);
    }
}

static void show_vae(const kin_pipeline *p)
{
    const kin_vae_info *info = kin_vae_get_info(kin_model_vae(p->model));
    printf("class: %s, %lld latent channels, pictures %lldx smaller, scaling_factor %g\n",
           info->class_name, (long long)info->latent_channels, (long long)info->reduction,
           (double)info->scaling_factor);
    show_params("vae", p->params);
}

static void show_model(const kin_pipeline *p, const char *dir)
{
    const kin_model_info *info = kin_model_get_info(p->model);
    printf("model: %s\nfamily: %s\nhash: %s\n", dir, kin_family_name(info->family), p->hash);
    if (info->family == KIN_FAMILY_VAE) {
        show_vae(p);
        return;
    }
    if (p->frames)
        printf("clip: %lld frames %lldx%lld, %g fps\n", (long long)p->frames, (long long)p->width,
               (long long)p->height, p->fps);
    printf("layers: %lld, patch %dx%dx%d, routed experts per MoE layer: %lld, router: %s\n",
           (long long)info->num_layers, info->patch[0], info->patch[1], info->patch[2],
           (long long)info->experts, info->router);
    if (info->categories)
        printf("physics: %lld categories, %lld physical blocks of %lld heads, classifier %s\n",
               (long long)info->categories, (long long)info->phys_blocks,
               (long long)info->phys_heads, info->has_classifier ? "yes" : "no");
    show_params("transformer", p->params);
    if (p->text_params)
        show_params("text encoder", p->text_params);
}

static kin_status draw_routing(const kin_args *args, kin_pipeline *p, kin_error *err)
{
    kin_physics_prior condition = {0};
    const kin_model_info *info = kin_model_get_info(p->model);
    const char *prompt = kin_args_text(args, "prompt");
    if (!info->experts)
        return kin_fail(err, KIN_ERR_ARG,
                        "inspect: this model has no experts, so there is no routing to draw");
    if (info->num_classes)
        return kin_fail(err, KIN_ERR_UNSUPPORTED,
                        "inspect: routing maps of class-conditional models are drawn by evaluate "
                        "--suite routing -o");
    KIN_TRY(kin_condition_make(prompt ? prompt : "a red ball bounces on the floor",
                               kin_condition_physics(kin_args_text(args, "physics"), p),
                               p->fps > 0 ? (double)p->frames / p->fps : 2,
                               kin_condition_with_law(p, kin_args_text(args, "physics") != NULL),
                               NULL, &condition, err));
    kin_routing_map_params params = {.condition = &condition,
                                     .steps = (int)kin_args_int(args, "steps"),
                                     .seed = (uint64_t)kin_args_int(args, "seed"),
                                     .path = kin_args_text(args, "output")};
    kin_status status = kin_routing_map_draw(p, &params, err);
    kin_physics_prior_free(&condition);
    return status;
}

kin_status kin_cmd_inspect(const kin_args *args, kin_error *err)
{
    char dir[KIN_PATH_MAX];
    kin_ctx *ctx = NULL;
    kin_pipeline *p = NULL;
    if (kin_args_text(args, "check"))
        return check_file(kin_args_text(args, "check"), err);
    if (kin_args_bool(args, "cpu")) {
        show_cpu(args);
        return KIN_OK;
    }
    if (kin_args_source(args, "device") == KIN_SOURCE_FLAG && !kin_args_text(args, "model") &&
        !kin_args_text(args, "output"))
        return show_device(args, err);
    KIN_TRY(kin_cli_model(args, dir, err));
    KIN_TRY(kin_cli_context(args, false, &ctx, err));
    kin_status status = kin_cli_load(args, ctx, dir, &p, err);
    if (status == KIN_OK)
        show_model(p, dir);
    if (status == KIN_OK && kin_args_text(args, "output"))
        status = draw_routing(args, p, err);
    kin_pipeline_destroy(&p);
    kin_ctx_destroy(&ctx);
    return status;
}
