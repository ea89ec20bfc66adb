/* cli/preview.h: finished clips as pictures in the terminal: Kitty's graphics protocol, sixels
 * (libsixel), or coloured half blocks. Goes to standard error, as progress does. */
#ifndef KIN_CLI_PREVIEW_H
#define KIN_CLI_PREVIEW_H

#include <stdbool.h>
#include <stdio.h>

#include "tensor/tensor.h"

typedef enum kin_preview_kind {
    KIN_PREVIEW_NONE = 0,
    KIN_PREVIEW_BLOCKS,
    KIN_PREVIEW_SIXEL,
    KIN_PREVIEW_KITTY
} kin_preview_kind;

/* What the environment says of a terminal; members may be NULL. */
typedef struct kin_terminal {
    const char *term, *program; /* TERM, TERM_PROGRAM */
    const char *kitty, *tmux;   /* KITTY_WINDOW_ID, TMUX */
    const char *colour;         /* COLORTERM */
    const char *no_colour;      /* NO_COLOR */
} kin_terminal;
kin_terminal kin_terminal_here(void);

/* The best kind that the environment promises; BLOCKS where it says nothing of pictures, NONE for
 * dumb terminals and with NO_COLOR. */
kin_preview_kind kin_preview_detect(const kin_terminal *t);
/* mode kitty, sixel, blocks and none are that kind whatever the stream. auto: NONE unless standard
 * output and error are terminals; then what the environment promises, or, where that is BLOCKS,
 * sixels if the terminal's answer to "primary device attributes" (waited for 0.2 s) names them. */
kin_preview_kind kin_preview_choose(const char *mode);

/* Shows frames u8 [F,H,W,3]: as many of them, evenly chosen, as fit side by side into `columns`
 * characters (0: those of the terminal, else 80). What cannot be shown (memory) is left out. */
void kin_preview_show(kin_preview_kind kind, FILE *to, int columns, const kin_tensor *frames);

#endif
