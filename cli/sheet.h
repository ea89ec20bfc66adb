/* cli/sheet.h: pictures side by side in one: the frames of a clip, or the images of a batch. */
#ifndef KIN_CLI_SHEET_H
#define KIN_CLI_SHEET_H

#include "base/status.h"
#include "tensor/tensor.h"

enum { KIN_SHEET_SIDE = 256 }; /* columns and rows at most */

/* Reads "4x3" (columns x rows). Fails: KIN_ERR_ARG. */
kin_status kin_sheet_parse(const char *text, int64_t *columns, int64_t *rows, kin_error *err);
/* Writes pictures u8 [N,H,W,3], row by row, as one PNG of columns*W x rows*H; of more pictures than
 * cells as many as there are cells, evenly chosen (the first and the last among them); cells
 * without one are black. Metadata as of kin_png_write. Fails: KIN_ERR_ARG (too large), KIN_ERR_MEM,
 * KIN_ERR_IO. */
kin_status kin_sheet_write(const char *path, const kin_tensor *pictures, int64_t columns,
                           int64_t rows, const char *const *metadata, kin_error *err);

#endif
