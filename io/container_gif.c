/* io/container_gif.c: animated GIF: one palette for the whole clip (libsixel chooses it), dithered
 * by a pattern that stands still, so that nothing flickers where nothing moves. */
#include <limits.h>
#include <string.h>

#include <sixel.h>

#include "base/alloc.h"
#include "io/container.h"

enum { COLOURS = 256, PALETTE_PIXELS = 1 << 24, MAX_FPS = 50, SPREAD = 5, CELLS = 1 << 18 };

kin_status kin_gif_choose(kin_video *v, kin_error *err)
{
    const kin_video_params *p = &v->params;
    /* note: times are hundredths of a second, and players take those under 2 for 10 */
    if (p->fps_num > MAX_FPS * p->fps_den)
        return kin_fail(err, KIN_ERR_ARG, "video: %s: a GIF shows at most %d frames per second",
                        v->path, MAX_FPS);
    v->codec->pix_fmt = AV_PIX_FMT_PAL8;
    return KIN_OK;
}

kin_status kin_gif_put(kin_video *v, const uint8_t *rgb, kin_error *err)
{
    const size_t bytes = (size_t)(v->params.width * v->params.height) * 3;
    size_t all;
    if (v->frames == v->room) {
        const int64_t room = v->room ? 2 * v->room : 16;
        uint8_t *more = kin_mul_size((size_t)room, bytes, &all) ? kin_realloc(v->held, all) : NULL;
        if (!more)
            return kin_fail(err, KIN_ERR_MEM, "video: %s: no memory for %lld frames", v->path,
                            (long long)room);
        v->held = more;
        v->room = room;
    }
    memcpy(v->held + (size_t)v->frames * bytes, rgb, bytes);
    return KIN_OK;
}

/* The colours of the frames, or of evenly chosen ones where there are very many pixels. */
static kin_status choose_palette(kin_video *v, sixel_dither_t *dither, kin_error *err)
{
    const int64_t w = v->params.width, h = v->params.height;
    int64_t take = PALETTE_PIXELS / (w * h);
    take = take < 1 ? 1 : take < v->frames ? take : v->frames;
    const size_t bytes = (size_t)(w * h) * 3;
    uint8_t *pixels = kin_malloc((size_t)take * bytes);
    if (!pixels)
        return kin_fail(err, KIN_ERR_MEM, "video: %s: no memory for the palette", v->path);
    for (int64_t i = 0; i < take; i++)
        memcpy(pixels + (size_t)i * bytes, v->held + (size_t)(i * v->frames / take) * bytes, bytes);
    const SIXELSTATUS rc =
        sixel_dither_initialize(dither, pixels, (int)w, (int)(take * h), SIXEL_PIXELFORMAT_RGB888,
                                SIXEL_LARGE_LUM, SIXEL_REP_AVERAGE_PIXELS, SIXEL_QUALITY_FULL);
    kin_free(pixels);
    return SIXEL_FAILED(rc) ? kin_fail(err, KIN_ERR_BACKEND, "video: %s: palette: %s", v->path,
                                       sixel_helper_format_error(rc))
                            : KIN_OK;
}

/* ---- from colours to their numbers ---- */

typedef struct palette {
    const unsigned char *rgb; /* [colours,3] */
    int colours;
    int spread;     /* of the dither, either way; 0 where the palette has every colour */
    int16_t *known; /* [CELLS] the nearest of a colour by 6 bits a channel, -1: not sought yet */
} palette;

static int nearest(const palette *p, int r, int g, int b)
{
    int16_t *known = &p->known[(r >> 2) << 12 | (g >> 2) << 6 | b >> 2];
    int best = INT_MAX;
    if (*known >= 0)
        return *known;
    for (int i = 0; i < p->colours; i++) {
        const int x = r - p->rgb[3 * i], y = g - p->rgb[3 * i + 1], z = b - p->rgb[3 * i + 2];
        const int far = 2 * x * x + 4 * y * y + 3 * z * z; /* about as eyes weigh them */
        if (far < best) {
            best = far;
            *known = (int16_t)i;
        }
    }
    return *known;
}

/* Bayer's matrix of 8 x 8: -63..63 in odd steps. */
static int bayer(int64_t x, int64_t y)
{
    int v = 0;
    for (int bit = 0; bit < 3; bit++)
        v = v << 2 | (int)((x ^ y) >> bit & 1) << 1 | (int)(y >> bit & 1);
    return 2 * v - 63;
}

static int clamped(int v)
{
    return v < 0 ? 0 : v > 255 ? 255 : v;
}

static kin_status put_frame(kin_video *v, const palette *p, int64_t f, kin_error *err)
{
    const int64_t w = v->params.width, h = v->params.height;
    const uint8_t *in = v->held + (size_t)(f * w * h) * 3;
    AVFrame *to = v->frame;
    if (av_frame_make_writable(to) < 0)
        return kin_fail(err, KIN_ERR_MEM, "video: %s: no memory", v->path);
    uint32_t *table = (uint32_t *)(void *)to->data[1];
    for (int i = 0; i < COLOURS; i++) {
        const unsigned char *c = p->rgb + 3 * (i < p->colours ? i : 0);
        table[i] = 0xFF000000u | (uint32_t)c[0] << 16 | (uint32_t)c[1] << 8 | c[2];
    }
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++, in += 3) {
            const int d = bayer(x, y) * p->spread / 63;
            to->data[0][y * to->linesize[0] + x] =
                (uint8_t)nearest(p, clamped(in[0] + d), clamped(in[1] + d), clamped(in[2] + d));
        }
    return kin_container_encode_frame(v, f, err);
}

kin_status kin_gif_finish(kin_video *v, kin_error *err)
{
    sixel_dither_t *dither = NULL;
    palette p = {0};
    kin_status status = KIN_OK;
    p.known = kin_malloc(CELLS * sizeof *p.known);
    if (!p.known || SIXEL_FAILED(sixel_dither_new(&dither, COLOURS, NULL)))
        KIN_GOTO(kin_fail(err, KIN_ERR_MEM, "video: %s: no memory for the palette", v->path));
    memset(p.known, 0xFF, CELLS * sizeof *p.known);
    KIN_GOTO(choose_palette(v, dither, err));
    p.rgb = sixel_dither_get_palette(dither);
    p.colours = sixel_dither_get_num_of_palette_colors(dither);
    p.spread = sixel_dither_get_num_of_histogram_colors(dither) > COLOURS ? SPREAD : 0;
    for (int64_t f = 0; f < v->frames; f++)
        KIN_GOTO(put_frame(v, &p, f, err));
done:
    if (dither)
        sixel_dither_unref(dither);
    kin_free(p.known);
    return status;
}
