#include "cli/preview.h"

#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <sixel.h>

#include "base/alloc.h"

enum {
    CELL = 9,           /* pixels of a character's width, about */
    FRAME_COLUMNS = 20, /* of one frame, at least */
    HEIGHT_MIN = 96,    /* pixels: smaller frames are enlarged by whole factors */
    HEIGHT_MAX = 256,
    KITTY_CHUNK = 3072, /* bytes that become 4096 characters */
    ANSWER_MS = 200
};

/* ---- which kind ---- */

kin_terminal kin_terminal_here(void)
{
    return (kin_terminal){.term = getenv("TERM"),
                          .program = getenv("TERM_PROGRAM"),
                          .kitty = getenv("KITTY_WINDOW_ID"),
                          .tmux = getenv("TMUX"),
                          .colour = getenv("COLORTERM"),
                          .no_colour = getenv("NO_COLOR")};
}

static bool says(const char *value, const char *const *words)
{
    for (int i = 0; value && words[i]; i++)
        if (strstr(value, words[i]))
            return true;
    return false;
}

kin_preview_kind kin_preview_detect(const kin_terminal *t)
{
    static const char *const kitty_terms[] = {"kitty", "ghostty", NULL};
    static const char *const kitty_programs[] = {"WezTerm", "ghostty", NULL};
    static const char *const sixel_terms[] = {"foot", "mlterm", "sixel", "yaft", "contour", NULL};
    static const char *const sixel_programs[] = {"mintty", "contour", NULL};
    static const char *const multiplexers[] = {"screen", "tmux", NULL};
    if (!t->term || !*t->term || strcmp(t->term, "dumb") == 0 || (t->no_colour && *t->no_colour))
        return KIN_PREVIEW_NONE;
    /* note: a multiplexer hands on the outer terminal's variables, but not its pictures */
    if ((t->tmux && *t->tmux) || says(t->term, multiplexers))
        return KIN_PREVIEW_BLOCKS;
    if ((t->kitty && *t->kitty) || says(t->term, kitty_terms) || says(t->program, kitty_programs))
        return KIN_PREVIEW_KITTY;
    if (says(t->term, sixel_terms) || says(t->program, sixel_programs))
        return KIN_PREVIEW_SIXEL;
    return KIN_PREVIEW_BLOCKS;
}

/* "ESC [ ? 62 ; 4 ; 22 c": attribute 4 is sixel graphics. */
static bool answer_names_sixel(const char *answer)
{
    const char *p = strstr(answer, "\033[?");
    for (p = p ? p + 3 : ""; *p && *p != 'c'; p += *p == ';')
        if (strtol(p, (char **)&p, 10) == 4)
            return true;
        else if (*p != ';')
            return false;
    return false;
}

/* Asks the terminal. What the user types in that moment is lost. */
static bool has_sixel(void)
{
    struct termios old, raw;
    char answer[256];
    size_t n = 0;
    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &old) != 0)
        return false;
    raw = old;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    if (tcsetattr(STDIN_FILENO, TCSANOW, &raw) != 0)
        return false;
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    if (write(STDERR_FILENO, "\033[c", 3) == 3)
        while (n + 1 < sizeof answer && poll(&in, 1, ANSWER_MS) == 1) {
            if (read(STDIN_FILENO, answer + n, 1) != 1)
                break;
            if (answer[n++] == 'c')
                break;
        }
    answer[n] = 0;
    tcsetattr(STDIN_FILENO, TCSANOW, &old);
    return answer_names_sixel(answer);
}

kin_preview_kind kin_preview_choose(const char *mode)
{
    static const char *const kinds[] = {"none", "blocks", "sixel", "kitty"};
    for (int i = 0; i < 4; i++)
        if (strcmp(mode, kinds[i]) == 0)
            return (kin_preview_kind)i;
    if (!isatty(STDOUT_FILENO) || !isatty(STDERR_FILENO))
        return KIN_PREVIEW_NONE;
    const kin_terminal t = kin_terminal_here();
    const kin_preview_kind kind = kin_preview_detect(&t);
    return kind == KIN_PREVIEW_BLOCKS && has_sixel() ? KIN_PREVIEW_SIXEL : kind;
}

/* ---- one picture of several frames ---- */

typedef struct picture {
    uint8_t *rgb; /* [h,w,3], owned */
    int64_t w, h;
} picture;

/* Writes frame f into columns left .. left+w-1, h rows: the mean of the pixels under each new one.
 */
static void scale(const kin_tensor *frames, int64_t f, picture *to, int64_t left, int64_t w)
{
    const int64_t H = frames->size[1], W = frames->size[2];
    const uint8_t *in = (const uint8_t *)frames->data + f * H * W * 3;
    for (int64_t y = 0; y < to->h; y++)
        for (int64_t x = 0; x < w; x++) {
            const int64_t y0 = y * H / to->h, x0 = x * W / w;
            int64_t y1 = (y + 1) * H / to->h, x1 = (x + 1) * W / w, sum[3] = {0};
            y1 = y1 > y0 ? y1 : y0 + 1;
            x1 = x1 > x0 ? x1 : x0 + 1;
            for (int64_t v = y0; v < y1; v++)
                for (int64_t u = x0; u < x1; u++)
                    for (int c = 0; c < 3; c++)
                        sum[c] += in[(v * W + u) * 3 + c];
            for (int c = 0; c < 3; c++)
                to->rgb[(y * to->w + left + x) * 3 + c] =
                    (uint8_t)(sum[c] / ((y1 - y0) * (x1 - x0)));
        }
}

/* Frames side by side, each w x h. */
static bool arrange(const kin_tensor *frames, int64_t shown, int64_t w, int64_t h, picture *out)
{
    const int64_t F = frames->size[0];
    *out = (picture){.w = shown * w, .h = h, .rgb = kin_malloc((size_t)(shown * w * h) * 3)};
    for (int64_t i = 0; i < shown && out->rgb; i++)
        scale(frames, shown > 1 ? i * (F - 1) / (shown - 1) : 0, out, i * w, w);
    return out->rgb != NULL;
}

/* ---- the kinds ---- */

static void set_colour(FILE *to, bool back, bool true_colour, const uint8_t *c)
{
    if (true_colour)
        fprintf(to, "\033[%d;2;%d;%d;%dm", back ? 48 : 38, c[0], c[1], c[2]);
    else /* the cube of 6 x 6 x 6 */
        fprintf(to, "\033[%d;5;%dm", back ? 48 : 38,
                16 + 36 * ((c[0] + 25) / 51) + 6 * ((c[1] + 25) / 51) + (c[2] + 25) / 51);
}

/* The upper half of a character is its foreground, the lower its background. */
static void show_blocks(FILE *to, const picture *p)
{
    const kin_terminal t = kin_terminal_here();
    const bool true_colour =
        t.colour && (strstr(t.colour, "truecolor") || strstr(t.colour, "24bit"));
    for (int64_t y = 0; y + 1 < p->h; y += 2) {
        for (int64_t x = 0; x < p->w; x++) {
            set_colour(to, false, true_colour, p->rgb + (y * p->w + x) * 3);
            set_colour(to, true, true_colour, p->rgb + ((y + 1) * p->w + x) * 3);
            fputs("\xE2\x96\x80", to);
        }
        fputs("\033[0m\n", to);
    }
}

static void show_kitty(FILE *to, const picture *p)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const size_t bytes = (size_t)(p->w * p->h) * 3; /* a multiple of 3: no padding */
    for (size_t at = 0; at < bytes; at += KITTY_CHUNK) {
        const size_t n = bytes - at < KITTY_CHUNK ? bytes - at : KITTY_CHUNK;
        fputs("\033_G", to);
        if (at == 0)
            fprintf(to, "a=T,q=2,f=24,s=%lld,v=%lld,", (long long)p->w, (long long)p->h);
        fprintf(to, "m=%d;", at + n < bytes);
        for (const uint8_t *b = p->rgb + at; b < p->rgb + at + n; b += 3) {
            const uint32_t v = (uint32_t)b[0] << 16 | (uint32_t)b[1] << 8 | b[2];
            for (int shift = 18; shift >= 0; shift -= 6)
                fputc(digits[v >> shift & 63], to);
        }
        fputs("\033\\", to);
    }
    fputc('\n', to);
}

static int on_sixels(char *data, int n, void *user)
{
    return (int)fwrite(data, 1, (size_t)n, user);
}

static void show_sixel(FILE *to, const picture *p)
{
    sixel_output_t *out = NULL;
    sixel_dither_t *dither = NULL;
    if (SIXEL_SUCCEEDED(sixel_output_new(&out, on_sixels, to, NULL)) &&
        SIXEL_SUCCEEDED(sixel_dither_new(&dither, 256, NULL)) &&
        SIXEL_SUCCEEDED(sixel_dither_initialize(dither, p->rgb, (int)p->w, (int)p->h,
                                                SIXEL_PIXELFORMAT_RGB888, SIXEL_LARGE_LUM,
                                                SIXEL_REP_AVERAGE_PIXELS, SIXEL_QUALITY_HIGH)))
        sixel_encode(p->rgb, (int)p->w, (int)p->h, 3, dither, out);
    fputc('\n', to);
    if (dither)
        sixel_dither_unref(dither);
    if (out)
        sixel_output_unref(out);
}

static int terminal_columns(FILE *to)
{
    struct winsize size;
    return ioctl(fileno(to), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

void kin_preview_show(kin_preview_kind kind, FILE *to, int columns, const kin_tensor *frames)
{
    const int64_t F = frames->size[0], H = frames->size[1], W = frames->size[2];
    picture p;
    if (kind == KIN_PREVIEW_NONE)
        return;
    columns = columns ? columns : terminal_columns(to);
    int64_t shown = columns < FRAME_COLUMNS ? 1 : columns / FRAME_COLUMNS, w, h;
    shown = shown < F ? shown : F;
    if (kind == KIN_PREVIEW_BLOCKS) {
        w = columns / shown < W ? columns / shown : W;
        h = (H * w / W + 1) / 2 * 2;
    } else {
        const int64_t most = (int64_t)columns * CELL / shown;
        h = H >= HEIGHT_MIN ? H : H * (HEIGHT_MIN / H);
        h = h < HEIGHT_MAX ? h : HEIGHT_MAX;
        w = h * W / H;
        if (w > most) {
            w = most;
            h = most * H / W;
        }
    }
    w = w > 1 ? w : 1;
    h = h > 2 ? h : 2;
    if (!arrange(frames, shown, w, h, &p))
        return;
    if (kind == KIN_PREVIEW_BLOCKS)
        show_blocks(to, &p);
    else if (kind == KIN_PREVIEW_SIXEL)
        show_sixel(to, &p);
    else
        show_kitty(to, &p);
    fflush(to);
    kin_free(p.rgb);
}
