/* tensor/cpu/choose.h: which engine does the dense products (linear layers and their dx): the own
 * packed tiles, or oneDNN where a file written by `kinema bench --calibrate` says that it is faster
 * on this machine. The file is looked for at KINEMA_CALIBRATION, else at
 * $XDG_CACHE_HOME/kinema/calibration.json, else at $HOME/.cache/kinema/calibration.json
 * (KINEMA_CALIBRATION=none: no file). A context reads it once, when it is made.
 *
 * note: a choice may depend on what is fixed in a model (compute type, n, k of the weight), never
 * on the number of rows: else the bits of a row would change with the batch. Rows are measured and
 * reported in classes, and the engine with the smaller time per row, summed over them, is taken. */
#ifndef KIN_CPU_CHOOSE_H
#define KIN_CPU_CHOOSE_H

#include "tensor/ctx.h"
#include "tensor/params.h"

enum { KIN_CHOICE_SIZES = 3, KIN_CHOICE_ROWS = 3, KIN_CHOICE_MAX = 2 * 3 * 3 };

/* One class of weights [n,k] at one ISA level and compute type, and the times of a product of
 * rows[i] rows. */
typedef struct kin_choice {
    kin_isa isa;
    kin_dtype compute; /* F32 or BF16 */
    int64_t n, k;      /* the measured shape; its class: below 512, below 2048, or more */
    int64_t rows[KIN_CHOICE_ROWS];
    double own_s[KIN_CHOICE_ROWS], onednn_s[KIN_CHOICE_ROWS]; /* best of the rounds */
    bool steady; /* oneDNN's bits depended neither on rows nor on threads; false: never chosen */
    bool onednn; /* the choice */
} kin_choice;

/* Times both engines at ctx's ISA level, f32 and bf16, with ctx's threads (ctx->compute is
 * put back). A class that oneDNN cannot do keeps the own engine. rounds: at least 1. out: room for
 * KIN_CHOICE_MAX; *count: how many were written. Takes 10-30 s at 5 rounds. Fails: MEM, or what a
 * product fails with. */
kin_status kin_cpu_calibrate(kin_ctx *ctx, int rounds, kin_choice *out, int *count);

/* The file's place as told above; "" for none. */
void kin_cpu_choices_path(char *out, size_t size);
/* Writes the rows as JSON (folders are made). Fails: IO. */
kin_status kin_cpu_choices_write(const char *path, const kin_choice *rows, int count,
                                 kin_error *err);
/* Sets ctx->dense_onednn: nothing, then the file's rows of ctx->isa. A
 * file that is not there changes nothing. Fails: FORMAT (names the file), MEM. */
kin_status kin_cpu_choices_load(kin_ctx *ctx, kin_error *err);
/* True when oneDNN is to do the dense products of this weight, seen as [n,k]. */
bool kin_cpu_use_onednn(const kin_ctx *ctx, const kin_param *w, int64_t n, int64_t k);

#endif
