#include "physics/materials.h"

#include <stddef.h>
#include <string.h>

const kin_colour kin_object_colour[KIN_OBJECT_COLOURS] = {
    {"red", {215, 35, 35}, {0, 0, 0}},     {"green", {40, 170, 60}, {0, 0, 0}},
    {"blue", {45, 85, 230}, {0, 0, 0}},    {"yellow", {245, 225, 40}, {0, 0, 0}},
    {"orange", {245, 130, 20}, {0, 0, 0}}, {"purple", {150, 50, 200}, {0, 0, 0}},
    {"cyan", {40, 210, 220}, {0, 0, 0}},
};

const kin_colour kin_background_colour[KIN_BACKGROUNDS] = {
    {"black", {10, 10, 10}, {50, 50, 50}},       {"gray", {125, 125, 125}, {85, 85, 85}},
    {"white", {240, 240, 240}, {195, 195, 195}}, {"beige", {226, 206, 172}, {190, 165, 130}},
    {"navy", {18, 22, 78}, {40, 46, 112}},
};

/* Densities: CRC Handbook of Chemistry and Physics, rounded. Restitutions: round figures of the
 * simulation. */
static const kin_material material[] = {
    {"plastic", "plastic", 0.95, 0.6}, {"steel", "steel", 7.85, 0.9},
    {"rubber", "rubber", 1.1, 0.8},    {"wood", "wooden", 0.6, 0.5},
    {"clay", "clay", 1.8, 0.0},        {"stone", "stone", 2.6, 0.4},
    {"metal", "metal", 7.8, -1},       {"iron", "iron", 7.87, -1},
    {"glass", "glass", 2.5, -1},       {"copper", "copper", 8.96, -1},
    {"gold", "golden", 19.3, -1},      {"silver", "silver", 10.5, -1},
    {"lead", "leaden", 11.34, -1},     {"aluminum", "aluminium", 2.7, -1},
    {"concrete", "concrete", 2.4, -1}, {"brick", "brick", 1.9, -1},
    {"marble", "marble", 2.7, -1},     {"ceramic", "ceramic", 2.3, -1},
    {"paper", "paper", 0.8, -1},       {"cork", "cork", 0.24, -1},
    {"foam", "foam", 0.05, -1},        {"ice", "icy", 0.917, -1},
    {"snow", "snowy", 0.3, -1},        {"water", "watery", 0.998, -1},
    {"milk", "milky", 1.03, -1},       {"oil", "oily", 0.9, -1},
    {"honey", "honey", 1.42, -1},      {"lava", "lava", 2.8, -1},
    {"sand", "sandy", 1.6, -1},        {"soil", "soil", 1.4, -1},
    {"wax", "waxen", 0.9, -1},         {"chocolate", "chocolate", 1.3, -1},
    {"air", "airy", 0.0012, -1},       {"smoke", "smoky", 0.0012, -1},
    {"steam", "steamy", 0.0006, -1},
};

static int find_colour(const kin_colour *c, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (strcmp(c[i].name, name) == 0)
            return i;
    return -1;
}

int kin_object_colour_find(const char *name)
{
    return find_colour(kin_object_colour, KIN_OBJECT_COLOURS, name);
}

int kin_background_colour_find(const char *name)
{
    return find_colour(kin_background_colour, KIN_BACKGROUNDS,
                       strcmp(name, "grey") ? name : "gray");
}

const kin_material *kin_material_at(int k)
{
    return k >= 0 && (size_t)k < sizeof material / sizeof *material ? &material[k] : NULL;
}

const kin_material *kin_material_find(const char *word)
{
    for (size_t k = 0; k < sizeof material / sizeof *material; k++)
        if (strcmp(material[k].name, word) == 0 || strcmp(material[k].adjective, word) == 0)
            return &material[k];
    return NULL;
}

const kin_material *kin_material_plain(void)
{
    return &material[0];
}
