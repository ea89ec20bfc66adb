/* tests/golden/golden.c: golden [options] FILE...   judges case files, one line each
 *                        golden [options] --cases DIR   judges every case below $KINEMA_GOLDEN, or
 * below DIR where that is unset Options: --backend ref|cpu|cuda (cpu); KINEMA_ISA chooses the
 * level.
 * --high: three-product f32 where the level has AMX tiles; every tolerance is then at least 1e-4.
 * --skip-unsupported: exit 77 where the machine lacks it. Exit status 0: all agree. */
#include "tests/golden/golden.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"

enum { EXIT_DIFFERS = 1, EXIT_USAGE = 2, EXIT_SKIPPED = 77, CASE_DEPTH = 1 };

typedef struct counts {
    int ok, failed, skipped, parts;
} counts;

static void report(const kin_golden_case *c, counts *n)
{
    if (c->skip_text.data)
        fputs(c->skip_text.data, stdout);
    n->skipped += c->skipped;
    if (c->failed) {
        n->failed++;
        printf("FAIL  %-24s %s  %s\n", c->kind[0] ? c->kind : "?", c->path, c->why);
    } else {
        n->ok++;
        printf("ok    %-24s %s  %s %.2e\n", c->kind, c->path, c->worst, c->worst_error);
    }
}

static void judge(kin_ctx *ctx, const char *path, counts *n)
{
    kin_golden_case c;
    kin_golden_open(&c, ctx, path);
    kin_golden_run(&c);
    report(&c, n);
    kin_golden_close(&c);
}

/* A file met on the walk. Files deeper than CASE_DEPTH folders are parts of cases (model
 * directories) when they state no kind; higher up every .safetensors and .json has to be a case. */
static void judge_found(kin_ctx *ctx, const char *path, int depth, counts *n)
{
    kin_golden_case c;
    kin_golden_open(&c, ctx, path);
    if (c.failed && depth > CASE_DEPTH && !c.kind[0]) {
        n->parts++;
    } else {
        kin_golden_run(&c);
        report(&c, n);
    }
    kin_golden_close(&c);
}

static void walk(kin_ctx *ctx, const char *dir, int depth, counts *n)
{
    struct dirent **list;
    int count = scandir(dir, &list, NULL, alphasort);
    if (count < 0) {
        printf("FAIL  %-24s %s  cannot be read\n", "?", dir);
        n->failed++;
        return;
    }
    for (int i = 0; i < count; i++) {
        char path[KIN_PATH_MAX];
        const char *ext = kin_path_ext(list[i]->d_name);
        if (list[i]->d_name[0] != '.' &&
            kin_path_join(path, dir, list[i]->d_name, NULL) == KIN_OK) {
            if (kin_path_is_dir(path))
                walk(ctx, path, depth + 1, n);
            else if (strcmp(ext, "safetensors") == 0 || strcmp(ext, "json") == 0)
                judge_found(ctx, path, depth, n);
        }
        free(list[i]);
    }
    free(list);
}

static int usage(void)
{
    fprintf(stderr,
            "usage: golden [--backend ref|cpu|cuda] [--skip-unsupported] [--high] FILE... | "
            "--cases DIR\n");
    return EXIT_USAGE;
}

typedef struct arguments {
    kin_ctx_options ctx;
    const char *cases;
    bool skip_unsupported;
    int first; /* index of the first FILE */
} arguments;

static bool parse(int argc, char **argv, arguments *a)
{
    *a = (arguments){.ctx = {.backend = KIN_BACKEND_CPU}};
    int i = 1;
    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        if (strcmp(argv[i], "--skip-unsupported") == 0) {
            a->skip_unsupported = true;
        } else if (strcmp(argv[i], "--high") == 0) {
            a->ctx.precision = KIN_PRECISION_HIGH;
        } else if (i + 1 == argc) {
            return false;
        } else if (strcmp(argv[i], "--cases") == 0) {
            a->cases = argv[++i];
        } else if (strcmp(argv[i], "--backend") == 0 && strcmp(argv[i + 1], "ref") == 0) {
            a->ctx.backend = KIN_BACKEND_REF;
            i++;
        } else if (strcmp(argv[i], "--backend") == 0 && strcmp(argv[i + 1], "cuda") == 0) {
            a->ctx.backend = KIN_BACKEND_CUDA;
            i++;
        } else if (strcmp(argv[i], "--backend") == 0 && strcmp(argv[i + 1], "cpu") == 0) {
            i++;
        } else {
            return false;
        }
    }
    a->first = i;
    return a->cases ? i == argc : i < argc;
}

int main(int argc, char **argv)
{
    arguments a;
    if (!parse(argc, argv, &a))
        return usage();
    kin_error err = {0};
    kin_ctx *ctx = NULL;
    kin_status status = kin_ctx_create(&a.ctx, &ctx, &err);
    if (status != KIN_OK) {
        fprintf(stderr, "golden: %s\n", err.text);
        return status == KIN_ERR_UNSUPPORTED && a.skip_unsupported ? EXIT_SKIPPED : EXIT_DIFFERS;
    }
    counts n = {0};
    const char *env = getenv("KINEMA_GOLDEN");
    if (a.cases)
        walk(ctx, env && *env ? env : a.cases, 0, &n);
    for (int i = a.first; i < argc; i++)
        judge(ctx, argv[i], &n);
    if (a.cases || argc - a.first > 1)
        printf("%d ok, %d failed, %d rows skipped by name, %d parts of cases (%s%s%s)\n", n.ok,
               n.failed, n.skipped, n.parts, ctx->backend == KIN_BACKEND_REF ? "ref" : "cpu",
               ctx->backend == KIN_BACKEND_REF ? "" : " ",
               ctx->backend == KIN_BACKEND_REF ? "" : kin_isa_name(ctx->isa));
    kin_ctx_destroy(&ctx);
    return n.failed == 0 && n.ok > 0 ? 0 : EXIT_DIFFERS;
}
