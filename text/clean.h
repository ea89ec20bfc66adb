/* text/clean.h: the cleaning that Wan's pipeline gives every prompt (`prompt_clean` of diffusers):
 * ftfy.fix_text 6.3, HTML references, white space. */
#ifndef KIN_TEXT_CLEAN_H
#define KIN_TEXT_CLEAN_H

#include "base/text.h"

/* s [n bytes of UTF-8] cleaned, appended to out: curly quotes straightened, Latin ligatures and
 * full or half width made plain, controls, terminal escapes and byte order marks dropped, lone C1
 * controls read as windows-1252, references of HTML resolved twice, normal form C, every run of
 * white space one blank and none at the ends. note: text that was decoded with a wrong code page
 * stays as it is; ftfy guesses there. Fails: MEM. */
kin_status kin_prompt_clean(const char *s, size_t n, kin_strbuf *out, kin_error *err);

#endif
