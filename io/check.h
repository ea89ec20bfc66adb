/* io/check.h: reads any one input file to its end and says what it holds (`kinema inspect --check
 * FILE`). */
#ifndef KIN_IO_CHECK_H
#define KIN_IO_CHECK_H

#include "base/status.h"
#include "base/text.h"

/* The format is told by the first bytes, then by the extension. Lines describing the content are
 * appended to *report. Fails: KIN_ERR_IO; KIN_ERR_FORMAT with what is wrong, naming the file;
 * KIN_ERR_UNSUPPORTED; KIN_ERR_MEM. */
kin_status kin_check_file(const char *path, kin_strbuf *report, kin_error *err);

#endif
