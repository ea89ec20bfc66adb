#include "cli/routing_picture.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "io/png.h"

enum { CELL = 6, GAP = 8, TOKEN_GAP = 2 };

typedef struct canvas {
    uint8_t *rgb;
    int64_t width, height, cell_w, cell_h;
} canvas;

void kin_routing_grid(const kin_model_info *info, int64_t frames, int64_t height, int64_t width,
                      int64_t grid[3])
{
    grid[0] = frames / info->patch[0];
    grid[1] = height / info->patch[1];
    grid[2] = width / info->patch[2];
}

/* Colours far apart: hue steps by the golden angle. */
static void colour_of(int expert, uint8_t rgb[3])
{
    double h = fmod(expert * 0.61803398875, 1.0) * 6, v = expert % 2 ? 0.75 : 0.95;
    for (int c = 0; c < 3; c++) {
        double k = fmod((c == 0 ? 5 : c == 1 ? 3 : 1) + h, 6), m = fmin(k, 4 - k);
        rgb[c] = (uint8_t)lround(255 * (v - v * 0.7 * fmax(0, fmin(m, 1))));
    }
}

static void draw_cell(canvas *to, const int16_t *choice, int64_t experts, const int64_t grid[3],
                      int64_t x0, int64_t y0)
{
    for (int64_t i = 0; i < grid[0] * grid[1] * grid[2]; i++) {
        int64_t f = i / (grid[1] * grid[2]), y = i / grid[2] % grid[1], x = i % grid[2];
        int64_t left = x0 + f * (grid[2] * CELL + TOKEN_GAP) + x * CELL, top = y0 + y * CELL;
        uint8_t c[3] = {0, 0, 0};
        if (choice[i] == experts)
            memset(c, 255, 3);
        else if (choice[i] >= 0)
            colour_of(choice[i], c);
        for (int64_t b = 0; b < CELL; b++)
            for (int64_t a = 0; a < CELL; a++)
                memcpy(to->rgb + ((top + b) * to->width + left + a) * 3, c, 3);
    }
}

static kin_status canvas_open(canvas *c, const kin_routing_stats *s, const int64_t grid[3],
                              kin_error *err)
{
    size_t pixels, bytes;
    c->cell_w = grid[0] * (grid[2] * CELL + TOKEN_GAP) - TOKEN_GAP;
    c->cell_h = grid[1] * CELL;
    c->width = s->levels * (c->cell_w + GAP) + GAP;
    c->height = s->layers * (c->cell_h + GAP) + GAP;
    if (!kin_mul_size((size_t)c->width, (size_t)c->height, &pixels) ||
        !kin_mul_size(pixels, 3, &bytes) || c->width > KIN_IMAGE_MAX_SIDE ||
        c->height > KIN_IMAGE_MAX_SIDE)
        return kin_fail(err, KIN_ERR_ARG,
                        "routing: a map of %lldx%lld pixels is too large; take fewer --steps",
                        (long long)c->width, (long long)c->height);
    c->rgb = kin_malloc(bytes);
    if (!c->rgb)
        return kin_fail(err, KIN_ERR_MEM, "routing: out of memory");
    memset(c->rgb, 200, bytes);
    return KIN_OK;
}

kin_status kin_routing_picture_write(const kin_routing_stats *s, const int64_t grid[3],
                                     const char *path, kin_error *err)
{
    const int64_t skip = s->tokens - grid[0] * grid[1] * grid[2];
    canvas c;
    if (skip < 0)
        return kin_fail(err, KIN_ERR_ARG, "routing: the map has more cells than tokens");
    KIN_TRY(canvas_open(&c, s, grid, err));
    for (int l = 0; l < s->layers; l++)
        for (int k = 0; k < s->levels; k++)
            draw_cell(&c, kin_routing_stats_choice(s, l, k) + skip, s->experts, grid,
                      GAP + k * (c.cell_w + GAP), GAP + l * (c.cell_h + GAP));
    kin_tensor picture = KIN_TENSOR(c.rgb, KIN_DTYPE_U8, c.height, c.width, 3);
    kin_status status = kin_png_write(path, &picture, NULL, err);
    kin_free(c.rgb);
    return status;
}
