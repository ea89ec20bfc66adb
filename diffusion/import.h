/* diffusion/import.h: official checkpoints of class-conditional image models, as their trainers
 * save them ({step, model_state_dict, ema_model_state_dict, optimizer_state_dict}), and plain state
 * dictionaries of such models: which tensor is which parameter, and what the shapes say about the
 * configuration. */
#ifndef KIN_DIFFUSION_IMPORT_H
#define KIN_DIFFUSION_IMPORT_H

#include <cjson/cJSON.h>

#include "base/text.h"
#include "io/pth.h"
#include "tensor/params.h"

typedef enum kin_import_part { KIN_IMPORT_MODEL = 0, KIN_IMPORT_EMA } kin_import_part;

typedef struct kin_import {
    kin_pth *pth;
    char prefix[2][64]; /* of the names of each part; that of the optimizer's state below */
    bool has_ema;       /* false: the only weights stand for both */
    char optimizer[64]; /* "optimizer_state_dict.state.", "" without one */
    int64_t *param;     /* [params] tensors of the model part in the order of the file */
    int64_t params;
    int64_t step;    /* as the file names it, -1: not there */
    int64_t updates; /* updates that the moments have seen; without moments step + 1 */
} kin_import;

/* Opens a .pth and finds its parts. Fails: IO, FORMAT (no weights of a known form; an optimizer
 * state that does not fit), MEM. Free with kin_import_close. */
kin_status kin_import_open(const char *path, kin_import *out, kin_error *err);
void kin_import_close(kin_import *imp);

/* True for what official state dictionaries hold beside parameters. */
bool kin_import_is_buffer(const char *name);
/* Index of the tensor of parameter `name` in the file, -1: none. */
int64_t kin_import_find(const kin_import *imp, kin_import_part part, const char *name);
/* The value of a parameter as f32 into out. Fails: FORMAT (missing), SHAPE. */
kin_status kin_import_value(const kin_import *imp, kin_import_part part, const kin_param *p,
                            float *out, kin_error *err);
/* Tensors of the first and second moment of a parameter; -1 where the optimizer has none for it
 * (fixed, or never updated). note: the state counts parameters in the order of the state
 * dictionary without its buffers. Fails: FORMAT, SHAPE. */
kin_status kin_import_moments(const kin_import *imp, const kin_param *p, int64_t *m, int64_t *v,
                              kin_error *err);
/* Every tensor of the part belongs to a parameter of the table, and the other way round. */
kin_status kin_import_check(const kin_import *imp, kin_import_part part, const kin_params *params,
                            kin_error *err);

/* transformer/config.json (import_config.c): what names and shapes say, over it the keys of
 * `given` (or NULL), and for what neither says (number of heads, slots per token, router mode) the
 * published model of this width and depth. One line per such guess goes into *notes. *out:
 * cJSON_Delete. Fails: FORMAT (no image transformer; heads unknown), MEM. */
kin_status kin_import_config(const kin_import *imp, const cJSON *given, cJSON **out,
                             kin_strbuf *notes, kin_error *err);

#endif
