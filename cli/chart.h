/* cli/chart.h: curves over steps, drawn with Cairo into a PNG or an SVG: panels side by side, each
 * with lines or with shares stacked on each other. */
#ifndef KIN_CLI_CHART_H
#define KIN_CLI_CHART_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct kin_series {
    char name[64];
    double *x, *y; /* [n], kin_malloc; x rises */
    int64_t n, room;
    bool dashed;
} kin_series;

typedef struct kin_panel {
    char title[96];
    kin_series *series; /* [n], kin_malloc */
    int n;
    bool stacked; /* shares that add up to 1; dashed series lie over them as lines */
} kin_panel;

typedef struct kin_chart {
    char title[256];
    kin_panel *panel; /* [n], kin_malloc */
    int n;
} kin_chart;

/* The panel called title, and in it the series called name; made where they are not there. NULL:
 * out of memory. Pointers stay valid until the next call. */
kin_series *kin_chart_series(kin_chart *c, const char *title, const char *name);
/* Appends a point; one that is not finite is left out. False: out of memory. */
bool kin_series_add(kin_series *s, double x, double y);
void kin_chart_free(kin_chart *c);

/* Writes NAME.png or NAME.svg, `width` pixels wide, complete or not at all; the same chart gives
 * the same bytes. The scale of a panel is logarithmic where all values are positive and span more
 * than a factor of 20. Fails: KIN_ERR_ARG (name), KIN_ERR_MEM, KIN_ERR_IO, KIN_ERR_BACKEND (Cairo).
 */
kin_status kin_chart_write(const kin_chart *c, const char *path, int width, kin_error *err);

#endif
