#include "cli/routing_map.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "io/png.h"

enum { MAX_LAYERS = 256, CELL = 6, GAP = 8, TOKEN_GAP = 2 };

typedef struct recorder {
    int layer[MAX_LAYERS]; /* block number of row r */
    int calls[MAX_LAYERS]; /* forwards seen, = solver step */
    int layers, steps;
    int64_t tokens, skip, grid[3]; /* video tokens; leading physical token; F', H', W' */
    int16_t *choice;               /* [MAX_LAYERS, steps, tokens], -1 unset */
    bool bad;
} recorder;

static void on_tap(void *user, const char *name, const kin_tensor *t)
{
    recorder *r = user;
    int block, used = 0, row = 0;
    if (sscanf(name, "layers.%d.assign%n", &block, &used) != 1 || !used || name[used])
        return;
    while (row < r->layers && r->layer[row] != block)
        row++;
    if (row == MAX_LAYERS || t->ndim != 3 || t->size[1] != r->tokens + r->skip) {
        r->bad = true;
        return;
    }
    if (row == r->layers)
        r->layer[r->layers++] = block;
    int step = r->calls[row]++;
    if (step >= r->steps)
        return;
    int16_t *to = r->choice + ((int64_t)row * r->steps + step) * r->tokens;
    for (int64_t i = 0; i < r->tokens; i++)
        to[i] = (int16_t)kin_tensor_get(t, (i + r->skip) * t->size[2]);
}

static kin_status ignore_clip(void *user, int64_t clip, const kin_tensor *frames)
{
    (void)user;
    (void)clip;
    (void)frames;
    return KIN_OK;
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

static void draw_cell(const recorder *r, const int16_t *choice, uint8_t *rgb, int64_t stride,
                      int64_t x0, int64_t y0)
{
    for (int64_t i = 0; i < r->tokens; i++) {
        int64_t f = i / (r->grid[1] * r->grid[2]), y = i / r->grid[2] % r->grid[1],
                x = i % r->grid[2];
        int64_t left = x0 + f * (r->grid[2] * CELL + TOKEN_GAP) + x * CELL, top = y0 + y * CELL;
        uint8_t c[3] = {0, 0, 0};
        if (choice[i] >= 0)
            colour_of(choice[i], c);
        for (int64_t b = 0; b < CELL; b++)
            for (int64_t a = 0; a < CELL; a++)
                memcpy(rgb + ((top + b) * stride + left + a) * 3, c, 3);
    }
}

static kin_status draw(const recorder *r, const char *path, kin_error *err)
{
    int64_t cell_w = r->grid[0] * (r->grid[2] * CELL + TOKEN_GAP) - TOKEN_GAP,
            cell_h = r->grid[1] * CELL;
    int64_t width = r->steps * (cell_w + GAP) + GAP, height = r->layers * (cell_h + GAP) + GAP;
    size_t pixels, bytes;
    if (!kin_mul_size((size_t)width, (size_t)height, &pixels) || !kin_mul_size(pixels, 3, &bytes) ||
        width > KIN_IMAGE_MAX_SIDE || height > KIN_IMAGE_MAX_SIDE)
        return kin_fail(
            err, KIN_ERR_ARG,
            "inspect: a routing map of %lldx%lld pixels is too large; take fewer --steps",
            (long long)width, (long long)height);
    uint8_t *rgb = kin_malloc(bytes);
    if (!rgb)
        return kin_fail(err, KIN_ERR_MEM, "inspect: out of memory");
    memset(rgb, 255, bytes);
    for (int l = 0; l < r->layers; l++)
        for (int s = 0; s < r->steps; s++)
            draw_cell(r, r->choice + ((int64_t)l * r->steps + s) * r->tokens, rgb, width,
                      GAP + s * (cell_w + GAP), GAP + l * (cell_h + GAP));
    kin_tensor picture = KIN_TENSOR(rgb, KIN_DTYPE_U8, height, width, 3);
    kin_status status = kin_png_write(path, &picture, NULL, err);
    kin_free(rgb);
    return status;
}

static void print_shares(const recorder *r, int64_t experts)
{
    for (int l = 0; l < r->layers; l++) {
        printf("routing of block %d:", r->layer[l]);
        for (int64_t e = 0; e < experts; e++) {
            int64_t n = 0, all = r->steps * r->tokens;
            for (int64_t i = 0; i < all; i++)
                n += r->choice[l * all + i] == e;
            printf(" %.1f%%", 100.0 * (double)n / (double)all);
        }
        putchar('\n');
    }
}

kin_status kin_routing_map_draw(kin_pipeline *p, const kin_routing_map_params *params,
                                kin_error *err)
{
    const kin_model_info *info = kin_model_get_info(p->model);
    recorder r = {.steps = params->steps, .skip = info->has_classifier};
    r.grid[0] = p->frames / info->patch[0];
    r.grid[1] = p->height / info->patch[1];
    r.grid[2] = p->width / info->patch[2];
    r.tokens = r.grid[0] * r.grid[1] * r.grid[2];
    size_t n = (size_t)MAX_LAYERS * (size_t)params->steps * (size_t)r.tokens;
    if (!r.tokens || !(r.choice = kin_malloc(n * sizeof *r.choice)))
        return kin_fail(err, r.tokens ? KIN_ERR_MEM : KIN_ERR_ARG,
                        "inspect: no room for %zu routing entries", n);
    memset(r.choice, 0xff, n * sizeof *r.choice);
    const char *prompt = params->condition->caption ? params->condition->caption : "";
    kin_generate_params g = kin_generate_params_default();
    g.count = 1;
    g.prompts = &prompt;
    g.prior = info->categories ? params->condition->prior : NULL;
    g.quant = info->categories ? params->condition->quant : NULL;
    g.steps = params->steps;
    g.cfg_scale = 1;
    g.seed = params->seed;
    g.allow_flat = true;
    g.emit = ignore_clip;
    p->ctx->tap = on_tap;
    p->ctx->tap_user = &r;
    kin_status status = kin_pipeline_generate(p, &g);
    p->ctx->tap = NULL;
    if (status != KIN_OK)
        *err = p->ctx->error;
    else if (r.bad || !r.layers)
        status = kin_fail(err, KIN_ERR_UNSUPPORTED,
                          "inspect: the model's forward reports no routing of %lld tokens",
                          (long long)r.tokens);
    else
        status = draw(&r, params->path, err);
    if (status == KIN_OK)
        print_shares(&r, info->experts);
    kin_free(r.choice);
    return status;
}
