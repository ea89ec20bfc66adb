/* io/pth.h: .pth and .pt files as torch.save writes them, the zip form and the older stream, read
 * as data (io/pickle.h) and mapped, never executed. Writing is in pth_write.c. What the tensors
 * mean is left to diffusion/ and training/. */
#ifndef KIN_IO_PTH_H
#define KIN_IO_PTH_H

#include "base/path.h"
#include "io/elements.h"
#include "io/pickle.h"

enum { KIN_PTH_MAX_TENSORS = 1000000, KIN_PTH_MAX_DEPTH = 64, KIN_PTH_MAX_VIEWS = 16 };

/* One tensor; nested dictionaries, lists and tuples give names joined by dots
 * ("ema_model_state_dict.pos_embed", "optimizer_state_dict.state.1.exp_avg"). */
typedef struct kin_pth_entry {
    const char *name;
    const char *storage; /* "FloatStorage" */
    kin_dtype dtype;     /* bool as u8 */
    int ndim;
    int64_t size[KIN_ITEM_MAX_DIMS];
    int64_t stride[KIN_ITEM_MAX_DIMS]; /* in elements, >= 0 */
    bool contiguous;
    const uint8_t *data; /* first element, in the mapped file; any alignment */
} kin_pth_entry;

typedef struct kin_pth kin_pth;

/* Opens a file. Everything but the numbers themselves is checked: pickle, names, storages, views.
 * Fails: IO; FORMAT; UNSUPPORTED (big-endian, compressed); MEM; the text names the file. */
kin_status kin_pth_open(const char *path, kin_pth **out, kin_error *err);
void kin_pth_close(kin_pth **pth);
/* True if the first bytes are those of the zip form or of the stream. */
bool kin_pth_detect(const uint8_t *data, size_t bytes);

bool kin_pth_is_legacy(const kin_pth *pth); /* the stream */
int64_t kin_pth_count(const kin_pth *pth);
/* Tensor i in the order of the file. */
const kin_pth_entry *kin_pth_at(const kin_pth *pth, int64_t i);
/* Index of the tensor of that name, -1: none. */
int64_t kin_pth_find(const kin_pth *pth, const char *name);
/* A number or truth value of that name ("step", "optimizer_state_dict.param_groups.0.lr"), or the
 * only element of such a tensor. False: none. */
bool kin_pth_number(const kin_pth *pth, const char *name, double *out);
/* Numbers in the file outside tensors, for reports. */
int64_t kin_pth_number_count(const kin_pth *pth);

/* Elements [at, at+n) of the entry, row-major over its shape, as type `as` into out. */
void kin_pth_read(const kin_pth_entry *e, int64_t at, int64_t n, kin_dtype as, void *out);
/* Tensor i under another name for a writer; pages are given back once read. Lives as long as the
 * file. */
kin_item kin_pth_item(const kin_pth *pth, int64_t i, const char *name, kin_dtype store);
/* A contiguous, aligned view of tensor i, of the file itself where it lies so, else of a copy that
 * lives until close. Fails: SHAPE (more than KIN_MAX_DIMS dimensions), MEM. */
kin_status kin_pth_tensor(kin_pth *pth, int64_t i, kin_tensor *out, kin_error *err);

/* Reads every byte again against the checksums of the zip form. Fails: FORMAT. */
kin_status kin_pth_verify(const kin_pth *pth, kin_error *err);

#endif
