/* io/pth_write.h: .pth files in the zip form that torch.load(weights_only=True) reads. The content
 * is told as a tree, in order: a dictionary is begun, each member is its key and then its value. */
#ifndef KIN_IO_PTH_WRITE_H
#define KIN_IO_PTH_WRITE_H

#include "io/elements.h"

typedef struct kin_pth_out kin_pth_out;

/* Fails: MEM. Free with kin_pth_out_close in any case. */
kin_status kin_pth_out_create(kin_pth_out **out, kin_error *err);
void kin_pth_out_close(kin_pth_out **out);

/* Nothing fails here: what is wrong is told by kin_pth_out_commit. */
void kin_pth_out_dict(kin_pth_out *o); /* until kin_pth_out_end */
void kin_pth_out_list(kin_pth_out *o); /* until kin_pth_out_end */
void kin_pth_out_end(kin_pth_out *o);
void kin_pth_out_key(kin_pth_out *o, const char *name);
void kin_pth_out_key_int(kin_pth_out *o, int64_t i);
void kin_pth_out_int(kin_pth_out *o, int64_t v);
void kin_pth_out_float(kin_pth_out *o, double v);
void kin_pth_out_bool(kin_pth_out *o, bool v);
void kin_pth_out_none(kin_pth_out *o);
/* A tensor of its own storage; the number of that storage, for kin_pth_out_again. What the item
 * reads from must stay until the commit. */
int64_t kin_pth_out_tensor(kin_pth_out *o, const kin_item *item);
/* The same tensor once more, which takes no further space. */
void kin_pth_out_again(kin_pth_out *o, int64_t storage);

/* Writes the file, complete or not at all, synced. Fails: IO (disk full), ARG (a type that torch
 * lacks), MEM. */
kin_status kin_pth_out_commit(kin_pth_out *o, const char *path, kin_error *err);

#endif
